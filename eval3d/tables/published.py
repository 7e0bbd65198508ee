# SPDX-License-Identifier: Apache-2.0
"""Tables as the paper printed them, and what their rows need: data files with their source.

``paper/NAME.tsv`` begins with lines ``# title: ...``, ``# source: ...``, ``# unit: ...`` and
maybe ``# note: ...``; then the names of the columns, and one row a line. What a row runs is an
encoder with its options: ``NAME=VALUE``, ``NAME=@WEIGHTS``, ``NAME=@?WEIGHTS`` if they are given,
``COLUMN:NAME=VALUE`` for one set of images, and ``eval.NAME=VALUE`` for the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from radseg_ros.config import one_of
from radseg_ros.reading import read_text

from ..classes import read_table

HERE = Path(__file__).parent / "paper"
TABLES = ("A.2", "A.4", "A.5", "A.6", "A.7", "A.8", "fig-A.1", "fig-A.2")
AVERAGE = "Avg"
LEADING = ("group", "row", "resolution", "run")  # columns before those with numbers
DIFFERENCE = "difference"  # the run of a row that is the one above less the one above that


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    group: str
    name: str
    resolution: str  # low, mid, high: Table A.1; "-" = images as they come
    run: str  # DIFFERENCE, or ENCODER NAME=VALUE ...: see the head of this file
    paper: dict[str, float | None]  # column -> value in the table's unit

    @property
    def title(self) -> str:
        """The group and the row, where they are not one."""
        return self.name if self.name == self.group else f"{self.group}: {self.name}"


@dataclass(frozen=True, slots=True)
class Table:
    """One table, or figure."""

    name: str
    title: str
    source: str
    unit: str
    note: str
    columns: tuple[str, ...]  # those with numbers, the average included
    rows: tuple[Row, ...]

    @property
    def percent(self) -> bool:
        """Whether its numbers are shares in percent, or cosines."""
        return "percent" in self.unit


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights, or a file of text embeddings, that rows ask for."""

    name: str
    what: str
    where: str
    text: str  # the file of text embeddings that spares its text tower; "-" = none


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A set of images: where they lie below the folder that is given, and where to get them."""

    column: str
    name: str
    images: str
    labels: str
    listed: str  # file of the names that count; "-" = all
    classes: str  # list that comes along
    count: int  # images that the paper's numbers are about
    what: str


def load_table(name: str) -> Table:
    """The table ``name``, one of ``TABLES``.

    Raises:
        ConfigError: there is no such table here.
    """
    path = HERE / f"{one_of('table', name, TABLES)}.tsv"
    head, *rows = read_table(path)
    columns = tuple(head[len(LEADING) :])
    about = dict.fromkeys(("title", "source", "unit", "note"), "")
    for line in read_text(path).splitlines():
        key, colon, text = line.removeprefix("# ").partition(": ")
        if line.startswith("# ") and colon and key in about:
            about[key] = text
    return Table(name=name, columns=columns, rows=tuple(_row(r, columns) for r in rows), **about)


def _row(cells: list[str], columns: tuple[str, ...]) -> Row:
    group, name, resolution, run, *values = cells
    paper = {
        column: None if value == "-" else float(value)
        for column, value in zip(columns, values, strict=True)
    }
    return Row(group, name, resolution, run, paper)


@cache
def load_weights() -> dict[str, Weights]:
    """All that rows can ask for, by name."""
    _, *rows = read_table(HERE / "weights.tsv")
    return {row[0]: Weights(*row) for row in rows}


@cache
def load_image_sets() -> dict[str, ImageSet]:
    """All sets of images, by the columns of tables that are about them."""
    _, *rows = read_table(HERE / "images.tsv")
    return {
        column: ImageSet(column, name, images, labels, listed, classes, int(count), what)
        for column, name, images, labels, listed, classes, count, what in rows
    }
