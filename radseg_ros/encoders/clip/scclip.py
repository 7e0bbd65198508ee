# SPDX-License-Identifier: Apache-2.0
"""SC-CLIP (Bai et al., arXiv 2411.15869): CLIP's own middle blocks repair and sharpen its last one
(docs/method.md 5.3).

Blocks are counted from 1, and tokens are named by the block that they leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...config import option
from ...datatypes import CheckpointError
from .attention import above_mean, cosines, scaled, unit_map
from .encoder import ClipConfig, ClipEncoder

SIMILAR, COARSE, FUSED = 9, 4, range(4, 11)  # blocks that say what is alike, and that are added
NEIGHBOURS, QUANTILE = 30, 0.95  # of the local outlier factor; patches beyond the quantile are bad
GAMMA = 3.0


@dataclass(frozen=True, slots=True)
class ScclipConfig(ClipConfig):
    """SC-CLIP."""

    PREFIX: ClassVar[str] = "scclip."

    beta: float = option(0.4, "patches less alike than this cosine share nothing", low=-1, high=1)
    class_share: float = option(0.3, "of the class token that every patch gets", low=0, high=10)


class Scclip(ClipEncoder):
    """Outliers of the last block but one are replaced by their neighbours, patches averaged with
    those that a middle block calls similar, and middle blocks fused in.

    Raises:
        CheckpointError: the tower has too few blocks.
    """

    CONFIG = ScclipConfig
    config: ScclipConfig

    def __init__(self, config: ScclipConfig) -> None:
        super().__init__(config)
        if self.tower.depth <= max(FUSED):
            raise CheckpointError(
                f"{config.checkpoint}: SC-CLIP looks into block {max(FUSED)} of a CLIP, and needs "
                f"more than as many; this one has {self.tower.depth}"
            )

    def features(self, images: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`ClipEncoder.features`."""
        grid = self.tower.grid(images)
        own, fused = self.parts(self.tower.blocks(images), grid)
        return unit_map(self.tower.project(own + fused), grid)

    def parts(
        self, x: list[torch.Tensor], grid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens after each block -> what comes of the last one, and of the fused ones: each (B,
        h*w, C), to be added.
        """
        beta = self.config.beta
        patches, similar = repaired([x[-1][:, 1:], x[SIMILAR][:, 1:]], grid)
        alike = cosines(similar)
        coarse = cosines(x[COARSE][:, 1:])
        own = self._attended(averaged(patches, alike, beta), x[-1][:, :1], alike)
        total = torch.stack([x[block] for block in FUSED]).sum(0)
        fused = self._attended(total[:, 1:], total[:, :1], alike)
        return averaged(own, coarse, beta), averaged(fused, coarse, beta)

    def _attended(
        self, patches: torch.Tensor, class_token: torch.Tensor, alike: torch.Tensor
    ) -> torch.Tensor:
        """The last block's attention among patches: by their keys, and by what is alike."""
        _, k, v = self.tower.qkv(patches)
        shared = above_mean(alike, 1.0, GAMMA)[:, None]
        mixed = (scaled(k, k).softmax(-1) + shared) / 2 @ v
        return self.tower.output(mixed) + self.config.class_share * class_token


def outlier_scores(patches: torch.Tensor) -> torch.Tensor:
    """(B, T, C) -> (B, T): how lonely a patch is against its nearest ones; about 1 is ordinary.

    The local outlier factor, with the squared distance to the 30th neighbour as the reach: the
    authors' form of it.
    """
    squares = patches.square().sum(-1)
    distance = squares[:, :, None] + squares[:, None] - 2 * patches @ patches.transpose(1, 2)
    distance = distance.clamp_min(0).diagonal_scatter(
        torch.full_like(squares, torch.inf), dim1=1, dim2=2
    )
    count = min(NEIGHBOURS, patches.shape[1] - 1)
    near, who = distance.topk(count, dim=-1, largest=False)
    reach = near[..., -1].clamp_min(1e-12)
    theirs = reach.gather(1, who.flatten(1)).unflatten(1, (-1, count))
    return (reach[..., None] / theirs).mean(-1)


def repaired(maps: list[torch.Tensor], grid: tuple[int, int]) -> list[torch.Tensor]:
    """Replace outliers of the first of ``maps`` (B, h*w, C) in all of them by the mean of those of
    their eight neighbours that are none.
    """
    if maps[0].shape[1] < 3:
        return maps
    scores = outlier_scores(maps[0])
    bad = scores > scores.quantile(QUANTILE, dim=1, keepdim=True)
    good = (~bad).float().unflatten(1, (1, *grid))
    count = _around(good).flatten(1)[..., None]
    replace = bad[..., None] & (count > 0)
    found = []
    for tokens in maps:
        around = _around(tokens.transpose(1, 2).unflatten(2, grid) * good).flatten(2)
        mean = around.transpose(1, 2) / count.clamp_min(1)
        found.append(torch.where(replace, mean, tokens))
    return found


def _around(maps: torch.Tensor) -> torch.Tensor:
    """Sums over 3 x 3 cells; nothing lies beyond the rim."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1, divisor_override=1)


def averaged(tokens: torch.Tensor, alike: torch.Tensor, beta: float) -> torch.Tensor:
    """(B, T, C) -> the mean over tokens that are at least ``beta`` alike, weighted by that."""
    weights = alike.masked_fill(alike < beta, 0)
    return weights @ tokens / (weights.sum(-1, keepdim=True) + 1e-6)


ENCODER = Scclip
