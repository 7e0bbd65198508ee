# SPDX-License-Identifier: Apache-2.0
"""One HTML page with every table and picture inside: a browser opens it from disk."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from .asked import answer_lines, asked_tables, retrieval_rows
from .protocol import block, run_protocol
from .results import read_timings
from .runs import Run, varied_options
from .tables import cell, class_rows, failed_rows, heading, run_rows, scene_rows

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.7em }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
h3 { margin-top: 1.6em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap }
th { border-bottom: 2px solid #888 } th:first-child, td:first-child, td.text { text-align: left }
tr:hover { background: #f4f7fb }
.scroll { overflow-x: auto }
img { max-width: 100%; margin: .5em 0 }
.bar { background: linear-gradient(to right, #a9c7e8 var(--p), transparent var(--p)) }
.note { color: #666 }
.warn { color: #a33 }
details { margin: .6em 0 }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto }
"""
HASHES = ("_sha256", "_hash")
PICTURES = {
    "labels": "Colours, truth and prediction",
    "errors": "Errors",
    "classes": "IoU per class",
    "confusion": "Confusion",
}


def image(path: Path, title: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'


def html_table(columns: list[str], rows: list[dict[str, Any]]) -> str:
    """Rows as people read them."""
    head = "".join(f"<th>{escape(heading(c))}</th>" for c in columns)
    body = ""
    for row in rows:
        cells = ""
        for column in columns:
            value = row.get(column)
            style = ' class="text"' if isinstance(value, str) else ""
            if value is not None and column in ("iou", "miou"):
                style = f' class="bar" style="--p:{100 * value:.1f}%"'
            cells += f"<td{style}>{escape(cell(value, column))}</td>"
        body += f"<tr>{cells}</tr>\n"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _frames(scene: dict[str, Any]) -> str:
    frames = scene["frames"]
    truth = escape(scene["ground_truth"])
    text = f"<p>{frames['used']} of {frames['listed']} frames used; ground truth: {truth}.</p>"
    faults = [
        *frames["dropped"].items(),
        *((f"{reason} (frame kept)", n) for reason, n in frames["notes"].items()),
    ]
    if frames["pixels"]:
        text += f"<p>Depth pixels: {escape(_shares(frames['pixels']))}.</p>"
    if faults:
        items = ""
        for reason, count in faults:
            example = frames["examples"].get(reason.removesuffix(" (frame kept)"), "")
            items += (
                f"<li>{count} × {escape(reason)}"
                + (f' <span class="note">e.g. {escape(example)}</span>' if example else "")
                + "</li>"
            )
        text += f'<ul class="warn">{items}</ul>'
    return text


def _shares(pixels: Mapping[str, int]) -> str:
    total = sum(pixels.values())
    named = {"fused": "fused", "out_of_range": "too far from the origin"}
    return ", ".join(
        f"{count / total:.1%} {named.get(reason, reason.replace('_', ' '))}"
        for reason, count in sorted(pixels.items(), key=lambda item: -item[1])
    )


def _scene(scene: dict[str, Any]) -> str:
    pictures = Path(scene["folder"]) / "pictures"
    parts = [f"<h3>{escape(scene['scene'])}</h3>", _frames(scene)]
    for name, title in PICTURES.items():
        path = pictures / f"{name}.png"
        if path.is_file():
            picture = image(path, f"{scene['scene']}: {title}")
            parts.append(
                picture
                if name == "labels"
                else f"<details><summary>{title}</summary>{picture}</details>"
            )
    return "\n".join(parts)


def _times(run: Run) -> str:
    timings = [found for s in run.scenes if (found := read_timings(s["folder"]))]
    if not timings:
        return ""
    stages = sorted({stage for t in timings for stage in t["seconds"]})
    columns = ["scene", "frames", *stages]
    rows = [{"scene": t["scene"], "frames": t["frames"], **t["seconds"]} for t in timings]
    return f"<details><summary>Seconds per stage</summary>{html_table(columns, rows)}</details>"


def _asked(run: Run) -> str:
    """What was asked by name: the classes, and what went wrong."""
    columns, rows = retrieval_rows(run)
    parts = [f"<p>{escape(line)}</p>" for line in answer_lines(run)]
    if rows:
        table = html_table(columns, rows)
        parts.append(f"<details><summary>Asked by name</summary>{table}</details>")
    return "\n".join(parts)


def _run(run: Run) -> str:
    source = {
        key: value for key, value in run.scenes[0]["provenance"].items() if not key.endswith(HASHES)
    }
    hashes = {
        s["scene"]: {k: v for k, v in s["provenance"].items() if k.endswith(HASHES)}
        for s in run.scenes
    }
    text = escape(json.dumps({**source, "hashes": hashes}, indent=1, sort_keys=True))
    return "\n".join(
        [
            f"<h2>{escape(run.name)}</h2>",
            html_table(*scene_rows(run)),
            "<details><summary>Classes (means over "
            f"scenes)</summary>{html_table(*class_rows(run))}</details>",
            _asked(run),
            "<h3>Protocol</h3>",
            f"<pre>{escape(block(run_protocol(run)))}</pre>",
            *(_scene(scene) for scene in run.scenes),
            _times(run),
            "<details><summary>Configuration, versions, "
            f"hashes</summary><pre>{text}</pre></details>",
        ]
    )


def page(runs: list[Run], plots: list[Path], failed: Mapping[str, str]) -> str:
    """The whole page; ``failed``: scenes without a result, and why."""
    options, varied = runs[0].options, varied_options(runs)
    facts = {
        "protocol": f"protocol {options['protocol']}",
        "map.voxel_size": f"{100 * options['map.voxel_size']:g} cm voxels",
        "k": f"k = {options['k']}",
    }
    common = ", ".join(text for name, text in facts.items() if name not in varied)
    intro = "Scores in percent; the ceiling is the ground truth scored against itself "
    intro += "through the map's geometry. "
    intro += f"All runs: {common}." if common else ""
    body = [f"<h1>Evaluation</h1><p>{escape(intro)}</p>", html_table(*run_rows(runs))]
    for said, columns, rows in asked_tables(runs):
        body += [f"<h2>{said}</h2>", html_table(columns, rows)]
    if failed:
        body += [
            f'<h2 class="warn">Failed: {len(failed)} scenes, which no mean holds</h2>',
            html_table(*failed_rows(failed)),
        ]
    body += [image(path, path.stem) for path in plots]
    body += [_run(run) for run in runs]
    return document("Evaluation", body)


def document(title: str, body: Iterable[str], style: str = "") -> str:
    """A whole page of pieces of HTML; ``style`` comes after that of all pages."""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"<head>{meta}<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
    text = "\n".join(body)
    return f"<!doctype html>\n<html lang=en>{head}\n<body>{text}</body></html>\n"
