# SPDX-License-Identifier: Apache-2.0
"""Poses of one thing over time: interpolated between two of them, never beyond."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from ..config import SyncConfig
from .drops import Unusable
from .ledger import Ledger

MAX_POSES = 100_000  # that are kept, however densely they are stamped: 10 s at 10 kHz
STAMP = attrgetter("stamp_ns")


class NotYet(Unusable):
    """What is asked for is not known so far, and may come; the text says what is missing."""


@dataclass(slots=True, eq=False)
class Pose:
    """One of a track."""

    stamp_ns: int
    T: np.ndarray  # (4, 4)
    used: bool = False


class Track:
    """Poses by their stamps, whatever the order in which they come.

    Args:
        kind: of input, as the ledger knows it.
        name: what one of them is called in messages.
        ledger: counts which poses are used, and which are superseded.
        fixed: there is one pose, of all times: the newest.
    """

    def __init__(
        self, kind: str, name: str, config: SyncConfig, ledger: Ledger, fixed: bool = False
    ) -> None:
        self.kind, self.fixed = kind, fixed
        self.waiting = 0  # poses that nothing has used yet
        self._name, self._config, self._ledger = name, config, ledger
        self._poses: list[Pose] = []

    @property
    def newest_ns(self) -> int | None:
        """The latest stamp; None if there is none."""
        return self._poses[-1].stamp_ns if self._poses else None

    def add(self, stamp_ns: int, T: np.ndarray, most: int | None = None) -> None:
        """Take a pose, (4, 4); of two with one stamp the first counts.

        Args:
            most: poses that are kept; None = MAX_POSES.
        """
        most = MAX_POSES if most is None else most
        pose = Pose(stamp_ns, T)
        if self.fixed:
            self._forget(slice(None))
        if holds(self._poses, stamp_ns):
            self._ledger.superseded[self.kind] += 1
            return
        insort(self._poses, pose, key=STAMP)
        self.waiting += 1
        limit = self._poses[-1].stamp_ns - to_ns(self._config.pose_history)
        # in portions, so that a pose costs no copy of the list
        if self._poses[0].stamp_ns < limit - to_ns(1.0):
            self._forget(slice(bisect_left(self._poses, limit, key=STAMP)))
        if len(self._poses) > most:
            self._forget(slice(len(self._poses) - most + most // 10))

    def around(self, stamp_ns: int) -> tuple[Pose, ...]:
        """The pose of that moment, or the two between which it lies.

        Raises:
            NotYet: a later pose has to come first.
            Unusable: there will never be a pose; the message says why.
        """
        if self.fixed:
            return tuple(self._poses)
        i = bisect_left(self._poses, stamp_ns, key=STAMP)
        if i == len(self._poses):
            raise NotYet(
                f"image pair without a {self._name} at or behind it within "
                f"{self._config.pose_wait:g} s"
            )
        after = self._poses[i]
        if after.stamp_ns == stamp_ns:
            return (after,)
        if i == 0:
            raise Unusable(f"image pair older than every {self._name}")
        before = self._poses[i - 1]
        if after.stamp_ns - before.stamp_ns > to_ns(self._config.max_pose_gap):
            raise Unusable(
                f"image pair between {self._name}s more than {self._config.max_pose_gap:g} s apart"
            )
        return before, after

    def use(self, poses: tuple[Pose, ...]) -> None:
        """Count poses of ``around`` as used."""
        for pose in poses:
            self._ledger.used[self.kind] += not pose.used
            self.waiting -= not pose.used
            pose.used = True

    def forget(self, after_ns: int | None = None) -> None:
        """Forget the poses later than ``after_ns``, or all of them."""
        start = 0 if after_ns is None else bisect_right(self._poses, after_ns, key=STAMP)
        self._forget(slice(start, None))

    def _forget(self, which: slice) -> None:
        unused = sum(not pose.used for pose in self._poses[which])
        self._ledger.superseded[self.kind] += unused
        self.waiting -= unused
        del self._poses[which]


def pose_at(poses: tuple[Pose, ...], stamp_ns: int) -> np.ndarray:
    """(4, 4) at ``stamp_ns`` from what ``Track.around`` gave for it."""
    if len(poses) == 1:
        return poses[0].T
    before, after = poses
    fraction = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
    return interpolate_pose(before.T, after.T, fraction)


def interpolate_pose(start: np.ndarray, end: np.ndarray, fraction: float) -> np.ndarray:
    """Position linearly, rotation along the shortest arc; both (4, 4), ``fraction`` in 0..1."""
    pose = np.eye(4)
    pose[:3, 3] = (1 - fraction) * start[:3, 3] + fraction * end[:3, 3]
    rotations = Rotation.from_matrix(np.stack([start[:3, :3], end[:3, :3]]))
    pose[:3, :3] = Slerp([0.0, 1.0], rotations)([fraction]).as_matrix()[0]
    return pose


def to_ns(seconds: float) -> int:
    """Seconds -> whole nanoseconds."""
    return round(seconds * 1e9)


def holds(queue: list, stamp_ns: int) -> bool:
    """Whether an item of a sorted queue has that stamp."""
    i = bisect_left(queue, stamp_ns, key=STAMP)
    return i < len(queue) and queue[i].stamp_ns == stamp_ns
