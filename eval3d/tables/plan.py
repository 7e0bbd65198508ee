# SPDX-License-Identifier: Apache-2.0
"""From a table, weights and data to the cells that can be run, and what the others lack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radseg_ros.config import RadsegConfig, from_dict, one_of, parse_assignments, parse_value
from radseg_ros.datatypes import ConfigError, InputError
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.files import write_whole
from radseg_ros.frames.disk import COLOR_SUFFIXES, is_ours
from radseg_ros.reading import read_json, read_text
from radseg_ros.segmentation.probabilities import read_classes
from radseg_ros.segmentation.settings import SETTINGS

from ..classes import class_file
from ..datasets.labelled_images import FIRST_LABEL, pair_files
from ..predictions.images import PredictedImages
from ..provenance import digest, git_revision, versions
from ..report.results import to_json
from .published import (
    AVERAGE,
    DIFFERENCE,
    ImageSet,
    Row,
    Table,
    load_image_sets,
    load_weights,
)

PLAN = "plan.json"
PIECE = 100  # images of one piece of work: what an interruption may cost
# words eval.NAME=VALUE of a row, which are the evaluation's and not the encoder's -> their defaults
RULES = {"denoise": 0.5, "threshold": 0.0, "adaptor": ""}
OUTSIDE = ("vision",)  # networks of Figure A.2 that are no encoders
PREDICTIONS = "predictions"  # in the place of an encoder: files of another program


@dataclass(frozen=True, slots=True)
class Request:
    """What a table is run with."""

    weights: Mapping[str, str] = field(default_factory=dict)  # name -> path or hub id
    data: Mapping[str, str] = field(default_factory=dict)  # name of a set -> its folder
    options: tuple[str, ...] = ()  # ENCODER.OPTION=VALUE, for all rows of that encoder
    device: str = ""
    limit: int = 0  # images of a set; 0 = all
    threads: int = 0
    rows: tuple[str, ...] = ()  # names; empty = all
    # row -> folder with a folder of each set: what its own program predicted
    predicted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, as plain data; and what is not."""

    cells: dict[str, dict[str, Any]]  # key of a cell -> how it is made
    sets: dict[str, dict[str, Any]]  # name -> pairs of files, classes, ...
    lacks: dict[str, tuple[str, ...]]  # key -> what is missing, as `whereabouts` explains it


def cell_key(table: Table, row: Row, column: str) -> str:
    """Name of a cell's files: unique, and readable."""
    words = re.sub(r"[^\w.+-]+", "_", row.title)
    return f"{table.rows.index(row) + 1:02}-{words}/{column}"


def make_plan(table: Table, request: Request) -> Plan:
    """Which cells of ``table`` can be run.

    Raises:
        ConfigError: weights, data or rows are named that no table knows.
        InputError: data that were given cannot be used.
    """
    _check_names(table, request)
    known = load_image_sets()
    sets = {
        known[column].name: _image_set(known[column], request)
        for column in table.columns
        if column != AVERAGE and known[column].name in request.data
    }
    cells, lacks = {}, {}
    for row in table.rows:
        if row.run == DIFFERENCE or (request.rows and row.name not in request.rows):
            continue
        for column in (column for column in table.columns if column != AVERAGE):
            name, key = known[column].name, cell_key(table, row, column)
            outside = request.predicted.get(row.title) or request.predicted.get(row.name)
            if outside:
                how, missing = _predicted(row, Path(outside) / name)
            else:
                how, missing = _row_options(row, column, request)
            without = [*missing, *([] if name in sets else [f"--data {name}"])]
            if without:
                lacks[key] = tuple(without)
            else:
                cells[key] = _cell(how, row, name, sets[name], request)
    return Plan(cells, sets, lacks)


def whereabouts(lack: str) -> str:
    """What to get, and where."""
    kind, _, name = lack.partition(" ")
    if kind == "--data":
        found = next(each for each in load_image_sets().values() if each.name == name)
        return f"{lack}=FOLDER: {found.what}"
    if kind == "--weights":
        weights = load_weights()[name]
        return f"{lack}=PATH: {weights.what}; {weights.where}"
    return lack


def optional(table: Table) -> list[str]:
    """What rows take if it is given, and where to get it."""
    known, named = load_weights(), " ".join(row.run for row in table.rows)
    texts = {known[name].text for name in re.findall(r"=@(?!\?)(\S+)", named)} - {"-"}
    asked = sorted(texts | set(re.findall(r"=@\?(\S+)", named)))
    return [whereabouts(f"--weights {name}") for name in asked]


def write_plan(plan: Plan, table: Table, out: Path) -> None:
    """Keep the plan where those who work on it find it."""
    content = {"table": table.name, "cells": plan.cells, "sets": plan.sets}
    write_whole(out / PLAN, to_json(content))


def read_plan(out: Path) -> dict[str, Any]:
    """What :func:`write_plan` wrote.

    Raises:
        InputError: it is not there, or damaged.
    """
    return read_json(out / PLAN)


def _check_names(table: Table, request: Request) -> None:
    for name in request.weights:
        one_of("--weights", name, load_weights())
    for name in request.data:
        one_of("--data", name, (each.name for each in load_image_sets().values()))
    for name in request.rows:
        one_of("--rows", name, dict.fromkeys(row.name for row in table.rows))
    for name in request.predicted:
        known = dict.fromkeys(each for row in table.rows for each in (row.name, row.title))
        one_of("--predicted", name, known)
    for text in request.options:
        encoder, dot, rest = text.partition(".")
        if not dot or "=" not in rest:
            raise ConfigError(f"--set {text[:100]!r} is not ENCODER.OPTION=VALUE")
        if one_of("--set", encoder, ENCODERS) == "radseg":
            parse_assignments(RadsegConfig, [rest])


def _rules(row: Row) -> dict[str, Any]:
    """How the evaluation treats what a row predicts."""
    rules: dict[str, Any] = dict(RULES)
    for word in row.run.split():
        name, _, value = word.partition("=")
        if name.startswith("eval."):
            rule = name.removeprefix("eval.")
            rules[rule] = parse_value(value, type(rules[rule]))
    return rules


def _predicted(row: Row, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A cell whose predictions are there; and what is missing."""
    if not folder.is_dir():
        return {}, [f"{folder}: no such folder of predictions"]
    return {"encoder": PREDICTIONS, "options": {"folder": str(folder.resolve())}, **_rules(row)}, []


def _row_options(row: Row, column: str, request: Request) -> tuple[dict[str, Any], list[str]]:
    """Encoder, options and rules of a cell; and what is missing."""
    encoder, *words = row.run.split()
    texts, missing = [], []
    for name, _, value in (word.partition("=") for word in words):
        whose, colon, name = name.rpartition(":")
        if colon and whose != column:
            continue
        if value.startswith("@"):
            wanted = value.lstrip("@?")
            if wanted in request.weights:
                texts.append(f"{name}={request.weights[wanted]}")
            elif not value.startswith("@?"):
                missing.append(f"--weights {wanted}")
        elif not name.startswith("eval."):
            texts.append(f"{name}={value}")
    if encoder not in ENCODERS and encoder not in OUTSIDE:
        return {}, [f"this version has no encoder {encoder}"]
    texts += _texts_of(row, request) if encoder == "radseg" else []
    given = (text.partition(".") for text in request.options)
    texts += [rest for owner, _, rest in given if owner == encoder]
    texts += [f"device={request.device}"] if request.device else []
    try:
        options = typed(encoder, texts)
    except ConfigError as error:
        return {}, [str(error)]
    return {"encoder": encoder, "options": options, **_rules(row)}, missing


def _texts_of(row: Row, request: Request) -> list[str]:
    """The file of text embeddings that goes with a RADIO, if there is one and no other is named."""
    match = re.search(r"\bcheckpoint=@(\S+)", row.run)
    file = load_weights()[match.group(1)].text if match else "-"
    if file not in request.weights or "text_embeddings=" in row.run:
        return []
    return [f"text_embeddings={request.weights[file]}"]


def typed(encoder: str, texts: list[str]) -> dict[str, Any]:
    """Options of a command line or a row as their encoder's types.

    Raises:
        ConfigError: RADSeg has no such option, or it takes no such value.
    """
    if encoder != "radseg":
        return {name: value for name, _, value in (text.partition("=") for text in texts)}
    options = parse_assignments(RadsegConfig, texts)
    from_dict(RadsegConfig, options, "radseg.")
    return options


def _cell(
    how: dict[str, Any], row: Row, name: str, images: dict[str, Any], request: Request
) -> dict[str, Any]:
    """One cell, with a mark that is another one where it would give another number."""
    options = dict(how["options"])
    short_side: int | None = 0
    pairs = {}
    if how["encoder"] == PREDICTIONS:
        short_side = None
        outside = PredictedImages(Path(options["folder"]), images["classes"])
        found = outside.pairs([Path(label) for _, label in images["pairs"]])
        pairs = {"pairs": [[str(path) for path in pair] for pair in found]}
    elif row.resolution != "-":
        short_side, crop, stride = SETTINGS[f"{name}-{row.resolution}"]
        options = {"crop": crop, "stride": stride, **options}
        if options["crop"] == 0:
            options["stride"] = 0
    cell = {**how, "options": options, "short_side": short_side, "set": name, **pairs}
    cell["threads"] = request.threads
    named = [each for v in options.values() for each in (v if isinstance(v, list) else [v])]
    files = [_listing(each) for each in named if isinstance(each, str)]
    sources = [versions(), git_revision(), files, images["mark"], PIECE]
    return {**cell, "mark": digest([cell, sources])}


def _listing(value: str) -> list[str]:
    """Name, size and time of the files that an option names; none where it names no place."""
    path = Path(value)
    if not value or not path.exists():
        return []
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = ((file.name, file.stat()) for file in files if file.is_file())
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in found]


def _image_set(spec: ImageSet, request: Request) -> dict[str, Any]:
    """The files of a set, their sizes, classes, and what its labels mean.

    Raises:
        InputError: it cannot be used; says what was looked for.
    """
    root = Path(request.data[spec.name])
    if not root.is_dir():
        raise InputError(f"--data {spec.name}: {root} is no folder")
    limit = request.limit or None
    if spec.labels == "-":
        files = [path for path in sorted(root.rglob("*")) if is_ours(path, COLOR_SUFFIXES)]
        if not files:
            raise InputError(f"--data {spec.name}: {root} holds no images")
        pairs = [(path, path) for path in files[: min(limit or spec.count, spec.count)]]
        about: dict[str, Any] = {"classes": [], "first_label": 0}
    else:
        images, labels = _folders(root, spec)
        names = _names(root / spec.listed) if spec.listed != "-" else frozenset()
        pairs = pair_files(images, labels, names)[:limit]
        own = root / "classes.txt"
        classes = read_classes(own if own.is_file() else class_file(spec.classes))
        about = {"classes": classes, "first_label": FIRST_LABEL[spec.name]}
    sizes = [[path.stat().st_size for path in pair] for pair in pairs]
    found = {
        "title": spec.what.partition(",")[0],
        "all": spec.count,
        "pairs": [[str(path.resolve()) for path in pair] for pair in pairs],
        **about,
    }
    return {**found, "mark": digest([found, sizes])}


def _folders(root: Path, spec: ImageSet) -> tuple[Path, Path]:
    """Where images and labels are: as the set comes, or ``images`` and ``labels``."""
    tried = ((spec.images, spec.labels), ("images", "labels"))
    for images, labels in tried:
        if (root / images).is_dir() and (root / labels).is_dir():
            return root / images, root / labels
    looked = " nor ".join(f"{images} and {labels}" for images, labels in tried)
    raise InputError(f"--data {spec.name}: {root} holds neither {looked}")


def _names(path: Path) -> frozenset[str]:
    """The names in a list of a data set; none where there is no such file."""
    return frozenset(read_text(path).split()) if path.is_file() else frozenset()
