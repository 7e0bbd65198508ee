# SPDX-License-Identifier: Apache-2.0
"""What codes lose of vectors, and when it is too much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from .codecs import Codecs

_WORSE = 2  # times what is lost of the vectors that the codec was learnt from: then it is too much
_LITTLE = 1e-3  # of 1 - cosine more: what no codec is learnt for


@dataclass(slots=True)
class Loss:
    """1 - cosine of vectors with what is decoded of them, on the average."""

    total: float = 0.0
    count: int = 0

    def add(self, vectors: torch.Tensor, codecs: Codecs) -> None:
        """Of (n, C) more."""
        decoded = codecs.decode(codecs.encode(vectors))
        self.total += float((1 - cosine_similarity(vectors, decoded)).sum())
        self.count += len(vectors)

    @property
    def mean(self) -> float:
        """0 = nothing was lost, or is known."""
        return self.total / max(1, self.count)

    def worse_than(self, usual: float) -> bool:
        """Whether so much is lost that learning anew pays."""
        return self.mean > _WORSE * usual + _LITTLE
