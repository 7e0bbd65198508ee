# SPDX-License-Identifier: Apache-2.0
"""From scores to places: which voxels form one object."""

from __future__ import annotations

import bisect

import numpy as np
import torch

from ..config import QueryConfig
from ..datatypes import MapGeometry, SemanticObject
from .boxes import straight_box, turned_box
from .folds import sheets
from .groups import Closeness


def rows_of(values: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """(M, ...) on any device -> (n, ...) in those rows."""
    chosen = torch.from_numpy(rows).to(values.device)
    return values.index_select(0, chosen).cpu().numpy()


def least_score(rules: QueryConfig, best: float) -> float:
    """Which voxels may be part of an object, if the best one of the map scores ``best``."""
    return min(rules.threshold, rules.hysteresis * best)


def find_objects(
    label: str, geometry: MapGeometry, scores: np.ndarray, config: QueryConfig
) -> tuple[SemanticObject, ...]:
    """The objects that answer a text, best first; see :func:`find_groups`.

    Args:
        geometry: the M voxels of the map.
        scores: (M,) in 0..1.
    """
    groups = find_groups(geometry, scores, config)
    return tuple(make_object(label, geometry, scores, rows, score) for rows, score in groups)


def find_groups(
    geometry: MapGeometry, scores: np.ndarray, config: QueryConfig
) -> list[tuple[np.ndarray, float]]:
    """Which voxels form one object each, and its score; the best ``config.max_objects``, in order.

    They are connected and reach :func:`least_score`, and ``config.min_voxels`` of them, which are
    connected by themselves, reach ``config.threshold``: its core. The score of an object is what
    the ``min_voxels``-th best voxel of its best core has: one noisy voxel makes no object, and
    raises none above another.

    Args:
        geometry: the M voxels of the map.
        scores: (M,) in 0..1.
    """
    chosen, group, best = _grown(geometry, scores, config)
    if not len(chosen):
        return []
    large, voxels = np.flatnonzero(best >= 0), np.bincount(group)
    score, index = best[large], rows_of(geometry.index, chosen)
    place = np.stack([np.bincount(group, axis)[large] / voxels[large] for axis in index.T])
    ranked = np.lexsort((*place[::-1], -voxels[large], -score))
    starts = np.cumsum(voxels) - voxels
    # numbers of 16 bits are sorted in linear time
    order = np.argsort(group.astype(np.uint16) if len(voxels) <= 1 << 16 else group, kind="stable")
    found: list[tuple[np.ndarray, float]] = []
    for i in ranked:
        if _enough(found, float(score[i]), int(voxels[large[i]]), config.max_objects):
            break
        own = chosen[order[starts[large[i]] :][: voxels[large[i]]]]
        whole = [(own, float(score[i]))]
        parts = sheets(rows_of(geometry.index, own), geometry.voxel_size)
        parted = [(own[rows], _score_of(scores[own[rows]], whole[0][1], config)) for rows in parts]
        for each in parted or whole:
            if each[1] >= config.threshold:
                bisect.insort(found, each, key=lambda other: (-other[1], -len(other[0])))
    return found[: config.max_objects]


def _enough(found: list[tuple[np.ndarray, float]], score: float, voxels: int, most: int) -> bool:
    """Whether no part of a group of such a score and size comes among the first ``most``."""
    if len(found) < most:
        return False
    rows, least = found[most - 1]
    return (least, len(rows)) >= (score, voxels)


def _score_of(scores: np.ndarray, most: float, config: QueryConfig) -> float:
    """The score of a part of so many voxels, no better than the whole; -1 = too few."""
    few = config.min_voxels
    return min(most, float(np.partition(scores, -few)[-few])) if len(scores) >= few else -1.0


def make_object(
    label: str, geometry: MapGeometry, scores: np.ndarray, rows: np.ndarray, score: float
) -> SemanticObject:
    """The object that consists of the voxels in ``rows`` (at least one) of a map.

    Args:
        geometry: the M voxels of the map.
        scores: (M,) in 0..1, of each voxel.
        score: of the object.
    """
    own = scores[rows].astype(np.float64)
    index = rows_of(geometry.index, rows)
    centre, size = straight_box(index, geometry.voxel_size)
    weight = own if own.any() else np.ones_like(own)
    return SemanticObject(
        label=label,
        score=score,
        centre=tuple(centre.tolist()),
        size=tuple(size.tolist()),
        peak=tuple((geometry.voxel_size * (weight @ index) / weight.sum()).tolist()),
        box=turned_box(index, geometry.voxel_size),
        voxels=len(rows),
        hits=int(rows_of(geometry.hits, rows).sum(dtype=np.float64)),
        views=int(rows_of(geometry.views, rows).max()),
        mean_score=float(own.mean()),
        best_score=float(own.max()),
        first_seen_ns=int(rows_of(geometry.first_seen_ns, rows).min()),
        last_seen_ns=int(rows_of(geometry.last_seen_ns, rows).max()),
    )


def _grown(
    geometry: MapGeometry, scores: np.ndarray, config: QueryConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Connected voxels that may be part of an object.

    Returns:
        (n,) the voxels in order; (n,) the group of each; (G,) score of each group, -1 = no core.
    """
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    core = np.flatnonzero(scores >= config.threshold)
    if len(core) < config.min_voxels:
        return nothing
    chosen = np.flatnonzero(scores >= least_score(config, float(scores.max())))
    index = rows_of(geometry.index, chosen)
    near = Closeness(index, geometry.voxel_size, config.max_gap)
    in_core = scores[chosen] >= config.threshold
    core_of = near.only(in_core).groups()
    large, score = _nth_best(scores[core], core_of, config.min_voxels)
    if not len(large):
        return nothing
    group = core_of if len(chosen) == len(core) else near.groups()
    member = np.zeros(len(core), np.int64)
    member[core_of] = np.flatnonzero(in_core)  # any voxel of each core
    best = np.full(int(group.max()) + 1, -1, np.float32)
    np.maximum.at(best, group[member[large]], score)
    return chosen, group, best


def _nth_best(score: np.ndarray, group: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The groups that have ``rank`` voxels, and the ``rank``-th highest score in each of them.

    Args:
        score: (N,) of each voxel, not negative.
        group: (N,) of each voxel.
    """
    voxels = np.bincount(group)
    large = np.flatnonzero(voxels >= rank)
    # the bits of floats that are not negative are in the order of the floats
    bits = (score.astype(np.float32) + np.float32(0)).view(np.uint32)
    both = group.astype(np.uint64) << np.uint64(32) | bits
    places = np.cumsum(voxels)[large] - rank
    found = np.partition(both, places)[places] & np.uint64(0xFFFFFFFF)
    return large, found.astype(np.uint32).view(np.float32)
