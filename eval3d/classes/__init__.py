# SPDX-License-Identifier: Apache-2.0
"""Class lists, shipped as data: what the classes are called, and their ids in a data set."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.reading import border, read_json, read_text

HERE = Path(__file__).parent
SHIPPED = ("replica101", "nyu40", "scannet20", "scannet200", "scannetpp100")
IMAGE_CLASSES = ("voc20", "context59", "stuff171", "ade150", "cityscapes19")  # for label images

MAX_CLASSES = 4096  # the confusion matrix has that many rows and columns: 134 MB
MAX_ID = 1 << 20  # ids of data sets have 16 bits at most
MAX_NAME = 1000  # characters

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
        where = f"class list {self.name}"
        if not 1 <= len(self.names) <= MAX_CLASSES or len(self.names) != len(self.ids):
            raise InputError(
                f"{where}: needs 1 to {MAX_CLASSES} classes and an id for each, got "
                f"{len(self.names)} and {len(self.ids)}"
            )
        if not all(0 <= i < MAX_ID for i in self.ids):
            raise InputError(f"{where}: ids must lie in 0..{MAX_ID - 1}")
        if not all(name.strip() and len(name) <= MAX_NAME for name in self.names):
            raise InputError(f"{where}: names must have 1 to {MAX_NAME} characters")
        if hidden := next((name for name in self.names if not name.isprintable()), None):
            raise InputError(f"{where}: the name {ascii(hidden)} holds what cannot be seen")
        same = [unicodedata.normalize("NFKC", name).casefold() for name in self.names]
        for what, values in (("id", self.ids), ("name", same)):
            value, count = Counter(values).most_common(1)[0]
            if count > 1:  # which of them would a label be?
                raise InputError(f"{where}: the {what} {value!r} occurs {count} times")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.zeros(max(self.ids) + 2, np.int64)
        table[list(self.ids)] = np.arange(1, len(self.ids) + 1)
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
    """The rows of a tab-separated file without its comment lines.

    Raises:
        InputError: the file cannot be read.
    """
    return [
        [cell.strip() for cell in line.split("\t")]
        for line in read_text(path).splitlines()
        if line.strip() and not line.startswith("#")
    ]


def load_classes(source: str | Path) -> ClassList:
    """A shipped list by its name, or a file.

    ``.tsv`` holds id and name; ``.json`` a folder's meta.json, Replica's info_semantic.json, or a
    list of names; ``.txt`` one name a line, ids from 1.

    Raises:
        InputError: no such list, a file of another kind, or one that holds no list or one name
            twice.
    """
    shipped = str(source) in SHIPPED
    path = HERE / f"{source}.tsv" if shipped else Path(source)
    with border(path, "a class list"):
        if not path.is_file():
            raise InputError(
                f"no class list {source!s}: neither a file nor one of {', '.join(SHIPPED)}"
            )
        readers = {".tsv": _from_tsv, ".json": _from_json, ".txt": _from_txt}
        if path.suffix.lower() not in readers:
            raise InputError(f"{path}: class lists have the suffix {', '.join(readers)}")
        return readers[path.suffix.lower()](str(source) if shipped else path.stem, path)


def _from_txt(name: str, path: Path) -> ClassList:
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if names and all(re.match(r"-?\d+[\s.,;:]", each) for each in names):
        raise InputError(f"{path} holds numbers before its names: ids and names are a .tsv")
    return ClassList(name, tuple(names), tuple(range(1, len(names) + 1)))


def _from_tsv(name: str, path: Path) -> ClassList:
    rows = read_table(path)
    for row in rows:
        if len(row) < 2 or not row[0].isdecimal():
            raise InputError(f"{path} is no class list: {row[:2]} is not an id and a name")
    ignored = frozenset(row[1] for row in rows if row[2:3] == ["-"])
    return ClassList(
        name, tuple(row[1] for row in rows), tuple(int(row[0]) for row in rows), ignored
    )


def _from_json(name: str, path: Path) -> ClassList:
    data = read_json(path, object)
    classes = data.get("classes", data) if isinstance(data, dict) else data
    if isinstance(classes, dict):
        pairs = [(int(key), value) for key, value in classes.items()]
    elif isinstance(classes, list) and classes and isinstance(classes[0], dict):
        pairs = [(row["id"], row["name"]) for row in classes]
    elif isinstance(classes, list):
        pairs = list(enumerate(classes, start=1))
    else:
        raise InputError(f"{path} is no class list: it holds neither a list nor ids and names")
    if not all(type(i) is int and isinstance(text, str) for i, text in pairs):
        raise InputError(f"{path} is no class list: every class needs a whole number and a name")
    pairs = sorted(pair for pair in pairs if pair[0] > 0)  # id 0 is "none" in all of these
    return ClassList(name, tuple(p[1] for p in pairs), tuple(p[0] for p in pairs))


def class_file(source: str | Path) -> Path:
    """The file of the classes of label images: one that comes along, by its name, or a path."""
    return HERE / f"{source}.txt" if str(source) in IMAGE_CLASSES else Path(source)


def scannet_to_nyu40() -> dict[int, int]:
    """Raw ScanNet label id -> NYU40 id; ids that are not in it have none."""
    return {int(raw): int(nyu) for raw, nyu in read_table(HERE / "scannet_nyu40.tsv")}
