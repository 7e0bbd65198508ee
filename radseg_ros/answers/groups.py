# SPDX-License-Identifier: Apache-2.0
"""Which voxels belong together: connected groups, found on the voxel grid in linear time and space.

Voxels are packed into cells of 2 x 2 x 2, whose contents are eight bits. Whether two neighbouring
cells hold a pair of voxels that is near enough is read off a table of bits, and this joins nearly
all that is connected. What is left apart is compared in cells as large as can be while all voxels
of a cell are near each other, and voxel by voxel only between cells of different groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

MARGIN = 1e-5  # relative: nearer to ``max_gap`` than this, positions decide and not the grid
PAIRS_AT_ONCE = 1 << 20  # pairs of voxels that are compared at once: some 64 MB
BLOCK = 4  # cells on each side of a block: no more than these are looked across
_DIAGONAL = 3**0.5

Positions = Callable[[np.ndarray], np.ndarray]  # (n,) voxels -> (n, 3) metres


def connected_groups(index: np.ndarray, voxel_size: float, max_gap: float) -> np.ndarray:
    """(N, 3) distinct whole numbers -> (N,) group numbers.

    Voxels whose centres are at most ``max_gap`` metres apart share a group.

    Args:
        index: voxel indices; the centre is index * voxel_size.
        voxel_size, max_gap: metres.
    """
    return Closeness(index, voxel_size, max_gap).groups() if len(index) else np.zeros(0, np.int64)


class Closeness:
    """Which of (N, 3) voxels are near each other, N >= 1; see :func:`connected_groups`."""

    def __init__(self, index: np.ndarray, voxel_size: float, max_gap: float) -> None:
        self._index, self._voxel_size, self._max_gap = index, voxel_size, max_gap
        reach = max_gap / voxel_size  # in voxels
        self._surely, self._perhaps = reach * (1 - MARGIN), reach * (1 + MARGIN)
        local = [axis.astype(np.int64) - int(axis.min()) for axis in index.T]
        self._small = _Cells.of(local, 2 if self._surely >= _DIAGONAL else 1)
        side = int(self._surely / _DIAGONAL) + 1
        self._large = self._small if side == self._small.side else _Cells.of(local, side)
        x, y, z = ((axis & self._small.side - 1).astype(np.uint8) for axis in local)
        self._corner = np.left_shift(np.uint8(1), x << 2 | y << 1 | z)  # which one of its cell

    def only(self, chosen: np.ndarray) -> Closeness:
        """The same of the voxels for which (N,) ``chosen`` is true, at least one."""
        some = copy(self)
        some._index, some._corner = self._index[chosen], self._corner[chosen]
        some._small = self._small.only(chosen)
        some._large = some._small if self._large is self._small else self._large.only(chosen)
        return some

    def groups(self) -> np.ndarray:
        """(N,) group numbers."""
        group = _join_adjacent(self._small, self._corner, self._surely)
        if self._large is not self._small:
            group = _join_within(self._large, group)
        side = self._large.side
        radius = int((self._perhaps + side - 1) / side)
        return _join_apart(self._large, group, self._xyz, self._max_gap, radius)

    def _xyz(self, voxels: np.ndarray) -> np.ndarray:
        """(n,) rows -> (n, 3) metres, as the map has them."""
        return (self._index[voxels] * self._voxel_size).astype(np.float32).astype(np.float64)


class _Cells:
    """Voxels sorted into cells of ``side`` voxels.

    Args:
        order: (N,) the voxels, cell after cell.
        keys: (N,) of the cell of each of these.
        x_bit, y_bit: of a key: z, y and x, lowest first.
    """

    def __init__(
        self, order: np.ndarray, keys: np.ndarray, side: int, x_bit: int, y_bit: int
    ) -> None:
        self.order, self.side, self._x_bit, self._y_bit = order, side, x_bit, y_bit
        first = np.diff(keys, prepend=-1) != 0
        self.key = keys[first]  # (C,) ascending
        self.starts = np.flatnonzero(first)
        self.counts = np.diff(self.starts, append=len(keys))
        self.of_voxel = np.empty(len(keys), np.int64)  # (N,) the cell of each voxel
        self.of_voxel[order] = np.repeat(np.arange(len(self.key)), self.counts)

    @classmethod
    def of(cls, local: Sequence[np.ndarray], side: int) -> _Cells:
        """Three times (N,) whole numbers, from 0 on."""
        room = 1 if side == 1 else 3  # cells on all sides: the key of a neighbour never wraps
        x, y, z = ((axis >> 1 if side == 2 else axis // side) + room for axis in local)
        y_bit = (int(z.max()) + room).bit_length()
        x_bit = y_bit + (int(y.max()) + room).bit_length()
        return cls(*_sorted((x << x_bit) + (y << y_bit) + z), side, x_bit, y_bit)

    def only(self, chosen: np.ndarray) -> _Cells:
        """Those of the voxels for which (N,) ``chosen`` is true, numbered anew."""
        kept = chosen[self.order]
        order = (np.cumsum(chosen) - 1)[self.order[kept]]
        keys = np.repeat(self.key, self.counts)[kept]
        return _Cells(order, keys, self.side, self._x_bit, self._y_bit)

    def in_blocks(self) -> _Cells:
        """The cells themselves, in cells of ``BLOCK`` cells."""
        x, yz = self.key >> self._x_bit, self.key & (1 << self._x_bit) - 1
        return _Cells.of((x, yz >> self._y_bit, yz & (1 << self._y_bit) - 1), BLOCK)

    def neighbours(
        self, cells: np.ndarray, radius: int, half: bool = False
    ) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray, np.ndarray]]:
        """Neighbours up to ``radius`` cells away along each axis.

        Keys follow each other along the last axis: one search finds a whole row of neighbours.

        Args:
            half: of every two opposite offsets only one.

        Yields:
            The offset along the first two axes; rows of ``cells``; for each the offset along the
            last axis, and the neighbour there.
        """
        none = np.full(2 * radius + 1, np.iinfo(np.int64).max)  # what follows the last key
        keys, own = np.concatenate([self.key, none]), self.key[cells]
        for dx in range(0 if half else -radius, radius + 1):
            for dy in range(-radius if dx or not half else 0, radius + 1):
                own_row = dx == dy == 0
                nearest = 1 if half and own_row else -radius
                begin = own + ((dx << self._x_bit) + (dy << self._y_bit) + nearest)
                place = np.searchsorted(self.key, begin)
                for step in range(radius - nearest + 1):
                    ahead = keys[place + step] - begin
                    rows = np.flatnonzero(ahead <= radius - nearest)
                    dz, at = ahead[rows] + nearest, place[rows] + step
                    if own_row and not half:
                        other = dz != 0
                        rows, dz, at = rows[other], dz[other], at[other]
                    yield (dx, dy), rows, dz, at


def _sorted(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) whole numbers from 0 on -> the order that sorts them, and them in this order.

    Sorting numbers is several times faster than finding their order: so each takes its place along,
    where there is room for both.
    """
    bits = len(key).bit_length()
    if int(key.max()).bit_length() + bits > 63:
        order = np.argsort(key)
        return order, key[order]
    both = np.sort(key << bits | np.arange(len(key)))
    return both & (1 << bits) - 1, both >> bits


def _components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The group of each of ``count`` nodes when ``first[i]`` and ``second[i]`` are joined."""
    edges = (np.ones(len(first), bool), (first, second))
    return connected_components(coo_matrix(edges, shape=(count, count)), directed=False)[1]


def _join_adjacent(cells: _Cells, corner: np.ndarray, surely: float) -> np.ndarray:
    """(N,) groups by what is within ``surely`` voxels of each other in adjacent cells."""
    contents = np.bitwise_or.reduceat(corner[cells.order], cells.starts)
    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for (dx, dy), rows, dz, at in cells.neighbours(np.arange(len(cells.key)), 1, half=True):
        tables = np.stack([_reachable((dx, dy, z), cells.side, surely) for z in (-1, 0, 1)])
        near = (tables[dz + 1, contents[rows]] & contents[at]) != 0
        first.append(rows[near])
        second.append(at[near])
    joined = _components(len(cells.key), np.concatenate(first), np.concatenate(second))
    return joined[cells.of_voxel]


@cache
def _reachable(offset: tuple[int, int, int], side: int, surely: float) -> np.ndarray:
    """(256,) uint8: contents of a cell -> the bits of the cell at ``offset`` that are near one."""
    corners = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), 1)
    corners = corners[(corners < side).all(1)]
    apart = side * np.array(offset) + corners[None] - corners[:, None]  # from each to each
    weight = 1 << (corners @ (4, 2, 1))
    reached = (np.linalg.norm(apart, axis=2) <= surely) @ weight  # bits, for each corner
    table = np.zeros(256, np.uint8)
    for corner_bit, bits in zip(weight, reached, strict=True):
        table[(np.arange(256) & corner_bit) != 0] |= np.uint8(bits)
    return table


def _join_within(cells: _Cells, group: np.ndarray) -> np.ndarray:
    """(N,) groups, after joining all that share a cell."""
    count = int(group.max()) + 1
    return _components(count, group, group[cells.order[cells.starts]][cells.of_voxel])[group]


def _join_apart(
    cells: _Cells, group: np.ndarray, xyz: Positions, max_gap: float, radius: int
) -> np.ndarray:
    """(N,) groups, after joining those of which two voxels are within ``max_gap``.

    Each cell is of one group. Cells of the largest group need not look around: others do, if they
    are near any other group.
    """
    of_cell = group[cells.order[cells.starts]]
    alone = _all_alike(cells, of_cell)
    others = np.flatnonzero((of_cell != np.bincount(of_cell).argmax()) & ~alone)
    first, second = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for _, rows, _, at in cells.neighbours(others, radius):
        apart = of_cell[others[rows]] != of_cell[at]
        first.append(others[rows[apart]])
        second.append(at[apart])
    a, b = np.concatenate(first), np.concatenate(second)
    near = _any_within(cells, a, b, xyz, max_gap)
    return _components(int(of_cell.max()) + 1, of_cell[a[near]], of_cell[b[near]])[group]


def _all_alike(cells: _Cells, of_cell: np.ndarray) -> np.ndarray:
    """(C,) groups of cells -> (C,) whether all that are at most ``BLOCK`` cells away share it."""
    blocks = cells.in_blocks()
    values = of_cell[blocks.order]
    lowest, highest = (f.reduceat(values, blocks.starts) for f in (np.minimum, np.maximum))
    least, most = lowest.copy(), highest.copy()
    for _, rows, _, at in blocks.neighbours(np.arange(len(blocks.key)), 1):
        least[rows] = np.minimum(least[rows], lowest[at])
        most[rows] = np.maximum(most[rows], highest[at])
    return (least == most)[blocks.of_voxel]


def _any_within(
    cells: _Cells, a: np.ndarray, b: np.ndarray, xyz: Positions, max_gap: float
) -> np.ndarray:
    """(P,) whether any voxel of cell ``a[i]`` is within ``max_gap`` of any of cell ``b[i]``."""
    near = np.zeros(len(a), bool)
    pairs = cells.counts[a] * cells.counts[b]
    for i in np.flatnonzero(pairs > PAIRS_AT_ONCE):
        mine, theirs = (
            xyz(cells.order[cells.starts[c] :][: cells.counts[c]]) for c in (a[i], b[i])
        )
        distance, _ = cKDTree(theirs).query(mine, distance_upper_bound=np.nextafter(max_gap, 1e9))
        near[i] = (distance <= max_gap).any()
    few = np.flatnonzero(pairs <= PAIRS_AT_ONCE)
    chunk = np.cumsum(pairs[few]) // PAIRS_AT_ONCE
    for some in np.split(few, np.flatnonzero(np.diff(chunk)) + 1):
        count = pairs[some]
        pair = np.repeat(np.arange(len(some)), count)
        number = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        row, column = np.divmod(number, cells.counts[b[some]][pair])
        mine = xyz(cells.order[cells.starts[a[some]][pair] + row])
        theirs = xyz(cells.order[cells.starts[b[some]][pair] + column])
        found = np.square(mine - theirs).sum(1) <= max_gap * max_gap
        near[some[np.unique(pair[found])]] = True
    return near
