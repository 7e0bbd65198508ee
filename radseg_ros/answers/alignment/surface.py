# SPDX-License-Identifier: Apache-2.0
"""What of a map is compared: points of its surfaces, evenly spaced, with colour and normal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ...datatypes import ConfigError, MapGeometry

COARSER = 1.25  # times the spacing, where there are too many points
NEIGHBOURS = 30  # of a point that tell its normal


def registration() -> Any:
    """Open3D, silent.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import open3d as o3d
    except ImportError as error:
        raise ConfigError(
            f"aligning maps needs the Python package {error.name} (pip install 'radseg_ros[eval]')"
        ) from error
    o3d.utility.set_verbosity_level(o3d.utility.VerbosityLevel.Error)
    return o3d


class Surface:
    """The surfaces of a map, as a cloud of Open3D with colours and normals.

    Args:
        cloud: positions in metres, colours in 0..1.
        spacing: m, between its points.
        cameras: (N, 3) m, where the map was looked at from: normals point there.
    """

    def __init__(self, cloud: Any, spacing: float, cameras: np.ndarray) -> None:
        o3d = registration()
        self.cloud, self.spacing, self.cameras = cloud, spacing, cameras
        if not cloud.is_empty():
            cloud.estimate_normals(o3d.geometry.KDTreeSearchParamHybrid(3 * spacing, NEIGHBOURS))
        self.xyz, self.rgb = np.asarray(cloud.points), np.asarray(cloud.colors)
        normals = np.asarray(cloud.normals)
        if len(cameras) and len(normals):
            looks = cameras[cKDTree(cameras).query(self.xyz)[1]] - self.xyz
            normals[(normals * looks).sum(1) < 0] *= -1
        self.normals = normals

    @classmethod
    def of(cls, geometry: MapGeometry, cameras: Sequence[Sequence[float]] = ()) -> Surface:
        """Every voxel of a map is a point; without ``cameras`` its middle stands for them."""
        o3d = registration()
        cloud = o3d.geometry.PointCloud()
        xyz = geometry.xyz.cpu().double().numpy()
        cloud.points = o3d.utility.Vector3dVector(xyz)
        cloud.colors = o3d.utility.Vector3dVector(geometry.rgb.cpu().double().numpy())
        if not len(cameras) and len(xyz):
            cameras = xyz.mean(0)[None]
        return cls(cloud, geometry.voxel_size, np.array(cameras, np.float64).reshape(-1, 3))

    def __len__(self) -> int:
        return len(self.xyz)

    def thinned(self, spacing: float) -> Surface:
        """One point for every cube of ``spacing`` m, their mean."""
        return Surface(self.cloud.voxel_down_sample(spacing), spacing, self.cameras)


def thinned_alike(a: Surface, b: Surface, spacing: float, most: int) -> tuple[Surface, Surface]:
    """Both with points ``spacing`` m apart, or more, so that none has more than ``most``."""
    while True:
        x, y = a.thinned(spacing), b.thinned(spacing)
        if max(len(x), len(y)) <= most:
            return x, y
        spacing *= COARSER
