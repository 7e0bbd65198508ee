# SPDX-License-Identifier: Apache-2.0
"""Label files: what is in a recording, where, as far as it is known, and what is not in it.

    {"note": "anything",
     "present": ["ceiling",
                 {"label": "sofa", "places": [{"position": [1.2, 0.4, 0.3]},
                                              {"lowest": [0.2, 0, 0], "highest": [1.9, 0.9, 0.8]},
                                              {"frame": "000008", "pixels": [20, 200, 110, 330]}]}],
     "absent": ["bed", "toilet"]}

Metres in the world of the recording's poses; pixels of the colour image of a frame (left, top,
right, bottom; right and bottom not included).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radseg_ros.datatypes import InputError, brief, check_texts
from radseg_ros.reading import read_json

from ..scoring.presence import Place

MAX_PLACES = 10_000
FARTHEST = 1e6  # m; what is farther off is no place
KINDS = ({"position"}, {"lowest", "highest"}, {"frame", "pixels"})


@dataclass(frozen=True, slots=True)
class Patch:
    """What one frame shows of a thing: a rectangle of its colour image."""

    frame: str
    pixels: tuple[int, int, int, int]  # left, top, right, bottom; the last two not included


@dataclass(frozen=True, slots=True)
class Labels:
    """What a label file says."""

    present: tuple[str, ...]
    absent: tuple[str, ...]
    places: dict[str, tuple[Place | Patch, ...]]  # of the present ones whose places are known
    digest: str  # SHA-256 of the file

    def patches(self) -> list[Patch]:
        """All of them; they take the frames that they are in to become places."""
        every = (each for places in self.places.values() for each in places)
        return [each for each in every if isinstance(each, Patch)]


def read_label_file(path: Path) -> Labels:
    """Read a label file.

    Raises:
        InputError: it is none; one sentence says which entry is wrong, and how.
    """
    data = read_json(path)
    _check_keys(data, {"present", "absent", "note"}, f"{path}: a label file")
    present: list[str] = []
    places: dict[str, tuple[Place | Patch, ...]] = {}
    for entry in _list(data.get("present", []), f"{path}: present"):
        label, known = _entry(entry, path)
        present.append(label)
        if known:
            places[label] = known
    absent = _list(data.get("absent", []), f"{path}: absent")
    for label in absent:
        if not isinstance(label, str):
            raise InputError(f"{path}: an absent label is a text, got {brief(label)}")
    _check_labels([*present, *absent], path)
    if sum(map(len, places.values())) > MAX_PLACES:
        raise InputError(f"{path} names more than {MAX_PLACES} places")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Labels(tuple(present), tuple(absent), places, digest)


def _check_labels(labels: Sequence[str], path: Path) -> None:
    try:
        check_texts(labels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    seen: set[str] = set()
    for label in labels:
        same = unicodedata.normalize("NFKC", label).casefold().strip()
        if same in seen:
            raise InputError(f"{path} names {brief(repr(label))} twice: is it there or not?")
        seen.add(same)


def _check_keys(value: Any, known: set[str], what: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{what} is an object with {', '.join(sorted(known))}")
    if unknown := sorted(value.keys() - known):
        raise InputError(
            f"{what} has {', '.join(sorted(known))}, not {brief(repr(str(unknown[0])))}"
        )


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{what} must be a list, got {brief(value)}")
    return value


def _entry(entry: Any, path: Path) -> tuple[str, tuple[Place | Patch, ...]]:
    if isinstance(entry, str):
        return entry, ()
    _check_keys(entry, {"label", "places"}, f"{path}: a present label that is no text")
    label = entry.get("label")
    if not isinstance(label, str):
        raise InputError(f"{path}: a label is a text, got {brief(label)}")
    where = f"{path}: places of {brief(repr(label))}"
    return label, tuple(_place(each, where) for each in _list(entry.get("places", []), where))


def _place(value: Any, where: str) -> Place | Patch:
    if not isinstance(value, dict) or value.keys() not in KINDS:
        raise InputError(
            f"{where}: each has position, or lowest and highest, or frame and pixels, got "
            f"{brief(value)}"
        )
    if "position" in value:
        position = _metres(value["position"], f"{where}: position")
        return Place(position, position)
    if "frame" in value:
        return _patch(value, where)
    lowest, highest = (_metres(value[key], f"{where}: {key}") for key in ("lowest", "highest"))
    if any(low > high for low, high in zip(lowest, highest, strict=True)):
        raise InputError(f"{where}: lowest {list(lowest)} lies beyond highest {list(highest)}")
    return Place(lowest, highest)


def _patch(value: dict[str, Any], where: str) -> Patch:
    frame, pixels = value["frame"], value["pixels"]
    if not isinstance(frame, str):
        raise InputError(f"{where}: a frame is named by a text, got {brief(frame)}")
    whole = isinstance(pixels, list) and len(pixels) == 4 and all(type(n) is int for n in pixels)
    if not (whole and 0 <= pixels[0] < pixels[2] and 0 <= pixels[1] < pixels[3]):
        raise InputError(
            f"{where}: pixels are whole numbers left, top, right, bottom, from 0 on, left before "
            f"right and top above bottom, got {brief(pixels)}"
        )
    return Patch(frame, tuple(pixels))


def _metres(value: Any, what: str) -> tuple[float, float, float]:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 3 or not all(
        type(n) in (int, float) and abs(n) <= FARTHEST for n in numbers
    ):
        raise InputError(f"{what} must be three numbers up to {FARTHEST:g} m, got {brief(value)}")
    x, y, z = map(float, numbers)
    return x, y, z
