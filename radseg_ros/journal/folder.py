# SPDX-License-Identifier: Apache-2.0
"""A journal: a folder of records that are appended one by one, each a file of its own.

``journal.json`` says whose records these are: ``version``, ``id`` (of this journal, for ever),
``identity`` (encoder, weights, head, labels: what the vectors mean), ``space``, ``channels``, and
``options`` (all options of the mapper that began it). A record is ``NUMBER-KIND.safetensors``;
numbers grow, and may have gaps.

A record is there whole or not at all, and on the disk when :meth:`Journal.append` returns: a
process that is killed loses the one that it was writing. A file that is damaged later costs itself
alone. When the journal would exceed its bound, what no map is made of any more goes first, and then
the oldest frames: those that a saved map holds already.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datatypes import InputError, MapFileError, brief
from ..files import locked_folder, write_whole
from ..reading import MISFITS, read_json
from ..voxels.map_file import MAX_CHANNELS, MapIdentity
from ..voxels.tensor_file import opened, read_tensors, save_tensors
from ..voxels.voxel_map import MOST_RECORDS
from .record import FILE, FRAME, NOTHING, VERSION, Content, KeyFrame, Record, unpack
from .story import Story, tell

logger = logging.getLogger(__name__)

ABOUT = "journal.json"
NAME = re.compile(r"(\d{10})-([a-z_]{1,20})\.safetensors")
HEADER_BYTES = 4096  # of a record, about
MOST_BYTES = 1 << 30  # of a record: an image of MAX_PIXELS takes a third of that
MOST_OWED = 1000  # small records that wait for a disk that cannot be written


@dataclass(frozen=True, slots=True)
class About:
    """Whose records they are."""

    id: str
    identity: MapIdentity
    space: str
    channels: int
    options: dict[str, Any]

    def require(self, other: About, folder: Path) -> None:
        """Refuse frames that mean something else.

        Raises:
            MapFileError: names the first difference.
        """
        self.identity.require(other.identity, f"the journal {folder}")
        for name in ("space", "channels"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise MapFileError(
                    f"the journal {folder} was begun with {name} {mine}, here it is {theirs}: name "
                    "another folder (journal.directory)"
                )


class Journal:
    """The records of a folder, to be read.

    Raises:
        MapFileError: there is no journal, or it is damaged, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = _read_about(folder)
        self.damaged: Counter[str] = Counter()  # records that could not be read, by reason
        self.records = _listed(folder)
        self.nbytes = sum(record.nbytes for record in self.records)

    @property
    def frames(self) -> int:
        """How many key frames it holds."""
        return sum(record.kind == FRAME for record in self.records)

    def story(self) -> Story:
        """What the records tell of the map."""
        return tell(self.records)

    def header(self, record: Record) -> dict[str, Any] | None:
        """What a record says of itself; None = it is damaged, which is counted."""
        try:
            with opened(self.folder / record.name, FILE) as (_, header):
                return self._own(record, header)
        except MapFileError as error:
            self.leave_out(error)
            return None

    def content(self, record: Record) -> Content | None:
        """All that a record holds; None = it is damaged, which is counted."""
        try:
            header, state = read_tensors(self.folder / record.name, FILE, MOST_BYTES)
            return Content(self._own(record, header), state)
        except MapFileError as error:
            self.leave_out(error)
            return None

    def _own(self, record: Record, header: dict[str, Any]) -> dict[str, Any]:
        """The header of a record; the first ones say neither their number nor whose they are.

        Raises:
            MapFileError: its file has taken the place of another one.
        """
        for name, own in self._place(record).items():
            if header.get(name, own) != own:
                path = self.folder / record.name
                raise MapFileError(f"{path} is the copy of a record of another {name}")
        return header

    def _place(self, record: Record) -> dict[str, Any]:
        """Where a record belongs, as its header says."""
        return {"journal": self.about.id, "number": record.number, "kind": record.kind}

    def key_frame(self, record: Record) -> KeyFrame | None:
        """The key frame of a record; None = it is damaged, which is counted."""
        content = self.content(record)
        if content is None:
            return None
        try:
            found = unpack(content)
        except InputError as error:
            self.leave_out(error)
            return None
        if found.features.channels == self.about.channels:
            return found
        self.leave_out(InputError("features of another width"))
        return None

    def leave_out(self, error: Exception) -> None:
        """Count what cannot be used of the journal."""
        reason = brief(str(error).replace(f"{self.folder}{os.sep}", ""), 200)
        if not self.damaged:
            logger.warning("a record of the journal is left out: %s (others are counted)", reason)
        self.damaged[re.sub(r"\d{10}", "N", reason)] += 1


class JournalWriter(Journal):
    """The same, by the one who appends to it; a folder that is empty, or not there, begins one.

    A disk that is full or cannot be written costs the records that do not get there, and is told
    once.

    Args:
        about: what is to be written; its ``id`` is that of a new journal.
        max_bytes: 0 = no bound.

    Raises:
        MapFileError: it is damaged, in use by another process, or of other frames than these.
        InputError: the folder cannot be made, or a new journal not be begun in it.
    """

    def __init__(self, folder: Path, about: About, max_bytes: int = 0) -> None:
        _begin(folder, about)
        self._lock = locked_folder(folder, "the journal")
        for part in folder.glob(".*.part.safetensors"):  # of a process that was killed
            with suppress(OSError):
                part.unlink(missing_ok=True)
        super().__init__(folder)
        self.about.require(about, folder)
        self.lost = 0  # frames that could not be written
        self.max_bytes = max_bytes
        self._told = False
        self._owed: list[tuple[Record, Content]] = []  # small ones that could not be written yet
        self.next = max((record.number for record in self.records), default=0) + 1

    def begin_after(self, number: int) -> None:
        """The next record gets a number behind ``number``, which a saved map has seen."""
        self.next = max(self.next, number + 1)

    def append(self, kind: str, content: Content | Mapping[str, Any]) -> int:
        """Write a record; return its number, which no other one gets even if this one is lost.

        Small records are kept until they can be written, because what follows depends on them.
        """
        if not isinstance(content, Content):
            content = Content(content, NOTHING)
        record = Record(self.next, kind, content.nbytes + HEADER_BYTES)
        self.next += 1
        self._owed.append((record, content))
        try:
            while self._owed:
                self._write(*self._owed[0])
                del self._owed[0]
        except (OSError, MapFileError) as error:
            self.lost += sum(each.kind == FRAME for each, _ in self._owed)
            self._owed = [each for each in self._owed if each[0].kind != FRAME][-MOST_OWED:]
            self._tell(error)
        return record.number

    def close(self) -> None:
        """Let another process write."""
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write(self, record: Record, content: Content) -> None:
        self._make_room(record.nbytes)
        path = self.folder / record.name
        save_tensors(path, FILE, {**content.header, **self._place(record)}, content.state)
        written = record._replace(nbytes=path.stat().st_size)
        self.records = [*self.records, written]  # whoever reads the old list goes on with that
        self.nbytes += written.nbytes

    def _make_room(self, nbytes: int) -> None:
        if not self.max_bytes or self.nbytes + nbytes <= self.max_bytes:
            return
        if nbytes > self.max_bytes:
            raise OSError(None, f"a record of {nbytes} bytes is larger than journal.max_bytes")
        needed = {record.number for record in self.story().told}
        void = [record for record in self.records if record.number not in needed]
        frames = [record for record in self.records if record.kind == FRAME]
        for record in dict.fromkeys([*void, *frames]):
            if self.nbytes + nbytes <= self.max_bytes:
                return
            (self.folder / record.name).unlink(missing_ok=True)
            self.records = [other for other in self.records if other is not record]
            self.nbytes -= record.nbytes

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            reason = getattr(error, "strerror", None) or error
            logger.warning(
                "the journal %s cannot be written (%s): mapping goes on, frames that are not "
                "written are counted",
                self.folder,
                reason,
            )


def _listed(folder: Path) -> list[Record]:
    """Its records, by number.

    Raises:
        MapFileError: the folder cannot be read.
    """
    found = []
    try:
        for entry in os.scandir(folder):
            match = NAME.fullmatch(entry.name)
            if match and int(match[1]) <= MOST_RECORDS and entry.is_file():
                found.append(Record(int(match[1]), match[2], entry.stat().st_size))
    except OSError as error:
        raise MapFileError(f"the journal {folder} cannot be read: {error.strerror}") from error
    return sorted(found)


def _read_about(folder: Path) -> About:
    """What ``journal.json`` says.

    Raises:
        MapFileError: it is missing, damaged, or of another version.
    """
    path = folder / ABOUT
    if not os.path.isfile(path):
        raise MapFileError(f"there is no journal in {folder}")
    found = read_json(path, dict, MapFileError)
    version = found.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise MapFileError(
            f"{path} is of version {brief(version, 20)}, this program reads versions up to "
            f"{VERSION}"
        )
    try:
        said = dict(found["identity"])
        identity = MapIdentity(**{**said, "labels": tuple(said["labels"])})
        id, *rest = (found[name] for name in ("id", "space", "channels", "options"))
        about = About(id, identity, *rest)
        texts = (about.id, about.space, *dataclasses.astuple(identity)[:3], *identity.labels)
        sound = all(isinstance(text, str) for text in texts) and isinstance(about.options, dict)
        sound &= type(about.channels) is int and 0 < about.channels <= MAX_CHANNELS
    except MISFITS as error:
        raise MapFileError(f"{path} is damaged: a field is missing or impossible") from error
    if not sound:
        raise MapFileError(f"{path} is damaged: a field is impossible")
    return about


def _begin(folder: Path, about: About) -> None:
    """Make the folder, and a journal in it if there is none.

    Raises:
        InputError: one of the two cannot be made.
    """
    if (folder / ABOUT).exists():
        return
    text = json.dumps({"version": VERSION, **dataclasses.asdict(about)}, indent=1)
    try:
        write_whole(folder / ABOUT, text)
    except OSError as error:
        raise InputError(f"no journal can be begun in {folder}: {error.strerror}") from error


def new_id() -> str:
    """Of a journal."""
    return uuid.uuid4().hex
