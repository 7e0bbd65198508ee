# SPDX-License-Identifier: Apache-2.0
"""Maps as OpenLex3D reads predictions: ``embeddings.npy``, ``index.npy``, ``point_cloud.pcd``.

Written for its tools at commit 3dbad2b (openlex3d/core/io.py, read there): ``embeddings[index[i]]``
is compared with text at point i of the cloud; dense methods have an embedding for every point.
docs/evaluation.md says how to run them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radseg_ros.answers.groups import connected_groups
from radseg_ros.datatypes import InputError
from radseg_ros.encoders.protocol import Encoder
from radseg_ros.files import whole_file, write_whole
from radseg_ros.spaces import Space
from radseg_ros.voxels.map_file import SUFFIX
from radseg_ros.voxels.voxel_map import VoxelMap

from .classes import ClassList
from .options import EvalConfig
from .oracle import ORACLE
from .run import classes_of, set_threads
from .score_file import load_to_ask
from .scoring.metrics import as_numpy
from .scoring.score import label_map

OBJECTS = ("voxel", "object")
SCENE_MAP = f"map{SUFFIX}"  # of ``eval3d run --save-map``, in the folder of the scene
PCD = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z rgb
SIZE 4 4 4 4
TYPE F F F U
COUNT 1 1 1 1
WIDTH {count}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {count}
DATA binary
"""


def export_openlex3d(
    config: EvalConfig, sources: Sequence[Path], out: Path, objects: str = "voxel"
) -> list[Path]:
    """Write the three files of each map -> the folders ``out``/<scene>.

    Args:
        sources: map files, or folders of results that hold some (``eval3d run --save-map``).
        objects: what has an embedding: each ``voxel``, or each ``object``, which is a connected
            group of voxels of one class of the list, with the mean of their vectors.

    Raises:
        InputError: there is no map, two are of one scene, or one stores probabilities.
        MapFileError: a file is damaged.
    """
    maps = scene_maps(sources)
    classes = classes_of(config) if objects == "object" or config.encoder == ORACLE else None
    set_threads(config)
    asked = classes or ClassList("none", ("thing",), (1,))
    for scene, path in maps.items():
        voxel_map, _, encoder, space = load_to_ask(config, path, asked)
        vectors = space.language_vectors(voxel_map)
        if vectors is None or not len(voxel_map):
            held = "stores probabilities" if vectors is None else "is empty"
            raise InputError(f"{path} {held}: there are no vectors to be compared with texts")
        embeddings, index = as_numpy(vectors).astype(np.float32), np.arange(len(voxel_map))
        if objects == "object":
            assert classes is not None
            index = _objects(voxel_map, space, encoder, config, classes)
            embeddings = _means(embeddings, index)
        _write(out / scene, voxel_map, embeddings, index)
    return [out / scene for scene in maps]


def scene_maps(sources: Sequence[Path]) -> dict[str, Path]:
    """Name of a scene -> its map file.

    Raises:
        InputError: there is none, or there are two of one scene.
    """
    found: dict[str, Path] = {}
    for source in sources:
        files = sorted(source.rglob(SCENE_MAP)) if source.is_dir() else [source]
        if not files:
            raise InputError(f"{source} holds no {SCENE_MAP}: evaluate with --save-map")
        for path in files:
            if not path.is_file():
                raise InputError(f"map {path} does not exist")
            name = path.resolve().parent.name if path.name == SCENE_MAP else path.stem
            if name in found:
                raise InputError(f"{found[name]} and {path} are both of the scene {name}")
            found[name] = path
    return found


def _objects(
    voxel_map: VoxelMap, space: Space, encoder: Encoder, config: EvalConfig, classes: ClassList
) -> np.ndarray:
    """(N,) int64, which object each voxel is of; what has no class is in objects of its own."""
    label = label_map(voxel_map, space, encoder, config, classes).label
    index = as_numpy(voxel_map.geometry().index)
    owner, count = np.zeros(len(label), np.int64), 0
    for each in np.unique(label):
        rows = np.flatnonzero(label == each)
        gap = config.mapper.query.max_gap
        group = connected_groups(index[rows], voxel_map.voxel_size, gap)
        owner[rows] = count + group
        count += int(group.max()) + 1
    return owner


def _means(vectors: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """(N, D) -> (P, D) float32, the mean of each object, of unit length."""
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
    sums = np.add.reduceat(vectors[order], starts, axis=0)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def _write(folder: Path, voxel_map: VoxelMap, embeddings: np.ndarray, index: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    geometry = voxel_map.geometry()
    write_whole(folder / "point_cloud.pcd", pcd(as_numpy(geometry.xyz), as_numpy(geometry.rgb)))
    for name, array in (("embeddings.npy", embeddings), ("index.npy", index)):
        with whole_file(folder / name) as part, part.open("wb") as file:
            np.save(file, array)


def pcd(xyz: np.ndarray, rgb: np.ndarray) -> bytes:
    """(N, 3) m and (N, 3) in [0, 1] as a binary PCD file."""
    points = np.empty(len(xyz), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
    points["x"], points["y"], points["z"] = xyz.T
    red, green, blue = np.round(255 * rgb).clip(0, 255).astype(np.uint32).T
    points["rgb"] = red << 16 | green << 8 | blue
    return PCD.format(count=len(xyz)).encode() + points.tobytes()
