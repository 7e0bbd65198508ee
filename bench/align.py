# SPDX-License-Identifier: Apache-2.0
"""Two half recordings as maps of frames of their own: merged with --align, beside one map of all.

    python bench/align.py ../shared/data/hololens_office --up y --set map.voxel_size=0.05
    python bench/align.py GALLERY

The second half is moved by a known pose, written, and joined by what radseg-merge calls. Printed
are the error of the pose that was found, and the share of the voxels of the whole map that the
joined one has as well: at the same place, and at the same or a neighbouring one. The share after
the true move back says what sorting into another grid and back costs by itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import measure  # noqa: F401  # isort: skip  # before torch: how threads wait

import numpy as np
import torch
from color_encoder import ColorEncoder
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from radseg_ros.cli.merge import merge
from radseg_ros.command import run_command
from radseg_ros.config import Config, parse_assignments, with_options
from radseg_ros.datatypes import Frame, InputError
from radseg_ros.frames.folder import open_recording
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.joining.moving import moved
from radseg_ros.voxels.map_file import load_map, save_map
from radseg_ros.voxels.voxel_map import VoxelMap


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("recording", type=Path)
    p.add_argument("--up", choices="xyz", default="z", help="the axis about which it is turned")
    p.add_argument("--seeds", type=int, default=3, help="so many moves")
    p.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE")
    return p


def written(path: Path, frames: list[Frame], config: Config, T: np.ndarray) -> VoxelMap:
    """The map of frames, moved by ``T`` into a frame of its name."""
    mapper, way = Mapper(config, ColorEncoder()), CameraPath()
    for frame in frames:
        mapper.integrate(frame)
        way.add(frame.T_world_camera)
    there, notes = moved(mapper.map, T), {"camera": way.moved(T).note()}
    save_map(path, there, mapper.identity(path.stem), notes)
    return there


def random_move(seed: int, up: str) -> np.ndarray:
    """(4, 4): any turn about ``up``, and up to 5 m along each axis."""
    rng, T = np.random.default_rng(seed), np.eye(4)
    T[:3, :3] = Rotation.from_euler(up, rng.uniform(-180, 180), degrees=True).as_matrix()
    T[:3, 3] = rng.uniform(-5, 5, 3)
    return T


def shares(whole: VoxelMap, other: VoxelMap) -> str:
    """Of the voxels of ``whole``, those that ``other`` has, exactly and within a neighbour."""
    a, b = (voxels.table.coordinates().numpy() for voxels in (whole, other))
    off = cKDTree(b).query(a, distance_upper_bound=2)[0]
    return f"{(off == 0).mean():.1%} same, {(off < 1.8).mean():.1%} same or beside"


def run(options: argparse.Namespace) -> int:
    """Print a line for each move -> the exit status: 1 where one was refused."""
    given = {"encoder": "colors", "short_side": 0, **parse_assignments(Config, options.set)}
    config, frames = with_options(Config(), given), list(open_recording(options.recording))
    half, status = len(frames) // 2, 0
    with tempfile.TemporaryDirectory() as name:
        a, b, all_, out = (Path(name) / f"{part}.radmap" for part in ("a", "b", "whole", "out"))
        whole = written(all_, frames, config, np.eye(4))
        written(a, frames[:half], config, np.eye(4))
        second = written(b, frames[half:], config, np.eye(4))
        merge([a, _framed(b, a)], out)
        print(f"no move, no --align: {shares(whole, load_map(out)[0])}")
        for seed in range(options.seeds):
            T = random_move(seed, options.up)
            written(b, frames[half:], config, T)
            back = moved(moved(second, T), np.linalg.inv(T))
            back.merge(load_map(a)[0])
            print(f"move {seed}: true move back: {shares(whole, back)}")
            began = time.perf_counter()
            try:
                _, (found,) = merge([a, b], out, align=True)
            except InputError as error:
                print(f"  refused: {error}")
                status = 1
                continue
            spent = time.perf_counter() - began
            left = np.array(found["T"]) @ T
            angle = np.degrees(Rotation.from_matrix(left[:3, :3]).magnitude())
            middle = second.geometry().xyz.double().mean(0).numpy()
            error = np.linalg.norm(left[:3, :3] @ middle + left[:3, 3] - middle)
            print(
                f"  --align: off by {1000 * error:.0f} mm in the middle of the map and "
                f"{angle:.2f} degrees, overlap {found['overlap']:.0%}, agreement "
                f"{found['agreement']:.0%}, {spent:.0f} s; {shares(whole, load_map(out)[0])}"
            )
    return status


def _framed(path: Path, like: Path) -> Path:
    """The map with the frame id of another."""
    save_map(path, load_map(path)[0], load_map(like)[1])
    return path


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.exit(run_command("align", lambda: run(parser().parse_args())))
