# SPDX-License-Identifier: Apache-2.0
"""Time and memory of finding objects, all voxels above the threshold, against a k-d tree.

    python bench/objects.py

The voxels are walls, floors and ceilings of rooms, two voxels thick, each room an object. The tree
lists every pair of near voxels, and each object is looked at on its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import measure  # isort: skip

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from radseg_ros.answers.objects import find_objects, make_object
from radseg_ros.config import QueryConfig
from radseg_ros.datatypes import MapGeometry, SemanticObject

VOXEL_SIZE = 0.05  # m
ROOM = np.array([140, 56, 120])  # voxels
GAP = 10  # voxels between two rooms
RULES = QueryConfig()


def rooms(voxels: int) -> tuple[MapGeometry, np.ndarray]:
    """So many voxels of a row of rooms, in random order, and scores."""
    inside = np.stack(np.unravel_index(np.arange(ROOM.prod()), ROOM), 1)
    shell = inside[((inside < 2) | (inside >= ROOM - 2)).any(1)]
    count = -(-voxels // len(shell))
    offsets = np.arange(count)[:, None, None] * np.array([ROOM[0] + GAP, 0, 0])
    rng = np.random.default_rng(0)
    index = rng.permutation((shell + offsets).reshape(-1, 3)[:voxels])
    scores = rng.uniform(RULES.threshold, 1, voxels).astype(np.float32)
    whole, stamps = torch.from_numpy(index), torch.zeros(voxels, dtype=torch.int64)
    xyz = (whole * VOXEL_SIZE).float()
    views = stamps.int() + 1
    geometry = MapGeometry(whole, xyz, xyz, xyz[:, 0], views, *[stamps] * 3, VOXEL_SIZE)
    return geometry, scores


def by_grid(geometry: MapGeometry, scores: np.ndarray) -> tuple[SemanticObject, ...]:
    """Ours."""
    return find_objects("room", geometry, scores, RULES)


def by_k_d_tree(geometry: MapGeometry, scores: np.ndarray) -> tuple[SemanticObject, ...]:
    """The straightforward way."""
    xyz = geometry.xyz.numpy().astype(np.float64)
    pairs = cKDTree(xyz).query_pairs(RULES.max_gap, output_type="ndarray")
    edges = (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1]))
    graph = coo_matrix(edges, shape=(len(xyz), len(xyz)))
    group = connected_components(graph, directed=False)[1]
    order = np.argsort(group, kind="stable")
    found = [
        make_object("room", geometry, scores, some, float(np.sort(scores[some])[-RULES.min_voxels]))
        for some in np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
        if len(some) >= RULES.min_voxels
    ]
    found.sort(key=lambda each: (-each.score, -each.voxels, each.centre))
    return tuple(found[: RULES.max_objects])


def ours(voxels: int) -> Callable[[], object]:
    """For ``measure.peak_memory``."""
    geometry, scores = rooms(voxels)
    return lambda: by_grid(geometry, scores)


def theirs(voxels: int) -> Callable[[], object]:
    """For ``measure.peak_memory``."""
    geometry, scores = rooms(voxels)
    return lambda: by_k_d_tree(geometry, scores)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voxels", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    sizes = (options.voxels, 2 * options.voxels)
    worlds = [rooms(size) for size in sizes]
    (geometry, scores), (twice, twice_scores) = worlds
    found, expected = by_grid(geometry, scores), by_k_d_tree(geometry, scores)
    same = [each.voxels for each in found] == [each.voxels for each in expected]
    print(f"{options.voxels} voxels; {len(found)} objects, the same as by the tree: {same}")
    sides = {
        "ours": lambda: by_grid(geometry, scores),
        "tree": lambda: by_k_d_tree(geometry, scores),
        "twice": lambda: by_grid(twice, twice_scores),
    }
    took = measure.in_turns(sides, options.rounds)
    mine, tree, double = (took[side].wall for side in sides)
    print(
        f"find_objects {mine:.3f} s (processor {took['ours'].processor:.3f} s); k-d tree "
        f"{tree:.2f} s: {tree / mine:.1f}x"
    )
    print(f"{sizes[1]} voxels {double:.3f} s: {double / mine:.2f}x")
    peak, tree_peak = (measure.peak_memory(side, options.voxels) for side in (ours, theirs))
    print(f"memory {peak:.0f} MiB; k-d tree {tree_peak:.0f} MiB")


if __name__ == "__main__":
    main()
