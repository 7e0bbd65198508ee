# SPDX-License-Identifier: Apache-2.0
"""Tables of runs, scenes and classes: their columns and rows, and how people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .runs import MEANS, Run, varied_options

TITLES = {  # of scores, which are shown in percent
    "miou": "mIoU",
    "fmiou": "f-mIoU",
    "macc": "mAcc",
    "acc": "acc",
    "ceiling": "ceiling mIoU",
    "coverage": "coverage",
    "ap": "AP",
    "ap50": "AP50",
    "ap25": "AP25",
    "top1": "top 1",
    "top5": "top 5",
    "top10": "top 10",
    "localised": "localised",
    "auroc": "AUROC",
    "matthews_best": "best Matthews",
    "matthews": "Matthews",
}
OTHERS = {"error": "error (m)", "false_finds": "false finds"}  # not in percent


def run_rows(runs: list[Run]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of the table of runs."""
    varied = varied_options(runs)
    columns = ["run", *varied, "scenes", *MEANS, "ceiling", "coverage"]
    rows = [
        {
            "run": run.name,
            **{n: run.options.get(n) for n in varied},
            "scenes": len(run.scenes),
            **run.mean,
        }
        for run in runs
    ]
    return columns, rows


def scene_rows(run: Run) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of the table of the scenes of one run, the mean last."""
    columns = [
        "scene",
        *MEANS,
        "ceiling",
        "coverage",
        "frames",
        "dropped",
        "gt_voxels",
        "map_voxels",
        "map_MB",
    ]
    rows: list[dict[str, Any]] = [
        {
            **{
                name: scene[name]
                for name in ("scene", *MEANS, "coverage", "gt_voxels", "map_voxels")
            },
            "ceiling": scene["ceiling"]["miou"],
            "frames": scene["frames"]["used"],
            "dropped": sum(scene["frames"]["dropped"].values()),
            "map_MB": scene["map_bytes"] / 1e6,
        }
        for scene in run.scenes
    ]
    return columns, [*rows, {"scene": "mean", **run.mean}]


def failed_rows(failed: Mapping[str, str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of the table of the scenes that have no result."""
    return ["scene", "reason"], [{"scene": name, "reason": why} for name, why in failed.items()]


def class_rows(run: Run) -> tuple[list[str], list[dict[str, Any]]]:
    """Mean IoU and recall per class over the scenes that have it; counts over all of them."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for scene in run.scenes:
        for row in scene["classes"]:
            found.setdefault((row["label"], row["name"]), []).append(row)
    rows = [
        {
            "label": label,
            "name": name,
            "scenes": len(rows),
            **{
                key: float(np.mean([row[key] for row in rows]))
                for key in ("iou", "ceiling_iou", "recall")
            },
            **{key: sum(row[key] for row in rows) for key in ("tp", "fp", "fn")},
        }
        for (label, name), rows in sorted(found.items())
    ]
    return ["label", "name", "scenes", "iou", "ceiling_iou", "recall", "tp", "fp", "fn"], rows


def heading(column: str) -> str:
    """What people read above a column."""
    return {**TITLES, **OTHERS}.get(column, column)


def cell(value: Any, column: str = "") -> str:
    """A number as tables show it: scores in percent, as in the paper."""
    if value is None:
        return ""
    if column in (*TITLES, "iou", "ceiling_iou", "recall", "precision"):
        return f"{100 * value:.2f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(columns: list[str], rows: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| " + " | ".join(heading(c) for c in columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    lines += [
        "| " + " | ".join(cell(row.get(c), c).replace("|", "\\|") for c in columns) + " |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
