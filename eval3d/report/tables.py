# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: tables in Markdown and CSV, plots, and one HTML page that needs no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .results import TIMINGS, find_scenes, read_metrics, table, to_json, write_atomically

MEANS = ("miou", "fmiou", "macc", "acc")
TITLES = {
    "miou": "mIoU",
    "fmiou": "f-mIoU",
    "macc": "mAcc",
    "acc": "acc",
    "ceiling": "ceiling mIoU",
    "coverage": "coverage",
}


def flatten(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options -> {"map.voxel_size": 0.05, ...}.

    The mapper's lose their group, as on the command line.
    """
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat.update(flatten(value, prefix if prefix + key == "mapper" else f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def load_runs(folders: list[Path]) -> list[dict[str, Any]]:
    """Every run below the folders: scenes with equal options form one run, in the order found.

    Raises:
        InputError: a folder holds no results.
    """
    runs: dict[str, dict[str, Any]] = {}
    for folder in folders:
        scenes = find_scenes(folder)
        if not scenes:
            read_metrics(folder)  # says what is missing
        for path in scenes:
            metrics = read_metrics(path)
            options = flatten(metrics["provenance"]["config"])
            if options.get("map.space") == "probability":
                options.pop("map.labels")  # follows from the class list, which may differ by scene
            key = json.dumps(
                [str(path.parent), metrics["provenance"]["encoder"], options], sort_keys=True
            )
            run = runs.setdefault(
                key,
                {"name": path.parent.name, "folder": path.parent, "options": options, "scenes": []},
            )
            run["scenes"].append(metrics)
    names = [run["name"] for run in runs.values()]
    for run in runs.values():
        if names.count(run["name"]) > 1:  # two folders of one name: say where they lie
            run["name"] = f"{run['folder'].parent.name}-{run['name']}"
        run["scenes"].sort(key=lambda metrics: metrics["scene"])
        run["mean"] = mean_over_scenes(run["scenes"])
    return list(runs.values())


def mean_over_scenes(scenes: list[dict[str, Any]]) -> dict[str, float]:
    """Plain means over the scenes that have the number (the paper's tables average like this)."""
    columns = {
        **{name: [scene[name] for scene in scenes] for name in (*MEANS, "coverage")},
        "ceiling": [scene["ceiling"]["miou"] for scene in scenes],
    }
    return {
        name: float(np.mean([v for v in values if v is not None]))
        for name, values in columns.items()
        if set(values) - {None}
    }


def varied_options(runs: list[dict[str, Any]]) -> list[str]:
    """The options in which the runs differ."""
    names = sorted({name for run in runs for name in run["options"]})
    ignored = {"root", "map.labels"}
    return [
        n
        for n in names
        if n not in ignored and len({json.dumps(run["options"].get(n)) for run in runs}) > 1
    ]


def run_rows(runs: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of the table of runs."""
    varied = varied_options(runs)
    columns = ["run", *varied, "scenes", *MEANS, "ceiling", "coverage"]
    rows = [
        {
            "run": run["name"],
            **{n: run["options"].get(n) for n in varied},
            "scenes": len(run["scenes"]),
            **run["mean"],
        }
        for run in runs
    ]
    return columns, rows


def scene_rows(run: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
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
        for scene in run["scenes"]
    ]
    return columns, [*rows, {"scene": "mean", **run["mean"]}]


def class_rows(run: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Mean IoU and recall per class over the scenes that have it; counts over all of them."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for scene in run["scenes"]:
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
        "| " + " | ".join(TITLES.get(c, c) for c in columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    lines += ["| " + " | ".join(cell(row.get(c), c) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def timings_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The times of the scenes of a run; a scene without them is left out."""
    found = []
    for scene in run["scenes"]:
        path = Path(scene["folder"]) / TIMINGS
        if path.is_file():
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def write_report(folders: list[Path], out: Path, pictures: bool = True) -> list[dict[str, Any]]:
    """Write summary.json, summary.csv, summary.md, classes.csv (of each run), plots and report.html
    into ``out``.

    Raises:
        InputError: a folder holds no results.
    """
    from .page import page
    from .plots import draw_plots

    runs = load_runs(folders)
    columns, rows = run_rows(runs)
    source = {"runs": [run["scenes"][0]["provenance"] for run in runs]}
    write_atomically(out / "summary.json", to_json({"runs": rows, "provenance": source}))
    write_atomically(out / "summary.csv", table(rows, columns, source))
    text = "# Runs\n\nScores in percent, means over scenes.\n\n" + markdown(columns, rows)
    for run in runs:
        text += f"\n## {run['name']}\n\n" + markdown(*scene_rows(run))
        class_columns, class_table = class_rows(run)
        name = "classes.csv" if len(runs) == 1 else f"classes-{run['name']}.csv"
        write_atomically(
            out / name, table(class_table, class_columns, run["scenes"][0]["provenance"])
        )
    write_atomically(out / "summary.md", text)
    plots = draw_plots(runs, out / "plots") if pictures else []
    write_atomically(out / "report.html", page(runs, plots))
    return runs
