# SPDX-License-Identifier: Apache-2.0
"""ResRADIO: attention as in between, of blocks before the last one, and to what a first answer
finds alike (docs/method.md 2.7).

Derived from ResCLIP, since the authors' program was never released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ...feedback import feedback
from ...gaussian import gaussian
from .block import Block, key_attention


@dataclass(frozen=True, slots=True)
class SecondLook:
    """SFR: the labels of a first pass are part of what patches attend by in a second."""

    labels: Callable[[torch.Tensor], torch.Tensor]  # (B, h w, C) patches -> (B, h, w) int64
    tau_s: float  # factor on keys and labels
    lambda_s: float  # share of the labels


def blocks_seen(depth: int, first: int = 0, last: int = 0) -> range:
    """Which of ``depth`` blocks ResRADIO looks at, counted from 0.

    Args:
        depth: of the network.
        first, last: counted from 1; 0 = 6 and 9 of 12, and in proportion of other depths; of fewer
            than four blocks, all before the last one.
    """
    usual = range(depth * 5 // 12, depth * 9 // 12) if depth > 3 else range(depth - 1)
    return range(first - 1 if first else usual.start, last or usual.stop)


def resradio(
    block: Block, sigma: float, tau_r: float, lambda_r: float, second: SecondLook | None = None
) -> torch.Tensor:
    """tau_r ((1 - lambda_r) A + lambda_r R) v with A = softmax(k k^T / sqrt(d) + G).

    R is the mean attention of the blocks of ``block.earlier``. It is never made: each of them
    attends to the values of this block. The second look makes A that of the keys and of its labels:
    softmax(tau_s ((1 - lambda_s) k k^T / sqrt(d) + lambda_s F) + G).

    Args:
        block: the last one of RADIO.
        sigma: patches, of the Gaussian G and of the blur in F.
        tau_r: factor on all.
        lambda_r: share of the earlier blocks.
        second: None = one pass, which needs no labels (RCS).

    Returns:
        (B, h w, C).
    """
    near, before = gaussian(block.grid, sigma, block.tokens.device), _as_before(block)

    def mixed(own: torch.Tensor) -> torch.Tensor:
        return block.merge(tau_r * torch.lerp(own, before, lambda_r))

    first = mixed(key_attention(block, near))
    if second is None:
        return first
    labels = second.labels(block.complete(first))
    alike = torch.stack([feedback(each, sigma) for each in labels])[:, None]
    factor = second.tau_s * second.lambda_s
    scale = second.tau_s * (1 - second.lambda_s) * block.scale
    return mixed(
        key_attention(
            block, lambda rows: factor * alike[:, :, rows] + near(rows), scale, len(labels)
        )
    )


def _as_before(block: Block) -> torch.Tensor:
    """R v: (B, heads, h w, d)."""
    seen = [
        F.scaled_dot_product_attention(block.patches(query), key, block.value, scale=block.scale)
        for query, key in block.earlier
    ]
    return torch.stack(seen).mean(0)
