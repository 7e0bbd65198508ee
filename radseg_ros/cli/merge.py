# SPDX-License-Identifier: Apache-2.0
"""radseg-merge: join maps of one world frame, as if all their frames had come into one map."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import run_command
from ..datatypes import InputError
from ..files import prepare_file

if TYPE_CHECKING:
    import numpy as np

    from ..voxels.camera_path import CameraPath
    from ..voxels.voxel_map import VoxelMap

NAME = "radseg-merge"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    return run_command(NAME, lambda: command(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog=NAME, description=__doc__)
    p.add_argument("maps", nargs="+", type=Path, metavar="MAP", help=".radmap files")
    p.add_argument("-o", "--out", type=Path, required=True, help="the .radmap file to write")
    p.add_argument(
        "--align",
        action="store_true",
        help="bring the maps into the frame of the first by what they show (needs Open3D); refused "
        "where that is not sure",
    )
    p.add_argument("--overwrite", action="store_true", help="replace a map that is there")
    return p


def command(options: argparse.Namespace) -> int:
    """Write the joined map -> the exit status."""
    if len(options.maps) < 2:
        raise InputError("name at least two maps")
    if options.out.exists() and not options.overwrite:
        raise InputError(f"{options.out} is there already: --overwrite loses it")
    prepare_file(options.out)
    voxels, moves = merge(options.maps, options.out, options.align)
    for move in moves:
        print(_told(move))
    print(f"{options.out}: {voxels} voxels, {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def merge(paths: list[Path], out: Path, align: bool = False) -> tuple[int, list[dict[str, Any]]]:
    """Join the maps of ``paths`` -> the number of voxels, and how maps were moved (note "aligned").

    The first one tells options and bounds; how much of a recording or journal was in each is not
    kept.

    Args:
        align: the maps may have frames of their own; all but the first are moved.

    Raises:
        MapFileError: a file cannot be read or written, or differs from the first in encoder,
            weights, labels or frame.
        InputError: or in voxel size, space or channels; or a file is named twice; or where it lies
            in the frame of the first is not sure.
        ConfigError: Open3D is not installed, and needed.
    """
    from ..voxels.camera_path import CameraPath
    from ..voxels.joining.moving import moved
    from ..voxels.map_file import SUFFIX, load_map, read_header, save_map

    if out.suffix != SUFFIX:
        raise InputError(f"{out}: the file of a map ends with {SUFFIX}")
    headers = [read_header(path) for path in paths]  # before anything large is read
    for i, path in enumerate(paths):
        if any(path.samefile(other) for other in paths[:i]):
            raise InputError(f"{path} is named twice: its points would count twice")
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        a, b = (
            dataclasses.replace(each.identity, frame_id="") if align else each.identity
            for each in (first, header)
        )
        b.require(a, str(path))
        a.require(b, str(paths[0]))
    joined, identity = load_map(paths[0])
    way, moves = CameraPath.of(first), []
    for path, header in zip(paths[1:], headers[1:], strict=True):
        (other, _), other_way = load_map(path), CameraPath.of(header)
        if align:
            T, move = _aligned(path, (joined, way), (other, other_way))
            other, other_way = moved(other, T), other_way.moved(T)
            moves.append(move)
        joined.merge(other)
        way = way.joined(other_way)
    of_one = ("recording", "journal")  # what tells the history of one map
    notes = {name: note for name, note in first.notes.items() if name not in of_one}
    notes["camera"] = way.note()
    if moves:
        earlier = notes.get("aligned")
        notes["aligned"] = [*(earlier if isinstance(earlier, list) else []), *moves]
    save_map(out, joined, identity, notes)
    return len(joined), moves


def _aligned(
    path: Path, target: tuple[VoxelMap, CameraPath], source: tuple[VoxelMap, CameraPath]
) -> tuple[np.ndarray, dict[str, Any]]:
    """T_target_source of two maps, and what the file says of it."""
    from ..answers.alignment.registration import align
    from ..answers.alignment.surface import Surface

    a, b = (Surface.of(voxels.geometry(), way.positions) for voxels, way in (target, source))
    try:
        found = align(a, b, z_up=target[1].z_up and source[1].z_up)
    except InputError as error:
        raise InputError(f"{path} cannot be aligned: {error}") from error
    shares = {"overlap": round(found.overlap, 3), "agreement": round(found.agreement, 3)}
    return found.T, {"map": path.name, "T": found.T.tolist(), **shares}


def _told(move: dict[str, Any]) -> str:
    """The pose, with a quaternion as ROS has it, and what speaks for it."""
    import numpy as np
    from scipy.spatial.transform import Rotation

    T = np.array(move["T"])
    numbers = (*T[:3, 3], *Rotation.from_matrix(T[:3, :3]).as_quat())
    pose = " ".join(f"{number:.4f}" for number in numbers)
    return (
        f"{move['map']}: moved by x y z qx qy qz qw = {pose} "
        f"(overlap {move['overlap']:.0%}, {move['agreement']:.0%} of it agrees)"
    )


if __name__ == "__main__":
    sys.exit(main())
