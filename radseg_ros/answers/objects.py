# SPDX-License-Identifier: Apache-2.0
"""From similarities to places: how well a voxel answers a text, which voxels form one object."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..config import QueryConfig
from ..datatypes import FoundObject, MapGeometry


def cosine(vectors: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(M, D) and (Q, D), any length -> (M, Q) cosines; 0 for a zero vector."""
    normalise = torch.nn.functional.normalize
    return normalise(vectors.float(), dim=1) @ normalise(text.to(vectors.device).float(), dim=1).T


def relevancy(similarity: torch.Tensor, background: torch.Tensor, scale: float) -> torch.Tensor:
    """How much each voxel prefers a text to the background text that fits it best.

    Pairwise softmax against every background text, the worst of them counts (LERF, section 3.3):
    the score of a text does not depend on which other texts are asked for, and 0.5 means "as good
    as the background".

    Args:
        similarity: (M, Q) cosines with the texts.
        background: (M, B) cosines with the background texts, B >= 1.
        scale: factor on the cosine (100 in the paper).

    Returns:
        (M, Q) in 0..1.
    """
    return torch.sigmoid(scale * (similarity - background.amax(1, keepdim=True)))


def connected_groups(xyz: np.ndarray, max_gap: float) -> np.ndarray:
    """(N, 3) metres -> (N,) group numbers; points nearer than ``max_gap`` share a group."""
    n = len(xyz)
    if n == 0:
        return np.zeros(0, np.int64)
    pairs = cKDTree(xyz).query_pairs(max_gap, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def find_objects(
    geometry: MapGeometry, scores: np.ndarray, config: QueryConfig
) -> tuple[FoundObject, ...]:
    """The connected groups of voxels that score at least ``config.threshold``, best first.

    Args:
        geometry: the M voxels of the map.
        scores: (M,) in 0..1.
    """
    chosen = np.flatnonzero(scores >= config.threshold)
    xyz = geometry.xyz[chosen].cpu().numpy().astype(np.float64)
    last_seen = geometry.last_seen_ns[chosen].cpu().numpy()
    scores = scores[chosen].astype(np.float64)
    group = connected_groups(xyz, config.max_gap)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    objects = []
    for rows in np.split(order, starts[1:]) if len(order) else []:
        if len(rows) < config.min_voxels:
            continue
        points, weight = xyz[rows], scores[rows]
        centre = weight @ points / weight.sum()
        objects.append(
            FoundObject(
                centre=tuple(centre.tolist()),
                size=tuple(np.ptp(points, axis=0).tolist()),
                score=float(weight.max()),
                voxels=len(rows),
                last_seen_ns=int(last_seen[rows].max()),
            )
        )
    objects.sort(key=lambda found: (-found.score, -found.voxels, found.centre))
    return tuple(objects[: config.max_objects])
