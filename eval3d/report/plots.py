# SPDX-License-Identifier: Apache-2.0
"""Plots over runs: scores side by side, and against the option that was swept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .figures import new_figure, save_figure
from .runs import MEANS, Run, varied_options
from .tables import TITLES

COLORS = {
    "miou": "#3b6ea8",
    "fmiou": "#7fb069",
    "macc": "#d9822b",
    "acc": "#8f5fa8",
    "ceiling": "#888888",
}


def draw_plots(runs: list[Run], folder: Path) -> list[Path]:
    """One bar chart of all runs, one curve per numeric option in which they differ -> the files."""
    if len(runs) < 2:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [save_figure(_bars(runs), folder / "runs.png")]
    for name in varied_options(runs):
        values = [run.options.get(name) for run in runs]
        if (
            all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
            and len(set(values)) > 1
        ):
            paths.append(save_figure(_curve(runs, name), folder / f"{name}.png"))
    return paths


def _bars(runs: list[Run]) -> Any:
    figure = new_figure(9, 1.6 + 0.6 * len(runs))
    axis = figure.subplots()
    for i, name in enumerate(MEANS):
        values = [100 * run.mean.get(name, 0.0) for run in runs]
        axis.barh(
            np.arange(len(runs)) + 0.19 * (i - 1.5),
            values,
            0.18,
            color=COLORS[name],
            label=TITLES[name],
        )
    ceiling = [100 * run.mean.get("ceiling", 0.0) for run in runs]
    axis.scatter(
        ceiling,
        np.arange(len(runs)) - 0.285,
        marker="|",
        s=160,
        color="black",
        label="ceiling of mIoU",
        zorder=3,
    )
    axis.set_yticks(range(len(runs)), [run.name for run in runs])
    axis.invert_yaxis()
    axis.set(xlim=(0, 103), xlabel="percent, mean over scenes")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    return figure


def _curve(runs: list[Run], name: str) -> Any:
    """Scores against the values of one option; runs that agree in it are averaged."""
    figure = new_figure(7, 4.5)
    axis = figure.subplots()
    values = sorted({run.options[name] for run in runs})
    for key in (*MEANS, "ceiling"):
        points = [
            [100 * r.mean[key] for r in runs if r.options[name] == v and key in r.mean]
            for v in values
        ]
        style = "--" if key == "ceiling" else "-"
        means = [np.mean(p) if p else np.nan for p in points]
        axis.plot(
            values,
            means,
            style,
            marker="" if key == "ceiling" else "o",
            color=COLORS[key],
            label=TITLES[key],
        )
    axis.set(xlabel=name, ylabel="percent, mean over scenes", ylim=(0, 103))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure
