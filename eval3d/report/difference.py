# SPDX-License-Identifier: Apache-2.0
"""``eval3d diff``: in what two results differ, of what must agree before they are compared."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radseg_ros.datatypes import InputError
from radseg_ros.reading import border, read_json

from .protocol import Protocol, run_protocol
from .runs import load_runs
from .tables import TITLES, cell, markdown

SCORES = ("miou", "fmiou", "macc", "acc")


@dataclass(frozen=True, slots=True)
class Result:
    """A number and how it came about."""

    protocol: Protocol
    scores: dict[str, float]


def add_diff(commands: Any) -> None:
    """The subcommand's parser."""
    parser = commands.add_parser("diff", help="say in what the protocols of two results differ")
    for name in ("a", "b"):
        parser.add_argument(
            name,
            type=Path,
            metavar=name.upper(),
            help="folder of one run, or a .json of radseg-eval2d or of a cell of a table",
        )


def command_diff(arguments: argparse.Namespace) -> int:
    """Print the differences -> 0 = the protocols agree, 1 = they do not."""
    a, b = read_result(arguments.a), read_result(arguments.b)
    found = differences(a, b)
    names = [str(arguments.a), str(arguments.b)]
    names = names if names[0] != names[1] else ["A", "B"]
    columns = ["protocol", *names]
    if found:
        print(markdown(columns, [dict(zip(columns, row, strict=True)) for row in found]))
    same = [what for what in a.protocol if a.protocol[what] == b.protocol.get(what)]
    print(f"The same: {', '.join(same) or 'nothing'}.\n")
    for name in (name for name in SCORES if name in a.scores and name in b.scores):
        change = 100 * (b.scores[name] - a.scores[name])
        before, after = cell(a.scores[name], name), cell(b.scores[name], name)
        print(f"{TITLES[name]}: {before} -> {after} ({change:+.2f})")
    return 1 if found else 0


def differences(a: Result, b: Result) -> list[tuple[str, str, str]]:
    """Each line of the protocols that is not the same: what, how in ``a``, how in ``b``."""
    names = dict.fromkeys([*a.protocol, *b.protocol])
    return [
        (name, a.protocol.get(name, "-"), b.protocol.get(name, "-"))
        for name in names
        if a.protocol.get(name) != b.protocol.get(name)
    ]


def read_result(path: Path) -> Result:
    """A run of ``eval3d``, or a result of ``radseg-eval2d`` and of tables.

    Raises:
        InputError: there is none, there are several, or it is damaged.
    """
    if path.suffix == ".json":
        return _from_json(path)
    runs = load_runs([path])
    if len(runs) > 1:
        places = ", ".join(str(run.scenes[0]["folder"].parent) for run in runs[:5])
        raise InputError(f"{path} holds {len(runs)} runs, name one: {places}")
    means = {name: runs[0].mean[name] for name in SCORES if name in runs[0].mean}
    return Result(run_protocol(runs[0]), means)


def _from_json(path: Path) -> Result:
    found = read_json(path)
    with border(path, "a result of radseg-eval2d"):
        protocol = found.get("protocol")
        if not isinstance(protocol, dict) or not all(
            isinstance(text, str) for text in protocol.values()
        ):
            raise InputError(f"{path} states no protocol: radseg-eval2d --json writes one")
        names = {"miou": "miou", "macc": "mean_accuracy", "acc": "accuracy"}
        scores = {name: float(found[key]) for name, key in names.items() if key in found}
        return Result(protocol, scores)
