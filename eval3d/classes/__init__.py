# SPDX-License-Identifier: Apache-2.0
"""Class lists, shipped as data: what the classes are called, and their ids in a data set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.datatypes import InputError

HERE = Path(__file__).parent
SHIPPED = ("replica101", "nyu40", "scannet20", "scannet200", "scannetpp100")

# hovsg leaves out every class whose name contains one of these
HOVSG_IGNORED_WORDS = ("wall", "floor", "ceiling", "door", "window", "background")


@dataclass(frozen=True)
class ClassList:
    """Classes in order: label i + 1 is ``names[i]``, and ``ids[i]`` in the data set's files."""

    name: str
    names: tuple[str, ...]
    ids: tuple[int, ...]
    ignored: frozenset[str] = frozenset()  # names that the paper's protocol leaves out

    def __post_init__(self) -> None:
        if (
            not self.names
            or len(self.names) != len(self.ids)
            or len(set(self.ids)) != len(self.ids)
        ):
            raise InputError(
                f"class list {self.name}: needs at least one class, and one distinct id for each"
            )

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.zeros(max(max(self.ids), 0) + 2, np.int64)
        for label, i in enumerate(self.ids, start=1):
            if i >= 0:
                table[i] = label
        return table

    def labels_of(self, ids: np.ndarray) -> np.ndarray:
        """Ids of the data set -> labels 1..C.

        Ids that are not in the list, negative ones too, -> 0 (ignore).
        """
        ids = np.asarray(ids)
        if ids.dtype.kind == "f":
            ids = np.where(np.isfinite(ids), ids, -1).astype(np.int64)
        last = len(self._table) - 1  # its entry is 0: where everything unknown goes
        return self._table[np.where((ids < 0) | (ids > last), last, ids).astype(np.int64)]

    def labels_named(self, names: Iterable[str]) -> tuple[int, ...]:
        """Names -> labels, in order of the list.

        Raises:
            InputError: a name is not in the list.
        """
        names = set(names)
        unknown = sorted(names - set(self.names))
        if unknown:
            raise InputError(f"class list {self.name} has no {', '.join(unknown)}")
        return tuple(label for label, name in enumerate(self.names, start=1) if name in names)

    def structural(self) -> tuple[int, ...]:
        """The labels that the hovsg protocol ignores."""
        return tuple(
            label
            for label, name in enumerate(self.names, start=1)
            if any(word in name.lower() for word in HOVSG_IGNORED_WORDS)
        )


def read_table(path: Path) -> list[list[str]]:
    """The rows of a tab-separated file without its comment lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        [cell.strip() for cell in line.split("\t")]
        for line in lines
        if line.strip() and not line.startswith("#")
    ]


def load_classes(source: str | Path) -> ClassList:
    """A shipped list by its name, or a file.

    ``.tsv`` holds id and name; ``.json`` a folder's meta.json, Replica's info_semantic.json, or a
    list of names; ``.txt`` one name a line, ids from 1.

    Raises:
        InputError: no such list, or a file that holds none.
    """
    path = HERE / f"{source}.tsv" if str(source) in SHIPPED else Path(source)
    if not path.is_file():
        raise InputError(
            f"no class list {source!s}: neither a file nor one of {', '.join(SHIPPED)}"
        )
    name = str(source) if str(source) in SHIPPED else path.stem
    try:
        if path.suffix == ".tsv":
            rows = read_table(path)
            ignored = frozenset(row[1] for row in rows if row[2:3] == ["-"])
            return ClassList(
                name, tuple(row[1] for row in rows), tuple(int(row[0]) for row in rows), ignored
            )
        if path.suffix == ".json":
            return _from_json(name, json.loads(path.read_text(encoding="utf-8")))
        names = [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        return ClassList(name, tuple(names), tuple(range(1, len(names) + 1)))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no class list: {error}") from error


def _from_json(name: str, data: Any) -> ClassList:
    classes = data.get("classes", data) if isinstance(data, dict) else data
    if isinstance(classes, dict):
        pairs = [(int(key), str(value)) for key, value in classes.items()]
    elif classes and isinstance(classes[0], dict):
        pairs = [(int(row["id"]), str(row["name"])) for row in classes]
    else:
        pairs = list(enumerate(map(str, classes), start=1))
    pairs = sorted(pair for pair in pairs if pair[0] > 0)  # id 0 is "none" in all of these
    return ClassList(name, tuple(p[1] for p in pairs), tuple(p[0] for p in pairs))


def scannet_to_nyu40() -> dict[int, int]:
    """Raw ScanNet label id -> NYU40 id; ids that are not in it have none."""
    return {int(raw): int(nyu) for raw, nyu in read_table(HERE / "scannet_nyu40.tsv")}
