# SPDX-License-Identifier: Apache-2.0
"""One page of a table: ours beside the paper's, what is missing, and the protocol of each cell."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from ..report.figures import new_figure, save_figure
from ..report.page import document, image
from ..report.protocol import block
from .results import Found, Line, number

NEAR = 0.5  # points of a difference that is no cause for concern
STYLE = """
table.compared td { line-height: 1.25; vertical-align: top }
table.compared b { font-size: 1.05em }
td small { color: #666; display: block }
td small.far { color: #a33 }
td.missing { color: #aaa }
tr.group th { text-align: left; border-bottom: 1px solid #888; padding-top: 1em }
.columns { display: flex; flex-wrap: wrap; gap: 0 2em }
.columns > div { flex: 1 1 22em; min-width: 0 }
.columns pre { white-space: pre-wrap }
"""


def table_page(found: Found, plots: list[Path]) -> str:
    """The whole page, with everything inside."""
    table = found.table
    kind = "Figure" if table.name.startswith("fig") else "Table"
    name = f"{kind} {table.name.removeprefix('fig-')}"
    about = f"<p>{escape(table.unit)}: ours, below it the paper's value and the difference."
    about += f' <span class="note">Source: {escape(table.source)}.</span></p>'
    about += f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    about += f'<p class="warn">{escape(found.others())}</p>' if found.others() else ""
    body = [f"<h1>{name}: {escape(table.title)}</h1>{about}", _compared(found)]
    body += [image(path, path.stem) for path in plots]
    body += _listed("What is missing", found.missing(), "note")
    body += _listed("Failed", found.failures(), "warn")
    lines = [line for line in found.lines if line.cells]
    body += ["<h2>Protocols</h2>", *map(_protocols, lines)] if lines else []
    return document(name, body, STYLE)


def _compared(found: Found) -> str:
    columns = found.table.columns
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body, group = "", ""
    for line in found.lines:
        if line.row.group != group and line.row.group != line.row.name:
            body += f'<tr class="group"><th colspan="{len(columns) + 1}">'
            body += f"{escape(line.row.group)}</th></tr>\n"
        group = line.row.group
        cells = "".join(_cell(line, column, found.table.percent) for column in columns)
        body += f"<tr><td>{escape(line.row.name)}</td>{cells}</tr>\n"
    rows = f"<thead><tr><th></th>{head}</tr></thead><tbody>\n{body}</tbody>"
    return f'<div class="scroll"><table class="compared">{rows}</table></div>'


def _cell(line: Line, column: str, percent: bool) -> str:
    ours, paper, off = line.ours[column], line.row.paper[column], line.difference(column)
    if ours is None:
        said = f"<small>{number(paper)}</small>" if paper is not None else ""
        return f'<td class="missing">&ndash;{said}</td>'
    said = f"<small>{number(paper)}</small>" if paper is not None else ""
    if off is not None:
        far = abs(off) > (NEAR if percent else NEAR / 10)
        said += f"<small{' class=far' if far else ''}>{number(off, signed=True)}</small>"
    return f"<td><b>{number(ours)}</b>{said}</td>"


def _listed(title: str, items: list[str], kind: str) -> Iterator[str]:
    if items:
        entries = "".join(f"<li>{escape(item)}</li>" for item in items)
        yield f'<h2>{title}</h2><ul class="{kind}">{entries}</ul>'


def _protocols(line: Line) -> str:
    cells = "".join(
        f"<div><h4>{escape(column)}</h4><pre>{escape(block(cell['protocol']))}</pre>"
        f"{_classes(cell)}</div>"
        for column, cell in line.cells.items()
    )
    title = escape(line.row.title)
    return f'<details><summary>{title}</summary><div class="columns">{cells}</div></details>'


def _classes(cell: dict[str, Any]) -> str:
    """IoU per class, where the cell has classes."""
    if "iou" not in cell:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{'' if iou is None else f'{100 * iou:.2f}'}</td></tr>"
        for name, iou in cell["iou"].items()
    )
    return f"<details><summary>IoU of the classes</summary><table>{rows}</table></details>"


def draw_table(found: Found, folder: Path) -> list[Path]:
    """The curves of a figure whose rows are numbers, one file a group -> the files."""
    groups = dict.fromkeys(line.row.group for line in found.lines)
    paths = []
    for group in groups if found.table.name.startswith("fig") else ():
        lines = [line for line in found.lines if line.row.group == group and line.cells]
        if len(lines) > 1 and all(_real(line.row.name) for line in lines):
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(save_figure(_curves(found, group, lines), folder / f"{group}.png"))
    return paths


def _curves(found: Found, group: str, lines: list[Line]) -> Any:
    figure = new_figure(7, 4)
    axis = figure.subplots()
    values = [float(line.row.name) for line in lines]
    for column in found.table.columns:
        ours = [line.ours[column] for line in lines]
        if all(value is not None for value in ours):
            (drawn,) = axis.plot(values, ours, marker="o", label=column)
            paper = [(v, line.row.paper[column]) for v, line in zip(values, lines, strict=True)]
            known = [(v, value) for v, value in paper if value is not None]
            axis.plot(*zip(*known, strict=True), "x", color=drawn.get_color()) if known else None
    axis.set(xlabel=group, ylabel=f"{found.table.unit} (x: the paper's)")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


def _real(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
