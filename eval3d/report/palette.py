# SPDX-License-Identifier: Apache-2.0
"""Colours for many classes at once, as far apart as the eye can tell."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

NONE = (0.75, 0.75, 0.75)  # no prediction, ignored


def lab(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB in [0, 1] -> (N, 3) CIELAB (D65), where distance is roughly what the eye sees."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


@lru_cache(maxsize=8)
def distinct_colors(count: int) -> np.ndarray:
    """(count, 3) in [0, 1]: each the farthest (CIELAB) from those before it.

    Also from white, black and grey. Colour i does not depend on ``count``.
    """
    steps = np.linspace(0.0, 1.0, 13)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    seen = lab(candidates)
    chroma = np.hypot(seen[:, 1], seen[:, 2])
    # neither near grey nor glaring
    usable = (seen[:, 0] > 30) & (seen[:, 0] < 86) & (chroma > 20) & (chroma < 78)
    candidates, seen = candidates[usable], seen[usable]
    taken = lab(np.array([[1.0, 1, 1], [0, 0, 0], NONE]))
    distance = np.sqrt(((seen[:, None] - taken[None]) ** 2).sum(-1)).min(axis=1)
    chosen = []
    for _ in range(count):
        best = int(distance.argmax())
        chosen.append(candidates[best])
        distance = np.minimum(distance, np.sqrt(((seen - seen[best]) ** 2).sum(-1)))
    return np.array(chosen).reshape(-1, 3)
