# SPDX-License-Identifier: Apache-2.0
"""Pictures of a recording that was asked: where each name was found, and how all names score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.answers.cloud import heat
from radseg_ros.answers.groups import connected_groups
from radseg_ros.reading import read_arrays

from ..report.figures import new_figure, save_figure
from ..report.pictures import DollsHouse
from .recording import VOXELS

TILE = 440  # px
SMALLEST_PIECE = 0.004  # share of the voxels that a separate piece must have to be drawn
COLUMNS = 4
TRUE, HIT, MISS, FREE = "#1f6fb5", "#12a150", "#d93025", "#8a5a00"
MARKS = {"yes": (HIT, "o"), "no": (MISS, "X"), "unknown": (FREE, "D")}
MEANING = {"yes": "at its place", "no": "not there", "unknown": "found, place not known"}
EDGES = [(a, b) for a in range(8) for b in range(a) if (a ^ b) in (1, 2, 4)]  # of a box


def draw_answers(folder: Path, answers: dict[str, Any], up: str = "z") -> list[Path]:
    """Draw the answers in ``folder`` -> its ``pictures/*.png``: ``present`` and ``false_finds``
    (where there are any), ``scores``.

    Args:
        answers: as :func:`eval3d.asking.recording.read_answers` gives them.
        up: world axis that points up.
    """
    data = read_arrays(folder / VOXELS)
    size = float(data["voxel_size"])
    rows = _large_pieces(data["xyz"], size)
    names = json.loads(str(data["names"]))
    scores = dict(zip(names, data["scores"][:, rows], strict=True))
    house = DollsHouse(data["xyz"][rows], size, up, TILE)
    drawn = [row for row in answers["labels"] if row["name"] in scores and _is_anywhere(row)]
    kinds = {
        "present": [row for row in drawn if row["kind"] == "present"],
        "false_finds": [row for row in drawn if row["kind"] == "absent"],
    }
    figures = {
        name: _tiles(some, house, data["rgb"][rows], scores, answers["threshold"])
        for name, some in kinds.items()
        if some
    }
    figures["scores"] = _bars(answers)
    target = folder / "pictures"
    target.mkdir(exist_ok=True)
    for old in target.glob("*.png"):  # of an earlier question
        old.unlink()
    return [save_figure(figure, target / f"{name}.png") for name, figure in figures.items()]


def _is_anywhere(row: dict[str, Any]) -> bool:
    """Whether there is a place to show: where it was found, or where it is."""
    return bool(row["objects"] or row["places"])


def _large_pieces(xyz: np.ndarray, size: float) -> np.ndarray:
    """Rows of the voxels that are no specks; all of them where there is nothing else."""
    group = connected_groups(np.rint(xyz / size).astype(np.int64), size, 2.1 * size)
    large = np.bincount(group)[group] >= SMALLEST_PIECE * len(xyz)
    return np.flatnonzero(large | ~large.any())


def _tiles(
    rows: Sequence[dict[str, Any]],
    house: DollsHouse,
    rgb: np.ndarray,
    scores: dict[str, np.ndarray],
    threshold: float,
) -> Any:
    """One small picture of the whole map for each name."""
    from matplotlib.lines import Line2D

    height = -(-len(rows) // COLUMNS)
    figure = new_figure(4.0 * COLUMNS, 4.0 * height + 0.5)
    axes = figure.subplots(height, COLUMNS, squeeze=False).ravel()
    for axis, row in zip(axes, rows, strict=False):
        glow = heat(rgb, scores[row["name"]] / 255, threshold) / 255
        axis.imshow(house.paint(glow.clip(0, 1)), interpolation="none")
        for place in row["places"]:
            _outline(axis, house, np.array(place["lowest"]), np.array(place["highest"]))
        for i, thing in reversed([*enumerate(row["objects"])]):  # the best one on top
            color, mark = MARKS[thing["at_place"]]
            x, y = house.pixels(np.array([thing["centre"]]))[0]
            size = 13 if i == 0 else 7
            axis.plot(x, y, mark, ms=size, mfc="none", mec="white", mew=4)
            axis.plot(x, y, mark, ms=size, mfc="none", mec=color, mew=2)
        axis.set_title(title_of(row), fontsize=11)
    for axis in axes:
        axis.axis("off")
    used = {thing["at_place"] for row in rows for thing in row["objects"]}
    marks = [
        Line2D([], [], color=color, marker=mark, mfc="none", ls="", mew=2, label=MEANING[known])
        for known, (color, mark) in MARKS.items()
        if known in used
    ]
    if any(row["places"] for row in rows):
        marks.append(Line2D([], [], color=TRUE, lw=1.5, label="where it is"))
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False, fontsize=12)
    return figure


def title_of(row: dict[str, Any]) -> str:
    """What was found of a name, in a few words."""
    count = len(row["objects"])
    if not count:
        return f"{row['name']}: not found ({row['best_score']:.2f})"
    off = "" if row["error"] is None else f", {row['error']:.2f} m off"
    return f"{row['name']}: {count} found ({row['objects'][0]['score']:.2f}{off})"


def _outline(axis: Any, house: DollsHouse, lowest: np.ndarray, highest: np.ndarray) -> None:
    corners = np.array(
        [[(lowest, highest)[i >> a & 1][a] for a in range(3)] for i in range(8)], np.float64
    )
    x, y = house.pixels(corners).T
    for a, b in EDGES:
        axis.plot([x[a], x[b]], [y[a], y[b]], color=TRUE, lw=1.2)
    if (lowest == highest).all():
        axis.plot(x[0], y[0], "+", color=TRUE, ms=12, mew=2)


def _bars(answers: dict[str, Any]) -> Any:
    """The best score of every name, the highest first, and the threshold."""
    rows = sorted(answers["labels"], key=lambda row: -row["best_score"])
    names = [row["name"] for row in rows]
    figure = new_figure(8, 1.3 + 0.19 * max(len(rows), 5))
    axis = figure.subplots()
    for kind, color in (("present", TRUE), ("absent", "#b8b8b8")):
        places = [i for i, row in enumerate(rows) if row["kind"] == kind]
        values = [rows[i]["best_score"] for i in places]
        axis.barh(places, values, color=color, label=f"{'not ' * (kind == 'absent')}there")
    axis.axvline(answers["threshold"], color="black", ls=":", label="query.threshold")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="best score")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", frameon=False)
    return figure
