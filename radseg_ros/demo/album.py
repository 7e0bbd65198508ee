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
from ..view import pictures
from ..view.cells import spacing
from ..view.upright import upright
from ..voxels.index import pack

THRESHOLD = 0.5


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
    poses = np.stack(view["poses"])
    cameras, rotation = poses[:, :3, 3], upright(poses[:, :3, :3])
    scene, kept = pictures.make_scene(xyz, points["hits"], cameras, rotation, voxel_size)
    rgb = rgb[kept]
    scores = {text: aligned(xyz[kept], heat, voxel_size) for text, heat in view["heats"].items()}
    views = {azimuth: View(scene, azimuth, pictures.ELEVATION) for azimuth in pictures.AZIMUTHS}
    above = View(scene, -90, 90)
    front = max(
        pictures.AZIMUTHS,
        key=lambda azimuth: sum(
            pictures.visible(views[azimuth], score >= THRESHOLD) for score in scores.values()
        ),
    )
    images = {
        "map_above": pictures.with_key(pictures.painted(above, rgb), above),
        "map_angle": pictures.with_key(pictures.painted(views[front], rgb), views[front]),
    }
    tiles = []
    for row in rows:
        text, score = row["label"], scores[row["label"]]
        best = (
            max(
                (front, *pictures.AZIMUTHS),
                key=lambda azimuth: pictures.visible(views[azimuth], score >= THRESHOLD),
            )
            if row["found"]
            else front
        )
        colors = heat(rgb, score, THRESHOLD)
        for place, eye in (("above", above), ("angle", views[best])):
            image = pictures.painted(eye, colors)
            if row["found"]:
                pictures.pin(image, eye.pixel(row["found"]), pictures.RING)
            images[f"query_{_file_name(text)}_{place}"] = pictures.caption(
                pictures.with_key(image, eye, THRESHOLD), f"“{text}”", _verdict(row)
            )
            if place == "angle":
                tiles.append(pictures.caption(image, f"“{text}”", _verdict(row), size=52))
    main = pictures.with_key(pictures.painted(views[front], rgb), views[front], THRESHOLD)
    images["overview"] = pictures.sheet(main, tiles[:6], columns=2)
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


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)


def _verdict(row: dict[str, Any]) -> str:
    if not row["found"]:
        return "not found"
    return f"score {row['score']:.2f}" + (
        f", {100 * row['error_m']:.0f} cm off" if row["error_m"] is not None else ""
    )


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
