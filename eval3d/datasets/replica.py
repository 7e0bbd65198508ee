# SPDX-License-Identifier: Apache-2.0
"""Replica as NICE-SLAM exports it (``<scene>/results``), or Semantic-NeRF (``Sequence_1``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.disk import COLOR_SUFFIXES, DEPTH_SUFFIXES, list_files, read_numbers
from radseg_ros.reading import border, read_json

from ..classes import ClassList
from ..options import EvalConfig
from .scene import LabelledView, Scene, camera_matrix

SEMANTIC_NERF_K = np.array([[320.0, 0, 320], [0, 320, 240], [0, 0, 1]])  # 640x480, 90 degrees wide


def spellings(scene: str) -> list[str]:
    """``office0`` is ``office_0`` in some exports."""
    stem, digits = scene.rstrip("0123456789"), scene[len(scene.rstrip("0123456789")) :]
    return [scene, f"{stem.rstrip('_')}_{digits}", f"{stem.rstrip('_')}{digits}"]


def open_scene(root: Path, name: str, classes: ClassList, config: EvalConfig) -> Scene:
    """The scene in whichever export lies under ``root``.

    Raises:
        RecordingError: neither is there, or a file that the whole scene needs is missing or
            damaged.
    """
    for folder in (root / spelling for spelling in spellings(name)):
        if (folder / "results").is_dir():
            _check_classes(root, name, classes)
            return _nice_slam(root, folder, name)
        for sequence in (folder / "Sequence_1", folder):
            if (sequence / "traj_w_c.txt").is_file():
                return _semantic_nerf(sequence, name, classes, config.mapper.node.depth_scale)
    raise RecordingError(
        f"no Replica scene {name} under {root}: need {name}/results/frame000000.jpg with "
        f"{name}/traj.txt (NICE-SLAM export) "
        f"or {spellings(name)[1]}/Sequence_1/traj_w_c.txt (Semantic-NeRF export)"
    )


def _nice_slam(root: Path, folder: Path, name: str) -> Scene:
    camera_file = next(
        (p for p in (root / "cam_params.json", folder / "cam_params.json") if p.is_file()), None
    )
    if camera_file is None:
        raise RecordingError(f"{name}: no cam_params.json in {root}")
    camera = read_json(camera_file, raises=RecordingError).get("camera")
    with border(camera_file, "a file of camera parameters", RecordingError):
        K = camera_matrix(*(float(camera[key]) for key in ("fx", "fy", "cx", "cy")))
        depth_scale, size = 1.0 / float(camera["scale"]), (int(camera["h"]), int(camera["w"]))
        if not 0 < depth_scale < np.inf:
            raise RecordingError(f"{camera_file}: a depth scale of {camera['scale']} is impossible")
    poses = dict(enumerate(_read_trajectory(folder / "traj.txt")))
    results = folder / "results"
    color = _numbered(results, COLOR_SUFFIXES, "frame")
    depth = _numbered(results, DEPTH_SUFFIXES, "depth")
    views = [
        LabelledView(
            f"{i:06d}",
            color.get(i, results / f"frame{i:06d}.jpg"),
            depth.get(i, results / f"depth{i:06d}.png"),
            poses.get(i),  # an image without a pose is dropped, and counted
        )
        for i in sorted({*poses, *color, *depth})
    ]
    return Scene(name, views, K, depth_scale, size)


def _semantic_nerf(folder: Path, name: str, classes: ClassList, depth_scale: float) -> Scene:
    poses = dict(enumerate(_read_trajectory(folder / "traj_w_c.txt")))
    kinds = ("rgb", "depth", "semantic_class")
    files = {kind: _numbered(folder / kind, DEPTH_SUFFIXES, f"{kind}_") for kind in kinds}
    views = [
        LabelledView(
            str(i),
            files["rgb"].get(i, folder / f"rgb/rgb_{i}.png"),
            files["depth"].get(i, folder / f"depth/depth_{i}.png"),
            poses.get(i),
            files["semantic_class"].get(i, folder / f"semantic_class/semantic_class_{i}.png"),
        )
        for i in sorted({*poses, *files["rgb"], *files["depth"]})
    ]
    return Scene(name, views, SEMANTIC_NERF_K, depth_scale, (480, 640), relabel=classes.labels_of)


def _numbered(folder: Path, suffixes: Sequence[str], prefix: str) -> dict[int, Path]:
    """The files that are called ``prefix`` and a number."""
    files = list_files(folder, suffixes, prefix)
    numbers = [name for name in files if name.isdecimal()]
    found = {int(name): files[name] for name in numbers}
    if len(found) < len(numbers):
        raise RecordingError(f"{folder} holds one number twice, with and without leading zeros")
    return found


def _read_trajectory(path: Path) -> np.ndarray:
    """One row-major 4x4 camera-to-world per line (or per four lines) -> (N, 4, 4).

    May hold values that are not finite.

    Raises:
        RecordingError: the file is missing or not a whole number of matrices.
    """
    values = read_numbers(path)
    if values.size == 0 or values.size % 16:
        raise RecordingError(
            f"{path} holds {values.size} numbers, not a whole number of 4x4 matrices"
        )
    return values.reshape(-1, 4, 4)


def _check_classes(root: Path, name: str, classes: ClassList) -> None:
    """Refuse a copy of the data set that names its classes differently from the list."""
    for spelling in spellings(name):
        path = root / "semantic_info" / spelling / "info_semantic.json"
        if classes.name == "replica101" and path.is_file():
            rows = read_json(path, raises=RecordingError).get("classes")
            with border(path, "a list of classes", RecordingError):
                own = {int(row["id"]): row["name"] for row in rows}
            different = [
                i for i, n in zip(classes.ids, classes.names, strict=True) if own.get(i, n) != n
            ]
            if different:
                raise RecordingError(
                    f"{path} names the classes {different[:5]} differently from the list replica101"
                )
            return
