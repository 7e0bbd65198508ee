# SPDX-License-Identifier: Apache-2.0
"""Clouds as ``.ply``, ``.pcd`` or ``.npz`` for other programs: true colours, labels or a query,
whatever the cloud holds.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..datatypes import Cloud, InputError
from ..files import whole_file

POINT_BYTES = 27  # of a point in a file
MAX_HEADER = 4096  # bytes
FORMATS = (".ply", ".pcd", ".npz")
FIELDS = {"label": np.int32, "score": np.float32, "hits": np.float32}


def check_format(path: Path) -> None:
    """Refuse a name that does not say in which format a cloud is to be written.

    Raises:
        InputError: another suffix than those of ``FORMATS``.
    """
    if path.suffix.lower() not in FORMATS:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise InputError(f"a cloud is written as {known}, not {path.name}")


def write_cloud(path: Path | str, cloud: Cloud) -> None:
    """Write position (m), colour, label (-1 = none), score and hits of every point.

    The file appears whole or not at all: what Open3D has written (.ply, .pcd) is read back first,
    because it takes no notice of a full disk. An .npz holds the fields of :class:`Cloud` by name.

    Raises:
        InputError: another suffix than those of ``FORMATS``, an empty cloud, or a place that cannot
            be written.
    """
    path = Path(path)
    check_format(path)
    if not len(cloud):
        raise InputError("an empty cloud is not written")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}")
    if path.suffix.lower() == ".npz":
        _write_arrays(path, cloud)
    else:
        _write_points(path, cloud)


def _write_arrays(path: Path, cloud: Cloud) -> None:
    fields = {field.name: getattr(cloud, field.name) for field in dataclasses.fields(cloud)}
    try:
        with whole_file(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **fields)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_points(path: Path, cloud: Cloud) -> None:
    import open3d as o3d

    points = o3d.t.geometry.PointCloud()
    points.point.positions = o3d.core.Tensor(np.ascontiguousarray(cloud.xyz, np.float32))
    points.point.colors = o3d.core.Tensor(np.ascontiguousarray(cloud.rgb, np.uint8))
    for name, dtype in FIELDS.items():
        values = np.ascontiguousarray(getattr(cloud, name), dtype)[:, None]
        points.point[name] = o3d.core.Tensor(values)
    try:
        if shutil.disk_usage(path.parent).free < POINT_BYTES * len(cloud):
            raise InputError(f"{path} cannot be written: the disk is full")
        with whole_file(path) as part:
            written = o3d.t.io.write_point_cloud(str(part), points)
            if not written or not _holds(part, points):
                raise InputError(f"{path} was not written whole: is the disk full?")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _holds(file: Path, points: Any) -> bool:
    """Whether a file holds all of ``points``, a cloud of Open3D.

    Its size counts as well: of a short .ply Open3D fills the rest with what is in the memory.
    """
    import open3d as o3d

    with file.open("rb") as opened:
        _, end, content = opened.read(MAX_HEADER).partition(b"end_header\n")
        left = file.stat().st_size - opened.tell() + len(content)
    if end and left < POINT_BYTES * len(points.point.positions):
        return False
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        read = o3d.t.io.read_point_cloud(str(file)).point
    names = ("positions", "colors", *FIELDS)
    return all(
        name in read and np.array_equal(read[name].numpy(), points.point[name].numpy())
        for name in names
    )
