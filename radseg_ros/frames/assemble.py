# SPDX-License-Identifier: Apache-2.0
"""Messages in, complete observations out, the same ones in the node and offline."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import NodeConfig, SyncConfig
from ..datatypes import Frame, InputError, check_pose
from . import decode
from .drops import DropCounts
from .sync import FrameSync, Match

logger = logging.getLogger(__name__)

KINDS = ("color", "depth", "info", "pose")


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The messages of one frame, still encoded: a frame that is never used costs no decoding."""

    match: Match
    info: Any  # sensor_msgs/CameraInfo
    depth_scale: float

    def frame(self) -> Frame:
        """Decode.

        Raises:
            InputError: a message cannot be used; the text says why.
        """
        match = self.match
        return decode.make_frame(
            match.stamp_ns,
            match.color,
            match.depth,
            self.info,
            match.T_world_camera,
            self.depth_scale,
        )


class Assembler:
    """Pairs messages and remembers the camera info and the frame of the map. Not thread safe.

    Raises:
        InputError: ``node.camera_offset`` is not a rigid transform.
    """

    def __init__(self, sync: SyncConfig | None = None, node: NodeConfig | None = None) -> None:
        self.config = node or NodeConfig()
        self.drops = DropCounts()
        self.received: Counter[str] = Counter()
        self.map_frame = self.config.map_frame
        offset = (
            np.reshape(self.config.camera_offset, (4, 4)) if self.config.camera_offset else None
        )
        self.sync = FrameSync(sync, offset, self.drops)
        self._info: Any = None
        self._without_info: deque[Match] = deque()

    def add(self, kind: str, message: Any) -> list[Observation]:
        """Take one message of ``kind`` (one of KINDS) and return what became complete."""
        self.received[kind] += 1
        if kind == "info":
            return self._add_info(message)
        stamp_ns = decode.stamp_to_ns(message.header.stamp)
        if kind == "color":
            return self._observations(self.sync.add_color(stamp_ns, message))
        if kind == "depth":
            return self._observations(self.sync.add_depth(stamp_ns, message))
        return self._observations(self._add_pose(stamp_ns, message))

    def flush(self) -> list[Observation]:
        """The inputs have ended: return what can still be completed, count the rest."""
        observations = self._observations(self.sync.flush())
        self._drop_without_info(len(self._without_info))
        return observations

    def clear(self, reason: str, forget_frame: bool = False) -> None:
        """Forget every waiting message, counted as dropped for ``reason``; the camera info stays.

        Args:
            forget_frame: also forget the frame that poses brought, and them; the next one decides.
        """
        self.sync.clear(reason, poses=forget_frame)
        self.drops.add(reason, len(self._without_info))
        self._without_info.clear()
        if forget_frame:
            self.map_frame = self.config.map_frame

    def _add_info(self, message: Any) -> list[Observation]:
        try:
            decode.camera_matrix(message)
        except InputError as error:
            self.drops.add(str(error))
            return []
        if self._info is None and any(getattr(message, "d", ())):
            logger.warning(
                "camera info has lens distortion: images are used as if they were rectified, feed "
                "rectified ones"
            )
        self._info = message
        waiting = list(self._without_info)
        self._without_info.clear()
        return self._observations(waiting)

    def _add_pose(self, stamp_ns: int, message: Any) -> list[Match]:
        frame_id = message.header.frame_id
        if frame_id and self.map_frame and frame_id != self.map_frame:
            self.drops.add(
                f"pose in frame '{frame_id}', but the map is in '{self.map_frame}' (parameter "
                "node.map_frame)"
            )
            return []
        try:
            T_world_body = check_pose(decode.pose_matrix(decode.pose_message(message)))
        except InputError as error:
            logger.debug("pose at %d ns: %s", stamp_ns, error)
            self.drops.add(
                "pose that is not a rigid transform (its quaternion must have norm 1, its numbers "
                "must be finite)"
            )
            return []
        self.map_frame = self.map_frame or frame_id  # the first pose that can be used decides
        return self.sync.add_pose(stamp_ns, T_world_body)

    def _observations(self, matches: list[Match]) -> list[Observation]:
        if self._info is None:
            self._without_info.extend(matches)
            self._drop_without_info(len(self._without_info) - self.sync.config.queue)
            return []
        return [Observation(match, self._info, self.config.depth_scale) for match in matches]

    def _drop_without_info(self, count: int) -> None:
        for _ in range(count):
            self._without_info.popleft()
        self.drops.add("frame without any camera info so far", count)
