# SPDX-License-Identifier: Apache-2.0
"""Who brings bricks to the disk and back, beside the frames, which wait for milliseconds only.

By how much, and for how long, a map may be beyond its bounds says docs/method.md 3.4.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from ...device import give_way
from ..voxel_map import PAUSE, VoxelMap
from . import cubes
from .bricks import HIGH, LOW, Bricks

logger = logging.getLogger(__name__)

IDLE = 0.05  # s between two looks whether there is anything to do
RETRY = 1.0  # s after a brick could not be written, or read
RANKED_APART = 2.0  # s; ranking takes longer than a brick


class Host(Protocol):
    """Who has the map."""

    map: VoxelMap
    lock: threading.Lock  # guards it

    def kept_for(self, voxels: int) -> int:
        """Bytes that questions keep of so many voxels in memory, where there is room."""
        ...


def bricks_of(world: VoxelMap) -> Bricks | None:
    """Those of a map; None = it has none."""
    return world.beyond if isinstance(world.beyond, Bricks) else None


def voxels_of(world: VoxelMap) -> int:
    """In memory and on the disk."""
    bricks = bricks_of(world)
    return len(world) + (0 if bricks is None else bricks.voxels)


class Keeper:
    """Keeps the map within its bounds, and what the camera sees in memory, from its own thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._goal = 0  # voxels in memory, down to which bricks go; 0 = none must
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bricks", daemon=True)
        self._thread.start()

    def close(self, timeout: float | None = None) -> bool:
        """Let the brick in hand finish; False when ``timeout`` (s) was not enough."""
        self._closing.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        give_way()
        while not self._closing.is_set():
            try:
                busy = self.step()
            except Exception:  # memory that runs out: the map is sound, and frames evict
                logger.exception("a brick stays where it is; tried again later")
                self._closing.wait(RETRY)
                busy = False
            self._closing.wait(PAUSE if busy else IDLE)

    def step(self) -> bool:
        """Move one brick; whether there was anything to do."""
        world = self._host.map
        bricks = bricks_of(world)
        if bricks is None:
            return False
        fill = self._fill(world)
        if fill < LOW:
            self._goal = 0  # of a map that is there no more, perhaps
        elif fill > HIGH and not self._goal:
            self._goal = max(1, int(len(world) * LOW / fill))
        if self._goal:
            if len(world) > self._goal and self._out(world, bricks, rested=False):
                return True
            self._goal = 0
            with self._host.lock:
                world.table.trim()
        return bool(bricks.wanted) and self._back(world, bricks)

    def _fill(self, world: VoxelMap) -> float:
        """Share of the bounds that is used, with what questions keep: nothing is lost by leaving
        room for that.
        """
        bound = world.config.max_bytes
        kept = self._host.kept_for(len(world)) / bound if bound else 0.0
        return world.fill + kept

    def _out(self, world: VoxelMap, bricks: Bricks, rested: bool) -> bool:
        failed = bricks.shelf.failed
        if bring_out(self._host, world, bricks, rested):
            return True
        if bricks.shelf.failed > failed:
            self._closing.wait(RETRY)
        return False

    def _back(self, world: VoxelMap, bricks: Bricks) -> bool:
        """Bring back the brick that was seen last, if there is room for it, or else make some of
        bricks that were not seen for a while.
        """
        with self._host.lock:
            brick = next(reversed(bricks.wanted), None)
            here = None if brick is None else bricks.on_disk.get(brick)
            if brick is not None and here is None:
                del bricks.wanted[brick]
        if brick is None or here is None:
            return False
        if _fill_with(world, here.voxels, self._fill(world)) > HIGH:
            made = self._out(world, bricks, rested=True)
            if not made:
                bricks.wanted.clear()  # until it is seen again
            return made
        bring_back(self._host, world, bricks, brick)
        return True


def _fill_with(world: VoxelMap, more: int, fill: float) -> float:
    """What a share of the bounds that is used becomes with so many more voxels, at most."""
    return fill * (1 + more / max(1, len(world)))


def bring_back(host: Host, world: VoxelMap, bricks: Bricks, brick: int) -> None:
    """Bring a brick back, if it is on the disk; the map is locked for milliseconds."""
    with bricks.shelf.kept():
        with host.lock:
            here = bricks.on_disk.get(brick)
        if here is None:
            return
        part = bricks.read(world, here)
        with host.lock:
            bricks.came(world, brick, here, part)


def bring_out(host: Host, world: VoxelMap, bricks: Bricks, rested: bool = False) -> bool:
    """Bring the coldest brick to the disk; whether it has gone. The map is locked for milliseconds.

    There may be none that may go, the disk may be full, and a brick that is hit while it is written
    stays: if it was the coldest, the others are no better.

    Args:
        rested: see :meth:`Bricks.next_coldest`.
    """
    with host.lock:
        brick = bricks.next_coldest(world, rested)
        places = bricks.places(world) if brick is None else None
    if places is not None:
        if rested and time.monotonic() < bricks.ranked_at + RANKED_APART:
            return False
        ranked = cubes.coldest(*places)
        with host.lock:
            bricks.order_by(ranked)
            brick = bricks.next_coldest(world, rested)
    if brick is None:
        return False
    bring_back(host, world, bricks, brick)  # what is there of it already
    with host.lock:
        leaving = bricks.leaving(world, brick)
    if leaving is None:  # a frame let go of it meanwhile
        return True
    written = bricks.shelf.write(leaving.state)
    if written is None:
        return False
    with host.lock:
        if host.map is world:
            return bricks.left(world, leaving, written)
        bricks.shelf.discard(written)
    return False


def make_room(host: Host, world: VoxelMap, bricks: Bricks, more: int = 0) -> bool:
    """Bring bricks to the disk, if a map would be beyond its bounds with so many more voxels.

    Returns:
        Whether there is room now. Where it fails the map is sound, only larger.
    """
    if _fill_with(world, more, world.fill) <= 1:
        return True
    goal = int(len(world) * LOW / world.fill) - more
    try:
        while len(world) > goal and bring_out(host, world, bricks):
            pass
        with host.lock:
            world.table.trim()
    except (MemoryError, RuntimeError):  # torch raises the latter when memory runs out
        logger.exception("bricks stay in memory that has no room for them; tried again later")
    return _fill_with(world, more, world.fill) <= 1


@contextmanager
def in_memory(host: Host, world: VoxelMap, key: torch.Tensor) -> Iterator[None]:
    """Voxels of (N,) keys, as far as the map has them, are in memory while the block runs.

    Others make room for them, and for as many more; what is too much even so goes at the end.
    """
    bricks = bricks_of(world)
    if bricks is None:
        yield
        return
    with host.lock:
        pinned = bricks.pin(key)
        on_disk = {brick: here.voxels for brick in pinned if (here := bricks.on_disk.get(brick))}
    try:
        room = True
        for brick, voxels in on_disk.items():
            room = room and make_room(host, world, bricks, voxels)
            bring_back(host, world, bricks, brick)
        if room:
            make_room(host, world, bricks, len(key))
        yield
    finally:
        with host.lock:
            bricks.unpin(pinned)
        make_room(host, world, bricks)
