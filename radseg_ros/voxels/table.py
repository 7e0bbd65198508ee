# SPDX-License-Identifier: Apache-2.0
"""The rows of the voxel map: one per voxel, found by key, added to, removed.

Rows (slots) 0 .. len - 1 are always in use: removing a voxel moves the last one into its place. So
every per-voxel array is dense, and reading the whole map is a copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from .coding.tiered import TieredVectors
from .index import VoxelIndex, unpack
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


_ADDED_TO = tuple(name for name in _COLUMNS if name != "key")  # what new points change
_NOT_SAVED = ("changed", "seen_at")  # what follows from the rest


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
        known, slots = len(self), self.claim_unordered(key)
        try:
            return torch.sort(slots)
        except BaseException:
            self.release(known)
            raise

    def claim_unordered(self, key: torch.Tensor) -> torch.Tensor:
        """As :meth:`claim`, but in the order of the keys."""
        slots = self.index.find(key)
        new = (slots < 0).nonzero()[:, 0]
        known = len(self)
        fresh = torch.arange(known, known + len(new), device=self.device)
        slots[new] = fresh
        if not len(new):
            return slots
        new_key = take(key, new)
        try:
            self.resize(known + len(new))
            self["key"][fresh] = new_key
            self.index.assign(new_key, fresh)
        except BaseException:
            self._truncate(known, new_key)
            raise
        return slots

    def release(self, length: int) -> None:
        """Give the slots from ``length`` on back."""
        self._truncate(length, self["key"][length:].clone())

    def _truncate(self, length: int, key: torch.Tensor) -> None:
        """Keep ``length`` rows; ``key``: of those that go, as far as the index has them."""
        found = take(key, (self.index.find(key) >= 0).nonzero()[:, 0])
        self.index.assign(found, torch.full_like(found, -1))
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
        old = {name: take(self[name], slots) for name in _ADDED_TO}
        new = {
            "hits": old["hits"] + points["hits"],
            "views": old["views"] + points["views"],
            "rgb_sum": old["rgb_sum"] + points["rgb_sum"],
            "first_seen_ns": torch.minimum(old["first_seen_ns"], points["first_seen_ns"]),
            "last_seen_ns": torch.maximum(old["last_seen_ns"], points["last_seen_ns"]),
            "seen_at": torch.maximum(old["seen_at"], points["seen_at"]),
            "seen_through": torch.zeros_like(old["seen_through"]),
            "changed": torch.full_like(old["changed"], next(_revision)),
        }
        take_back = self.vectors.add(slots, old["hits"], points["hits"], sums)
        self._overwrite(slots, old, new, take_back)

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
        old = {name: take(self[name], slots) for name in ("hits", "views", "rgb_sum", "changed")}
        left = old["hits"] - points["hits"]
        rgb_sum = (old["rgb_sum"] - points["rgb_sum"]).clamp_(min=0)
        new = {
            "hits": left,
            "views": old["views"] - points["views"],
            "rgb_sum": torch.minimum(rgb_sum, left[:, None].double()),
            "changed": torch.full_like(old["changed"], next(_revision)),
        }
        take_back = self.vectors.add(slots, old["hits"], -points["hits"], lambda a, b: -sums(a, b))
        self._overwrite(slots, old, new, take_back)

    def _overwrite(
        self,
        slots: torch.Tensor,
        old: dict[str, torch.Tensor],
        new: dict[str, torch.Tensor],
        take_back: Callable[[], None],
    ) -> None:
        """Set columns of some rows; what fails leaves the old ones, and the vectors taken back."""
        try:
            for name, values in new.items():
                self[name][slots] = values
        except BaseException:
            for name, values in old.items():
                self[name][slots] = values
            take_back()
            raise

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
        gone_at = self.index.places(take(self["key"], slots))
        moved_at = self.index.places(rows["key"])
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

    def load(self, state: dict[str, torch.Tensor]) -> None:
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
