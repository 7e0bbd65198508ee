# SPDX-License-Identifier: Apache-2.0
"""Messages in, complete observations out, the same ones in the node and offline."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import NodeConfig, SyncConfig
from ..datatypes import Frame, check_pose
from . import decode
from .drops import DropCounts, Unusable
from .evidence import Evidence
from .images.rectify import Rectifier
from .ledger import IMAGES, Account, Ledger, input_name
from .localizer import Localizer
from .sync import SAID, FrameSync, Match
from .transforms import KINDS as TRANSFORMS
from .transforms import Transforms

OF_A_CAMERA = (*IMAGES, "info")
SHARED = ("pose", *TRANSFORMS)  # by all cameras of a robot
KINDS = (*OF_A_CAMERA, *SHARED)
ALONE = {"": ("",)}  # a robot and its camera that need no names


def cameras_of(node: NodeConfig) -> dict[str, tuple[str, ...]]:
    """Robot -> names of its cameras, below its own; of what is alone they may be empty."""
    robots, cameras = tuple(node.robots) or ("",), tuple(node.cameras) or ("",)
    return {
        robot: tuple("/".join(filter(None, (robot, camera))) for camera in cameras)
        for robot in robots
    }


def is_of(camera: str, robot: str) -> bool:
    """Whether a camera is one of a robot, as :func:`cameras_of` names them."""
    return not robot or f"{camera}/".startswith(f"{robot}/")


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The messages of one frame, still encoded: a frame that is never used costs no decoding."""

    match: Match
    info: Any  # sensor_msgs/CameraInfo
    depth_scale: float
    camera: str = ""
    rectifier: Rectifier | None = None  # of this camera, if its images are to be rectified

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
            self.rectifier,
        )


class Assembler:
    """The one door for messages, of one camera or of several, of one robot or of several.

    The cameras of a robot share its poses and transforms. Several robots also share transforms,
    those of no robot, which count where a robot has none of its own for a frame.

    Not thread safe. Whoever gets an observation says in the end what became of it: ``used`` or
    ``drop``.

    Args:
        cameras: robot -> names of its cameras (:func:`cameras_of`).

    Raises:
        InputError: ``node.camera_offset`` or one of ``node.robot_origins`` is not a rigid
            transform.
        ConfigError: ``node.rectify`` is set, and OpenCV is not installed.
    """

    def __init__(
        self,
        sync: SyncConfig | None = None,
        node: NodeConfig | None = None,
        cameras: Mapping[str, Sequence[str]] = ALONE,
    ) -> None:
        self.config = node or NodeConfig()
        self._ledger = Ledger()  # of what no robot and no camera has that has a name
        self._ledgers = {"": self._ledger}  # by robot or camera
        shared = Transforms(sync, self._ledger)
        self._transforms = {"": shared}  # by robot
        self.localizers: dict[str, Localizer] = {}  # by robot
        frames: dict[str, tuple[str, str]] = {}
        self._cameras: dict[str, _Camera] = {}
        self._of: dict[str, list[_Camera]] = {}  # by robot
        for i, (robot, names) in enumerate(cameras.items()):
            ledger = self._ledger_of(robot)
            if robot:
                self._transforms[robot] = Transforms(sync, ledger, shared)
            origin = self._origin(i, robot) if robot else None
            self.localizers[robot] = localizer = Localizer(
                sync, self.config, ledger, len(names) > 1, robot, self._transforms[robot], origin
            )
            for name in names:
                evidence = Evidence(self.config, name, frames)
                pairs = FrameSync(sync, self.config, self._ledger_of(name), localizer, name)
                self._cameras[name] = _Camera(name, pairs, evidence, self.config)
            self._of[robot] = [self._cameras[name] for name in names]
        self._of[""] = [*self._cameras.values()]  # also of what no robot has alone

    def _ledger_of(self, source: str) -> Ledger:
        return self._ledgers.setdefault(source, Ledger(source))

    def _origin(self, number: int, robot: str) -> np.ndarray | None:
        """T_map_world, (4, 4), of a robot, if it is given."""
        numbers = self.config.robot_origins[16 * number : 16 * number + 16]
        if not numbers:
            return None
        return check_pose(np.reshape(numbers, (4, 4)), f"node.robot_origins of '{robot}'")

    # Messages

    def add(self, kind: str, message: Any, source: str = "") -> list[Observation]:
        """Take one message of ``kind`` (one of KINDS) and return what became complete.

        Transforms are counted one by one, however many a message holds.

        Args:
            source: the camera that sent it; of poses and transforms the robot, empty = the only
                one, or transforms that several share.
        """
        if kind in TRANSFORMS:
            self._add_transforms(kind, message, source)
            return self._complete(source)
        ledger = self._ledgers[source]
        ledger.received[kind] += 1
        try:
            with decode.reading(f"{SAID.get(kind, kind)} message"):
                stamp_ns, content = self._read(kind, message, source)
        except Unusable as fault:
            ledger.drop(fault, (kind,))
            return []
        if kind in OF_A_CAMERA:
            return self._cameras[source].add(kind, stamp_ns, content)
        self.localizers[source].add_pose(stamp_ns, *content)
        for each in self._of[source]:
            each.sync.see_pose(stamp_ns)
        return self._complete(source)

    def leave_out(self, kind: str, reason: str, camera: str = "") -> None:
        """Count one image of ``kind`` as received and dropped, and do not look at it."""
        ledger = self._cameras[camera].ledger
        ledger.received[kind] += 1
        ledger.drop(reason, (kind,))

    def flush(self) -> list[Observation]:
        """The inputs have ended: return what can still be completed, count the rest."""
        return [found for each in self._cameras.values() for found in each.flush()]

    def clear(self, reason: str, forget_frame: bool = False) -> None:
        """Forget every waiting message, counted as dropped for ``reason``; the camera info stays.

        Args:
            forget_frame: also forget the frame that poses brought, and them; the next one decides.
        """
        for each in self._cameras.values():
            each.clear(reason)
        if forget_frame:
            self._transforms[""].forget()
            for localizer in self.localizers.values():
                localizer.forget()

    # What became of them

    def used(self, camera: str = "") -> None:
        """One observation of ``camera`` has become part of something."""
        self._cameras[camera].used()

    def drop(self, reason: str | Exception, count: int = 1, camera: str = "") -> None:
        """``count`` observations of ``camera`` will not become part of anything."""
        self._cameras[camera].drop(reason, count)

    @property
    def map_frame(self) -> str:
        """The frame of the map; empty until a pose brings it."""
        return next(iter(self.localizers.values())).map_frame  # robots have one map

    @map_frame.setter
    def map_frame(self, name: str) -> None:
        for localizer in self.localizers.values():
            localizer.map_frame = name

    def placed(self, frame: str) -> tuple[np.ndarray, int]:
        """See :meth:`Localizer.placed`; one of several robots is known by the name in front.

        Raises:
            Unusable: no transform joins the frame and the map.
        """
        whose = (robot for robot in self.localizers if not robot or frame.startswith(f"{robot}/"))
        robot = next(whose, None)
        if robot is None:
            return self._transforms[""].newest(frame, self.map_frame)
        return self.localizers[robot].placed(frame)

    @property
    def drops(self) -> DropCounts:
        """Why inputs were not used; those of whatever has a name are in ``told`` only."""
        return self._ledger.drops

    @property
    def failures(self) -> int:
        """Observations that errors have cost which nobody expected."""
        return sum(drops.failures for drops in self._all_drops())

    def told(self) -> list[tuple[str, int]]:
        """(reason and an example, count) of everything that was not used, most frequent first."""
        found = [reason for drops in self._all_drops() for reason in drops.told()]
        return sorted(found, key=lambda reason: -reason[1])

    def accounts(self) -> dict[str, Account]:
        """What became of the messages of each input (``input_name``)."""
        found = {
            input_name(kind, name): account
            for name, each in self._cameras.items()
            for kind, account in each.accounts().items()
        }
        for robot, localizer in self.localizers.items():
            waiting = localizer.waiting
            for kind in SHARED:
                account = localizer.ledger.account(kind, waiting[kind])
                found[input_name(kind, robot)] = account
        waiting = self._transforms[""].waiting
        return found | {kind: self._ledger.account(kind, waiting[kind]) for kind in TRANSFORMS}

    def in_hand(self, camera: str = "") -> int:
        """Observations of ``camera`` of which nobody has said yet what became of them."""
        return self._cameras[camera].in_hand

    @property
    def jumps(self) -> int:
        """Times that a stamp went backwards by more than any delay explains."""
        return sum(each.sync.jumps for each in self._cameras.values())

    # Inside

    def _all_drops(self) -> list[DropCounts]:
        return [ledger.drops for ledger in self._ledgers.values()]

    def _complete(self, robot: str) -> list[Observation]:
        """What poses or transforms have completed."""
        return [
            found for each in self._of[robot] for found in each.observations(each.sync.complete())
        ]

    def _read(self, kind: str, message: Any, source: str) -> tuple[int, Any]:
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
        return stamp_ns, self._read_pose(message, source) if kind == "pose" else message

    def _read_pose(self, message: Any, robot: str) -> tuple[np.ndarray, str]:
        localizer = self.localizers[robot]
        frame_id = decode.frame_id(message.header.frame_id)
        localizer.check_frame(frame_id)
        T_world_body = decode.pose_matrix(decode.pose_message(message))
        body = decode.plain_frame_id(getattr(message, "child_frame_id", ""))
        localizer.settle(frame_id)
        return T_world_body, body

    def _add_transforms(self, kind: str, message: Any, robot: str) -> None:
        ledger, transforms_of = self._ledgers[robot], self._transforms[robot]
        received = ledger.received
        try:
            with decode.reading("transform message"):
                transforms = list(message.transforms)
        except Unusable as fault:
            received[kind] += 1
            ledger.drop(fault, (kind,))
            return
        static = kind == "tf_static"
        for transform in transforms:
            received[kind] += 1
            try:
                with decode.reading("transform"):
                    parent, child, stamp_ns, T = decode.transform(transform)
                    if not (static or stamp_ns):
                        raise Unusable("transform without a stamp (it is zero)")
                    transforms_of.add(parent, child, stamp_ns, T, static)
            except Unusable as fault:
                ledger.drop(fault, (kind,))


class _Camera:
    """One camera: pairs its images, remembers its camera info, and keeps its accounts."""

    def __init__(self, name: str, sync: FrameSync, evidence: Evidence, node: NodeConfig) -> None:
        self.sync, self.ledger = sync, sync.ledger
        self.in_hand = 0  # observations of which nobody has said yet what became of them
        self._name, self._depth_scale = name, node.depth_scale
        self._rectifier = Rectifier() if node.rectify else None
        self._evidence = evidence
        self._info: Any = None
        self._info_used = True
        self._without_info: deque[Match] = deque()

    def add(self, kind: str, stamp_ns: int, message: Any) -> list[Observation]:
        """Take an image or a camera info and return what became complete."""
        if kind == "info":
            return self.observations(self._take_info(message))
        take = self.sync.add_color if kind == "color" else self.sync.add_depth
        return self.observations(take(stamp_ns, message))

    def observations(self, matches: list[Match]) -> list[Observation]:
        """Matches with their camera info, once there is one."""
        if self._info is None:
            self._without_info.extend(matches)
            self._drop_without_info(len(self._without_info) - self.sync.config.queue)
            return []
        return [self._observation(match) for match in matches]

    def flush(self) -> list[Observation]:
        """See :meth:`Assembler.flush`."""
        observations = self.observations(self.sync.flush())
        self._drop_without_info(len(self._without_info))
        return observations

    def clear(self, reason: str) -> None:
        """See :meth:`Assembler.clear`."""
        self.sync.clear(reason)
        self.ledger.drop(reason, count=len(self._without_info))
        self._without_info.clear()

    def used(self) -> None:
        """See :meth:`Assembler.used`."""
        self.in_hand -= 1
        self.ledger.used.update(IMAGES)

    def drop(self, reason: str | Exception, count: int) -> None:
        """See :meth:`Assembler.drop`."""
        self.in_hand -= count
        self.ledger.drop(reason, count=count)

    def accounts(self) -> dict[str, Account]:
        """What became of the messages of each kind."""
        paired = len(self._without_info) + self.in_hand
        waiting = {kind: self.sync.waiting[kind] + paired for kind in IMAGES}
        waiting["info"] = int(not self._info_used)
        return {kind: self.ledger.account(kind, waiting[kind]) for kind in OF_A_CAMERA}

    def _take_info(self, message: Any) -> list[Match]:
        self.ledger.superseded["info"] += not self._info_used
        self._info, self._info_used = message, False
        waiting = list(self._without_info)
        self._without_info.clear()
        return waiting

    def _observation(self, match: Match) -> Observation:
        self.ledger.used["info"] += not self._info_used
        self._info_used = True
        self.in_hand += 1
        localizer = self.sync.localizer
        with suppress(Unusable), decode.reading("frame"):  # whoever decodes it will be told
            tree = localizer.tree(decode.camera_frame(match.color, match.depth))
            self._evidence.frame(match.color, match.depth, self._info, localizer.body, tree)
        return Observation(match, self._info, self._depth_scale, self._name, self._rectifier)

    def _drop_without_info(self, count: int) -> None:
        count = max(count, 0)
        for _ in range(count):
            self._without_info.popleft()
        self.ledger.drop("frame without any camera info so far", count=count)
