# SPDX-License-Identifier: Apache-2.0
"""Probability maps and what is made of them: labels, prompt denoising, classes of many names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What is where in one image."""

    probabilities: torch.Tensor  # (Q, H, W)
    best: torch.Tensor  # (H, W) int64; 1..Q, 0 = none

    @classmethod
    def of(cls, maps: torch.Tensor) -> Segmentation:
        """(Q, H, W) probabilities, and everywhere the most probable label."""
        return cls(maps, label_map(maps))

    def labels(self, threshold: float = 0.0) -> torch.Tensor:
        """(H, W) int64: 1..Q, and 0 = ignore where nothing is left or nothing reaches
        ``threshold``.
        """
        return torch.where(self.probabilities.amax(0) >= threshold, self.best, 0)


def label_map(maps: torch.Tensor) -> torch.Tensor:
    """(Q, H, W) probabilities -> (H, W) int64: 1..Q, and 0 where every probability is 0."""
    confidence, best = maps.max(0)
    return torch.where(confidence > 0, best + 1, 0)


def denoise(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    """Prompt denoising, in place: maps of (Q, H, W) that stay below ``threshold`` everywhere become
    0, without renormalising.
    """
    maps[maps.amax((1, 2)) < threshold] = 0.0
    return maps


def merge_synonyms(maps: torch.Tensor, classes: Sequence[Sequence[str]]) -> torch.Tensor:
    """One map per name, in the order of ``classes`` -> one map per class: its best name, pixel by
    pixel.

    Args:
        maps: (Q, H, W), Q = number of all names.
        classes: the names of each class.
    """
    if all(len(names) == 1 for names in classes):
        return maps
    return torch.stack([part.amax(0) for part in maps.split([len(names) for names in classes])])
