# SPDX-License-Identifier: Apache-2.0
"""ResCLIP (Yang et al., CVPR 2025; arXiv 2411.15851): attention of middle blocks joins the last
one (RCS), and a first segmentation says which patches belong together (SFR; docs/method.md 5.5).

With SFR the features depend on the labels, so that a map of them could not be asked for others: it
serves maps of probabilities only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...config import option
from ...datatypes import CheckpointError
from ..feedback import feedback, first_labels
from .attention import cosine_maps, gaussian_bias, scaled, unit_map
from .encoder import ClipConfig, ClipEncoder
from .towers.clip import normalised

MIDDLE = range(6, 10)  # blocks, counted from 1, whose attention is added


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
                "with SFR its features depend on the labels (option sfr=off leaves it out)"
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
        seen = normalised(images[..., : grid[0] * tower.patch, : grid[1] * tower.patch])
        pairs = zip(cosine_maps(first, text), seen, strict=True)
        sfr = F.pad(torch.stack([self.sfr(*pair) for pair in pairs]), (1, 0, 1, 0))[:, None]
        share, tau = self.config.lambda_s, self.config.tau_s
        logits = tau * ((1 - share) * scaled(k, k) + share * sfr) + bias
        return self._attended(logits, middle.mean(0), v, grid)

    def _attended(
        self, logits: torch.Tensor, middle: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        share, tau = self.config.lambda_r, self.config.tau_r
        weights = tau * ((1 - share) * logits.softmax(-1) + share * middle)
        return unit_map(self.tower.project(self.tower.output(weights @ v)[:, 1:]), grid)

    def sfr(self, cosines: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """(N, h, w) of the first pass, (3, H, W) normalised -> (h*w, h*w): who heeds whom."""
        labels = first_labels(cosines, seen, self.logit_scale, self.config.threshold)
        matrix = feedback(labels, self.config.sigma)
        return matrix.half().float() if self.config.half else matrix


ENCODER = Resclip
