# SPDX-License-Identifier: Apache-2.0
"""Pictures of one scene: colours, truth and prediction side by side with their legend; errors.

Bars; confusion.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .figures import new_figure, save_figure
from .palette import NONE, distinct_colors
from .results import LABELS

WRONG, RIGHT, MISSED = (0.86, 0.15, 0.15), (0.25, 0.65, 0.35), (0.95, 0.72, 0.2)
MOST_CLASSES = 30  # rows of the legend, bars and confusion; the rest is the tail of rare classes
UP = {"x": 0, "y": 1, "z": 2}


def view_from_above(
    xyz: np.ndarray, up: str = "z", azimuth: float = 35.0, elevation: float = 55.0
) -> tuple[np.ndarray, np.ndarray]:
    """Orthographic view of a scene like a doll's house.

    Args:
        xyz: (N, 3) metres.
        up: world axis that points up: x, y or z, with a minus where it points down.

    Returns:
        (N, 2) metres right and up in the picture, and (N,) nearness to the viewer.
    """
    axis = UP[up[-1]]
    x, y, z = (xyz[:, (axis + i) % 3] for i in (1, 2, 3))
    if up.startswith("-"):
        x, y, z = y, x, -z  # stays right-handed: no mirror image
    a, e = np.radians(azimuth), np.radians(elevation)
    right = np.cos(a) * x + np.sin(a) * y
    away = -np.sin(a) * x + np.cos(a) * y
    return np.stack([right, np.sin(e) * away + np.cos(e) * z], axis=1), np.sin(e) * z - np.cos(
        e
    ) * away


def without_lid(xyz: np.ndarray, up: str = "z", keep: float = 0.72) -> np.ndarray:
    """(N,) bool: what lies below the upper part of the rooms, so that one can look in."""
    axis = UP[up[-1]]
    z = -xyz[:, axis] if up.startswith("-") else xyz[:, axis]
    low, high = np.percentile(z, [1, 99])
    return z <= low + keep * (high - low)


def draw_voxels(
    xyz: np.ndarray, rgb: np.ndarray, voxel_size: float, up: str = "z", width: int = 900
) -> np.ndarray:
    """(N, 3) voxels with (N, 3) colours in [0, 1] -> (h, width, 3) uint8: squares, the nearest in
    front, shaded by height.
    """
    if len(xyz) == 0:
        return np.full((width // 2, width, 3), 255, np.uint8)
    shown = without_lid(xyz, up)
    xyz, rgb = xyz[shown], rgb[shown]
    plane, near = view_from_above(xyz, up)
    low, high = plane.min(axis=0), plane.max(axis=0)
    scale = (width - 8) / max(float((high - low)[0]), voxel_size)
    height = int(np.ceil((high - low)[1] * scale)) + 8
    column, row = ((plane - low) * scale + 4).astype(int).T
    row = height - 1 - row
    half = max(int(np.ceil(voxel_size * scale * 0.6)), 1)
    shade = 0.82 + 0.18 * (near - near.min()) / max(float(np.ptp(near)), 1e-9)
    order = np.argsort(near, kind="stable")[
        :, None
    ]  # painter's algorithm: of equal pixels the last write, the nearest, stays
    dy, dx = (offset.ravel() for offset in np.mgrid[-half : half + 1, -half : half + 1])
    painted = np.full((height, width), -1)
    painted[(row[order] + dy).clip(0, height - 1), (column[order] + dx).clip(0, width - 1)] = order
    colors = np.concatenate(
        [rgb * shade[:, None], np.ones((1, 3))]
    )  # the last one, -1, is the background
    return np.round(colors[painted] * 255).clip(0, 255).astype(np.uint8)


def class_colors(labels: np.ndarray, order: list[int]) -> np.ndarray:
    """(N,) labels -> (N, 3): the classes of ``order`` get the most distinct colours, none and the
    rest grey.
    """
    table = np.full((int(max(labels.max(initial=0), max(order, default=0))) + 1, 3), NONE)
    table[order] = distinct_colors(len(order))
    return table[labels]


def read_labels(folder: Path) -> dict[str, Any]:
    """The arrays that :func:`eval3d.report.results.write_scene` kept."""
    with np.load(folder / LABELS, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def draw_scene(folder: Path, up: str = "z") -> list[Path]:
    """Draw all pictures of a scene from its results -> ``<folder>/pictures/*.png``."""
    data = read_labels(folder)
    target = folder / "pictures"
    target.mkdir(exist_ok=True)
    drawings: dict[str, Callable[[dict[str, Any], str], Any]] = {
        "labels": draw_labels,
        "errors": draw_errors,
        "classes": draw_bars,
        "confusion": draw_confusion,
    }
    return [save_figure(draw(data, up), target / f"{name}.png") for name, draw in drawings.items()]


def _xyz(data: dict[str, Any]) -> np.ndarray:
    return data["gt_index"] * float(data["voxel_size"])


def _show(axis: Any, image: np.ndarray, title: str) -> None:
    axis.imshow(image, interpolation="none")
    axis.set_title(title, fontsize=13)
    axis.axis("off")


def draw_labels(data: dict[str, Any], up: str = "z") -> Any:
    """Colours, truth and prediction side by side, the classes below (like Fig.

    A.5 of the paper).
    """
    from matplotlib.patches import Patch

    truth, predicted = data["gt_label"].astype(int), data["predicted"].astype(int)
    count = np.bincount(truth, minlength=len(data["names"]) + 1) + np.bincount(
        predicted, minlength=len(data["names"]) + 1
    )
    order = [int(i) for i in np.argsort(-count, kind="stable") if i > 0 and count[i]][:MOST_CLASSES]
    xyz, size = _xyz(data), float(data["voxel_size"])
    known = truth != 0
    images = [
        (draw_voxels(data["map_xyz"], data["map_rgb"] / 255, size, up), "colours of the map"),
        (draw_voxels(xyz[known], class_colors(truth[known], order), size, up), "ground truth"),
        (draw_voxels(xyz[known], class_colors(predicted[known], order), size, up), "prediction"),
    ]
    legend_rows = -(-(len(order) + 1) // 6)
    aspect = max(image.shape[0] / image.shape[1] for image, _ in images)
    figure = new_figure(18, 6 * aspect + 0.6 + 0.3 * legend_rows)
    for axis, (image, title) in zip(figure.subplots(1, 3), images, strict=True):
        _show(axis, image, title)
    rest = " and rarer classes" if np.count_nonzero(count[1:]) > len(order) else ""
    patches = [
        Patch(color=c, label=data["names"][i - 1])
        for i, c in zip(order, distinct_colors(len(order)), strict=True)
    ]
    figure.legend(
        handles=[*patches, Patch(color=NONE, label=f"no prediction{rest}")],
        loc="outside lower center",
        ncols=6,
        fontsize=12,
        frameon=False,
    )
    return figure


def draw_errors(data: dict[str, Any], up: str = "z") -> Any:
    """Where the prediction is right, wrong, or missing."""
    from matplotlib.patches import Patch

    truth, predicted = data["gt_label"], data["predicted"]
    known = truth != 0
    colors = np.where(
        (truth == predicted)[:, None], RIGHT, np.where((predicted == 0)[:, None], MISSED, WRONG)
    )
    image = draw_voxels(_xyz(data)[known], colors[known], float(data["voxel_size"]), up)
    figure = new_figure(9, 9 * image.shape[0] / image.shape[1] + 0.9)
    right, missed = (
        float(np.mean(v[known])) if known.any() else 0.0
        for v in (truth == predicted, predicted == 0)
    )
    parts = {
        RIGHT: f"right {right:.1%}",
        WRONG: f"wrong {1 - right - missed:.1%}",
        MISSED: f"no prediction {missed:.1%}",
    }
    _show(figure.subplots(), image, "errors")
    handles = [Patch(color=color, label=text) for color, text in parts.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=12, frameon=False)
    return figure


def _frequent(data: dict[str, Any]) -> list[int]:
    """The labels of the ground truth, most frequent first, at most MOST_CLASSES."""
    support = data["confusion"].sum(axis=1)
    support[1:][~np.isfinite(data["iou"])] = 0
    return [int(i) for i in np.argsort(-support, kind="stable") if i > 0 and support[i]][
        :MOST_CLASSES
    ]


def draw_bars(data: dict[str, Any], up: str = "z") -> Any:
    """IoU per class of the ground truth, the most frequent on top."""
    del up
    labels = _frequent(data)
    iou = data["iou"][np.array(labels, int) - 1]
    support = data["confusion"].sum(axis=1)[1:]
    share = support / max(support.sum(), 1)
    figure = new_figure(9, 1.2 + 0.27 * max(len(labels), 3))
    axis = figure.subplots()
    axis.barh(range(len(labels)), iou, color="#3b6ea8")
    axis.set_yticks(
        range(len(labels)), [f"{data['names'][i - 1]} ({share[i - 1]:.1%})" for i in labels]
    )
    for row, value in enumerate(iou):
        axis.text(value + 0.01, row, f"{value:.2f}", va="center", fontsize=9)
    axis.set(
        xlim=(0, 1.08),
        ylim=(len(labels) - 0.4, -0.6),
        xlabel="IoU",
        title="IoU per class (share of the scored voxels)",
    )
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_confusion(data: dict[str, Any], up: str = "z") -> Any:
    """Rows: true classes, each summing to 1; columns: what was predicted, and "none"."""
    del up
    labels = _frequent(data)
    columns = [*labels, 0]
    matrix = (
        data["confusion"][np.ix_(labels, columns)]
        / np.maximum(data["confusion"].sum(axis=1)[labels], 1)[:, None]
    )
    names = [data["names"][i - 1] for i in labels]
    side = 3 + 0.27 * max(len(labels), 3)
    figure = new_figure(side + 1, side)
    axis = figure.subplots()
    image = axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(columns)), [*names, "(none)"], rotation=90)
    axis.set_yticks(range(len(labels)), names)
    axis.set(xlabel="predicted", ylabel="truth", title="Confusion (share of the true class)")
    for (row, column), value in np.ndenumerate(matrix):
        if value >= 0.1:
            axis.text(
                column,
                row,
                f"{value:.1f}".lstrip("0"),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if value > 0.5 else "black",
            )
    figure.colorbar(image, fraction=0.04)
    return figure
