# SPDX-License-Identifier: Apache-2.0
"""Where files are: those that the package installs, those that a client of the node may name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..datatypes import InputError

LONGEST_NAME = 200  # characters of each part of a path; file systems take 255 bytes


def share_file(name: str) -> Path | None:
    """Path of e.g. ``config/fastdds.xml`` in the source tree or where the package is installed.

    None if it is nowhere.
    """
    roots = [Path(__file__).resolve().parents[2]]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    roots += [Path(prefix, "share", "radseg_ros") for prefix in prefixes if prefix]
    return next((root / name for root in roots if (root / name).is_file()), None)


def confined(directory: str, name: str, suffix: str = "", others: tuple[str, ...] = ()) -> Path:
    """The file ``name`` below ``directory``, for names that come over the network.

    Args:
        suffix: added to a name that ends in neither it nor one of ``others``, whatever its case,
            before anything is checked.

    Raises:
        InputError: no directory is set, or ``name`` is empty, absolute, too long, leads through a
            file or a loop, or leaves the directory by '..' or a symbolic link.
    """
    if not directory:
        raise InputError(
            "the node has no folder for maps: it was started with an empty node.map_directory"
        )
    shown = name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "..."
    parts = Path(name).parts
    plain = name.isprintable() and not Path(name).is_absolute() and ".." not in parts
    if not name or not plain or name.endswith(("/", ".")):
        raise InputError(f"path {shown!r} must name a file below node.map_directory, without '..'")
    if max(map(len, parts)) > LONGEST_NAME or len(parts) > 32:
        raise InputError(f"path {shown!r} is too long")
    if not name.lower().endswith((suffix, *others)):
        name += suffix
    try:
        root = Path(directory).expanduser().resolve()
        path = (root / name).resolve()
        inside = path.is_relative_to(root) and path != root
        blocked = next((p for p in path.parents if p.is_file()), None) if inside else None
        if any(p.is_symlink() for p in (path, *path.parents)):
            raise OSError  # a loop of symbolic links, which Python 3.13 leaves as it is
    except (OSError, RuntimeError):  # a loop, or names that no file system takes
        raise InputError(f"path {shown!r} cannot be followed") from None
    if not inside:
        raise InputError(f"path {shown!r} leaves node.map_directory through a symbolic link")
    if blocked is not None:
        raise InputError(f"path {shown!r}: {blocked.name} is a file, not a folder")
    return path


def make_folder(path: Path) -> None:
    """Make a folder for maps, where there is none yet.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}") from error
