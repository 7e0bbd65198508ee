# SPDX-License-Identifier: Apache-2.0
"""Clouds as files that every viewer opens: .ply and .pcd, binary, with label, score and hits beside position and colour."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .datatypes import Cloud, InputError, MapFileError

PLY_TYPES = {"<f4": "float", "<i4": "int", "|u1": "uchar"}
PLY = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
PCD = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")]  # 0x00RRGGBB
EXTRA = [("label", "<i4"), ("score", "<f4"), ("hits", "<f4")]


def export_cloud(path: Path | str, cloud: Cloud) -> None:
    """Write ``cloud``; the suffix of ``path`` chooses the format. An older file stays whole until the new one is complete.

    Raises:
        InputError: the suffix is neither .ply nor .pcd.
        MapFileError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path.name}: a cloud is exported as {' or '.join(FORMATS)}")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(FORMATS[path.suffix](cloud))
        os.replace(part, path)
    except OSError as error:
        raise MapFileError(f"the cloud cannot be written to {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _ply(cloud: Cloud) -> bytes:
    points = _points(cloud, PLY)
    points["red"], points["green"], points["blue"] = cloud.rgb.T
    properties = [f"property {PLY_TYPES[points.dtype[name].str]} {name}" for name in points.dtype.names or ()]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud)}", *properties, "end_header"]
    return ("\n".join(lines) + "\n").encode() + points.tobytes()


def _pcd(cloud: Cloud) -> bytes:
    points = _points(cloud, PCD)
    red, green, blue = cloud.rgb.astype(np.uint32).T
    points["rgb"] = red << 16 | green << 8 | blue
    names = points.dtype.names or ()
    lines = [
        "VERSION 0.7",
        f"FIELDS {' '.join(names)}",
        f"SIZE {' '.join('4' for _ in names)}",
        f"TYPE {' '.join(points.dtype[name].kind.upper() for name in names)}",
        f"COUNT {' '.join('1' for _ in names)}",
        f"WIDTH {len(cloud)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(cloud)}",
        "DATA binary",
    ]
    return ("\n".join(lines) + "\n").encode() + points.tobytes()


def _points(cloud: Cloud, fields: list[tuple[str, str]]) -> np.ndarray:
    """(M,) structured, everything filled in but the colour."""
    points = np.empty(len(cloud), np.dtype([*fields, *EXTRA]))
    points["x"], points["y"], points["z"] = cloud.xyz.T
    points["label"], points["score"], points["hits"] = cloud.label, cloud.score, cloud.hits
    return points


FORMATS = {".ply": _ply, ".pcd": _pcd}
