# SPDX-License-Identifier: Apache-2.0
"""Generates the recording "gallery": a furnished room with photographs, and a robot with an RGB-D
camera that drives in it.

The photographs are those that the wheels of scikit-image and scikit-learn carry. The recording has
the layout of :class:`radseg_ros.frames.folder.FolderRecording`, and ``truth.json`` says where the
things are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import photograph
from .raycast import Box, Cylinder, Solid, render

SIZE = (480, 640)  # px
K = np.array([[525.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])
ROOM = (7.0, 6.0, 2.7)  # m
FRAMES = 72
CAMERA_HEIGHT = 1.25  # m
VERSION = 5  # of the scene; a recording of another version is made again

WOOD, DARK_WOOD, WHITE, SOFT = (
    (0.62, 0.44, 0.28),
    (0.36, 0.24, 0.16),
    (0.93, 0.92, 0.9),
    (0.33, 0.42, 0.5),
)


@dataclass(frozen=True)
class Exhibit:
    """A photograph in the room: on a canvas, or on the side of a box when ``thickness`` is that of
    a box.
    """

    file: str  # package/path
    query: str  # what it is asked for as; empty = it is not asked for
    side: str  # of the room that it is at: +x, -x, +y or -y
    centre: tuple[float, float, float]  # m
    width: float  # m
    thickness: float = 0.04  # m


# Chosen because an ImageNet classifier knows them, and not altered. It does not know the dahlia,
# which is there for the eye.
EXHIBITS = (
    Exhibit("skimage/data/chelsea.png", "cat", "+y", (-1.75, 2.98, 1.42), 1.7),
    Exhibit("skimage/data/motorcycle_left.png", "moped", "+y", (1.75, 2.98, 1.48), 1.7),
    Exhibit("skimage/data/rocket.jpg", "rocket", "+x", (3.48, 0.1, 1.35), 1.8),
    Exhibit("skimage/data/coffee.png", "cup of coffee", "-y", (1.7, -2.98, 1.4), 1.7),
    Exhibit("sklearn/datasets/images/flower.jpg", "", "-y", (-1.6, -2.6, 0.75), 1.8, 0.5),
    Exhibit("skimage/data/camera.png", "tripod", "-x", (-3.48, 0.3, 1.4), 1.3),
)
ABSENT = "elephant"
QUERIES = (*(exhibit.query for exhibit in EXHIBITS if exhibit.query), ABSENT)


def canvas(exhibit: Exhibit) -> Box:
    """The exhibit, its picture turned into the room."""
    picture = photograph(exhibit.file)
    height = exhibit.width * picture.shape[0] / picture.shape[1]
    inward = {"+": "-", "-": "+"}[exhibit.side[0]] + exhibit.side[1]
    flat = (
        (exhibit.thickness, exhibit.width)
        if exhibit.side[1] == "x"
        else (exhibit.width, exhibit.thickness)
    )
    return Box(exhibit.centre, (*flat, height), (0.72, 0.58, 0.4), {inward: picture})


def furniture() -> list[Solid]:
    """Everything that is not an exhibit."""
    solids: list[Solid] = [
        Box((0, 0, ROOM[2] / 2), ROOM, WHITE),
        Box((0, 0, -0.01), (ROOM[0], ROOM[1], 0.022), (0.8, 0.62, 0.44), planks=True),
        Box((0, 0, 0.012), (2.6, 2.0, 0.012), (0.55, 0.22, 0.2)),
        Box((0, 0, 0.0135), (2.3, 1.7, 0.012), (0.72, 0.6, 0.45)),
    ]
    for x, y, w, d in (
        (0, 2.985, 7, 0.03),
        (0, -2.985, 7, 0.03),
        (3.485, 0, 0.03, 6),
        (-3.485, 0, 0.03, 6),
    ):
        solids.append(Box((x, y, 0.06), (w, d, 0.12), (0.75, 0.74, 0.72)))  # skirting
    solids += sofa((-1.75, 2.45)) + sideboard((1.75, 2.72)) + bench((1.7, -2.6)) + table((0.0, 0.0))
    solids += (
        plant((-3.1, 2.6))
        + plant((3.1, -2.6))
        + lamp((3.1, 2.6))
        + lamp((-3.1, -2.6))
        + crates((-3.15, -1.2))
    )
    return solids


def sofa(at: tuple[float, float]) -> list[Solid]:
    """Two seats, its back to +y."""
    x, y = at
    parts: list[Solid] = [
        Box((x, y, 0.2), (1.9, 0.85, 0.28), SOFT),
        Box((x, y + 0.34, 0.5), (1.9, 0.18, 0.5), SOFT),
    ]
    parts += [
        Box((x + side * 0.88, y, 0.38), (0.16, 0.85, 0.5), (0.29, 0.37, 0.45)) for side in (-1, 1)
    ]
    parts += [
        Box((x + side * 0.4, y - 0.06, 0.41), (0.76, 0.66, 0.15), (0.4, 0.5, 0.58))
        for side in (-1, 1)
    ]
    return [*parts, Box((x - 0.55, y + 0.16, 0.6), (0.42, 0.14, 0.3), (0.85, 0.62, 0.25))]


def sideboard(at: tuple[float, float]) -> list[Solid]:
    """Drawers with handles, and books on top."""
    x, y = at
    parts: list[Solid] = [Box((x, y, 0.36), (1.7, 0.45, 0.6), WOOD)]
    for i in (-1, 0, 1):
        parts.append(Box((x + i * 0.55, y - 0.23, 0.36), (0.5, 0.02, 0.5), (0.7, 0.51, 0.34)))
        parts.append(Box((x + i * 0.55, y - 0.25, 0.5), (0.14, 0.02, 0.02), (0.2, 0.2, 0.2)))
    shades = ((0.7, 0.2, 0.2), (0.2, 0.4, 0.6), (0.85, 0.7, 0.3), (0.25, 0.5, 0.35))
    parts += [
        Box((x - 0.7 + 0.07 * i, y, 0.74), (0.05, 0.17, 0.16 + 0.02 * (i % 3)), shades[i % 4])
        for i in range(6)
    ]
    return parts


def bench(at: tuple[float, float]) -> list[Solid]:
    """A seat on two blocks."""
    x, y = at
    legs = [Box((x + side * 0.6, y, 0.2), (0.08, 0.4, 0.39), DARK_WOOD) for side in (-1, 1)]
    return [Box((x, y, 0.42), (1.6, 0.42, 0.06), WOOD), *legs]


def table(at: tuple[float, float]) -> list[Solid]:
    """A low table with a bowl."""
    x, y = at
    legs = [
        Box((x + a * 0.4, y + b * 0.25, 0.19), (0.06, 0.06, 0.36), DARK_WOOD)
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    return [
        Box((x, y, 0.39), (0.95, 0.6, 0.05), WOOD),
        *legs,
        Cylinder((x + 0.1, y, 0.46), 0.09, 0.09, (0.2, 0.5, 0.55), 0.16),
    ]


def plant(at: tuple[float, float]) -> list[Solid]:
    """A pot, a stem, and a crown of leaves."""
    x, y = at
    rng = np.random.default_rng(abs(round(x * 100)))
    parts: list[Solid] = [Cylinder((x, y, 0.18), 0.15, 0.36, (0.75, 0.38, 0.25), 0.2)]
    parts.append(Cylinder((x, y, 0.6), 0.025, 0.6, DARK_WOOD))
    for _ in range(34):
        offset = rng.normal(0, (0.13, 0.13, 0.2))
        green = (0.14 + 0.1 * rng.random(), 0.4 + 0.2 * rng.random(), 0.16)
        leaf = tuple(np.add((x, y, 1.0), offset.clip(-0.3, 0.4)))
        parts.append(Box(leaf, tuple(rng.uniform(0.05, 0.17, 3)), green))
    return parts


def lamp(at: tuple[float, float]) -> list[Solid]:
    """A standing lamp."""
    x, y = at
    pole = [
        Cylinder((x, y, 0.02), 0.15, 0.04, (0.2, 0.2, 0.2)),
        Cylinder((x, y, 0.75), 0.02, 1.5, (0.25, 0.25, 0.25)),
    ]
    return [*pole, Cylinder((x, y, 1.6), 0.22, 0.32, (1.0, 0.9, 0.66), 0.15)]


def crates(at: tuple[float, float]) -> list[Solid]:
    """Three crates, one on another."""
    x, y = at
    places = ((x - 0.35, y, 0.2), (x + 0.12, y + 0.02, 0.2), (x - 0.15, y, 0.6))
    return [
        Box(place, (0.42, 0.4, 0.4), (0.72 - 0.06 * i, 0.56 - 0.05 * i, 0.36))
        for i, place in enumerate(places)
    ]


def trajectory(frames: int = FRAMES) -> list[np.ndarray]:
    """Two rounds, (4, 4) each: near the centre with the camera turned outwards, then along the
    walls, turned inwards.
    """
    outwards = round(frames * 0.6)
    poses = []
    for i in range(frames):
        second = i >= outwards
        angle = 2 * np.pi * ((i - outwards) / (frames - outwards) if second else i / outwards)
        reach = (2.3, 1.8) if second else (0.9, 0.5)
        position = (
            reach[0] * np.cos(angle),
            reach[1] * np.sin(angle),
            CAMERA_HEIGHT + 0.03 * np.sin(5 * angle),
        )
        heading = angle + (np.pi if second else 0.12 * np.sin(3 * angle))
        poses.append(look(position, heading, tilt=-0.3 if second else -0.15))
    return poses


def look(position: tuple[float, float, float], heading: float, tilt: float) -> np.ndarray:
    """(4, 4) camera -> world, optical axes; heading and tilt in radians, z up."""
    forward = np.array(
        [np.cos(heading) * np.cos(tilt), np.sin(heading) * np.cos(tilt), np.sin(tilt)]
    )
    right = np.array([np.sin(heading), -np.cos(heading), 0.0])
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    T[:3, 3] = position
    return T


def sense(depth: np.ndarray, facing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a structured-light camera makes of a true depth image, (H, W) float m -> uint16 mm, 0 =
    no return.

    Noise that grows with the square of the distance (Nguyen et al. 2012), and no return beyond 4.2
    m, at grazing angles, in the shadow beside an edge, and here and there.
    """
    noisy = depth + rng.normal(0, 1, depth.shape) * (
        0.0012 + 0.0019 * np.square(np.maximum(depth - 0.4, 0))
    )
    jump = np.abs(np.diff(depth, axis=1, prepend=depth[:, :1])) > 0.05 * depth
    shadow = jump | np.roll(jump, 1, 1) | np.roll(jump, 2, 1)
    lost = (
        shadow | (facing < rng.uniform(0.05, 0.2, depth.shape)) | (rng.random(depth.shape) < 0.004)
    )
    lost |= (depth < 0.4) | (depth > 4.2)
    return np.where(lost, 0, np.round(1000 * noisy)).astype(np.uint16)


def drift(T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pose as odometry tells it: off by about 3 mm and 0.1 degrees."""
    from scipy.spatial.transform import Rotation

    off = np.eye(4)
    off[:3, :3] = Rotation.from_rotvec(rng.normal(0, np.radians(0.1), 3)).as_matrix()
    off[:3, 3] = rng.normal(0, 0.003, 3)
    return T @ off


def generate(
    folder: Path, frames: int = FRAMES, progress: Callable[[Sequence[Any]], Any] = iter
) -> dict[str, Any]:
    """Write the recording and return its truth.

    Args:
        folder: is created; ``truth.json`` is written last, so its presence says that the recording
            is complete.
        frames: at least one round through the room is driven with so many images.
        progress: wraps the frames, e.g. ``tqdm``.
    """
    from PIL import Image

    solids = furniture() + [canvas(exhibit) for exhibit in EXHIBITS]
    rng = np.random.default_rng(0)
    for part in ("color", "depth", "pose"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "truth.json").unlink(missing_ok=True)
    np.savetxt(folder / "intrinsics.txt", K)
    for i, T in enumerate(progress(trajectory(frames))):
        rgb, depth, facing = render(solids, K, T, SIZE)
        grain = rng.normal(0, 2.5, rgb.shape)
        Image.fromarray((rgb + grain).clip(0, 255).astype(np.uint8)).save(
            folder / "color" / f"{i:06d}.jpg", quality=92
        )
        Image.fromarray(sense(depth, facing, rng)).save(
            folder / "depth" / f"{i:06d}.png", compress_level=1
        )
        np.savetxt(folder / "pose" / f"{i:06d}.txt", drift(T, rng))
    truth = describe(frames)
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    return truth


def describe(frames: int) -> dict[str, Any]:
    """What ``truth.json`` says: the centres of the exhibits by query, and what is not there."""
    objects = {exhibit.query: list(exhibit.centre) for exhibit in EXHIBITS if exhibit.query}
    return {
        "version": VERSION,
        "frames": frames,
        "up": [0, 0, 1],
        "objects": objects,
        "absent": [ABSENT],
    }


def is_complete(folder: Path, frames: int = FRAMES) -> bool:
    """Whether ``folder`` holds this very recording."""
    try:
        return json.loads((folder / "truth.json").read_text()) == describe(frames)
    except (OSError, ValueError):
        return False
