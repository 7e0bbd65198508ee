# SPDX-License-Identifier: Apache-2.0
"""Colour + depth + interpolated pose, paired by their stamps.

No ROS, no clock: the same in the node and offline.

The result does not depend on the order in which the topics arrive, except where an input is lost or
a queue overflows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from ..config import SyncConfig
from ..datatypes import InputError, check_pose
from .drops import DropCounts
from .ledger import IMAGES, Ledger

STAMP = attrgetter("stamp_ns")
SAID = {"color": "colour", "depth": "depth"}  # in messages
MAX_POSES = 100_000  # that are kept, however densely they are stamped: 10 s at 10 kHz


class _Stamped(NamedTuple):
    stamp_ns: int
    data: Any


@dataclass(slots=True, eq=False)
class _Pose:
    stamp_ns: int
    T_world_body: np.ndarray  # (4, 4)
    used: bool = False  # for a match


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Inputs that belong to one moment."""

    stamp_ns: int  # of the depth image: it makes the geometry
    color: Any  # as it was given to add_color
    depth: Any  # as it was given to add_depth
    T_world_camera: np.ndarray  # (4, 4) float64, at stamp_ns


class FrameSync:
    """Collects stamped inputs and returns complete matches, in the order of their stamps.

    A colour and a depth image match when they are nearest to each other and at most ``max_skew``
    apart. The pose is interpolated between the poses around the image; there is no extrapolation
    and never an identity. Whatever cannot be used is counted under a reason that a user can act on.

    Args:
        T_body_camera: (4, 4) camera -> body, when the poses are those of a body.
        ledger: counts what is dropped, and which poses are used or superseded.

    Raises:
        InputError: ``T_body_camera`` is not a rigid transform.
    """

    def __init__(
        self,
        config: SyncConfig | None = None,
        T_body_camera: np.ndarray | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.config = config or SyncConfig()
        self.T_body_camera = (
            None if T_body_camera is None else check_pose(T_body_camera, "T_body_camera")
        )
        self.ledger = ledger or Ledger()
        self.jumps = 0  # times that a stamp went backwards by more than any delay explains
        self._images: dict[str, list[_Stamped]] = {"color": [], "depth": []}
        self._pairs: list[_Stamped] = []  # data = (color, depth)
        self._poses: list[_Pose] = []
        self._newest: dict[str, int] = {}  # stamp per kind of input
        self._last_match_ns: int | None = None

    def add_color(self, stamp_ns: int, image: Any) -> list[Match]:
        """Take a colour image (anything: it is handed through) and return what became complete."""
        return self._add_image("color", stamp_ns, image)

    def add_depth(self, stamp_ns: int, image: Any) -> list[Match]:
        """Take a depth image (anything: it is handed through) and return what became complete."""
        return self._add_image("depth", stamp_ns, image)

    def add_pose(self, stamp_ns: int, T_world_body: np.ndarray) -> list[Match]:
        """Take a pose, (4, 4), and return what became complete.

        Raises:
            InputError: the pose is not a rigid transform; it was not taken.
        """
        pose = _Pose(stamp_ns, check_pose(T_world_body))
        self._see("pose", stamp_ns)
        if not self._poses or self._poses[-1].stamp_ns < stamp_ns:
            self._poses.append(pose)
        elif _holds(self._poses, stamp_ns):
            self.ledger.superseded["pose"] += 1
        else:
            insort(self._poses, pose, key=STAMP)
        self._forget_old_poses()
        return self._complete()

    def flush(self) -> list[Match]:
        """The inputs have ended: decide what still waits without knowing more; count the rest."""
        self._match_images(final=True)
        matches = self._complete()
        for kind, images in self._images.items():
            self.ledger.drop(self._unpaired(kind), (kind,), len(images))
            images.clear()
        self._drop_pairs(len(self._pairs))
        return matches

    def clear(self, reason: str, poses: bool = False) -> None:
        """Forget every waiting image, counted as dropped for ``reason``; poses only if asked to."""
        for kinds, queue in self._queues():
            self.ledger.drop(reason, kinds, len(queue))
            queue.clear()
        if poses:
            self._forget_poses(slice(None))

    @property
    def drops(self) -> DropCounts:
        """Why inputs were not used."""
        return self.ledger.drops

    @property
    def waiting(self) -> dict[str, int]:
        """How many inputs of each kind are not decided yet; images wait alone or in pairs."""
        images = {kind: len(queue) + len(self._pairs) for kind, queue in self._images.items()}
        return {**images, "pose": sum(not pose.used for pose in self._poses)}

    def _queues(self) -> list[tuple[tuple[str, ...], list[_Stamped]]]:
        """Images that wait, and of which kinds each item of a queue is."""
        return [*(((kind,), queue) for kind, queue in self._images.items()), (IMAGES, self._pairs)]

    # Time

    def _see(self, kind: str, stamp_ns: int) -> None:
        """Note the newest stamp; a jump back (a bag that starts again) voids all that is later."""
        newest = self._newest.get(kind, stamp_ns)
        if stamp_ns < newest - _ns(self.config.max_pose_gap + self.config.pose_wait):
            self.jumps += 1
            self._purge(after_ns=stamp_ns)
        self._newest[kind] = max(self._newest.get(kind, stamp_ns), stamp_ns)

    def _purge(self, after_ns: int) -> None:
        """Drop inputs later than ``after_ns``.

        Earlier ones stay: another topic may have jumped before.
        """
        for kinds, queue in self._queues():
            kept = [item for item in queue if item.stamp_ns <= after_ns]
            lost = len(queue) - len(kept)
            self.ledger.drop("image that waited while time went backwards", kinds, lost)
            queue[:] = kept
        self._forget_poses(slice(bisect_right(self._poses, after_ns, key=STAMP), None))
        self._newest = {kind: stamp for kind, stamp in self._newest.items() if stamp <= after_ns}
        if self._last_match_ns is not None and self._last_match_ns > after_ns:
            self._last_match_ns = None

    # Colour and depth

    def _add_image(self, kind: str, stamp_ns: int, image: Any) -> list[Match]:
        self._see(kind, stamp_ns)
        queue = self._images[kind]
        if self._last_match_ns is not None and stamp_ns <= self._last_match_ns - _ns(
            self.config.max_skew
        ):
            reason = f"{SAID[kind]} image that came after later ones had been used"
            self.ledger.drop(reason, (kind,))
            return []
        if _holds(queue, stamp_ns):
            self.ledger.drop(f"{SAID[kind]} image with the stamp of another one", (kind,))
            return []
        insort(queue, _Stamped(stamp_ns, image), key=STAMP)
        if len(queue) > self.config.queue:
            del queue[0]
            self.ledger.drop(self._unpaired(kind), (kind,))
        self._match_images()
        return self._complete()

    def _match_images(self, final: bool = False) -> None:
        """Pair the oldest colour and depth images as far as nothing can change it any more."""
        skew = _ns(self.config.max_skew)
        queues = self._images
        while queues["color"] and queues["depth"]:
            early, late = sorted(queues, key=lambda kind: queues[kind][0].stamp_ns)
            gap = queues[late][0].stamp_ns - queues[early][0].stamp_ns
            if gap > 0:
                # A nearer partner of the late image can only be the early one's successor: wait
                # until that is known.
                successor = queues[early][1].stamp_ns if len(queues[early]) > 1 else None
                if gap > skew or (
                    successor is not None and abs(queues[late][0].stamp_ns - successor) < gap
                ):
                    del queues[early][0]
                    self.ledger.drop(self._unpaired(early), (early,))
                    continue
                if successor is None and not final:
                    return
            color, depth = queues["color"].pop(0), queues["depth"].pop(0)
            self._pairs.append(_Stamped(depth.stamp_ns, (color.data, depth.data)))
            if len(self._pairs) > self.config.queue:
                self._drop_pairs(1)

    # Pose

    def _complete(self) -> list[Match]:
        """Matches for every pair, oldest first, whose pose is decided."""
        matches: list[Match] = []
        while self._pairs:
            pair = self._pairs[0]
            try:
                T_world_body = self._pose_at(pair.stamp_ns)
            except InputError as reason:
                self.ledger.drop(reason)
                del self._pairs[0]
                continue
            if T_world_body is not None:
                T = (
                    T_world_body
                    if self.T_body_camera is None
                    else T_world_body @ self.T_body_camera
                )
                color, depth = pair.data
                matches.append(Match(pair.stamp_ns, color, depth, T))
                self._last_match_ns = pair.stamp_ns
                del self._pairs[0]
            elif max(self._newest.values()) > pair.stamp_ns + _ns(self.config.pose_wait):
                self._drop_pairs(1)
            else:
                break
        return matches

    def _pose_at(self, stamp_ns: int) -> np.ndarray | None:
        """(4, 4) at ``stamp_ns``; None when a later pose has to come first.

        Raises:
            InputError: there will never be a pose; the message says why.
        """
        i = bisect_left(self._poses, stamp_ns, key=STAMP)
        if i == len(self._poses):
            return None
        after = self._poses[i]
        if after.stamp_ns == stamp_ns:
            self._use(after)
            return after.T_world_body
        if i == 0:
            raise InputError("image pair older than every pose")
        before = self._poses[i - 1]
        gap = after.stamp_ns - before.stamp_ns
        if gap > _ns(self.config.max_pose_gap):
            raise InputError(
                f"image pair between poses more than {self.config.max_pose_gap:g} s apart"
            )
        self._use(before, after)
        fraction = (stamp_ns - before.stamp_ns) / gap
        return interpolate_pose(before.T_world_body, after.T_world_body, fraction)

    def _use(self, *poses: _Pose) -> None:
        for pose in poses:
            self.ledger.used["pose"] += not pose.used
            pose.used = True

    def _forget_old_poses(self) -> None:
        limit = self._poses[-1].stamp_ns - _ns(self.config.pose_history)
        # in portions, so that a pose costs no copy of the list
        if self._poses[0].stamp_ns < limit - _ns(1.0):
            self._forget_poses(slice(bisect_left(self._poses, limit, key=STAMP)))
        elif len(self._poses) > MAX_POSES:
            self._forget_poses(slice(MAX_POSES // 10))

    def _forget_poses(self, which: slice) -> None:
        self.ledger.superseded["pose"] += sum(not pose.used for pose in self._poses[which])
        del self._poses[which]

    # Counting

    def _drop_pairs(self, count: int) -> None:
        reason = f"image pair without a pose at or behind it within {self.config.pose_wait:g} s"
        self.ledger.drop(reason, count=count)
        del self._pairs[:count]

    def _unpaired(self, kind: str) -> str:
        partner = "depth" if kind == "color" else "color"
        skew = f"{self.config.max_skew:g} s"
        return f"{SAID[kind]} image without a {SAID[partner]} image within {skew}"


def interpolate_pose(start: np.ndarray, end: np.ndarray, fraction: float) -> np.ndarray:
    """Position linearly, rotation along the shortest arc; both (4, 4), ``fraction`` in 0..1."""
    pose = np.eye(4)
    pose[:3, 3] = (1 - fraction) * start[:3, 3] + fraction * end[:3, 3]
    rotations = Rotation.from_matrix(np.stack([start[:3, :3], end[:3, :3]]))
    pose[:3, :3] = Slerp([0.0, 1.0], rotations)([fraction]).as_matrix()[0]
    return pose


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _holds(queue: list[Any], stamp_ns: int) -> bool:
    i = bisect_left(queue, stamp_ns, key=STAMP)
    return i < len(queue) and queue[i].stamp_ns == stamp_ns
