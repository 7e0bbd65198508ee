# SPDX-License-Identifier: Apache-2.0
"""k-NN of the evaluator against scikit-learn's BallTree: a million points, 200 000 voxels, k = 5.

    python bench/nearest.py [--points 1000000] [--voxels 200000] [--repeats 3]

Both run in turn in this process; the ratio is that of the medians. The points lie anywhere on the
walls, so no two neighbours are equally far and both must give the same label everywhere. A second
pass with points on the voxel grid, where the 5th and 6th neighbour often are equally far, counts
only the points where the choice is not arbitrary.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np

VOXEL_SIZE = 0.05  # m


def walls(count: int, seed: int) -> np.ndarray:
    """(count, 3) points near the six faces of a hall, in random order."""
    rng = np.random.default_rng(seed)
    size = np.array([24.0, 18.0, 3.0])
    points = rng.uniform(size=(count, 3)) * size
    face = rng.integers(0, 6, count)
    axis = face // 2
    points[np.arange(count), axis] = np.where(face % 2, size[axis], 0.0) + rng.normal(
        0, 0.04, count
    )
    return points


def map_voxels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3) voxel centres as a map has them, and labels: patches of 1 m with 5 % noise."""
    index = np.unique(np.round(walls(4 * count, 0) / VOXEL_SIZE).astype(np.int64), axis=0)
    rng = np.random.default_rng(1)
    index = index[np.sort(rng.choice(len(index), count, replace=False))]
    block = (index * VOXEL_SIZE).astype(np.int64)
    labels = (block @ np.array([7, 13, 29])) % 41
    noisy = rng.random(count) < 0.05
    labels[noisy] = rng.integers(0, 41, noisy.sum())
    return (index * VOXEL_SIZE).astype(np.float32), labels


def ball_tree_labels(gt: np.ndarray, xyz: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """What a program around scikit-learn does."""
    from sklearn.neighbors import BallTree

    from eval3d.scoring.metrics import most_frequent

    _, neighbours = BallTree(xyz).query(gt, k=k)
    return most_frequent(labels[neighbours])


def without_ties(gt: np.ndarray, xyz: np.ndarray, k: int) -> np.ndarray:
    """(M,) bool: the k-th and the next neighbour are not equally far."""
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(xyz).query(gt, k=k + 1, workers=-1)
    return distance[:, k] - distance[:, k - 1] > 1e-6


def main() -> int:
    """Print the times, the ratio and the agreement.

    1 when the promise of 5x with equal labels is broken.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--voxels", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--k", type=int, default=5)
    options = parser.parse_args()
    from eval3d.scoring.metrics import knn_labels

    xyz, labels = map_voxels(options.voxels)
    gt = walls(options.points, 2).astype(np.float32)
    times: dict[str, list[float]] = {"eval3d": [], "BallTree": []}
    found = {}
    for _ in range(options.repeats):
        for name, method in (("eval3d", knn_labels), ("BallTree", ball_tree_labels)):
            start = time.perf_counter()
            found[name] = method(gt, xyz, labels, options.k)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["BallTree"] / medians["eval3d"]
    equal = np.array_equal(found["eval3d"], found["BallTree"])
    print(
        f"{options.points} points, {options.voxels} voxels, k = {options.k}, {os.cpu_count()} "
        f"cores, {options.repeats} runs each"
    )
    for name, median in medians.items():
        print(f"  {name:8s} {median:7.2f} s   ({', '.join(f'{t:.2f}' for t in times[name])})")
    print(f"  ratio {ratio:.1f}x, labels equal: {equal}")
    grid = np.unique(
        np.round(gt[: options.points // 10] / VOXEL_SIZE).astype(np.int64), axis=0
    ) * np.float32(VOXEL_SIZE)
    clear = without_ties(grid, xyz, options.k)
    same = knn_labels(grid, xyz, labels, options.k) == ball_tree_labels(
        grid, xyz, labels, options.k
    )
    agreement = f"equal {same.mean():.2%}, without ties {same[clear].mean():.2%}"
    print(f"  on the voxel grid: {len(grid)} points, {1 - clear.mean():.1%} with ties; {agreement}")
    return 0 if ratio >= 5 and equal and same[clear].all() else 1


if __name__ == "__main__":
    raise SystemExit(main())
