# SPDX-License-Identifier: Apache-2.0
"""Anyone's recording as a folder: color/ depth/ pose/ intrinsics.txt, and label/ where there are
labels.
"""

from __future__ import annotations

from pathlib import Path

from radseg_ros.datatypes import RecordingError

from ..classes import ClassList
from .scene import Scene, View, numbered, read_matrix


def open_scene(root: Path, name: str, classes: ClassList) -> Scene:
    """``<root>/<name>``, or ``root`` itself when that is the recording.

    Depth is in millimetres, registered to colour; poses are camera-to-world, one text file each;
    frame numbers may have gaps.

    Raises:
        RecordingError: the folder is not there, has no intrinsics or no frames.
    """
    folder = next((p for p in (root / name, root) if (p / "depth").is_dir()), None)
    if folder is None:
        raise RecordingError(
            f"no recording in {root / name}: need color/ depth/ pose/ intrinsics.txt [label/]"
        )
    K = read_matrix(folder / "intrinsics.txt", (3, 3), name)
    color, depth, pose = (numbered(folder / kind) for kind in ("color", "depth", "pose"))
    label = numbered(folder / "label", "*.png")
    views = [
        View(
            name=f"{i:06d}",
            rgb=color.get(i, folder / f"color/{i:06d}.jpg"),
            depth=depth.get(i, folder / f"depth/{i:06d}.png"),
            pose=pose.get(i, folder / f"pose/{i:06d}.txt"),
            label=label.get(i, folder / f"label/{i:06d}.png") if label else None,
        )
        for i in sorted({*color, *depth, *pose})
    ]
    return Scene(name, views, K, 0.001, relabel=classes.labels_of if label else None)
