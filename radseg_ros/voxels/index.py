# SPDX-License-Identifier: Apache-2.0
"""Voxel keys, and the index from key to slot whose cost does not depend on the size of the map.

A key packs the three coordinates of a voxel into one int64, 21 bits each. The index has two levels:
the sorted keys of bricks of 8 x 8 x 8 voxels, and one table row of 512 slots per brick. Finding a
voxel is a binary search among the few bricks and one read; adding one is one write.
``bench/index.py`` compares it with other structures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .storage import Column
from .tensors import ROUNDER, ROUNDER_BITS, round_half_even

COORDINATE_LIMIT = 2**20 - 1  # voxel coordinates lie in -LIMIT < c < LIMIT: +-52 km at 5 cm
_BITS = 21
_FIELD = 2**_BITS - 1
BRICK_SIDE = 8  # voxels per side; a surface fills about 1/8 of a brick: 32 bytes of table per voxel
_LOCAL = sum(
    (BRICK_SIDE - 1) << (_BITS * axis) for axis in range(3)
)  # the bits of a key that say where inside the brick


_OFFSET = COORDINATE_LIMIT * ((1 << 2 * _BITS) + (1 << _BITS) + 1)
# what pack_nearest has too much, as int64 counts
_TOO_MUCH = ((ROUNDER_BITS << _BITS) + ROUNDER_BITS - _OFFSET) % (1 << 64)
_NEAREST_OFFSET = _TOO_MUCH - (1 << 64) if _TOO_MUCH >> 63 else _TOO_MUCH


def pack(index: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """x, y and z, whole numbers within the limit -> int64 keys of their shape, never negative, in
    lexicographic order.
    """
    key = index[0].to(torch.int64, copy=True)
    for axis in (1, 2):
        key = key.mul_(1 << _BITS).add_(index[axis].long())
    return key.add_(_OFFSET)


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


class VoxelIndex:
    """key -> slot for unique voxel keys. Slots are below 2^31; missing keys are -1."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self.clear()

    def clear(self) -> None:
        """Forget every key."""
        self._bricks = torch.zeros(
            0, dtype=torch.int64, device=self._device
        )  # sorted keys of the bricks' first voxels
        self._rows = torch.zeros(
            0, dtype=torch.int64, device=self._device
        )  # their rows of the table
        self._table = Column((BRICK_SIDE**3,), torch.int32, self._device, fill=-1)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._bricks.nbytes + self._rows.nbytes + self._table.nbytes

    @property
    def brick_corner(self) -> torch.Tensor:
        """(B, 3) int64 lowest voxel of every brick."""
        return unpack(self._bricks)

    def slots_in(self, brick: torch.Tensor) -> torch.Tensor:
        """(B,) bool, which bricks -> (N,) slots of all voxels in them."""
        slots = self._table.data[self._rows[brick]].flatten()
        return slots[slots >= 0].long()

    def find(self, key: torch.Tensor) -> torch.Tensor:
        """(N,) keys -> (N,) int64 slots, -1 where there is none."""
        row, local = self._locate(key)
        slot = self._table.data[row, local].long() if len(self._bricks) else row
        return torch.where(row >= 0, slot, -1)

    def assign(self, key: torch.Tensor, slot: torch.Tensor) -> None:
        """Set the slots of (N,) distinct keys, new or known; slot -1 removes a key."""
        row, local = self._locate(key)
        new = row < 0
        if bool(new.any()):
            self._add_bricks(torch.unique(key[new] & ~_LOCAL))
            row, local = self._locate(key)
        self._table.data[row, local] = slot.int()

    def places(self, key: torch.Tensor) -> torch.Tensor:
        """(N,) keys that are known -> (N,) int64 places in the table, for :meth:`put`."""
        row, local = self._locate(key)
        return row * BRICK_SIDE**3 + local

    def put(self, place: torch.Tensor, slot: torch.Tensor) -> None:
        """Set (N,) int32 slots as :meth:`assign` does; takes no memory, so it cannot fail."""
        self._table.data.view(-1).index_copy_(0, place, slot)

    def trim(self) -> None:
        """Give back the table rows of bricks that hold no voxel any more."""
        used = (self._table.data[self._rows] >= 0).any(1)
        bricks, table = self._bricks[used], self._table.data[self._rows[used]]
        rows = torch.arange(len(table), device=self._device)
        self._table.resize(len(table))
        self._table.data.copy_(table)
        self._bricks, self._rows = bricks, rows
        self._table.trim()

    def _locate(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) keys -> their table rows, -1 where the brick is missing, and their places in the
        row.
        """
        inside = key & _LOCAL
        brick = key ^ inside
        # its three fields side by side; what is shifted elsewhere is cut off
        local = (inside >> 2 * _BITS - 6 | inside >> _BITS - 3 | inside) & (BRICK_SIDE**3 - 1)
        if not len(self._bricks):
            return torch.full_like(key, -1), local
        at = torch.searchsorted(self._bricks, brick).clamp_(max=len(self._bricks) - 1)
        found = torch.index_select(self._bricks, 0, at) == brick
        return torch.where(found, torch.index_select(self._rows, 0, at), -1), local

    def _add_bricks(self, brick: torch.Tensor) -> None:
        known = len(self._table)
        self._table.resize(known + len(brick))
        new_rows = torch.arange(known, known + len(brick), device=self._device)
        bricks, order = torch.sort(torch.cat([self._bricks, brick]))
        rows = torch.cat([self._rows, new_rows])[order]
        self._bricks, self._rows = bricks, rows  # together: a failure leaves both as they were
