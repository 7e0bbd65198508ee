# SPDX-License-Identifier: Apache-2.0
"""Pictures of one scene: colours, truth and prediction; errors; IoU per class; confusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .figures import new_figure, save_figure
from .palette import NONE, distinct_colors
from .results import LABELS
from .voxel_view import View, VoxelScene

# also apart for people with red-green blindness, and what is wrong stands out
WRONG, RIGHT, MISSED = (0.84, 0.24, 0.0), (0.66, 0.74, 0.82), (0.96, 0.78, 0.2)
MOST_CLASSES = 30  # rows of the legend, bars and confusion; the rest is the tail of rare classes
WHITE = (255, 255, 255)
AZIMUTH, ELEVATION, WIDTH = -55.0, 55.0, 900  # degrees, px; see voxel_view.View
AXES = {"x": 0, "y": 1, "z": 2}


class DollsHouse:
    """The voxels of a scene from above, without the upper part of the rooms, so that one looks in.

    Args:
        xyz: (N, 3) centres in metres.
        up: world axis that points up: x, y or z, with a minus where it points down.
        width: px that the picture has at most, in either direction.
    """

    def __init__(
        self, xyz: np.ndarray, voxel_size: float, up: str = "z", width: int = WIDTH
    ) -> None:
        rotation = upright(up)
        turned = xyz @ rotation.T
        self.rows = np.flatnonzero(below_the_lid(turned[:, 2]))
        scene = VoxelScene(turned[self.rows], voxel_size, rotation)
        self._view = View(scene, AZIMUTH, ELEVATION, width, width)

    def paint(self, colors: np.ndarray) -> np.ndarray:
        """(N, 3) colours in [0, 1] -> (h, w, 3) uint8."""
        return np.asarray(self._view.paint(255 * colors[self.rows], paper=WHITE))

    def pixels(self, xyz: np.ndarray) -> np.ndarray:
        """(N, 3) m in the world -> (N, 2) px right and down in the picture."""
        return np.array([self._view.pixel(point) for point in xyz]).reshape(-1, 2)


def upright(up: str) -> np.ndarray:
    """(3, 3) rotation after which the world axis ``up`` is z."""
    axis = AXES[up[-1]]
    x, y, z = (np.eye(3)[(axis + i) % 3] for i in (1, 2, 3))
    return np.stack([y, x, -z] if up.startswith("-") else [x, y, z])


def below_the_lid(z: np.ndarray, keep: float = 0.72) -> np.ndarray:
    """(N,) heights -> (N,) bool: not in the upper part of the rooms."""
    if not len(z):
        return np.zeros(0, bool)
    low, high = np.percentile(z, [1, 99])
    return z <= low + keep * (high - low)


def class_colors(labels: np.ndarray, order: list[int]) -> np.ndarray:
    """(N,) labels -> (N, 3): distinct colours for the classes of ``order``, grey for the rest."""
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
    size = float(data["voxel_size"])
    truth = DollsHouse(data["gt_index"][data["gt_label"] != 0] * size, size, up)
    figures = {
        "labels": draw_labels(data, DollsHouse(data["map_xyz"], size, up), truth),
        "errors": draw_errors(data, truth),
        "classes": draw_bars(data),
        "confusion": draw_confusion(data),
    }
    target = folder / "pictures"
    target.mkdir(exist_ok=True)
    return [save_figure(figure, target / f"{name}.png") for name, figure in figures.items()]


def _show(axis: Any, image: np.ndarray, title: str) -> None:
    axis.imshow(image, interpolation="none")
    axis.set_title(title, fontsize=13)
    axis.axis("off")


def draw_labels(data: dict[str, Any], in_map: DollsHouse, in_truth: DollsHouse) -> Any:
    """Colours, truth and prediction side by side, the classes below (like the paper's Fig. A.5)."""
    from matplotlib.patches import Patch

    truth, predicted = data["gt_label"].astype(int), data["predicted"].astype(int)
    count = np.bincount(truth, minlength=len(data["names"]) + 1) + np.bincount(
        predicted, minlength=len(data["names"]) + 1
    )
    order = [int(i) for i in np.argsort(-count, kind="stable") if i > 0 and count[i]][:MOST_CLASSES]
    known = truth != 0
    images = [
        (in_map.paint(data["map_rgb"] / 255), "colours of the map"),
        (in_truth.paint(class_colors(truth[known], order)), "ground truth"),
        (in_truth.paint(class_colors(predicted[known], order)), "prediction"),
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


def draw_errors(data: dict[str, Any], in_truth: DollsHouse) -> Any:
    """Where the prediction is right, wrong, or missing."""
    from matplotlib.patches import Patch

    truth, predicted = data["gt_label"], data["predicted"]
    known = truth != 0
    colors = np.where(
        (truth == predicted)[:, None], RIGHT, np.where((predicted == 0)[:, None], MISSED, WRONG)
    )
    image = in_truth.paint(colors[known])
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


def _frequent(data: dict[str, Any]) -> tuple[list[int], str]:
    """The labels of the ground truth, most frequent first, at most MOST_CLASSES; and what a title
    says of the others.
    """
    support = data["confusion"].sum(axis=1)
    support[1:][~np.isfinite(data["iou"])] = 0
    every = [int(i) for i in np.argsort(-support, kind="stable") if i > 0 and support[i]]
    more = f"; the {MOST_CLASSES} most frequent of {len(every)} classes"
    return every[:MOST_CLASSES], more if len(every) > MOST_CLASSES else ""


def draw_bars(data: dict[str, Any]) -> Any:
    """IoU per class of the ground truth, the most frequent on top."""
    labels, more = _frequent(data)
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
        title=f"IoU per class (share of the scored voxels){more}",
    )
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_confusion(data: dict[str, Any]) -> Any:
    """Rows: true classes, each summing to 1; columns: what was predicted, and "none"."""
    labels, more = _frequent(data)
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
    title = f"Confusion (share of the true class){more}"
    axis.set(xlabel="predicted", ylabel="truth", title=title)
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
