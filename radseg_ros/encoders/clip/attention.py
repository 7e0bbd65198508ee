# SPDX-License-Identifier: Apache-2.0
"""What the attention matrices of the family are made of (docs/method.md 5)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import functional as F

from ..gaussian import gaussian


def scaled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., T, d), (..., T, d) -> a b^T / sqrt(d)."""
    return a @ b.transpose(-2, -1) * a.shape[-1] ** -0.5


@lru_cache(maxsize=4)
def gaussian_bias(
    grid: tuple[int, int], sigma: float, device: torch.device, prefix: int = 1
) -> torch.Tensor:
    """exp(-distance^2 / (2 sigma^2)) of all pairs of patches, added to logits before the softmax.

    Args:
        grid: (h, w) patches.
        sigma: patches.
        prefix: tokens before the patches, which get 0.

    Returns:
        (T, T), T = prefix + h*w.
    """
    return F.pad(gaussian(grid, sigma, device)(slice(None)), (prefix, 0, prefix, 0))


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    """(..., T, C) -> (..., T, T), of all pairs."""
    unit = F.normalize(vectors, dim=-1)
    return unit @ unit.transpose(-2, -1)


def above_mean(
    similarity: torch.Tensor, beta: float, gamma: float, mean: torch.Tensor | None = None
) -> torch.Tensor:
    """softmax of gamma (S - beta mean(S)) without its negative entries (ProxyCLIP).

    A token always attends to itself: where all similarities are near 1, nothing else is left.

    Args:
        similarity: (B, T, T).
        mean: what counts as the mean; None = that of each matrix.
    """
    if mean is None:
        mean = similarity.mean((-2, -1), keepdim=True)
    logits = gamma * (similarity - beta * mean)
    itself = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return logits.masked_fill((logits < 0) & ~itself, -torch.inf).softmax(-1)


def unit_map(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, h*w, D) -> (B, D, h, w) of unit vectors."""
    return F.normalize(tokens, dim=-1).transpose(1, 2).unflatten(2, grid)


def cosine_maps(features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(..., D, h, w), (N, D), all of unit length -> (..., N, h, w)."""
    return torch.einsum("nd,...dhw->...nhw", text, features)
