# SPDX-License-Identifier: Apache-2.0
"""What a journal costs, and what it is worth: kills at random moments, and the map afterwards.

    python bench/journal.py                 # everything: some four minutes
    python bench/journal.py --only kills

Frames are those of ``bench/rooms.py`` at 640 x 864, depth in millimetres, with 768 channels.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import measure  # isort: skip

import killing  # isort: skip
import numpy as np  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip

from radseg_ros.config import LiftConfig, MapConfig
from radseg_ros.datatypes import Frame
from radseg_ros.journal.folder import About, JournalWriter, new_id
from radseg_ros.journal.record import FRAME, KeyFrame, pack, unpack
from radseg_ros.journal.replay import replay
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.map_file import MapIdentity
from radseg_ros.voxels.voxel_map import VoxelMap

CHANNELS = 768


def kills(folder: Path, rounds: int) -> None:
    """Kill, compare, go on."""
    begun = time.perf_counter()
    found = killing.killed(folder, rounds, seed=0)
    print(
        f"{found.kills} kills: {found.frames} frames in the journal, none that was done is lost "
        f"(in {found.in_hand} cases the frame in hand was written already); after each the map is "
        f"that of the journalled frames ({found.saves} times with a saved map, else from the "
        f"journal alone); {time.perf_counter() - begun:.0f} s"
    )


def in_millimetres(frame: Frame) -> Frame:
    """As depth cameras give it."""
    units = np.rint(1e3 * frame.depth).clip(0, 65_535).astype(np.uint16)
    depth = np.multiply(units, np.float32(0.001), dtype=np.float32)
    return dataclasses.replace(frame, depth=depth)


def costs(folder: Path, frames: int) -> None:
    """Time of a frame with and without a journal, bytes, and the time of making the map again."""
    about = About(new_id(), MapIdentity("bench"), "backbone", CHANNELS, {})
    journal = JournalWriter(folder, about)
    plain, kept = (VoxelMap(CHANNELS, MapConfig(device="cpu")) for _ in range(2))
    without: list[float] = []
    parts: dict[str, list[float]] = {"pack": [], "unpack": [], "append": []}
    features, rules = rooms.features(), LiftConfig()
    for step in range(frames):
        frame = in_millimetres(rooms.frame(step))
        without.append(measure.seconds(lambda f=frame: plain.integrate(f, features)))
        begun = time.perf_counter()
        content = pack(KeyFrame(frame, features, rules), 0.001)
        packed = time.perf_counter()
        again = unpack(content)
        unpacked = time.perf_counter()
        kept.integrate(again.frame, again.features)
        fused = time.perf_counter()
        journal.append(FRAME, content)
        for name, took in (
            ("pack", packed - begun),
            ("unpack", unpacked - packed),
            ("append", time.perf_counter() - fused),
        ):
            parts[name].append(took)
    median = {name: 1e3 * statistics.median(took) for name, took in parts.items()}
    each = ", ".join(f"{name} {ms:.0f} ms" for name, ms in median.items())
    print(
        f"fusing a frame takes {1e3 * statistics.median(without):.0f} ms; the journal adds "
        f"{sum(median.values()):.0f} ms ({each}), {journal.nbytes / frames / 1e6:.2f} MB a frame"
    )
    world = VoxelMap(CHANNELS, MapConfig(device="cpu"))
    begun = time.perf_counter()
    for _ in replay(journal, journal.story().main, world, CameraPath(), {}):
        pass
    took = (time.perf_counter() - begun) / frames
    print(f"making the map again: {1e3 * took:.0f} ms a frame; {len(world)} of {len(kept)} voxels")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("kills", "costs"), help="one part")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, work in (("costs", costs), ("kills", kills)):
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                work(Path(folder), getattr(options, "kills" if name == "kills" else "frames"))


if __name__ == "__main__":
    main()
