# SPDX-License-Identifier: Apache-2.0
"""Where files are: those that the package installs, those that a client of the node may name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..datatypes import InputError


def share_file(name: str) -> Path | None:
    """Path of e.g. ``config/fastdds.xml`` in the source tree or where the package is installed.

    None if it is nowhere.
    """
    roots = [Path(__file__).resolve().parents[2]]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    roots += [Path(prefix, "share", "radseg_ros") for prefix in prefixes if prefix]
    return next((root / name for root in roots if (root / name).is_file()), None)


def confined(directory: str, name: str) -> Path:
    """The file ``name`` below ``directory``, for names that come over the network.

    Raises:
        InputError: no directory is set, or ``name`` is empty, absolute, or leaves the directory by
            '..' or a symbolic link.
    """
    if not directory:
        raise InputError("the node has no folder for maps: set its parameter node.map_directory")
    if (
        not name
        or "\0" in name
        or Path(name).is_absolute()
        or ".." in Path(name).parts
        or name.endswith(("/", "."))
    ):
        raise InputError(f"path {name!r} must name a file below node.map_directory, without '..'")
    root = Path(directory).expanduser().resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or path == root:
        raise InputError(f"path {name!r} leaves node.map_directory through a symbolic link")
    return path
