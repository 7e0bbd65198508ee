# SPDX-License-Identifier: Apache-2.0
"""From voxels and scores to coloured clouds: the torch -> numpy border on the way out."""

from __future__ import annotations

import colorsys

import numpy as np

from ..datatypes import Cloud, MapGeometry

GOLDEN_RATIO = (
    0.618033988749895  # successive hues as far apart as possible, whatever the number of labels
)
UNKNOWN_DIM = (
    0.35  # voxels without a label keep their own colour, darkened, so that labels stand out
)


def palette(count: int) -> np.ndarray:
    """``count`` distinct colours, (count, 3) uint8; colour i does not depend on ``count``."""
    hue = [(0.02 + i * GOLDEN_RATIO) % 1 for i in range(count)]
    colors = [
        colorsys.hsv_to_rgb(h, (0.85, 0.6)[i // 7 % 2], (0.95, 0.75)[i // 14 % 2])
        for i, h in enumerate(hue)
    ]
    return np.round(255 * np.array(colors).reshape(-1, 3)).astype(np.uint8)


def rgb_cloud(geometry: MapGeometry, min_hits: int = 1) -> Cloud:
    """The map in its true colours; label -1, score 0."""
    count = len(geometry)
    return _cloud(
        geometry,
        np.full(count, -1, np.int32),
        np.zeros(count, np.float32),
        _true_colors(geometry),
        min_hits,
    )


def semantic_cloud(
    geometry: MapGeometry, scores: np.ndarray, threshold: float, min_hits: int = 1
) -> Cloud:
    """Every voxel in the colour of its best label, if that one reaches ``threshold``.

    Args:
        geometry: the M voxels of the map.
        scores: (M, Q) in 0..1, one column per label.
    """
    count, labels = scores.shape
    label, score = np.full(count, -1, np.int32), np.zeros(count, np.float32)
    rgb = np.round(_true_colors(geometry) * UNKNOWN_DIM).astype(np.uint8)
    if labels and count:
        best = scores.argmax(1).astype(np.int32)
        score = scores[np.arange(count), best].astype(np.float32)
        known = score >= threshold
        label[known] = best[known]
        rgb[known] = palette(labels)[best[known]]
    return _cloud(geometry, label, score, rgb, min_hits)


def _true_colors(geometry: MapGeometry) -> np.ndarray:
    return np.round(255 * geometry.rgb.cpu().numpy()).clip(0, 255).astype(np.uint8)


def _cloud(
    geometry: MapGeometry, label: np.ndarray, score: np.ndarray, rgb: np.ndarray, min_hits: int
) -> Cloud:
    hits = geometry.hits.cpu().numpy()
    keep = hits >= min_hits
    xyz = geometry.xyz.cpu().numpy()
    return Cloud(
        xyz=xyz[keep],
        rgb=rgb[keep],
        label=label[keep],
        score=score[keep],
        hits=hits[keep].astype(np.float32),
    )
