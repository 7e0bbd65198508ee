# SPDX-License-Identifier: Apache-2.0
"""NARADIO: keys attend to keys, and to what is near (RayFronts, after NACLIP; docs/method.md
2.7).
"""

from __future__ import annotations

import torch

from ...gaussian import gaussian
from .block import Block, key_attention


def naradio(block: Block, sigma: float, transposed: bool = False) -> torch.Tensor:
    """softmax(k k^T / sqrt(d) + G) v, with G a Gaussian over the distance of patches.

    Args:
        block: the last one of RADIO.
        sigma: patches, of the Gaussian.
        transposed: lay the Gaussian out for a (w, h) grid, as the published program does; where
            h = w that is the same.

    Returns:
        (B, h w, C).
    """
    grid = block.grid[::-1] if transposed else block.grid
    return block.merge(key_attention(block, gaussian(grid, sigma, block.tokens.device)))
