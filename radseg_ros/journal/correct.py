# SPDX-License-Identifier: Apache-2.0
"""Frames that were elsewhere: a map that follows corrected poses while it grows and is asked.

A map that has lost no voxel is the sum of its frames. From a sum a frame can be taken out where it
was and put in where it belongs: that costs the frame twice, whatever the size of the map, and the
map is right at every moment but for what waits. Hits are exact, vectors to the rounding of sums:
where nearly all points of a voxel have gone (:attr:`VoxelMap.worn`, after many frames have moved)
that is more than 1e-4, so such a map is afterwards made anew.

Carving, forgetting, eviction and clear_box depend on the order of the frames, and halves of numbers
cannot be subtracted: of a voxel that is gone nobody knows which frames were in it. Such a map is
made anew from the journal at once, beside the old one, which goes on until the new one has caught
up and takes over. That costs all frames once, and the memory of two maps, and is exact by its
making: it is what a map of the corrected poses would have been. Why it is not always done: nothing
gets better until it has ended, and a few frames cost as much as all. ``bench/correct.py`` compares
the two.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ..datatypes import Frame, InputError, MapFileError, check_pose
from ..device import give_way
from ..reading import MISFITS
from ..voxels.camera_path import CameraPath
from ..voxels.lifting.lift import LiftedFrame
from ..voxels.voxel_map import PAUSE, VoxelMap
from .folder import JournalWriter
from .record import FRAME, Content, KeyFrame, Record
from .replay import Poses, beginning, poses_of, replay
from .story import MOVED, Story
from .trajectory import Trajectory, moved

logger = logging.getLogger(__name__)

# s after a failure that nobody expected, and how often that is doubled after others in a row
RETRY, MOST_DOUBLED = 1.0, 6
PATIENCE = 0.1  # s that a step lets a frame go first, at most
CATCHING_UP = 20  # looks whether a map has all frames, until the last one may be added in turn


class Host(Protocol):
    """Who has the map."""

    map: VoxelMap
    lock: threading.Lock  # guards it

    def take(self, loaded: VoxelMap, merge: bool = False) -> None:
        """Go on with another map."""
        ...

    def holding(self, world: VoxelMap, key: torch.Tensor) -> AbstractContextManager[None]:
        """Voxels of (N,) keys, as far as a map has them, are in memory while the block runs."""
        ...


class Looks(Protocol):
    """What else is known of frames, by their numbers."""

    def __contains__(self, number: object) -> bool: ...

    def move(self, number: int, before: Frame, after: Frame) -> None:
        """A frame was elsewhere."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What a trajectory says of the frames in the journal."""

    moved: int  # are elsewhere, and will be put there
    kept: int  # are where they were, nearly enough
    outside: int  # before, behind, or in a gap of the trajectory: they stay
    gone: int  # in the map and not in the journal any more: they stay
    shifts: dict[int, np.ndarray]  # stamp (ns) of frames that are elsewhere -> T_new_old, (4, 4)


class _Known(NamedTuple):
    """What must be known of a frame to tell where it belongs."""

    stamp_ns: int
    camera: str
    optical_frame: str
    T_world_camera: np.ndarray  # as it was fused first


class Corrector:
    """Moves frames of a map, one by one, in a thread of its own.

    Args:
        turn: held by whoever changes the map as a whole or adds a frame, from its lift to the
            journal.
        read: a map file, as the map that goes on with it.
        share: of one core's time.
        changed: is called when frames have been moved; at last with the way of the camera, if all
            of it is known.
        looks: what else follows frames that move; None = nothing now.
    """

    def __init__(
        self,
        journal: JournalWriter,
        host: Host,
        turn: threading.Lock,
        read: Callable[[Path], VoxelMap],
        share: float,
        changed: Callable[[CameraPath | None], None],
        looks: Callable[[], Looks | None] = lambda: None,
    ) -> None:
        self.failed = 0  # frames that could not be moved: damaged, or gone meanwhile
        self._journal, self._host, self._turn, self._read = journal, host, turn, read
        self._share, self._changed, self._looks = share, changed, looks
        self._known: dict[int, _Known] = {}
        self._poses = poses_of(journal, journal.records)  # numbers are given once
        self._busy = False
        self._closing, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="correcting", daemon=True)
        if host.map.history.stale:
            self._begin()

    @property
    def waiting(self) -> int:
        """Frames that are not yet where they belong; at least 1 while anything is to be done."""
        return len(self._host.map.history.stale) or int(self._busy)

    def close(self, timeout: float | None = None) -> bool:
        """Let the frame in hand finish; False when ``timeout`` (s) was not enough."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def prepare(self) -> None:
        """Read what :meth:`request` must know of the frames, so that nobody waits for the disk."""
        for record in self._frames():
            self._know(record)

    def request(
        self,
        trajectory: Trajectory,
        mounted: Callable[[str], np.ndarray],
        min_shift: float,
        min_angle: float,
        whose: Callable[[str], bool] = lambda camera: True,
    ) -> Correction:
        """Frames belong where a trajectory says. Called in turn.

        Args:
            mounted: T_body_camera, (4, 4), of the optical frame of images.
            min_shift, min_angle: m and degrees; who moves by less stays.
            whose: which cameras the trajectory is of; frames of others are not looked at.

        Raises:
            InputError: the map is no sum of its frames, and the journal does not hold them all.
        """
        frames = self._frames()
        known = {
            record.number: found
            for record in frames
            if (found := self._know(record)) is not None and whose(found.camera)
        }
        gone = self._gone(frames)
        if gone and not self._host.map.is_sum:
            raise InputError(
                f"{gone} frames are not in the journal any more (journal.max_bytes), and a map "
                "that has lost voxels cannot be corrected without making it anew"
            )
        numbers = list(known)
        stamps = np.array([each.stamp_ns for each in known.values()], np.int64)
        before = _stacked([self._poses.get(n, known[n].T_world_camera) for n in numbers])
        mounts = {name: mounted(name) for name in {k.optical_frame for k in known.values()}}
        T_body_camera = _stacked([mounts[each.optical_frame] for each in known.values()])
        first = _stacked([each.T_world_camera for each in known.values()])
        body, inside = trajectory.at(stamps, first @ np.linalg.inv(T_body_camera))
        after = body @ T_body_camera
        moves = np.flatnonzero(inside & moved(before, after, min_shift, min_angle))
        if len(moves):
            self._move([numbers[i] for i in moves], before[moves], after[moves])
        outside = int((~inside).sum())
        kept = len(known) - len(moves) - outside
        shifts = dict(
            zip(stamps[moves].tolist(), after[moves] @ np.linalg.inv(before[moves]), strict=True)
        )
        return Correction(len(moves), kept, outside, gone, shifts)

    def _move(self, numbers: list[int], before: np.ndarray, after: np.ndarray) -> None:
        poses = torch.from_numpy(np.ascontiguousarray(after))
        number = self._journal.append(MOVED, Content({"frames": numbers}, {"poses": poses}))
        with self._host.lock:
            history = self._host.map.history
            history.record = number
            for frame, old, new in zip(numbers, before, after, strict=True):
                history.stale.setdefault(frame, old)
                self._poses[frame] = new
        self._begin()

    def _begin(self) -> None:
        self._wake.set()
        if not self._thread.is_alive() and not self._closing.is_set():
            self._thread.start()

    def _records(self) -> list[Record]:
        """Those of the map that grows."""
        story = self._journal.story()
        return story.aside if story.waits else story.main

    def _frames(self) -> list[Record]:
        return [record for record in self._records() if record.kind == FRAME]

    def _gone(self, frames: Sequence[Record]) -> int:
        """Frames that are in the map and not in the journal any more."""
        return max(0, self._host.map.history.frames - len(frames))

    def _complete(self) -> bool:
        """Whether the journal has all frames of the map."""
        with self._turn:  # a frame in hand is in the map before it is in the journal
            return not self._gone(self._frames())

    def _know(self, record: Record) -> _Known | None:
        known = self._known.get(record.number)
        if known is None and (header := self._journal.header(record)) is not None:
            try:
                stamp_ns, pose = int(header["stamp_ns"]), check_pose(np.array(header["pose"]))
                camera, optical_frame = str(header["camera"]), str(header["optical_frame"])
                known = _Known(stamp_ns, camera, optical_frame, pose)
            except MISFITS as error:
                self._journal.leave_out(InputError(f"{record.name}: {error}"))
                return None
            self._known[record.number] = known
        return known

    # In the thread

    def _run(self) -> None:
        give_way()
        failures = 0
        while not self._closing.is_set():
            try:
                if not self._step():
                    if not self._busy:
                        self._wake.wait()
                        self._wake.clear()
                        continue
                    self._settle()
                    self._busy = False
                failures = 0
            except Exception:  # memory that runs out, say: what fails is undone
                if not failures:
                    logger.exception("frames are not where corrected poses say; tried again later")
                failures += 1
                self._closing.wait(RETRY * 2 ** min(failures, MOST_DOUBLED))

    def _settle(self) -> None:
        """All frames are where they belong: so was the camera."""
        self.prepare()
        world = self._host.map
        if world.is_sum and world.worn and self._complete():
            self._make_anew(world)
        with self._turn:
            frames = self._frames()
            if self._gone(frames) or self._journal.story().base is not None:
                return
            path = CameraPath()
            for record in frames:
                if (known := self._know(record)) is not None:
                    path.add(self._poses.get(record.number, known.T_world_camera))
            self._changed(path)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Some work, and the rest after it; a frame that waits for the map can have it then.

        A frame in hand goes first: on a small machine it is what both would be slow for.
        """
        if self._turn.acquire(timeout=PATIENCE):
            self._turn.release()
        begun = time.monotonic()
        yield
        rest = (time.monotonic() - begun) * (1 / self._share - 1)
        self._closing.wait(max(PAUSE, rest))

    def _restfully(self, records: Iterator[Record]) -> Iterator[Record]:
        """Each of the records, and the rest after it."""
        while True:
            with self._working():
                record = next(records, None)
            if record is None:
                return
            yield record

    def _step(self) -> bool:
        """Move a frame, or make the map anew; whether there was anything to do."""
        with self._host.lock:
            world = self._host.map
            stale = dict(world.history.stale)
        if not stale:
            return False
        self._busy = True
        if world.is_sum:
            self._move_one(world, stale)
        elif not self._complete():
            for number in stale:  # it would lose what the journal has lost
                self._give_up(world, number)
        else:
            self._make_anew(world)
        self._changed(None)
        return True

    def _move_one(self, world: VoxelMap, stale: Poses) -> None:
        number = nearest(stale, world.camera)
        with self._working():
            kept = self._journal.key_frame(Record(number, FRAME, 0))
        target = self._poses.get(number)
        if kept is None or target is None:
            self._give_up(world, number)
            return
        with self._working():
            before = _lifted(world, kept, stale[number])
        with self._working():
            after = _lifted(world, kept, target)
        steps, more = world.move(before, after, kept.features, kept.frame.stamp_ns), True
        try:
            with self._host.holding(world, torch.cat([before.key, after.key])):
                while more:
                    with self._working():
                        more = self._moves_on(steps, world, number, target)
        except InputError:
            if world.is_sum:  # else it is made anew
                self._give_up(world, number)
        else:
            self._follow(number, stale[number], target, kept.frame)

    def _follow(
        self, number: int, before: np.ndarray, after: np.ndarray, frame: Frame | None = None
    ) -> None:
        """A frame, which is in the journal, has been moved."""
        looks = self._looks()
        if looks is None or number not in looks:
            return
        with self._working():
            if frame is None:
                kept = self._journal.key_frame(Record(number, FRAME, 0))
                frame = None if kept is None else kept.frame
            if frame is not None:
                places = (replace(frame, T_world_camera=T) for T in (before, after))
                looks.move(number, *places)

    def _moves_on(
        self, steps: Iterator[None], world: VoxelMap, number: int, target: np.ndarray
    ) -> bool:
        """Do one step of a move; whether there are more."""
        with self._host.lock:
            if self._host.map is not world or number not in world.history.stale:
                return False  # the map was reset, or replaced
            for _ in steps:
                return True
            world.history.stale[number] = target
            right = world.is_sum
        # else it was taken out of codes meanwhile: a map that is made anew is nearer. Whether one
        # can be made is asked without the map: who has a turn waits for it
        if right or not self._complete():
            with self._host.lock:
                if self._poses[number] is target:  # not corrected once more meanwhile
                    world.history.stale.pop(number, None)
        return False

    def _give_up(self, world: VoxelMap, number: int) -> None:
        """A frame stays where it is."""
        with self._host.lock:
            self.failed += world.history.stale.pop(number, None) is not None

    def _make_anew(self, world: VoxelMap) -> None:
        """A second map from the journal, which takes over once it has caught up."""
        story = self._journal.story()
        begun = self._base(world, story)
        if begun is None:
            for number in list(world.history.stale):
                self._give_up(world, number)
            return
        new, done = begun
        poses, camera = dict(self._poses), CameraPath()

        def void() -> bool:
            """Whether the map was reset, replaced, or joined with the one that waited."""
            now = self._journal.story()
            same = (now.begun, now.waits) == (story.begun, story.waits)
            return not same or self._host.map is not world

        for left in itertools.chain([0] * CATCHING_UP, itertools.repeat(1)):
            steps = [record for record in self._records() if record.number > done]
            if len(steps) <= left:
                break
            for record in self._restfully(replay(self._journal, steps, new, camera, poses)):
                done = record.number
                if self._closing.is_set() or void():
                    return
        with self._turn:
            if void():
                return
            steps = [record for record in self._records() if record.number > done]
            for _ in replay(self._journal, steps, new, camera, poses):
                pass
            self._take_over(world, new, poses)
        for number in world.history.stale.keys() & poses.keys():
            self._follow(number, world.history.stale[number], poses[number])

    def _base(self, world: VoxelMap, story: Story) -> tuple[VoxelMap, int] | None:
        """What a map that is made anew begins with, and the record up to which that goes.

        None = the map file, to which the frames were added, is gone.
        """
        if story.waits or story.base is None:
            return world.another(), 0
        try:
            begun = beginning(self._journal, story, None)
            if begun.path is not None:
                return self._read(begun.path), begun.history.record
        except MapFileError as error:
            self._journal.leave_out(error)
        return None

    def _take_over(self, world: VoxelMap, new: VoxelMap, poses: Poses) -> None:
        """In turn."""
        new.history.record = world.history.record
        new.history.stale = {
            number: poses.get(number, self._known[number].T_world_camera)
            for number, T in self._poses.items()
            if number in self._known and poses.get(number) is not T
        }
        new.camera = world.camera
        self._host.take(new)


def nearest(stale: Poses, camera: tuple[float, float, float]) -> int:
    """Which frame is put in its place next: the newest of those within the same metre."""
    numbers = np.array(list(stale))
    places = np.stack([T[:3, 3] for T in stale.values()])
    metres = np.floor(np.linalg.norm(places - np.asarray(camera), axis=1))
    return int(numbers[np.lexsort((-numbers, metres))[0]])


def _lifted(world: VoxelMap, kept: KeyFrame, T_world_camera: np.ndarray) -> LiftedFrame:
    """What a frame adds to a map where somebody says that it was taken."""
    frame = replace(kept.frame, T_world_camera=T_world_camera)
    return world.lifted(frame, kept.features, kept.rules)


def _stacked(poses: list[np.ndarray]) -> np.ndarray:
    return np.stack(poses) if poses else np.zeros((0, 4, 4))
