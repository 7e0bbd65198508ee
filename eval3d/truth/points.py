# SPDX-License-Identifier: Apache-2.0
"""Labelled points from files: .ply, .npz, .pt / .pth (read safely: nothing in them is executed)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.reading import border, read_arrays, read_torch

from ..scoring.metrics import as_numpy, whole_numbers

XYZ_KEYS = ("xyz", "points", "coords", "vtx_coords", "gt_xyz", "pc_xyz", "vertices")
LABEL_KEYS = (
    "labels",
    "label",
    "vtx_labels",
    "gt_labels",
    "gt",
    "semantic",
    "class",
    "label_id",
    "class_id",
    "category_id",
    "semantic_label",
    "scalar_label",  # as CloudCompare calls them
    "scalar_class",
)
INSTANCE_KEYS = (
    "instances",
    "instance",
    "instance_id",
    "vtx_instance_anno_id",
    "object_id",
    "objectid",
)

PLY_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}


HEADER_BYTES = 1 << 16  # of a PLY file


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) float64 positions in metres, which may not be finite, and (N,) int64 ids as the file
    has them, -1 where it has none.

    Raises:
        InputError: no such file, an unknown kind, or no positions or labels in it; the message
            lists what it holds.
    """
    with border(path, f"a {path.suffix} file of labelled points"):
        return _points(_fields(path), LABEL_KEYS, path)


def read_instances(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """As :func:`read_points`, with the ids of things instead; None where the file has none."""
    with border(path, f"a {path.suffix} file of labelled points"):
        fields = _fields(path)
        known = any(key in fields for key in INSTANCE_KEYS)
        return _points(fields, INSTANCE_KEYS, path) if known else None


def _fields(path: Path) -> dict[str, Any]:
    """What a file holds, by name, also in small letters; positions as ``xyz`` where they are
    columns.
    """
    readers = {".ply": read_ply, ".npz": read_arrays, ".pt": _read_torch, ".pth": _read_torch}
    if not path.is_file():
        raise InputError(f"ground truth {path} does not exist")
    if path.suffix.lower() not in readers:
        raise InputError(f"ground truth {path}: unknown kind; known: {', '.join(readers)}")
    held = dict(readers[path.suffix.lower()](path))
    fields = {name.lower(): values for name, values in held.items()} | held
    if {"x", "y", "z"} <= fields.keys():
        fields["xyz"] = np.column_stack([fields["x"], fields["y"], fields["z"]])
    return fields


def _points(
    fields: Mapping[str, Any], keys: tuple[str, ...], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Positions, and the ids that are called one of ``keys``."""
    xyz, labels = (_first(fields, names, path) for names in (XYZ_KEYS, keys))
    if labels.ndim == 2 and labels.shape[1]:
        labels = labels[:, 0]  # ScanNet++ lists up to three labels a vertex, the best first
    if xyz.ndim != 2 or xyz.shape[1] != 3 or labels.shape != xyz.shape[:1]:
        raise InputError(
            f"ground truth {path}: {xyz.shape} positions do not fit {labels.shape} labels"
        )
    if xyz.dtype.kind not in "iuf":
        raise InputError(f"ground truth {path}: positions are {xyz.dtype}, no numbers")
    if labels.dtype.kind == "f":
        labels = np.where(np.isfinite(labels), labels, -1)
    with np.errstate(invalid="ignore"):  # a NaN of the signalling kind
        xyz = xyz.astype(np.float64)
    return xyz, whole_numbers(labels, f"ground truth {path}: labels")


def _first(fields: Mapping[str, Any], keys: tuple[str, ...], path: Path) -> np.ndarray:
    for key in keys:
        if key in fields:
            return as_numpy(fields[key])
    held = ", ".join(str(name)[:50] for name in list(fields)[:20]) or "nothing"
    raise InputError(f"ground truth {path} holds {held}; need one of {', '.join(keys)}")


def _read_torch(path: Path) -> dict[str, Any]:
    data = read_torch(path, "a file of nothing but tensors and arrays")
    if not isinstance(data, dict):
        raise InputError(
            f"{path} holds a {type(data).__name__}, need a dictionary with positions and labels"
        )
    return {str(key): value for key, value in data.items()}


def read_ply(path: Path) -> dict[str, np.ndarray]:
    """The scalar properties of the vertices of a PLY file (ascii, binary little or big endian).

    Raises:
        InputError: not a PLY file, truncated, or its vertices hold lists.
    """
    with border(path, "a PLY file"), path.open("rb") as file:
        kind, count, properties = _ply_header(file, path)
        if kind == "ascii":
            return _ascii_vertices(file, path, count, [field for field, _ in properties])
        order = {"binary_little_endian": "<", "binary_big_endian": ">"}[kind]
        dtype = np.dtype([(field, order + PLY_TYPES[t]) for field, t in properties])
        need, have = count * dtype.itemsize, path.stat().st_size - file.tell()
        if have < need:
            raise InputError(f"{path} is truncated: {have} bytes of vertices, need {need}")
        vertices = np.frombuffer(file.read(need), dtype)
        return {
            field: vertices[field].astype(dtype[field].newbyteorder("="))
            for field in dtype.names or ()
        }


def _ascii_vertices(
    file: IO[bytes], path: Path, count: int, fields: list[str]
) -> dict[str, np.ndarray]:
    """The next ``count`` lines as one array per field."""
    shape = (count, len(fields))
    if count * 2 * len(fields) > path.stat().st_size:  # a digit and a space for each number
        raise InputError(f"{path} is truncated: it is too short for {count} vertices")
    if count == 0:
        return {field: np.zeros(0) for field in fields}
    rows = np.loadtxt(file, ndmin=2, max_rows=count, dtype=np.float64)
    if rows.shape != shape:
        raise InputError(f"{path} is truncated: {rows.shape} numbers of vertices, need {shape}")
    return {field: rows[:, i] for i, field in enumerate(fields)}


def _ply_header(file: IO[bytes], path: Path) -> tuple[str, int, list[tuple[str, str]]]:
    """Encoding, number of vertices, and name and type of each of their properties."""
    head = file.read(HEADER_BYTES)
    if head.split(b"\n")[0].strip() != b"ply":
        raise InputError(f"{path} is not a PLY file")
    end = re.search(rb"^end_header *\r?\n", head, re.MULTILINE)
    if end is None:
        raise InputError(f"{path}: the header does not end")
    file.seek(end.end())
    lines = [line.split() for line in head[: end.start()].decode("ascii", "replace").splitlines()]
    kind = next(line[1] for line in lines if line[:1] == ["format"])
    elements = [i for i, line in enumerate(lines) if line[:1] == ["element"]]
    first, second = [*elements, len(lines)][:2]
    _, name, count = lines[first]
    properties = [line for line in lines[first:second] if line[:1] == ["property"]]
    if name != "vertex" or any(len(line) != 3 for line in properties) or not properties:
        raise InputError(f"{path}: its first element must be vertices with plain properties")
    if not count.isdecimal():
        raise InputError(f"{path}: {count[:20]} is no number of vertices")
    return kind, int(count), [(field, kind) for _, kind, field in properties]
