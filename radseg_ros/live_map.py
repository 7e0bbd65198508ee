# SPDX-License-Identifier: Apache-2.0
"""A map that grows while messages arrive, and is asked, saved, loaded and reset meanwhile."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .answers.floor.grid import Grid, LookedThrough, label_grid, occupancy_grid
from .answers.floor.viewpoint import Viewpoints
from .answers.packed import PackedCloud
from .answers.result import QueryResult
from .answers.tracks import Tracks
from .config import Config, to_dict
from .datatypes import (
    Answer,
    Cloud,
    FeatureMap,
    Filter,
    Frame,
    InputError,
    MapFileError,
    MapOutline,
    NotReadyError,
    SemanticObject,
    check_texts,
)
from .device import with_memory
from .frames.assemble import Assembler, Observation, cameras_of, is_of
from .frames.decode import camera_frame
from .frames.drops import DropCounts, Unusable
from .frames.keyframes import KeyFrames
from .frames.ledger import IMAGES, Account, input_name
from .frames.transforms import shown
from .geometry import DeviceFrame, arrays
from .journal.correct import Correction, Corrector
from .journal.folder import About, JournalWriter, new_id
from .journal.record import FRAME, Content, KeyFrame, pack, unpack
from .journal.replay import remember
from .journal.story import CLEARED, CONFIRMED, LOADED, MERGED, RESET, RESUMED, WAITS
from .journal.trajectory import Trajectory
from .language.words import read_words
from .mapper import Mapper
from .voxels.bricks.keeper import Keeper, bricks_of, voxels_of
from .voxels.camera_path import CameraPath
from .voxels.carving import depth_beyond
from .voxels.map_file import MapIdentity, fingerprint, read_header
from .voxels.voxel_map import VoxelMap
from .worker import LatestWorker

logger = logging.getLogger(__name__)

IDLE_PERIOD = 0.2  # s between two looks whether there is anything to do ahead
AHEAD_ROWS = 512  # voxels at a time
CLOUD_TIME = 0.5  # s that vectors are made for a published cloud; others follow with the next one
NEARLY_ALL = 0.9  # share of the voxels that must answer, or nothing is learnt about objects
RENEWAL = 0.5  # s that a question spends on voxels that changed since they were last projected
BUSY = "frame replaced by a newer one while the encoder was busy (node.backlog)"
CLOSED = "frame that came when the map was closed"
PAUSED = "image that came while the node was paused (~/resume)"
NO_MEMORY = (
    "frame for which the GPU has not enough memory (smaller short_side, radseg.preset fast, "
    "map.dtype float16, map.max_bytes)"
)
UNCONFIRMED = "-unconfirmed"  # end of the name of a map beside one that waits to be confirmed


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How far the frames of one camera are."""

    integrated: int
    waiting: int  # complete and not in the map yet
    skipped: int  # left out on purpose


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """What is in the journal, and what is not."""

    frames: int
    nbytes: int
    lost: int  # frames that could not be written
    damaged: int  # records that could not be read
    moving: int  # frames that a correction will put elsewhere
    unmoved: int  # frames that it could not: damaged, or not in the journal any more


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """What of the map is on the disk, and what is not."""

    voxels: int  # some may have points in memory as well
    nbytes: int
    wanted: int  # bricks that were seen again and are on their way back
    failed: int  # bricks that could not be written
    damaged: int  # voxels that could not be read


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """How far a live map is."""

    encoder: str  # its name; empty while it is loaded
    paused: bool
    stamp_ns: int  # of the last frame in the map; 0 = none
    frame_id: str  # of the map; empty as long as no pose has decided it
    voxels: int
    pending: int  # voxels of a loaded map that wait for LiveMap.confirm
    answerable: float  # share of the voxels whose vectors are ready for questions
    map_bytes: int
    integrated: int  # frames
    waiting: int  # frames that are complete and not in the map yet
    age: float | None  # s since a frame got into the map; None = none has
    pixels: dict[str, int]  # depth pixels: used, and not used by reason
    drops: list[tuple[str, int]]  # (reason and an example, count) of what was not used
    accounts: dict[str, Account]  # what became of the messages, by input (ledger.input_name)
    cameras: dict[str, CameraStatus]  # by name; of one alone it may be empty
    skipped: int  # frames among the dropped that are left out on purpose
    failures: int  # internal errors: each cost a frame, or is one of ``faults``
    faults: list[tuple[str, int]]  # (what failed, count) of what follows a frame in the map
    stages: dict[str, tuple[float, int]]  # (s, calls) of each stage of the work so far
    journal: JournalStatus | None  # None = there is none
    disk: DiskStatus | None  # likewise: map.disk_directory

    @property
    def everywhere(self) -> int:
        """Voxels in memory and on the disk."""
        return self.voxels + (0 if self.disk is None else self.disk.voxels)


@dataclass(frozen=True, slots=True, eq=False)
class PendingMap:
    """A map of an earlier run, of which nobody has said yet that its frame is still the same."""

    path: Path
    map: VoxelMap
    identity: MapIdentity
    camera: CameraPath


class LiveMap:
    """Assembler, worker and mapper, and the state that belongs to them together.

    Every method may be called from any thread. Two locks keep it consistent: one guards the state
    and is never held while something is encoded, scored, read or written; the other lets the
    worker, which fuses a frame, and whoever changes the map as a whole take turns. A frame of which
    any part arrived before the map was reset or replaced never gets into the new one.

    Raises:
        InputError: node.camera_offset or one of node.robot_origins is not a rigid transform.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._mapper: Mapper | None = None
        self.robots = cameras_of(config.node)
        self.cameras = tuple(name for names in self.robots.values() for name in names)
        self._assembler = Assembler(config.sync, config.node, self.robots)
        self._state = threading.Lock()
        self._turn = threading.Lock()
        self._closed = False
        self._epoch = 0  # grows whenever what waits becomes worthless
        self._epoch_reason = ""
        self._integrated = 0
        self._stamp_ns = 0
        self._version = 0
        self._pixels: Counter[str] = Counter()
        self._saved_version = 0
        self._camera = CameraPath()
        self._pending: PendingMap | None = None
        self._journal: JournalWriter | None = None
        self._corrector: Corrector | None = None  # where there is a journal
        self._keeper: Keeper | None = None  # where there are bricks
        self._faults = DropCounts("caught")  # of what follows a frame that is in the map
        self._tracks = Tracks()
        self._looked: LookedThrough | None = None  # as soon as anybody wants a floor plan
        self._closing = threading.Event()
        self._ahead = threading.Thread(target=self._work_ahead, name="work ahead", daemon=True)
        self._paused = False
        self._keyframes = {camera: KeyFrames() for camera in self.cameras}
        self._skipped: Counter[str] = Counter()  # frames by camera
        self._integrated_at: float | None = None  # s, time.monotonic
        self._worker: LatestWorker[tuple[int, Observation]] = LatestWorker(
            self._integrate, config.node.backlog, "mapping"
        )

    # The encoder is loaded in the background: until then there is nothing to ask

    def start(self, mapper: Mapper) -> None:
        """Take the mapper, once it is there; frames that were complete before are lost."""
        with self._turn:
            mapper.configure(self.config)  # which may have changed while the encoder was loaded
            self._mapper = mapper
        if mapper.shelf is not None:
            self._keeper = Keeper(mapper)
        if self.config.map.work_ahead:
            self._ahead.start()

    @property
    def mapper(self) -> Mapper:
        """The mapper.

        Raises:
            NotReadyError: the encoder is still loading.
        """
        if self._mapper is None:
            raise NotReadyError("the encoder is still loading, ask again")
        return self._mapper

    def _work_ahead(self) -> None:
        """In a thread of its own: vectors for the questions that will come, a share of the time."""
        share, pause = self.config.map.work_ahead, IDLE_PERIOD
        while not self._closing.wait(pause):
            start = time.monotonic()
            try:
                missing = self.mapper.work_ahead(AHEAD_ROWS)
            except Exception:
                logger.exception("no vectors are made ahead of questions any more")
                return
            spent = time.monotonic() - start
            pause = spent * (1 / share - 1) if missing else IDLE_PERIOD

    def close(self, timeout: float | None = None) -> bool:
        """Let the frame in hand finish; False when ``timeout`` (s) was not enough."""
        self._closing.set()
        with self._state:
            self._closed = True
            self._drop_waiting(CLOSED)
        ended = self._worker.close(timeout)
        if self._corrector is not None:
            ended = self._corrector.close(timeout) and ended
        if self._keeper is not None:
            ended = self._keeper.close(timeout) and ended
        if self._ahead.is_alive():  # an interpreter that ends while a thread computes is aborted
            self._ahead.join(timeout)
        if ended and self._journal is not None:
            self._journal.close()
        return ended

    def discard(self) -> None:
        """Give back what the map has on the disk, once it is closed and saved: it is not whole
        any more.
        """
        if self._mapper is not None:
            self._mapper.close()

    # In

    def receive(self, kind: str, message: Any, source: str = "") -> bool:
        """Take one message (``kind`` is one of ``assemble.KINDS``); never blocks.

        Args:
            source: see :meth:`Assembler.add`.

        Returns:
            Whether time ran backwards: what waited was dropped, the map is kept.
        """
        with self._state:
            if self._paused and kind in IMAGES:
                self._assembler.leave_out(kind, PAUSED, source)
                return False
            jumps = self._assembler.jumps
            for observation in self._assembler.add(kind, message, source):
                self._take_up(observation)
            return self._assembler.jumps != jumps

    def _take_up(self, observation: Observation) -> None:
        """Let the worker have it, unless it shows nothing new."""
        match, camera = observation.match, observation.camera
        keyframes = self._keyframes[camera]
        if skip := keyframes.skip(match.stamp_ns, match.T_world_camera, self.config.node):
            self._skipped[camera] += 1
            self._assembler.drop(skip, camera=camera)
            return
        if self._closed:
            self._assembler.drop(CLOSED, camera=camera)
            return
        lost = self._worker.submit((self._epoch, observation), camera)
        self._assembler.drop(BUSY, lost, camera)

    def pose_source(self, robot: str = "") -> str:
        """Where poses of a robot come from: topic, tf, or auto as long as that is open."""
        return self._assembler.localizers[robot].source

    def poses_from(self, source: str, robot: str = "") -> None:
        """Decide where poses of a robot come from, topic or tf, if that is open."""
        with self._state:
            self._assembler.localizers[robot].decide(source)

    def pause(self, paused: bool = True) -> None:
        """From now on images are counted and not looked at; poses and camera info are.

        What was received before still gets into the map. ``pause(False)`` goes on.
        """
        with self._state:
            self._paused = paused

    def _integrate(self, item: tuple[int, Observation]) -> None:
        """In the worker's thread."""
        try:
            self._fuse(*item)
        except Exception as error:
            full = isinstance(error, torch.cuda.OutOfMemoryError)
            camera = item[1].camera
            with self._state:
                self._assembler.drop(NO_MEMORY if full else error, camera=camera)
                self._keyframes[camera].forget()  # the map does not show what it shows

    def _fuse(self, epoch: int, observation: Observation) -> None:
        """Decode, encode, fuse.

        Raises:
            Exception: the frame is not part of the map.
        """
        mapper, observed, journal = self.mapper, observation.frame(), self._journal
        content = None
        if journal is None:
            prepared = with_memory(lambda: mapper.prepare(observed))
        else:
            content = self._packed(observation, *with_memory(lambda: mapper.see(observed)))
            kept = unpack(content)  # so that the map is what the journal makes of it again
        with self._turn:
            if epoch != self._epoch:
                raise Unusable(self._epoch_reason)
            if content is not None:
                prepared = mapper.lifted(kept.frame, kept.features, kept.rules)
            record = 0 if journal is None else journal.next
            stats = with_memory(lambda: mapper.fuse(prepared, record))
            if stats.points and journal is not None and content is not None:
                with self._fused("writing the journal"):
                    journal.append(FRAME, content)
            with self._fused("following things"):
                self._look(prepared.frame, record if stats.points else 0)
            with self._state:
                self._pixels.update(stats.dropped, used=stats.points)
                self._version += 1  # even a frame without points can make the map forget
                if not stats.points:
                    raise Unusable(stats.why_nothing)
                self._integrated += 1
                self._integrated_at = time.monotonic()
                self._stamp_ns = observation.match.stamp_ns
                self._camera.add(observation.match.T_world_camera)
                self._assembler.used(observation.camera)

    @contextmanager
    def _fused(self, what: str) -> Iterator[None]:
        """The frame is in the map already: a failure within is counted, and costs no frame."""
        try:
            yield
        except Exception as error:
            self._faults.add_failure(what, error)

    def _packed(
        self, observation: Observation, frame: Frame | DeviceFrame, features: FeatureMap
    ) -> Content:
        match, world = observation.match, self._assembler.map_frame
        images = camera_frame(match.color, match.depth)
        rules = self.mapper.config.lift
        key_frame = KeyFrame(arrays(frame), features, rules, observation.camera, world, images)
        return pack(key_frame, self.config.node.depth_scale)

    def _look(self, frame: Frame | DeviceFrame, record: int) -> None:
        """Whether a frame shows the things that were found, or what is behind them; and what it
        looks across, if anybody wants floor plans.

        Args:
            record: its number in the journal; 0 = none.
        """
        options = self.config.map

        def beyond(xyz: np.ndarray) -> np.ndarray:
            return depth_beyond(torch.from_numpy(xyz), frame, options.voxel_size).numpy()

        self._tracks.look(frame, beyond, options.carve_margin, self.mapper.map.clock.now_ns)
        if self._looked is not None:
            self._looked.add(arrays(frame), self.config.grid, record)

    # Out

    @property
    def drops(self) -> DropCounts:
        """Where whoever loses an input on its way here counts it."""
        return self._assembler.drops

    @property
    def version(self) -> int:
        """Grows whenever the map changes."""
        return self._version

    def moment(self) -> tuple[int, str]:
        """Stamp (ns) of the last frame in the map, 0 = none, and the frame of the map."""
        with self._state:
            return self._stamp_ns, self._assembler.map_frame

    def status(self) -> LiveStatus:
        """How far the map is, and what was not used, by reason."""
        mapper = self._mapper
        voxels = 0 if mapper is None else len(mapper.map)
        answerable = 1.0 if mapper is None else mapper.answerable
        with self._state:
            at, accounts = self._integrated_at, self._assembler.accounts()
            return LiveStatus(
                encoder="" if mapper is None else mapper.encoder.name,
                paused=self._paused,
                stamp_ns=self._stamp_ns,
                frame_id=self._assembler.map_frame,
                voxels=voxels,
                pending=self.pending,
                answerable=answerable,
                map_bytes=0 if mapper is None else mapper.nbytes,
                integrated=self._integrated,
                waiting=self._worker.pending,
                age=None if at is None else time.monotonic() - at,
                pixels=dict(self._pixels),
                drops=self._assembler.told(),
                accounts=accounts,
                cameras={
                    camera: CameraStatus(
                        accounts[input_name("color", camera)].used,
                        self._assembler.in_hand(camera),
                        self._skipped[camera],
                    )
                    for camera in self.cameras
                },
                skipped=self._skipped.total(),
                failures=self._assembler.failures + self._faults.failures,
                faults=self._faults.items(),
                stages={} if mapper is None else mapper.timings.totals(),
                journal=self._journal_status(),
                disk=_on_disk(mapper),
            )

    def query(
        self,
        texts: Sequence[str],
        prompts: bool = False,
        time_limit: float | None = None,
        where: Filter | None = None,
        vectors: np.ndarray | None = None,
        **rules: Any,
    ) -> QueryResult:
        """Ask the map; see :meth:`Mapper.query`.

        Vectors that are only a little old are renewed for half a second and then taken as they are:
        frames may change more than can be projected before the next ones come.

        Objects that texts find are followed from then on (:class:`Tracks`): they keep their ids,
        and are missing once frames have looked through their places. Where a filter, or a time
        limit, leaves much of the map out, or while frames are put elsewhere (:meth:`correct`), only
        those that are known already have ids.

        Args:
            time_limit, where, vectors: see :meth:`Mapper.query`.
            rules: fields of QueryConfig, in place of those of the configuration.

        Raises:
            NotReadyError: the encoder is still loading.
            ConfigError: a rule has an impossible value.
            InputError, LanguageError: see :meth:`Mapper.query`.
        """
        config = dataclasses.replace(self.config.query, **rules)
        names = [text.strip() for text in texts]
        tracks = self._tracks  # those of the map that is asked
        result = self.mapper.query(
            names, config, prompts, time_limit, RENEWAL, where=where, vectors=vectors
        )
        if vectors is not None:  # two of one name need not mean the same
            return result
        corrector = self._corrector
        moving = corrector is not None and corrector.waiting > 0  # things may be in two places
        whole = where is None and result.covered >= NEARLY_ALL and not moving
        return dataclasses.replace(result, tracks=tracks, whole=whole)

    def text_vectors(self, texts: Sequence[str], prompts: bool = False) -> np.ndarray:
        """What texts mean, (Q, W): to be asked with later, or compared elsewhere.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError, LanguageError, ConfigError: see :meth:`Mapper.query`.
        """
        mapper = self.mapper
        check_texts(texts)
        names = [text.strip() for text in texts]
        return mapper.space.text_vectors(names, prompts).float().cpu().numpy()

    @property
    def may_calibrate(self) -> bool:
        """Whether answers are calibrated as soon as everyday names have vectors.

        Raises:
            NotReadyError: the encoder is still loading.
        """
        return self.mapper.space.calibrates

    def names_at_hand(self) -> list[str]:
        """What may be anywhere: the labels of the cloud, of a labelled map, or everyday names that
        need no text tower.

        Raises:
            NotReadyError: the encoder is still loading.
        """
        fixed = self.config.node.labels or list(self.mapper.space.identity.labels)
        return fixed or self.mapper.encoder.at_hand(read_words("everyday"))

    def query_image(
        self,
        rgb: np.ndarray,
        name: str,
        time_limit: float | None = None,
        where: Filter | None = None,
        **rules: Any,
    ) -> QueryResult:
        """Ask for what looks like a picture; see :meth:`Mapper.query_image` and :meth:`query`.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError, ConfigError: see :meth:`Mapper.query_image`.
        """
        mapper, config = self.mapper, dataclasses.replace(self.config.query, **rules)
        name = name.strip()
        return with_memory(lambda: mapper.query_image(rgb, name, config, time_limit, where))

    def placed_in(self, frame_id: str = "") -> tuple[int, str, np.ndarray | None]:
        """Stamp (ns), name, and T_frame_map (4, 4) of the frame in which an answer is wanted.

        The stamp is that of the last frame in the map, or the last at which the transform is known.

        Args:
            frame_id: empty = that of the map, which needs no transform: then it is None.

        Raises:
            InputError: no transform joins the two frames.
        """
        stamp_ns, here = self.moment()
        if frame_id in ("", here):
            return stamp_ns, here, None
        if not here:
            raise InputError(f"the map has no frame yet, so {shown(frame_id)} cannot be reached")
        try:
            with self._state:
                T, moment_ns = self._assembler.placed(frame_id)
        except Unusable as error:
            raise InputError(f"no transform to frame {shown(frame_id)}: {error}") from error
        return moment_ns or stamp_ns, frame_id, T

    def floor_plan(self) -> Grid:
        """Where a robot can drive: see :func:`occupancy_grid`.

        From the first call on, frames also tell where they look across.

        Raises:
            NotReadyError: the encoder is still loading.
        """
        return self._floor_plan(self.mapper.places())

    def label_plan(self, label: str) -> tuple[Grid, float]:
        """Where a label lies: see :func:`label_grid`; and the share of voxels that were ready.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError, LanguageError, ConfigError: see :meth:`Mapper.query`.
        """
        result = self.query([label], time_limit=CLOUD_TIME)
        threshold, camera = result.rules.threshold, self.mapper.map.camera
        scores, rules = result.scores[:, 0], self.config.grid
        return label_grid(result.geometry, scores, threshold, rules, camera), result.covered

    def with_viewpoints(self, answers: Sequence[Answer], distance: float) -> list[Answer]:
        """The answers, with a place from which each thing can be seen, where one is known.

        Args:
            distance: m from the box of a thing.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError: the distance is not in 0.1..20 m.
        """
        outline, camera = self.mapper.places(), self.mapper.map.camera
        grid = self._floor_plan(outline)
        viewpoints = Viewpoints(outline, grid, self.config.grid, camera, distance)
        return [viewpoints.added(answer) for answer in answers]

    def _floor_plan(self, outline: MapOutline) -> Grid:
        with self._state:
            looked = self._looked = self._looked or LookedThrough(outline.voxel_size)
        return occupancy_grid(outline, self.config.grid, looked.cells(), self.mapper.map.camera)

    def cloud(self, labels: Sequence[str] = ()) -> Cloud:
        """Every voxel with its best label; without labels, the map in its true colours."""
        min_hits = self.config.node.cloud_min_hits
        if labels:
            return self.mapper.query(list(labels)).cloud(min_hits, self.config.node.labels)
        return self.mapper.rgb_cloud(min_hits)

    def show(self, cloud: PackedCloud, labels: Sequence[str] = ()) -> np.ndarray:
        """The points to publish of a cloud that follows this map; it is brought up to date first.

        ``node.cloud_min_hits``, ``cloud_radius`` and ``cloud_max_points`` say which points.

        Args:
            cloud: has been shown with the same labels before, or never.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError, LanguageError, ConfigError: see :meth:`Mapper.query`.
        """
        node, mapper = self.config.node, self.mapper
        changes = mapper.changes(cloud.step, labels, CLOUD_TIME)
        cloud.update(changes, self.config.query.threshold)
        centre = mapper.map.camera
        return cloud.points(node.cloud_min_hits, node.cloud_max_points, node.cloud_radius, centre)

    def check_labels(self, labels: Sequence[str]) -> None:
        """Refuse labels for the cloud that cannot be used; it may take as long as a question.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError, LanguageError, ConfigError: see :meth:`Mapper.query`.
        """
        if labels:
            check_texts(labels)
            self.mapper.space.text_vectors(labels)

    def configure(self, config: Config) -> None:
        """Go on with other options, of those that may change meanwhile (``Option.fixed``)."""
        with self._turn:
            self.config = config
            if self._mapper is not None:
                self._mapper.configure(config)

    # The map as a whole

    def save(self, path: Path) -> int:
        """Write the map and return its number of voxels.

        Raises:
            NotReadyError, MapFileError: there is no map yet; the file cannot be written.
        """
        version = self._version
        with self._state:
            notes = {"camera": self._camera.note()}
            # what waits is in the journal as well, and not in this file
            kept = self._journal is not None and self._pending is None
            journal = self._journal.about.id if kept and self._journal is not None else ""
        voxels = self.mapper.save(path, self.moment()[1], notes, journal)
        self._saved_version = version
        return voxels

    def autosave(self, path: Path) -> Path | None:
        """Write the map, if it would be lost otherwise; return where to.

        The file of a map that waits for :meth:`confirm` is kept: then the new one goes beside it.

        Raises:
            MapFileError: the file cannot be written.
        """
        if not self.unsaved:
            return None
        if self._pending is not None and path == self._pending.path:
            path = path.with_stem(f"{path.stem}{UNCONFIRMED}")
        self.save(path)
        return path

    @property
    def unsaved(self) -> int:
        """Voxels that would be lost now: 0 if the map is as it was last saved or loaded."""
        changed = self._mapper is not None and self._version != self._saved_version
        return self.status().everywhere if changed else 0

    def load(self, path: Path, merge: bool = False) -> int:
        """Read a map in place of this one, or add it to this one; return the voxels afterwards.

        Inputs that waited for a map that is replaced are dropped.

        Raises:
            NotReadyError: the encoder is still loading.
            MapFileError: the file is damaged, or was made with other weights, options or in another
                frame, or is being written; nothing changed.
        """
        mapper, known = self.mapper, fingerprint(path)
        found, kind = self._read(mapper, path), MERGED if merge else LOADED
        if fingerprint(path) != known:  # of what was read: the journal tells it
            raise MapFileError(f"{path} was written while it was read: ask again")
        told = {"path": str(path.absolute()), "fingerprint": known}
        return self._take(mapper, found, merge, kind, told)

    def resume(self, path: Path | None = None) -> bool:
        """Begin with a map of an earlier run, before the first message; and begin the journal.

        What a map file and the journal say together is decided by :func:`remember`.

        With ``map.frame_is_persistent`` it is the map from now on. Otherwise its coordinates mean
        nothing yet: a new ``odom`` has the name of the old one and another origin. So it waits:
        frames make a new map, which alone is asked, shown and saved, until :meth:`confirm` brings
        the two together. ``reset``, and ``load`` in place of the map, forget what waits.

        Args:
            path: of its file; None = the journal alone tells of it.

        Returns:
            Whether it waits.

        Raises:
            NotReadyError, MapFileError: as :meth:`load`; or the journal is damaged, or in use.
            InputError: the journal cannot be begun.
        """
        mapper = self.mapper
        found = None
        if self.config.journal.directory:
            found = self._remembered(mapper, path)
        elif path is not None:
            found = self._read(mapper, path)
        if found is None:
            if self._journal is not None and self._journal.records:
                self._tell(RESET)  # of what is in the journal no map is made
        elif self.config.persistence.frame_is_persistent:
            self._take(mapper, found, False, RESUMED)
        else:
            self._pending = found
            self._tell(WAITS)
        if (journal := self._journal) is not None:
            share = self.config.correct.share
            self._corrector = Corrector(
                journal,
                mapper,
                self._turn,
                lambda file: mapper.read(file)[0],
                share,
                self._corrected,
                lambda: self._looked,
            )
        return self._pending is not None

    def _remembered(self, mapper: Mapper, path: Path | None) -> PendingMap | None:
        """Open the journal -> the map that it and, maybe, a file tell of."""
        config, identity, space = self.config, mapper.identity(), mapper.space
        folder = Path(config.journal.directory).expanduser()
        about = About(new_id(), identity, config.map.space, space.channels, to_dict(config))
        self._journal = JournalWriter(folder, about, config.journal.max_bytes)
        empty = mapper.map.another()
        found = remember(self._journal, path, lambda file: mapper.read(file)[0], empty)
        if found is None:
            return None
        # records without any frame tell no frame of the world
        frame_id = found.frame_id or self._assembler.map_frame
        named = dataclasses.replace(identity, frame_id=frame_id)
        return PendingMap(found.path, found.map, named, found.camera)

    def _tell(self, kind: str, told: Mapping[str, Any] | None = None) -> None:
        """Let the journal know what has happened to the map as a whole."""
        mapper = self.mapper
        if self._journal is not None:
            number = self._journal.append(kind, told or {})
            with mapper.lock:
                mapper.map.history.record = number

    @property
    def journal(self) -> JournalWriter | None:
        """Where key frames are written to; None = nowhere."""
        return self._journal

    def _journal_status(self) -> JournalStatus | None:
        journal = self._journal
        if journal is None:
            return None
        damaged, corrector = sum(journal.damaged.values()), self._corrector
        counts = (0, 0) if corrector is None else (corrector.waiting, corrector.failed)
        return JournalStatus(journal.frames, journal.nbytes, journal.lost, damaged, *counts)

    def correct(
        self,
        stamps_ns: Sequence[int],
        poses: Sequence[np.ndarray],
        frame_id: str = "",
        robot: str = "",
    ) -> Correction:
        """Put frames where a corrected trajectory says, in the background.

        Newest ones, and those near the camera, come first; questions and frames go on meanwhile.
        See :mod:`.journal.correct` for what becomes of the map. Known things go with them at once,
        and no question learns of others until all frames are where they belong.

        Args:
            stamps_ns: of ``poses``, T_world_body (4, 4) of what ``correct.body_frame`` names.
            frame_id: of the world (:meth:`Localizer.world`); empty = that of the map.
            robot: whose frames they are of, one of ``self.robots``.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError: there is no journal, or no such robot; the poses cannot be used; or the
                journal does not hold the frames of a map that would have to be made anew.
        """
        options, corrector = self.config.correct, self._corrector
        if robot not in self.robots:
            known = ", ".join(filter(None, self.robots)) or "none"
            raise InputError(f"no robot is called {shown(robot)}; node.robots: {known}")
        if corrector is None:
            _ = self.mapper  # there is none yet while the encoder is loading
            raise InputError("corrected poses need a journal (journal.directory)")
        localizer = self._assembler.localizers[robot]

        def mounted(frame: str) -> np.ndarray:
            with self._state, _known("the camera's place on the body"):
                return localizer.mounted(frame, options.body_frame)

        with self._state, _known("the trajectory's place in the map"):
            T_map_world = localizer.world(frame_id)
        trajectory = Trajectory(stamps_ns, poses, options.max_gap, T_map_world)
        corrector.prepare()
        with self._turn:
            done = corrector.request(
                trajectory,
                mounted,
                options.min_shift,
                options.min_angle,
                lambda camera: is_of(camera, robot),
            )
            self._tracks.move(done.shifts)
        return done

    def _corrected(self, camera: CameraPath | None) -> None:
        """Frames have been moved."""
        with self._state:
            self._version += 1
            self._camera = camera or self._camera

    @property
    def pending(self) -> int:
        """Voxels of a loaded map that wait for :meth:`confirm`; 0 = none."""
        waiting = self._pending
        return 0 if waiting is None else voxels_of(waiting.map)

    def confirm(self) -> int:
        """The map that waits is in the frame of this one: join the two; return the voxels.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError: no map waits.
            MapFileError: it is in a frame of another name; nothing changed.
        """
        mapper = self.mapper
        with self._state:
            waiting, self._pending = self._pending, None  # of two at once, one joins
        if waiting is None:
            raise InputError("no loaded map waits to be confirmed")
        try:
            return self._take(mapper, waiting, True, CONFIRMED)
        except BaseException:  # another frame, or no memory for both: the map is as it was
            self._pending = waiting
            raise

    @staticmethod
    def _read(mapper: Mapper, path: Path) -> PendingMap:
        return PendingMap(path, *mapper.read(path), CameraPath.of(read_header(path)))

    def _take(
        self,
        mapper: Mapper,
        found: PendingMap,
        merge: bool,
        kind: str,
        told: Mapping[str, Any] | None = None,
    ) -> int:
        """Go on with the map of a file, in place of this one or joined with it.

        Args:
            kind, told: how the journal calls that.
        """
        with self._turn:
            with self._state:
                here = self._assembler.map_frame
                found.identity.require(MapIdentity(frame_id=here), str(found.path))
                self._assembler.map_frame = here or found.identity.frame_id
                if not merge:
                    self._begin_anew("input that waited when a map was loaded in its place")
            mapper.take(found.map, merge)
            self._tell(kind, told)
            with self._state:
                self._stamp_ns = mapper.map.last_stamp_ns or 0
                self._version += 1
                self._saved_version = self._saved_version if merge else self._version
                self._camera = self._camera.joined(found.camera) if merge else found.camera
        return mapper.voxels

    def reset(self) -> int:
        """Forget the map, everything that waits for it, and the frame that poses brought.

        Returns:
            The number of voxels that are forgotten.

        Raises:
            NotReadyError: the encoder is still loading.
        """
        mapper = self.mapper
        with self._turn:
            voxels = mapper.voxels
            with self._state:
                self._begin_anew("input that waited when the map was reset", forget_frame=True)
            mapper.reset()
            self._tell(RESET)
            with self._state:
                self._stamp_ns = 0
                self._camera = CameraPath()
                self._version += 1
        return voxels

    def clear_box(self, lowest: Sequence[float], highest: Sequence[float]) -> int:
        """Forget the voxels whose centres are in a box (m, borders included); return how many.

        They come back if they are seen again, also by a frame that is being encoded. Objects whose
        centres are in the box are not followed any more.

        Raises:
            NotReadyError: the encoder is still loading.
            InputError: a corner is no number, or lies beyond the opposite one.
        """
        mapper = self.mapper
        if not all(low <= high for low, high in zip(lowest, highest, strict=True)):  # also NaN
            raise InputError(
                f"a box goes from its lowest corner to its highest, got {lowest} to {highest}"
            )
        with self._turn:
            removed = mapper.clear_box(lowest, highest)
            if removed:
                self._tell(CLEARED, {"lowest": list(lowest), "highest": list(highest)})
            self._tracks.clear_box(lowest, highest)
            with self._state:
                self._version += removed > 0
        return removed

    def forget_object(self, id: int) -> SemanticObject:
        """Take an object out of the answers until newer frames show it; return what was known.

        Its voxels stay in the map, and answer other texts.

        Raises:
            InputError: no object of this id is followed.
        """
        return self._tracks.forget(id)

    def _begin_anew(self, reason: str, forget_frame: bool = False) -> None:
        """Make everything that was received so far worthless. Called with both locks held."""
        self._pending = self._looked = None
        self._tracks = self._tracks.anew()
        self._epoch += 1
        self._epoch_reason = reason
        for keyframes in self._keyframes.values():
            keyframes.forget()
        self._assembler.clear(reason, forget_frame)
        self._drop_waiting(reason)

    def _drop_waiting(self, reason: str) -> None:
        """Forget what waits for the worker. Called with the state locked."""
        for camera, count in self._worker.clear().items():
            self._assembler.drop(reason, count, camera)


def _on_disk(mapper: Mapper | None) -> DiskStatus | None:
    bricks = None if mapper is None else bricks_of(mapper.map)
    if bricks is None:
        return None
    failed, damaged = bricks.shelf.failed, sum(list(bricks.shelf.damaged.values()))
    return DiskStatus(bricks.voxels, bricks.nbytes, len(bricks.wanted), failed, damaged)


@contextmanager
def _known(what: str) -> Iterator[None]:
    """What is not known within is an input error, which says what that was to tell."""
    try:
        yield
    except Unusable as error:
        raise InputError(f"{what} is not known: {error}") from error
