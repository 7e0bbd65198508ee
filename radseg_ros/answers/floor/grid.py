# SPDX-License-Identifier: Apache-2.0
"""From voxels to floor plans for planners: where a robot can drive, and where a label lies."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...config import GridConfig
from ...datatypes import Frame, MapGeometry, MapOutline

UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # as in nav_msgs/OccupancyGrid
MOST_SIDE = 4096  # cells; 205 m at 5 cm
RAYS = 32, 128  # rows and columns of an image that are looked at: 5 cm apart at 5 m
REACH = 10.0  # m along a ray
MOST_FRAMES = 100_000  # whose numbers are known; the oldest ones stay where they are
KNEE = 0.3  # m above grid.low: a ray that passes higher may pass above what stands on the floor


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Square cells of the plane z = 0 of the world, one voxel wide."""

    data: np.ndarray  # (h, w) int8: UNKNOWN, or 0..100; rows along y, columns along x
    first: tuple[int, int]  # x and y index of the voxels above data[0, 0]
    resolution: float  # m

    @property
    def origin(self) -> tuple[float, float]:
        """x and y of the outer corner of data[0, 0], m."""
        x, y = ((number - 0.5) * self.resolution for number in self.first)
        return x, y


def occupancy_grid(
    geometry: MapGeometry | MapOutline,
    rules: GridConfig,
    looked_through: np.ndarray | None = None,
    around: Sequence[float] = (0.0, 0.0),
) -> Grid:
    """Occupied below what is as high as the robot, free where floor is or was looked across.

    Args:
        looked_through: (N, 2) cells, see :class:`LookedThrough`.
        around: x, y, m; of a map with too many cells those around it are kept.
    """
    seen = np.zeros((0, 2), np.int64) if looked_through is None else looked_through
    index, _ = _solid(geometry, rules)
    height = index[:, 2] * geometry.voxel_size - rules.floor
    floor = index[np.abs(height) <= rules.low, :2]
    obstacles = index[(height > rules.low) & (height <= rules.high), :2]
    grid = _empty(np.concatenate([floor, obstacles, seen]), geometry.voxel_size, around)
    for cells, value in ((seen, FREE), (floor, FREE), (obstacles, OCCUPIED)):
        _write(grid, cells, value)
    return grid


def label_grid(
    geometry: MapGeometry,
    scores: np.ndarray,
    threshold: float,
    rules: GridConfig,
    around: Sequence[float] = (0.0, 0.0),
) -> Grid:
    """100 x the best score in each cell above which voxels reach ``threshold``; 0 where others are.

    Args:
        scores: (M,) in 0..1, of one label.
        around: see :func:`occupancy_grid`.
    """
    index, rows = _solid(geometry, rules)
    low = index[:, 2] * geometry.voxel_size - rules.floor <= rules.high
    index, score = index[low, :2], scores[rows[low]]
    grid = _empty(index, geometry.voxel_size, around)
    _write(grid, index, FREE)
    order = np.argsort(score, kind="stable")  # of those in one cell the last one stays
    order = order[score[order] >= threshold]
    _write(grid, index[order], np.round(100 * score[order]).astype(np.int8))
    return grid


class LookedThrough:
    """Cells across which frames have looked just above the floor. Thread safe.

    It covers MOST_SIDE cells around the place from which the first frame looked.

    Args:
        cell: m.
    """

    def __init__(self, cell: float) -> None:
        self._cell = cell
        self._looks = np.zeros((MOST_SIDE, MOST_SIDE), np.int32)  # (x, y), frames
        self._first: np.ndarray | None = None  # (2,) index of _looks[0, 0]
        self._rules: dict[int, GridConfig] = {}  # by which frames were looked at that have numbers
        self._lock = threading.Lock()  # held for less than a millisecond

    def __contains__(self, number: object) -> bool:
        """Whether the frame of this number can be moved."""
        return number in self._rules

    def add(self, frame: Frame, rules: GridConfig, number: int = 0) -> None:
        """See what the rays of a frame pass on their way; the cell that each ends in stays out.

        Args:
            number: by which it can be moved; 0 = it stays.
        """
        if self._first is None:
            start = frame.T_world_camera[:2, 3]
            self._first = np.rint(start / self._cell).astype(np.int64) - MOST_SIDE // 2
        self._count(frame, rules, 1)
        if number:
            self._rules[number] = rules
        if len(self._rules) > MOST_FRAMES:
            del self._rules[min(self._rules)]

    def move(self, number: int, before: Frame, after: Frame) -> None:
        """A frame that was added was elsewhere."""
        rules = self._rules[number]
        self._count(before, rules, -1)
        self._count(after, rules, 1)

    def _count(self, frame: Frame, rules: GridConfig, by: int) -> None:
        x, y = self._passed(frame, rules)
        if not len(x):
            return
        seen = np.zeros((np.ptp(x) + 1, np.ptp(y) + 1), np.int32)
        west, south = x.min(), y.min()
        seen[x - west, y - south] = by  # a frame counts once
        with self._lock:
            self._looks[west : west + len(seen), south : south + seen.shape[1]] += seen

    def _passed(self, frame: Frame, rules: GridConfig) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the cells that rays of a frame pass."""
        points, start = _points(frame), frame.T_world_camera[:3, 3]
        way = points - start
        length = np.linalg.norm(way[:, :2], axis=1)
        whole = np.linalg.norm(way, axis=1)
        share = np.minimum(1 - 2 * self._cell / np.maximum(length, 2 * self._cell), REACH / whole)
        steps = np.arange(0, REACH, self._cell)
        t = steps / np.maximum(length, self._cell)[:, None]  # (N, S): one step is one cell
        height = start[2] - rules.floor + t * way[:, 2:]
        below = min(rules.high, rules.low + KNEE)
        passed = (t < share[:, None]) & (height > rules.low) & (height <= below)
        ray, step = np.nonzero(passed)
        xy = start[:2] + t[ray, step, None] * way[ray, :2]
        cells = np.rint(xy / self._cell).astype(np.int64) - self._first
        x, y = cells[((cells >= 0) & (cells < MOST_SIDE)).all(1)].T
        return x, y

    def cells(self) -> np.ndarray:
        """(N, 2) x and y index of the cells so far."""
        if self._first is None:
            return np.zeros((0, 2), np.int64)
        rows = np.flatnonzero(self._looks.any(1))
        x, y = np.nonzero(self._looks[rows])
        return np.stack([rows[x], y], 1) + self._first


def _points(frame: Frame) -> np.ndarray:
    """(N, 3) where some rays of a frame end, m in the world: evenly spread over the image."""
    height, width = frame.depth.shape
    down, right = (max(1, side // rays) for side, rays in zip((height, width), RAYS, strict=True))
    v, u = np.mgrid[down // 2 : height : down, right // 2 : width : right].reshape(2, -1)
    depth = frame.depth[v, u].astype(np.float64)
    known = np.isfinite(depth) & (depth > 0)
    pixels = np.stack([u[known], v[known], np.ones(known.sum())])
    rays = frame.T_world_camera[:3, :3] @ np.linalg.inv(frame.K) @ pixels
    return (rays * depth[known]).T + frame.T_world_camera[:3, 3]


def _solid(geometry: MapGeometry | MapOutline, rules: GridConfig) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) indices of the voxels with enough points, and their rows."""
    rows = np.flatnonzero(geometry.hits.cpu().numpy() >= rules.min_hits)
    return geometry.index.cpu().numpy()[rows], rows


def _empty(cells: np.ndarray, resolution: float, around: Sequence[float]) -> Grid:
    """A grid of UNKNOWN that holds ``cells``, or MOST_SIDE of them around a place."""
    if not len(cells):
        return Grid(np.zeros((0, 0), np.int8), (0, 0), resolution)
    middle = np.rint(np.asarray(around[:2]) / resolution).astype(np.int64)
    low = np.maximum(cells.min(0), middle - MOST_SIDE // 2)
    high = np.minimum(cells.max(0), middle + MOST_SIDE // 2 - 1)
    width, height = np.maximum(high - low + 1, 0)
    data = np.full((height, width), UNKNOWN, np.int8)
    return Grid(data, (int(low[0]), int(low[1])), resolution)


def _write(grid: Grid, cells: np.ndarray, values: np.ndarray | int) -> None:
    """Set (n, 2) cells, of those that are in the grid."""
    x, y = (cells - grid.first).T
    height, width = grid.data.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    grid.data[y[inside], x[inside]] = np.broadcast_to(values, len(x))[inside]
