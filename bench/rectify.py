# SPDX-License-Identifier: Apache-2.0
"""What node.rectify costs a frame, on one core: a colour and a depth image of three common sizes.

    python bench/rectify.py [--rounds 30]

"first" is the first frame of a lens, for which it is worked out where each pixel comes from;
"frame" is every other one. Medians of processor time, models in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time

import measure  # noqa: F401  # it shows the tests' helpers

import numpy as np  # isort: skip
import lenses  # isort: skip

from radseg_ros.frames.images.rectify import Lens, Rectifier  # isort: skip

SIZES = ((480, 640), (720, 1280), (1080, 1920))  # h, w


def cost(rectifier: Rectifier, lens: Lens, rgb: np.ndarray, depth: np.ndarray) -> float:
    """Processor time of one frame, s."""
    start = time.process_time()
    rectifier.color(rgb, lens)
    rectifier.depth(depth, lens)
    return time.process_time() - start


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    import cv2

    cv2.setNumThreads(1)
    generator = np.random.default_rng(0)
    print(f"OpenCV {cv2.__version__}\n{'size':>9} {'model':>20} {'first ms':>9} {'frame ms':>9}")
    for size in SIZES:
        rgb = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        depth = generator.uniform(0.3, 5, size).astype(np.float32)
        first: dict[str, list[float]] = {model: [] for model in lenses.LENSES}
        later: dict[str, list[float]] = {model: [] for model in lenses.LENSES}
        for _ in range(rounds):
            for model, D in lenses.LENSES.items():
                seen = Lens(model, D, lenses.K, lenses.P).scaled(lenses.SIZE, size)
                rectifier = Rectifier()
                first[model].append(cost(rectifier, seen, rgb, depth))
                later[model].append(cost(rectifier, seen, rgb, depth))
        for model in lenses.LENSES:
            ms = [1e3 * statistics.median(taken[model]) for taken in (first, later)]
            print(f"{size[1]:>4}x{size[0]:<4} {model:>20} {ms[0]:>9.1f} {ms[1]:>9.2f}")


if __name__ == "__main__":
    main()
