# SPDX-License-Identifier: Apache-2.0
"""ScanNet++: undistorted DSLR images with rendered depth, poses from nerfstudio or colmap files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.disk import in_natural_order
from radseg_ros.reading import border, read_json, read_text

from ..classes import ClassList
from ..options import EvalConfig
from .scene import LabelledView, Scene, camera_matrix

# Renderers of the depth images disagree about the folder's name.
DEPTH_FOLDERS = (
    "undistorted_render_depth",
    "render_depth_undistorted",
    "undistorted_depths",
    "render_depth",
    "depth",
)
IMAGES_TXT = 1 << 30  # bytes; it lists the points of every image
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
    stem, count = Counter(Path(file).stem for file in poses).most_common(1)[0] if poses else ("", 0)
    if count > 1:
        raise RecordingError(f"{name}: {count} images are called {stem}: which one?")
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
    data = read_json(path, raises=RecordingError)
    # a pose of infinite numbers costs its frame, later
    with border(path, f"the cameras of {name}", RecordingError), np.errstate(invalid="ignore"):
        K = camera_matrix(*(float(data[key]) for key in ("fl_x", "fl_y", "cx", "cy")))
        frames = [*data["frames"], *data.get("test_frames", ())]
        poses = {
            str(frame["file_path"]): COLMAP_FROM_NERFSTUDIO
            @ np.array(frame["transform_matrix"], np.float64)
            @ OPENGL_FROM_OPENCV
            for frame in frames
        }
        if len(poses) < len(frames):
            raise RecordingError(f"{path} lists one image twice: which pose has it?")
        return poses, K, (int(data["h"]), int(data["w"]))


def _lines(path: Path) -> list[str]:
    text = read_text(path, RecordingError, IMAGES_TXT)
    return [line for line in text.splitlines() if not line.startswith("#")]


def _colmap(folder: Path, name: str) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[int, int]]:
    """cameras.txt and images.txt (world-to-camera, quaternion first)."""
    with border(folder, f"the cameras of {name}", RecordingError):
        cameras = [line.split() for line in _lines(folder / "cameras.txt") if line.strip()]
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
        K, size = camera_matrix(fx, fy, cx, cy), (int(height), int(width))
        lines = _lines(folder / "images.txt")[0::2]  # every second line lists points
        rows = [line.split() for line in lines if line.strip()]
        poses = {row[9]: _camera_to_world([float(v) for v in row[1:8]]) for row in rows}
        if len(poses) < len(rows):
            raise RecordingError(f"{folder}/images.txt lists one image twice: which pose has it?")
        return poses, K, size


def _camera_to_world(values: list[float]) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    qw, qx, qy, qz, *translation = values
    T_camera_world = np.eye(4)
    T_camera_world[:3, :3] = Rotation.from_quat([qx, qy, qz, qw]).as_matrix()
    T_camera_world[:3, 3] = translation
    return np.linalg.inv(T_camera_world)
