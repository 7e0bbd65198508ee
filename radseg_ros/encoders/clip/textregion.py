# SPDX-License-Identifier: Apache-2.0
"""TextRegion (Xiao et al., TMLR 2025; arXiv 2505.23769): one vector for each region, CLIP's values
summed over its mask (docs/method.md 5.8).

Masks are an input of :meth:`Textregion.encode`, or what ``masker`` finds: SAM 2.1 where its weights
are, else nothing. Pixels in no region keep the vectors of patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from ...config import option
from ...datatypes import FeatureMap, InputError
from ...device import pick_device
from ..image import image_tensor
from .attention import cosine_maps, cosines, scaled, unit_map
from .encoder import ClipConfig, ClipEncoder
from .towers.clip import at_size
from .towers.masks import Sam2Masks

Masks = np.ndarray | torch.Tensor
Box = tuple[int, int, int, int]  # y0, x0, y1, x1


@dataclass(frozen=True, slots=True)
class TextregionConfig(ClipConfig):
    """TextRegion. There are no overlapping windows, so ``stride`` says nothing."""

    PREFIX: ClassVar[str] = "textregion."

    crop: int = option(
        336, "side in px that the image and its tiles are brought to, whole patches", low=1,
        high=8192,
    )  # fmt: skip
    sam: str = option(
        "",
        "SAM 2.1 that finds the regions, a folder or hub id (facebook/sam2.1-hiera-base-plus); "
        "empty = masks are given by a program, or there are none",
    )
    threshold: float = option(
        0.07,
        "patches that are no more alike to their regions than this beyond others are left out",
        low=-2,
        high=2,
    )


class Textregion(ClipEncoder):
    """Regions first, words afterwards."""

    CONFIG = TextregionConfig
    config: TextregionConfig
    logit_scale = 50.0

    def __init__(self, config: TextregionConfig) -> None:
        device = pick_device(config.device, "textregion.device")
        sam = Sam2Masks(config.sam, device, config.offline) if config.sam else None
        self.masker: Callable[[torch.Tensor], Masks] | None = sam  # (3, H, W) -> (R, H, W)
        super().__init__(config, *([sam.hash] if sam else []))

    @torch.no_grad()
    def encode(self, rgb: np.ndarray, masks: Masks | None = None) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> (D, h, w) unit vectors: of regions, as far
        as each covers a cell, elsewhere of the patches.

        Args:
            masks: (R, H, W) regions, 1 inside; they may overlap. None = what ``masker`` finds.

        Raises:
            InputError: the masks are of another size.
        """
        image = image_tensor(rgb, self.device)
        shown = self._masks(image, masks)
        values, patches = self.looked(image)
        vectors, kept = self.regions(values, shown)
        cover = at_size(shown[kept], patches.shape[1:]).clamp(0, 1)
        mixed = torch.einsum("rd,rhw->dhw", vectors, cover)
        return FeatureMap(F.normalize(torch.where(cover.sum(0) > 0, mixed, patches), dim=0))

    @torch.no_grad()
    def probabilities(
        self, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray, masks: Masks | None = None
    ) -> torch.Tensor:
        """As :meth:`ClipEncoder.probabilities`; scores of overlapping regions add up."""
        image = image_tensor(rgb, self.device)
        shown = self._masks(image, masks)
        text = F.normalize(torch.as_tensor(vectors, device=self.device).float(), dim=1)
        values, patches = self.looked(image)
        found, kept = self.regions(values, shown)
        cover = shown[kept].clamp(0, 1)
        scores = torch.einsum("rn,rhw->nhw", found @ text.T, cover)
        elsewhere = at_size(cosine_maps(patches, text), image.shape[1:])
        scores = torch.where(cover.sum(0) > 0, scores, elsewhere)
        return self.shares(self.refined(image, scores))

    def looked(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(3, H, W) in [0, 1] -> values of the last block (C, h, w), and vectors of patches (D, h,
        w): of the image as a whole, plus those of its tiles.
        """
        whole, tiles, boxes = self.tiles(image)
        images = torch.cat([whole[None], tiles])
        tokens, grid = self.tower.blocks(images)[-1], self.tower.grid(images)
        q, k, v = self.tower.qkv(tokens)
        values = v.transpose(1, 2).flatten(2)[:, 1:].transpose(1, 2).unflatten(2, grid)
        weights = scaled(q, q).softmax(-1) + scaled(k, k).softmax(-1)
        kept = self.tower.kept(tokens, self.tower.output(weights @ v))
        patches = unit_map(self.tower.project(kept[:, 1:]), grid)
        return self._together(values, boxes), self._together(patches, boxes)

    def tiles(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[Box]]:
        """(3, H, W) -> the image and its tiles (N, 3, crop, crop), row by row, and where they were.

        What bicubic resizing takes beyond 0 and 1 is kept, as the authors do.
        """
        boxes = tile_boxes((image.shape[1], image.shape[2]), self.crop)
        parts = [image, *(image[:, y0:y1, x0:x1] for y0, x0, y1, x1 in boxes)]
        size = (self.crop, self.crop)
        made = [
            F.interpolate(part[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
            for part in parts
        ]
        return made[0], torch.stack(made[1:]), boxes

    def regions(
        self, values: torch.Tensor, masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One vector for each region.

        Args:
            values: (C, h, w).
            masks: (R, H, W).

        Returns:
            (K, D) unit vectors, and the (K,) numbers of the masks that they belong to: those of
            which something is left on the grid.
        """
        shown = at_size(masks, values.shape[1:]).clamp(0, 1).flatten(1)
        there = shown.any(1).nonzero()[:, 0]
        tokens = values.flatten(1).T
        own = without_global(shown[there], tokens, self.config.threshold)
        left = own.any(1)
        pooled = self.tower.out_projection(own[left] @ tokens)
        return F.normalize(self.tower.project(pooled), dim=1), there[left]

    def _together(self, maps: torch.Tensor, boxes: list[Box]) -> torch.Tensor:
        """(1 + N, C, p, p), the whole image first -> (C, rows p, columns p), their sum."""
        columns = sum(box[0] == boxes[0][0] for box in boxes)
        rows = maps[1:].unflatten(0, (-1, columns))
        tiled = rows.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
        return at_size(maps[0], tiled.shape[1:]) + tiled

    def _masks(self, image: torch.Tensor, masks: Masks | None) -> torch.Tensor:
        """(R, H, W) float32 on the device."""
        size = tuple(image.shape[1:])
        if masks is None:
            masks = self.masker(image) if self.masker else image.new_zeros(0, *size)
        found = torch.as_tensor(masks, dtype=torch.float32, device=self.device)
        if found.ndim != 3 or tuple(found.shape[1:]) != size:
            shape = tuple(found.shape)
            raise InputError(f"masks must be (regions, {size[0]}, {size[1]}), got {shape}")
        return found


def tile_boxes(size: tuple[int, int], crop: int) -> list[Box]:
    """Tiles of about ``crop`` px that cover an image of ``size`` (H, W), row by row; the last ones
    are pushed back inside.
    """
    ends = []
    for length in size:
        count = max(length // crop, 1)
        side = math.ceil(length / count)
        begins = [min(i * side, length - side) for i in range(count)]
        ends.append([(begin, begin + side) for begin in begins])
    return [(y0, x0, y1, x1) for y0, y1 in ends[0] for x0, x1 in ends[1]]


def without_global(masks: torch.Tensor, tokens: torch.Tensor, threshold: float) -> torch.Tensor:
    """Masks without the cells whose values speak of the whole image rather than of their region.

    Args:
        masks: (R, T) in 0..1.
        tokens: (T, C) values of the cells.
        threshold: of a cell's mean cosine with its regions, less that with the others.
    """
    inside = (masks > 0).to(tokens.dtype)
    alike = cosines(tokens) @ inside.T / (inside.sum(1) + 1e-9)
    own, others = inside.T, 1 - inside.T
    with_own = (alike * own).sum(1) / (own.sum(1) + 1e-9)
    with_others = (alike * others).sum(1) / (others.sum(1) + 1e-9)
    return masks * (with_own - with_others >= threshold)


ENCODER = Textregion
