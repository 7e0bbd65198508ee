# SPDX-License-Identifier: Apache-2.0
"""Storage that grows with the map: small columns, vectors in blocks that are never copied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

_FLOAT16_MAX = 65504.0
_SMALLEST_SCALE = 2.0**-24  # of float16
_SCALED_TOGETHER = 32  # numbers that share a scale


SUMS_BYTES = 3 << 20  # of vectors that are added at once
_UNDO_ROWS = 256  # at once: where memory has run out there is little to work with


def allocate(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: float = 0
) -> torch.Tensor:
    """A tensor that may be written to later, whether or not the caller is in inference mode."""
    with torch.inference_mode(False):
        return torch.full(shape, fill, dtype=dtype, device=device)


class Column:
    """A tensor whose first axis grows and shrinks, at amortised constant cost per row.

    What is allocated beyond its rows holds the fill value already, so growing into it is free.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: float = 0
    ) -> None:
        self._fill = fill
        self._length = 0
        self._storage = allocate((0, *shape), dtype, device)

    def __len__(self) -> int:
        return self._length

    @property
    def data(self) -> torch.Tensor:
        """The rows, as a view that stays valid until the next resize."""
        return self._storage[: self._length]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._storage.nbytes

    def resize(self, length: int) -> None:
        """Keep the first ``length`` rows; new rows hold the fill value. Shrinking never fails."""
        capacity = len(self._storage)
        if length > capacity:
            self._reallocate(max(length, capacity + capacity // 8, 64), length)
            return
        if length < self._length:
            self._storage[length : self._length] = self._fill
        self._length = length
        if length < capacity // 2:
            with contextlib.suppress(MemoryError, RuntimeError):  # it only gives memory back
                self._reallocate(length, length)

    def trim(self) -> None:
        """Give back what is allocated beyond the length."""
        if self._length < len(self._storage):
            self._reallocate(self._length, self._length)

    def _reallocate(self, capacity: int, length: int) -> None:
        kept = self._storage[: min(length, self._length)]
        storage = allocate((capacity, *kept.shape[1:]), kept.dtype, kept.device, self._fill)
        storage[: len(kept)] = kept
        self._storage, self._length = storage, length


class VectorBlocks:
    """(M, C) hit-weighted vectors in blocks of a fixed number of rows: growing copies nothing.

    float32 holds the sum over the points of a voxel: adding a frame is one pass. float16 holds the
    mean, because a sum would leave its range; each update rounds once, so after k frames the mean
    is off by at most k * 2^-11 of the largest magnitude that the voxel's mean has had.
    """

    def __init__(
        self, channels: int, dtype: torch.dtype, device: torch.device, block_rows: int
    ) -> None:
        self.channels = channels
        self.dtype = dtype
        self.exact = dtype == torch.float32  # whether what was added can be taken away again
        self.block_rows = block_rows
        self.blocks: list[torch.Tensor] = []
        self._device = device
        self._length = 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return len(self.blocks) * self.block_nbytes

    @property
    def block_nbytes(self) -> int:
        """Bytes of one block."""
        return self.block_rows * self.channels * self.dtype.itemsize

    @property
    def takes_any_order(self) -> bool:
        """Whether :meth:`add` need not have slots in their order: not on a processor, whose caches
        like it.
        """
        return self._device.type == "cuda" and len(self.blocks) == 1

    def resize(self, length: int) -> None:
        """Keep the first ``length`` rows; new rows are zero."""
        needed = -(-length // self.block_rows)
        shape, missing = (self.block_rows, self.channels), needed - len(self.blocks)
        new = [allocate(shape, self.dtype, self._device) for _ in range(missing)]
        del self.blocks[needed:]
        if length < self._length and length % self.block_rows:
            self.blocks[-1][length % self.block_rows :] = 0
        self.blocks += new
        self._length = length

    def add(
        self,
        slots: torch.Tensor,
        before: torch.Tensor,
        added: torch.Tensor,
        sums: Callable[[int, int], torch.Tensor],
    ) -> None:
        """Add points to voxels, all or none of them: what has been added is taken back, to
        rounding.

        Args:
            slots: (N,) distinct; ascending, unless :meth:`takes_any_order`.
            before, added: (N,) int64 points that the voxels had and get.
            sums: (start, stop) -> (stop - start, C) float32 sums of the new vectors of
                ``slots[start:stop]``.
        """
        undo: list[Callable[[], object]] = []
        try:
            for block, rows, start, stop in self._steps(slots):
                new = sums(start, stop)
                if self.dtype == torch.float16:
                    old, had = block[rows], before[start:stop, None].float()
                    new += old.float() * had
                    new.div_(had + added[start:stop, None]).clamp_(-_FLOAT16_MAX, _FLOAT16_MAX)
                    block[rows] = new.half()
                    undo.append(partial(block.index_copy_, 0, rows, old))
                else:
                    block.index_add_(0, rows, new)
                    undo.append(partial(_subtract, block, rows, sums, start))
        except BaseException:
            while undo:
                undo.pop()()
            raise

    def sums(self, slots: torch.Tensor, hits: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order and their hits -> (N, C) float32 sums over their points."""
        raw = self._raw(slots).float()
        return raw * hits[:, None] if self.dtype == torch.float16 else raw

    def means(self, slots: torch.Tensor, hits: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order and their hits -> (N, C) float32 means over their points."""
        raw = self._raw(slots).float()
        return raw if self.dtype == torch.float16 else raw.div_(hits[:, None])

    def all_means(self, hits: torch.Tensor) -> torch.Tensor:
        """(M,) hits of all slots -> (M, C) float32 means, a copy."""
        out = torch.empty(self._length, self.channels, device=self._device)
        for number, block in enumerate(self.blocks):
            part = out[number * self.block_rows :][: self.block_rows]
            if self.dtype == torch.float16:
                part.copy_(block[: len(part)])
            else:
                torch.div(
                    block[: len(part)],
                    hits[number * self.block_rows :][: len(part), None],
                    out=part,
                )
        return out

    def state(self) -> dict[str, torch.Tensor]:
        """``vectors``, (M, C) all rows as stored, a copy."""
        none = allocate((0, self.channels), self.dtype, self._device)
        return {"vectors": torch.cat([*self.blocks, none])[: self._length]}

    def copied(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        """As :meth:`state`, of (N,) slots."""
        return {"vectors": self.stored(slots)}

    def giving(self, slots: torch.Tensor, hits: torch.Tensor) -> Callable[[int, int], torch.Tensor]:
        """What :meth:`add` takes of another map: the sums of (N,) slots and their hits."""
        return lambda a, b: self.sums(slots[a:b], hits[a:b])

    def load(self, state: Mapping[str, Any], hits: torch.Tensor) -> None:
        """Set all rows as :meth:`state` gave them, of this type or the other one; they are taken
        as slices, one after the other.
        """
        rows = state["vectors"]
        for number, block in enumerate(self.blocks):
            span = slice(
                number * self.block_rows, min((number + 1) * self.block_rows, self._length)
            )
            part = rows[span].to(self._device)
            if part.dtype != self.dtype:
                factor = hits[span, None].float()
                part = (
                    part * factor
                    if self.dtype == torch.float32
                    else (part / factor).clamp_(-_FLOAT16_MAX, _FLOAT16_MAX)
                )
            block[: len(part)] = part

    def moving(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """What copies (N,) rows to (N,) others, both ascending, and disjoint.

        All memory that this takes is there when it is returned, so it cannot fail.
        """
        rows = max(1, min(len(source), self.block_rows))
        room = torch.empty(rows, self.channels, dtype=self.dtype, device=self._device)
        steps = [
            (list(self._pieces(a)), list(self._pieces(b)))
            for a, b in zip(source.split(rows), target.split(rows), strict=True)
        ]

        def move() -> None:
            for taken, put in steps:
                for block, local, start, stop in taken:
                    torch.index_select(block, 0, local, out=room[start:stop])
                for block, local, start, stop in put:
                    block.index_copy_(0, local, room[start:stop])

        return move

    def follow(self, other: VectorBlocks, slots: torch.Tensor) -> None:
        """Be as ``other``, of the same length, in (N,) distinct slots."""
        self.write(slots, other.stored(slots))

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order -> (N, C) float32."""
        return self._raw(slots).float()

    def stored(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order -> (N, C) as they are stored, a copy."""
        return self._raw(slots)

    def _raw(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order -> (N, C) as stored, a copy."""
        out = torch.empty(len(slots), self.channels, dtype=self.dtype, device=self._device)
        ascending, order = torch.sort(slots)
        in_order = torch.equal(ascending, slots)
        for block, rows, start, stop in self._pieces(ascending):
            if in_order:
                torch.index_select(block, 0, rows, out=out[start:stop])
            else:
                out[order[start:stop]] = block[rows]
        return out

    def __len__(self) -> int:
        return self._length

    def write(self, slots: torch.Tensor, rows: torch.Tensor) -> None:
        """Overwrite (N,) distinct slots with (N, C), as stored."""
        slots, order = torch.sort(slots)
        for block, local, start, stop in self._pieces(slots):
            block[local] = rows[order[start:stop]].to(self.dtype)

    def _steps(self, slots: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, int, int]]:
        """As :meth:`_pieces`, on a CPU so small that vectors to be added stay in its cache."""
        rows_at_once = max(64, SUMS_BYTES // (4 * self.channels))
        for block, rows, start, _ in self._pieces(slots):
            step = rows_at_once if slots.device.type == "cpu" else len(rows)
            for first in range(0, len(rows), step):
                some = rows[first : first + step]
                yield block, some, start + first, start + first + len(some)

    def _pieces(self, slots: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, int, int]]:
        """Ascending slots -> (block, rows in it, start, stop) for each block that they touch."""
        if len(self.blocks) == 1 and len(slots):  # a GPU would be waited for
            yield self.blocks[0], slots, 0, len(slots)
            return
        edges = torch.arange(len(self.blocks) + 1, device=slots.device) * self.block_rows
        bounds = torch.searchsorted(slots, edges).tolist()
        for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            if start < stop:
                yield self.blocks[number], slots[start:stop] - number * self.block_rows, start, stop


class ScaledBytes:
    """(M, W) vectors as bytes, with a float16 scale for every few numbers.

    Takes 1.06 bytes a number; a number is off by at most 1/254 of the largest in its group.
    """

    def __init__(self, width: int, device: torch.device, block_rows: int) -> None:
        self.width = width
        self._groups = -(-width // _SCALED_TOGETHER)
        padded = self._groups * _SCALED_TOGETHER
        # eight bytes as one number: torch splits the copying of many small numbers between threads
        self._bytes = VectorBlocks(padded // 8, torch.int64, device, block_rows)
        self._scales = VectorBlocks(self._groups, torch.float16, device, block_rows)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._bytes.nbytes + self._scales.nbytes

    def resize(self, length: int) -> None:
        """Keep the first ``length`` rows; new rows are zero."""
        self._bytes.resize(length)
        self._scales.resize(length)

    def write(self, slots: torch.Tensor, vectors: torch.Tensor) -> None:
        """Overwrite (N,) distinct slots with (N, W) float32, numbers within float16."""
        padding = self._groups * _SCALED_TOGETHER - self.width
        groups = torch.nn.functional.pad(vectors, (0, padding)).unflatten(1, (self._groups, -1))
        scales = (groups.abs().amax(2) / 127).half().clamp_(min=_SMALLEST_SCALE)
        numbers = (groups / scales.float()[:, :, None]).round_().clamp_(-127, 127)
        self._bytes.write(slots, numbers.flatten(1).to(torch.int8).view(torch.int64))
        self._scales.write(slots, scales)

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order -> (N, W) float32."""
        numbers = self._bytes.stored(slots).view(torch.int8).float()
        groups = numbers.unflatten(1, (self._groups, -1))
        groups *= self._scales.rows(slots)[:, :, None]
        return groups.flatten(1)[:, : self.width]


def _subtract(
    block: torch.Tensor, rows: torch.Tensor, sums: Callable[[int, int], torch.Tensor], start: int
) -> None:
    """Take ``sums`` of the voxels from ``start`` on out of ``rows`` of a block again."""
    for offset in range(0, len(rows), _UNDO_ROWS):
        some = rows[offset : offset + _UNDO_ROWS]
        first = start + offset
        block.index_add_(0, some, sums(first, first + len(some)), alpha=-1)
