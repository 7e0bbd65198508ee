# SPDX-License-Identifier: Apache-2.0
"""What a picture of a map shows, and what is written beside it.

A wall is drawn only from the side that the camera saw, so that one looks into rooms as into a
doll's house; what is above the head of the robot (the ceiling) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eval3d.report.voxel_view import PAPER, VoxelScene

from ..answers.groups import connected_groups

INK = (40, 42, 46)
BRIGHTNESS = 1.08  # sensors under-expose white walls
NEIGHBOURS = 48  # voxels that a surface normal is made of
MIN_HITS = 3  # points in a voxel that is drawn; fewer is mostly noise of far depth
SMALLEST_PIECE = 0.004  # share of the voxels that a separate piece must have to be drawn
HEADROOM = 0.45  # m above the highest camera that are still drawn


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
    xyz: np.ndarray, hits: np.ndarray, poses: np.ndarray, voxel_size: float
) -> tuple[VoxelScene, np.ndarray]:
    """Voxels and camera poses (N, 4, 4) -> what is drawn, and which rows of ``xyz`` those are."""
    from scipy.spatial import cKDTree

    rotation = upright(poses[:, :3, :3])
    cameras = poses[:, :3, 3] @ rotation.T
    points = xyz.astype(np.float64) @ rotation.T
    rows = np.flatnonzero((points[:, 2] <= cameras[:, 2].max() + HEADROOM) & (hits >= MIN_HITS))
    index = np.rint(xyz[rows] / voxel_size).astype(np.int64)
    group = connected_groups(index, voxel_size, 2.1 * voxel_size)
    rows = rows[np.bincount(group)[group] >= SMALLEST_PIECE * len(rows)]
    points = points[rows]
    neighbours = points[cKDTree(points).query(points, min(NEIGHBOURS, len(points)))[1]]
    offsets = neighbours - neighbours.mean(1, keepdims=True)
    normals = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets))[1][:, :, 0]
    seen_from = cameras[cKDTree(cameras).query(points)[1]] - points
    normals *= np.sign((normals * seen_from).sum(1, keepdims=True) + 1e-12)
    return VoxelScene(points, voxel_size, rotation, normals), rows


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
    result = Image.new("RGB", (image.width, image.height + bar), PAPER)
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
    result = Image.new("RGB", (width, height), PAPER)
    result.paste(main.resize((left, height), Image.Resampling.LANCZOS), (0, 0))
    for i, tile in enumerate(tiles):
        small = tile.copy()
        small.thumbnail((cell[0] - 8, cell[1] - 8), Image.Resampling.LANCZOS)
        x, y = left + i % columns * cell[0], i // columns * cell[1]
        result.paste(small, (x + (cell[0] - small.width) // 2, y + (cell[1] - small.height) // 2))
    return result
