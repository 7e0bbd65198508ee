# SPDX-License-Identifier: Apache-2.0
"""What a picture of a map shows, and what is written beside it.

A wall is drawn only from the side that the camera saw, so that one looks into rooms as into a
doll's house; what is above the head of the robot (the ceiling) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval3d.report.voxel_view import PAPER, View, VoxelScene

from ..answers.cloud import heat
from ..answers.groups import connected_groups
from .cells import Cells
from .upright import rotation_to

if TYPE_CHECKING:
    from .source import MapSource

INK = (40, 42, 46)
BRIGHTNESS = 1.08  # sensors under-expose white walls
NEIGHBOURS = 48  # voxels that a surface normal is made of
MIN_HITS = 3  # points in a voxel that is drawn; fewer is mostly noise of far depth
AZIMUTHS = (-45, 45, 135, 225)  # degrees, from which a map is looked at
ELEVATION = 38
RING = 18  # px
SMALLEST_PIECE = 0.004  # share of the voxels that a separate piece must have to be drawn
HEADROOM = 0.45  # m above the highest camera that are still drawn


def make_scene(
    xyz: np.ndarray, hits: np.ndarray, cameras: np.ndarray, rotation: np.ndarray, voxel_size: float
) -> tuple[VoxelScene, np.ndarray]:
    """Voxels and camera positions -> what is drawn, and which rows of ``xyz`` those are.

    Args:
        cameras: (N, 3) m, positions; none = the camera could be anywhere.
        rotation: world -> z up, (3, 3).
    """
    from scipy.spatial import cKDTree

    cameras = cameras.reshape(-1, 3) @ rotation.T
    points = xyz.astype(np.float64) @ rotation.T
    ceiling = cameras[:, 2].max(initial=-np.inf) + HEADROOM if len(cameras) else np.inf
    rows = np.flatnonzero((points[:, 2] <= ceiling) & (hits >= MIN_HITS))
    index = np.rint(xyz[rows] / voxel_size).astype(np.int64)
    group = connected_groups(index, voxel_size, 2.1 * voxel_size)
    rows = rows[np.bincount(group)[group] >= SMALLEST_PIECE * len(rows)]
    points = points[rows]
    if not len(cameras):
        return VoxelScene(points, voxel_size, rotation), rows
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


def painted(view: View, colors: np.ndarray) -> Any:
    """(M, 3) colours of the scene's voxels as a picture."""
    return view.paint(colors, BRIGHTNESS)


def visible(view: View, chosen: np.ndarray) -> float:
    """The share of the picture in which one sees voxels that are among ``chosen`` (M,) bool."""
    seen = view.owner[view.owner >= 0]
    return float(np.count_nonzero(chosen[seen])) / view.owner.size


def draw_answers(source: MapSource, labels: Sequence[str], threshold: float) -> Any:
    """One picture of a map and of where it finds what it is asked for.

    Raises:
        RadsegRosError: the texts cannot be asked for.
    """
    cloud, camera, size = source.voxels(), source.camera(), source.voxel_size
    rotation = rotation_to(camera.up)
    scene, rows = make_scene(cloud.xyz, cloud.hits, camera.positions, rotation, size)
    views = [View(scene, azimuth, ELEVATION) for azimuth in AZIMUTHS]
    every = Cells(cloud, size)
    tiles, glowing = [], np.zeros(len(views))
    for label in labels:
        reply = source.ask([label], threshold)
        answer, score = reply.answers[0], every.best(reply.cloud)[0][every.of][rows]
        shares = [visible(view, score >= threshold) for view in views]
        glowing += shares
        view = views[int(np.argmax(shares))]
        image = painted(view, heat(cloud.rgb[rows], score, threshold))
        for thing in answer["objects"]:
            pin(image, view.pixel(thing["centre"]), RING)
        count = len(answer["objects"])
        found = f"{count} found, best {answer['best_score']:.2f}" if count else "not found"
        tiles.append(caption(image, f"“{label}”", found, size=44))
    front = painted(views[int(np.argmax(glowing))], cloud.rgb[rows])
    return sheet(front, tiles, columns=1 + (len(tiles) > 3))
