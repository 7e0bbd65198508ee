# SPDX-License-Identifier: Apache-2.0
"""Trident (Shi et al., ICCV 2025; arXiv 2411.09219): windows of CLIP, mixed as DINO says, stitched,
and mixed once more over the whole image as SAM says (docs/method.md 5.7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...config import option
from ...datatypes import CheckpointError
from ...device import pick_device
from ..windows import resized, stitch
from .attention import above_mean, cosine_maps, cosines, unit_map
from .encoder import ClipConfig, ClipEncoder
from .proxyclip import borrowed
from .towers.backbones import Sam, load_backbone
from .towers.clip import IMAGENET_MEAN, IMAGENET_STD, at_size, normalised
from .towers.weights import load_weights

LOW, HIGH = 0.6, 0.9  # thresholds of alike below 0 become the first, those above the second it


@dataclass(frozen=True, slots=True)
class TridentConfig(ClipConfig):
    """Trident."""

    PREFIX: ClassVar[str] = "trident."

    crop: int = option(
        336, "window side in px, rounded down to whole patches; 0 = single pass", low=0, high=8192
    )
    stride: int = option(
        224, "window stride in px, whole patches, at most the crop", low=1, high=8192
    )
    proxy: str = option(
        "facebook/dino-vitb16",
        "what mixes the patches of a window, a folder or hub id: DINO or DINOv2 with registers",
    )
    sam: str = option(
        "facebook/sam-vit-base", "what mixes the whole image: SAM, a folder or hub id"
    )
    beta: float = option(1.2, "patches less alike than this many means do not attend", low=0)
    gamma: float = option(3.0, "how sharply they attend", low=0)
    cos_fac: float = option(
        1.2, "places that SAM finds less alike than this many means share nothing", low=0
    )
    refine_neg_cos: bool = option(
        True, "take a negative mean as it is; off = as 0.6 (the authors: off for ADE20K, cities)"
    )


class Trident(ClipEncoder):
    """CLIP's values on SAM's grid. One forward pass of three networks, the last over the image.

    Raises:
        CheckpointError: weights cannot be had, are damaged, or of another kind.
    """

    CONFIG = TridentConfig
    config: TridentConfig

    def __init__(self, config: TridentConfig) -> None:
        device = pick_device(config.device, "trident.device")
        self.proxy = load_backbone(config.proxy, device, config.offline)
        weights = load_weights(config.sam, ("sam", "sam_vision_model"), config.offline)
        self.sam_tower = Sam(weights, device)
        if not self.sam_tower.attends_globally:
            raise CheckpointError(f"{config.sam}: the last block of this SAM sees windows only")
        super().__init__(config, self.proxy.hash, weights.hash)

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """As :meth:`ClipEncoder.feature_map`, on the grid of SAM's patches."""
        attention, values = self.looks(image)
        rules = (self.config.cos_fac, self.config.refine_neg_cos)
        return self.mixed(self.stitched(image), affinity(attention, values, *rules), values)

    def pixel_scores(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """As :meth:`ClipEncoder.pixel_scores`."""
        scores = at_size(cosine_maps(self.feature_map(image), text), image.shape[1:])
        return self.refined(image, scores)

    def looks(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How SAM's last block attends to (3, H, W) in [0, 1]; see :meth:`Sam.last_attention`."""
        side, patch = self.sam_tower.side, self.sam_tower.patch
        even = [math.ceil(length / patch) * patch for length in image.shape[1:]]
        size = [int(length * side / max(even) + 0.5) for length in even]
        seen = normalised(at_size(at_size(image, even), size), IMAGENET_MEAN, IMAGENET_STD)
        padded = F.pad(seen, (0, side - size[1], 0, side - size[0]))
        valid = max(size[0] // patch, 1), max(size[1] // patch, 1)
        return self.sam_tower.last_attention(padded[None], valid)

    def stitched(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) in [0, 1] -> (C, h r, w r), before the final norm: r cells per patch."""
        patch = self.patch
        image = at_size(image, resized(image.shape[1:], self.crop, patch, patch))
        places, side = self._places(image), self.crop or max(image.shape)
        images = torch.stack([image[:, y : y + side, x : x + side] for y, x in places])
        windows = self.window_tokens(images, self.proxy(images))
        grid, found = self.tower.grid(images), windows.shape[2:]
        cells = round(found[0] / grid[0]) if found[1] % grid[1] else found[1] // grid[1]
        cells = max(cells, 1)
        windows = at_size(windows, [length * cells for length in grid])
        out = image.new_zeros(
            windows.shape[1], *(length // patch * cells for length in image.shape[1:])
        )
        return stitch(windows, [(y // patch * cells, x // patch * cells) for y, x in places], out)

    def window_tokens(self, images: torch.Tensor, proxy: torch.Tensor) -> torch.Tensor:
        """All windows of an image, (B, 3, H, W) and (B, C', h, w) -> (B, C, h, w).

        What counts as alike is measured over all windows together.
        """
        alike = cosines(proxy.flatten(2).transpose(1, 2))
        weights = above_mean(alike, self.config.beta, self.config.gamma, alike.mean())
        tokens = borrowed(self.tower, self.tower.blocks(images)[-1], images, weights, proxy)
        return tokens.transpose(1, 2).unflatten(2, tuple(proxy.shape[2:]))

    def mixed(
        self, stitched: torch.Tensor, weights: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """(C, h, w), (T, T), (heads, h', w', d) -> (D, h', w') unit vectors, T = h'*w'."""
        grid = (values.shape[1], values.shape[2])
        tokens = weights @ at_size(stitched, grid).flatten(1).T
        return unit_map(self.tower.project(tokens)[None], grid)[0]


def affinity(
    attention: torch.Tensor, values: torch.Tensor, cos_fac: float, refine_neg_cos: bool
) -> torch.Tensor:
    """Which places belong together, as SAM sees it.

    Args:
        attention: (heads, T, T).
        values: (heads, h, w, d), h*w = T.

    Returns:
        (T, T), rows sum to 1: attention between places whose values are alike in that head.
    """
    unit = F.normalize(values.flatten(1, 2), dim=-1)
    mean = torch.einsum("mtd,md->t", unit, unit.mean(1)) / len(unit)
    limit = cos_fac * mean[:, None]
    if not refine_neg_cos:
        limit = torch.where(limit < 0, LOW, limit)
    limit = torch.where(limit > HIGH, HIGH, limit)
    total = torch.zeros_like(attention[0])
    for head, own in zip(attention, unit, strict=True):  # one at a time: all are gigabytes
        total += head.masked_fill(own @ own.T <= limit, 0)
    return total / total.sum(1, keepdim=True)


ENCODER = Trident
