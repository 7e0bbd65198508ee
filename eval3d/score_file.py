# SPDX-License-Identifier: Apache-2.0
"""Score a map from a file: saved by the node or ``eval3d run --save-map``, or arrays of others."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from radseg_ros.datatypes import ConfigError, InputError
from radseg_ros.encoders.protocol import Encoder, encoder_behind
from radseg_ros.mapper import Timings
from radseg_ros.reading import border
from radseg_ros.spaces import Space, make_space
from radseg_ros.voxels.map_file import SUFFIX, MapIdentity, load_map
from radseg_ros.voxels.voxel_map import VoxelMap

from .classes import ClassList
from .options import EvalConfig
from .oracle import ORACLE
from .predictions.maps import read_predicted_map
from .provenance import fingerprint, provenance
from .report.protocol import OUTSIDE, map_text
from .report.results import write_scene
from .run import classes_of, ground_truth_points, make_scene_encoder, set_threads
from .scoring.score import LabelledMap, label_map, metrics_dict, score_scene


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


def load_to_ask(
    config: EvalConfig, path: Path, classes: ClassList
) -> tuple[VoxelMap, MapIdentity, Encoder, Space]:
    """A map file, and the encoder that its vectors are of.

    Raises:
        InputError: ``config.encoder`` is another one.
        MapFileError: the file is damaged.
    """
    voxel_map, identity = load_map(path)
    oracle = identity.encoder.partition("-")[0] == ORACLE
    whose = ORACLE if oracle else encoder_behind(identity.encoder)
    if whose not in ("", config.encoder):  # told before weights are looked for
        raise InputError(
            f"{path} was made with the encoder {identity.encoder}, not with {config.encoder}: its "
            f"vectors mean other things (--encoder {whose})"
        )
    encoder = make_scene_encoder(config, classes)
    space = make_space(dataclasses.replace(config.mapper, map=voxel_map.config), encoder)
    if space.identity.encoder != identity.encoder:
        raise InputError(
            f"{path} was made with the encoder {identity.encoder}, this one is "
            f"{space.identity.encoder}: its vectors mean other things"
        )
    return voxel_map, identity, encoder, space


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _from_radmap(
    config: EvalConfig, path: Path, classes: ClassList
) -> tuple[LabelledMap, dict[str, Any]]:
    voxel_map, identity, encoder, space = load_to_ask(config, path, classes)
    labelled = label_map(voxel_map, space, encoder, config, classes)
    voxels = map_text(voxel_map.config.voxel_size, voxel_map.config.space)
    whose = {"encoder": identity.encoder, "checkpoint_hash": identity.checkpoint_hash}
    return labelled, {**whose, "map": voxels}


def _from_arrays(
    config: EvalConfig, path: Path, classes: ClassList
) -> tuple[LabelledMap, dict[str, Any]]:
    labelled, kind = read_predicted_map(config, path, classes)
    points = f"{len(labelled.label)} points of a file"
    return labelled, {"encoder": f"{OUTSIDE} {kind}", "checkpoint_hash": "", "map": points}
