# SPDX-License-Identifier: Apache-2.0
"""From voxel vectors to scores: the numbers of the "radseg" and "hovsg" protocols.

Everything here is a pure function of numpy arrays (torch tensors are taken too) and independent of
the order of the voxels: cosines are computed in float64 and rounded to float32, and the neighbour
search sees the map in a canonical order, so neither the row order nor the number of threads can
move a label. Labels are 1..num_classes; 0 is "ignore" in a ground truth and "no prediction" in a
prediction.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from radseg_ros.config import one_of
from radseg_ros.datatypes import InputError

log = logging.getLogger(__name__)

LOGIT_SCALE = 100.0
PROTOCOLS = ("radseg", "hovsg")
_LARGEST = 1 << 53  # label or id; nothing names so many classes, and int64 cannot wrap
# queries per block of the neighbour search: bounds the memory, keeps the labels in the cache
_QUERIES = 1 << 16
_ROWS = 8192  # rows per block of the similarity product: 75 MB at 1152 channels in float64


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Result of :func:`score`. Arrays have one entry per class 1..num_classes.

    NaN marks what is not defined.
    """

    tp: np.ndarray  # (C,) int64
    fp: np.ndarray  # (C,) int64
    fn: np.ndarray  # (C,) int64
    iou: np.ndarray  # (C,) float64, NaN = the class does not occur, or is ignored
    miou: float
    fmiou: float  # IoU weighted by the frequency of the class in the ground truth
    macc: float  # mean recall
    acc: float  # share of the scored voxels that are right

    def means(self) -> dict[str, float]:
        """The four numbers of a table."""
        return {name: getattr(self, name) for name in ("miou", "fmiou", "macc", "acc")}


def as_numpy(values: Any) -> np.ndarray:
    """An array from a numpy array, a sequence or a torch tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (
            values.float() if values.is_floating_point() and values.element_size() == 2 else values
        )
        return values.numpy()
    return np.asarray(values)


def _matrix(values: Any, name: str, columns: int | None = None) -> np.ndarray:
    array = as_numpy(values)
    if array.ndim != 2 or (columns is not None and array.shape[1] != columns):
        raise InputError(
            f"{name} must be (N, {'D' if columns is None else columns}), got shape {array.shape}"
        )
    return array


def whole_numbers(values: Any, name: str) -> np.ndarray:
    """(N,) labels or ids of any numeric type -> (N,) int64.

    Raises:
        InputError: not a vector, or not of whole numbers.
    """
    array = as_numpy(values)
    whole = array.dtype.kind in "iub" or (
        array.dtype.kind == "f" and bool((array == np.round(array)).all())
    )
    if array.ndim != 1 or not whole:
        raise InputError(
            f"{name} must be a vector of whole numbers, got shape {array.shape} {array.dtype}"
        )
    if array.dtype.kind == "f":
        array = array.clip(-_LARGEST, _LARGEST)
    elif array.dtype == np.uint64:
        array = np.minimum(array, np.uint64(_LARGEST))
    return array.astype(np.int64)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(
        vectors, norm, out=np.zeros_like(vectors), where=np.isfinite(norm) & (norm > 0)
    )


def probabilities(vectors: Any, text: Any, scale: float = LOGIT_SCALE) -> np.ndarray:
    """Softmax over the labels of ``scale`` * cosine: (N, D), (Q, D) -> (N, Q) float32.

    Zero vectors give rows of zeros.

    Raises:
        InputError: the widths differ.
    """
    vectors, text = _matrix(vectors, "vectors"), _matrix(text, "text")
    if vectors.shape[1] != text.shape[1]:
        raise InputError(f"vectors have {vectors.shape[1]} channels, text has {text.shape[1]}")
    directions = _unit(text).T
    out = np.zeros((len(vectors), len(text)), np.float32)
    undefined = 0
    for start in range(0, len(vectors) if len(text) else 0, _ROWS):
        unit = _unit(vectors[start : start + _ROWS])
        defined = unit.any(axis=1)
        undefined += int((~defined).sum())
        # rounding hides the order of summation
        cosine = (unit[defined] @ directions).astype(np.float32)
        logits = np.float32(scale) * cosine
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        out[start : start + _ROWS][defined] = exp / exp.sum(axis=1, keepdims=True)
    if undefined:
        log.info(
            "%d of %d vectors are zero or not finite: they predict nothing", undefined, len(vectors)
        )
    return out


def labels_from_probabilities(
    prob: Any,
    denoise_threshold: float = 0.5,
    prediction_threshold: float = 0.1,
    denoise_chunk: int | None = None,
) -> np.ndarray:
    """The best label of each row of (N, Q) class probabilities -> (N,) int64 in 0..Q.

    Classes that nowhere reach ``denoise_threshold`` are removed ("prompt denoising"); a best value
    below ``prediction_threshold``, or of zero, predicts nothing (0). Ties go to the smallest label.
    ``denoise_chunk`` judges the classes per run of that many rows, as the published program does
    with 10 000, instead of over the whole map.

    Raises:
        InputError: ``prob`` is not (N, Q) or ``denoise_chunk`` is not positive.
    """
    prob = _matrix(prob, "prob")
    if denoise_chunk is not None and denoise_chunk < 1:
        raise InputError(
            f"denoise_chunk must be at least 1, or None for the whole map, got {denoise_chunk}"
        )
    labels = np.zeros(len(prob), np.int64)
    if 0 in prob.shape:
        return labels
    step = denoise_chunk or len(prob)
    for start in range(0, len(prob), step):
        part = prob[start : start + step]
        kept = np.flatnonzero(part.max(axis=0) >= denoise_threshold)
        if len(kept):
            part = part[:, kept]
            best = part.argmax(axis=1)
            value = part[np.arange(len(part)), best]
            labels[start : start + step] = np.where(
                (value >= prediction_threshold) & (value > 0), kept[best] + 1, 0
            )
    return labels


def predict_labels(
    vectors: Any,
    text: Any,
    denoise_threshold: float = 0.5,
    prediction_threshold: float = 0.1,
    denoise_chunk: int | None = None,
    scale: float = LOGIT_SCALE,
) -> np.ndarray:
    """Labels 1..Q of voxel vectors, 0 = no prediction: (N, D), (Q, D) -> (N,) int64.

    Nothing needs to be normalised.

    See :func:`probabilities` and :func:`labels_from_probabilities`. A zero (or not finite) vector
    predicts 0.
    """
    return labels_from_probabilities(
        probabilities(vectors, text, scale), denoise_threshold, prediction_threshold, denoise_chunk
    )


def most_frequent(labels: np.ndarray) -> np.ndarray:
    """The most frequent value of each row, the smallest where several are: (N, k) int -> (N,)."""
    columns = np.ascontiguousarray(labels.T)  # k long vectors are faster than many short rows
    count = np.stack([(columns == column).sum(axis=0) for column in columns])
    return np.where(count == count.max(axis=0), columns, np.iinfo(np.int64).max).min(axis=0)


def voxel_index(xyz: np.ndarray, voxel_size: float) -> np.ndarray:
    """(N, 3) metres -> (N, 3) int64, rounded half to even like the map."""
    return np.round(np.asarray(xyz, np.float64) / voxel_size).astype(np.int64)


def vote(index: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Majority per voxel, the smallest on a tie: (N, 3) int, (N,) -> (M, 3) sorted, (M,)."""
    if len(index) == 0:
        return np.zeros((0, 3), np.int64), np.zeros(0, np.int64)
    rows, count = np.unique(np.column_stack([index, labels]), axis=0, return_counts=True)
    order = np.lexsort((rows[:, 3], -count, rows[:, 2], rows[:, 1], rows[:, 0]))
    rows = rows[order]
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:, :3] != rows[:-1, :3]).any(axis=1)
    return rows[first, :3], rows[first, 3]


def _same_voxel_labels(
    gt_xyz: np.ndarray, map_xyz: np.ndarray, map_labels: np.ndarray, voxel_size: float
) -> np.ndarray:
    index, labels = vote(voxel_index(map_xyz, voxel_size), map_labels)
    wanted = voxel_index(gt_xyz, voxel_size)
    _, inverse = np.unique(np.concatenate([index, wanted]), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)  # numpy 2.0 returned a column here
    table = np.zeros(inverse.max() + 1, np.int64)
    table[inverse[: len(index)]] = labels
    return table[inverse[len(index) :]]


def knn_labels(
    gt_xyz: Any, map_xyz: Any, map_labels: Any, k: int = 5, voxel_size: float = 0.05
) -> np.ndarray:
    """(M,) int64: the most frequent label of the ``k`` map voxels nearest to each true voxel.

    Label 0 counts like any other, the smallest label wins a tie, no distance is too far. A map with
    fewer than ``k`` voxels uses them all, an empty one predicts 0 everywhere. ``k`` = 0 takes the
    label of the same voxel (edge ``voxel_size``, m) and 0 where the map has none.

    Args:
        gt_xyz: (M, 3) metres.
        map_xyz: (N, 3) metres.
        map_labels: (N,) whole numbers.

    Raises:
        InputError: shapes do not fit, ``k`` is negative, a position is not finite.
    """
    gt_xyz, map_xyz = _matrix(gt_xyz, "gt_xyz", 3), _matrix(map_xyz, "map_xyz", 3)
    map_labels = whole_numbers(map_labels, "map_labels")
    if len(map_xyz) != len(map_labels) or k < 0:
        raise InputError(
            f"{len(map_xyz)} positions, {len(map_labels)} labels, k {k}: need as many labels, and "
            "k >= 0"
        )
    if not (np.isfinite(gt_xyz).all() and np.isfinite(map_xyz).all()):
        raise InputError("a voxel position is not finite")
    if len(map_xyz) == 0 or len(gt_xyz) == 0:
        return np.zeros(len(gt_xyz), np.int64)
    if k == 0:
        return _same_voxel_labels(gt_xyz, map_xyz, map_labels, voxel_size)
    return _nearest_labels(gt_xyz, map_xyz, map_labels, min(k, len(map_xyz)))


def _nearest_labels(
    gt_xyz: np.ndarray, map_xyz: np.ndarray, map_labels: np.ndarray, k: int
) -> np.ndarray:
    from scipy.spatial import cKDTree

    # Which of several equally far neighbours a tree returns depends on the order of its points:
    # give it one order only.
    order = np.lexsort((map_labels, map_xyz[:, 2], map_xyz[:, 1], map_xyz[:, 0]))
    map_labels = map_labels[order]
    # voxels are spread evenly: an unbalanced tree is quicker to build and to search
    tree = cKDTree(map_xyz[order], balanced_tree=False)
    out = np.empty(len(gt_xyz), np.int64)
    walk = _walk(gt_xyz)
    for start in range(0, len(walk), _QUERIES):
        part = walk[start : start + _QUERIES]
        _, neighbour = tree.query(gt_xyz[part], k=range(1, k + 1), workers=-1)
        out[part] = most_frequent(map_labels[neighbour])
    return out


def _walk(xyz: np.ndarray) -> np.ndarray:
    """An order in which neighbours follow each other: the tree stays cached, twice as fast."""
    low = xyz.min(axis=0)
    span = max(float((xyz.max(axis=0) - low).max()), 1e-9)
    x, y, z = ((xyz - low) * (39.99 / span)).astype(np.uint16).T
    # 16 bits: numpy sorts these by radix
    return np.argsort((x * np.uint16(40) + y) * np.uint16(40) + z, kind="stable")


def confusion(gt: Any, predicted: Any, num_classes: int) -> np.ndarray:
    """(C + 1, C + 1) int64: row = ground truth, column = prediction, 0 = ignore / none.

    Raises:
        InputError: lengths differ, or a label lies beyond ``num_classes``. Negative labels count as
            0.
    """
    gt, predicted = whole_numbers(gt, "gt"), whole_numbers(predicted, "predicted")
    if gt.shape != predicted.shape:
        raise InputError(f"{len(gt)} ground-truth labels, {len(predicted)} predictions")
    for name, labels in (("gt", gt), ("predicted", predicted)):
        if len(labels) and labels.max() > num_classes:
            raise InputError(
                f"{name} holds the label {labels.max()}, there are {num_classes} classes"
            )
    side = num_classes + 1
    pairs = gt.clip(min=0) * side + predicted.clip(min=0)
    return np.bincount(pairs, minlength=side * side).reshape(side, side)


def score(
    gt: Any, predicted: Any, num_classes: int, protocol: str = "radseg", ignore: Any = ()
) -> Scores:
    """Score predicted against true labels (classes 1..num_classes, 0 = ignore / no prediction).

    ``radseg``: voxels whose true label is 0 or in ``ignore`` do not count at all. ``hovsg``: they
    are nobody's true positive, but a prediction that lands on them is a false positive of its
    class. Under both, the means run over the classes of the ground truth that are not ignored, and
    "no prediction" is a miss. No scored voxel at all gives NaN means.

    Args:
        gt: (M,) whole numbers; below 0 counts as 0.
        predicted: (M,) whole numbers.
        ignore: labels that are not scored; labels that do not exist (0, -1) are allowed.

    Raises:
        ConfigError: unknown protocol.
        InputError: lengths differ or a label is out of range.
    """
    one_of("protocol", protocol, PROTOCOLS)
    return score_confusion(confusion(gt, predicted, num_classes), protocol, ignore)


def score_confusion(
    matrix: np.ndarray, protocol: str = "radseg", ignore: Any = (), claimed: bool = False
) -> Scores:
    """:func:`score` of a confusion matrix of :func:`confusion`.

    Args:
        claimed: mIoU also runs over classes that are predicted and nowhere true, whose IoU is 0:
            so do the benchmarks of 2D segmentation.
    """
    one_of("protocol", protocol, PROTOCOLS)
    num_classes = len(matrix) - 1
    scored = np.ones(num_classes + 1, bool)
    scored[[0, *(int(label) for label in ignore if 0 < label <= num_classes)]] = False
    rows = matrix if protocol == "hovsg" else matrix * scored[:, None]
    tp = rows.diagonal()[1:].copy()
    support = rows.sum(axis=1)[1:]
    fp, fn = rows.sum(axis=0)[1:] - tp, support - tp
    present = scored[1:] & (support > 0)
    judged = present | (scored[1:] & (fp > 0)) if claimed else present
    iou = np.full(num_classes, np.nan)
    iou[judged] = tp[judged] / (tp + fp + fn)[judged]
    if not present.any():
        return Scores(tp, fp, fn, iou, np.nan, np.nan, np.nan, np.nan)
    frequency = support[present] / support[present].sum()
    return Scores(
        tp,
        fp,
        fn,
        iou,
        miou=float(iou[judged].mean()),
        fmiou=float((frequency * iou[present]).sum()),
        macc=float((tp[present] / support[present]).mean()),
        acc=float(tp[present].sum() / support[present].sum()),
    )


def coverage(gt_xyz: Any, map_xyz: Any, map_labels: Any, radius: float) -> float:
    """Share of the ground-truth voxels with a prediction (label not 0) within ``radius`` metres.

    NaN without ground truth.
    """
    gt_xyz, map_xyz = _matrix(gt_xyz, "gt_xyz", 3), _matrix(map_xyz, "map_xyz", 3)
    map_xyz = map_xyz[whole_numbers(map_labels, "map_labels") != 0]
    if len(gt_xyz) == 0:
        return float("nan")
    if len(map_xyz) == 0:
        return 0.0
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(map_xyz).query(
        gt_xyz, distance_upper_bound=radius * (1 + 1e-6), workers=-1
    )
    return float(np.isfinite(distance).mean())
