# SPDX-License-Identifier: Apache-2.0
"""From similarities to places: how well a voxel answers a text, which voxels form one object."""

from __future__ import annotations

import numpy as np
import torch

from ..config import QueryConfig
from ..datatypes import FoundObject, MapGeometry
from .groups import connected_groups


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


def find_objects(
    geometry: MapGeometry, scores: np.ndarray, config: QueryConfig
) -> tuple[FoundObject, ...]:
    """The connected groups of voxels that score at least ``config.threshold``, best first.

    Args:
        geometry: the M voxels of the map.
        scores: (M,) in 0..1.
    """
    chosen = np.flatnonzero(scores >= config.threshold)
    if not len(chosen):
        return ()
    rows = torch.from_numpy(chosen).to(geometry.index.device)
    index, last_seen = (
        values.index_select(0, rows).cpu().numpy()
        for values in (geometry.index, geometry.last_seen_ns)
    )
    score = scores[chosen]
    group = connected_groups(index, geometry.voxel_size, config.max_gap)
    voxels = np.bincount(group)
    starts = np.cumsum(voxels) - voxels
    # numbers of 16 bits are sorted in linear time
    order = np.argsort(group.astype(np.uint16) if len(voxels) <= 1 << 16 else group, kind="stable")
    weight = score.astype(np.float64)
    sums = [np.bincount(group, weight * axis) for axis in index.T]
    centre = geometry.voxel_size * np.stack(sums, 1) / np.bincount(group, weight)[:, None]
    # small numbers: what takes time is to gather them from all over the memory
    ordered = [axis.astype(np.int32)[order] for axis in index.T]
    extent = [np.maximum.reduceat(x, starts) - np.minimum.reduceat(x, starts) for x in ordered]
    size = geometry.voxel_size * np.stack(extent, 1)
    best = np.maximum.reduceat(score[order], starts)
    latest = np.maximum.reduceat(last_seen[order], starts)
    large = np.flatnonzero(voxels >= config.min_voxels)
    ranked = large[np.lexsort((*centre[large].T[::-1], -voxels[large], -best[large]))]
    return tuple(
        FoundObject(
            centre=tuple(centre[i].tolist()),
            size=tuple(size[i].tolist()),
            score=float(best[i]),
            voxels=int(voxels[i]),
            last_seen_ns=int(latest[i]),
        )
        for i in ranked[: config.max_objects]
    )
