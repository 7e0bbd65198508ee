# SPDX-License-Identifier: Apache-2.0
"""Voxels as cubes in parallel projection, drawn by numpy: no display, no graphics card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PAPER = (250, 249, 246)
OVERSAMPLING = 2
LARGEST_CUBE = 48  # px, oversampled; bounds the work for maps of a few voxels
# of the faces across the two horizontal axes and the vertical axis
FACE_SHADE = np.array([0.86, 0.74, 1.0])


@dataclass(frozen=True, slots=True, eq=False)
class VoxelScene:
    """The voxels that are drawn, turned so that z is up. Metres."""

    xyz: np.ndarray  # (M, 3) centres
    voxel_size: float
    rotation: np.ndarray  # (3, 3), world -> this
    # (M, 3), towards where the camera was: a wall is drawn only from that side; None = from both
    normals: np.ndarray | None = None


class View:
    """Which voxel is seen at each pixel from one direction.

    Colours come later, so several pictures share the work.

    Args:
        azimuth, elevation: degrees, where the eye is: 0, 0 = on the x axis; elevation 90 = straight
            above.
        width, max_height: px that the picture has at most.
    """

    def __init__(
        self,
        scene: VoxelScene,
        azimuth: float,
        elevation: float,
        width: int = 1200,
        max_height: int = 1000,
    ) -> None:
        a, e = np.radians([azimuth, elevation])
        self.right = np.array([-np.sin(a), np.cos(a), 0.0])
        # towards the eye
        self.eye = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        self.up = np.cross(self.eye, self.right)
        self.scene = scene
        shown = self._facing()
        plane = scene.xyz[shown] @ np.stack([self.right, self.up], 1)
        margin = 2 * scene.voxel_size
        low = plane.min(axis=0, initial=np.inf) if len(plane) else np.zeros(2)
        high = plane.max(axis=0, initial=-np.inf) if len(plane) else np.full(2, 20 * margin)
        low, high = low - margin, high + margin
        extent = high - low
        self.scale = min(  # px per m
            OVERSAMPLING * width / extent[0],
            OVERSAMPLING * max_height / extent[1],
            LARGEST_CUBE / scene.voxel_size,
        )
        self.origin = np.array([low[0], high[1]])
        height, width = (
            int(np.ceil(n * self.scale / OVERSAMPLING)) * OVERSAMPLING for n in extent[::-1]
        )
        self.size = height, width
        self._raster(shown, plane)

    def _facing(self) -> np.ndarray:
        """Rows of the voxels that are not seen from behind."""
        scene = self.scene
        if scene.normals is None:
            return np.arange(len(scene.xyz))
        shown = np.flatnonzero(scene.normals @ self.eye > -0.1)
        return shown[_in_company(scene.xyz[shown], scene.voxel_size)]

    def _raster(self, shown: np.ndarray, plane: np.ndarray) -> None:
        """Cubes into the z-buffer: one pixel of the outline at a time, for all cubes at once."""
        depth = -(self.scene.xyz[shown] @ self.eye)
        # far to near: of two writes to one pixel the later, nearer one stays
        order = np.argsort(-depth, kind="stable")
        shown, depth = shown[order], depth[order]
        centre = np.rint((plane[order] - self.origin) * (self.scale, -self.scale)).astype(np.int64)
        height, width = self.size
        nearest, owner = np.full(height * width, np.inf), np.full(height * width, -1)
        face = np.zeros(height * width, np.int64)
        latest = np.full(height * width, -1)
        for dx, dy, dz, side in self._stencil():
            x, y = centre[:, 0] + dx, centre[:, 1] + dy
            inside = np.flatnonzero((x >= 0) & (x < width) & (y >= 0) & (y < height))
            pixel = y[inside] * width + x[inside]
            latest[pixel] = inside
            winners = inside[latest[pixel] == inside]
            pixel = y[winners] * width + x[winners]
            better = depth[winners] + dz < nearest[pixel]
            pixel, winners = pixel[better], winners[better]
            nearest[pixel], owner[pixel], face[pixel] = depth[winners] + dz, shown[winners], side
        self.owner = owner.reshape(self.size)
        occlusion = self._occlusion(nearest.reshape(self.size))
        self.shade = FACE_SHADE[face].reshape(self.size) * occlusion

    def _stencil(self) -> list[tuple[int, int, float, int]]:
        """Pixels of one cube: offset (right, down) in px, m behind its centre, axis of the face."""
        half = self.scene.voxel_size / 2 * 1.02  # no gaps between neighbours
        edge = max(half, self.scene.voxel_size / 2 + 0.5 / self.scale)  # centres are whole pixels
        reach = int(np.ceil(edge * np.sqrt(3) * self.scale))
        dy, dx = (grid.ravel() for grid in np.mgrid[-reach : reach + 1, -reach : reach + 1])
        start = (dx[:, None] * self.right - dy[:, None] * self.up) / self.scale
        along = np.abs(self.eye) < 1e-9  # axes that rays do not advance on
        with np.errstate(divide="ignore", invalid="ignore"):
            enter = np.where(along, -np.inf, (-half * np.sign(-self.eye) - start) / -self.eye)
            leave = np.where(along, np.inf, (half * np.sign(-self.eye) - start) / -self.eye)
        outside = ((np.abs(start) > edge) & along).any(1)
        hit = (enter.max(1) <= leave.min(1)) & ~outside
        return [
            (int(dx[i]), int(dy[i]), float(enter[i].max()), int(enter[i].argmax()))
            for i in np.flatnonzero(hit)
        ]

    def _occlusion(self, depth: np.ndarray) -> np.ndarray:
        """(H, W) factor: dark behind what is nearer (depth darkening, Luft et al. 2006)."""
        known = np.isfinite(depth)
        filled = np.where(known, depth, 0.0)
        factor = np.ones(self.size)
        for radius, strength in ((0.25, 0.8), (0.06, 1.5)):  # m, 1/m
            weight = _blur(known, radius * self.scale)
            blurred = _blur(filled, radius * self.scale) / np.maximum(weight, 1e-6)
            nearer = np.clip(depth - blurred, 0, 0.22, where=known, out=np.zeros(self.size))
            factor -= strength * nearer
        return np.clip(factor, 0.35, 1)

    def paint(
        self, colors: np.ndarray, brightness: float = 1.0, paper: Sequence[int] = PAPER
    ) -> Any:
        """(M, 3) colours of the scene's voxels, 0..255 -> a PIL image on ``paper``."""
        from PIL import Image

        image = np.broadcast_to(np.array(paper, np.float32), (*self.size, 3)).copy()
        seen = self.owner >= 0
        image[seen] = colors[self.owner[seen]] * (brightness * self.shade[seen, None])
        height, width = (n // OVERSAMPLING for n in self.size)
        image = image.reshape(height, OVERSAMPLING, width, OVERSAMPLING, 3).mean((1, 3))
        return Image.fromarray(np.round(image).clip(0, 255).astype(np.uint8))

    def pixel(self, position: Sequence[float]) -> tuple[float, float]:
        """Where a world position is in the painted picture, px right and down."""
        point = self.scene.rotation @ np.asarray(position, float)
        plane = np.array([point @ self.right, point @ self.up])
        x, y = (plane - self.origin) * (self.scale, -self.scale) / OVERSAMPLING
        return float(x), float(y)


def _in_company(xyz: np.ndarray, voxel_size: float) -> np.ndarray:
    """(N,) bool: not a left-over of a wall seen from behind, such as the row along its top."""
    from scipy.spatial import cKDTree

    return cKDTree(xyz).query(xyz, 10)[0][:, -1] < 2.5 * voxel_size


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """As a Gaussian: three box filters, whose cost does not grow with ``sigma`` (px)."""
    from scipy.ndimage import uniform_filter

    side = 2 * round((np.sqrt(4 * sigma**2 + 1) - 1) / 2) + 1  # odd: nothing is shifted
    blurred = image.astype(np.float32)
    for _ in range(3):
        blurred = uniform_filter(blurred, side)
    return blurred
