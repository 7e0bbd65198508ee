# SPDX-License-Identifier: Apache-2.0
"""Score a map from a file: saved by the node or ``eval3d run --save-map``, or arrays of others."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.mapper import Timings
from radseg_ros.spaces import make_space
from radseg_ros.voxels.map_file import load_map

from .classes import ClassList
from .options import EvalConfig
from .provenance import fingerprint, provenance
from .report.results import write_scene
from .run import classes_of, ground_truth_points, make_scene_encoder, set_threads
from .scoring.metrics import predict_labels
from .scoring.score import LabelledMap, label_map, metrics_dict, queried_labels, score_scene
from .truth.points import numbers_of, read_npz


def score_file(config: EvalConfig, path: Path, out: Path) -> Path:
    """Score the map in ``path`` against ``config.gt`` -> the folder of the results.

    Raises:
        InputError: no ground truth was given, or the map cannot be used.
        MapFileError: the map file is damaged, or made with another encoder.
    """
    if not config.gt or config.gt == "lifted":
        raise InputError("say which labelled points to score against: --gt FILE (.ply, .npz, .pt)")
    if not path.exists():
        raise InputError(f"map {path} does not exist")
    classes = classes_of(config)
    set_threads(config)
    timings = Timings()
    with timings.stage("predict"):
        labelled, identity = (_from_arrays if path.suffix == ".npz" else _from_radmap)(
            config, path, classes
        )
    points = Path(config.gt)
    gt = ground_truth_points(config, classes, points)
    with timings.stage("score"):
        found = score_scene(labelled, gt, config, classes)
    digest = _file_digest(path)
    metrics = {
        "scene": path.stem,
        "fingerprint": fingerprint(config, classes, [digest, gt.digest]),
        **metrics_dict(found, labelled, gt, classes),
        "frames": {"listed": 0, "used": 0, "dropped": {}, "notes": {}, "examples": {}},
        "provenance": {
            **provenance(config, classes),
            **identity,
            "inputs_sha256": digest,
            "ground_truth_sha256": gt.digest,
            "map_sha256": labelled.digest,
        },
    }
    folder = out / path.stem
    write_scene(
        folder,
        metrics,
        {"scene": path.stem, "frames": 0, "seconds": timings.seconds},
        found,
        labelled,
        gt,
        classes,
    )
    return folder


def _file_digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            total.update(file.read_bytes())
    return total.hexdigest()


def _from_radmap(
    config: EvalConfig, path: Path, classes: ClassList
) -> tuple[LabelledMap, dict[str, Any]]:
    voxel_map, identity = load_map(path)
    encoder = make_scene_encoder(config, classes)
    space = make_space(dataclasses.replace(config.mapper, map=voxel_map.config), encoder)
    if space.identity.encoder != identity.encoder:
        raise InputError(
            f"{path} was made with the encoder {identity.encoder}, this one is "
            f"{space.identity.encoder}: its vectors mean other things"
        )
    labelled = label_map(voxel_map, space, encoder, config, classes)
    return labelled, {"encoder": identity.encoder, "checkpoint_hash": identity.checkpoint_hash}


def _from_arrays(
    config: EvalConfig, path: Path, classes: ClassList
) -> tuple[LabelledMap, dict[str, Any]]:
    """``xyz`` (N, 3) m with ``labels`` (N,) 1..C, or ``vectors`` (N, D) and ``text`` (Q, D)."""
    arrays = read_npz(path)
    if "xyz" not in arrays or not ("labels" in arrays or {"vectors", "text"} <= arrays.keys()):
        raise InputError(
            f"map {path} holds {', '.join(arrays) or 'nothing'}; need xyz with labels, or xyz "
            "with vectors and text"
        )
    xyz = numbers_of(arrays, "xyz", path).astype(np.float32)
    if "labels" in arrays:
        label = numbers_of(arrays, "labels", path).astype(np.int64)
    else:
        label = _predicted(config, path, classes, arrays)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or label.shape != xyz.shape[:1]:
        raise InputError(f"map {path}: {xyz.shape} positions do not fit {label.shape} labels")
    rgb = arrays.get("rgb", np.full((len(xyz), 3), 0.6, np.float32))
    rgb = rgb / 255 if rgb.dtype == np.uint8 else rgb
    digest = hashlib.sha256(xyz.tobytes() + label.tobytes()).hexdigest()
    labelled = LabelledMap(xyz, label, rgb, sum(array.nbytes for array in arrays.values()), digest)
    return labelled, {"encoder": "arrays", "checkpoint_hash": ""}


def _predicted(
    config: EvalConfig, path: Path, classes: ClassList, arrays: dict[str, np.ndarray]
) -> np.ndarray:
    """(N,) labels 1..C of ``vectors`` by ``text``."""
    vectors, text = (numbers_of(arrays, name, path) for name in ("vectors", "text"))
    queried = np.array([0, *queried_labels(config, classes)])
    if len(text) != len(queried) - 1:
        raise InputError(
            f"map {path} brings {len(text)} text vectors, the class list asks for "
            f"{len(queried) - 1}"
        )
    rules = (config.denoise_threshold, config.prediction_threshold, config.denoise_chunk or None)
    return queried[predict_labels(vectors, text, *rules)]
