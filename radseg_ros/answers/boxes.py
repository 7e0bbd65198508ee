# SPDX-License-Identifier: Apache-2.0
"""Boxes around voxels, which hold them whole."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull

from ..datatypes import OrientedBox

NO_SMALLER = 1e-9  # relative: of boxes that are equally large, the least turned one is taken
_CORNERS = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])  # of a voxel, in x and y


def straight_box(index: np.ndarray, voxel_size: float) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) voxel indices -> (3,) centre and (3,) size of the box along the axes, metres."""
    low, high = _extent(index)
    return (low + high) * (voxel_size / 2), (high - low + 1) * voxel_size


def turned_box(index: np.ndarray, voxel_size: float) -> OrientedBox:
    """The box of the smallest floor space, of those that are turned about z.

    One of its sides lies along a side of the convex hull (Freeman and Shapira 1975).

    Args:
        index: (n, 3) voxel indices, n >= 1.
        voxel_size: metres.
    """
    lowest, highest = _extent(index)
    hull = hull_of(index[:, 0] - lowest[0], index[:, 1] - lowest[1])
    along = np.diff(hull, axis=0, append=hull[:1])
    turns = np.arctan2(along[:, 1], along[:, 0])
    turns = np.append(0.0, (turns + np.pi / 4) % (np.pi / 2) - np.pi / 4)  # the rest is symmetry
    turns = turns[np.argsort(np.abs(turns), kind="stable")]
    axes = np.stack([np.cos(turns), np.sin(turns)], 1)  # (A, 2) unit vectors, and their normals
    u, v = hull @ axes.T, hull @ np.stack([-axes[:, 1], axes[:, 0]])  # (H, A) each
    area = np.ptp(u, axis=0) * np.ptp(v, axis=0)
    best = int(np.argmax(area <= area.min() * (1 + NO_SMALLER)))
    sides = [np.ptp(u[:, best]), np.ptp(v[:, best])]
    middle = [(part.min() + part.max()) / 2 for part in (u[:, best], v[:, best])]
    (cosine, sine), yaw = axes[best], float(turns[best])
    x, y = cosine * middle[0] - sine * middle[1], sine * middle[0] + cosine * middle[1]
    if sides[1] > sides[0] * (1 + NO_SMALLER):
        sides, yaw = sides[::-1], yaw + np.pi / 2 if yaw < 0 else yaw - np.pi / 2
    height = int(highest[2] - lowest[2])
    centre = voxel_size * (lowest + (x, y, height / 2))
    size = voxel_size * np.array([*sides, height + 1])
    return OrientedBox(tuple(centre.tolist()), tuple(size.tolist()), yaw)


def _extent(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) -> lowest and highest of each column, (3,) each."""
    columns = np.ascontiguousarray(index.T)  # several times faster than along the other axis
    return columns.min(1), columns.max(1)


def hull_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n,) whole numbers from 0 on -> (H, 2) convex hull of these cells, counterclockwise."""
    lowest, highest = (np.full(int(x.max()) + 1, y[0]) for _ in range(2))  # in each column
    lowest[x], highest[x] = y, y  # any of its own, and then the extreme ones
    np.minimum.at(lowest, x, y)
    np.maximum.at(highest, x, y)
    columns = np.flatnonzero(np.bincount(x))
    ends = [np.stack([columns, each[columns]], 1) for each in (lowest, highest)]
    cells = np.concatenate(ends)
    corners = (cells[:, None] + _CORNERS).reshape(-1, 2)
    return corners[ConvexHull(corners).vertices]
