# SPDX-License-Identifier: Apache-2.0
"""Semantic feedback refinement (SFR) of ResCLIP: patches that a first answer gives one label attend
to each other (docs/method.md 2.7).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .pamr import pamr


def patch_labels(probabilities: torch.Tensor, threshold: float, patch: int) -> torch.Tensor:
    """The most frequent label of the pixels of each patch; the smallest on a tie.

    Args:
        probabilities: (N, H, W), of N labels at each pixel.
        threshold: a pixel whose best is below it has label 0, which means "unsure" as well.
        patch: side in px; divides H and W.

    Returns:
        (H / patch, W / patch) int64.
    """
    best, labels = probabilities.max(0)
    labels = labels.masked_fill(best < threshold, 0)
    cells = labels.unflatten(1, (-1, patch)).unflatten(0, (-1, patch)).transpose(1, 2).flatten(2)
    votes = torch.zeros(*cells.shape[:2], len(probabilities), device=labels.device)
    votes.scatter_add_(2, cells, torch.ones_like(cells, dtype=votes.dtype))
    return votes.argmax(-1)  # the first of equals


def feedback(labels: torch.Tensor, sigma: float) -> torch.Tensor:
    """How much each patch supports each other one: 0..1, the largest is 1.

    Patches of one label do, less where the way between them leads through others. Two properties of
    the published program are kept: it looks at the first n / N of the way only, n being the larger
    of the two distances and N the longest that there is; and it blurs along the flattened index,
    which runs over the ends of the grid's rows.

    Args:
        labels: (h, w) int64.
        sigma: patches, of the blur.

    Returns:
        (h w, h w) float32; row i is what patch i attends to.
    """
    rows = blurred_rows(support(labels), sigma)
    return rows / rows.max()


def support(labels: torch.Tensor) -> torch.Tensor:
    """(h, w) labels -> (h w, h w) float32, before the blur."""
    height, width = labels.shape
    longest = max(height, width, 2) - 1  # at least 1: it is divided by
    flat = labels.flatten()
    index = torch.arange(height * width, device=labels.device)
    y, x = index // width, index % width
    steps = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())
    straight = torch.ones_like(steps, dtype=torch.bool)
    for number, t in enumerate(torch.linspace(0, 1, longest + 1, device=labels.device)):
        at_y, at_x = ((place[:, None] * (1 - t) + place * t).round() for place in (y, x))
        met = flat[(at_y * width + at_x).long()]
        straight &= (met == flat[:, None]) | (steps < number)
    alike = (flat[:, None] == flat).float()
    return torch.where(straight, alike, alike * torch.exp(-steps / longest))


def blurred_rows(matrix: torch.Tensor, sigma: float) -> torch.Tensor:
    """Each row convolved with a Gaussian, zero beyond its ends, and divided by its sum."""
    size = min(len(matrix), int(6 * sigma + 1))
    size += 1 - size % 2
    away = torch.arange(size, device=matrix.device, dtype=torch.float32) - size // 2
    kernel = torch.exp(-(away**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    rows = F.conv1d(matrix[:, None], kernel[None, None], padding=size // 2)[:, 0]
    return rows / (rows.sum(1, keepdim=True) + 1e-8)


def first_labels(
    cosines: torch.Tensor, image: torch.Tensor, scale: float, threshold: float
) -> torch.Tensor:
    """The label that a first pass gives each patch of an image.

    Args:
        cosines: (N, h, w), of N texts.
        image: (3, H, W), normalised as the network sees it; along its edges scores are sharpened.
        scale: factor on the cosines before the softmax.
        threshold: pixels less probable than this count as of label 0.

    Returns:
        (h, w) int64.
    """
    size = image.shape[-2:]
    scores = F.interpolate(cosines[None], size, mode="bilinear", align_corners=False)[0]
    probabilities = (scale * pamr(image, scores)).softmax(0)
    return patch_labels(probabilities, threshold, size[0] // cosines.shape[1])
