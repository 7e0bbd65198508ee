# SPDX-License-Identifier: Apache-2.0
"""Which thing each voxel of a ground truth is of: from images of ids, or from labelled points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..scoring.metrics import knn_labels, vote, voxel_index
from .ground_truth import FARTHEST, GroundTruth, LabelLifter
from .points import read_instances


def lifted_instances(lifter: LabelLifter, gt: GroundTruth) -> np.ndarray | None:
    """(M,) int64, the id of the thing that each voxel of ``gt`` is of, 0 = none; None = no image
    showed one. "Of none" votes, too.

    Args:
        lifter: has been given the images of ids.
    """
    index, ids = lifter.voxels("majority")
    return _at(gt, index, ids) if (ids > 0).any() else None


def point_instances(path: Path, gt: GroundTruth) -> np.ndarray | None:
    """The same from a file of labelled points that names the thing of each (``instances``, or what
    data sets call it; 0 and below = none); None where it does not.

    Raises:
        InputError: the file cannot be used.
    """
    found = read_instances(path)
    if found is None:
        return None
    xyz, ids = found
    near = (np.abs(xyz) < FARTHEST * gt.voxel_size).all(axis=1)  # not so for NaN
    return _at(gt, *vote(voxel_index(xyz[near], gt.voxel_size), ids[near].clip(min=0)))


def _at(gt: GroundTruth, index: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(M,) ids of the same voxels, 0 where there is none."""
    return knn_labels(gt.xyz, index * gt.voxel_size, ids, k=0, voxel_size=gt.voxel_size)
