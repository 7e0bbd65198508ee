# SPDX-License-Identifier: Apache-2.0
"""Anyone's recording as a folder, as :mod:`radseg_ros.frames.disk` reads it, and label/ beside it.

The file label/NAME.png holds a class id per pixel.
"""

from __future__ import annotations

from pathlib import Path

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.disk import (
    LABEL_SUFFIXES,
    LAYOUT,
    folder_views,
    list_files,
    read_intrinsics,
)

from ..classes import ClassList
from ..options import EvalConfig
from .scene import LabelledView, Scene


def open_scene(root: Path, name: str, classes: ClassList, config: EvalConfig) -> Scene:
    """``<root>/<name>``, or ``root`` itself when that is the recording.

    Raises:
        RecordingError: the folder is not there, has no intrinsics or no frames, or one name twice.
    """
    folder = next((p for p in (root / name, root) if (p / "depth").is_dir()), None)
    if folder is None:
        raise RecordingError(f"no recording in {root / name}: need {LAYOUT}, label/NAME.png")
    K = read_intrinsics(folder / "intrinsics.txt")
    labels = list_files(folder / "label", LABEL_SUFFIXES)
    views = [
        LabelledView(
            view.name,
            view.color,
            view.depth,
            view.pose,
            labels.get(view.name, folder / "label" / f"{view.name}.png") if labels else None,
        )
        for view in folder_views(folder)
    ]
    scale = config.mapper.node.depth_scale
    return Scene(name, views, K, scale, relabel=classes.labels_of if labels else None)
