# SPDX-License-Identifier: Apache-2.0
"""The rows of the voxel map: one per voxel, found by key, added to, removed.

Rows (slots) 0 .. len - 1 are always in use: removing a voxel moves the last one into its place. So
every per-voxel array is dense, and reading the whole map is a copy.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .index import VoxelIndex, unpack
from .storage import Column, VectorBlocks
from .tensors import take

_BLOCK_ROWS = 4096
_INT64 = torch.iinfo(torch.int64)

# What is kept per voxel besides its vectors: shape, type, value of a new voxel.
_COLUMNS: dict[str, tuple[tuple[int, ...], torch.dtype, int]] = {
    "key": ((), torch.int64, 0),
    "hits": ((), torch.int64, 0),
    "rgb_sum": ((3,), torch.float64, 0),
    "first_seen_ns": ((), torch.int64, _INT64.max),
    "last_seen_ns": ((), torch.int64, _INT64.min),
    "seen_through": ((), torch.int32, 0),  # frames that looked through it since it was last hit
    "projected": ((), torch.bool, 0),  # whether its language vector is that of its present vector
}


class VoxelTable:
    """Hits, colours, stamps and vectors of M voxels.

    Args:
        dtype: of the vectors, float32 or float16.
        max_bytes: a bound that the table does not enforce, but grows towards in small steps; 0 =
            none.
    """

    def __init__(
        self, channels: int, dtype: torch.dtype, device: torch.device, max_bytes: int = 0
    ) -> None:
        self.device = device
        self.index = VoxelIndex(device)
        block_rows = (
            min(_BLOCK_ROWS, max(64, max_bytes // (64 * channels * dtype.itemsize)))
            if max_bytes
            else _BLOCK_ROWS
        )
        self.vectors = VectorBlocks(channels, dtype, device, block_rows)
        self.language: VectorBlocks | None = (
            None  # a cache: may have fewer rows than the table, never more
        )
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
        language = self.language.nbytes if self.language is not None else 0
        return (
            self.index.nbytes
            + self.vectors.nbytes
            + language
            + sum(column.nbytes for column in self._columns.values())
        )

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

        And the order of the keys that gives them.
        """
        slots = self.index.find(key)
        new = (slots < 0).nonzero()[:, 0]
        known = len(self)
        self._resize(known + len(new))
        fresh = torch.arange(known, len(self), device=self.device)
        slots[new] = fresh
        self["key"][fresh] = key[new]
        self.index.assign(key[new], fresh)
        return torch.sort(slots)

    def add(
        self,
        slots: torch.Tensor,
        hits: torch.Tensor,
        rgb_sum: torch.Tensor,
        first_ns: torch.Tensor,
        last_ns: torch.Tensor,
        sums: Callable[[int, int], torch.Tensor],
    ) -> None:
        """Add points to claimed slots, one row of each argument per slot.

        ``sums`` as in :meth:`VectorBlocks.add`.
        """
        before = take(self["hits"], slots)
        self.vectors.add(slots, before, hits, sums)
        self["hits"][slots] = before + hits
        self["rgb_sum"].index_add_(0, slots, rgb_sum)
        self["first_seen_ns"][slots] = torch.minimum(take(self["first_seen_ns"], slots), first_ns)
        self["last_seen_ns"][slots] = torch.maximum(take(self["last_seen_ns"], slots), last_ns)
        self["seen_through"][slots] = 0
        self["projected"][slots] = False

    def remove(self, gone: torch.Tensor) -> int:
        """Remove the voxels of an (M,) mask; return how many.

        The last voxels move into the holes.
        """
        slots = gone.nonzero()[:, 0]
        if not len(slots):
            return 0
        kept = len(self) - len(slots)
        holes, moved = slots[slots < kept], kept + (~gone[kept:]).nonzero()[:, 0]
        self.index.assign(self["key"][slots], torch.full_like(slots, -1))
        self.index.assign(self["key"][moved], holes)
        for column in self._columns.values():
            column.data[holes] = column.data[moved]
        self.vectors.move(moved, holes)
        if self.language is not None:
            self.language.resize(len(self))
            self.language.move(moved, holes)
        self._resize(kept)
        self._removed += len(slots)
        if self._removed > max(kept, _BLOCK_ROWS):  # amortised: trimming looks at the whole index
            self.index.trim()
            self._removed = 0
        return len(slots)

    def trim(self) -> None:
        """Give back what is allocated and not in use, and the cache."""
        self.drop_language()
        self.index.trim()
        for column in self._columns.values():
            column.trim()

    def drop_language(self) -> None:
        """Give back the cached language vectors."""
        self.language = None
        self["projected"].fill_(False)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that must be kept to go on later, on the CPU."""
        columns = {
            name: column.data.cpu() for name, column in self._columns.items() if name != "projected"
        }
        return {**columns, "vectors": self.vectors.state().cpu()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Fill an empty table with what :meth:`state` gave."""
        self._resize(len(state["key"]))
        for name, column in self._columns.items():
            if name in state:
                column.data.copy_(state[name])
        self.vectors.load(state["vectors"], self["hits"])
        self.index.assign(self["key"], torch.arange(len(self), device=self.device))

    def _resize(self, length: int) -> None:
        for column in self._columns.values():
            column.resize(length)
        self.vectors.resize(length)
        if self.language is not None and len(self.language) > length:
            self.language.resize(length)
