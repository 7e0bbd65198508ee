# SPDX-License-Identifier: Apache-2.0
"""ScanNet++: undistorted DSLR images with rendered depth, poses from nerfstudio or colmap files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.disk import in_natural_order

from ..classes import ClassList
from ..options import EvalConfig
from .scene import LabelledView, Scene

# Renderers of the depth images disagree about the folder's name.
DEPTH_FOLDERS = (
    "undistorted_render_depth",
    "render_depth_undistorted",
    "undistorted_depths",
    "render_depth",
    "depth",
)
IMAGE_FOLDERS = ("undistorted_images", "resized_undistorted_images")

# nerfstudio's world has x and y swapped and z upside down against colmap's, in which the mesh lies;
# its cameras look along -z.
COLMAP_FROM_NERFSTUDIO = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
OPENGL_FROM_OPENCV = np.diag([1.0, -1, -1, 1])


def open_scene(root: Path, name: str, classes: ClassList, config: EvalConfig) -> Scene:
    """``<root>/data/<name>/dslr`` or ``<root>/<name>/dslr``.

    Raises:
        RecordingError: the scene, its images, its depth or its camera files are missing.
    """
    del classes  # there are no 2D labels
    dslr = next(
        (p for p in (root / "data" / name / "dslr", root / name / "dslr") if p.is_dir()), None
    )
    if dslr is None:
        raise RecordingError(f"no ScanNet++ scene {name} under {root}: need data/{name}/dslr")
    images, depths = (_first(dslr, kinds, name) for kinds in (IMAGE_FOLDERS, DEPTH_FOLDERS))
    transforms = dslr / "nerfstudio" / "transforms_undistorted.json"
    if transforms.is_file():
        poses, K, size = _nerfstudio(transforms, name)
    else:
        poses, K, size = _colmap(dslr / "colmap", name)
    by_name = {Path(file).stem: (images / Path(file).name, pose) for file, pose in poses.items()}
    views = [
        LabelledView(stem, by_name[stem][0], depths / f"{stem}.png", by_name[stem][1])
        for stem in in_natural_order(by_name)
    ]
    return Scene(name, views, K, config.mapper.node.depth_scale, size)


def _first(dslr: Path, names: tuple[str, ...], scene: str) -> Path:
    for folder in (dslr / name for name in names):
        if folder.is_dir():
            return folder
    raise RecordingError(f"{scene}: {dslr} has none of the folders {', '.join(names)}")


def _nerfstudio(path: Path, name: str) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[int, int]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        K = np.array(
            [[data["fl_x"], 0, data["cx"]], [0, data["fl_y"], data["cy"]], [0, 0, 1]], np.float64
        )
        frames = [*data["frames"], *data.get("test_frames", ())]
        poses = {
            frame["file_path"]: COLMAP_FROM_NERFSTUDIO
            @ np.array(frame["transform_matrix"], np.float64)
            @ OPENGL_FROM_OPENCV
            for frame in frames
        }
        return poses, K, (int(data["h"]), int(data["w"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{name}: {path} is damaged: {error!r}") from None


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error}") from None
    return [line.split() for line in text.splitlines() if not line.startswith("#")]


def _colmap(folder: Path, name: str) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[int, int]]:
    """cameras.txt and images.txt (world-to-camera, quaternion first)."""
    try:
        cameras = [row for row in _lines(folder / "cameras.txt") if row]
        model, width, height, *numbers = cameras[0][1:]
        if len(cameras) != 1 or model not in ("PINHOLE", "SIMPLE_PINHOLE"):
            raise RecordingError(
                f"{name}: {folder}/cameras.txt holds {len(cameras)} cameras, the first {model}; "
                "they must be one PINHOLE "
                "camera (the undistortion of the ScanNet++ toolbox writes "
                "nerfstudio/transforms_undistorted.json)"
            )
        values = [float(v) for v in numbers]
        fx, fy, cx, cy = values if model == "PINHOLE" else (values[0], *values)
        rows = _lines(folder / "images.txt")[0::2]  # every second line lists points
        poses = {row[9]: _camera_to_world([float(v) for v in row[1:8]]) for row in rows if row}
    except (ValueError, IndexError) as error:
        raise RecordingError(f"{name}: {folder} is damaged: {error!r}") from None
    return poses, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (int(height), int(width))


def _camera_to_world(values: list[float]) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    qw, qx, qy, qz, *translation = values
    T_camera_world = np.eye(4)
    T_camera_world[:3, :3] = Rotation.from_quat([qx, qy, qz, qw]).as_matrix()
    T_camera_world[:3, 3] = translation
    return np.linalg.inv(T_camera_world)
