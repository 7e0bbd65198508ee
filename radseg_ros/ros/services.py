# SPDX-License-Identifier: Apache-2.0
"""The services of the node: ~/query, ~/save_map, ~/load_map, ~/reset.

A failure is an answer, never the end of the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from std_srvs.srv import Trigger

from radseg_interfaces.msg import MapStatus
from radseg_interfaces.srv import LoadMap, QueryText, SaveMap

from ..answers import cloud
from ..answers.export import FORMATS, write_cloud
from ..datatypes import InputError, MapFileError, RadsegRosError
from . import messages
from .paths import confined

if TYPE_CHECKING:
    from ..mapper import Mapper
    from .mapper_node import MapperNode

logger = logging.getLogger(__name__)


class MapServices:
    """Offers the services on ``node``. Queries run beside each other and beside the encoder.

    Changes of the map one by one.
    """

    def __init__(self, node: MapperNode) -> None:
        self.node = node
        queries, changes = ReentrantCallbackGroup(), MutuallyExclusiveCallbackGroup()
        for type_, name, answer, group in (
            (QueryText, "query", self._query, queries),
            (SaveMap, "save_map", self._save, changes),
            (LoadMap, "load_map", self._load, changes),
            (Trigger, "reset", self._reset, changes),
        ):
            node.create_service(
                type_, f"~/{name}", self._guarded(name, answer), callback_group=group
            )

    def _guarded(
        self, name: str, answer: Callable[[Mapper, Any, Any], None]
    ) -> Callable[[Any, Any], Any]:
        """Success unless ``answer`` raises; then its reason."""

        def callback(request: Any, response: Any) -> Any:
            try:
                if self.node.mapper is None:
                    raise InputError("the encoder is still loading, ask again")
                response.success = True
                answer(self.node.mapper, request, response)
            except RadsegRosError as error:
                response.success, response.message = False, str(error)
            except ModuleNotFoundError as error:
                response.success, response.message = (
                    False,
                    f"this needs the Python package {error.name}, which is not installed",
                )
            except Exception as error:
                logger.exception("~/%s failed", name)
                response.success, response.message = (
                    False,
                    f"internal error: {type(error).__name__}: {error}",
                )
            return response

        return callback

    def _query(
        self, mapper: Mapper, request: QueryText.Request, response: QueryText.Response
    ) -> None:
        response.status = self._status(mapper)
        response.header = self.node.header()
        labels = [label.strip() for label in request.labels]
        if not labels or not all(labels):
            raise InputError("a query needs at least one label, and none of them empty")
        threshold = float(request.threshold) or None
        answers = mapper.answer(
            labels, request.prompts, threshold, int(request.max_objects) or None
        )
        response.answers = [messages.answer_message(answer) for answer in answers]
        found = [answer.label for answer in answers if answer.found]
        response.message = f"found {len(found)} of {len(labels)}" + (
            f": {', '.join(found)}" if found else ""
        )
        if request.return_cloud:
            limit = mapper.config.query.threshold if threshold is None else threshold
            points = cloud.semantic_cloud(
                *mapper.scores(labels, request.prompts), limit, self.node.config.node.cloud_min_hits
            )
            response.cloud = messages.cloud_message(points, response.header)
        if not request.prompts:
            self.node.query_labels = tuple(labels)

    def _save(self, mapper: Mapper, request: SaveMap.Request, response: SaveMap.Response) -> None:
        path = confined(self.node.config.node.map_directory, request.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in FORMATS:
            min_hits, labels = self.node.config.node.cloud_min_hits, list(request.labels)
            points = (
                mapper.semantic_cloud(labels, min_hits) if labels else mapper.rgb_cloud(min_hits)
            )
            write_cloud(path, points)
            response.voxels = len(points)
        else:
            path = path if path.suffix == ".radmap" else path.with_name(path.name + ".radmap")
            response.voxels = mapper.save(path, self.node.assembler.map_frame)
        response.path, response.bytes = str(path), path.stat().st_size
        response.message = f"saved {response.voxels} voxels"

    def _load(self, mapper: Mapper, request: LoadMap.Request, response: LoadMap.Response) -> None:
        path = confined(self.node.config.node.map_directory, request.path)
        if not path.exists() and path.suffix != ".radmap":
            path = path.with_name(path.name + ".radmap")
        if not path.is_file():
            raise MapFileError(f"there is no file {request.path} below node.map_directory")
        assembler = self.node.assembler
        with self.node.worker.paused():
            frame_id = mapper.load(path, assembler.map_frame, request.merge)
            assembler.map_frame = assembler.map_frame or frame_id
            self.node.stamp_ns = mapper.map.last_stamp_ns or 0
            self.node.version += 1
        response.voxels = len(mapper.map)
        response.message = f"the map has {response.voxels} voxels in frame '{frame_id}'"

    def _reset(self, mapper: Mapper, request: Trigger.Request, response: Trigger.Response) -> None:
        voxels = len(mapper.map)
        with (
            self.node.worker.paused()
        ):  # a frame that was seen before the reset must not come back after it
            self.node.assembler.drops.add(
                "frame that waited when the map was reset", self.node.worker.clear()
            )
            mapper.reset()
            self.node.stamp_ns = 0
            self.node.version += 1
        response.message = f"forgot {voxels} voxels"

    def _status(self, mapper: Mapper) -> MapStatus:
        drops = self.node.drops()
        return MapStatus(
            voxels=len(mapper.map),
            frames_integrated=self.node.integrated,
            frames_waiting=self.node.worker.pending,
            inputs_dropped=sum(count for _, count in drops),
            drops=messages.drop_messages(drops),
        )
