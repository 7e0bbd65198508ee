# SPDX-License-Identifier: Apache-2.0
"""Which voxels may answer a question: by place, age and number of points."""

from __future__ import annotations

import torch

from ..datatypes import Filter, MapGeometry


def mask(geometry: MapGeometry, where: Filter, now_ns: int) -> torch.Tensor:
    """(M,) bool, on the device of the map: the voxels that ``where`` lets answer.

    Args:
        now_ns: time of the map's own clock, so that stamps that jump make nothing old or new.
    """
    xyz = geometry.xyz.double()
    if where.T_filter_world is not None:
        T = torch.as_tensor(where.T_filter_world, dtype=torch.float64, device=xyz.device)
        xyz = xyz @ T[:3, :3].T + T[:3, 3]
    low, high, centre = map(xyz.new_tensor, (where.lowest, where.highest, where.centre))
    keep = ((xyz >= low) & (xyz <= high)).all(1) & (geometry.hits >= where.min_hits)
    if where.radius:
        keep &= (xyz - centre).norm(dim=1) <= where.radius
    if where.max_age:
        age = min(round(1e9 * where.max_age), 1 << 62)  # of 64 bits
        keep &= geometry.seen_at_ns >= now_ns - age
    return keep


def chosen(
    geometry: MapGeometry, scores: torch.Tensor, where: Filter, now_ns: int
) -> tuple[MapGeometry, torch.Tensor]:
    """The voxels that may answer, and their scores: (M, Q) -> (m, Q)."""
    keep = mask(geometry, where, now_ns)
    return geometry.kept(keep), scores[keep.to(scores.device)]
