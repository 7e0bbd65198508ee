# SPDX-License-Identifier: Apache-2.0
"""Voxels as cells that can be drawn: coarser ones where there are too many, and their faces.

A face is drawn from one side only, and only if it looks to where the camera was: so one looks into
rooms from outside, through the backs of their walls.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..datatypes import Cloud

MOST_FACES = 300_000  # that are drawn at once: what a phone turns smoothly; 36 MB
DARKEST_CORNER = 0.45  # of a face that is hemmed in all around
# axis and sign of the six sides of a cell
SIDES = tuple((axis, sign) for axis in range(3) for sign in (1, -1))
# corners of a face of unit size, counter-clockwise as seen from where it looks: (6, 4, 3)
_SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2


def _corners(axis: int, sign: int) -> np.ndarray:
    corners = np.empty((4, 3), np.float32)
    corners[:, axis] = sign / 2
    corners[:, (axis + 1) % 3], corners[:, (axis + 2) % 3] = _SQUARE.T
    return corners if sign > 0 else corners[::-1]


CORNERS = np.stack([_corners(*side) for side in SIDES])
NORMALS = np.stack([sign * np.eye(3)[axis] for axis, sign in SIDES])


def keys_of(index: np.ndarray) -> np.ndarray:
    """(N, 3) whole numbers of up to 21 bits -> (N,) int64, different for different rows."""
    x, y, z = (index.astype(np.int64) + (1 << 20)).T
    return x << 42 | y << 21 | z


class Cells:
    """The voxels of a map at one level of detail.

    Args:
        cloud: M voxels.
        voxel_size: m.
        level: a cell is as wide as 2**level voxels.
    """

    def __init__(self, cloud: Cloud, voxel_size: float, level: int = 0) -> None:
        self.level, self._voxel_size = level, voxel_size
        self.size = voxel_size * 2**level  # m
        index, self.of = self._unique(cloud.xyz)
        self.index = index  # (N, 3)
        # whole voxels lie between whole numbers of coarser cells
        self.xyz = index * self.size + (self.size - voxel_size) / 2  # (N, 3) m, centres
        self.hits = np.bincount(self.of, cloud.hits, len(index))
        weight = np.maximum(self.hits, 1e-9)
        sums = [np.bincount(self.of, cloud.hits * channel, len(index)) for channel in cloud.rgb.T]
        self.rgb = np.stack(sums, 1) / weight[:, None]  # (N, 3) 0..255

    def __len__(self) -> int:
        return len(self.index)

    def _index(self, xyz: np.ndarray) -> np.ndarray:
        return np.rint(xyz.astype(np.float64) / self._voxel_size).astype(np.int64) >> self.level

    def _unique(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = self._index(xyz)
        self._keys, first, of = np.unique(keys_of(index), return_index=True, return_inverse=True)
        return index[first], of.reshape(-1)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Rows of cells by key (:func:`keys_of`); -1 = there is none."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        rows = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[rows] == keys, rows, -1)

    def best(self, cloud: Cloud) -> tuple[np.ndarray, np.ndarray]:
        """Score (N,) and label (N,) int32 of the best voxel in each cell, of a cloud of answers.

        Voxels that are not here are left out; 0 and -1 where the cloud has none.
        """
        score, label = np.zeros(len(self), np.float32), np.full(len(self), -1, np.int32)
        rows = self.find(keys_of(self._index(cloud.xyz)))
        order = np.argsort(cloud.score, kind="stable")  # of several the last, best one stays
        order = order[rows[order] >= 0]
        score[rows[order]], label[rows[order]] = cloud.score[order], cloud.label[order]
        return score, label

    @cached_property
    def sides(self) -> list[np.ndarray]:
        """For each side, the (n,) rows of the cells that have no neighbour there."""
        return [
            np.flatnonzero(self.find(keys_of(self.index + normal.astype(np.int64))) < 0)
            for normal in NORMALS
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """Faces of cells."""

    cell: np.ndarray  # (F,) rows of Cells
    side: np.ndarray  # (F,) rows of SIDES
    shade: np.ndarray  # (F,) 0..1, factor on the colour

    def __len__(self) -> int:
        return len(self.cell)

    def corners(self, cells: Cells) -> np.ndarray:
        """(F, 4, 3) float32 m, counter-clockwise as seen from where the face looks."""
        centre = cells.xyz[self.cell].astype(np.float32)
        return centre[:, None] + np.float32(cells.size) * CORNERS[self.side]

    def of(self, chosen: np.ndarray) -> Faces:
        """The faces of the cells where ``chosen`` (N,) is true."""
        kept = chosen[self.cell]
        return Faces(self.cell[kept], self.side[kept], self.shade[kept])

    def hit_by(self, cells: Cells, origin: np.ndarray, direction: np.ndarray) -> int:
        """The row of the nearest face that looks at a ray from (3,) along (3,); -1 = none."""
        normal = NORMALS[self.side]
        towards = normal @ direction
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = cells.xyz[self.cell] + normal * (cells.size / 2)
            distance = ((middle - origin) * normal).sum(1) / towards
            at = origin + distance[:, None] * direction
            inside = (np.abs(at - middle) <= cells.size / 2 + 1e-9).all(1)
        distance[~(inside & (towards < 0) & (distance > 0))] = np.inf
        if not len(distance) or not np.isfinite(distance.min()):
            return -1
        return int(distance.argmin())


def visible_faces(cells: Cells, up: np.ndarray, cameras: np.ndarray) -> Faces:
    """The faces that border on free space and look to where the camera was.

    Args:
        up: (3,) unit vector.
        cameras: (P, 3) m, positions; none = it could be anywhere.
    """
    seen_from = _nearest(cells.xyz, cameras)
    parts = []
    for number, (rows, normal) in enumerate(zip(cells.sides, NORMALS, strict=True)):
        if seen_from is not None:
            rows = rows[(seen_from[rows] - cells.xyz[rows]) @ normal > 0]
        light = 0.8 + 0.2 * float(normal @ up) + 0.06 * float(abs(normal[0]) - abs(normal[1]))
        shade = light * _openness(cells, rows, SIDES[number])
        parts.append(Faces(rows, np.full(len(rows), number), shade))
    return Faces(
        np.concatenate([part.cell for part in parts]),
        np.concatenate([part.side for part in parts]),
        np.concatenate([part.shade for part in parts]),
    )


def _nearest(xyz: np.ndarray, cameras: np.ndarray) -> np.ndarray | None:
    """(N, 3) the camera position nearest to each point."""
    from scipy.spatial import cKDTree

    if not len(cameras) or not len(xyz):
        return None
    return cameras[cKDTree(cameras).query(xyz)[1]]


def _openness(cells: Cells, rows: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """(n,) factor: faces with cells around the space before them are darker (corners of rooms)."""
    axis, sign = side
    around = np.zeros(len(rows))
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            if a or b:
                step = np.zeros(3, np.int64)
                step[axis], step[(axis + 1) % 3], step[(axis + 2) % 3] = sign, a, b
                around += cells.find(keys_of(cells.index[rows] + step)) >= 0
    return 1 - (1 - DARKEST_CORNER) * around / 8


def fitting(cloud: Cloud, voxel_size: float, up: np.ndarray, cameras: np.ndarray) -> tuple:
    """The finest cells whose faces can be drawn at once -> Cells and Faces."""
    level = 0
    while True:
        cells = Cells(cloud, voxel_size, level)
        faces = visible_faces(cells, up, cameras)
        if len(faces) <= MOST_FACES:
            return cells, faces
        level += 1


def spacing(xyz: np.ndarray) -> float:
    """The voxel size of (M, 3) voxel centres, to a micrometre."""
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in xyz.astype(np.float64).T])
    return round(float(steps[steps > 1e-4].min(initial=1.0)), 6)
