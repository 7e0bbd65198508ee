# SPDX-License-Identifier: Apache-2.0
"""Corrected poses over time: where a body was, as an optimiser sees it now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from ..datatypes import InputError, check_pose


class Trajectory:
    """Poses of a body between stamps.

    Args:
        stamps_ns: (N,) N >= 1, in any order; of two equal ones the last counts.
        poses: (N, 4, 4) T_world_body.
        max_gap: s between two stamps; what is between them farther apart is not known.
        T_map_world: (4, 4); None = the world is the map.

    Raises:
        InputError: there is none, or one is no rigid transform.
    """

    def __init__(
        self,
        stamps_ns: Sequence[int],
        poses: Sequence[np.ndarray],
        max_gap: float,
        T_map_world: np.ndarray | None = None,
    ) -> None:
        if not len(stamps_ns) or len(stamps_ns) != len(poses):
            raise InputError("a trajectory has at least one pose, and a stamp for each")
        found = {int(stamp): check_pose(T) for stamp, T in zip(stamps_ns, poses, strict=True)}
        self._stamps = np.array(sorted(found), np.int64)
        self._poses = np.stack([found[stamp] for stamp in self._stamps.tolist()])
        if T_map_world is not None:
            self._poses = T_map_world @ self._poses
        self._gap_ns = round(1e9 * max_gap)

    def at(self, stamps_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 stamps -> (n, 4, 4) T_map_body, and (n,) bool, which of them are known.

        Positions are interpolated linearly, rotations along the shortest arc. Nothing is
        extrapolated.
        """
        after = np.searchsorted(self._stamps, stamps_ns)
        last = len(self._stamps) - 1
        b = np.minimum(after, last)
        exact = self._stamps[b] == stamps_ns
        a = np.where(exact, b, np.maximum(b - 1, 0))
        inside = exact | ((after > 0) & (after <= last))
        known = inside & (self._stamps[b] - self._stamps[a] <= self._gap_ns)
        found = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
        if known.any():
            rows = np.flatnonzero(known)
            found[rows] = self._between(a[rows], b[rows], stamps_ns[rows])
        return found, known

    def _between(self, a: np.ndarray, b: np.ndarray, stamps_ns: np.ndarray) -> np.ndarray:
        """(n,) rows before and after (n,) stamps -> (n, 4, 4)."""
        span = (self._stamps[b] - self._stamps[a]).astype(np.float64)
        share = np.where(span > 0, (stamps_ns - self._stamps[a]) / np.maximum(span, 1), 0.0)
        start, end = self._poses[a], self._poses[b]
        found = np.tile(np.eye(4), (len(a), 1, 1))
        found[:, :3, 3] = start[:, :3, 3] + share[:, None] * (end - start)[:, :3, 3]
        turn = Rotation.from_matrix(start[:, :3, :3])
        step = (turn.inv() * Rotation.from_matrix(end[:, :3, :3])).as_rotvec()
        found[:, :3, :3] = (turn * Rotation.from_rotvec(share[:, None] * step)).as_matrix()
        exact = span == 0
        found[exact] = start[exact]  # as it was given, to the last bit
        return found


def moved(before: np.ndarray, after: np.ndarray, min_shift: float, min_angle: float) -> np.ndarray:
    """(n, 4, 4) twice -> (n,) bool: which moved by more than so many metres, or degrees."""
    shift = np.linalg.norm(after[:, :3, 3] - before[:, :3, 3], axis=1)
    turn = np.einsum("nji,njk->nik", before[:, :3, :3], after[:, :3, :3])
    angle = np.degrees(Rotation.from_matrix(turn).magnitude()) if len(turn) else np.zeros(0)
    return (shift > min_shift) | (angle > min_angle)
