# SPDX-License-Identifier: Apache-2.0
"""2D open-vocabulary segmentation with any encoder (SPEC 2.5): probability maps and label maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from .datatypes import FeatureMap, InputError, check_rgb

if TYPE_CHECKING:
    from .encoder import Encoder


@torch.inference_mode()
def probabilities(
    encoder: Encoder,
    rgb: np.ndarray,
    vectors: torch.Tensor | np.ndarray,
    size: tuple[int, int] | None = None,
    denoise_threshold: float = 0.5,
) -> torch.Tensor:
    """Probability of each text at each pixel.

    Args:
        encoder: any encoder.
        rgb: (H, W, 3) RGB, uint8 or float32 in [0, 1].
        vectors: (Q, D) text vectors, as ``embed_labels`` or ``embed_prompts`` give them.
        size: (H, W) of the result; None = the size of the image.
        denoise_threshold: texts whose probability stays below this everywhere are set to 0 (prompt denoising); 0 = off.

    Returns:
        (Q, H, W) float32 on the encoder's device; sums to 1 over the texts, less what denoising removed.

    Raises:
        InputError: ``vectors`` has the wrong shape, or rgb is not an image.
    """
    rgb = check_rgb(rgb)
    maps = _enlarge(_patch_probabilities(encoder, rgb, vectors), size or rgb.shape[:2])
    maps[maps.amax((1, 2)) < denoise_threshold] = 0.0
    return maps


@torch.inference_mode()
def probability_map(
    encoder: Encoder, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray, denoise_threshold: float = 0.5
) -> FeatureMap:
    """The same probabilities per patch, (Q, h, w): what a map in probability space stores.

    Enlarged to the size of the image it equals :func:`probabilities`, without ever holding Q images.
    """
    rgb = check_rgb(rgb)
    patches = _patch_probabilities(encoder, rgb, vectors)
    for text in patches:  # enlarging never raises a maximum: only texts that pass here have to be looked at in full
        if text.amax() < denoise_threshold or _enlarge(text[None], rgb.shape[:2]).amax() < denoise_threshold:
            text.zero_()
    return FeatureMap(patches)


def _patch_probabilities(encoder: Encoder, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
    """(Q, h, w) softmax over the texts of the scaled cosine."""
    vectors = torch.as_tensor(vectors, dtype=torch.float32, device=encoder.device)
    if vectors.ndim != 2 or vectors.shape[1] != encoder.language_channels or not len(vectors):
        raise InputError(f"vectors must be (Q, {encoder.language_channels}), got {tuple(vectors.shape)}")
    features = encoder.encode(rgb).data
    aligned = F.normalize(encoder.project(features.flatten(1).T).float(), dim=-1)
    logits = encoder.logit_scale * aligned @ F.normalize(vectors, dim=-1).T
    return logits.softmax(-1).T.unflatten(1, features.shape[1:]).contiguous()


def _enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def label_map(maps: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """(Q, H, W) probabilities -> (H, W) int64: 1..Q, and 0 = ignore where nothing is left or the best is below ``threshold``."""
    confidence, best = maps.max(0)
    return torch.where((confidence >= threshold) & (confidence > 0), best + 1, 0)
