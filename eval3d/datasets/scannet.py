# SPDX-License-Identifier: Apache-2.0
"""ScanNet as its SensReader exports it.

Colour is resized to the depth image, the depth intrinsics are used.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.disk import folder_views, read_intrinsics
from radseg_ros.reading import border, read_text

from ..classes import MAX_ID, ClassList, scannet_to_nyu40
from ..options import EvalConfig
from .scene import LabelledView, Scene

MAP_FILE = "scannetv2-labels.combined.tsv"


def open_scene(root: Path, name: str, classes: ClassList, config: EvalConfig) -> Scene:
    """``<root>/<name>`` or ``<root>/scans/<name>``.

    Raises:
        RecordingError: the scene, its intrinsics or all its images are missing.
    """
    folder = next((p for p in (root / name, root / "scans" / name) if (p / "depth").is_dir()), None)
    if folder is None:
        raise RecordingError(
            f"no ScanNet scene {name} under {root}: need {name}/{{color,depth,pose,intrinsic}} of "
            "SensReader"
        )
    K = read_intrinsics(folder / "intrinsic" / "intrinsic_depth.txt")
    has_labels = (folder / "label-filt").is_dir()
    has_instances = (folder / "instance-filt").is_dir()
    views = [
        LabelledView(
            view.name,
            view.color,
            view.depth,
            view.pose,
            folder / "label-filt" / f"{view.name}.png" if has_labels else None,
            folder / "instance-filt" / f"{view.name}.png" if has_instances else None,
        )
        for view in folder_views(folder)
    ]
    return Scene(
        name,
        views,
        K,
        config.mapper.node.depth_scale,
        color_to_depth=True,
        relabel=relabeller(root, classes) if has_labels else None,
    )


def relabeller(root: Path, classes: ClassList) -> Callable[[np.ndarray], np.ndarray]:
    """From raw ids of label-filt to labels: by NYU40, or directly for scannet200."""
    if classes.name not in ("nyu40", "scannet20"):
        return classes.labels_of
    own = root / MAP_FILE
    raw_to_nyu = _read_map(own) if own.is_file() else scannet_to_nyu40()
    table = np.zeros(max(raw_to_nyu) + 2, np.int64)
    for raw, nyu in raw_to_nyu.items():
        table[raw] = nyu
    labels = classes.labels_of(table) * (table > 0)
    last = len(labels) - 1
    return lambda ids: labels[np.where((ids < 0) | (ids > last), last, ids).astype(np.int64)]


def _read_map(path: Path) -> dict[int, int]:
    lines = read_text(path, RecordingError).splitlines()
    with border(path, "a table of labels with the columns id and nyu40id", RecordingError):
        rows = csv.DictReader(lines, delimiter="\t")
        found = {int(row["id"]): int(row["nyu40id"] or 0) for row in rows}
        if not found or not all(0 <= i < MAX_ID for ids in found.items() for i in ids):
            raise RecordingError(f"{path}: holds no ids, or some beyond 0..{MAX_ID - 1}")
        return found
