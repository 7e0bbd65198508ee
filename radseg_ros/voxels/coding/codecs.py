# SPDX-License-Identifier: Apache-2.0
"""Codes of a map that grows: what was learnt from the first rooms serves the next ones less well.

So a codec may follow another. A code begins with the number of the codec that it is of; codes that
are there already stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from ...datatypes import InputError
from ..tensors import take
from .codec import VectorCodec

NUMBER_BYTES = 1  # of a code: which codec it is of
MOST = 64  # of some 4 MB each, for 768 numbers at 1/16


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Vectors whose products with coded ones are asked for: a table for each codec is made once."""

    vectors: torch.Tensor  # (Q, C)
    _tables: dict[VectorCodec, torch.Tensor] = field(default_factory=dict)

    def table(self, codec: VectorCodec) -> torch.Tensor:
        """As :meth:`VectorCodec.table`."""
        if codec not in self._tables:
            self._tables[codec] = codec.table(self.vectors.to(codec.axes.device, codec.axes.dtype))
        return self._tables[codec]


@dataclass(frozen=True, slots=True, eq=False)
class Codecs:
    """(n, C) vectors to and from (n, W) bytes, by codecs of which the last one writes."""

    all: tuple[VectorCodec, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def nbytes(self) -> int:
        """W, bytes of a code."""
        return NUMBER_BYTES + max(codec.nbytes for codec in self.all)

    def followed_by(self, codec: VectorCodec) -> Codecs:
        """These and one more, which writes from now on."""
        return Codecs((*self.all, codec))

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor]) -> Codecs:
        """What :meth:`state` gave, and perhaps codes of them.

        Raises:
            InputError: it did not give this, or there are ``codes`` that do not fit.
        """
        numbers = {name.split("_")[0] for name in state if name.startswith("codec")}
        codecs = cls(tuple(VectorCodec.of(state, f"codec{i}_") for i in range(len(numbers))))
        if not codecs or len(codecs.all) > MOST:
            raise InputError("it has no codec, or too many")
        if len({codec.typical.shape for codec in codecs.all}) > 1:
            raise InputError("its codecs are for vectors of different lengths")
        codes = state.get("codes")
        if codes is not None and (
            codes.dtype != torch.uint8
            or codes.shape[1:] != (codecs.nbytes,)
            or bool((codes[:, 0] >= len(codecs.all)).any())
        ):
            raise InputError("its codes do not fit the codec")
        return codecs

    def state(self) -> dict[str, torch.Tensor]:
        """All of them, as tensors with names."""
        named = (codec.state(f"codec{i}_") for i, codec in enumerate(self.all))
        return {name: tensor for each in named for name, tensor in each.items()}

    def to(self, device: torch.device) -> Codecs:
        """The same on a device."""
        return Codecs(tuple(codec.to(device) for codec in self.all))

    @property
    def own_nbytes(self) -> int:
        """Bytes of the codecs themselves."""
        return sum(codec.own_nbytes for codec in self.all)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.all[0].typical.shape[1])

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """(n, C) float32 -> (n, W) uint8."""
        codes = vectors.new_zeros(len(vectors), self.nbytes, dtype=torch.uint8)
        codec = self.all[-1]
        codes[:, 0] = len(self.all) - 1
        codes[:, NUMBER_BYTES : NUMBER_BYTES + codec.nbytes] = codec.encode(vectors)
        return codes

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(n, W) uint8 -> (n, C) float32."""
        out = torch.empty(len(codes), self.channels, device=codes.device)
        for codec, rows, own in self._groups(codes):
            out[rows] = codec.decode(own)
        return out

    def products(self, codes: torch.Tensor, wanted: Wanted) -> torch.Tensor:
        """(n, W) uint8 -> (n, Q) products with the direction of each vector."""
        out = torch.empty(len(codes), len(wanted.vectors), device=codes.device)
        for codec, rows, own in self._groups(codes):
            out[rows] = codec.products(own, wanted.table(codec))
        return out

    def _groups(
        self, codes: torch.Tensor
    ) -> Iterator[tuple[VectorCodec, torch.Tensor | slice, torch.Tensor]]:
        """Each codec with the rows that are of it, and their codes without its number."""
        numbers = codes[:, 0].int()
        there = torch.bincount(numbers, minlength=1).nonzero()[:, 0].tolist()
        for number in there:
            codec = self.all[number]
            own = slice(NUMBER_BYTES, NUMBER_BYTES + codec.nbytes)
            if len(there) == 1:
                yield codec, slice(None), codes[:, own]
            else:
                rows = (numbers == number).nonzero()[:, 0]
                yield codec, rows, take(codes, rows)[:, own]
