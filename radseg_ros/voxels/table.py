# SPDX-License-Identifier: Apache-2.0
"""The rows of the voxel map: one per voxel, found by key, added to, removed.

Rows (slots) 0 .. len - 1 are always in use: removing a voxel moves the last one into its place. So
every per-voxel array is dense, and reading the whole map is a copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .coding.tiered import TieredVectors
from .index import Located, VoxelIndex, unpack
from .storage import Column, VectorBlocks
from .tensors import take

# rows of vectors that are allocated, and added to, at once: each block that a frame touches costs a
# few launches, which a GPU feels
_BLOCK_ROWS = {"cpu": 4096, "mps": 4096, "cuda": 65536}
_BLOCK_BYTES = 256 << 20  # of long vectors a block has fewer rows
_revision = itertools.count(1)  # of all tables: voxel and revision name one content for ever
_INT64 = torch.iinfo(torch.int64)

# What is kept per voxel besides its vectors: shape, type, value of a new voxel.
_COLUMNS: dict[str, tuple[tuple[int, ...], torch.dtype, int]] = {
    "key": ((), torch.int64, 0),
    "hits": ((), torch.int64, 0),
    "views": ((), torch.int32, 0),  # frames that hit it
    "rgb_sum": ((3,), torch.float64, 0),
    "first_seen_ns": ((), torch.int64, _INT64.max),
    "last_seen_ns": ((), torch.int64, _INT64.min),
    "seen_at": ((), torch.int64, _INT64.min),  # time of the map's own clock, ns, when last hit
    "seen_through": ((), torch.int32, 0),  # frames that looked through it since it was last hit
    "changed": ((), torch.int64, 0),  # revision: another number whenever points are added
}

_NOT_SAVED = ("changed", "seen_at")  # what follows from the rest


@dataclass(frozen=True, slots=True, eq=False)
class Sought:
    """N distinct keys that were looked for in a table, which has not changed since."""

    key: torch.Tensor  # (N,) int64
    at: Located
    slots: torch.Tensor  # (N,) int64, -1 where there is none
    new: torch.Tensor  # (N,) bool, whether there is none

    def counts(self) -> list[torch.Tensor]:
        """What :meth:`VoxelTable.settle` must know: two float64 numbers, on the device."""
        return [which.sum(dtype=torch.float64) for which in (self.new, self.at.known)]


class VoxelTable:
    """Hits, colours, stamps and vectors of M voxels.

    Args:
        dtype: of the vectors, float32 or float16.
        hot_rows, share: keep so many vectors in full, float32, and the others in 1/share of the
            memory (:class:`TieredVectors`); 0 = all of them in full.
        max_bytes: a bound that the table does not enforce, but grows towards in small steps; 0 =
            none.
    """

    def __init__(
        self,
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
        max_bytes: int = 0,
        hot_rows: int = 0,
        share: int = 1,
    ) -> None:
        self.device = device
        self.index = VoxelIndex(device)
        widest = max(64, _BLOCK_BYTES // (channels * dtype.itemsize))
        self._block_rows = min(_BLOCK_ROWS[device.type], widest)
        if max_bytes:
            step = max(64, max_bytes // (64 * channels * dtype.itemsize))
            self._block_rows = min(self._block_rows, step)
        self.vectors: VectorBlocks | TieredVectors
        if hot_rows:
            most = max_bytes // (2 * channels * dtype.itemsize) if max_bytes else hot_rows
            hot_rows = min(hot_rows, most)
            self.vectors = TieredVectors(channels, device, self._block_rows, hot_rows, share)
        else:
            self.vectors = VectorBlocks(channels, dtype, device, self._block_rows)
        self._columns = {
            name: Column(shape, kind, device, fill)
            for name, (shape, kind, fill) in _COLUMNS.items()
        }
        self._removed = 0  # voxels since the index was last trimmed

    def __len__(self) -> int:
        return len(self._columns["key"])

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        columns = sum(column.nbytes for column in self._columns.values())
        return self.index.nbytes + self.vectors.nbytes + columns

    def __getitem__(self, column: str) -> torch.Tensor:
        """(M, ...) one value of every voxel, as a view that is valid until the table changes its
        size.
        """
        return self._columns[column].data

    def coordinates(self, slots: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(N, 3) int64 voxel indices."""
        return unpack(self["key"][slots])

    def means(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots -> (N, C) float32 mean vectors."""
        return self.vectors.means(slots, self["hits"][slots])

    def sums(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots -> (N, C) float32 sums of the vectors over the points."""
        return self.vectors.sums(slots, self["hits"][slots])

    def claim(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) distinct keys -> their slots, ascending, new ones at the end.

        And the order of the keys that gives them. What is claimed and then not added to must be
        given back with :meth:`release`.
        """
        known, sought = len(self), self.seek(key)
        slots = self.settle(sought, *torch.stack(sought.counts()).tolist())
        try:
            return torch.sort(slots)
        except BaseException:
            self.release(known)
            raise

    def seek(self, key: torch.Tensor) -> Sought:
        """The first half of :meth:`claim`, which needs no number from a GPU and changes nothing."""
        at = self.index.locate(key)
        slots = self.index.slots(at)
        return Sought(key, at, slots, slots < 0)

    def settle(self, sought: Sought, new: float, known_bricks: float) -> torch.Tensor:
        """The second half of :meth:`claim`, in the order of the keys.

        Args:
            new, known_bricks: the numbers of :meth:`Sought.counts`.
        """
        if not new:
            return sought.slots
        known = len(self)
        slots = torch.where(sought.new, sought.new.cumsum(0).add_(known - 1), sought.slots)
        short = slots.int()
        try:
            self.resize(known + int(new))
            place = self.index.places(sought.at, int(known_bricks))
        except BaseException:
            self.resize(known)
            raise
        self.index.put(place, short)  # from here on nothing takes memory
        self["key"].index_copy_(0, slots, sought.key)
        return slots

    def release(self, length: int) -> None:
        """Give the slots from ``length`` on back."""
        key = self["key"][length:]
        self.index.assign(key, torch.full_like(key, -1))
        self.resize(length)

    def add(
        self,
        slots: torch.Tensor,
        points: dict[str, torch.Tensor],
        sums: Callable[[int, int], torch.Tensor],
    ) -> None:
        """Add points to claimed slots, all or none of them.

        A failure leaves the vectors as they were, to rounding, and everything else exactly.

        Args:
            points: per slot ``hits``, ``views``, ``rgb_sum``, ``first_seen_ns``, ``last_seen_ns``
                and ``seen_at``.
            sums: as in :meth:`VectorBlocks.add`.
        """
        self.vectors.add(slots, take(self["hits"], slots), points["hits"], sums)
        for name in ("hits", "views", "rgb_sum"):  # from here on nothing takes memory
            self[name].index_add_(0, slots, points[name])
        self["first_seen_ns"].scatter_reduce_(0, slots, points["first_seen_ns"], "amin")
        for name in ("last_seen_ns", "seen_at"):
            self[name].scatter_reduce_(0, slots, points[name], "amax")
        self["seen_through"].index_fill_(0, slots, 0)
        self["changed"].index_fill_(0, slots, next(_revision))

    def subtract(
        self,
        slots: torch.Tensor,
        points: dict[str, torch.Tensor],
        sums: Callable[[int, int], torch.Tensor],
    ) -> None:
        """Take points away that were added to (N,) ascending slots, all or none of them.

        Hits and views are exact, the rest is to rounding. Stamps stay as they are: what remains of
        them without these points is not known.

        Args:
            points: per slot ``hits``, ``views`` and ``rgb_sum``; each slot has more.
            sums: as in :meth:`VectorBlocks.add`.
        """
        old = {name: take(self[name], slots) for name in ("hits", "views", "rgb_sum")}
        left = {name: values - points[name] for name, values in old.items()}
        most = left["hits"][:, None].double()
        left["rgb_sum"] = torch.minimum(left["rgb_sum"].clamp_(min=0), most)
        self.vectors.add(slots, old["hits"], -points["hits"], lambda a, b: -sums(a, b))
        for name, values in left.items():  # from here on nothing takes memory
            self[name].index_copy_(0, slots, values)
        self["changed"].index_fill_(0, slots, next(_revision))

    def remove(self, gone: torch.Tensor) -> int:
        """Remove the voxels of an (M,) mask; return how many."""
        return self.remove_slots(gone.nonzero()[:, 0])

    def remove_slots(self, slots: torch.Tensor) -> int:
        """Remove the voxels of (N,) ascending slots; return how many.

        The last voxels move into the holes. The memory that this takes is asked for before
        anything changes.
        """
        if not len(slots):
            return 0
        kept = len(self) - len(slots)
        holes, stay = slots[slots < kept], torch.ones_like(slots, dtype=torch.bool)
        stay[slots[len(holes) :] - kept] = False
        moved = kept + stay.nonzero()[:, 0]
        rows = {name: take(column.data, moved) for name, column in self._columns.items()}
        move = self.vectors.moving(moved, holes)
        gone_at = self.index.locate(take(self["key"], slots)).place
        moved_at = self.index.locate(rows["key"]).place
        none, there = torch.full_like(slots, -1, dtype=torch.int32), holes.int()
        move()  # from here on nothing takes memory
        for name, values in rows.items():
            self[name].index_copy_(0, holes, values)
        self.index.put(gone_at, none)
        self.index.put(moved_at, there)
        self.resize(kept)
        self._removed += len(slots)
        if self._removed > max(
            kept, self._block_rows
        ):  # amortised: trimming looks at the whole index
            self.index.trim()
            self._removed = 0
        return len(slots)

    def trim(self) -> None:
        """Give back what is allocated and not in use."""
        self.index.trim()
        for column in self._columns.values():
            column.trim()

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that must be kept to go on later, on the CPU."""
        saved = {n: column for n, column in self._columns.items() if n not in _NOT_SAVED}
        columns = {name: column.data.cpu() for name, column in saved.items()}
        vectors = {name: values.cpu() for name, values in self.vectors.state().items()}
        return {**columns, **vectors}

    def copied(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        """All that is known of (N,) voxels, on the CPU; of vectors in tiers the codes, which these
        codecs (or later ones of this map) are needed for.
        """
        columns = {name: take(column.data, slots) for name, column in self._columns.items()}
        vectors = self.vectors.copied(slots)
        return {name: values.cpu() for name, values in {**columns, **vectors}.items()}

    def follow(self, other: VoxelTable, most: int) -> int:
        """Copy up to ``most`` rows of ``other`` that are not here yet; return how many were not.

        Once that is 0, this table holds what the other one does, except for the index.
        """
        self.resize(len(other))
        missing = (self["key"] != other["key"]) | (self["changed"] != other["changed"])
        # a look through a voxel does not change its revision
        self["seen_through"].copy_(other["seen_through"])
        stale = missing.nonzero()[:, 0]
        slots = stale[:most]
        for name in self._columns:
            self[name][slots] = take(other[name], slots)
        self.vectors.follow(other.vectors, slots)  # type: ignore[arg-type]  # of the same options
        return len(stale)

    def load(self, state: Mapping[str, Any]) -> None:
        """Fill an empty table with what :meth:`state` or :meth:`copied` gave."""
        self.resize(len(state["key"]))
        for name, column in self._columns.items():
            if name in state:
                column.data.copy_(state[name])
        self["changed"].fill_(next(_revision))
        self.vectors.load(state, self["hits"])
        self.index.assign(self["key"], torch.arange(len(self), device=self.device))

    def resize(self, length: int) -> None:
        """Keep the first ``length`` rows; new rows are zero, and no voxel yet."""
        self.vectors.resize(length)  # the large ones first: if any, it is they who fail
        for column in self._columns.values():
            column.resize(length)
