# SPDX-License-Identifier: Apache-2.0
"""The true label of each voxel: from labelled points, or lifted from label images as the map is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radseg_ros.config import one_of
from radseg_ros.datatypes import Frame, InputError

from ..classes import ClassList
from ..scoring.metrics import vote, voxel_index
from .points import read_points

FARTHEST = 2**31 - 1  # voxels from the origin: the index is kept as int32
RULES = ("auto", "majority", "non_ignored")


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """True labels of voxels, sorted by voxel index."""

    index: np.ndarray  # (M, 3) int64
    label: np.ndarray  # (M,) int64, 1..C, 0 = ignore
    voxel_size: float  # m
    source: str
    digest: str  # SHA-256 of the file, or of the lifted voxels

    @property
    def xyz(self) -> np.ndarray:
        """(M, 3) float32 metres, centres; computed like those of the map."""
        return (self.index * self.voxel_size).astype(np.float32)

    def __len__(self) -> int:
        return len(self.label)


def _majority(
    index: np.ndarray, label: np.ndarray, count: np.ndarray, rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """One label per voxel from (voxel, label, count) rows; the smallest label wins a tie.

    ``non_ignored`` asks only the labels other than 0; a voxel that has no other keeps 0.
    """
    if len(index) == 0:
        return index.reshape(0, 3), label
    last = (label == 0) if rule == "non_ignored" else np.zeros(len(label), bool)
    order = np.lexsort((label, -count, last, index[:, 2], index[:, 1], index[:, 0]))
    index, label = index[order], label[order]
    first = np.ones(len(index), bool)
    first[1:] = (index[1:] != index[:-1]).any(axis=1)
    return index[first], label[first]


def from_points(
    path: Path, classes: ClassList, voxel_size: float, holds: str = "ids", rule: str = "majority"
) -> GroundTruth:
    """Voxelise labelled points (.ply, .npz, .pt, .pth).

    Points that have no voxel (not finite, or hundreds of kilometres off) are left out, and the
    source says how many.

    Args:
        holds: whether the file holds ``ids`` of the class list or 0-based class indices
            (``index``). Negative and unknown ones become 0 (ignore).
        rule: ``majority`` of the points, or of those that are not ignored (``non_ignored``).

    Raises:
        InputError: the file cannot be used, or none of its points has a label of the list.
    """
    one_of("gt.holds", holds, ("ids", "index"))
    xyz, ids = read_points(path)
    near = (np.abs(xyz) < FARTHEST * voxel_size).all(axis=1)  # not so for NaN
    xyz, ids = xyz[near], ids[near]
    if holds == "index":
        labels = np.where((ids >= 0) & (ids < len(classes)), ids + 1, 0)
    else:
        labels = classes.labels_of(ids)
    far = int((~near).sum())
    left_out = f" ({far} left out: not finite, or too far off)" if far else ""
    if not labels.any():
        raise InputError(
            f"ground truth {path}: none of its {len(ids)} points{left_out} has a class of the "
            f"list {classes.name}"
        )
    index = voxel_index(xyz, voxel_size)
    if rule == "non_ignored":
        rows, count = np.unique(np.column_stack([index, labels]), axis=0, return_counts=True)
        index, labels = _majority(rows[:, :3], rows[:, 3], count, rule)
    else:
        index, labels = vote(index, labels)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return GroundTruth(index, labels, voxel_size, f"points of {path.name}{left_out}", digest)


def _pixel_voxels(frame: Frame, voxel_size: float) -> np.ndarray:
    """(h * w,) key of every pixel's voxel, as :func:`radseg_ros.voxels.lifting.lift.lift` finds it.

    -1 where there is no return, or one that no key can say.
    """
    import torch

    from radseg_ros.geometry import world_points
    from radseg_ros.voxels.index import COORDINATE_LIMIT, pack

    height, width = frame.depth.shape
    depth = torch.from_numpy(frame.depth)
    usable = (depth > 0) & (depth < torch.inf)
    u, v = torch.arange(width), torch.arange(height)
    points = world_points(
        torch.where(usable, depth, 0.0), u, v, frame.K, frame.T_world_camera, voxel_size
    )
    index = torch.stack([axis.round() for axis in points])
    usable &= (index.abs() < COORDINATE_LIMIT).all(dim=0)
    return torch.where(usable, pack(torch.where(usable, index, 0.0)), -1).flatten().numpy()


def _unpack(key: np.ndarray) -> np.ndarray:
    """(N,) keys -> (N, 3) int64 voxel index."""
    import torch

    from radseg_ros.voxels.index import unpack

    return unpack(torch.from_numpy(key)).numpy()


def _starts_of_runs(key: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Where a (voxel, label) begins that differs from the one before."""
    return np.flatnonzero(
        np.concatenate([[True], (key[1:] != key[:-1]) | (label[1:] != label[:-1])])[: len(key)]
    )


def _count_votes(
    key: np.ndarray, label: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add up the counts of equal (voxel, label)."""
    order = np.lexsort((label, key))
    key, label, count = key[order], label[order], count[order]
    starts = _starts_of_runs(key, label)
    return key[starts], label[starts], np.add.reduceat(count, starts) if len(starts) else count


class LabelLifter:
    """Collects the votes of label images: every depth pixel votes for its label in its voxel.

    The voxels are those of :func:`radseg_ros.voxels.lifting.lift.lift`, so the ground truth
    lies exactly where the map does.
    """

    def __init__(self, voxel_size: float) -> None:
        self.voxel_size = voxel_size
        nothing = np.zeros(0, np.int64)
        self._votes = nothing, nothing, nothing  # key of the voxel, label, count
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, frame: Frame, label: np.ndarray) -> None:
        """Take the votes of one frame; ``label`` (h, w) has the shape of its depth image."""
        if label.shape != frame.depth.shape:
            raise InputError(
                f"label image {label.shape} does not fit the depth image {frame.depth.shape}"
            )
        key, votes = _pixel_voxels(frame, self.voxel_size), label.ravel()
        # neighbouring pixels mostly agree: a tenth is left to sort
        starts = _starts_of_runs(key, votes)
        count = np.diff(starts, append=len(key))
        starts, count = starts[key[starts] >= 0], count[key[starts] >= 0]
        self._waiting.append(_count_votes(key[starts], votes[starts], count))
        if sum(len(part[0]) for part in self._waiting) > max(1_000_000, len(self._votes[0])):
            self._merge()

    def _merge(self) -> None:
        columns = zip(self._votes, *self._waiting, strict=True)
        self._votes = _count_votes(*(np.concatenate(column) for column in columns))
        self._waiting = []

    def voxels(self, rule: str) -> tuple[np.ndarray, np.ndarray]:
        """(M, 3) sorted indices of the voxels seen so far, and (M,) the label of each.

        Args:
            rule: ``majority``, or ``non_ignored``: the most frequent label other than 0, as the
                published program has it.
        """
        self._merge()
        key, label, count = self._votes
        return _majority(_unpack(key), label, count, one_of("gt.rule", rule, RULES[1:]))

    def result(self, rule: str = "non_ignored") -> GroundTruth:
        """The label of every voxel seen so far.

        Args:
            rule: of :meth:`voxels`.

        Raises:
            InputError: no label image was usable.
        """
        index, label = self.voxels(rule)
        if not label.any():
            raise InputError(
                "no voxel has a label: there are no usable label images that hold a class of the "
                "list; give labelled points with --gt"
            )
        digest = hashlib.sha256(
            np.ascontiguousarray(np.column_stack([index, label])).tobytes()
        ).hexdigest()
        return GroundTruth(
            index, label, self.voxel_size, f"lifted from label images ({rule})", digest
        )
