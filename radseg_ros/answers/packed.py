# SPDX-License-Identifier: Apache-2.0
"""Points in the layout of a PointCloud2, and a cloud of them that follows the map.

What is published again and again is kept packed: only rows that changed are made again, so that a
cloud costs in proportion to what changed, and a copy.
"""

from __future__ import annotations

import numpy as np

from ..datatypes import Cloud, MapChanges
from .cloud import rgb_cloud, semantic_cloud

# x y z rgb as every viewer expects them: rgb is 0x00RRGGBB in the bits of a float32 (PCL's
# convention).
POINT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("rgb", "<u4"),
        ("label", "<i4"),
        ("score", "<f4"),
        ("hits", "<f4"),
    ]
)
# Steps along x, y, z in a sequence of low discrepancy: 2^32 / g^k, where g^4 = g + 1.
_STRIDES = np.array([3518319155, 2882110345, 2360945575], np.uint32)


def pack(cloud: Cloud) -> np.ndarray:
    """(M,) structured array of ``POINT``."""
    points = np.empty(len(cloud), POINT)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    red, green, blue = cloud.rgb.astype(np.uint32).T
    points["rgb"] = red << 16 | green << 8 | blue
    points["label"], points["score"], points["hits"] = cloud.label, cloud.score, cloud.hits
    return points


def thinning_order(index: np.ndarray) -> np.ndarray:
    """(N, 3) voxel indices -> (N,) uint32: which voxels stay longest when a cloud is thinned.

    It depends on the voxel alone, so that a voxel does not come and go. Those below any bound are
    spread evenly over the lines, planes and volumes of the grid.
    """
    x, y, z = index.astype(np.uint32).T * _STRIDES[:, None]
    return x + y + z


class PackedCloud:
    """A cloud of the map that follows it. In true colours where there are no texts.

    ``step`` is what to ask the map's changes since; ``missing`` says how many rows will change as
    soon as there is time.
    """

    def __init__(self) -> None:
        self.step = -1
        self.missing = 0
        self._points = np.zeros(0, POINT)
        self._order = np.zeros(0, np.uint32)
        self._known = np.zeros(0, bool)

    def update(self, changes: MapChanges, threshold: float) -> None:
        """Make the rows that changed again.

        Args:
            threshold: of the score of a label; voxels below it keep their own colour, darkened.
        """
        self._known = changes.known.cpu().numpy()
        self._grow(len(self._known))
        slots, scores = changes.slots.cpu().numpy(), changes.scores.cpu().numpy()
        labelled = bool(scores.shape[1])
        geometry = changes.geometry
        cloud = semantic_cloud(geometry, scores, threshold) if labelled else rgb_cloud(geometry)
        self._points[slots] = pack(cloud)
        self._order[slots] = thinning_order(geometry.index.cpu().numpy())
        self.step, self.missing = changes.step, changes.missing

    def _grow(self, rows: int) -> None:
        """At amortised constant cost per row."""
        more = rows - len(self._points)
        if more > 0:
            more = max(more, len(self._points) // 8)
            self._points = np.concatenate([self._points, np.zeros(more, POINT)])
            self._order = np.concatenate([self._order, np.zeros(more, np.uint32)])

    def points(
        self,
        min_hits: int = 1,
        most: int = 0,
        radius: float = 0.0,
        centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> np.ndarray:
        """(N,) points of ``POINT``, valid until the next update.

        Args:
            min_hits: without voxels of fewer points.
            most: N at most; 0 = all. The same voxels go first, evenly spread over the space.
            radius: only voxels within so many metres of ``centre``; 0 = all.
        """
        points, keep = self._points[: len(self._known)], self._known
        if min_hits > 1:
            keep = keep & (points["hits"] >= min_hits)
        if radius:
            apart = (points[axis] - np.float32(at) for axis, at in zip("xyz", centre, strict=True))
            keep = keep & (sum(np.square(each) for each in apart) <= radius * radius)
        count = np.count_nonzero(keep)
        if most and count > most:
            order = self._order[: len(points)]
            keep = keep & (order < np.partition(order[keep], most)[most])
            count = np.count_nonzero(keep)
        return points[:count] if keep[:count].all() else points[keep]
