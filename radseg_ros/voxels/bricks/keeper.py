# SPDX-License-Identifier: Apache-2.0
"""Who brings bricks to the disk and back, beside the frames, which wait for milliseconds only."""

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
        self._ranked_at = -RANKED_APART
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
        """Bring the coldest brick to the disk; False = there is none, or the disk is full."""
        with self._host.lock:
            brick = bricks.next_coldest(world, rested)
            places = bricks.places(world) if brick is None else None
        if places is not None:
            now = time.monotonic()
            if rested and now < self._ranked_at + RANKED_APART:
                return False
            ranked, self._ranked_at = cubes.coldest(*places), now
            with self._host.lock:
                bricks.order_by(ranked)
                brick = bricks.next_coldest(world, rested)
        if brick is None:
            return False
        bring_back(self._host, world, bricks, [brick])  # what is there of it already
        with self._host.lock:
            leaving = bricks.leaving(world, brick)
        written = None if leaving is None else bricks.shelf.write(leaving.state)
        if leaving is None or written is None:
            self._closing.wait(RETRY)
            return False
        with self._host.lock:
            if self._host.map is world:
                bricks.left(world, leaving, written)
            else:
                bricks.shelf.discard(written)
        return True

    def _back(self, world: VoxelMap, bricks: Bricks) -> bool:
        """Bring back the brick that was seen last, if there is room for it, or for the room of one
        that was not seen for a while.
        """
        with self._host.lock:
            brick = next(reversed(bricks.wanted), None)
            here = None if brick is None else bricks.on_disk.get(brick)
            if brick is not None and here is None:
                del bricks.wanted[brick]
        if brick is None or here is None:
            return False
        fill = self._fill(world)
        full = fill * (1 + here.voxels / max(1, len(world))) > HIGH
        if full and not self._out(world, bricks, rested=True):
            bricks.wanted.clear()  # until it is seen again
            return False
        bring_back(self._host, world, bricks, [brick])
        return True


def bring_back(host: Host, world: VoxelMap, bricks: Bricks, which: list[int]) -> None:
    """Bring bricks back that are on the disk; the map is locked for milliseconds each."""
    for brick in which:
        with bricks.shelf.kept():
            with host.lock:
                here = bricks.on_disk.get(brick)
            if here is None:
                continue
            part = bricks.read(world, here)
            with host.lock:
                bricks.came(world, brick, here, part)


@contextmanager
def in_memory(host: Host, world: VoxelMap, key: torch.Tensor) -> Iterator[None]:
    """Voxels of (N,) keys, as far as the map has them, are in memory while the block runs."""
    bricks = bricks_of(world)
    if bricks is None:
        yield
        return
    with host.lock:
        pinned = bricks.pin(key)
    try:
        bring_back(host, world, bricks, pinned)
        yield
    finally:
        with host.lock:
            bricks.unpin(pinned)
