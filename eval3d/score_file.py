# SPDX-License-Identifier: Apache-2.0
"""Score a map from a file: saved by the node or ``eval3d run --save-map``, or arrays of others."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.datatypes import ConfigError, InputError
from radseg_ros.mapper import Timings
from radseg_ros.reading import border, read_arrays
from radseg_ros.spaces import make_space
from radseg_ros.voxels.map_file import SUFFIX, load_map

from .classes import ClassList
from .options import EvalConfig
from .provenance import fingerprint, provenance
from .report.results import write_scene
from .run import classes_of, ground_truth_points, make_scene_encoder, set_threads
from .scoring.metrics import predict_labels, whole_numbers
from .scoring.score import LabelledMap, label_map, metrics_dict, queried_labels, score_scene

FARTHEST = 1e9  # m; what is farther off is no place of a map


def score_file(config: EvalConfig, path: Path, out: Path) -> Path:
    """Score the map in ``path`` against ``config.gt`` -> the folder of the results.

    Raises:
        ConfigError: options of questions are set.
        InputError: no ground truth was given, or the map cannot be used.
        MapFileError: the map file is damaged, or made with another encoder.
    """
    if config.asks:
        raise ConfigError("maps from files are not asked by name (retrieval, labels): map with run")
    if not config.gt or config.gt == "lifted":
        raise InputError("say which labelled points to score against: --gt FILE (.ply, .npz, .pt)")
    with border(path, "a map"):
        if not path.is_file():
            raise InputError(f"map {path} does not exist")
        if path.suffix not in (SUFFIX, ".npz"):
            raise InputError(f"map {path}: unknown kind; known: {SUFFIX}, .npz")
    classes = classes_of(config)
    set_threads(config)
    timings = Timings()
    with timings.stage("predict"):
        labelled, identity = (_from_arrays if path.suffix == ".npz" else _from_radmap)(
            config, path, classes
        )
    if not len(labelled.label):
        raise InputError(f"map {path} holds no voxel")
    points = Path(config.gt)
    gt = ground_truth_points(config, classes, points)
    with timings.stage("score"):
        found = score_scene(labelled, gt, config, classes)
    digest = _file_digest(path)
    metrics = {
        "scene": path.stem,
        "fingerprint": fingerprint(config, classes, [digest, gt.digest]),
        **metrics_dict(found, labelled, gt, classes),
        "frames": {
            **{"listed": 0, "used": 0},
            **{"dropped": {}, "pixels": {}, "notes": {}, "examples": {}},
        },
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
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    arrays = read_arrays(path)
    if "xyz" not in arrays or not ("labels" in arrays or {"vectors", "text"} <= arrays.keys()):
        held = ", ".join(name[:50] for name in list(arrays)[:20]) or "nothing"
        raise InputError(
            f"map {path} holds {held}; need xyz with labels, or xyz with vectors and text"
        )
    with border(path, "a map in arrays"):
        xyz = _numbers(arrays, "xyz", (None, 3), path).astype(np.float64)
        if np.abs(xyz).max(initial=0) > FARTHEST:
            raise InputError(f"map {path}: a position is {np.abs(xyz).max():.3g} m off")
        xyz = xyz.astype(np.float32)
        if "labels" in arrays:
            label = whole_numbers(arrays["labels"], f"map {path}: labels").clip(min=0)
            if label.max(initial=0) > len(classes):
                raise InputError(
                    f"map {path} holds the label {label.max()}, the list {classes.name} ends at "
                    f"{len(classes)}"
                )
        else:
            label = _predicted(config, arrays, path, classes)
        if len(label) != len(xyz):
            raise InputError(f"map {path}: {len(xyz)} positions do not fit {len(label)} labels")
        rgb = (
            _numbers(arrays, "rgb", xyz.shape, path) if "rgb" in arrays else np.full_like(xyz, 0.6)
        )
        rgb = rgb / 255 if rgb.dtype == np.uint8 else rgb.clip(0, 1)
    digest = hashlib.sha256(xyz.tobytes() + label.tobytes()).hexdigest()
    labelled = LabelledMap(xyz, label, rgb, sum(array.nbytes for array in arrays.values()), digest)
    return labelled, {"encoder": "arrays", "checkpoint_hash": ""}


def _numbers(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...], path: Path
) -> np.ndarray:
    """One of the arrays, of ``shape`` (None = any length) and finite.

    Only vectors may not be: they predict nothing.
    """
    array = arrays[name]
    fits = array.ndim == len(shape) and all(
        wanted in (None, side) for wanted, side in zip(shape, array.shape, strict=True)
    )
    if (
        not fits
        or array.dtype.kind not in "iuf"
        or not (name == "vectors" or np.isfinite(array).all())
    ):
        wanted = ", ".join("N" if side is None else str(side) for side in shape)
        raise InputError(
            f"map {path}: {name} must be finite numbers of shape ({wanted}), got {array.dtype} "
            f"{array.shape}"
        )
    return array


def _predicted(
    config: EvalConfig, arrays: dict[str, np.ndarray], path: Path, classes: ClassList
) -> np.ndarray:
    """(N,) labels from the vectors of the voxels and of the texts."""
    queried = np.array([0, *queried_labels(config, classes)])
    vectors = _numbers(arrays, "vectors", (None, None), path)
    text = _numbers(arrays, "text", (None, vectors.shape[1]), path)
    if len(text) != len(queried) - 1:
        raise InputError(
            f"map {path} brings {len(text)} text vectors, the class list asks for "
            f"{len(queried) - 1}"
        )
    rules = (config.denoise_threshold, config.prediction_threshold, config.denoise_chunk or None)
    return queried[predict_labels(vectors, text, *rules)]
