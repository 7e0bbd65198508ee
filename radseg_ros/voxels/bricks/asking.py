# SPDX-License-Identifier: Apache-2.0
"""Questions to a map of which a part is on the disk: its bricks are read one by one, and stay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ...datatypes import Filter, MapGeometry, MapOutline
from ..index import pack
from ..voxel_map import VoxelMap
from . import cubes
from .bricks import Bricks
from .keeper import bricks_of
from .shelf import Brick

Answered = tuple[MapGeometry, torch.Tensor]  # of voxels, and their (M, Q) scores


@dataclass(frozen=True, slots=True, eq=False)
class Everywhere:
    """What all voxels of a map answer that were asked in time."""

    geometry: MapGeometry
    scores: torch.Tensor  # (M, Q)
    others: int  # voxels that were to be asked besides those in memory


def asked_everywhere(
    world: VoxelMap,
    lock: threading.Lock,
    memory: Callable[[], Answered],
    part: Callable[[VoxelMap], Answered],
    where: Filter | None = None,
    deadline: float = float("inf"),
) -> Everywhere:
    """Ask the voxels in memory, and then those on the disk, the nearest to the camera first.

    A brick of which voxels are in memory as well is asked as a whole.

    Args:
        memory: asks what is in memory.
        part: asks a brick.
        where: what is not there need not be asked.
        deadline: time.monotonic() after which no brick is read.
    """
    bricks = bricks_of(world)
    if bricks is None:
        return Everywhere(*memory(), 0)
    with bricks.shelf.kept():
        before = bricks.copied(lock)
        geometry, scores = memory()
        # what has come back meanwhile may have been missed in memory, and what has left
        there = before | bricks.copied(lock)
        found, asked = [(geometry, scores)], []
        others = 0
        for brick in _in_order(world, there, where):
            others += there[brick].voxels
            if time.monotonic() < deadline:
                whole = _whole(world, lock, bricks, brick, there[brick])
                found += [] if whole is None else [part(whole)]
                asked.append(brick)
    here = torch.isin(cubes.brick_of(pack(geometry.index.T)), torch.tensor(asked).to(scores.device))
    if len(here) and bool(here.any()):
        others -= int(here.sum())
        found[0] = geometry.kept(~here), scores[~here]
    if len(found) == 1:
        return Everywhere(*found[0], others)
    first, *rest = (geometry for geometry, _ in found)
    return Everywhere(first.joined(rest), torch.cat([scores for _, scores in found]), others)


def outlined_everywhere(
    world: VoxelMap, lock: threading.Lock, memory: Callable[[], MapGeometry]
) -> MapOutline:
    """Where all voxels are; no file is read. One that has points in both places is there twice.

    Args:
        memory: those in memory.
    """
    bricks = bricks_of(world)
    before = {} if bricks is None else bricks.copied(lock)
    geometry = memory()
    there = before if bricks is None else before | bricks.copied(lock)
    parts = [cubes.outlined(brick, here.outline) for brick, here in there.items()]
    index, hits = zip((geometry.index.cpu(), geometry.hits.cpu().long()), *parts, strict=True)
    return MapOutline(torch.cat(index), torch.cat(hits), geometry.voxel_size)


def _in_order(world: VoxelMap, there: Mapping[int, Brick], where: Filter | None) -> list[int]:
    if not there:
        return []
    bricks, size = list(there), world.voxel_size
    centre = cubes.centres(bricks, size)
    near = (centre - centre.new_tensor(world.camera)).norm(dim=1)
    inside = torch.ones_like(near, dtype=torch.bool)
    if where is not None:
        inside = cubes.within(where, centre, cubes.half_diagonal(size))
    return [bricks[i] for i in near.argsort().tolist() if inside[i]]


def _whole(
    world: VoxelMap, lock: threading.Lock, bricks: Bricks, brick: int, before: Brick
) -> VoxelMap | None:
    """What is known of a brick, in memory and on the disk; None = nothing."""
    with lock:
        read = bricks.on_disk.get(brick)
        slots = cubes.slots_of(world.table.index, brick)
        state = world.table.copied(slots) if len(slots) else None
    in_memory = None if state is None else world.part(state, in_full=read is not None)
    part = in_memory if read is None else bricks.read(world, read, in_full=state is not None)
    if part is None and read is not None:
        with lock:
            bricks.came(world, brick, read, None)
    if part is not None and in_memory is not None and read is not None:
        part.rejoin(in_memory)
    part = in_memory if part is None else part
    if part is not None:
        part.forget()
    return part
