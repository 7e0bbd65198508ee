# SPDX-License-Identifier: Apache-2.0
"""The report on a recording that was asked: Markdown to print, and one HTML page."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from radseg_ros.files import write_whole

from ..report.asked import PRECISIONS
from ..report.page import document, html_table, image
from ..report.protocol import OTHERS, Protocol, block, run_protocol
from ..report.runs import Run, flatten
from ..report.tables import markdown
from .pictures import draw_answers
from .recording import read_answers

TITLES = {
    "present": "Where it was found",
    "false_finds": "Found, and not there",
    "scores": "Best scores",
}


def report_answers(folder: Path, out: Path, pictures: bool = True, up: str = "z") -> None:
    """Write ``out``/summary.md and report.html of the answers in ``folder``, and draw them.

    Raises:
        InputError: there are no answers, or they are damaged.
    """
    answers = read_answers(folder)
    drawn = draw_answers(folder, answers, up) if pictures else []
    columns, figures = _figures(answers)
    names = _names(answers)
    text = f"# {answers['recording']}, asked\n\n{sentence(answers)}\n\n"
    text += markdown(columns, figures) + "\n" + markdown(*names)
    text += "".join(f"\n{each}\n" for each in answers["without_depth"])
    text += f"\n```text\n{block(protocol_of(answers))}```\n"
    write_whole(out / "summary.md", text)
    source = json.dumps(answers["provenance"], indent=1, sort_keys=True)
    body = [
        f"<h1>{escape(answers['recording'])}, asked</h1><p>{escape(sentence(answers))}</p>",
        html_table(columns, figures),
        *(f"<h2>{TITLES[path.stem]}</h2>{image(path, TITLES[path.stem])}" for path in drawn),
        f"<h2>Names</h2>{html_table(*names)}",
        *(f'<p class="warn">{escape(each)}</p>' for each in answers["without_depth"]),
        f"<h2>Protocol</h2><pre>{escape(block(protocol_of(answers)))}</pre>",
        "<details><summary>Configuration, versions, hashes</summary>"
        f"<pre>{escape(source)}</pre></details>",
    ]
    write_whole(out / "report.html", document(f"{answers['recording']}, asked", body))


def sentence(answers: dict[str, Any]) -> str:
    """What was asked, of what."""
    presence, frames = answers["presence"], answers["frames"]
    return (
        f"{presence['present']} things that are there and {presence['absent']} that are not, in "
        f"a map of {answers['voxels']} voxels of {frames['used']} of {frames['listed']} frames "
        f"({answers['provenance']['encoder']}, {presence['mode']}, threshold "
        f"{answers['threshold']:g}, at its place up to {answers['near']:g} m). Rates in percent."
    )


def protocol_of(answers: dict[str, Any]) -> Protocol:
    """How the figures came about, in one block."""
    source, mode = answers["provenance"], answers["presence"]["mode"]
    scene = {**answers, "scene": answers["recording"], "ground_truth": ""}
    run = Run(answers["recording"], flatten(source["config"]), [scene], {})
    whole = run_protocol(run)
    first = ("data", "frames", "resolution", "encoder", "weights", "windows", "map")
    return {
        **{what: whole[what] for what in first},
        "labels": f"SHA-256 {source['labels_sha256'][:12]}...",
        "questions": f"{mode}, threshold {answers['threshold']:g}",
        "at its place": f"up to {answers['near']:g} m",
        **{what: whole[what] for what in (OTHERS, "program")},
    }


def _figures(answers: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    presence, where = answers["presence"], answers["localisation"]
    row = {
        **{name: presence[name] for name in ("recall", "precision", "false_finds")},
        **{name: presence[name] for name in ("auroc", "matthews_best", "matthews")},
        "localised": where["accuracy"],
        "of known places": where["known"],
        "error": where["error"],
        **{name: answers["top"][name] for name in PRECISIONS if name in answers["top"]},
    }
    return list(row), [row]


def _names(answers: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    rows = [
        {
            "name": row["name"],
            "": {"present": "there", "absent": "not there"}[row["kind"]],
            "found": len(row["objects"]),
            "best score": float(row["best_score"]),
            "error": row["error"],
        }
        for row in answers["labels"]
    ]
    return ["name", "", "found", "best score", "error"], rows
