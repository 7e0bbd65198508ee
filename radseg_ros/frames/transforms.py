# SPDX-License-Identifier: Apache-2.0
"""The tree of coordinate frames that /tf and /tf_static tell of, and how two of them lie.

Our own, so that it never blocks, is the same on every ROS and without one, and counts what it does
not take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..config import SyncConfig
from ..datatypes import brief
from .drops import Unusable
from .ledger import Ledger
from .track import MAX_POSES, NotYet, Pose, Track, pose_at, to_ns

KINDS = ("tf", "tf_static")
MAX_FRAMES = 500
MOST_NAMED = 5  # frames in a message


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
    """

    def __init__(self, config: SyncConfig | None = None, ledger: Ledger | None = None) -> None:
        self._config = config or SyncConfig()
        self._ledger = ledger or Ledger()
        self._edges: dict[str, _Edge] = {}  # by child

    def __len__(self) -> int:
        """Frames that have a parent."""
        return len(self._edges)

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
        newest = edge.track.newest_ns
        late = to_ns(self._config.max_pose_gap + self._config.pose_wait)
        if newest is not None and stamp_ns < newest - late:
            edge.track.forget(stamp_ns)  # time ran backwards: a recording that starts again
        edge.track.add(stamp_ns, T, max(MAX_POSES // len(self._edges), 2))

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """T_target_source, (4, 4), at ``stamp_ns``: transforms that it is made of count as used.

        Raises:
            NotConnected: nothing joins the two so far.
            NotYet: a later transform has to come first.
            Unusable: it will never be known; the message says why.
        """
        down, up = self._ancestry(target), self._ancestry(source)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise NotConnected("frames that no transform joins", self._apart(target, source))
        steps = {
            child: self._edges[child].track.around(stamp_ns)
            for way in (up, down)
            for child in way[: way.index(common)]
        }
        for child, poses in steps.items():
            self._edges[child].track.use(poses)
        to_source = self._chain(up[: up.index(common)], steps, stamp_ns)
        to_target = self._chain(down[: down.index(common)], steps, stamp_ns)
        return np.linalg.inv(to_target) @ to_source

    def forget(self, after_ns: int | None = None) -> None:
        """Forget transforms later than ``after_ns``, or all of them; static ones stay."""
        for edge in self._edges.values():
            if not edge.track.fixed:
                edge.track.forget(after_ns)

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

    def _ancestry(self, frame: str) -> list[str]:
        """The frame, its parent, and so on to the root."""
        way = [frame]
        while (edge := self._edges.get(way[-1])) is not None:
            way.append(edge.parent)
        return way

    def _chain(
        self, way: list[str], steps: dict[str, tuple[Pose, ...]], stamp_ns: int
    ) -> np.ndarray:
        """T_common_frame, (4, 4), along the way from the frame up to below the common one."""
        T = np.eye(4)
        for child in way:
            T = pose_at(steps[child], stamp_ns) @ T
        return T

    def _apart(self, target: str, source: str) -> str:
        known = {*self._edges, *(edge.parent for edge in self._edges.values())}
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


def shown(frame: str) -> str:
    """The name of a frame as messages quote it."""
    return f"'{brief(frame, 60)}'"
