# SPDX-License-Identifier: Apache-2.0
"""radseg-export: write a map as a cloud for other programs (.ply, .pcd or .npz), or as a map file
of a fraction of its size (.radmap).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..command import positive, run_command
from ..datatypes import InputError
from ..files import prepare_file
from .options.mapper import add_mapper_options, given_options

if TYPE_CHECKING:
    from ..datatypes import Cloud

NAME = "radseg-export"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    return run_command(NAME, lambda: command(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog=NAME, description=__doc__)
    p.add_argument("map", type=Path, metavar="MAP", help="a .radmap file")
    p.add_argument(
        "-o", "--out", type=Path, required=True, help="the file; its suffix says which kind"
    )
    p.add_argument(
        "--labels",
        default="",
        metavar="A,B,...",
        help="colour every voxel by the label that fits it best (needs the encoder); default: true "
        "colours, for which nothing is loaded",
    )
    p.add_argument(
        "--min-hits", type=positive, default=1, help="leave out voxels of fewer depth pixels"
    )
    p.add_argument(
        "--share",
        type=positive,
        default=16,
        metavar="N",
        help=".radmap: vectors in 1/N of their memory (default: %(default)s; 1 = exact, up to 64)",
    )
    add_mapper_options(p, "encoder", "checkpoint", "text-embeddings", "device", "threshold")
    return p


def command(options: argparse.Namespace) -> int:
    """Write the file -> the exit status."""
    from ..answers.export import check_format, write_cloud
    from ..voxels.map_file import SUFFIX

    if options.out.suffix == SUFFIX:
        return shrink(options.map, options.out, options.share)
    check_format(options.out)
    prepare_file(options.out)
    cloud = cloud_of(options)
    write_cloud(options.out, cloud)
    print(f"{options.out}: {len(cloud)} points, {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def shrink(path: Path, out: Path, share: int) -> int:
    """Write a map file anew, with vectors in 1/share of their memory -> the exit status.

    Raises:
        MapFileError, InputError: the map cannot be read or written so.
    """
    from ..voxels.map_file import load_map, read_header, save_map

    if out.exists() and out.samefile(path):
        raise InputError(f"{out} is the map itself, which is exact: name another file")
    notes = read_header(path).notes
    prepare_file(out)
    world, identity = load_map(path)
    save_map(out, world, identity, notes, share)
    before, after = (each.stat().st_size / 1e6 for each in (path, out))
    print(f"{out}: {len(world)} voxels, {after:.1f} MB instead of {before:.1f}")
    return 0


def cloud_of(options: argparse.Namespace) -> Cloud:
    """The cloud that a command line asks for.

    Raises:
        RadsegRosError: the map or its encoder cannot be used, or a label cannot be embedded.
    """
    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    if labels:
        from ..view.saved_map import open_map

        changes = {"map.work_ahead": 0.0, "node.cloud_min_hits": options.min_hits}
        with open_map(options.map, {**changes, **given_options(options)}) as live:
            return live.cloud(labels)
    from ..answers.cloud import rgb_cloud
    from ..voxels.map_file import read_geometry

    return rgb_cloud(read_geometry(options.map)[0], options.min_hits)


if __name__ == "__main__":
    sys.exit(main())
