# SPDX-License-Identifier: Apache-2.0
"""A labelled map against a ground truth: everything that a result file says about one scene."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from radseg_ros.datatypes import InputError

from ..classes import ClassList
from ..options import EvalConfig
from ..truth.ground_truth import GroundTruth
from .metrics import (
    Scores,
    as_numpy,
    confusion,
    coverage,
    knn_labels,
    labels_from_probabilities,
    predict_labels,
    score_confusion,
)

if TYPE_CHECKING:
    from radseg_ros.encoders.protocol import Encoder
    from radseg_ros.spaces import Space
    from radseg_ros.voxels.voxel_map import VoxelMap


@dataclass(frozen=True, slots=True, eq=False)
class LabelledMap:
    """A map after prediction (numpy)."""

    xyz: np.ndarray  # (N, 3) float32 metres
    label: np.ndarray  # (N,) int64, 1..C, 0 = no prediction
    rgb: np.ndarray  # (N, 3) float32 in [0, 1]
    nbytes: int  # memory that the map takes
    digest: str  # SHA-256 of positions and labels


@dataclass(frozen=True, slots=True, eq=False)
class SceneScores:
    """What the evaluation of one scene found."""

    scores: Scores
    ceiling: Scores  # the ground truth scored against itself through the map's geometry
    coverage: float  # share of the scored voxels with a prediction within the radius
    confusion: np.ndarray  # (C + 1, C + 1) int64, row = truth, column = prediction, after ignoring
    predicted: np.ndarray  # (M,) int64, label of each ground-truth voxel


def ignored_labels(config: EvalConfig, classes: ClassList) -> tuple[int, ...]:
    """The labels that the protocol does not score."""
    if config.ignore:
        return classes.labels_named(config.ignore)
    if config.protocol == "hovsg":
        return tuple(sorted({*classes.structural(), *classes.labels_named(classes.ignored)}))
    return classes.labels_named(classes.ignored)


def queried_labels(config: EvalConfig, classes: ClassList) -> tuple[int, ...]:
    """The labels that may be predicted: under hovsg also those that are not scored."""
    ignored = set(ignored_labels(config, classes)) if config.protocol == "radseg" else set()
    return tuple(label for label in range(1, len(classes) + 1) if label not in ignored)


def queried_names(config: EvalConfig, classes: ClassList) -> list[str]:
    """Their names."""
    return [classes.names[label - 1] for label in queried_labels(config, classes)]


def label_map(
    voxel_map: VoxelMap, space: Space, encoder: Encoder, config: EvalConfig, classes: ClassList
) -> LabelledMap:
    """Predict the class of every voxel.

    Args:
        space: what the voxels store; made for ``encoder``.

    Raises:
        LanguageError: a class name cannot be embedded.
        InputError: the map stores probabilities of other classes.
    """
    queried = np.array([0, *queried_labels(config, classes)])
    names = queried_names(config, classes)
    rules = (config.denoise_threshold, config.prediction_threshold, config.denoise_chunk or None)
    geometry, vectors = voxel_map.geometry(), space.language_vectors(voxel_map)
    if vectors is None:
        best = labels_from_probabilities(_stored_probabilities(voxel_map, names), *rules)
    else:
        text = as_numpy(encoder.embed_labels(names))
        best = predict_labels(as_numpy(vectors), text, *rules, scale=encoder.logit_scale)
    xyz, label = as_numpy(geometry.xyz), queried[best]
    digest = hashlib.sha256(np.ascontiguousarray(xyz).tobytes() + label.tobytes()).hexdigest()
    return LabelledMap(xyz, label, as_numpy(geometry.rgb), int(voxel_map.nbytes), digest)


def _stored_probabilities(voxel_map: VoxelMap, names: list[str]) -> np.ndarray:
    """(M, Q) in the order of ``names``."""
    labels = list(voxel_map.config.labels)
    if sorted(labels) != sorted(names):
        raise InputError(
            f"the map stores probabilities of {len(labels)} classes, which are not the "
            f"{len(names)} that are asked for"
        )
    return as_numpy(voxel_map.snapshot().features)[:, [labels.index(name) for name in names]]


def scored_truth(gt: GroundTruth, config: EvalConfig, classes: ClassList) -> np.ndarray:
    """(M,) int64 labels of the ground-truth voxels; 0 = they do not count."""
    if config.protocol == "hovsg":  # what lands on ignored classes is a false positive
        return gt.label
    return np.where(np.isin(gt.label, ignored_labels(config, classes)), 0, gt.label)


def score_scene(
    labelled: LabelledMap, gt: GroundTruth, config: EvalConfig, classes: ClassList
) -> SceneScores:
    """Bring the map's labels to the ground truth and count."""
    ignored = ignored_labels(config, classes)
    truth = scored_truth(gt, config, classes)
    xyz = gt.xyz

    def judge(map_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        predicted = knn_labels(xyz, labelled.xyz, map_labels, config.k, gt.voxel_size)
        return predicted, confusion(truth, predicted, len(classes))

    predicted, matrix = judge(labelled.label)
    known = truth != 0
    _, best = judge(knn_labels(labelled.xyz, xyz[known], truth[known], k=1))
    return SceneScores(
        scores=score_confusion(matrix, config.protocol, ignored),
        ceiling=score_confusion(best, config.protocol, ignored),
        coverage=coverage(xyz[known], labelled.xyz, labelled.label, config.coverage_radius),
        confusion=matrix,
        predicted=predicted,
    )


def metrics_dict(
    found: SceneScores, labelled: LabelledMap, gt: GroundTruth, classes: ClassList
) -> dict[str, Any]:
    """Numbers of a scene as plain data: counts, means, one row per class of the ground truth."""
    scores = found.scores
    support = scores.tp + scores.fn
    rows = [
        {
            "label": int(i) + 1,
            "name": classes.names[i],
            "iou": float(scores.iou[i]),
            "ceiling_iou": float(found.ceiling.iou[i]),
            "recall": float(scores.tp[i] / support[i]),
            "precision": float(scores.tp[i] / (scores.tp[i] + scores.fp[i]))
            if scores.tp[i] + scores.fp[i]
            else None,
            **{key: int(getattr(scores, key)[i]) for key in ("tp", "fp", "fn")},
        }
        for i in np.flatnonzero(np.isfinite(scores.iou))
    ]
    return {
        **{name: _plain(value) for name, value in scores.means().items()},
        "ceiling": {name: _plain(value) for name, value in found.ceiling.means().items()},
        "coverage": _plain(found.coverage),
        "gt_voxels": len(gt),
        "scored_voxels": int(support[np.isfinite(scores.iou)].sum()),
        "map_voxels": len(labelled.label),
        "map_voxels_without_prediction": int((labelled.label == 0).sum()),
        "map_bytes": labelled.nbytes,
        "ground_truth": gt.source,
        "classes": rows,
    }


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None  # JSON has no NaN
