# SPDX-License-Identifier: Apache-2.0
"""Bricks: the regions of a map that are on the disk.

A map that is full gives its coldest bricks, whole, to the disk. A frame that sees one of them again
does not wait: its points make voxels in memory, whose other points are on the disk. As a map is a
sum, the two are added when the brick comes back, which is soon (:mod:`.keeper`), and until then by
whoever asks (:mod:`.asking`) or saves (:mod:`.saving`).
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ...datatypes import Frame, MapFileError
from ...geometry import DeviceFrame
from ..carving import spheres_in_view
from ..clock import MapClock
from ..tensors import take
from ..voxel_map import VoxelMap
from . import cubes
from .shelf import Brick, Shelf

RESTED_NS = 30 * 10**9  # of the map's clock: what was hit later does not go to make room for others
# of the bounds: above the first, bricks go to the disk before a frame must wait for that; down to
# the second, so that what comes back has room, and what goes does not come back at once
HIGH, LOW = 15 / 16, 14 / 16


@dataclass(frozen=True, slots=True, eq=False)
class Leaving:
    """The rows of a brick as they were when they were copied to be written."""

    brick: int
    state: Mapping[str, torch.Tensor]

    def is_still(self, world: VoxelMap, slots: torch.Tensor) -> bool:
        """Whether the brick in memory has not changed since."""
        return all(
            torch.equal(take(world.table[name], slots).cpu(), self.state[name])
            for name in ("key", "changed", "seen_through")
        )


class Bricks:
    """The part of a map that is on the disk; whoever calls has the map (its lock).

    Files are given back when nobody has the map any more.

    Args:
        shelf: where the files are.
        snapshot: of another one, whose files these stay.
    """

    def __init__(self, shelf: Shelf, snapshot: Mapping[int, Brick] | None = None) -> None:
        self.shelf = shelf
        self.on_disk: dict[int, Brick] = dict(snapshot or {})
        self.wanted: dict[int, None] = {}  # seen by frames; the newest last
        self._pinned: Counter[int] = Counter()
        self._order: list[tuple[int, int]] = []  # see next_coldest
        self.ranked_at = -math.inf  # s, time.monotonic() of order_by
        if snapshot is None:
            weakref.finalize(self, _discard_all, shelf, self.on_disk)

    @property
    def voxels(self) -> int:
        """On the disk; some may have points in memory as well. From any thread."""
        return sum(brick.voxels for brick in list(self.on_disk.values()))

    @property
    def nbytes(self) -> int:
        """On the disk. From any thread."""
        return sum(brick.nbytes for brick in list(self.on_disk.values()))

    def copied(self, lock: threading.Lock) -> dict[int, Brick]:
        """What is on the disk at one moment of a map that ``lock`` guards."""
        with lock:
            return dict(self.on_disk)

    def another(self) -> Bricks:
        """As :meth:`Beyond.another`."""
        return Bricks(self.shelf)

    def snapshot(self) -> Bricks:
        """As :meth:`Beyond.snapshot`: while :meth:`Shelf.kept`."""
        return Bricks(self.shelf, self.on_disk)

    def saw(self, world: VoxelMap, frame: Frame | DeviceFrame, key: torch.Tensor) -> None:
        """As :meth:`Beyond.saw`: bricks that are hit are wanted; where voxels are carved, all that
        are in view.
        """
        if not self.on_disk:
            return
        seen = set(torch.unique(cubes.brick_of(key)).tolist()) & self.on_disk.keys()
        if world.config.carve_after:
            bricks = list(self.on_disk)
            centre = cubes.centres(bricks, world.voxel_size).to(world.device)
            reach = cubes.half_diagonal(world.voxel_size)
            near = (centre - centre.new_tensor(world.camera)).norm(dim=1) - reach
            inside = spheres_in_view(centre, reach, frame)
            inside &= near <= (world.lift.max_range or torch.inf)
            seen |= {bricks[i] for i in inside.nonzero()[:, 0].tolist()}
        for brick in seen:
            self.wanted.pop(brick, None)
            self.wanted[brick] = None

    # Out of memory

    def take(self, world: VoxelMap, count: int) -> int:
        """As :meth:`Beyond.take`; waits for the disk."""
        most = len(world)
        for brick, _ in cubes.coldest(*self.places(world)):
            if most - len(world) >= count:
                break
            if brick in self._pinned:
                continue
            leaving = self.leaving(world, brick)
            written = None if leaving is None else self.shelf.write(leaving.state)
            if leaving is None or written is None:
                return most - len(world)  # below 0 where more has come back for it than went
            self.left(world, leaving, written)
        return max(most - len(world), count)  # what is left is pinned

    def leaving(self, world: VoxelMap, brick: int) -> Leaving | None:
        """A brick that is to be written; None = there is nothing of it in memory.

        What is on the disk of it already comes back for that.
        """
        if brick in self.on_disk:
            self.back(world, brick)
        slots = cubes.slots_of(world.table.index, brick)
        return Leaving(brick, world.table.copied(slots)) if len(slots) else None

    def left(self, world: VoxelMap, leaving: Leaving, written: Brick) -> bool:
        """Take a brick that has been written out of memory, unless it has changed meanwhile."""
        slots = cubes.slots_of(world.table.index, leaving.brick)
        if (
            leaving.brick in self._pinned
            or leaving.brick in self.on_disk
            or len(slots) != written.voxels
            or not leaving.is_still(world, slots)
        ):
            self.shelf.discard(written)
            return False
        world.table.remove_slots(slots.sort().values)
        self.on_disk[leaving.brick] = written
        return True

    def next_coldest(self, world: VoxelMap, rested: bool) -> int | None:
        """The brick in memory that is to go next, of those that :meth:`order_by` has told.

        None = there is none.

        Args:
            rested: only one that has not been hit for a while.
        """
        while self._order:
            brick, newest = self._order[0]
            slots = cubes.slots_of(world.table.index, brick)
            seen = len(slots) and int(take(world.table["seen_at"], slots).max()) > newest
            if not len(slots) or seen or brick in self._pinned:
                self._order.pop(0)
            elif rested and newest > world.clock.now_ns - RESTED_NS:
                return None
            else:
                return self._order.pop(0)[0]
        return None

    def order_by(self, ranked: Sequence[tuple[int, int]]) -> None:
        """What :func:`.cubes.coldest` told a moment ago: the colder half serves for a while."""
        self._order = list(ranked[: -(-len(ranked) // 2)])
        self.ranked_at = time.monotonic()

    def places(self, world: VoxelMap) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
        """What :func:`.cubes.coldest` must know; copies, for a moment later."""
        camera = torch.tensor(world.camera, dtype=torch.float64, device=world.device)
        key, seen_at = world.table["key"].clone(), world.table["seen_at"].clone()
        return key, seen_at, camera / world.voxel_size, world.config.evict == "farthest"

    def hits(self, key: torch.Tensor) -> torch.Tensor:
        """As :meth:`Beyond.hits`; needs no lock."""
        found = torch.zeros_like(key)
        brick = cubes.brick_of(key)
        with self.shelf.kept():
            there = dict(self.on_disk)
            for number in set(torch.unique(brick).tolist()) & there.keys():
                state = self.shelf.read(there[number])
                if state is None:
                    continue
                mine = (brick == number).nonzero()[:, 0]
                sorted_key, order = state["key"].to(key.device).sort()
                at = torch.searchsorted(sorted_key, key[mine]).clamp_(max=len(order) - 1)
                same = sorted_key[at] == key[mine]
                found[mine[same]] = state["hits"].to(key.device)[order[at[same]]]
        return found

    # Into memory

    def back(self, world: VoxelMap, brick: int) -> None:
        """Bring a brick back, if it is on the disk; waits for that."""
        here = self.on_disk.get(brick)
        if here is not None:
            self.came(world, brick, here, self.read(world, here))

    def came(self, world: VoxelMap, brick: int, read: Brick, part: VoxelMap | None) -> None:
        """Add a brick that has been read to the voxels in memory, unless it has come already.

        Args:
            part: None = it is lost.
        """
        if self.on_disk.get(brick) is not read:
            return
        if part is not None:
            world.rejoin(part)
        self._drop(world, brick, lost=part is None)

    def read(self, world: VoxelMap, brick: Brick, in_full: bool = False) -> VoxelMap | None:
        """As a map of its own, see :meth:`VoxelMap.part`; None = it is lost. Needs no lock."""
        state = self.shelf.read(brick)
        return None if state is None else world.part(state, in_full)

    def pin(self, key: torch.Tensor) -> list[int]:
        """The bricks of (N,) keys, which stay in memory until :meth:`unpin`."""
        bricks: list[int] = torch.unique(cubes.brick_of(key)).tolist()
        self._pinned.update(bricks)
        return bricks

    def unpin(self, bricks: Sequence[int]) -> None:
        """See :meth:`pin`."""
        self._pinned.subtract(bricks)
        self._pinned += Counter()  # without those that are 0

    # The map as a whole

    def parts(self, world: VoxelMap) -> Iterator[VoxelMap]:
        """As :meth:`Beyond.parts`."""
        for brick in list(self.on_disk.values()):
            part = self.read(world, brick)
            if part is not None:
                yield part

    @contextmanager
    def joining(
        self, world: VoxelMap, other: VoxelMap, clock: MapClock
    ) -> Iterator[Callable[[], int]]:
        """As :meth:`Beyond.joining`: bricks are written as they will be, and used all at once."""
        theirs, joined, lost = other.beyond, dict[int, Brick](), 0
        assert isinstance(theirs, Bricks)  # there is no other kind

        def join() -> int:
            new = 0
            while joined:
                number, brick = joined.popitem()
                before = self.on_disk.get(number)
                self.on_disk[number] = brick
                new += brick.voxels
                if before is not None:
                    new -= before.voxels
                    self.shelf.discard(before)
            world.history.removed += lost
            return new

        try:
            for number, brick in theirs.on_disk.items():
                mine = self.on_disk.get(number)
                part = theirs.read(other, brick, in_full=True)
                if part is None:
                    lost += brick.voxels
                    continue
                part.table["seen_at"].copy_(clock.ago(part.table["last_seen_ns"]))
                part.table["seen_through"].zero_()
                known = None if mine is None else self.read(world, mine, in_full=True)
                lost += mine.voxels if mine is not None and known is None else 0
                parts = [part] if known is None else [known, part]
                joined[number] = self._written(world, parts)
            yield join
        finally:
            _discard_all(self.shelf, joined)

    def _written(self, world: VoxelMap, parts: Sequence[VoxelMap]) -> Brick:
        """A brick of what parts have together, as ``world`` stores it.

        Raises:
            MapFileError: the disk does not take it.
        """
        none = torch.zeros(0, dtype=torch.int64, device=world.device)
        whole = world.part(world.table.copied(none))
        for part in parts:
            whole.rejoin(part)
        every = torch.arange(len(whole), device=world.device)
        written = self.shelf.write(whole.table.copied(every))
        if written is None:
            raise MapFileError(f"{self.shelf.folder} has no room for another map")
        return written

    def clear(self) -> None:
        """As :meth:`Beyond.clear`."""
        _discard_all(self.shelf, self.on_disk)
        self.wanted.clear()
        self._order.clear()

    def clear_box(self, world: VoxelMap, lowest: Sequence[float], highest: Sequence[float]) -> int:
        """As :meth:`Beyond.clear_box`: bricks that are inside by part are read and written."""
        low, high = (torch.tensor(corner, dtype=torch.float64) for corner in (lowest, highest))
        bricks = list(self.on_disk)
        centre = cubes.centres(bricks, world.voxel_size)
        half = cubes.half_side(world.voxel_size) + world.voxel_size / 2  # voxels at a border: read
        touched = ((centre + half >= low) & (centre - half <= high)).all(1)
        inside = ((centre - half >= low) & (centre + half <= high)).all(1)
        removed = 0
        for number in touched.nonzero()[:, 0].tolist():
            here = self.on_disk[bricks[number]]
            part = None if inside[number] else self.read(world, here)
            gone = here.voxels if part is None else part.clear_box(lowest, highest)
            if not gone:
                continue
            if part is not None and len(part):
                self._rewrite(world, bricks[number], part)
                world.history.removed += gone
            else:
                self._drop(world, bricks[number], lost=True)
            removed += gone
        return removed

    def _rewrite(self, world: VoxelMap, brick: int, part: VoxelMap) -> None:
        every = torch.arange(len(part), device=part.device)
        written = self.shelf.write(part.table.copied(every))
        if written is None:  # no room on the disk
            world.rejoin(part)  # whoever clears evicts what is too much
        self._drop(world, brick, lost=False)
        if written is not None:
            self.on_disk[brick] = written

    def forget(self, world: VoxelMap, oldest_ns: int) -> int:
        """As :meth:`Beyond.forget`: bricks of which everything is old; the others when they come
        back. What has been hit again meanwhile is not old.
        """
        old = [brick for brick, here in self.on_disk.items() if here.newest < oldest_ns]
        removed = 0
        for brick in old:
            if not len(cubes.slots_of(world.table.index, brick)):
                removed += self._drop(world, brick, lost=True)
        return removed

    def _drop(self, world: VoxelMap, brick: int, lost: bool) -> int:
        """A brick is not on the disk any more; return its voxels."""
        here = self.on_disk.pop(brick)
        self.wanted.pop(brick, None)
        self.shelf.discard(here)
        world.history.removed += here.voxels if lost else 0
        return here.voxels


def _discard_all(shelf: Shelf, on_disk: dict[int, Brick]) -> None:
    while on_disk:
        shelf.discard(on_disk.popitem()[1])
