# SPDX-License-Identifier: Apache-2.0
"""The texts of the page as HTML. What comes from outside (labels, names) is escaped here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

FIRST_DATE = 1e8  # s; smaller stamps are no dates but begin with a recording
MOST_ROWS = 12
STYLE = 'style="padding:0 .4em;font-size:.85em;line-height:1.5"'
MUTED = 'style="opacity:.6"'


def block(*parts: str) -> str:
    """One piece of text of the page."""
    return f"<div {STYLE}>{''.join(parts)}</div>"


def line(text: str, muted: bool = False) -> str:
    """A line of plain text."""
    return f"<div {MUTED if muted else ''}>{escape(text)}</div>"


def seen_at(stamp: float) -> str:
    """When something was seen last (s), in words."""
    if stamp < FIRST_DATE:
        return f"at {stamp:.1f} s"
    return time.strftime("%d %b %H:%M:%S", time.localtime(stamp))


def answers_html(answers: Sequence[dict[str, Any]]) -> str:
    """What was found, best first, or that nothing was."""
    parts = []
    for answer in answers:
        name, things = escape(answer["label"]), answer["objects"]
        if not answer["found"]:
            best = f"best {answer['best_score']:.2f}"
            parts.append(f"<div><b>{name}</b>: not found <span {MUTED}>({best})</span></div>")
        else:
            count = sum(not thing["missing_since"] for thing in things)
            parts.append(f"<div><b>{name}</b>: {count} found</div>")
        for thing in things[:MOST_ROWS]:
            x, y, z = thing["centre"]
            gone = ", missing" if thing["missing_since"] else ""
            place = f"({x:.2f}, {y:.2f}, {z:.2f}) m, {seen_at(thing['last_seen'])}{gone}"
            parts.append(f"<div>{thing['score']:.2f} <span {MUTED}>{place}</span></div>")
        if (more := len(things) - MOST_ROWS) > 0:
            parts.append(line(f"and {more} more", muted=True))
    return block(*parts)


def here_html(place: Sequence[float], found: Sequence[tuple[str, float]]) -> str:
    """What is at a place: labels with their scores."""
    x, y, z = place
    rows = [f"<div>{score:.2f} <b>{escape(label)}</b></div>" for label, score in found[:MOST_ROWS]]
    return block(line(f"at ({x:.2f}, {y:.2f}, {z:.2f}) m", muted=True), *rows)


def legend_html(labels: Sequence[str], colors: np.ndarray, shares: np.ndarray) -> str:
    """Labels with their colours (Q, 3) uint8 and the share of the map that each has (Q,)."""
    rows = []
    for label, color, share in zip(labels, colors.tolist(), shares.tolist(), strict=True):
        r, g, b = color
        chip = f"display:inline-block;width:.9em;height:.9em;background:rgb({r},{g},{b})"
        percent = f"<span {MUTED}>{100 * share:.1f} %</span>"
        rows.append(f'<div><span style="{chip}"></span> {escape(label)} {percent}</div>')
    return block(*rows)


def thing_text(thing: dict[str, Any], label: str) -> str:
    """What is written at a box."""
    return f"{label} {thing['score']:.2f}, seen {seen_at(thing['last_seen'])}"
