# SPDX-License-Identifier: Apache-2.0
"""PAMR (Araslanov and Roth, CVPR 2020): scores of pixels flow to neighbours of the same colour, as
the peer methods use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

STEPS, DILATIONS = 10, (8, 16)  # as NACLIP and ResCLIP use it
AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def pamr(
    image: torch.Tensor,
    maps: torch.Tensor,
    steps: int = STEPS,
    dilations: Sequence[int] = DILATIONS,
) -> torch.Tensor:
    """Each score becomes the mean of its neighbours', weighted by how like the pixel they look.

    Args:
        image: (3, H, W), normalised as the network sees it.
        maps: (Q, h, w) of any size, brought to the image's.
        steps: how often; 0 = never.
        dilations: px to the eight neighbours that a pixel is compared with.

    Returns:
        (Q, H, W).
    """
    maps = F.interpolate(maps[None], image.shape[1:], mode="bilinear", align_corners=True)[0]
    if not steps:
        return maps
    weights = _alikeness(image, dilations)
    for _ in range(steps):
        moved = torch.zeros_like(maps)
        for weight, neighbour in zip(weights, _neighbours(maps, dilations), strict=True):
            moved.addcmul_(weight, neighbour)  # all at once would be 16 times the maps
        maps = moved
    return maps


def _alikeness(image: torch.Tensor, dilations: Sequence[int]) -> torch.Tensor:
    """(neighbours, H, W): how much of each a pixel takes; they sum to 1."""
    around = torch.stack(list(_neighbours(image, dilations)))
    samples = torch.cat([around, image.expand(len(dilations), -1, -1, -1)])
    spread = samples.std(0)  # unbiased; the centre counts once for each distance
    return (-(image - around).abs() / (1e-8 + 0.1 * spread)).mean(1).softmax(0)


def _neighbours(maps: torch.Tensor, dilations: Sequence[int]) -> Iterator[torch.Tensor]:
    """(C, H, W) maps, shifted to each neighbour; beyond the rim as at the rim."""
    height, width = maps.shape[1:]
    for reach in dilations:
        wide = F.pad(maps[None], [reach] * 4, mode="replicate")[0]
        for y, x in AROUND:
            top, left = reach * (1 + y), reach * (1 + x)
            yield wide[:, top : top + height, left : left + width]
