# SPDX-License-Identifier: Apache-2.0
"""Time of a query in space ``backbone``: the first, a repeated one, and one after a frame that
changed part of the map.

    python bench/query.py

The head has the layout of C-RADIOv3-B's language head (768 -> 1520, two residual blocks, -> 1152)
with random weights.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from typing import Any

import measure  # isort: skip

import torch  # isort: skip

from radseg_ros.config import MapConfig
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.view import MapView
from radseg_ros.voxels.voxel_map import VoxelMap

CHANNELS, HIDDEN, LANGUAGE = 768, 1520, 1152


class Head(torch.nn.Module):
    """fc1; two residual blocks of LayerNorm, GELU, Linear; LayerNorm, GELU, Linear."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn
        self.first = layer.Linear(CHANNELS, HIDDEN)
        self.blocks = layer.ModuleList(self._block(HIDDEN) for _ in range(2))
        self.last = self._block(LANGUAGE)

    @staticmethod
    def _block(width: int) -> torch.nn.Sequential:
        return torch.nn.Sequential(
            torch.nn.LayerNorm(HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, width)
        )

    @torch.no_grad()
    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, 768) -> (N, 1152)."""
        hidden = self.first(vectors)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


def filled_map(voxels: int, **options: Any) -> VoxelMap:
    """A map of that many voxels with random vectors."""
    world = VoxelMap(CHANNELS, MapConfig(**options), device="cpu")
    number = torch.arange(voxels)
    slots, _ = world.table.claim(
        pack(torch.stack([number % 200, number // 200 % 60, number // 12_000]).double())
    )
    touch(world, slots)
    return world


def touch(world: VoxelMap, slots: torch.Tensor) -> None:
    """What a frame does to the voxels that it hits."""
    hits, stamps = torch.ones_like(slots), torch.zeros_like(slots)
    colors = torch.zeros(len(slots), 3, dtype=torch.float64)
    rows = {"hits": hits, "rgb_sum": colors}
    rows |= {name: stamps for name in ("first_seen_ns", "last_seen_ns", "seen_at")}
    world.table.add(slots, rows, lambda a, b: torch.randn(b - a, CHANNELS))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voxels", type=int, default=200_000)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--changed", type=int, default=15_000, help="voxels that a frame changes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    world, head = filled_map(options.voxels, dtype=options.dtype), Head()
    text = torch.nn.functional.normalize(torch.randn(options.labels, LANGUAGE), dim=1)

    view = MapView(lambda means: torch.nn.functional.normalize(head(means), dim=1), LANGUAGE)
    lock = threading.Lock()

    def query() -> torch.Tensor:
        view.catch_up(world, lock)
        return view.scored(world.voxel_size, lambda rows: rows @ text.T, len(text), "labels")[1]

    first = measure.seconds(query)
    repeated = [measure.seconds(query) for _ in range(options.rounds)]
    changed = []
    for _ in range(max(3, options.rounds // 2)):
        touch(world, torch.randperm(options.voxels)[: options.changed].sort()[0])
        changed.append(measure.seconds(query))
    sample = torch.arange(0, options.voxels, 997)
    expected = torch.nn.functional.normalize(head(world.table.means(sample)), dim=1) @ text.T
    error = (query()[sample] - expected).abs().max()
    again, after = statistics.median(repeated), statistics.median(changed)
    print(
        f"{options.voxels} voxels, {options.labels} labels, {options.dtype}, {options.threads} "
        "threads"
    )
    print(f"map with cache {world.nbytes / 2**20:.0f} MiB")
    print(f"first query {first:.2f} s; repeated {again:.3f} s (median of {options.rounds})")
    print(
        f"after a frame that changed {options.changed} voxels {after:.2f} s: {after / first:.3f} "
        "of the first"
    )
    print(f"largest difference from projecting afresh: {error:.2g}")


if __name__ == "__main__":
    main()
