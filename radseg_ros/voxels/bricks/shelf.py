# SPDX-License-Identifier: Apache-2.0
"""A folder of bricks, each a file with tensors as maps have them, but for the codecs.

They are of one process, which locks the folder, and of no use to another: what a process leaves
behind that was killed is removed by the next one. So nothing waits until they are on the disk. And
no file is believed: what is read is what this process wrote, to the last byte, or lost.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
import uuid
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...datatypes import InputError, MapFileError, brief
from ...files import locked_folder, prepare_folder
from ..tensor_file import read_back, write_tensors
from . import cubes

logger = logging.getLogger(__name__)

SUFFIX = ".radbrick"
NOT_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of a file that may well be sound


@dataclass(frozen=True, slots=True)
class Brick:
    """One that is on the disk."""

    path: Path
    voxels: int
    nbytes: int  # of the file
    digest: str  # SHA-256 of the file
    newest: int  # time of the map's clock, ns, when the last of its voxels was hit
    outline: torch.Tensor = field(compare=False)  # (voxels,), see cubes.outline


class Shelf:
    """The files of the bricks of all maps of this process. Thread safe.

    A file is never changed. What a map does not need any more is removed as soon as nobody reads.

    Raises:
        InputError: the folder cannot be made or written.
        MapFileError: another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed = 0  # bricks that could not be written: what was evicted for want of them
        self.damaged: Counter[str] = Counter()  # voxels that could not be read, by reason
        self._begun = self._told = False  # what the log has said
        prepare_folder(folder)
        descriptor = locked_folder(folder, "the folder of bricks")
        _empty(folder)
        self._end = weakref.finalize(self, _end, folder, descriptor)
        self._names = (f"{uuid.uuid4().hex}-{n}{SUFFIX}" for n in itertools.count())
        self._files = threading.Lock()  # guards the rest
        self._lost: set[Path] = set()  # of bricks whose voxels are counted as damaged
        self._readers = 0
        self._discarded: list[Path] = []

    def close(self) -> None:
        """Remove all files, and let another process have the folder."""
        self._end()

    def write(self, state: Mapping[str, torch.Tensor]) -> Brick | None:
        """A brick of what :meth:`VoxelTable.copied` gave; None = the disk does not take it."""
        with self._files:
            path = self.folder / next(self._names)
        try:
            nbytes, digest = write_tensors(path, state)
        except (OSError, MapFileError) as error:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            self.failed += 1
            self._tell(error)
            return None
        if not self._begun:
            self._begun = True
            logger.info(
                "memory has no room for all of the map: parts of it go to %s; published clouds "
                "show what is in memory",
                self.folder,
            )
        newest, outline = int(state["seen_at"].max()), cubes.outline(state["key"], state["hits"])
        return Brick(path, len(outline), nbytes, digest, newest, outline)

    def read(self, brick: Brick) -> dict[str, torch.Tensor] | None:
        """What was written; None = that is lost, which is counted once.

        Raises:
            MemoryError: memory, or what a process may open, has run out; nothing is lost.
        """
        try:
            return read_back(brick.path, brick.nbytes, brick.digest)
        except (MapFileError, OSError) as error:
            if isinstance(error, OSError) and error.errno in NOT_NOW:
                raise MemoryError(f"{brick.path} cannot be read now: {error.strerror}") from error
            self._count(brick, error)
            return None

    def _count(self, brick: Brick, error: Exception) -> None:
        reason = brief(str(error).replace(str(brick.path), "a brick"), 200)
        with self._files:
            if brick.path in self._lost:
                return
            first = not self.damaged
            self._lost.add(brick.path)
            self.damaged[reason] += brick.voxels
        if first:
            logger.error("%s: %d voxels are lost (others are counted)", error, brick.voxels)

    def discard(self, brick: Brick) -> None:
        """Nobody needs it any more, but for those who read now."""
        with self._files:
            self._discarded.append(brick.path)
            self._remove()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """No file goes while the block runs."""
        with self._files:
            self._readers += 1
        try:
            yield
        finally:
            with self._files:
                self._readers -= 1
                self._remove()

    def _remove(self) -> None:
        while self._discarded and not self._readers:
            path = self._discarded.pop()
            self._lost.discard(path)
            with suppress(OSError):  # it goes with the next process
                path.unlink(missing_ok=True)

    def _tell(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            reason = getattr(error, "strerror", None) or error
            logger.warning(
                "no brick can be written to %s (%s): voxels that memory has no room for are "
                "evicted, and counted",
                self.folder,
                reason,
            )


def _empty(folder: Path) -> None:
    for left in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):  # it takes room, and is never read
            left.unlink(missing_ok=True)


def _end(folder: Path, descriptor: int) -> None:
    _empty(folder)
    os.close(descriptor)


def shelf_at(directory: str) -> Shelf | None:
    """The one that an option names; empty = none.

    Raises:
        InputError, MapFileError: as :class:`Shelf`.
    """
    if not directory:
        return None
    try:
        return Shelf(Path(directory).expanduser())
    except RuntimeError as error:  # of a user who is not known
        raise InputError(f"map.disk_directory: {error}") from error
