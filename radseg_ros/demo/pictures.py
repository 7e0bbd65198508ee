# SPDX-License-Identifier: Apache-2.0
"""Pictures of a voxel map without a display: cubes, drawn by numpy.

The map is seen in parallel projection. A wall is drawn only from the side that the camera saw, so
that one looks into rooms as into a doll's house; what is above the head of the robot (the ceiling)
is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..answers.objects import connected_groups

PAPER = np.array([250, 249, 246], np.float32)
INK = (40, 42, 46)
OVERSAMPLING = 2
FACE_SHADE = np.array(
    [0.86, 0.74, 1.0]
)  # of the faces across the map's two horizontal axes and its vertical axis
BRIGHTNESS = 1.08  # sensors under-expose white walls
NEIGHBOURS = 48  # voxels that a surface normal is made of
MIN_HITS = 3  # points in a voxel that is drawn; fewer is mostly noise of far depth
SMALLEST_PIECE = 0.004  # share of the voxels that a separate piece must have to be drawn
HEADROOM = 0.45  # m above the highest camera that are still drawn


@dataclass(frozen=True, eq=False)
class Scene:
    """The voxels of a map, turned so that z is up. Metres."""

    xyz: np.ndarray  # (M, 3) centres
    rgb: np.ndarray  # (M, 3) uint8
    normals: np.ndarray  # (M, 3), towards where the camera was
    voxel_size: float
    rotation: np.ndarray  # (3, 3), world -> this


def upright(rotations: np.ndarray) -> np.ndarray:
    """World -> z up, (3, 3), for cameras (N, 3, 3) that are held upright on average.

    Exact when up is a world axis.
    """
    up = -rotations[:, :, 1].mean(0)
    up /= np.linalg.norm(up)
    axis = np.abs(up).argmax()
    if abs(up[axis]) > np.cos(np.radians(20)):
        up = np.eye(3)[axis] * np.sign(up[axis])
    side = np.eye(3)[(axis + 1) % 3]
    x = side - up * (side @ up)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(up, x), up])


def make_scene(
    xyz: np.ndarray, rgb: np.ndarray, hits: np.ndarray, poses: np.ndarray, voxel_size: float
) -> tuple[Scene, np.ndarray]:
    """Voxels and camera poses (N, 4, 4) in the world -> what is drawn of them, and which rows of
    ``xyz`` those are.
    """
    from scipy.spatial import cKDTree

    rotation = upright(poses[:, :3, :3])
    cameras = poses[:, :3, 3] @ rotation.T
    points = xyz.astype(np.float64) @ rotation.T
    rows = np.flatnonzero((points[:, 2] <= cameras[:, 2].max() + HEADROOM) & (hits >= MIN_HITS))
    group = connected_groups(points[rows], 2.1 * voxel_size)
    rows = rows[np.bincount(group)[group] >= SMALLEST_PIECE * len(rows)]
    points = points[rows]
    neighbours = points[cKDTree(points).query(points, min(NEIGHBOURS, len(points)))[1]]
    offsets = neighbours - neighbours.mean(1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets))[1][:, :, 0]
    seen_from = cameras[cKDTree(cameras).query(points)[1]] - points
    normals *= np.sign((normals * seen_from).sum(1, keepdims=True) + 1e-12)
    return Scene(points, rgb[rows], normals, voxel_size, rotation), rows


class View:
    """Which voxel is seen at each pixel from one direction.

    Colours come later, so several pictures share the work.

    Args:
        azimuth, elevation: degrees, where the eye is: 0, 0 = on the x axis; elevation 90 = straight
            above.
        width: px of the picture.
    """

    def __init__(
        self,
        scene: Scene,
        azimuth: float,
        elevation: float,
        width: int = 1200,
        max_height: int = 1000,
    ) -> None:
        a, e = np.radians([azimuth, elevation])
        self.right = np.array([-np.sin(a), np.cos(a), 0.0])
        self.eye = np.array(
            [np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)]
        )  # towards the eye
        self.up = np.cross(self.eye, self.right)
        self.scene = scene
        shown = np.flatnonzero(scene.normals @ self.eye > -0.1)
        shown = shown[_in_company(scene.xyz[shown], scene.voxel_size)]
        plane = scene.xyz[shown] @ np.stack([self.right, self.up], 1)
        low, high = plane.min(0) - 2 * scene.voxel_size, plane.max(0) + 2 * scene.voxel_size
        scale = OVERSAMPLING * min(
            width / (high[0] - low[0]), max_height / (high[1] - low[1])
        )  # px per m
        self.scale, self.origin = scale, np.array([low[0], high[1]])
        self.size = tuple(
            int(np.ceil(n * scale / OVERSAMPLING)) * OVERSAMPLING for n in (high - low)[::-1]
        )
        self._raster(shown, plane)

    def _raster(self, shown: np.ndarray, plane: np.ndarray) -> None:
        """Cubes into the z-buffer: one pixel of the outline at a time, for all cubes at once."""
        depth = -(self.scene.xyz[shown] @ self.eye)
        order = np.argsort(
            -depth, kind="stable"
        )  # far to near: of two writes to one pixel the later, nearer one stays
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
        self.shade = FACE_SHADE[face].reshape(self.size) * self._occlusion(
            nearest.reshape(self.size)
        )

    def _stencil(self) -> list[tuple[int, int, float, int]]:
        """Pixels of one cube: offset in px (right, down), depth of its surface against the centre
        in m, axis of the face.
        """
        half = self.scene.voxel_size / 2 * 1.02  # no gaps between neighbours
        reach = int(np.ceil(half * np.sqrt(3) * self.scale))
        dy, dx = (grid.ravel() for grid in np.mgrid[-reach : reach + 1, -reach : reach + 1])
        start = (dx[:, None] * self.right - dy[:, None] * self.up) / self.scale
        with np.errstate(divide="ignore", invalid="ignore"):
            enter = np.where(
                np.abs(self.eye) < 1e-9, -np.inf, (-half * np.sign(-self.eye) - start) / -self.eye
            )
            leave = np.where(
                np.abs(self.eye) < 1e-9, np.inf, (half * np.sign(-self.eye) - start) / -self.eye
            )
        outside = ((np.abs(start) > half) & (np.abs(self.eye) < 1e-9)).any(1)
        hit = (enter.max(1) <= leave.min(1)) & ~outside
        return [
            (int(dx[i]), int(dy[i]), float(enter[i].max()), int(enter[i].argmax()))
            for i in np.flatnonzero(hit)
        ]

    def _occlusion(self, depth: np.ndarray) -> np.ndarray:
        """Darker where the surroundings are nearer to the eye (depth darkening, Luft et al.

        2006); (H, W) factor.
        """
        from scipy.ndimage import gaussian_filter

        known = np.isfinite(depth)
        filled = np.where(known, depth, 0.0)
        factor = np.ones(self.size)
        for radius, strength in ((0.25, 0.8), (0.06, 1.5)):  # m, 1/m
            sigma = radius * self.scale
            weight = gaussian_filter(known.astype(np.float32), sigma)
            blurred = gaussian_filter(filled.astype(np.float32), sigma) / np.maximum(weight, 1e-6)
            factor -= strength * np.clip(
                depth - blurred, 0, 0.22, where=known, out=np.zeros(self.size)
            )
        return np.clip(factor, 0.35, 1)

    def paint(self, colors: np.ndarray) -> Any:
        """(M, 3) colours of the scene's voxels, 0..255 -> a PIL image."""
        from PIL import Image

        image = np.broadcast_to(PAPER, (*self.size, 3)).copy()
        seen = self.owner >= 0
        image[seen] = colors[self.owner[seen]] * (BRIGHTNESS * self.shade[seen, None])
        height, width = (n // OVERSAMPLING for n in self.size)
        image = image.reshape(height, OVERSAMPLING, width, OVERSAMPLING, 3).mean((1, 3))
        return Image.fromarray(np.round(image).clip(0, 255).astype(np.uint8))

    def pixel(self, position: Sequence[float]) -> tuple[float, float]:
        """Where a world position is in the painted picture, px right and down."""
        point = self.scene.rotation @ np.asarray(position, float)
        plane = np.array([point @ self.right, point @ self.up])
        x, y = (plane - self.origin) * (self.scale, -self.scale) / OVERSAMPLING
        return float(x), float(y)


def heat(rgb: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
    """(M, 3) uint8 and (M,) 0..1 -> (M, 3) colours: pale grey, and glowing where the score passes
    the threshold.
    """
    grey = rgb.astype(np.float32) @ np.array([0.3, 0.59, 0.11], np.float32)
    base = np.repeat((112 + 0.5 * grey)[:, None], 3, 1)
    stops = np.array([0.0, 0.35, 0.7, 1.0])
    glow = np.array([[70, 20, 110], [190, 45, 95], [246, 130, 40], [255, 215, 60]], np.float32)
    value = np.clip((score - 0.8 * threshold) / (1 - 0.8 * threshold), 0, 1)
    color = np.stack([np.interp(value, stops, glow[:, c]) for c in range(3)], 1)
    alpha = np.clip(value / 0.25, 0, 1)[:, None]
    return base * (1 - alpha) + color * alpha


def _in_company(xyz: np.ndarray, voxel_size: float) -> np.ndarray:
    """(N,) bool: not a left-over of a wall that is seen from behind, such as the row of voxels
    along its top.
    """
    from scipy.spatial import cKDTree

    return cKDTree(xyz).query(xyz, 10)[0][:, -1] < 2.5 * voxel_size


@lru_cache(None)
def font(size: int, bold: bool = False) -> Any:
    """A scalable font; matplotlib carries one."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def pin(image: Any, at: tuple[float, float], size: int) -> None:
    """Mark a found place with a ring, so that what glows there stays visible."""
    from PIL import ImageDraw

    draw, (x, y) = ImageDraw.Draw(image), at
    for radius, width, color in ((size + 2, 8, (255, 255, 255)), (size, 4, (20, 110, 190))):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)


def caption(image: Any, title: str, text: str = "", size: int = 30) -> Any:
    """The picture with a line of text above it."""
    from PIL import Image, ImageDraw

    bar = round(1.9 * size)
    result = Image.new("RGB", (image.width, image.height + bar), tuple(int(c) for c in PAPER))
    result.paste(image, (0, bar))
    draw = ImageDraw.Draw(result)
    draw.text((size // 2, bar // 2), title, INK, font(size, bold=True), anchor="lm")
    if text:
        left = size + draw.textlength(title, font(size, bold=True))
        draw.text((left, bar // 2), text, (110, 112, 116), font(round(size * 0.8)), anchor="lm")
    return result


def sheet(main: Any, tiles: Sequence[Any], width: int = 1600, columns: int = 2) -> Any:
    """One picture: ``main`` on the left and the tiles beside it, in a grid of its height."""
    from PIL import Image

    rows = -(-len(tiles) // columns)
    shape = max((tile.width / tile.height for tile in tiles), default=0.0)
    left = round(width / (1 + main.height / main.width * columns * shape / max(rows, 1)))
    height = round(main.height * left / main.width)
    cell = (width - left) // columns, height // max(rows, 1)
    result = Image.new("RGB", (width, height), tuple(int(c) for c in PAPER))
    result.paste(main.resize((left, height), Image.Resampling.LANCZOS), (0, 0))
    for i, tile in enumerate(tiles):
        small = tile.copy()
        small.thumbnail((cell[0] - 8, cell[1] - 8), Image.Resampling.LANCZOS)
        x, y = left + i % columns * cell[0], i // columns * cell[1]
        result.paste(small, (x + (cell[0] - small.width) // 2, y + (cell[1] - small.height) // 2))
    return result
