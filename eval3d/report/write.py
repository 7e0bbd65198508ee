# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: tables in Markdown and CSV, plots, and one HTML page that needs no server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from radseg_ros.files import write_whole

from .asked import answer_lines, asked_rows, asked_tables
from .page import page
from .plots import draw_plots
from .protocol import block, run_protocol
from .results import table, to_json
from .runs import load_runs
from .tables import class_rows, failed_rows, markdown, run_rows, scene_rows


def write_report(
    folders: list[Path], out: Path, pictures: bool = True, failed: Mapping[str, str] | None = None
) -> None:
    """Write summary.json, summary.csv, summary.md, classes.csv (of each run), plots, report.html;
    asked.csv where runs were asked by name.

    Args:
        failed: the scenes without a result, and why: the means do not hold them.

    Raises:
        InputError: a folder holds no results, or a result is damaged.
    """
    runs = load_runs(folders)
    columns, rows = run_rows(runs)
    source = {"runs": [run.scenes[0]["provenance"] for run in runs]}
    failed = failed or {}
    protocols = [run_protocol(run) for run in runs]
    summary = {"runs": rows, "failed": dict(failed), "protocols": protocols, "provenance": source}
    asked_columns, asked = asked_rows(runs)
    write_whole(out / "summary.json", to_json({**summary, **({"asked": asked} if asked else {})}))
    write_whole(out / "summary.csv", table(rows, columns, source))
    text = "# Runs\n\nScores in percent, means over scenes.\n\n" + markdown(columns, rows)
    if asked:
        write_whole(out / "asked.csv", table(asked, asked_columns, source))
    for said, shown, some in asked_tables(runs):
        text += f"\n## {said}\n\n" + markdown(shown, some)
    for run, protocol in zip(runs, protocols, strict=True):
        text += f"\n## {run.name}\n\n" + markdown(*scene_rows(run))
        text += "".join(f"\n{line}\n" for line in answer_lines(run))
        text += f"\n```text\n{block(protocol)}```\n"
        class_columns, class_table = class_rows(run)
        name = "classes.csv" if len(runs) == 1 else f"classes-{run.name}.csv"
        write_whole(out / name, table(class_table, class_columns, run.scenes[0]["provenance"]))
    if failed:
        text += "\n## Failed\n\n" + markdown(*failed_rows(failed))
    write_whole(out / "summary.md", text)
    plots = draw_plots(runs, out / "plots") if pictures else []
    write_whole(out / "report.html", page(runs, plots, failed))
