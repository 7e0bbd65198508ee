# SPDX-License-Identifier: Apache-2.0
"""Messages in, complete observations out, the same ones in the node and offline."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import NodeConfig, SyncConfig
from ..datatypes import Frame, check_pose
from . import decode
from .drops import DropCounts, Unusable
from .evidence import Evidence
from .ledger import IMAGES, Account, Ledger
from .sync import SAID, FrameSync, Match
from .transforms import KINDS as TRANSFORMS

KINDS = ("color", "depth", "info", "pose", *TRANSFORMS)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The messages of one frame, still encoded: a frame that is never used costs no decoding."""

    match: Match
    info: Any  # sensor_msgs/CameraInfo
    depth_scale: float

    def frame(self) -> Frame:
        """Decode.

        Raises:
            Unusable: a message cannot be used; the text says why.
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

    Whoever gets an observation says in the end what became of it: ``used`` or ``drop``.

    Raises:
        InputError: ``node.camera_offset`` is not a rigid transform.
    """

    def __init__(self, sync: SyncConfig | None = None, node: NodeConfig | None = None) -> None:
        self.config = node or NodeConfig()
        self._ledger = Ledger()
        self._evidence = Evidence(bool(self.config.camera_offset))
        self.sync = FrameSync(sync, self.config, self._ledger)
        self.localizer = self.sync.localizer
        self._info: Any = None
        self._info_used = True
        self._without_info: deque[Match] = deque()
        self._in_hand = 0  # observations of which nobody has said yet what became of them

    # Messages

    def add(self, kind: str, message: Any) -> list[Observation]:
        """Take one message of ``kind`` (one of KINDS) and return what became complete.

        Transforms are counted one by one, however many a message holds.
        """
        if kind in TRANSFORMS:
            return self._observations(self._add_transforms(kind, message))
        self._ledger.received[kind] += 1
        try:
            with decode.reading(f"{SAID.get(kind, kind)} message"):
                stamp_ns, content = self._read(kind, message)
        except Unusable as fault:
            self._ledger.drop(fault, (kind,))
            return []
        take = {
            "color": self.sync.add_color,
            "depth": self.sync.add_depth,
            "pose": self._add_pose,
            "info": self._add_info,
        }[kind]
        return self._observations(take(stamp_ns, content))

    def leave_out(self, kind: str, reason: str) -> None:
        """Count one message of ``kind`` as received and dropped, and do not look at it."""
        self._ledger.received[kind] += 1
        self._ledger.drop(reason, (kind,))

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
        self._ledger.drop(reason, count=len(self._without_info))
        self._without_info.clear()
        if forget_frame:
            self.map_frame = self.config.map_frame

    # What became of them

    def used(self) -> None:
        """One observation has become part of something."""
        self._in_hand -= 1
        self._ledger.used.update(IMAGES)

    def drop(self, reason: str | Exception, count: int = 1) -> None:
        """``count`` observations will not become part of anything."""
        self._in_hand -= count
        self._ledger.drop(reason, count=count)

    @property
    def map_frame(self) -> str:
        """The frame of the map; empty until a pose brings it."""
        return self.localizer.map_frame

    @map_frame.setter
    def map_frame(self, name: str) -> None:
        self.localizer.map_frame = name

    @property
    def drops(self) -> DropCounts:
        """Why inputs were not used."""
        return self._ledger.drops

    @property
    def received(self) -> Counter[str]:
        """Messages by kind."""
        return self._ledger.received

    def accounts(self) -> dict[str, Account]:
        """What became of the messages of each kind."""
        waiting = {**self.sync.waiting, "info": int(not self._info_used)}
        for kind in IMAGES:
            waiting[kind] += len(self._without_info) + self._in_hand
        return {kind: self._ledger.account(kind, waiting[kind]) for kind in KINDS}

    # Inside

    def _read(self, kind: str, message: Any) -> tuple[int, Any]:
        """Stamp (ns) and what is to be paired: images and camera info as they are, poses decoded.

        Raises:
            Unusable: the message cannot be used; nothing changed.
        """
        if kind == "info":
            decode.camera_matrix(message)
            return 0, message
        stamp_ns = decode.stamp_to_ns(message.header.stamp)
        if not stamp_ns:
            raise Unusable(f"{SAID.get(kind, kind)} message without a stamp (it is zero)")
        return stamp_ns, self._read_pose(message) if kind == "pose" else message

    def _read_pose(self, message: Any) -> tuple[np.ndarray, str]:
        frame_id = decode.frame_id(message.header.frame_id)
        if frame_id and self.map_frame and frame_id != self.map_frame:
            raise Unusable(
                "pose in another frame than the map",
                f"pose in frame '{frame_id}', but the map is in '{self.map_frame}' (parameter "
                "node.map_frame)",
            )
        T_world_body = check_pose(decode.pose_matrix(decode.pose_message(message)))
        body = decode.plain_frame_id(getattr(message, "child_frame_id", ""))
        self._evidence.body = body
        self.map_frame = self.map_frame or frame_id  # the first pose that can be used decides
        return T_world_body, body

    def _add_pose(self, stamp_ns: int, pose: tuple[np.ndarray, str]) -> list[Match]:
        return self.sync.add_pose(stamp_ns, *pose)

    def _add_transforms(self, kind: str, message: Any) -> list[Match]:
        try:
            with decode.reading("transform message"):
                transforms = list(message.transforms)
        except Unusable as fault:
            self._ledger.received[kind] += 1
            self._ledger.drop(fault, (kind,))
            return []
        static = kind == "tf_static"
        for transform in transforms:
            self._ledger.received[kind] += 1
            try:
                with decode.reading("transform"):
                    parent, child, stamp_ns, T = decode.transform(transform)
                    if not (static or stamp_ns):
                        raise Unusable("transform without a stamp (it is zero)")
                    self.localizer.transforms.add(parent, child, stamp_ns, T, static)
            except Unusable as fault:
                self._ledger.drop(fault, (kind,))
        return self.sync.complete()

    def _add_info(self, _stamp_ns: int, message: Any) -> list[Match]:
        self._ledger.superseded["info"] += not self._info_used
        self._info, self._info_used = message, False
        waiting = list(self._without_info)
        self._without_info.clear()
        return waiting

    def _observations(self, matches: list[Match]) -> list[Observation]:
        if self._info is None:
            self._without_info.extend(matches)
            self._drop_without_info(len(self._without_info) - self.sync.config.queue)
            return []
        return [self._observation(match) for match in matches]

    def _observation(self, match: Match) -> Observation:
        self._ledger.used["info"] += not self._info_used
        self._info_used = True
        self._in_hand += 1
        with suppress(Unusable), decode.reading("frame"):  # whoever decodes it will be told
            self._evidence.frame(match.color, match.depth, self._info)
        return Observation(match, self._info, self.config.depth_scale)

    def _drop_without_info(self, count: int) -> None:
        count = max(count, 0)
        for _ in range(count):
            self._without_info.popleft()
        self._ledger.drop("frame without any camera info so far", count=count)
