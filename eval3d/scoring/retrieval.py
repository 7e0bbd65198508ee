# SPDX-License-Identifier: Apache-2.0
"""Objects that one question finds, against the things of its class: average precision as in the
ScanNet benchmark of 3D instances, and how far up the right name is.

The masks are sets of ground-truth voxels. AP follows the benchmark's program (ScanNet, commit
0a881f5, BenchmarkScripts/3d_evaluation; its count of unlabelled vertices as its successors mend
it): IoU strictly above the threshold; a thing takes the objects that overlap it so, of which the
best one is right and the others are wrong; an object whose share of voxels without a class or in
too small things is above the threshold is neither right nor wrong if it overlaps nothing; and the
area below precision over recall is that of the trapezoids from (recall 0, precision 1) on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = tuple(percent / 100 for percent in range(50, 95, 5))  # 0.50, 0.55, ..., 0.90
TOP = (1, 5, 10)  # of top-k frequency
_ROWS = 8192  # voxels that are compared with all names at once

Similarity = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The things of a scene, on its ground-truth voxels."""

    number: np.ndarray  # (M,) int64, 1..N: which thing a voxel is of; 0 = of none
    label: np.ndarray  # (N,) int64, 1..C: the class of each

    @property
    def voxels(self) -> np.ndarray:
        """(N,) of each."""
        return np.bincount(self.number, minlength=len(self.label) + 1)[1:]

    def counted(self, least: int) -> np.ndarray:
        """(N,) bool: large enough to be asked for.

        Args:
            least: voxels.
        """
        return self.voxels >= least


def make_instances(number: np.ndarray, label: np.ndarray) -> Instances:
    """Things from (M,) ids of things and (M,) labels of the same voxels; 0 and below = none.

    A thing has the label that most of its voxels have, the lowest on a tie; voxels without a label
    do not vote, and a thing without any is none.
    """
    known = (number > 0) & (label > 0)
    pairs, count = np.unique(np.stack([number[known], label[known]]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -count, pairs[0]))
    ids, first = np.unique(pairs[0][order], return_index=True)
    place = np.searchsorted(ids, number)
    inside = place < len(ids)
    inside[inside] = ids[place[inside]] == number[inside]
    return Instances(np.where(inside, place + 1, 0), pairs[1][order][first])


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """What the objects that a question found share with the things of its class."""

    common: np.ndarray  # (P, N) int64, voxels
    found: np.ndarray  # (P,) int64, voxels of each object
    true: np.ndarray  # (N,) int64, voxels of each thing
    counted: np.ndarray  # (N,) bool: large enough
    void: np.ndarray  # (P,) int64, voxels of each object that have no class
    score: np.ndarray  # (P,) float64, of each object

    @property
    def iou(self) -> np.ndarray:
        """(P, N)."""
        union = self.found[:, None] + self.true - self.common
        return self.common / np.maximum(union, 1)


def overlaps(
    owner: np.ndarray,
    scores: Sequence[float],
    instances: Instances,
    label: int,
    known: np.ndarray,
    least: int,
) -> Overlaps:
    """Count what objects and things share.

    Args:
        owner: (M,) int64, 1..P: which object a ground-truth voxel is of; 0 = of none.
        scores: P of them, of the objects.
        label: of the things that were asked for.
        known: (M,) bool: the voxel has a class that is scored.
        least: voxels; smaller objects are left out, smaller things not counted.
    """
    wanted = np.flatnonzero(instances.label == label)
    column = np.zeros(len(instances.label) + 1, np.int64)
    column[wanted + 1] = np.arange(1, len(wanted) + 1)
    side = len(wanted) + 1
    pairs = owner * side + column[instances.number]
    table = np.bincount(pairs, minlength=(len(scores) + 1) * side).reshape(-1, side)
    found = table.sum(axis=1)[1:]
    void = np.bincount(owner[~known], minlength=len(scores) + 1)[1:]
    kept = found >= least
    true = instances.voxels[wanted]
    return Overlaps(
        table[1:, 1:][kept],
        found[kept],
        true,
        true >= least,
        void[kept],
        np.asarray(scores, np.float64)[kept],
    )


def average_precision(of: Overlaps, threshold: float) -> float:
    """AP of one question at one IoU; NaN where there is no thing that counts.

    Args:
        threshold: of IoU, which must be above it.
    """
    if not of.counted.any():
        return float("nan")
    iou, used = of.iou, np.zeros(len(of.found), bool)
    true: list[float] = []  # scores of objects that are right, and of those that are wrong
    false: list[float] = []
    for thing in np.flatnonzero(of.counted):
        best = None
        for row in np.flatnonzero((iou[:, thing] > threshold) & ~used):
            if best is None:
                used[row] = True
            else:
                false.append(min(best, float(of.score[row])))
            best = max(float(of.score[row]), -np.inf if best is None else best)
        if best is not None:
            true.append(best)
    small = of.common[:, ~of.counted].sum(axis=1)
    aside = (of.void + small) / np.maximum(of.found, 1)
    stray = ~(iou > threshold)[:, of.counted].any(axis=1) & (aside <= threshold)
    false += of.score[stray].tolist()
    return _area(np.array(true), np.array(false), int(of.counted.sum()))


def _area(true: np.ndarray, false: np.ndarray, things: int) -> float:
    """Below precision over recall, by trapezoids; objects of one score come together."""
    levels = np.unique(np.concatenate([true, false]))[::-1]
    right = np.array([(true >= level).sum() for level in levels], np.float64)
    wrong = np.array([(false >= level).sum() for level in levels], np.float64)
    precision = np.concatenate([[1.0], right / np.maximum(right + wrong, 1)])
    recall = np.concatenate([[0.0], right / things])
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def precisions(of: Overlaps) -> dict[str, float]:
    """``ap`` (mean over OVERLAPS), ``ap50`` and ``ap25`` of one question."""
    return {
        "ap": float(np.mean([average_precision(of, threshold) for threshold in OVERLAPS])),
        "ap50": average_precision(of, 0.5),
        "ap25": average_precision(of, 0.25),
    }


def nearest_rows(gt_xyz: np.ndarray, map_xyz: np.ndarray, radius: float) -> np.ndarray:
    """(M,) int64: the map voxel nearest to each ground-truth voxel; -1 = none within ``radius``.

    Args:
        gt_xyz, map_xyz: (M, 3), (N, 3) m.
        radius: m.
    """
    from scipy.spatial import cKDTree

    if not len(map_xyz) or not len(gt_xyz):
        return np.full(len(gt_xyz), -1)
    # one order of the map gives one answer where several are equally near
    order = np.lexsort(map_xyz.T[::-1])
    bound = radius * (1 + 1e-6)
    _, near = cKDTree(map_xyz[order]).query(gt_xyz, distance_upper_bound=bound, workers=-1)
    return np.append(order, -1)[near]  # what is too far has the row after the last


def true_ranks(similarity: Similarity, rows: np.ndarray, column: np.ndarray) -> np.ndarray:
    """(M,) how many names fit a voxel better than its true one, or as well and come before it.

    Args:
        similarity: (n,) rows of the map -> (n, Q) numbers, the more the better.
        rows: (M,) int64 of the map; below 0 = none: then no rank is worse.
        column: (M,) int64, 0..Q-1, the true name.
    """
    ranks = np.full(len(rows), np.iinfo(np.int64).max)
    mapped = np.flatnonzero(rows >= 0)
    for start in range(0, len(mapped), _ROWS):
        some = mapped[start : start + _ROWS]
        value, right = similarity(rows[some]), column[some, None]
        own = np.take_along_axis(value, right, 1)
        before = np.arange(value.shape[1]) < right
        ranks[some] = ((value > own) | ((value == own) & before)).sum(axis=1)
    return ranks


def top_shares(ranks: np.ndarray, instances: Instances) -> dict[str, np.ndarray]:
    """The share of each thing's voxels whose true name is among the k best: k -> (N,).

    Args:
        ranks: (M,) of :func:`true_ranks`, for the label of the thing that the voxel is of.
    """
    count = len(instances.label) + 1
    voxels = np.maximum(instances.voxels, 1)
    return {f"top{k}": np.bincount(instances.number, ranks < k, count)[1:] / voxels for k in TOP}
