# SPDX-License-Identifier: Apache-2.0
"""radseg-merge: join maps of one world frame, as if all their frames had come into one map."""

from __future__ import annotations

import argparse
import sys
from functools import reduce
from pathlib import Path

from ..command import run_command
from ..datatypes import InputError
from ..files import prepare_file

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
    p.add_argument("--overwrite", action="store_true", help="replace a map that is there")
    return p


def command(options: argparse.Namespace) -> int:
    """Write the joined map -> the exit status."""
    if len(options.maps) < 2:
        raise InputError("name at least two maps")
    if options.out.exists() and not options.overwrite:
        raise InputError(f"{options.out} is there already: --overwrite loses it")
    prepare_file(options.out)
    voxels = merge(options.maps, options.out)
    print(f"{options.out}: {voxels} voxels, {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def merge(paths: list[Path], out: Path) -> int:
    """Join the maps of ``paths`` and return the number of voxels.

    The first one tells options and bounds; how much of a recording or journal was in each is not
    kept.

    Raises:
        MapFileError: a file cannot be read or written, or differs from the first in encoder,
            weights, labels or frame.
        InputError: or in voxel size, space or channels; or a file is named twice.
    """
    from ..voxels.camera_path import CameraPath
    from ..voxels.map_file import SUFFIX, load_map, read_header, save_map

    if out.suffix != SUFFIX:
        raise InputError(f"{out}: the file of a map ends with {SUFFIX}")
    headers = [read_header(path) for path in paths]  # before anything large is read
    for i, path in enumerate(paths):
        if any(path.samefile(other) for other in paths[:i]):
            raise InputError(f"{path} is named twice: its points would count twice")
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        header.identity.require(first.identity, str(path))
        first.identity.require(header.identity, str(paths[0]))
    joined, identity = load_map(paths[0])
    for path in paths[1:]:
        joined.merge(load_map(path)[0])
    of_one = ("recording", "journal")  # what tells the history of one map
    notes = {name: note for name, note in first.notes.items() if name not in of_one}
    paths_of_cameras = map(CameraPath.of, headers)
    notes["camera"] = reduce(CameraPath.joined, paths_of_cameras).note()
    save_map(out, joined, identity, notes)
    return len(joined)


if __name__ == "__main__":
    sys.exit(main())
