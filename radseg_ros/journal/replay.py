# SPDX-License-Identifier: Apache-2.0
"""A map made of a journal: when a node starts, and with other options by ``radseg-map --journal``.

What a map file and the journal say together, when a map begins with both:

* The file says up to which record of which journal it goes. What it holds comes from it, because
  that is quick and frames of it may have left the journal; the records that follow come from the
  journal. So nothing is counted twice.
* Was the map reset, or another one loaded, after the file was written, then the journal is right.
* A file of which neither it nor the journal says that they belong together is right: whether the
  frames are in it is not known. The journal goes on with what is added to that file.
* Without a file the journal makes the map, on top of the one that it names as loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import LiftConfig
from ..datatypes import FeatureMap, InputError, MapFileError, check_pose
from ..reading import MISFITS
from ..voxels.camera_path import CameraPath
from ..voxels.map_file import fingerprint, load_map, read_header
from ..voxels.voxel_map import History, VoxelMap
from .folder import Journal, JournalWriter
from .record import FRAME, KeyFrame, Record
from .story import CLEARED, LOADED, MERGED, MOVED, Story

logger = logging.getLogger(__name__)

Poses = dict[int, np.ndarray]  # number of a frame -> T_world_camera, (4, 4)


@dataclass(slots=True)
class Beginning:
    """What a map begins with, before the records that follow."""

    path: Path | None = None  # a map file; None = nothing
    history: History = field(default_factory=History)  # what is in it
    foreign: bool = False  # the journal knows nothing of the file


def beginning(journal: Journal, story: Story, path: Path | None) -> Beginning:
    """What to begin with where there are a journal and, maybe, a map file.

    Raises:
        MapFileError: the file is damaged.
    """
    history = None if path is None else _history_in(path, journal)
    if history is not None and history.record >= story.begun:
        return Beginning(path, history)
    base = story.base
    named = journal.header(base) if base is not None else None
    known = None if named is None else str(named.get("fingerprint"))
    if path is not None and history is None and fingerprint(path) != known:
        return Beginning(path, foreign=True)
    if base is None or named is None:
        return Beginning()
    for file in (path, Path(str(named.get("path")))):
        if file is not None and _is(file, known):
            return Beginning(file, History(record=base.number))
    logger.warning(
        "the map file %s, to which frames of the journal were added, is gone or has changed: the "
        "map has those frames only",
        named.get("path"),
    )
    return Beginning()


def _history_in(path: Path, journal: Journal) -> History | None:
    """What a map file says of this journal; None = nothing."""
    note = read_header(path).notes.get("journal")
    if not isinstance(note, dict) or note.get("id") != journal.about.id:
        return None
    try:
        return History.of(note)
    except InputError as error:
        raise MapFileError(f"{path} is damaged: {error}") from error


def _is(path: Path, known: str | None) -> bool:
    try:
        return fingerprint(path) == known
    except MapFileError:
        return False


def poses_of(journal: Journal, records: Iterable[Record], until: int | None = None) -> Poses:
    """Where corrections have put frames; those that were never moved are not in it.

    Args:
        until: corrections of later numbers do not count.
    """
    poses: Poses = {}
    for record in records:
        if record.kind != MOVED or (until is not None and record.number > until):
            continue
        content = journal.content(record)
        try:
            if content is not None:
                frames, T = content.header["frames"], content.state["poses"].numpy()
                numbers = [int(number) for number in frames]
                poses |= {n: check_pose(T[i]) for i, n in enumerate(numbers)}
        except MISFITS as error:
            journal.leave_out(InputError(f"{record.name} tells impossible poses ({error})"))
    return poses


def replay(
    journal: Journal,
    records: Iterable[Record],
    world: VoxelMap,
    camera: CameraPath,
    poses: Poses,
    rules: LiftConfig | None = None,
    vectors: Callable[[KeyFrame], FeatureMap] | None = None,
) -> Iterator[Record]:
    """Do with a map what records tell, one after the other; what is damaged is left out.

    Args:
        camera: is told where frames were taken.
        poses: of frames that are elsewhere than their records say.
        rules: which depth pixels are used; None = as when each frame was fused.
        vectors: what voxels store of a frame; None = what is in the journal.

    Yields:
        Each record, once it is in the map.
    """
    for record in records:
        if record.kind == FRAME:
            _add_frame(journal, record, world, camera, poses, rules, vectors)
        elif record.kind in (CLEARED, MERGED):
            _change(journal, record, world)
        world.history.record = max(world.history.record, record.number)
        yield record


def _add_frame(
    journal: Journal,
    record: Record,
    world: VoxelMap,
    camera: CameraPath,
    poses: Poses,
    rules: LiftConfig | None,
    vectors: Callable[[KeyFrame], FeatureMap] | None,
) -> None:
    found = journal.key_frame(record)
    if found is None:
        return
    frame = found.frame
    if record.number in poses:
        frame = replace(frame, T_world_camera=poses[record.number])
    try:
        features = found.features if vectors is None else vectors(found)
        stats = world.integrate(frame, features, rules or found.rules)
    except InputError as error:
        journal.leave_out(error)
        return
    if stats.points:
        world.history.frames += 1
        camera.add(frame.T_world_camera)


def _change(journal: Journal, record: Record, world: VoxelMap) -> None:
    """Forget a box, or add a file."""
    header: dict[str, Any] | None = journal.header(record)
    try:
        if header is not None and record.kind == CLEARED:
            world.clear_box(*(_corner(header[name]) for name in ("lowest", "highest")))
        elif header is not None:
            path = Path(header["path"])
            if fingerprint(path) != header["fingerprint"]:
                raise MapFileError(f"{path} was added to the map, and has changed since")
            world.merge(load_map(path, device=world.device)[0])
    except (*MISFITS, MapFileError) as error:
        journal.leave_out(error)


def _corner(values: Any) -> list[float]:
    x, y, z = map(float, values)
    return [x, y, z]


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """The map of an earlier run."""

    path: Path  # the file that it began with, or the folder of the journal
    map: VoxelMap
    camera: CameraPath
    frame_id: str  # of the world; empty = not known


def remember(
    journal: JournalWriter,
    path: Path | None,
    read: Callable[[Path], VoxelMap],
    empty: VoxelMap,
) -> Remembered | None:
    """The map that a journal and, maybe, a map file tell of; None = there is none.

    Args:
        read: a map file, as the map that goes on with it.
        empty: what the map begins with where there is no file.

    Raises:
        MapFileError: the file is damaged, or does not fit.
    """
    story = journal.story()
    begun = beginning(journal, story, path)
    if begun.foreign and begun.path is not None:
        if lost := story.frames():
            logger.warning(
                "%s is not of the journal %s: %d frames of that are not in the map and go when "
                "room is needed",
                begun.path,
                journal.folder,
                lost,
            )
        told = {"path": str(begun.path.absolute()), "fingerprint": fingerprint(begun.path)}
        journal.append(LOADED, told)
        story = journal.story()
    steps = [each for each in story.main if each.number > begun.history.record]
    if begun.path is None and not steps:
        return None
    world, camera, frame_id = empty, CameraPath(), ""
    if begun.path is not None:
        world, header = read(begun.path), read_header(begun.path)
        camera, frame_id = CameraPath.of(header), header.identity.frame_id
        begun.history.removed += world.history.removed
        world.history = begun.history
    poses = poses_of(journal, story.main)
    world.history.stale |= _not_moved_yet(journal, story, begun.history, poses)
    if frames := story.frames(begun.history.record):
        logger.info("the map goes on with %d frames of %s", frames, journal.folder)
    for _ in replay(journal, steps, world, camera, poses):
        pass
    journal.begin_after(world.history.record)
    frame_id = frame_id or frame_of(journal, steps)
    return Remembered(begun.path or journal.folder, world, camera, frame_id)


def frame_of(journal: Journal, records: Sequence[Record]) -> str:
    """The frame of the world, as the newest key frame among ``records`` tells it; or empty."""
    for record in reversed(records):
        if record.kind == FRAME and (header := journal.header(record)) is not None:
            return str(header.get("frame_id", ""))
    return ""


def _pose_in(header: dict[str, Any]) -> np.ndarray | None:
    """Where a key frame was taken; None = its record is damaged, and counted when it is used."""
    try:
        return check_pose(np.array(header["pose"]))
    except MISFITS:
        return None


def _not_moved_yet(journal: Journal, story: Story, history: History, poses: Poses) -> Poses:
    """Frames of a map file that were moved after it was written, and where they are in it."""
    before = poses_of(journal, story.main, until=history.record)
    frames = {each.number: each for each in story.main if each.kind == FRAME}
    found: Poses = {}
    for number in poses.keys() & frames.keys() - history.stale.keys():
        if number > history.record or poses[number] is before.get(number):
            continue
        T = before.get(number)
        if T is None and (header := journal.header(frames[number])) is not None:
            T = _pose_in(header)
        if T is not None and not np.array_equal(T, poses[number]):
            found[number] = T
    return found
