# SPDX-License-Identifier: Apache-2.0
"""Which pictures and files the demo writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval3d.report.voxel_view import View

from ..answers.cloud import heat
from ..files import write_whole
from ..voxels.index import pack
from . import pictures

AZIMUTHS = (-45, 45, 135, 225)
ELEVATION = 38
THRESHOLD = 0.5
RING = 18  # px


def draw(folder: Path, view: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Write the pictures of a map.

    Args:
        view: "points" (structured array of the true colours), "heats" (text -> structured array
            with scores), "poses".
        rows: as :func:`radseg_ros.demo.run.compare` gives them.

    Returns:
        Names of the files.
    """
    points = view["points"]
    xyz = np.stack([points["x"], points["y"], points["z"]], 1)
    rgb = np.stack([points["rgb"] >> shift & 255 for shift in (16, 8, 0)], 1).astype(np.uint8)
    write_ply(folder / "map.ply", xyz, rgb, view["heats"])
    voxel_size = spacing(xyz)
    scene, kept = pictures.make_scene(xyz, points["hits"], np.stack(view["poses"]), voxel_size)
    rgb = rgb[kept]
    scores = {text: aligned(xyz[kept], heat, voxel_size) for text, heat in view["heats"].items()}
    views = {azimuth: View(scene, azimuth, ELEVATION) for azimuth in AZIMUTHS}
    above = View(scene, -90, 90)
    front = max(
        AZIMUTHS,
        key=lambda azimuth: sum(_visible(views[azimuth], score) for score in scores.values()),
    )
    images = {"map_above": _painted(above, rgb), "map_angle": _painted(views[front], rgb)}
    tiles = []
    for row in rows:
        text, score = row["label"], scores[row["label"]]
        best = (
            max((front, *AZIMUTHS), key=lambda azimuth: _visible(views[azimuth], score))
            if row["found"]
            else front
        )
        colors = heat(rgb, score, THRESHOLD)
        for place, eye in (("above", above), ("angle", views[best])):
            image = _painted(eye, colors)
            if row["found"]:
                pictures.pin(image, eye.pixel(row["found"]), RING)
            images[f"query_{_file_name(text)}_{place}"] = pictures.caption(
                image, f"“{text}”", _verdict(row)
            )
            if place == "angle":
                tiles.append(pictures.caption(image, f"“{text}”", _verdict(row), size=52))
    images["overview"] = pictures.sheet(images["map_angle"], tiles[:6], columns=2)
    for name, image in images.items():
        image.save(folder / f"{name}.png", optimize=True)
    return [f"{name}.png" for name in images]


def write_ply(path: Path, xyz: np.ndarray, rgb: np.ndarray, heats: dict[str, np.ndarray]) -> None:
    """(M, 3) m, (M, 3) uint8 and a score per query and voxel as a binary PLY."""
    names = [f"score_{_file_name(text)}" for text in heats]
    kinds = (
        [(n, "<f4") for n in "xyz"]
        + [(n, "u1") for n in ("red", "green", "blue")]
        + [(n, "<f4") for n in names]
    )
    table = np.empty(len(xyz), kinds)
    table["x"], table["y"], table["z"] = xyz.T
    table["red"], table["green"], table["blue"] = rgb.T
    for name, scores in zip(names, heats.values(), strict=True):
        table[name] = aligned(xyz, scores, spacing(xyz))
    words = {"<f4": "float", "u1": "uchar"}
    properties = [f"property {words[kind]} {name}" for name, kind in kinds]
    head = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(xyz)}",
        *properties,
        "end_header",
        "",
    ]
    write_whole(path, "\n".join(head).encode() + table.tobytes())


def _painted(view: View, colors: np.ndarray) -> Any:
    return view.paint(colors, pictures.BRIGHTNESS)


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)


def _verdict(row: dict[str, Any]) -> str:
    if not row["found"]:
        return "not found"
    return f"score {row['score']:.2f}" + (
        f", {100 * row['error_m']:.0f} cm off" if row["error_m"] is not None else ""
    )


def _visible(view: View, score: np.ndarray) -> float:
    """How much of what answers can be seen."""
    seen = view.owner[view.owner >= 0]
    return float(np.count_nonzero(score[seen] >= THRESHOLD)) / view.owner.size


def spacing(xyz: np.ndarray) -> float:
    """The voxel size of (M, 3) voxel centres, to a micrometre."""
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in xyz.astype(np.float64).T])
    return round(float(steps[steps > 1e-4].min(initial=1.0)), 6)


def aligned(xyz: np.ndarray, heat: np.ndarray, voxel_size: float) -> np.ndarray:
    """(M,) scores at ``xyz`` from a cloud of the same voxels in any order; 0 where it has none."""

    def key(position: np.ndarray) -> np.ndarray:
        index = np.rint(position.astype(np.float64) / voxel_size)
        return pack(torch.from_numpy(index).T).numpy()

    if not len(heat):
        return np.zeros(len(xyz))
    ours, theirs = key(xyz), key(np.stack([heat["x"], heat["y"], heat["z"]], 1))
    order = np.argsort(theirs)
    rows = order[np.searchsorted(theirs, ours, sorter=order).clip(max=len(theirs) - 1)]
    return np.where(theirs[rows] == ours, heat["score"][rows], 0.0)
