# SPDX-License-Identifier: Apache-2.0
"""Time of a query in space ``backbone``: the first, a repeated one, and one after a frame that
changed part of the map.

    python bench/query.py                  # space backbone: voxels are projected
    python bench/query.py --space both     # beside space language: patches are projected
    python bench/query.py --head float32   # or bfloat16, int8: the head in other arithmetic

The head has the layout of C-RADIOv3-B's language head (768 -> 1520, two residual blocks, -> 1152)
with random weights.
"""

from __future__ import annotations

import argparse
import statistics
import threading
from collections.abc import Callable
from typing import Any

import measure  # isort: skip

import torch  # isort: skip

from radseg_ros.config import MapConfig
from radseg_ros.device import multiplies_bfloat16
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.view import MapView
from radseg_ros.voxels.voxel_map import VoxelMap

CHANNELS, HIDDEN, LANGUAGE = 768, 1520, 1152
PATCHES = 2160  # of an image of 640 x 864
ROWS = 2048  # that go through the head at once

Transform = Callable[[torch.Tensor], torch.Tensor]


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


def in_arithmetic(head: Head, kind: str) -> Transform:
    """The head as it is, in bfloat16, or with weights in int8 and inputs rounded on the way."""
    if kind == "int8":
        return torch.ao.quantization.quantize_dynamic(head, {torch.nn.Linear}, torch.qint8)

    def project(vectors: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
            return head(vectors).float()

    return project


def bare_products(head: Head, rows: int) -> float:
    """s for the matrix products of the head alone, for so many rows; from a tenth of them."""
    layers = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    inputs = [(torch.randn(ROWS, layer.in_features), layer.weight.detach()) for layer in layers]
    blocks = max(1, rows // 10 // ROWS)

    def products() -> None:
        for _ in range(blocks):
            for values, weight in inputs:
                values @ weight.T

    return measure.seconds(products) * rows / (blocks * ROWS)


def filled_map(voxels: int, channels: int = CHANNELS, **options: Any) -> VoxelMap:
    """A map of that many voxels with random vectors."""
    world = VoxelMap(channels, MapConfig(**options), device="cpu")
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
    rows = {"hits": hits, "views": hits.int(), "rgb_sum": colors}
    rows |= {name: stamps for name in ("first_seen_ns", "last_seen_ns", "seen_at")}
    world.table.add(slots, rows, lambda a, b: torch.randn(b - a, world.channels))


def compare(options: argparse.Namespace, space: str, head: Head) -> None:
    """Print what one space takes."""
    transform = in_arithmetic(head, options.head) if space == "backbone" else lambda means: means
    channels = CHANNELS if space == "backbone" else LANGUAGE
    world = filled_map(options.voxels, channels, dtype=options.dtype)
    text = torch.nn.functional.normalize(torch.randn(options.labels, LANGUAGE), dim=1)
    view = MapView(lambda means: torch.nn.functional.normalize(transform(means), dim=1), LANGUAGE)
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
    exact = head if space == "backbone" else transform
    expected = torch.nn.functional.normalize(exact(world.table.means(sample)), dim=1) @ text.T
    error = (query()[sample] - expected).abs().max()
    again, after = statistics.median(repeated), statistics.median(changed)
    print(f"space {space}")
    print(
        f"  map {world.nbytes / 2**20:.0f} MiB, with what questions keep "
        f"{(world.nbytes + view.nbytes) / 2**20:.0f} MiB"
    )
    if space == "language":
        patches = torch.randn(PATCHES, CHANNELS)
        took = statistics.median(measure.seconds(lambda: head(patches)) for _ in range(5))
        print(f"  each frame's {PATCHES} patches through the head {took:.2f} s")
    print(f"  first query {first:.2f} s; repeated {again:.3f} s (median of {options.rounds})")
    print(
        f"  after a frame that changed {options.changed} voxels {after:.2f} s: {after / first:.3f} "
        "of the first"
    )
    print(f"  largest difference from projecting afresh: {error:.2g}")


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
    parser.add_argument("--space", default="backbone", choices=("backbone", "language", "both"))
    fastest = "bfloat16" if multiplies_bfloat16() else "float32"  # as map.fast_projection
    parser.add_argument("--head", default=fastest, choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    head = Head()
    print(
        f"{options.voxels} voxels, {options.labels} labels, map in {options.dtype}, head in "
        f"{options.head}, {options.threads} threads"
    )
    products = bare_products(head, options.voxels)
    print(f"the head's matrix products alone, for all voxels, in float32: {products:.2f} s")
    for space in ("backbone", "language") if options.space == "both" else (options.space,):
        compare(options, space, head)


if __name__ == "__main__":
    main()
