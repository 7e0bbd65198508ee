# SPDX-License-Identifier: Apache-2.0
"""Labelled points from files: .ply, .npz, .pt / .pth (read safely: nothing in them is executed)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.datatypes import InputError

from ..scoring.metrics import as_numpy

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
    "scalar_label",
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


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) float64 positions in metres and (N,) int64 ids as the file has them.

    Points that are not finite are left out.

    Raises:
        InputError: no such file, an unknown kind, or no positions or labels in it; the message
            lists what it holds.
    """
    if not path.is_file():
        raise InputError(f"ground truth {path} does not exist")
    readers = {".ply": read_ply, ".npz": read_npz, ".pt": _read_torch, ".pth": _read_torch}
    if path.suffix not in readers:
        raise InputError(f"ground truth {path}: unknown kind; known: {', '.join(readers)}")
    fields = readers[path.suffix](path)
    if {"x", "y", "z"} <= fields.keys():
        fields["xyz"] = np.column_stack([fields["x"], fields["y"], fields["z"]])
    xyz, labels = (_first(fields, keys, path) for keys in (XYZ_KEYS, LABEL_KEYS))
    if labels.ndim == 2:  # ScanNet++ lists up to three labels a vertex, the best first
        labels = labels[:, 0]
    if xyz.ndim != 2 or xyz.shape[1] != 3 or labels.shape != xyz.shape[:1]:
        raise InputError(
            f"ground truth {path}: {xyz.shape} positions do not fit {labels.shape} labels"
        )
    finite = np.isfinite(xyz).all(axis=1)
    labels = np.where(np.isfinite(labels), labels, -1) if labels.dtype.kind == "f" else labels
    return xyz[finite].astype(np.float64), labels[finite].astype(np.int64)


def _first(fields: Mapping[str, Any], keys: tuple[str, ...], path: Path) -> np.ndarray:
    key = next((key for key in keys if key in fields), None)
    if key is None:
        raise InputError(
            f"ground truth {path} holds {', '.join(fields) or 'nothing'}; need one of "
            f"{', '.join(keys)}"
        )
    return numbers_of(fields, key, path)


def numbers_of(fields: Mapping[str, Any], key: str, path: Path) -> np.ndarray:
    """``fields[key]`` as an array.

    Raises:
        InputError: it holds something else than numbers.
    """
    array = as_numpy(fields[key])
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {key} holds {array.dtype}, not numbers")
    return array


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever libraries raise at a damaged file becomes one sentence.

    Raises:
        InputError: instead of any other error.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # numpy, zipfile, zlib and struct raise a dozen kinds
        raise InputError(
            f"{path} cannot be read: damaged, truncated, or not what its name says"
        ) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file; nothing in it is executed.

    Raises:
        InputError: it is damaged, or something else.
    """
    with _readable(path), np.load(path, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    kinds = ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "?")
    reconstruct, scalar = np.array([0]).__reduce__()[0], np.float64(0).__reduce__()[0]
    arrays = [
        np.dtype,
        np.ndarray,
        reconstruct,
        scalar,
        *sorted({type(np.dtype(kind)) for kind in kinds}, key=repr),
    ]
    aliases = [  # of numpy 1
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (scalar, "numpy.core.multiarray.scalar"),
    ]
    try:
        with torch.serialization.safe_globals([*arrays, *aliases]):
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the loader refuses with errors of several libraries
        raise InputError(
            f"{path} is damaged or holds more than arrays, so it is not loaded"
        ) from error
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
    with _readable(path), path.open("rb") as file:
        kind, elements = _ply_header(file, path)
        name, count, properties = next((e for e in elements if e[0] == "vertex"), ("", 0, []))
        if not name or elements[0][0] != "vertex" or any(t == "list" for t, _ in properties):
            raise InputError(f"{path}: its first element must be vertices with plain properties")
        if kind == "ascii":
            rows = (
                np.loadtxt(file, ndmin=2, max_rows=count, dtype=np.float64)
                if count
                else np.zeros((0, len(properties)))
            )
            if rows.shape != (count, len(properties)):
                raise InputError(f"{path} is truncated")
            return {field: rows[:, i] for i, (_, field) in enumerate(properties)}
        order = {"binary_little_endian": "<", "binary_big_endian": ">"}[kind]
        dtype = np.dtype([(field, order + PLY_TYPES[t]) for t, field in properties])
        data = file.read(count * dtype.itemsize)
        if len(data) != count * dtype.itemsize:
            raise InputError(
                f"{path} is truncated: {len(data)} bytes of vertices, need {count * dtype.itemsize}"
            )
        vertices = np.frombuffer(data, dtype)
        return {
            field: vertices[field].astype(dtype[field].newbyteorder("="))
            for field in dtype.names or ()
        }


def _ply_header(file: Any, path: Path) -> tuple[str, list[tuple[str, int, list[tuple[str, str]]]]]:
    if file.readline().strip() != b"ply":
        raise InputError(f"{path} is not a PLY file")
    kind = ""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    while True:
        line = file.readline()
        words = line.decode("ascii", "replace").split()
        if not line:
            raise InputError(f"{path}: the header does not end")
        if words[:1] == ["end_header"]:
            return kind, elements
        if words[:1] == ["format"]:
            kind = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            elements[-1][2].append((words[1], words[-1]))
