# SPDX-License-Identifier: Apache-2.0
"""Time and memory of one frame in the map, against the straightforward route, against the memory
that it must move, and against the size of the map.

    python bench/map_update.py            # everything: about three minutes and 8 GB
    python bench/map_update.py --only floor
    python bench/map_update.py --only growth

The straightforward route is the one that published programs take: bilinear features as one row per
pixel, and ``torch.unique`` over all voxels of the map and all points at every frame.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import floors  # isort: skip
import measure  # isort: skip

import numpy as np  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip

from radseg_ros.config import MapConfig
from radseg_ros.datatypes import FeatureMap, Frame
from radseg_ros.voxels.voxel_map import VoxelMap

CHANNELS = 768
VOXEL = 0.05
SUCCESSIVE = 4  # frames per turn: a mapper sees frame after frame, and its caches with it


def new_map() -> VoxelMap:
    """The product's map, empty."""
    return VoxelMap(CHANNELS, MapConfig(voxel_size=VOXEL), device="cpu")


class StraightforwardMap:
    """A row of colour, features and count per pixel.

    The whole map is sorted again at every frame.
    """

    def __init__(self) -> None:
        self.index = torch.zeros(0, 3, dtype=torch.int64)
        self.rows = torch.zeros(0, 3 + CHANNELS + 1)  # means and hits

    def integrate(self, frame: Frame, features: FeatureMap) -> None:
        """Fuse one frame."""
        height, width = frame.depth.shape
        depth = torch.tensor(frame.depth).flatten()
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([u, v, torch.ones_like(u)], -1).reshape(-1, 3).float()
        camera = depth[:, None] * (pixels @ torch.tensor(np.linalg.inv(frame.K)).float().T)
        pose = torch.tensor(frame.T_world_camera).float()
        points = camera @ pose[:3, :3].T + pose[:3, 3]
        dense = torch.nn.functional.interpolate(
            features.data[None], (height, width), mode="bilinear", align_corners=False
        )
        rgb = torch.tensor(frame.rgb).reshape(-1, 3).float() / 255
        valid = torch.isfinite(depth) & (depth > 0)
        rows = torch.cat(
            [rgb, dense[0].permute(1, 2, 0).reshape(-1, CHANNELS), torch.ones(len(rgb), 1)], 1
        )[valid]
        index = torch.cat([self.index, torch.round(points[valid] / VOXEL).long()])
        self.index, inverse = torch.unique(index, dim=0, return_inverse=True)
        rows = torch.cat([self.rows, rows])
        rows[:, :-1] *= rows[:, -1:]
        fused = torch.zeros(len(self.index), rows.shape[1]).index_add_(0, inverse, rows)
        fused[:, :-1] /= fused[:, -1:]
        self.rows = fused


def took(world: VoxelMap | StraightforwardMap, frame: Frame, features: FeatureMap) -> float:
    """Seconds that a frame takes."""
    return measure.seconds(lambda: world.integrate(frame, features))


def mapping(kind: str, steps: int) -> Callable[[], object]:
    """What maps ``steps`` frames that are there already."""
    frames, features = [rooms.frame(step) for step in range(steps)], rooms.features()
    world = StraightforwardMap() if kind == "straightforward" else new_map()
    return lambda: [world.integrate(frame, features) for frame in frames]


def compare(rounds: int) -> None:
    """The two routes on the same room, frame about: time, result, memory."""
    features = rooms.features()
    ours, theirs = new_map(), StraightforwardMap()
    for step in range(12):
        ours.integrate(rooms.frame(step), features)
    snapshot = ours.snapshot()  # give the other route the same map without waiting for it
    order = np.lexsort(snapshot.index.numpy().T[::-1])
    theirs.index = snapshot.index[order]
    theirs.rows = torch.cat([snapshot.rgb, snapshot.features, snapshot.hits[:, None]], 1)[order]
    fast, slow, cold = [], [], []
    for turn in range(rounds):
        frames = [rooms.frame(turn * SUCCESSIVE + i) for i in range(SUCCESSIVE)]
        slow += [took(theirs, frame, features) for frame in frames]
        fast += [took(ours, frame, features) for frame in frames]
        cold.append(fast[-SUCCESSIVE])
    snapshot = ours.snapshot()
    common = {tuple(row): i for i, row in enumerate(snapshot.index.tolist())}
    rows = [
        (i, common[tuple(row)])
        for i, row in enumerate(theirs.index.tolist())
        if tuple(row) in common
    ]
    left, right = (torch.tensor(side) for side in zip(*rows, strict=True))
    equal = theirs.rows[left, -1] == snapshot.hits[right]
    error = (theirs.rows[left, 3:-1] - snapshot.features[right])[equal].abs().max()
    print(
        f"voxels in the map: {len(ours)} (straightforward {len(theirs.index)}), with equal hits "
        f"{int(equal.sum())}"
    )
    print(f"largest difference of a feature where hits agree: {error:.2g}")
    a, b = statistics.median(slow), statistics.median(fast)
    print(
        f"straightforward {a:.2f} s a frame, ours {1e3 * b:.1f} ms: {a / b:.0f} x "
        f"(medians of {len(fast)} frames, the two in turns of {SUCCESSIVE} successive frames; "
        f"ours right after the other has used up the caches: {1e3 * statistics.median(cold):.1f} "
        "ms)"
    )
    slow_peak = measure.peak_memory(mapping, "straightforward", 2)
    fast_peak = measure.peak_memory(mapping, "ours", 12)
    print(
        f"peak memory: straightforward {slow_peak:.0f} MiB, ours {fast_peak:.0f} MiB: "
        f"1/{slow_peak / fast_peak:.1f}"
    )


def against_floor(rounds: int) -> None:
    """Frames of a known room in turns with copies, whose rate says how fast memory moves here."""
    world, features = new_map(), rooms.features()
    frames = [rooms.frame(step) for step in range(12)]
    voxels = sum(world.integrate(frame, features).voxels for frame in frames)
    source = torch.zeros(floors.COPIED, dtype=torch.uint8)
    target = torch.zeros_like(source)
    sides = {
        "frames": lambda: [world.integrate(frame, features) for frame in frames],
        "copy": lambda: target.copy_(source),
    }
    for run in sides.values():
        run()
    taken = measure.in_turns(sides, rounds)
    patches = features.data[0].numel()
    moved = floors.map_update_bytes(
        frames[0].depth.size, patches, round(voxels / len(frames)), CHANNELS
    )
    rate = 2 * floors.COPIED / taken["copy"].wall
    frame = taken["frames"].wall / len(frames)
    print(
        f"a frame: {1e3 * frame:.1f} ms ({1e3 * taken['frames'].processor / len(frames):.1f} ms of "
        f"processor time); {moved / 1e6:.0f} MB must move, at {rate / 1e9:.1f} GB/s (a copy, read "
        f"and written) in {1e3 * moved / rate:.1f} ms: {frame * rate / moved:.1f} x its floor"
    )


def growth(target: int, rounds: int) -> None:
    """Time of a frame in a small and a large map, alternating.

    And of frames that add a new room to each.
    """
    features = rooms.features()
    small, large = new_map(), new_map()
    for step in range(12):
        small.integrate(rooms.frame(step), features)
    room = 0
    while len(large) < target:
        for step in range(12):
            large.integrate(rooms.frame(step, room), features)
        room += 1
    sizes = len(small), len(large)
    again: tuple[list[float], list[float]] = ([], [])
    new: tuple[list[float], list[float]] = ([], [])
    for step in range(rounds):
        frame = rooms.frame(step)
        for times, world in zip(again, (small, large), strict=True):
            times.append(took(world, frame, features))
    for step in range(12):
        frame = rooms.frame(step, room)
        for times, world in zip(new, (small, large), strict=True):
            times.append(took(world, frame, features))
    for what, (a, b) in (("a known room", again), ("a new room", new)):
        a, b = statistics.median(a), statistics.median(b)
        print(
            f"{what}: {1e3 * a:.1f} ms with {sizes[0]} voxels, {1e3 * b:.1f} ms with {sizes[1]}: "
            f"{b / a:.2f} x"
        )


def profile(rounds: int) -> None:
    """Where the time of a frame goes."""
    from torch.profiler import profile as record

    world, features, frames = (
        new_map(),
        rooms.features(),
        [rooms.frame(step) for step in range(12)],
    )
    for frame in frames:
        world.integrate(frame, features)
    with record() as trace:
        for step in range(rounds):
            world.integrate(frames[step % 12], features)
    print(
        trace.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40
        )
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", choices=("compare", "floor", "growth", "profile"), help="one part"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of the comparison")
    parser.add_argument("--voxels", type=int, default=500_000, help="size of the large map")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only in (None, "compare"):
        compare(options.rounds)
    if options.only in (None, "floor"):
        against_floor(options.rounds)
    if options.only in (None, "growth"):
        growth(options.voxels, 3 * options.rounds)
    if options.only in (None, "profile"):
        profile(3 * options.rounds)


if __name__ == "__main__":
    main()
