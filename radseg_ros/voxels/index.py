# SPDX-License-Identifier: Apache-2.0
"""Voxel keys, and the index from key to slot whose cost does not depend on the size of the map.

A key packs the three coordinates of a voxel into one int64, 21 bits each. The index has two levels:
the sorted keys of bricks of 8 x 8 x 8 voxels, and one table row of 512 slots per brick. Finding a
voxel is a binary search among the few bricks and one read; adding one is one write.
``bench/index.py`` compares it with other structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .storage import Column
from .tensors import ROUNDER, ROUNDER_BITS, round_half_even, take

COORDINATE_LIMIT = 2**20 - 1  # voxel coordinates lie in -LIMIT < c < LIMIT: +-52 km at 5 cm
_BITS = 21
_FIELD = 2**_BITS - 1
BRICK_SIDE = 8  # voxels per side; a surface fills about 1/8 of a brick: 32 bytes of table per voxel
_BRICK = BRICK_SIDE**3  # slots
_LOCAL = sum(
    (BRICK_SIDE - 1) << (_BITS * axis) for axis in range(3)
)  # the bits of a key that say where inside the brick
# Divided by this, one step along an axis leaves 1, 8 or 64: 2^21 = 8 * (2^18 - 1) + 8. So what the
# bits inside a brick leave is their three fields side by side.
_SIDE_BY_SIDE = (1 << _BITS) // BRICK_SIDE - 1
_END = torch.iinfo(torch.int64).max  # behind the keys of all bricks


_OFFSET = COORDINATE_LIMIT * ((1 << 2 * _BITS) + (1 << _BITS) + 1)
# what pack_nearest has too much, as int64 counts
_TOO_MUCH = ((ROUNDER_BITS << _BITS) + ROUNDER_BITS - _OFFSET) % (1 << 64)
_NEAREST_OFFSET = _TOO_MUCH - (1 << 64) if _TOO_MUCH >> 63 else _TOO_MUCH


def pack(index: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """x, y and z, whole numbers within the limit -> int64 keys of their shape, never negative, in
    lexicographic order.
    """
    x, y, z = (axis.long() for axis in index)
    above = torch.add(y, x, alpha=1 << _BITS)
    return torch.add(z, above, alpha=1 << _BITS).add_(_OFFSET)


def pack_nearest(points: Sequence[torch.Tensor]) -> torch.Tensor:
    """x, y and z, float64 within the limit, which are lost -> :func:`pack` of them rounded half to
    even.

    A third of the time: no number is converted, because the bits of a rounded one are an integer.
    """
    x, y, z = points
    above = y.add_(ROUNDER).add_(round_half_even(x), alpha=1 << _BITS)  # exact: below 2^43
    key = above.view(torch.int64).bitwise_left_shift_(_BITS)
    key.add_(z.add_(ROUNDER).view(torch.int64))
    return key.sub_(_NEAREST_OFFSET)


def unpack(key: torch.Tensor) -> torch.Tensor:
    """(N,) keys -> (N, 3) int64 voxel coordinates."""
    fields = torch.stack([key >> 2 * _BITS, (key >> _BITS) & _FIELD, key & _FIELD], -1)
    return fields - COORDINATE_LIMIT


def valid_keys(key: torch.Tensor) -> torch.Tensor:
    """(N,) int64 -> (N,) bool, whether :func:`pack` can have made them."""
    return (key >= 0) & (unpack(key).abs() < COORDINATE_LIMIT).all(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Where the slots of N keys are in the table of an index, until it changes."""

    brick: torch.Tensor  # (N,) int64, key of its first voxel
    local: torch.Tensor  # (N,) int64, which of its voxels
    known: torch.Tensor  # (N,) bool, whether the table has the brick
    place: torch.Tensor  # (N,) int64, in the table; of other bricks one that holds no slot


class VoxelIndex:
    """key -> slot for unique voxel keys. Slots are below 2^31; missing keys are -1."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.clear()

    def clear(self) -> None:
        """Forget every key."""
        # sorted keys of the bricks' first voxels; no search ends behind the last one, which is none
        self._bricks = torch.full((1,), _END, device=self._device)
        # where their slots begin in the table, whose first row is empty: that of missing bricks
        self._begins = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._table = Column((_BRICK,), torch.int32, self._device, fill=-1)
        self._table.resize(1)
        self._table.trim()

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._bricks.nbytes + self._begins.nbytes + self._table.nbytes

    @property
    def brick_corner(self) -> torch.Tensor:
        """(B, 3) int64 lowest voxel of every brick."""
        return unpack(self._bricks[:-1])

    def slots_in(self, brick: torch.Tensor) -> torch.Tensor:
        """(B,) bool, which bricks -> (N,) slots of all voxels in them."""
        slots = self._table.data[self._begins[:-1][brick] // _BRICK].flatten()
        return slots[slots >= 0].long()

    def find(self, key: torch.Tensor) -> torch.Tensor:
        """(N,) keys -> (N,) int64 slots, -1 where there is none."""
        return self.slots(self.locate(key))

    def locate(self, key: torch.Tensor) -> Located:
        """(N,) keys, known or not -> where their slots are."""
        inside = key & _LOCAL
        brick, local = key ^ inside, inside % _SIDE_BY_SIDE
        at = torch.searchsorted(self._bricks, brick)
        known = take(self._bricks, at) == brick
        return Located(brick, local, known, take(self._begins, at) * known + local)

    def slots(self, at: Located) -> torch.Tensor:
        """(N,) int64 slots, -1 where there is none."""
        return take(self._table.data.view(-1), at.place).long()

    def assign(self, key: torch.Tensor, slot: torch.Tensor) -> None:
        """Set the slots of (N,) distinct keys, new or known; slot -1 removes a key."""
        at = self.locate(key)
        self.put(self.places(at, int(at.known.sum())), slot.int())

    def places(self, at: Located, known: int) -> torch.Tensor:
        """Where the slots of N keys belong, for :meth:`put`: bricks that are missing are added.

        Args:
            known: of how many keys the table has the brick.
        """
        if known == len(at.brick):
            return at.place
        missing = torch.unique(at.brick.masked_fill(at.known, _END))
        self._add_bricks(missing[:-1] if known else missing)
        return take(self._begins, torch.searchsorted(self._bricks, at.brick)) + at.local

    def put(self, place: torch.Tensor, slot: torch.Tensor) -> None:
        """Set (N,) int32 slots as :meth:`assign` does; takes no memory, so it cannot fail."""
        self._table.data.view(-1).index_copy_(0, place, slot)

    def trim(self) -> None:
        """Give back the table rows of bricks that hold no voxel any more."""
        rows = self._begins[:-1] // _BRICK
        used = (self._table.data[rows] >= 0).any(1)
        bricks = torch.cat([self._bricks[:-1][used], self._bricks[-1:]])
        table = self._table.data[rows[used]]
        begins = torch.arange(1, len(table) + 2, device=self._device) * _BRICK
        begins[-1] = 0
        self._table.resize(1 + len(table))
        self._table.data[1:] = table
        self._bricks, self._begins = bricks, begins
        self._table.trim()

    def _add_bricks(self, brick: torch.Tensor) -> None:
        """Add (B,) distinct ones, none of which is there."""
        first = len(self._table)
        self._table.resize(first + len(brick))
        end = (first + len(brick)) * _BRICK
        begins = torch.arange(first * _BRICK, end, _BRICK, device=self._device)
        bricks, order = torch.sort(torch.cat([self._bricks, brick]))
        begins = take(torch.cat([self._begins, begins]), order)
        self._bricks, self._begins = bricks, begins  # together: a failure leaves both as they were
