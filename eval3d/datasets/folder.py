# SPDX-License-Identifier: Apache-2.0
"""Anyone's recording as a folder, as :mod:`radseg_ros.frames.disk` reads it, and its truth.

label/NAME.png holds a class id per pixel, instance/NAME.png the id of a thing, 0 = none.
"""

from __future__ import annotations

from collections.abc import Callable
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
    label, instance = (_beside(folder / kind) for kind in ("label", "instance"))
    views = [
        LabelledView(
            view.name, view.color, view.depth, view.pose, label(view.name), instance(view.name)
        )
        for view in folder_views(folder)
    ]
    scale = config.mapper.node.depth_scale
    relabel = classes.labels_of if any(view.label for view in views) else None
    return Scene(name, views, K, scale, relabel=relabel)


def _beside(folder: Path) -> Callable[[str], Path | None]:
    """Name of a frame -> its image of ids, which may be missing; None where there are none."""
    files = list_files(folder, LABEL_SUFFIXES)
    return lambda name: files.get(name, folder / f"{name}.png") if files else None
