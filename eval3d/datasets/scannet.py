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

from ..classes import ClassList, scannet_to_nyu40
from .scene import Scene, View, numbered, read_matrix

MAP_FILE = "scannetv2-labels.combined.tsv"


def open_scene(root: Path, name: str, classes: ClassList) -> Scene:
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
    K = read_matrix(folder / "intrinsic" / "intrinsic_depth.txt", (3, 3), name)
    color, depth, pose = (numbered(folder / kind) for kind in ("color", "depth", "pose"))
    has_labels = (folder / "label-filt").is_dir()
    views = [
        View(
            name=str(i),
            rgb=color.get(i, folder / f"color/{i}.jpg"),
            depth=depth.get(i, folder / f"depth/{i}.png"),
            pose=pose.get(i, folder / f"pose/{i}.txt"),
            label=folder / f"label-filt/{i}.png" if has_labels else None,
        )
        for i in sorted({*color, *depth, *pose})
    ]
    return Scene(
        name,
        views,
        K,
        0.001,
        color_to_depth=True,
        relabel=relabeller(root, classes) if has_labels else None,
    )


def relabeller(root: Path, classes: ClassList) -> Callable[[np.ndarray], np.ndarray]:
    """From raw ids of label-filt to labels: by NYU40 for nyu40 and scannet20, directly for
    scannet200.
    """
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
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            return {int(row["id"]): int(row["nyu40id"] or 0) for row in rows}
    except (OSError, KeyError, ValueError) as error:
        raise RecordingError(f"{path} is damaged: {error!r}") from None
