# SPDX-License-Identifier: Apache-2.0
"""Vectors that are kept as codes only: what questions keep of a map in tiers."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from ..storage import VectorBlocks
from .codec import VectorCodec
from .codecs import MOST, NUMBER_BYTES, Codecs, Wanted
from .loss import Loss

WORD = 8  # bytes that are copied as one number: torch is several times faster at it
_TRIED = 32  # vectors at once that are decoded, to see what is lost
_ENOUGH = 1024  # such vectors, before that is believed


class CodedVectors:
    """(M, C) vectors in ``nbytes`` bytes each.

    Codecs are learnt when who keeps vectors has the time: it asks whether one is :attr:`due`.
    """

    def __init__(self, nbytes: int, device: torch.device, block_rows: int) -> None:
        self._nbytes = nbytes
        self._blocks = VectorBlocks(-(-nbytes // WORD), torch.int64, device, block_rows)
        self.codecs = Codecs()
        self._lost, self._usual = Loss(), 0.0  # by the newest codec: now; when it was learnt

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._blocks.nbytes + self.codecs.own_nbytes

    def resize(self, length: int) -> None:
        """Keep the first ``length`` rows; new rows are of no meaning."""
        self._blocks.resize(length)

    @property
    def due(self) -> bool:
        """Whether a codec must be learnt, because there is none, or one that has become worse."""
        if not self.codecs or self._lost.count < _ENOUGH:
            return not self.codecs
        return len(self.codecs.all) < MOST and self._lost.worse_than(self._usual)

    def learn(self, vectors: torch.Tensor) -> None:
        """Learn from (n, C) vectors that are like those that will come; takes seconds."""
        codec, loss = VectorCodec.learn(vectors, self._nbytes - NUMBER_BYTES), Loss()
        loss.add(vectors[:_ENOUGH], Codecs((codec,)))
        self.codecs, self._lost = self.codecs.followed_by(codec), Loss()
        self._usual = loss.mean

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """(n, C) float32 -> (n, W) uint8, for :meth:`write`."""
        if self._lost.count >= _ENOUGH:
            self._lost = Loss()
        self._lost.add(vectors[:_TRIED], self.codecs)
        return self.codecs.encode(vectors)

    def write(self, slots: torch.Tensor, codes: torch.Tensor) -> None:
        """Overwrite (N,) distinct slots with (N, W)."""
        beyond = self._blocks.channels * WORD - codes.shape[1]
        self._blocks.write(slots, pad(codes, (0, beyond)).view(torch.int64))

    def rows(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order -> (N, C) float32."""
        return self.codecs.decode(self.codes(slots))

    def codes(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order -> (N, W) uint8, a copy."""
        return self._blocks.stored(slots).view(torch.uint8)[:, : self.codecs.nbytes]

    def products(self, slots: torch.Tensor, wanted: Wanted) -> torch.Tensor:
        """(N,) slots -> (N, Q) products with their directions; nothing is decoded."""
        return self.codecs.products(self.codes(slots), wanted)
