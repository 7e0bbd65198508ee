# SPDX-License-Identifier: Apache-2.0
"""A running mapping node as the map of a page: its latched cloud and its services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import QueryConfig
from ..datatypes import Cloud, InputError, NotReadyError
from .cells import spacing
from .source import Camera, Reply
from .upright import nearest_axis

if TYPE_CHECKING:
    from .observer_node import Observer

ANSWER_TIMEOUT = 120.0  # s; a first question brings every voxel into language space
LOWEST = 1e-6  # threshold; 0 stands for that of the node


class NodeSource:
    """What ``observer`` sees of its mapping node.

    The z axis is up (REP 103), unless the poses are of a camera's optical frame, which tells.
    """

    threshold = QueryConfig().threshold

    def __init__(self, observer: Observer, name: str) -> None:
        self.name, self._observer = name, observer

    @property
    def voxel_size(self) -> float:
        """See :class:`MapSource`."""
        return spacing(self.voxels().xyz)

    def version(self) -> object:
        """See :class:`MapSource`."""
        return self._observer.clouds

    def voxels(self) -> Cloud:
        """See :class:`MapSource`."""
        return cloud_of(self._observer.points())

    def camera(self) -> Camera:
        """See :class:`MapSource`."""
        poses = [pose for _, pose in sorted(self._observer.poses.items())]
        if not poses:
            return Camera(np.zeros((0, 3)), np.array([0.0, 0.0, 1.0]))
        stacked = np.stack(poses)
        up = -stacked[:, :3, 1] if self._observer.optical else stacked[:, :3, 2]
        return Camera(stacked[:, :3, 3], nearest_axis(up.mean(0)))

    def about(self) -> str:
        """See :class:`MapSource`."""
        count = len(self._observer.points())
        return f"{count} voxels, live" if count else "no voxel so far"

    def suggestions(self) -> list[str]:
        """See :class:`MapSource`."""
        return list(self._observer.labels)

    def ask(self, labels: Sequence[str], threshold: float) -> Reply:
        """See :class:`MapSource`."""
        from ..ros.client import as_dict

        request = {"labels": list(labels), "threshold": max(threshold, LOWEST)}
        response = self._told(lambda: self._observer.ask(ANSWER_TIMEOUT, **request))
        return Reply(as_dict(response)["answers"], cloud_of(_points(response)))

    def here(
        self, place: np.ndarray, radius: float, labels: Sequence[str]
    ) -> list[tuple[str, float]]:
        """See :class:`MapSource`."""
        here = (place.tolist(), radius, labels)
        found = self._told(lambda: self._observer.here(ANSWER_TIMEOUT, *here))
        return list(zip(found.labels, found.probabilities, strict=True))

    def _told(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except TimeoutError as error:
            raise NotReadyError(str(error)) from error
        except RuntimeError as error:
            raise InputError(str(error)) from error


def cloud_of(points: np.ndarray) -> Cloud:
    """A structured array of the mapping node's points -> Cloud."""
    return Cloud(
        xyz=np.stack([points[axis] for axis in "xyz"], 1),
        rgb=np.stack([points["rgb"] >> shift & 255 for shift in (16, 8, 0)], 1).astype(np.uint8),
        label=points["label"].astype(np.int32),
        score=points["score"].astype(np.float32),
        hits=points["hits"].astype(np.float32),
    )


def _points(response: Any) -> np.ndarray:
    from .observer_node import points_of

    return points_of(response.cloud)
