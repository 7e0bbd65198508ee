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

from eval3d.report.voxel_view import OVERSAMPLING, PAPER, View, VoxelScene

from ..answers.cloud import heat
from ..answers.groups import connected_groups
from .cells import Cells
from .upright import rotation_to

if TYPE_CHECKING:
    from .source import MapSource

INK = (40, 42, 46)
AXES = {"x": (200, 40, 40), "y": (30, 140, 60), "z": (40, 90, 200)}  # as RViz colours them
LENGTHS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # m, of the bar that tells the scale
KEY, KEY_WIDTH = 96, 760  # px, height of what is written below a picture, and its least width
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


def pin(image: Any, at: tuple[float, float], size: int, name: str = "") -> None:
    """Mark a found place with a ring, so that what glows there stays visible."""
    from PIL import ImageDraw

    draw, (x, y) = ImageDraw.Draw(image), at
    for radius, width, color in ((size + 2, 8, (255, 255, 255)), (size, 4, (20, 110, 190))):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)
    if name:
        text = font(2 * size, bold=True)
        draw.text(
            (x + 1.5 * size, y), name, (20, 110, 190), text,
            anchor="lm", stroke_width=4, stroke_fill=(255, 255, 255),
        )  # fmt: skip


def with_key(image: Any, view: View, threshold: float | None = None) -> Any:
    """The picture, and below it the axes of the world, a length, and what a glow means.

    Args:
        image: as ``view`` painted it; in parallel projection a length across it is the same
            everywhere.
        threshold: of the scores that glow in it; None = true colours only.
    """
    from PIL import Image, ImageDraw

    width = max(image.width, KEY_WIDTH)
    result = Image.new("RGB", (width, image.height + KEY), PAPER)
    result.paste(image, ((width - image.width) // 2, 0))
    draw, middle = ImageDraw.Draw(result), image.height + KEY // 2
    _axes(draw, (KEY // 2 + 10, middle), view)
    metre = view.scale / OVERSAMPLING  # px
    length = max((each for each in LENGTHS if each * metre <= width / 6), default=LENGTHS[0])
    left, right = KEY + 50, KEY + 50 + length * metre
    draw.line((left, middle, right, middle), INK, 4)
    for end in (left, right):
        draw.line((end, middle - 10, end, middle + 10), INK, 4)
    draw.text((right + 14, middle), f"{length:g} m", INK, font(26), anchor="lm")
    if threshold is not None:
        _glow(result, threshold)
    return result


def _axes(draw: Any, origin: tuple[int, int], view: View) -> None:
    """x, y and z of the world, as they lie in the picture; the one towards the eye is a dot."""
    reach = 0.3 * KEY  # px
    turned = view.scene.rotation.T  # rows: where each axis lies
    for axis in np.argsort(turned @ view.eye):  # the nearest last
        name, color = list(AXES.items())[axis]
        right, up = turned[axis] @ view.right, turned[axis] @ view.up
        x, y = origin[0] + reach * right, origin[1] - reach * up
        draw.line((*origin, x, y), color, 4)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), color)
        at = (x + 14 * right, y - 14 * up) if np.hypot(right, up) > 0.2 else (x + 14, y + 14)
        draw.text(at, name, color, font(22, bold=True), anchor="mm")


def _glow(image: Any, threshold: float) -> None:
    """What colours of scores mean, into the lower right corner."""
    from PIL import Image, ImageDraw

    width, height = 260, 20
    left, top = image.width - width - 40, image.height - KEY // 2 - height
    scores = np.linspace(0, 1, width)
    row = heat(np.full((width, 3), 150, np.uint8), scores, threshold).round().astype(np.uint8)
    image.paste(Image.fromarray(np.repeat(row[None], height, 0)), (left, top))
    draw = ImageDraw.Draw(image)
    for score in (0.0, threshold, 1.0):
        x = left + score * (width - 1)
        draw.line((x, top, x, top + height + 6), INK, 2)
        draw.text((x, top + height + 8), f"{score:g}", INK, font(20), anchor="mt")
    draw.text((left - 14, top + height // 2), "score", INK, font(26), anchor="rm")


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
            pin(image, view.pixel(thing["centre"]), RING, str(thing["id"]))
        scores = [thing["score"] for thing in answer["objects"]]
        found = f"{len(scores)} found, best {max(scores):.2f}" if scores else "not found"
        tiles.append(caption(image, f"“{label}”", found, size=44))
    view = views[int(np.argmax(glowing))]
    front = with_key(painted(view, cloud.rgb[rows]), view, threshold)
    return sheet(front, tiles, columns=1 + (len(tiles) > 3))
