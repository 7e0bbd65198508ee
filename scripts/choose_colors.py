# SPDX-License-Identifier: Apache-2.0
"""Chooses the colours of labels that follow those of Okabe and Ito (radseg_ros/answers/cloud.py).

    python scripts/choose_colors.py [COUNT]

Each is, of the colours that are neither dark, pale nor grey, the farthest (CIELAB) from all before
it, as the worst of three eyes sees it: the normal one, one without red cones and one without green
ones (Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
Deficiency", 2009: matrices of severity 1, for linear RGB).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eval3d.report.palette import lab  # noqa: E402

OKABE_ITO = "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7".split()
EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ]
)
STEP = 17  # between two levels of a channel, of 255


def seen(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 -> (3, N, 3) CIELAB, by eye."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    by_eye = (linear @ EYES.transpose(0, 2, 1)).clip(0, 1)
    display = np.where(
        by_eye <= 0.0031308, by_eye * 12.92, 1.055 * np.maximum(by_eye, 1e-9) ** (1 / 2.4) - 0.055
    )
    return np.stack([lab(each) for each in display])


def apart(colors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(3, N, 3) and (3, M, 3) -> (N, M) distance as the worst eye sees it."""
    return np.linalg.norm(colors[:, :, None] - others[:, None], axis=3).min(0)


def main() -> None:
    """Print the colours and the least distance between two of them."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    levels = np.arange(0, 256, STEP)
    candidates = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    looks = seen(candidates)
    lightness, chroma = looks[0, :, 0], np.hypot(looks[0, :, 1], looks[0, :, 2])
    usable = (lightness > 30) & (lightness < 92) & (chroma > 25)
    candidates, looks = candidates[usable], looks[:, usable]
    chosen = np.array([[*bytes.fromhex(text)] for text in OKABE_ITO])
    distance = apart(looks, seen(chosen)).min(1)
    least = []
    while len(chosen) < count:
        best = int(distance.argmax())
        least.append(distance[best])
        chosen = np.concatenate([chosen, candidates[best : best + 1]])
        distance = np.minimum(distance, apart(looks, looks[:, best : best + 1])[:, 0])
    print(" ".join(bytes(color.tolist()).hex() for color in chosen))
    print("least distances:", " ".join(f"{value:.1f}" for value in least))


if __name__ == "__main__":
    main()
