# SPDX-License-Identifier: Apache-2.0
"""Upright sheets that meet at corners, one by one: the windows around a bay, the walls of a room.

They are connected, but nobody means their common box, which is nearly empty. So what consists of
long straight parts that fill only a little of the floor space of the whole is taken apart.
"""

from __future__ import annotations

import numpy as np

from .boxes import hull_of, turned_box

THICK = 0.15  # m that the voxels of a sheet may be apart from its line
LONG = 1.0  # m, the least length of a sheet
MOST = 16  # sheets of one group
UPRIGHT = 0.3  # m of voxels above each place of the floor that a sheet covers, on average
STRAY = 0.1  # share of the floor that may be part of no sheet
AT_ONCE = 1 << 22  # cells of a floor that is looked at as an image: 100 m x 100 m at 5 cm
FILLED = 0.25  # share of the floor space of the whole that its sheets take at most


def sheets(index: np.ndarray, voxel_size: float) -> list[np.ndarray]:
    """(n, 3) voxel indices of a connected group -> the rows of each of its sheets.

    None, if it does not consist of several.
    """
    x, y = (axis - axis.min() for axis in index.T[:2])
    wide, deep = int(x.max()) + 1, int(y.max()) + 1
    if max(wide, deep) * voxel_size < LONG:
        return []
    most = min(len(index) * voxel_size / UPRIGHT, FILLED * wide * deep)  # cells that sheets cover
    if wide * deep <= AT_ONCE and np.count_nonzero(np.bincount(x * deep + y)) > most:
        return []  # which is quickly told of most things
    keys, cell_of = np.unique(x << 32 | y, return_inverse=True)
    cells = np.stack([keys >> 32, keys & (1 << 32) - 1], 1)
    if len(cells) > most:
        return []
    sheet = _sheet_of(cells, THICK / voxel_size, LONG / voxel_size)[cell_of]
    parts = [np.flatnonzero(sheet == number) for number in range(int(sheet.max()) + 1)]
    if len(parts) < 2:
        return []
    spaces = [_floor(index[rows], voxel_size) for rows in parts]
    return parts if sum(spaces) <= FILLED * _floor(index, voxel_size) else []


def _floor(index: np.ndarray, voxel_size: float) -> float:
    length, width, _ = turned_box(index, voxel_size).size
    return length * width


def _sheet_of(cells: np.ndarray, thick: float, long: float) -> np.ndarray:
    """(P, 2) whole numbers -> (P,) which sheet they are part of, all 0 if they are none.

    Sheets lie along the outline, and once they are taken away, along the outline of what is left.
    """
    sheet = np.full(len(cells), -1)
    lines: list[tuple[np.ndarray, float]] = []
    while len(lines) < MOST and (left := np.flatnonzero(sheet < 0)).size > STRAY * len(cells):
        hull = hull_of(*cells[left].T)
        along = np.diff(hull, axis=0, append=hull[:1])
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        across = np.stack([-along[:, 1], along[:, 0]], 1)
        apart = cells[left] @ across.T - (hull * across).sum(1)  # (left, H), not negative
        near = apart <= thick
        best = int(near.sum(0).argmax())
        rows = left[near[:, best]]
        length = np.ptp(cells[rows] @ along[best]) + 1
        if length < long or len(rows) < length / 2:
            return np.zeros(len(cells), int)
        sheet[rows] = len(lines)
        lines.append((across[best], float(hull[best] @ across[best])))
    if (sheet < 0).any():
        stray = cells[sheet < 0]
        apart = np.stack([np.abs(stray @ normal - offset) for normal, offset in lines])
        sheet[sheet < 0] = apart.argmin(0)
    return sheet
