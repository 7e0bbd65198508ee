# SPDX-License-Identifier: Apache-2.0
"""From pieces to cells, and from cells to a table beside the paper's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.files import write_whole

from ..provenance import git_revision, versions
from ..report.protocol import OTHERS, Protocol, image_protocol, program
from ..report.results import to_json
from ..scoring.images import image_scores
from .pieces import CELLS, piece_names, read_piece
from .plan import Plan, cell_key, whereabouts
from .published import AVERAGE, DIFFERENCE, Row, Table

Values = dict[str, float | None]  # column -> value in the table's unit; None = there is none


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table that was run."""

    row: Row
    ours: Values
    cells: dict[str, dict[str, Any]]  # column -> the result of the cell

    def difference(self, column: str) -> float | None:
        """Ours less the paper's."""
        ours, paper = self.ours.get(column), self.row.paper[column]
        return None if ours is None or paper is None else ours - paper


@dataclass(frozen=True, slots=True)
class Found:
    """A table as it was run."""

    table: Table
    lines: tuple[Line, ...]
    lacks: dict[str, int]  # what to get -> cells that wait for it
    failed: dict[str, str]  # cell -> why
    images: dict[str, tuple[int, int]]  # set -> images used, and those of the paper

    def others(self) -> str:
        """Of which sets the paper's numbers are about other images; empty = of none."""
        said = [f"{n} of {name} (there: {of})" for name, (n, of) in self.images.items() if n != of]
        return f"Not the images of the paper: {', '.join(said)}." if said else ""

    def missing(self) -> list[str]:
        """What to get and where, one line for each."""
        return [
            f"{whereabouts(lack)} ({count} {'cell' if count == 1 else 'cells'})"
            for lack, count in self.lacks.items()
        ]

    def failures(self) -> list[str]:
        """What failed, one line for each reason."""
        cells: dict[str, list[str]] = {}
        for key, why in self.failed.items():
            cells.setdefault(why, []).append(key)
        return [f"{', '.join(keys)}: {why}" for why, keys in cells.items()]


def gather(table: Table, plan: Plan, out: Path, failed: Mapping[str, str]) -> Found:
    """Add the pieces, write a result for each cell -> the table.

    Args:
        failed: piece -> why there is none.
    """
    broken: dict[str, str] = {}
    for name, why in failed.items():
        broken.setdefault(name.rpartition("/")[0], why)
    results = {}
    for key in plan.cells:
        if key not in broken:
            try:
                results[key] = _cell_result(plan, key, out)
            except InputError as error:
                broken[key] = str(error)
    for key, result in results.items():
        write_whole(out / CELLS / f"{key}.json", to_json(result))
    lines: list[Line] = []
    for row in table.rows:
        lines.append(_line(table, row, results, lines))
    lacks = Counter(lack for each in plan.lacks.values() for lack in each)
    in_order = sorted(lacks, key=lambda lack: (not lack.startswith("--"), lack.partition(" ")[0]))
    images = {
        each["title"]: (len(each["pairs"]), each["all"]) for each in plan.sets.values() if results
    }
    return Found(table, tuple(lines), {lack: lacks[lack] for lack in in_order}, broken, images)


def _cell_result(plan: Plan, key: str, out: Path) -> dict[str, Any]:
    cell = plan.cells[key]
    images = plan.sets[cell["set"]]
    count = len(images["pairs"])
    pieces = []
    for name in piece_names(key, count):
        if (piece := read_piece(out, name, cell["mark"])) is None:
            raise InputError(f"the piece {name} is not there")
        pieces.append(piece)
    source: Protocol = json.loads(str(pieces[0]["source"]))
    result = {"encoder": source["encoder"], "images": count}
    if not images["classes"]:
        total = float(sum(float(piece["total"]) for piece in pieces))
        protocol = _cosine_protocol(images["title"], count, source)
        return {**result, "cosine": total / count, "protocol": protocol}
    matrix = np.sum([piece["confusion"] for piece in pieces], axis=0)
    how = (images["classes"], images["first_label"], cell["denoise"], cell["threshold"])
    protocol = image_protocol(images["title"], count, cell["short_side"], source, *how)
    return {**result, **image_scores(matrix, images["classes"]), "protocol": protocol}


def _cosine_protocol(data: str, images: int, source: Protocol) -> Protocol:
    measure = "cosine of each patch with the pooled output; mean over patches, then over images"
    return {
        "data": data,
        "images": f"{images} used",
        **{name: how for name, how in source.items() if name != OTHERS},
        "scoring": measure,
        OTHERS: source[OTHERS],
        "program": program(versions(), git_revision()),
    }


def _line(table: Table, row: Row, results: Mapping[str, dict[str, Any]], above: list[Line]) -> Line:
    if row.run == DIFFERENCE:
        upper, lower = above[-1].ours, above[-2].ours
        return Line(row, {c: _less(upper[c], lower[c]) for c in table.columns}, {})
    keys = {column: cell_key(table, row, column) for column in table.columns}
    cells = {column: results[key] for column, key in keys.items() if key in results}
    ours: Values = {column: _value(cells.get(column)) for column in table.columns}
    if AVERAGE in ours:
        values = [value for column, value in ours.items() if column != AVERAGE]
        known = [value for value in values if value is not None]
        ours[AVERAGE] = float(np.mean(known)) if len(known) == len(values) else None
    return Line(row, ours, cells)


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _value(result: Mapping[str, Any] | None) -> float | None:
    if result is None:
        return None
    return 100 * result["miou"] if "miou" in result else result["cosine"]


def table_json(found: Found) -> str:
    """The table as plain data; values in its unit."""
    table = found.table
    rows = [
        {
            "group": line.row.group,
            "row": line.row.name,
            "resolution": line.row.resolution,
            "run": line.row.run,
            "paper": line.row.paper,
            "ours": line.ours,
            "difference": {column: line.difference(column) for column in table.columns},
        }
        for line in found.lines
    ]
    return to_json(
        {
            "table": table.name,
            "title": table.title,
            "source": table.source,
            "unit": table.unit,
            "columns": table.columns,
            "rows": rows,
            "missing": {whereabouts(lack): count for lack, count in found.lacks.items()},
            "failed": found.failed,
            "images": {name: {"used": n, "paper": of} for name, (n, of) in found.images.items()},
        }
    )


def table_text(found: Found) -> str:
    """The table in Markdown: paper, ours and the difference below each other."""
    table = found.table
    kind = "Figure" if table.name.startswith("fig") else "Table"
    text = f"# {kind} {table.name.removeprefix('fig-')}: {table.title}\n\n"
    text += f"{table.unit}. Source: {table.source}.\n"
    text += "".join(f"{line}\n" for line in (table.note, found.others()) if line)
    text += "\n| row | | " + " | ".join(table.columns) + " |\n"
    text += "|" + " --- |" * (len(table.columns) + 2) + "\n"
    for line in found.lines:
        off = {column: line.difference(column) for column in table.columns}
        kinds = {"paper": line.row.paper, "ours": line.ours, "difference": off}
        shown = [name for name, values in kinds.items() if any_of(values)] or ["paper"]
        for name in shown:
            title = line.row.title if name == shown[0] else ""
            cells = (number(kinds[name][column], name == "difference") for column in table.columns)
            text += f"| {title} | {name} | " + " | ".join(cells) + " |\n"
    if found.lacks:
        text += "\n## What is missing\n\n"
        text += "".join(f"- {line}\n" for line in found.missing())
    if found.failed:
        text += "\n## Failed\n\n"
        text += "".join(f"- {line}\n" for line in found.failures())
    return text


def any_of(values: Values) -> bool:
    """Whether there is a number among them."""
    return any(value is not None for value in values.values())


def number(value: float | None, signed: bool = False) -> str:
    """As tables show it; nothing where there is none."""
    return "" if value is None else f"{value:+.2f}" if signed else f"{value:.2f}"
