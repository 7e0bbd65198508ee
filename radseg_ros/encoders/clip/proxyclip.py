# SPDX-License-Identifier: Apache-2.0
"""ProxyCLIP (Lan et al., ECCV 2024; arXiv 2408.04883): another network says which patches belong
together, CLIP says what they are (docs/method.md 5.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...config import option
from ...device import pick_device
from .attention import above_mean, cosines, unit_map
from .encoder import ClipConfig, ClipEncoder
from .towers.backbones import Backbone, load_backbone
from .towers.clip import ClipTower


@dataclass(frozen=True, slots=True)
class ProxyclipConfig(ClipConfig):
    """ProxyCLIP."""

    PREFIX: ClassVar[str] = "proxyclip."

    crop: int = option(
        336, "window side in px, rounded down to whole patches; 0 = single pass", low=0, high=8192
    )
    proxy: str = option(
        "facebook/dino-vitb8",
        "the other network, a folder or hub id: DINO, DINOv2 with registers, or SAM",
    )
    beta: float = option(1.2, "patches less alike than this many means do not attend", low=0)
    gamma: float = option(3.0, "how sharply they attend", low=0)


class Proxyclip(ClipEncoder):
    """Values of CLIP's last block, mixed by the similarities of another network, on its grid."""

    CONFIG = ProxyclipConfig
    config: ProxyclipConfig

    def __init__(self, config: ProxyclipConfig) -> None:
        device = pick_device(config.device, f"{config.PREFIX}device")
        self.proxy: Backbone = load_backbone(config.proxy, device, config.offline)
        super().__init__(config, self.proxy.hash)

    def features(self, images: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`ClipEncoder.features`, on the grid of the proxy."""
        proxy = self.proxy(images)
        similarity = cosines(proxy.flatten(2).transpose(1, 2))
        weights = above_mean(similarity, self.config.beta, self.config.gamma)
        tokens = borrowed(self.tower, self.tower.blocks(images)[-1], images, weights, proxy)
        return unit_map(self.tower.project(tokens), (proxy.shape[2], proxy.shape[3]))


def borrowed(
    tower: ClipTower,
    tokens: torch.Tensor,
    images: torch.Tensor,
    weights: torch.Tensor,
    proxy: torch.Tensor,
) -> torch.Tensor:
    """The last block's attention with the weights of another network.

    Args:
        tokens: (B, 1 + h*w, C) that enter it.
        images: (B, 3, H, W) they were made of.
        weights: (B, T, T), the same for all heads.
        proxy: (B, C', h', w'), whose T = h'*w' cells they are between.

    Returns:
        (B, T, C).
    """
    _, _, values = tower.qkv(tokens)
    side_by_side = values.transpose(1, 2).flatten(2)[:, 1:]
    grid, size = tower.grid(images), tuple(proxy.shape[2:])
    if grid != size:
        maps = side_by_side.transpose(1, 2).unflatten(2, grid)
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        side_by_side = maps.flatten(2).transpose(1, 2)
    return tower.out_projection(weights @ side_by_side)


ENCODER = Proxyclip
