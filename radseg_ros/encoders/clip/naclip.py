# SPDX-License-Identifier: Apache-2.0
"""NACLIP (Hajimiri et al., WACV 2025; arXiv 2404.08181): patches attend to those with similar keys
nearby (docs/method.md 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...config import option
from .attention import gaussian_bias, unit_map
from .encoder import ClipConfig, ClipEncoder


@dataclass(frozen=True, slots=True)
class NaclipConfig(ClipConfig):
    """NACLIP."""

    PREFIX: ClassVar[str] = "naclip."

    sigma: float = option(5.0, "patches; how far neighbours reach", low=0.01, high=1e4)
    keep_block: bool = option(
        False, "keep residual and MLP of the last block (the authors' vanilla architecture)"
    )


class Naclip(ClipEncoder):
    """softmax(k k^T / sqrt(d) + Gaussian of the distance) in the last block, which ends there."""

    CONFIG = NaclipConfig
    config: NaclipConfig

    def features(self, images: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`ClipEncoder.features`."""
        tower, grid = self.tower, self.tower.grid(images)
        tokens = tower.blocks(images)[-1]
        _, k, v = tower.qkv(tokens)
        bias = gaussian_bias(grid, self.config.sigma, images.device)
        mixed = F.scaled_dot_product_attention(k, k, v, attn_mask=bias)
        out = tower.output(mixed)
        if self.config.keep_block:
            out = tower.kept(tokens, out)
        return unit_map(tower.project(out[:, 1:]), grid)


ENCODER = Naclip
