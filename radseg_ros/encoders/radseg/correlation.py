# SPDX-License-Identifier: Apache-2.0
"""The two ideas of RADSeg: attention that recurs on its own output (SCRA), and patches that gather
their like (SCGA).

Both are softmax(S) V where S holds the correlations of the tokens among themselves and negative
ones count as -inf. The T x T matrix S never exists as a whole: it is made, used and dropped in
blocks of rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

BLOCK_ELEMENTS = {
    "cpu": 1 << 22,
    "cuda": 1 << 24,
    "mps": 1 << 22,
}  # entries of S at once: 16, 64, 16 MiB of float32


def correlate(
    unit: torch.Tensor, values: torch.Tensor, tau: float, mean: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(S) values with S = tau * (unit unit^T - mean), where negative entries of S count as
    -inf.

    A token always keeps itself, so no row is empty: by definition its own entry is never negative,
    but rounding can make it so when all tokens are alike.

    Args:
        unit: (..., H, T, d), rows of unit length, or zero.
        values: (..., H, T, e).
        tau: temperature, >= 0.
        mean: scalar that is subtracted from the correlations.

    Returns:
        (..., H, T, e).
    """
    flat_unit, flat_values = unit.flatten(0, -3), values.flatten(0, -3)
    tokens = unit.shape[-2]
    elements = BLOCK_ELEMENTS[unit.device.type]
    rows = max(1, min(tokens, elements // tokens))
    heads = max(1, elements // (rows * tokens))
    out = torch.empty_like(flat_values)
    for first in range(0, len(flat_unit), heads):
        some = slice(first, first + heads)
        keys = (flat_unit[some] * tau).transpose(1, 2)
        for start in range(0, tokens, rows):
            block = slice(start, start + rows)
            scores = flat_unit[some, block] @ keys
            if mean is not None:
                scores -= tau * mean
            scores.diagonal(start, 1, 2).clamp_(min=0.0)
            scores.masked_fill_(scores < 0, -math.inf)
            out[some, block] = scores.softmax(-1) @ flat_values[some]
    return out.view_as(values)


class SelfCorrelatingAttention(nn.Module):
    """SCRA (docs/method.md 2.1) around the attention of one block, with its weights.

    Args:
        attention: the block's own attention (``RadioAttention``).
        tau: temperature of the correlation.
        recursions: how often the output is correlated with itself; the paper uses 1.
    """

    def __init__(self, attention: Any, tau: float, recursions: int) -> None:
        super().__init__()
        self.attention: Any = attention
        self.tau = tau
        self.recursions = recursions

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        scra: bool = True,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """(B, T, C) -> (B, T, C). ``scra=False`` is the plain attention.

        The mask is always None: images are not padded.
        """
        plain = self.attention
        query, key, value = (
            self._split(project(hidden_states))
            for project in (plain.q_proj, plain.k_proj, plain.v_proj)
        )
        out = self._merge(F.scaled_dot_product_attention(query, key, value, scale=plain.scaling))
        for _ in range(self.recursions if scra else 0):
            unit = F.normalize(
                self._split(out).float(), dim=-1, eps=1e-12
            )  # half precision would round eps to 0
            out = self._merge(correlate(unit, value.float(), self.tau).to(out.dtype))
        return out, None

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, heads, T, d)."""
        return tokens.unflatten(-1, (self.attention.num_attention_heads, -1)).transpose(1, 2)

    def _merge(self, heads: torch.Tensor) -> torch.Tensor:
        """(B, heads, T, d) -> (B, T, C), projected."""
        return self.attention.o_proj(heads.transpose(1, 2).flatten(2))


def aggregate(features: torch.Tensor, tau: float) -> torch.Tensor:
    """SCGA (docs/method.md 2.3): every patch becomes the correlation-weighted mean of all patches
    of its image.

    Args:
        features: (C, h, w) float32, of one image.
        tau: temperature.

    Returns:
        (C, h, w).
    """
    vectors = features.flatten(1).T.contiguous()
    unit = F.normalize(vectors, dim=-1, eps=1e-12)
    mean = (
        unit.mean(0).square().sum()
    )  # over all T x T cosines, which is |mean of the unit vectors|^2
    return correlate(unit[None], vectors[None], tau, mean)[0].T.reshape(features.shape)
