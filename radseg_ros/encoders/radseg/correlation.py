# SPDX-License-Identifier: Apache-2.0
"""softmax(S) V, where S holds the correlations of the tokens among themselves and negative ones
count as -inf: what SCRA, SCGA and the proxies of ProxyRADIO share.

The T x T matrix S never exists as a whole: it is made, used and dropped in blocks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

BLOCK_ELEMENTS = {
    "cpu": 1 << 20,  # so that a block stays in the cache
    "cuda": 1 << 24,
    "mps": 1 << 22,
}  # entries of S at once: 4, 64, 16 MiB of float32


@torch.compiler.disable(recursive=False)  # a kernel of its own, whatever is compiled around it
def fused(unit: torch.Tensor, values: torch.Tensor, tau: float) -> torch.Tensor:
    """:func:`correlate` of (B, H, T, d) in one kernel, which torch.compile writes for a GPU."""
    return _compiled()(unit, values, tau).to(values.dtype)


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    return torch.compile(flexible, dynamic=False)


def flexible(unit: torch.Tensor, values: torch.Tensor, tau: float) -> torch.Tensor:
    """What :func:`fused` compiles."""
    from torch.nn.attention.flex_attention import flex_attention

    def alike(score: Any, batch: Any, head: Any, row: Any, column: Any) -> Any:
        del batch, head
        return torch.where(score < 0, torch.where(row == column, 0.0, -math.inf), score)

    width = values.shape[-1]
    room = (1 << (width - 1).bit_length()) - width  # it wants powers of 2
    unit, values = (F.pad(x, (0, room)) for x in (unit, values))
    return flex_attention(unit, unit, values, score_mod=alike, scale=tau)[..., :width]


def correlate(
    unit: torch.Tensor, values: torch.Tensor, tau: float, mean: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax(S) values with S = tau * (unit unit^T - mean), where negative entries of S count as
    -inf.

    A token always keeps itself, so no row is empty: its own entry can be negative where all tokens
    are alike, by rounding, or when ``mean`` is made larger than it is.

    Args:
        unit: (..., H, T, d), rows of unit length, or zero.
        values: (..., H, T, e).
        tau: temperature, >= 0.
        mean: subtracted from the correlations; a scalar, or (..., H).

    Returns:
        (..., H, T, e).
    """
    flat_unit, flat_values = unit.flatten(0, -3), values.flatten(0, -3)
    if mean is not None:
        mean = mean.expand(unit.shape[:-2]).reshape(-1, 1, 1)
    tokens = unit.shape[-2]
    rows = rows_at_once(tokens, unit.device)
    heads = max(1, _entries_at_once(unit.device) // (rows * tokens))
    out = []
    for first in range(0, len(flat_unit), heads):
        some = slice(first, first + heads)
        keys = (flat_unit[some] * tau).transpose(1, 2)
        parts = []
        for start in range(0, tokens, rows):
            scores = flat_unit[some, start : start + rows] @ keys
            if mean is not None:
                scores -= tau * mean[some]
            parts.append(_only_alike(scores, start).softmax(-1) @ flat_values[some])
        out.append(torch.cat(parts, 1))
    return torch.cat(out).view_as(values)


def _only_alike(scores: torch.Tensor, start: int) -> torch.Tensor:
    """Negative entries of the rows (..., n, T) from ``start`` on become -inf, a token's own 0."""
    if torch.compiler.is_compiling():  # a graph that is written out holds no views to write into
        columns = torch.arange(scores.shape[-1], device=scores.device)
        own = columns == columns[start : start + scores.shape[-2], None]
        zero, never = scores.new_zeros(()), scores.new_full((), -math.inf)
        return torch.where(scores < 0, torch.where(own, zero, never), scores)
    scores.diagonal(start, -2, -1).clamp_(min=0.0)
    # keeps what is larger, in one pass: a mask of its own takes three on a CPU
    return F.threshold(scores, -torch.finfo(scores.dtype).tiny, -math.inf, inplace=True)


def rows_at_once(tokens: int, device: torch.device) -> int:
    """Rows of a (T, T) matrix that may exist at a time."""
    return max(1, min(tokens, _entries_at_once(device) // tokens))


def _entries_at_once(device: torch.device) -> int:
    # who will run a graph that is written out is not known; a CPU loses 6 % by large blocks
    return BLOCK_ELEMENTS["cuda" if torch.onnx.is_in_onnx_export() else device.type]


def mean_cosine(unit: torch.Tensor) -> torch.Tensor:
    """(..., T, d) rows of unit length -> (...), the mean of all T x T cosines: the squared length
    of the mean row.
    """
    return unit.mean(-2).square().sum(-1)


def aggregate(
    features: torch.Tensor, tau: float, kind: torch.dtype = torch.float32
) -> torch.Tensor:
    """SCGA (docs/method.md 2.3): every patch becomes the correlation-weighted mean of all patches
    of its image.

    Args:
        features: (C, h, w) float32, of one image.
        tau: temperature.
        kind: type of the products; see :func:`product_type`.

    Returns:
        (C, h, w).
    """
    vectors = features.flatten(1).T.contiguous()
    unit = F.normalize(vectors, dim=-1, eps=1e-12)
    means = correlate(unit[None].to(kind), vectors[None].to(kind), tau, mean_cosine(unit))
    return means[0].to(features.dtype).T.reshape(features.shape)


def product_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """In which type a network of ``dtype`` correlates.

    A GPU sums products of half precision in float32, and is ten times as fast with them; on a
    processor nothing is gained.
    """
    return dtype if device.type == "cuda" else torch.float32
