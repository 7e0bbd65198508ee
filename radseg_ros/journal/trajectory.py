# SPDX-License-Identifier: Apache-2.0
"""Corrected poses over time: where a body was, as an optimiser sees it now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from ..datatypes import InputError, check_pose

STRAIGHT_NS = 1_500_000_000  # for so long a body is taken to move on a straight line
JUMP = 0.1, 5.0  # m and degrees between two nodes: more is not odometry's drift


class Trajectory:
    """Poses of a body between stamps.

    Args:
        stamps_ns: (N,) N >= 1, in any order; of two equal ones the last counts.
        poses: (N, 4, 4) T_world_body.
        max_gap: s between two stamps; what is between them farther apart is not known, nor what is
            more than STRAIGHT_NS apart where nothing tells how the body moved.
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

    def at(
        self, stamps_ns: np.ndarray, believed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n,) int64 stamps -> (n, 4, 4) T_map_body, and (n,) bool, which of them are known.

        Positions are interpolated linearly, rotations along the shortest arc. Nothing is
        extrapolated.

        Args:
            believed: (n, 4, 4) T_map_body as it was used so far. A pose graph has a node a second
                or so, and none while the body stands still; between nodes odometry knows better
                than a straight line how it moved. Interpolated is then by how much that was wrong,
                where both nodes can tell, and agree: poses of TF jump with each loop closure.
        """
        a, b, inside = _around(self._stamps, stamps_ns, self._gap_ns)
        known = inside & (self._stamps[b] - self._stamps[a] <= STRAIGHT_NS)
        found = np.tile(np.eye(4), (len(stamps_ns), 1, 1))
        found[known] = self._between(self._poses, a[known], b[known], stamps_ns[known])
        if believed is not None and inside.any():
            errors, told = self._errors(stamps_ns, believed)
            smooth = ~moved(errors[a], errors[b], *JUMP)
            better = inside & (a != b) & told[a] & told[b] & smooth
            wrong = self._between(errors, a[better], b[better], stamps_ns[better])
            found[better, :3, :3] = wrong[:, :3, :3] @ believed[better, :3, :3]
            found[better, :3, 3] = wrong[:, :3, 3] + believed[better, :3, 3]
            known |= better
        return found, known

    def _errors(self, stamps_ns: np.ndarray, believed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By how much (n, 4, 4) poses at (n,) stamps were wrong, at the stamps of this one.

        Returns:
            (N, 4, 4), by what the body is to be turned where it is, and moved along the axes of the
            map; (N,) bool, where that is known.
        """
        old_stamps, rows = np.unique(stamps_ns, return_index=True)
        a, b, told = _around(old_stamps, self._stamps, STRAIGHT_NS)
        old = np.tile(np.eye(4), (len(a), 1, 1))
        share = _share(old_stamps, a[told], b[told], self._stamps[told])
        old[told] = between(believed[rows][a[told]], believed[rows][b[told]], share)
        errors = np.tile(np.eye(4), (len(a), 1, 1))
        errors[:, :3, :3] = self._poses[:, :3, :3] @ old[:, :3, :3].transpose(0, 2, 1)
        errors[:, :3, 3] = self._poses[:, :3, 3] - old[:, :3, 3]
        return errors, told

    def _between(
        self, values: np.ndarray, a: np.ndarray, b: np.ndarray, stamps_ns: np.ndarray
    ) -> np.ndarray:
        """(N, 4, 4) at the stamps of this one -> (n, 4, 4) at (n,) stamps between rows a and b."""
        return between(values[a], values[b], _share(self._stamps, a, b, stamps_ns))


def _around(
    stamps: np.ndarray, asked: np.ndarray, gap_ns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) stamps in order, N >= 1 -> rows before and behind (n,) stamps, and whether both are.

    The two rows are the same where a stamp is met exactly.
    """
    last = len(stamps) - 1
    after = np.searchsorted(stamps, asked)
    b = np.minimum(after, last)
    exact = stamps[b] == asked
    a = np.where(exact, b, np.maximum(b - 1, 0))
    inside = exact | ((after > 0) & (after <= last))
    return a, b, inside & (stamps[b] - stamps[a] <= gap_ns)


def _share(stamps: np.ndarray, a: np.ndarray, b: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(n,) 0..1, how far on the way from the stamps of rows a to those of rows b."""
    return (asked - stamps[a]) / np.maximum(stamps[b] - stamps[a], 1)


def between(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(n, 4, 4) twice, and (n,) 0..1 -> (n, 4, 4), so far on the way from one to the other."""
    found = start.copy()  # what is at its beginning is as it was given, to the last bit
    if len(rows := np.flatnonzero(share)):
        start, end, share = start[rows], end[rows], share[rows, None]
        found[rows, :3, 3] = start[:, :3, 3] + share * (end - start)[:, :3, 3]
        turn = Rotation.from_matrix(start[:, :3, :3])
        step = (turn.inv() * Rotation.from_matrix(end[:, :3, :3])).as_rotvec()
        found[rows, :3, :3] = (turn * Rotation.from_rotvec(share * step)).as_matrix()
    return found


def moved(before: np.ndarray, after: np.ndarray, min_shift: float, min_angle: float) -> np.ndarray:
    """(n, 4, 4) twice -> (n,) bool: which moved by more than so many metres, or degrees."""
    shift = np.linalg.norm(after[:, :3, 3] - before[:, :3, 3], axis=1)
    turn = np.einsum("nji,njk->nik", before[:, :3, :3], after[:, :3, :3])
    angle = np.degrees(Rotation.from_matrix(turn).magnitude()) if len(turn) else np.zeros(0)
    return (shift > min_shift) | (angle > min_angle)
