# SPDX-License-Identifier: Apache-2.0
"""Poses over time, and the tree of coordinate frames that /tf and /tf_static tell of.

Our own, so that it never blocks, is the same on every ROS and without one, and counts what it does
not take.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from ..config import SyncConfig
from ..datatypes import brief
from .drops import Unusable
from .ledger import Ledger

KINDS = ("tf", "tf_static")
MAX_FRAMES = 500
MOST_NAMED = 5  # frames in a message
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
    void_for: frozenset[str] = frozenset()  # cameras whose time went back since it came


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
        self._late_ns = to_ns(config.max_pose_gap + config.pose_wait)
        self._history_ns = to_ns(config.pose_history)
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
        if self.fixed:
            self.forget()
        elif self._poses and stamp_ns < self._poses[-1].stamp_ns - self._late_ns:
            self.forget()  # time ran backwards: a recording that starts again
        i = bisect_left(self._poses, stamp_ns, key=STAMP)
        if i < len(self._poses) and self._poses[i].stamp_ns == stamp_ns:
            if not self._poses[i].void_for:
                self._ledger.superseded[self.kind] += 1
                return
            self._forget(slice(i, i + 1))
        self._poses.insert(i, Pose(stamp_ns, T))
        self.waiting += 1
        limit = self._poses[-1].stamp_ns - self._history_ns
        # in portions, so that a pose costs no copy of the list
        if self._poses[0].stamp_ns < limit - to_ns(1.0):
            self._forget(slice(bisect_left(self._poses, limit, key=STAMP)))
        if len(self._poses) > most:
            self._forget(slice(len(self._poses) - most + most // 10))

    def around(self, stamp_ns: int, camera: str) -> tuple[Pose, ...]:
        """The pose of that moment, or the two between which it lies.

        Args:
            camera: that is to be placed; what is void for it does not count.

        Raises:
            NotYet: a later pose has to come first.
            Unusable: there will never be a pose; the message says why.
        """
        if self.fixed:
            return tuple(self._poses)
        i = bisect_left(self._poses, stamp_ns, key=STAMP)
        after = self._first(range(i, len(self._poses)), camera)
        if after is None:
            raise NotYet(
                f"image pair without a {self._name} at or behind it within "
                f"{self._config.pose_wait:g} s"
            )
        if after.stamp_ns == stamp_ns:
            return (after,)
        before = self._first(range(i - 1, -1, -1), camera)
        if before is None:
            raise Unusable(f"image pair older than every {self._name}")
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

    def void(self, after_ns: int, camera: str) -> None:
        """Poses later than ``after_ns`` that are known now count no more for ``camera``."""
        for pose in self._poses[bisect_right(self._poses, after_ns, key=STAMP) :]:
            pose.void_for |= {camera}

    def forget(self) -> None:
        """Forget all poses."""
        self._forget(slice(None))

    def _first(self, places: range, camera: str) -> Pose | None:
        poses = (self._poses[i] for i in places)
        return next((pose for pose in poses if camera not in pose.void_for), None)

    def _forget(self, which: slice) -> None:
        unused = sum(not pose.used for pose in self._poses[which])
        self._ledger.superseded[self.kind] += unused
        self.waiting -= unused
        del self._poses[which]


class NotConnected(NotYet):
    """Nothing is known of how two frames lie to each other, so far."""


@dataclass(slots=True)
class _Edge:
    """A frame in its parent: T_parent_child over time."""

    parent: str
    track: Track


class Transforms:
    """Transforms by child frame: a tree, or several.

    A frame has one parent: another one is refused until the first has been silent for
    ``pose_history``. Nothing is extrapolated. Kept are ``pose_history`` s of at most MAX_FRAMES
    frames, all together about MAX_POSES transforms; static ones stay.

    Args:
        ledger: counts which transforms are used, and which are superseded.
        shared: what is known besides, of frames that have no parent here.
    """

    def __init__(
        self,
        config: SyncConfig | None = None,
        ledger: Ledger | None = None,
        shared: Transforms | None = None,
    ) -> None:
        self._config = config or SyncConfig()
        self._ledger = ledger or Ledger()
        self._edges: dict[str, _Edge] = {}  # by child
        self._shared = shared

    def __len__(self) -> int:
        """Frames that have a parent."""
        return len(self._edges) + (0 if self._shared is None else len(self._shared))

    def __contains__(self, frame: str) -> bool:
        """Whether a frame has a parent that is not from ``shared``."""
        return frame in self._edges

    def add(
        self, parent: str, child: str, stamp_ns: int, T: np.ndarray, static: bool = False
    ) -> None:
        """Take T_parent_child, (4, 4); a static one is of all times, its stamp says nothing.

        Raises:
            Unusable: it contradicts what is known; it was not taken.
        """
        edge = self._edges.get(child)
        if edge is None or (edge.parent != parent and self._silent(edge, stamp_ns)):
            edge = self._plant(parent, child, static)
        if edge.parent != parent:
            raise Unusable(
                "transform that gives a frame a second parent",
                f"{shown(child)} is in {shown(edge.parent)} and would be in {shown(parent)}: two "
                "programs publish it",
            )
        if edge.track.fixed != static:
            raise Unusable(
                "transform that is both static and moving",
                f"{shown(child)} in {shown(parent)} comes on /tf and on /tf_static",
            )
        edge.track.add(stamp_ns, T, max(MAX_POSES // len(self._edges), 2))

    def lookup(self, target: str, source: str, stamp_ns: int, camera: str = "") -> np.ndarray:
        """T_target_source, (4, 4), at ``stamp_ns``: transforms that it is made of count as used.

        Args:
            camera: that is to be placed; what is void for it does not count.

        Raises:
            NotConnected: nothing joins the two so far.
            NotYet: a later transform has to come first.
            Unusable: it will never be known; the message says why.
        """
        down, up = self._ways(target, source)
        steps = {child: self._track(child).around(stamp_ns, camera) for child in (*up, *down)}
        for child, poses in steps.items():
            self._track(child).use(poses)
        to_source = self._chain(up, steps, stamp_ns)
        to_target = self._chain(down, steps, stamp_ns)
        return np.linalg.inv(to_target) @ to_source

    def newest(self, target: str, source: str) -> tuple[np.ndarray, int]:
        """T_target_source, (4, 4), at the last moment at which all of it is known, and that (ns).

        The moment is 0 where all transforms between the two are static.

        Raises:
            NotConnected: nothing joins the two so far.
            NotYet: a transform between the two has been forgotten.
        """
        down, up = self._ways(target, source)
        tracks = (self._track(child) for child in (*up, *down))
        moment = min((track.newest_ns or 0 for track in tracks if not track.fixed), default=0)
        return self.lookup(target, source, moment), moment

    def void(self, after_ns: int, camera: str) -> None:
        """See :meth:`Track.void`; static ones stay, and shared ones are void as well."""
        for edge in self._edges.values():
            if not edge.track.fixed:
                edge.track.void(after_ns, camera)
        if self._shared is not None:
            self._shared.void(after_ns, camera)

    def forget(self) -> None:
        """Forget all transforms but static and shared ones."""
        for edge in self._edges.values():
            if not edge.track.fixed:
                edge.track.forget()

    @property
    def waiting(self) -> dict[str, int]:
        """How many transforms of each kind nothing has used yet."""
        counts = dict.fromkeys(KINDS, 0)
        for edge in self._edges.values():
            counts[edge.track.kind] += edge.track.waiting
        return counts

    def _plant(self, parent: str, child: str, static: bool) -> _Edge:
        if child in self._ancestry(parent):
            raise Unusable(
                "transform that closes a circle",
                f"{shown(child)} in {shown(parent)}, which is in {shown(child)} itself",
            )
        old = self._edges.get(child)
        if old is None and len(self._edges) >= MAX_FRAMES:
            raise Unusable(f"transform of more than {MAX_FRAMES} frames")
        if old is not None:
            old.track.forget()
        kind = KINDS[static]
        track = Track(kind, f"transform of {shown(child)}", self._config, self._ledger, static)
        edge = self._edges[child] = _Edge(parent, track)
        return edge

    def _silent(self, edge: _Edge, stamp_ns: int) -> bool:
        newest = edge.track.newest_ns
        limit = stamp_ns - to_ns(self._config.pose_history)
        return not edge.track.fixed and (newest is None or newest < limit)

    def _ways(self, target: str, source: str) -> tuple[list[str], list[str]]:
        """The frames from each of the two up to below the first one that both are in."""
        down, up = self._ancestry(target), self._ancestry(source)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise NotConnected("frames that no transform joins", self._apart(target, source))
        return down[: down.index(common)], up[: up.index(common)]

    def _edge(self, child: str) -> _Edge | None:
        edge = self._edges.get(child)
        if edge is None and self._shared is not None:
            return self._shared._edge(child)
        return edge

    def _track(self, child: str) -> Track:
        edge = self._edge(child)
        assert edge is not None, "it is on the way between two frames"
        return edge.track

    def _ancestry(self, frame: str) -> list[str]:
        """The frame, its parent, and so on to the root."""
        way = [frame]
        while (edge := self._edge(way[-1])) is not None:
            if edge.parent in way:  # neither here nor in what is shared, but in both together
                break
            way.append(edge.parent)
        return way

    def _known(self) -> set[str]:
        """All frames."""
        parents = {edge.parent for edge in self._edges.values()}
        return {*self._edges, *parents, *(() if self._shared is None else self._shared._known())}

    def _chain(
        self, way: list[str], steps: dict[str, tuple[Pose, ...]], stamp_ns: int
    ) -> np.ndarray:
        """T_common_frame, (4, 4), along the way from the frame up to below the common one."""
        T = np.eye(4)
        for child in way:
            T = pose_at(steps[child], stamp_ns) @ T
        return T

    def _apart(self, target: str, source: str) -> str:
        known = self._known()
        if not known:
            return "nothing came on /tf and /tf_static"
        unknown = [frame for frame in (target, source) if frame not in known]
        if unknown:
            what = " and ".join(f"{shown(frame)} is in no transform" for frame in unknown)
            roots = sorted({self._ancestry(frame)[-1] for frame in known})
            return f"{what}; roots: {', '.join(map(shown, roots[:MOST_NAMED]))}"
        return " and ".join(
            f"{shown(frame)} is below {shown(self._ancestry(frame)[-1])}"
            for frame in (target, source)
        )


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


def shown(frame: str) -> str:
    """The name of a frame as messages quote it."""
    return f"'{brief(frame, 60)}'"
