# SPDX-License-Identifier: Apache-2.0
"""Tables of what answers to names are worth: over runs, and by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .results import RETRIEVAL_COLUMNS
from .runs import Run, varied_options

PRECISIONS = ("ap", "ap50", "ap25", "top1", "top5", "top10")
PRESENCE = ("auroc", "matthews_best", "matthews", "recall")
WHERE = ("instances", *PRECISIONS, "localised", "error")
WHETHER = ("present", "absent", *PRESENCE, "false_finds")


def asked_rows(runs: Sequence[Run]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of the runs that were asked by name: means over their scenes, and sums of
    what was counted. No row where none was.
    """
    asked = [run for run in runs if _of(run, "presence")]
    varied = varied_options(list(runs))
    rows = [
        {
            "run": run.name,
            **{name: run.options.get(name) for name in varied},
            **_retrieval(_of(run, "retrieval")),
            **_presence(_of(run, "presence")),
        }
        for run in asked
    ]
    columns = ["run", *varied, "mode"]
    if any(_of(run, "retrieval") for run in asked):
        columns += WHERE
    return [*columns, *WHETHER], rows


def asked_tables(runs: Sequence[Run]) -> list[tuple[str, list[str], list[dict[str, Any]]]]:
    """The same as two tables that are narrow enough to be read: heading, columns and rows."""
    columns, rows = asked_rows(runs)
    parts = {"Asked by name: what is found where": WHERE, "Asked by name: is it there": WHETHER}
    return [
        (said, [name for name in columns if name in part or name not in (*WHERE, *WHETHER)], rows)
        for said, part in parts.items()
        if rows and part[0] in columns
    ]


def retrieval_rows(run: Run) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of the classes of one run, over the scenes that have them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for part in _of(run, "retrieval"):
        for row in part["classes"]:
            found.setdefault(row["name"], []).append(row)
    columns = [name for name in RETRIEVAL_COLUMNS if name != "label"]
    rows = [
        {
            "name": name,
            **{key: sum(row[key] for row in rows) for key in ("instances", "objects")},
            **{key: mean(row[key] for row in rows) for key in (*PRECISIONS, "error")},
        }
        for name, rows in sorted(found.items())
    ]
    return columns, rows


def answer_lines(run: Run) -> list[str]:
    """Of each scene, what was not found and what was found though it is not there."""
    lines = []
    for scene in run.scenes:
        answers = scene.get("presence", {}).get("answers", [])
        missed = [r["name"] for r in answers if r["kind"] == "present" and not r["objects"]]
        false = [r["name"] for r in answers if r["kind"] == "absent" and r["objects"]]
        lines += [f"{scene['scene']}, there and not found: {', '.join(missed)}"] if missed else []
        lines += [f"{scene['scene']}, found and not there: {', '.join(false)}"] if false else []
    return lines


def mean(values: Any) -> float | None:
    """Of those that are defined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _of(run: Run, part: str) -> list[dict[str, Any]]:
    return [scene[part] for scene in run.scenes if part in scene]


def _retrieval(parts: list[dict[str, Any]]) -> dict[str, Any]:
    if not parts:
        return {}
    return {
        "instances": sum(part["instances"] for part in parts),
        **{name: mean(part[name] for part in parts) for name in PRECISIONS},
        "localised": mean(part["localisation"]["accuracy"] for part in parts),
        "error": mean(part["localisation"]["error"] for part in parts),
    }


def _presence(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "mode": ", ".join(sorted({part["mode"] for part in parts})),
        **{name: mean(part[name] for part in parts) for name in PRESENCE},
        **{
            name: sum(part[name] for part in parts) for name in ("present", "absent", "false_finds")
        },
    }
