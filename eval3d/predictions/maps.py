# SPDX-License-Identifier: Apache-2.0
"""A labelled map of another program: ``xyz`` (N, 3) m, ``rgb`` if it has colours, and ``labels``
(N,), ``probabilities`` (N, Q), or ``features`` (N, D) with ``text`` (Q, D).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.reading import border

from ..classes import ClassList
from ..options import EvalConfig
from ..scoring.metrics import labels_from_probabilities
from ..scoring.score import LabelledMap, queried_labels, queried_names
from .arrays import Arrays, kind_of, labels_in, load_prediction, numbers, probabilities_in

FARTHEST = 1e9  # m; what is farther off is no place of a map
GREY = 0.6  # of maps without colours


def read_predicted_map(
    config: EvalConfig, path: Path, classes: ClassList
) -> tuple[LabelledMap, str]:
    """The map in ``path``, and what it held: labels, probabilities or features.

    Raises:
        InputError: it cannot be read, or its arrays do not fit each other or the class list.
    """
    arrays = load_prediction(path)
    if "xyz" not in arrays:
        raise InputError(f"{path} has no array xyz: positions (N, 3) in m, beside its predictions")
    kind = kind_of(arrays, path)
    with border(path, "a map in arrays"):
        xyz = numbers(arrays, "xyz", (None, 3), path).astype(np.float64)
        if np.abs(xyz).max(initial=0) > FARTHEST:
            raise InputError(f"{path}: a position is {np.abs(xyz).max():.3g} m off")
        xyz = xyz.astype(np.float32)
        if kind == "labels":
            label = labels_in(arrays, (None,), [[name] for name in classes.names], path)
        else:
            label = _predicted(config, arrays, kind, path, classes)
        if len(label) != len(xyz):
            raise InputError(f"{path}: {len(xyz)} positions do not fit {len(label)} {kind}")
        rgb = _colors(arrays, xyz.shape, path)
    digest = hashlib.sha256(xyz.tobytes() + label.tobytes()).hexdigest()
    size = sum(array.nbytes for array in arrays.values())
    return LabelledMap(xyz, label, rgb, size, digest), kind


def _predicted(
    config: EvalConfig, arrays: Arrays, kind: str, path: Path, classes: ClassList
) -> np.ndarray:
    """(N,) labels by the rules that hold for our own maps."""
    queried = np.array([0, *queried_labels(config, classes)])
    names = queried_names(config, classes)
    rows = numbers(arrays, kind, (None, None), path, finite=kind != "features")
    _, found = probabilities_in(arrays, rows, (names, classes.names), (names,), path)
    rules = (config.denoise_threshold, config.prediction_threshold, config.denoise_chunk or None)
    return queried[labels_from_probabilities(found, *rules)]


def _colors(arrays: Arrays, shape: tuple[int, ...], path: Path) -> np.ndarray:
    if "rgb" not in arrays:
        return np.full(shape, GREY, np.float32)
    rgb = numbers(arrays, "rgb", shape, path)
    return rgb / 255 if rgb.dtype == np.uint8 else rgb.clip(0, 1)
