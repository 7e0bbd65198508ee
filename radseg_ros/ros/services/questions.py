# SPDX-License-Identifier: Apache-2.0
"""Services that ask: where things are, what is at a place, what texts mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from std_msgs.msg import ColorRGBA, Header

from radseg_interfaces.srv import EncodeText, QueryPoint, QueryText, QueryVector

from ...answers.packed import pack
from ...answers.result import QueryResult
from ...datatypes import Filter, InputError, check_texts
from ...frames.decode import plain_frame_id
from ...frames.images.color import color_image
from ...live_map import LiveMap
from .. import messages

HERE, FARTHEST_HERE = 0.15, 10.0  # m around a point: by default, and at most
Show = Callable[[np.ndarray, Header], None]  # points of ``POINT``


class Questions:
    """Each method is a service of ``live``: it fills in a response, or raises why it cannot.

    Args:
        show: takes what a question is to show on ~/query_cloud.
    """

    def __init__(self, live: LiveMap, show: Show) -> None:
        self.live, self._show = live, show

    def text(self, request: QueryText.Request, response: QueryText.Response) -> None:
        """~/query."""
        asked = {"texts": request.labels, "prompts": request.prompts}
        self._ask(request, response, self.live.query, **asked)

    def vector(self, request: QueryVector.Request, response: QueryVector.Response) -> None:
        """~/query_vector."""
        if request.image.data:
            picture, name = color_image(request.image), request.label or "image"
            self._ask(request, response, self.live.query_image, rgb=picture, name=name)
        else:
            texts, vectors = [request.label or "vector"], np.asarray(request.vector)[None]
            self._ask(request, response, self.live.query, texts=texts, vectors=vectors)

    def point(self, request: QueryPoint.Request, response: QueryPoint.Response) -> None:
        """~/query_point."""
        radius = float(request.radius) or HERE
        if not 0 < radius <= FARTHEST_HERE:  # also NaN
            raise InputError(f"a radius is in 0..{FARTHEST_HERE:g} m, got {radius:g}")
        labels = request.labels or self.live.names_at_hand()
        if not labels:
            raise InputError("no labels to tell apart: name some, or set node.labels")
        *_, T = self.live.placed_in(plain_frame_id(request.point.header.frame_id))
        place = messages.tuple_of(request.point.point)
        where = Filter(centre=place, radius=radius, T_filter_world=T)
        result = self.live.query(
            labels, request.prompts, float(request.time_limit) or None, where, mode="softmax"
        )
        response.header = messages.header(*self.live.moment())
        response.covered = result.covered
        geometry = result.geometry
        if not len(geometry):
            raise InputError(f"the map has no voxel within {radius:g} m of that point")
        share = result.distribution
        order = np.argsort(-share, kind="stable")[: int(request.max_labels) or None]
        response.labels = [result.texts[i] for i in order]
        response.probabilities = share[order].tolist()
        hits = geometry.hits.double()
        red, green, blue = (hits @ geometry.rgb.double() / hits.sum()).tolist()
        response.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        response.voxels, response.hits = len(geometry), int(hits.sum())
        response.first_seen = messages.time_message(int(geometry.first_seen_ns.min()))
        response.last_seen = messages.time_message(int(geometry.last_seen_ns.max()))
        best = f"{response.labels[0]} {response.probabilities[0]:.2f}"
        response.message = f"{best}, of {response.voxels} voxels"

    def encode(self, request: EncodeText.Request, response: EncodeText.Response) -> None:
        """~/encode_text."""
        vectors = self.live.text_vectors(request.texts, request.prompts)
        response.encoder = self.live.mapper.encoder.name
        response.width = vectors.shape[1]
        response.vectors = messages.floats(vectors)
        response.message = f"{len(vectors)} vectors of {response.width} numbers"

    def _ask(
        self, request: Any, response: Any, ask: Callable[..., QueryResult], **asked: Any
    ) -> None:
        """What ~/query and ~/query_vector have in common.

        Args:
            ask: a method of ``live``; ``asked`` is what for.
        """
        stamp_ns, frame_id, T = self.live.placed_in(plain_frame_id(request.frame_id))
        response.header = messages.header(stamp_ns, frame_id)
        response.status = messages.status_message(self.live.status())
        result = ask(
            time_limit=float(request.time_limit) or None,
            where=messages.voxel_filter(request.where, T),
            **asked,
            **_rules(request),
        )
        answers = result.answers
        if distance := float(request.viewpoint_distance):
            answers = self.live.with_viewpoints(answers, distance)
        response.answers = [messages.answer_message(answer, T) for answer in answers]
        response.covered = result.covered
        response.message = _told(answers, result.covered, self.live.pending)
        wanted = request.mode or self.live.config.query.mode
        if wanted == "calibrated" and result.rules.mode != wanted and self.live.may_calibrate:
            response.message += "; not calibrated: everyday names have no vectors here"
        node = self.live.config.node
        head = messages.header(*self.live.moment())
        if request.return_cloud:
            points = pack(result.cloud(node.cloud_min_hits, node.labels))
            response.cloud = messages.cloud_message(points, head)
        if request.publish_cloud:
            self._show(pack(result.heat_cloud(node.cloud_min_hits)), head)


def _rules(request: Any) -> dict[str, Any]:
    """What a request changes of the node's rules; empty and 0 = nothing."""
    if request.negatives:
        check_texts(request.negatives)
    rules = {
        "mode": request.mode,
        "background": [text.strip() for text in request.negatives],
        "threshold": float(request.threshold),
        "max_objects": int(request.max_objects),
    }
    return {name: value for name, value in rules.items() if value}


def _told(answers: Sequence[Any], covered: float, waiting: int) -> str:
    """The answer in one sentence."""
    found = [answer.label for answer in answers if answer.found]
    names = f": {', '.join(found)}" if found else ""
    told = f"found {len(found)} of {len(answers)}{names}"
    if covered < 1:
        told += f"; within the time limit {int(100 * covered)} % of the map was ready"
    if waiting:
        told += f"; a loaded map of {waiting} voxels waits for ~/confirm_map"
    return told
