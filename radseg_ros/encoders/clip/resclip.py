# SPDX-License-Identifier: Apache-2.0
"""ResCLIP (Yang et al., CVPR 2025; arXiv 2411.15851): attention of middle blocks joins the last
one (RCS), and a first segmentation says which patches belong together (SFR; docs/method.md 5.5).

With SFR the features depend on the labels, so that a map of them could not be asked for others: it
serves maps of probabilities only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...config import option
from ...datatypes import CheckpointError
from .attention import cosine_maps, gaussian_bias, scaled, unit_map
from .encoder import DILATIONS, ClipConfig, ClipEncoder
from .pamr import pamr
from .towers.clip import at_size, normalised

MIDDLE = range(6, 10)  # blocks, counted from 1, whose attention is added
PAMR_STEPS = 10  # of the first segmentation
ROWS_AT_ONCE = 1 << 24  # points on straight ways; bounds the memory


@dataclass(frozen=True, slots=True)
class ResclipConfig(ClipConfig):
    """ResCLIP. The defaults are those for ADE20K; the authors chose others for each data set."""

    PREFIX: ClassVar[str] = "resclip."

    sfr: bool = option(
        True, "a first segmentation steers attention: features depend on the labels (SFR)"
    )
    sigma: float = option(5.0, "patches; how far neighbours reach", low=0.01, high=1e4)
    threshold: float = option(
        0.25, "pixels of the first segmentation below it are of the first label", low=0, high=1
    )
    tau_s: float = option(2.1, "sharpness of attention with SFR", low=0)
    lambda_s: float = option(0.7, "share of SFR", low=0, high=1)
    tau_r: float = option(2.0, "factor on the attention with RCS", low=0)
    lambda_r: float = option(0.3, "share of the middle blocks' attention (RCS)", low=0, high=1)
    half: bool = option(True, "round the matrix of SFR to half precision, as the authors do")


class Resclip(ClipEncoder):
    """Two passes of the last block: the second one knows what the first one saw.

    Raises:
        CheckpointError: the tower has too few blocks.
    """

    CONFIG = ResclipConfig
    config: ResclipConfig

    def __init__(self, config: ResclipConfig) -> None:
        super().__init__(config)
        if self.tower.depth < max(MIDDLE):
            raise CheckpointError(
                f"{config.checkpoint}: ResCLIP looks into block {max(MIDDLE)} of a CLIP; this one "
                f"has {self.tower.depth}"
            )
        if config.sfr:
            self.labels_only = (
                "with SFR its features depend on the labels (resclip without: sfr=off)"
            )

    def features(self, images: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`ClipEncoder.features`; with SFR where there are texts."""
        tower, grid = self.tower, self.tower.grid(images)
        x = tower.blocks(images)
        middle = torch.stack([scaled(*tower.qkv(x[b - 1], b - 1)[:2]).softmax(-1) for b in MIDDLE])
        _, k, v = tower.qkv(x[-1])
        bias = gaussian_bias(grid, self.config.sigma, images.device)
        first = self._attended(scaled(k, k) + bias, middle.mean(0), v, grid)
        if text is None or not self.config.sfr:
            return first
        pairs = zip(images, first, strict=True)
        labels = torch.stack([self.patch_labels(*pair, text) for pair in pairs])
        sfr = torch.stack([self.sfr(each) for each in labels])
        sfr = F.pad(sfr, (1, 0, 1, 0))[:, None]
        share, tau = self.config.lambda_s, self.config.tau_s
        logits = tau * ((1 - share) * scaled(k, k) + share * sfr) + bias
        return self._attended(logits, middle.mean(0), v, grid)

    def _attended(
        self, logits: torch.Tensor, middle: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        share, tau = self.config.lambda_r, self.config.tau_r
        weights = tau * ((1 - share) * logits.softmax(-1) + share * middle)
        return unit_map(self.tower.project(self.tower.output(weights @ v)[:, 1:]), grid)

    def first_probabilities(
        self, image: torch.Tensor, features: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """(3, H, W) in [0, 1], (D, h, w), (N, D) -> (N, H, W) of the first pass."""
        scores = at_size(cosine_maps(features, text), image.shape[1:])
        scores = pamr(normalised(image), scores, PAMR_STEPS, DILATIONS)
        return (self.logit_scale * scores).softmax(0)

    def patch_labels(
        self, image: torch.Tensor, features: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        """As above -> (h, w) int64: the most frequent label of the pixels of each patch, the
        smallest on a tie.
        """
        best, label = self.first_probabilities(image, features, text).max(0)
        label = torch.where(best < self.config.threshold, 0, label)
        height, width = features.shape[1:]
        label = label[: height * self.patch, : width * self.patch]
        tiles = label.unflatten(0, (height, -1)).unflatten(2, (width, -1)).transpose(1, 2)
        place = torch.arange(height * width, device=label.device)[:, None] * len(text)
        keys = (place + tiles.flatten(2).flatten(0, 1)).flatten()
        counts = torch.bincount(keys, minlength=height * width * len(text))
        return counts.view(height, width, len(text)).argmax(-1)

    def sfr(self, labels: torch.Tensor) -> torch.Tensor:
        """(h, w) labels of patches -> (h*w, h*w), at most 1: who should attend to whom."""
        matrix = blurred(same_label(labels), self.config.sigma)
        matrix = matrix / matrix.max()
        return matrix.half().float() if self.config.half else matrix


def same_label(labels: torch.Tensor, decay: bool = True) -> torch.Tensor:
    """(h, w) labels -> (h*w, h*w): 1 for patches of one label, less by their distance where other
    labels lie between them.

    Only the first n / N of the straight way between two patches n apart is looked at (N = longer
    side - 1), as in the authors' program.

    Args:
        decay: off = 1 for all patches of one label.
    """
    height, width = labels.shape
    flat, device = labels.flatten(), labels.device
    same = (flat[:, None] == flat).float()
    steps = max(height, width) - 1
    if not decay or not steps:
        return same
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    apart = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())
    t = torch.linspace(0, 1, steps + 1, device=device)
    rows = max(1, ROWS_AT_ONCE // (len(flat) * (steps + 1)))
    for part in torch.arange(len(flat), device=device).split(rows):
        way = [
            (place[part, None, None].float() * (1 - t) + place[:, None].float() * t).round().long()
            for place in (y, x)
        ]
        other = flat[way[0] * width + way[1]] != flat[part, None, None]
        other &= torch.arange(steps + 1, device=device) <= apart[part, :, None]
        same[part] *= torch.where(other.any(-1), torch.exp(-apart[part] / steps), 1.0)
    return same


def blurred(matrix: torch.Tensor, sigma: float) -> torch.Tensor:
    """(T, T) -> each row blurred along the flattened patch index, and brought to the sum 1."""
    size = min(len(matrix), math.floor(6 * sigma + 1))
    half = (size + (size % 2 == 0)) // 2
    offset = torch.arange(-half, half + 1, dtype=torch.float32, device=matrix.device)
    weights = torch.exp(-offset.square() / (2 * sigma**2))
    found = F.conv1d(matrix[:, None], (weights / weights.sum())[None, None], padding=half)[:, 0]
    return found / (found.sum(1, keepdim=True) + 1e-8)


ENCODER = Resclip
