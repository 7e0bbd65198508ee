# SPDX-License-Identifier: Apache-2.0
"""Where the bricks of a map are: cubes of voxels that go to the disk, and come back, as a whole."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...datatypes import Filter
from ..index import BRICK_SIDE, VoxelIndex, pack, unpack

# voxels: 1.6 m at 5 cm, where some 2500 are on surfaces, 8 MB of 768 numbers: milliseconds to copy
SIDE = 4 * BRICK_SIDE  # of those that the index has
_FIRST, _LAST = pack(torch.tensor([[0, SIDE - 1]] * 3)).tolist()
_MOST_HITS = 2**31 // SIDE**3 - 1
_INSIDE = _LAST - _FIRST  # the bits of a key that say where inside the brick


def brick_of(key: torch.Tensor) -> torch.Tensor:
    """(N,) voxel keys -> (N,) the keys of the first voxels of their bricks, which name these."""
    return key & ~_INSIDE


def centres(bricks: Iterable[int], voxel_size: float) -> torch.Tensor:
    """(B, 3) float64 metres."""
    corner = unpack(torch.tensor(list(bricks), dtype=torch.int64))
    return (corner.double() + (SIDE - 1) / 2) * voxel_size


def half_side(voxel_size: float) -> float:
    """Metres from the centre of a brick, along an axis, to those of its farthest voxels."""
    return (SIDE - 1) / 2 * voxel_size


def half_diagonal(voxel_size: float) -> float:
    """Metres from the centre of a brick to that of its farthest voxel."""
    return half_side(voxel_size) * 3**0.5


def slots_of(index: VoxelIndex, brick: int) -> torch.Tensor:
    """(N,) slots of the voxels of a brick, in an order that depends on their keys alone."""
    corner = unpack(torch.tensor([brick], device=index.brick_corner.device))
    inside = index.brick_corner - corner
    return index.slots_in(((inside >= 0) & (inside < SIDE)).all(1))


def outline(key: torch.Tensor, hits: torch.Tensor) -> torch.Tensor:
    """(n,) keys and points of voxels of one brick -> (n,) int32: what floor plans must know of
    them, for :func:`outlined`. Beyond 65535 points do not count.
    """
    x, y, z = (unpack(key) - unpack(brick_of(key))).unbind(1)
    place = (x * SIDE + y) * SIDE + z
    return (place + hits.clamp(max=_MOST_HITS) * SIDE**3).int()


def outlined(brick: int, some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A brick and its :func:`outline` -> (n, 3) int64 voxel coordinates, and (n,) int64 points."""
    place, hits = some.long() % SIDE**3, some.long() // SIDE**3
    inside = torch.stack([place // SIDE**2, place // SIDE % SIDE, place % SIDE], 1)
    return unpack(torch.tensor([brick])) + inside, hits


def coldest(
    key: torch.Tensor, seen_at: torch.Tensor, camera: torch.Tensor, farthest: bool
) -> list[tuple[int, int]]:
    """(M,) keys and times (ns) of voxels -> (brick, time of its newest voxel) of all bricks.

    The first has been seen least recently, or is the ``farthest`` from ``camera``, (3,) in voxels;
    of those that are equal, too.
    """
    brick, member = torch.unique(brick_of(key), return_inverse=True)
    newest = torch.full_like(brick, torch.iinfo(torch.int64).min)
    newest.scatter_reduce_(0, member, seen_at, "amax")
    centre = unpack(brick).double() + (SIDE - 1) / 2
    order = (centre - camera).norm(dim=1).argsort(descending=True)
    if not farthest:
        order = order[newest[order].argsort(stable=True)]
    return list(zip(brick[order].tolist(), newest[order].tolist(), strict=True))


def within(where: Filter, centre: torch.Tensor, reach: float) -> torch.Tensor:
    """(B, 3) metres, world -> (B,) bool: which bricks may have voxels that a filter lets answer.

    Args:
        reach: m from the centre of a brick to its farthest voxel.
    """
    if where.T_filter_world is not None:
        T = torch.as_tensor(where.T_filter_world, dtype=torch.float64)
        centre = centre @ T[:3, :3].T + T[:3, 3]
    low, high, middle = map(centre.new_tensor, (where.lowest, where.highest, where.centre))
    keep = ((centre >= low - reach) & (centre <= high + reach)).all(1)
    if where.radius:
        keep &= (centre - middle).norm(dim=1) <= where.radius + reach
    return keep
