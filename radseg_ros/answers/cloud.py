# SPDX-License-Identifier: Apache-2.0
"""From voxels and scores to coloured clouds: the torch -> numpy border on the way out."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Sequence

import numpy as np

from ..datatypes import Cloud, MapGeometry

# Colours that people with red-green blindness can tell apart. The first seven are those of Okabe
# and Ito, without their black: "Color Universal Design", 2002. Each further one is, of the colours
# that are neither dark, pale nor grey, the farthest from all before it, as the normal eye and eyes
# without red or green cones see them (scripts/choose_colors.py).
COLORS = (
    "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 "
    "0000ff 88ffaa 882211 7766ff 55ffff 881155 4433aa 55bb66 88ddbb ccee77 880077 6699ff 5511cc"
).split()
GOLDEN_RATIO = 0.618033988749895  # after those: successive hues as far apart as possible
# Voxels without a label keep their own colour, darkened, so that labels stand out.
UNKNOWN_DIM = 0.35
# of a score, from the threshold up; ever lighter, so that it reads without colour
GLOW = np.array([[70, 20, 110], [190, 45, 95], [246, 130, 40], [255, 215, 60]], np.float32)
GLOW_AT = np.array([0.0, 0.35, 0.7, 1.0])


def palette(count: int) -> np.ndarray:
    """``count`` distinct colours, (count, 3) uint8; colour i does not depend on ``count``."""
    colors = [tuple(bytes.fromhex(text)) for text in COLORS[:count]]
    for i in range(len(COLORS), count):
        shade = (0.85, 0.6)[i // 7 % 2], (0.95, 0.75)[i // 14 % 2]
        rgb = colorsys.hsv_to_rgb((0.02 + i * GOLDEN_RATIO) % 1, *shade)
        colors.append(tuple(round(255 * value) for value in rgb))
    return np.array(colors, np.uint8).reshape(-1, 3)


def label_colors(labels: Sequence[str], shown: Sequence[str]) -> np.ndarray:
    """(Q, 3) uint8, of the labels of a question, so that a label has one colour in every output.

    Those among ``shown`` have the colour of their place there, the others the colours that follow.

    Args:
        shown: the labels of ~/semantic_cloud (node.labels).
    """
    others = [label for label in dict.fromkeys(labels) if label not in shown]
    place = {label: i for i, label in reversed([*enumerate([*shown, *others])])}
    return palette(len(shown) + len(others))[[place[label] for label in labels]]


def heat(rgb: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
    """(M, 3) uint8 and (M,) 0..1 -> (M, 3): grey, and glowing where scores pass the threshold."""
    grey = rgb.astype(np.float32) @ np.array([0.3, 0.59, 0.11], np.float32)
    base = np.repeat((112 + 0.5 * grey)[:, None], 3, 1)
    value = np.clip((score - 0.8 * threshold) / max(1 - 0.8 * threshold, 1e-6), 0, 1)
    color = np.stack([np.interp(value, GLOW_AT, GLOW[:, c]) for c in range(3)], 1)
    alpha = np.clip(value / 0.25, 0, 1)[:, None]
    return base * (1 - alpha) + color * alpha


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
    geometry: MapGeometry,
    scores: np.ndarray,
    threshold: float,
    min_hits: int = 1,
    colors: np.ndarray | None = None,
) -> Cloud:
    """Every voxel in the colour of its best label, if that one reaches ``threshold``.

    Args:
        geometry: the M voxels of the map.
        scores: (M, Q) in 0..1, one column per label.
        colors: (Q, 3) uint8 of the labels; None = those of the palette.
    """
    count, labels = scores.shape
    label, score = np.full(count, -1, np.int32), np.zeros(count, np.float32)
    rgb = np.round(_true_colors(geometry) * UNKNOWN_DIM).astype(np.uint8)
    if labels and count:
        best = scores.argmax(1).astype(np.int32)
        score = scores[np.arange(count), best].astype(np.float32)
        known = score >= threshold
        label[known] = best[known]
        rgb[known] = (palette(labels) if colors is None else colors)[best[known]]
    return _cloud(geometry, label, score, rgb, min_hits)


def heat_cloud(
    geometry: MapGeometry, scores: np.ndarray, threshold: float, min_hits: int = 1
) -> Cloud:
    """Every voxel in the glow of its best score; as :func:`semantic_cloud` otherwise."""
    cloud = semantic_cloud(geometry, scores, threshold, min_hits)
    keep = geometry.hits.cpu().numpy() >= min_hits
    glow = heat(_true_colors(geometry)[keep], cloud.score, threshold)
    return dataclasses.replace(cloud, rgb=np.round(glow).astype(np.uint8))


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
