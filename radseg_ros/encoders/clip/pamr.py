# SPDX-License-Identifier: Apache-2.0
"""PAMR (Araslanov and Roth, CVPR 2020): scores of pixels drift to neighbours of the same colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def pamr(
    image: torch.Tensor, maps: torch.Tensor, steps: int, dilations: Sequence[int]
) -> torch.Tensor:
    """Refine ``maps`` along the colours of ``image``.

    Args:
        image: (3, H, W).
        maps: (Q, h, w) of any size, brought to the image's.
        steps: of the diffusion; 0 = none.
        dilations: px to the eight neighbours that a pixel is compared with.

    Returns:
        (Q, H, W).
    """
    size = tuple(image.shape[1:])
    if tuple(maps.shape[1:]) != size:
        maps = F.interpolate(maps[None], size, mode="bilinear", align_corners=True)[0]
    if not steps:
        return maps
    weights = _affinity(image, dilations)
    for _ in range(steps):
        moved = torch.zeros_like(maps)
        for weight, neighbour in zip(weights, _neighbours(maps, dilations), strict=True):
            moved.addcmul_(weight, neighbour)
        maps = moved
    return maps


def _affinity(image: torch.Tensor, dilations: Sequence[int]) -> torch.Tensor:
    """(8 n, H, W): how much of each neighbour a pixel takes; sums to 1."""
    around = torch.stack(list(_neighbours(image, dilations)))
    samples = torch.cat([around, image.expand(len(dilations), -1, -1, -1)])
    spread = samples.std(0)  # unbiased; the centre counts once for every dilation
    logits = -((image - around).abs() / (1e-8 + 0.1 * spread)).mean(1)
    return logits.softmax(0)


def _neighbours(maps: torch.Tensor, dilations: Sequence[int]) -> Iterator[torch.Tensor]:
    """Views of (Q, H, W) ``maps``, each moved by one neighbour's place; the rim is repeated."""
    height, width = maps.shape[1:]
    for reach in dilations:
        wide = F.pad(maps[None], (reach,) * 4, mode="replicate")[0]
        for y, x in AROUND:
            top, left = reach * (1 + y), reach * (1 + x)
            yield wide[:, top : top + height, left : left + width]
