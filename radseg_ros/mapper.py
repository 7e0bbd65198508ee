# SPDX-License-Identifier: Apache-2.0
"""The recipe: frames in, answers and clouds out. Node and evaluator drive this same object."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from .answers.cloud import rgb_cloud
from .answers.filter import chosen, mask
from .answers.result import QueryResult
from .answers.scores import TYPICAL, Census, Presence, best_odds, cosine
from .config import Config, LiftConfig, QueryConfig, to_dict
from .datatypes import (
    Cloud,
    ConfigError,
    FeatureMap,
    Filter,
    Frame,
    InputError,
    IntegrationStats,
    MapChanges,
    MapGeometry,
    MapOutline,
    check_rgb,
    check_texts,
)
from .encoders.protocol import Encoder
from .geometry import DeviceFrame, array, frame_on, resize_rgb, working_size
from .gpu.streams import SideStream
from .spaces import GROWTH, Calibration, make_space
from .voxels.bricks.asking import (
    Answered,
    Everywhere,
    asked_everywhere,
    outlined_everywhere,
)
from .voxels.bricks.bricks import Bricks
from .voxels.bricks.keeper import in_memory, voxels_of
from .voxels.bricks.saving import save_whole
from .voxels.bricks.shelf import shelf_at
from .voxels.coding.tiered import TieredVectors
from .voxels.lifting.lift import LiftedFrame
from .voxels.map_file import MapIdentity, load_map
from .voxels.view import (
    MapView,
    ProductScorer,
    Rows,
    Transform,
    rows_near,
    sampled_directly,
    scored_directly,
    scored_from_codes,
)
from .voxels.voxel_map import VoxelMap

MAX_SCORES = 100_000_000  # voxels x texts of one question: 400 MB
FEW = 1024  # voxels: projecting them takes a tenth of a second of two cores
MAX_TIME_LIMIT = 3600.0  # s
Result = TypeVar("Result")


class Timings:
    """Seconds and number of calls per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.calls[name] = self.calls.get(name, 0) + 1

    def totals(self) -> dict[str, tuple[float, int]]:
        """(seconds, calls) of each stage so far; from any thread."""
        return {name: (self.seconds[name], calls) for name, calls in list(self.calls.items())}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that a map must know of a frame."""

    frame: Frame | DeviceFrame  # at the working size
    features: FeatureMap
    lifted: LiftedFrame


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Question:
    """What voxels are asked."""

    scorer: ProductScorer
    texts: int  # Q
    key: Hashable  # the same for the same scorer
    where: Filter | None
    deadline: float  # s, time.monotonic()
    renew: float  # s, see Mapper.query


class Mapper:
    """An encoder and a voxel map.

    ``integrate`` is for one thread (the worker); everything else may be called from any thread at
    the same time.

    Raises:
        CheckpointError: the options ask for a refinement that the encoder's weights do not allow.
        ConfigError: the map's device cannot be used.
    """

    def __init__(self, config: Config, encoder: Encoder) -> None:
        self.config = config
        self.encoder = encoder
        self.space = make_space(config, encoder)
        self.calibration = Calibration(self.space)
        self.timings = Timings()
        self.lock = threading.Lock()  # guards self.map
        self._answering = threading.Lock()  # see QueryResult.turn
        device = encoder.device if config.map.device == "auto" else config.map.device
        self.shelf = shelf_at(config.persistence.disk_directory)
        self.map = VoxelMap(self.space.channels, config.map, config.lift, device, self._bricks())
        self._beside = SideStream(self.map.device)
        code_bytes = self.space.channels * 4 // config.map.cold_share
        self.view = MapView(
            self.space.answer_vectors,
            self.space.answer_channels,
            self.space.exact,
            code_bytes if config.map.hot_voxels else 0,
        )
        self._shown_by: tuple[Hashable, int, Presence] | None = None  # see _shown
        self._measured_at = -1  # the step of the view; what clouds show of before is out of date
        self.outline = MapView()  # what clouds in true colours are read from

    @property
    def nbytes(self) -> int:
        """Bytes allocated for the map, with index and what questions and clouds keep of it."""
        return self.map.nbytes + self.view.nbytes + self.outline.nbytes

    def _bricks(self) -> Bricks | None:
        return None if self.shelf is None else Bricks(self.shelf)

    @property
    def voxels(self) -> int:
        """In memory and on the disk, where each is counted once although bricks move."""
        with self.lock:
            return voxels_of(self.map)

    @property
    def answerable(self) -> float:
        """Share of the voxels in memory whose vectors are ready for questions, or a little old.

        Those of a map that is asked by its codes are.
        """
        return 1.0 if self._asks_codes else self.view.share(self.map)

    def kept_for(self, voxels: int) -> int:
        """Bytes that questions and clouds keep of so many voxels in memory, if there is room."""
        if not self.config.map.cache_projections:
            return 0
        views = (self.outline,) if self._asks_codes else (self.outline, self.view)
        return sum(view.nbytes_for(voxels, self.map.device) for view in views)

    def close(self) -> None:
        """Let another process have what this one has on the disk; the map is of no use then."""
        if self.shelf is not None:
            self.shelf.close()

    def integrate(self, frame: Frame) -> IntegrationStats:
        """Fuse one frame into the map.

        Raises:
            InputError: the features cannot be used; the map is as it was.
        """
        return self.fuse(self.prepare(frame), patient=True)

    @torch.inference_mode()
    def prepare(self, frame: Frame) -> Prepared:
        """The long part of ``integrate``, which needs no map: resize, encode and lift.

        On a GPU the frame is lifted while it is still being encoded.

        Raises:
            InputError: a strip, or an image that is too large.
        """
        seen = self.see(frame)
        with self._beside.work():
            return self.lifted(*seen)

    @torch.inference_mode()
    def see(self, frame: Frame) -> tuple[Frame | DeviceFrame, FeatureMap]:
        """Resize and encode; see :meth:`prepare`."""
        with self.timings.stage("resize"):
            sized = frame_on(self.space.sees_on, frame, self.config.short_side)
        self._beside.mark()
        with self.timings.stage("encode"):
            return sized, self.space.features(sized.rgb)

    def lifted(
        self, frame: Frame | DeviceFrame, features: FeatureMap, rules: LiftConfig | None = None
    ) -> Prepared:
        """A frame at the working size whose features are there.

        Args:
            rules: which depth pixels are used; None = those of the map.
        """
        with self.timings.stage("lift"):
            return Prepared(frame, features, self.map.lifted(frame, features, rules))

    def fuse(self, prepared: Prepared, record: int = 0, patient: bool = False) -> IntegrationStats:
        """The short part of ``integrate``: what ``prepare`` gave goes into the map.

        Args:
            record: number that the frame will have in the journal; 0 = none.
            patient: see :meth:`VoxelMap.integrate`.

        Raises:
            InputError: the features cannot be used; the map is as it was.
        """
        frame, features = prepared.frame, prepared.features
        with self.timings.stage("fuse"), self.lock:
            stats = self.map.integrate(frame, features, lifted=prepared.lifted, patient=patient)
            if record and stats.points:
                self.map.history.record = record
                self.map.history.frames += 1
        for view in (self.view, self.outline):
            if view.nbytes:  # it may have to go, now that the map is larger
                self._may_keep(view, self.map)
        return stats

    @torch.inference_mode()
    def query(
        self,
        texts: Sequence[str],
        rules: QueryConfig | None = None,
        prompts: bool = False,
        time_limit: float | None = None,
        renew: float = math.inf,
        where: Filter | None = None,
        vectors: np.ndarray | None = None,
    ) -> QueryResult:
        """How well every voxel answers each text.

        Frames are fused meanwhile: the map is locked for milliseconds at a time. Voxels are as
        they were when the question came, or newer.

        Args:
            rules: what counts as found; None = the configuration's.
            prompts: take the texts as they are instead of as names of things.
            time_limit: s, up to 3600, after which no more vectors are made: the answer is made of
                the voxels that have one, even if it is older than the question;
                ``QueryResult.covered`` says which share that is. None = no limit.
            renew: s in which the vectors of voxels that have changed since their last projection
                are made again; after that a slightly older mean is good enough. Voxels without a
                vector are not affected.
            where: which voxels may answer; None = all.
            vectors: (Q, W), any length but 0, what is asked for in place of the texts, which are
                only names then.

        Raises:
            InputError: texts that :func:`check_texts` refuses, too much at once, another limit, or
                vectors that cannot be used.
            LanguageError: a text cannot be embedded.
            ConfigError: the map stores probabilities and a text is not one of its labels.
        """
        deadline = _deadline(time_limit)
        check_texts(texts)
        rules = self.calibration.possible(rules or self.config.query)
        if vectors is None:
            wanted = self.space.text_vectors(texts, prompts)
            asked: Hashable = tuple(texts)
        else:
            wanted = _check_vectors(vectors, len(texts), self.space.answer_channels)
            asked = wanted.numpy().tobytes()
        scorer = self.space.scorer(wanted, rules)
        key = (asked, prompts, rules.mode, tuple(rules.background))
        question = _Question(scorer, len(texts), key, where, deadline, renew)
        source = self.map
        with self.timings.stage("score"):
            # what is calibrated is measured by what all others answer
            few = None if rules.mode == "calibrated" else self._few(source, where)
            found, asked_of = self._ask(source, question, few)
            geometry, scores = found.geometry, found.scores
            if rules.mode == "calibrated" and len(geometry):
                named = (texts, prompts) if vectors is None else None
                scores = self._presence(scores, rules, named).scores(scores)
        return self._result(texts, geometry, scores, rules, asked_of, where)

    def _ask(
        self, source: VoxelMap, question: _Question, few: int | None
    ) -> tuple[Everywhere, int]:
        """What voxels answer, and how many were asked.

        Args:
            few: of :meth:`_few`: no others are asked, but for bricks as a whole.
        """
        scorer, texts, deadline = question.scorer, question.texts, question.deadline
        asked_of = len(source) if few is None else few
        if few is None:
            _check_size(self.voxels, texts)

        def directly(world: VoxelMap, lock: threading.Lock, rows: Rows | None = None) -> Answered:
            return self._scored(world, lock, scorer, texts, deadline, rows)

        def kept() -> Answered:
            self.view.catch_up(source, self.lock, deadline, question.renew)
            return self.view.scored(source.voxel_size, scorer, texts, question.key)

        def in_memory() -> Answered:
            if (where := question.where) is not None and few is not None:
                return directly(source, self.lock, lambda world: _near(world, where, 2 * FEW))
            return self._of_view(self.view, source, kept) or directly(source, self.lock)

        found = asked_everywhere(
            source,
            self.lock,
            in_memory,
            lambda part: directly(part, threading.Lock()),
            question.where,
            deadline,
        )
        return found, min(asked_of, len(source)) + found.others

    def _scored(
        self,
        world: VoxelMap,
        lock: threading.Lock,
        scorer: ProductScorer,
        count: int,
        deadline: float,
        rows: Rows | None,
    ) -> Answered:
        """The voxels of a map, and how well they answer ``count`` texts, without a copy of it."""
        if isinstance(world.table.vectors, TieredVectors) and self._asks_codes:
            return scored_from_codes(world, lock, scorer, count, deadline, rows)
        return scored_directly(
            world, lock, self.space.answer_vectors, scorer, count, deadline, rows
        )

    def _few(self, source: VoxelMap, where: Filter | None) -> int | None:
        """How many voxels may answer, if they are few: these are asked where they are, however many
        others there are and whether or not those have vectors. None = they are not.
        """
        if where is None:
            return None
        with self.lock:
            near = _near(source, where, FEW)
        return None if near is None else len(near)

    @torch.inference_mode()
    def query_image(
        self,
        rgb: np.ndarray,
        name: str,
        rules: QueryConfig | None = None,
        time_limit: float | None = None,
        where: Filter | None = None,
    ) -> QueryResult:
        """How much every voxel looks like a picture of a thing.

        Pictures are nearer to each other than any picture is to a text. So what is compared is what
        the encoder sees, without the way into the space of the texts, and without what most of the
        map has in common: the score is the cosine of the vectors minus their mean over the map.

        Args:
            rgb: (H, W, 3) RGB, uint8 or float32 in [0, 1]; of the thing, cut out.
            name: what the answer calls it.
            rules, time_limit, where: see :meth:`query`; ``rules.mode`` does not matter.

        Raises:
            InputError: it is no image, or a strip; a name that :func:`check_texts` refuses.
            ConfigError: the map stores probabilities, which say nothing of other things.
        """
        deadline = _deadline(time_limit)
        check_texts([name])
        if self.space.identity.labels:
            raise ConfigError("the map stores probabilities of its labels: ask for one of them")
        picture = self._seen_on(rgb)
        source, asked_of = self.map, len(self.map)
        usual = torch.zeros(self.space.channels, dtype=torch.float64, device=source.device)

        def add(means: torch.Tensor) -> torch.Tensor:
            usual.add_(means.double().sum(0))
            return means[:, :0]

        def everywhere(transform: Transform, count: int, until: float) -> Everywhere:
            def directly(world: VoxelMap, lock: threading.Lock) -> Answered:
                return scored_directly(world, lock, transform, torch.clone, count, until)

            return asked_everywhere(
                source,
                self.lock,
                lambda: directly(source, self.lock),
                lambda part: directly(part, threading.Lock()),
                where,
                until,
            )

        with self.timings.stage("score"):
            seen = everywhere(add, 0, deadline)
            usual /= max(1, len(seen.geometry))
            special = (picture.to(source.device) - usual)[None].float()

            def alike(means: torch.Tensor) -> torch.Tensor:
                return cosine(means - usual.float(), special).clamp(0, 1)

            found = everywhere(alike, 1, deadline)
        asked_of = min(asked_of, len(source)) + found.others
        rules = rules or self.config.query
        return self._result([name], found.geometry, found.scores, rules, asked_of, where)

    def _seen_on(self, rgb: np.ndarray) -> torch.Tensor:
        """What the encoder sees on a picture: the mean of its vectors, (C,) float64."""
        size = check_rgb(rgb).shape[:2]
        short_side = min(self.config.short_side, min(size))  # it is not made larger
        features = self.space.features(resize_rgb(rgb, working_size(size, short_side)))
        return features.data.flatten(1).double().mean(1)

    def _result(
        self,
        texts: Sequence[str],
        geometry: MapGeometry,
        scores: torch.Tensor,
        rules: QueryConfig,
        asked_of: int,
        where: Filter | None,
    ) -> QueryResult:
        """Of a question to ``asked_of`` voxels."""
        source = self.map
        covered = min(1.0, len(geometry) / asked_of) if asked_of else 1.0
        if where is not None:
            geometry, scores = chosen(geometry, scores, where, source.clock.now_ns)
        return QueryResult(
            tuple(texts), geometry, array(scores), rules, covered, turn=self._answering
        )

    def _presence(
        self, odds: torch.Tensor, rules: QueryConfig, named: tuple[Sequence[str], bool] | None
    ) -> Presence:
        """What is known of each text in the map that is there now.

        Args:
            odds: (M, Q) of all its voxels, M >= 1.
            named: the texts, and whether they are prompts; None = they say nothing.
        """
        census = self._census(rules)
        context = torch.full(odds.shape[1:], TYPICAL)
        if named is not None:
            context = self.calibration.context(census, *named)
        return census.presence(best_odds(odds), context)

    def _census(self, rules: QueryConfig) -> Census:
        source = self.map
        if self.view.nbytes:
            return self.calibration.census(
                rules, self.view.sample, len(source), (id(source), self.view.step)
            )
        return self.calibration.census(
            rules,
            lambda most: sampled_directly(source, self.lock, self.space.answer_vectors, most),
            len(source),
            object(),
        )

    @torch.inference_mode()
    def work_ahead(self, rows: int) -> int:
        """Make up to ``rows`` answer vectors before anybody asks; return how many are missing."""
        source = self.map
        if not self._may_keep(self.view, source):
            return 0
        return self.view.catch_up(source, self.lock, ahead=rows)

    @property
    def _asks_codes(self) -> bool:
        """Whether questions need no vectors but those of the map, which are in tiers."""
        return self.space.straight and self.config.map.hot_voxels > 0

    def _may_keep(self, view: MapView, source: VoxelMap) -> bool:
        """Whether the bound of the map leaves room for a view, which is given up otherwise."""
        if view is self.view and self._asks_codes:
            return False
        others = sum(other.nbytes for other in (self.view, self.outline) if other is not view)
        if source.room_for(view.nbytes_for(len(source), source.device) + others):
            return True
        view.clear()
        return False

    def _of_view(
        self, view: MapView, source: VoxelMap, read: Callable[[], Result]
    ) -> Result | None:
        """What ``read`` makes of a view that is kept.

        None = the bound of the map leaves no room for it, or did not any more meanwhile: frames go
        on to take room while a question makes vectors.
        """
        if not self._may_keep(view, source):
            return None
        life, result = view.life, read()
        return result if view.life == life else None

    @torch.inference_mode()
    def changes(
        self, since: int, texts: Sequence[str] = (), time_limit: float | None = None
    ) -> MapChanges:
        """What a cloud of the map has to show anew: voxels, with how well each answers each text.

        Args:
            since: ``MapChanges.step`` of the last time, with the same texts and rules; -1 = all.
            texts: none = in true colours, without scores.
            time_limit: s after which voxels are left for the next time.

        Raises:
            InputError, LanguageError, ConfigError: see :meth:`query`.
        """
        deadline, source, size = _deadline(time_limit), self.map, self.map.voxel_size

        def of_outline() -> MapChanges:
            missing = self.outline.catch_up(source, self.lock, deadline)
            changes = self.outline.changes(since, size, _no_scores, 0)
            return dataclasses.replace(changes, missing=missing)

        def of_view() -> MapChanges:
            rules = self.calibration.possible(self.config.query)
            scorer = self.space.scorer(self.space.text_vectors(texts), rules)
            missing = self.view.catch_up(source, self.lock, deadline)
            presence = self._shown(texts, rules, scorer) if rules.mode == "calibrated" else None
            begin = -1 if since < self._measured_at else since
            changes = self.view.changes(begin, size, scorer, len(texts))
            if presence is not None:
                changes = dataclasses.replace(changes, scores=presence.scores(changes.scores))
            return dataclasses.replace(changes, missing=missing)

        if not texts:
            kept = self._of_view(self.outline, source, of_outline)
            return kept or _everything(*_outline(source, self.lock))
        check_texts(texts)
        _check_size(len(source), len(texts))
        kept = self._of_view(self.view, source, of_view)
        if kept is not None:
            return kept
        result = self.query(texts)
        return _everything(result.geometry, torch.from_numpy(result.scores))

    def places(self) -> MapOutline:
        """Where all voxels are, in memory and on the disk; some may be in both."""
        return outlined_everywhere(self.map, self.lock, lambda: self.changes(-1).geometry)

    def _shown(
        self, texts: Sequence[str], rules: QueryConfig, scorer: ProductScorer
    ) -> Presence | None:
        """What a cloud of these texts is made by, kept until the map has grown; None = no voxel."""
        key, voxels = (tuple(texts), tuple(rules.background)), len(self.map)
        if not voxels:
            return None
        kept = self._shown_by
        if kept is None or kept[0] != key or not 1 / GROWTH <= voxels / kept[1] <= GROWTH:
            _, odds = self.view.scored(self.map.voxel_size, scorer, len(texts))
            if not len(odds):
                return None
            kept = self._shown_by = (key, voxels, self._presence(odds, rules, (texts, False)))
            self._measured_at = self.view.step
        return kept[2]

    def rgb_cloud(self, min_hits: int = 1) -> Cloud:
        """The map in its true colours; voxels of fewer than ``min_hits`` points are left out."""

        source = self.map
        found = asked_everywhere(
            source,
            self.lock,
            lambda: _outline(source, self.lock),
            lambda part: _outline(part, threading.Lock()),
        )
        return rgb_cloud(found.geometry, min_hits)

    def configure(self, config: Config) -> None:
        """Go on with other options, of those that may change meanwhile (``Option.fixed``)."""
        with self.lock:
            self.config = config
            self._configure_map()

    def _configure_map(self) -> None:
        self.map.config, self.map.lift = self.config.map, self.config.lift

    def reset(self) -> None:
        """Forget the whole map."""
        with self.lock:
            self._shown_by = None
            self.map.clear()

    def clear_box(self, lowest: Sequence[float], highest: Sequence[float]) -> int:
        """Forget the voxels whose centres are in a box (metres, borders included).

        Return how many.
        """
        with self.lock:
            return self.map.clear_box(lowest, highest)

    def identity(self, frame_id: str = "") -> MapIdentity:
        """What the vectors of this map mean."""
        return dataclasses.replace(self.space.identity, frame_id=frame_id)

    def save(
        self,
        path: Path,
        frame_id: str = "",
        notes: Mapping[str, Any] | None = None,
        journal: str = "",
    ) -> int:
        """Write the map and return its number of voxels.

        Args:
            notes: what the file says besides the options; see ``MapHeader.notes``.
            journal: id of the one whose records are in the map; empty = none.

        Raises:
            MapFileError: the file cannot be written.
        """
        said, identity = {**self.notes(), **(notes or {})}, self.identity(frame_id)
        with nullcontext() if self.shelf is None else self.shelf.kept():
            frozen = self.map.frozen(self.lock)
            if journal:
                said["journal"] = {"id": journal, **frozen.history.note()}
            return save_whole(path, frozen, identity, said)

    def notes(self) -> dict[str, Any]:
        """What files of this map say of how it was made: enough to ask them later."""
        return {"options": to_dict(self.config)}

    def read(self, path: Path) -> tuple[VoxelMap, MapIdentity]:
        """A map from a file, and what it says of itself; this map does not change.

        Raises:
            MapFileError: the file is damaged, or was made with other weights or options.
        """
        return load_map(
            path,
            self.identity(),
            config=self.config.map,
            lift=self.config.lift,
            channels=self.space.channels,
            device=self.map.device,
            beyond=self._bricks(),
        )

    def holding(self, world: VoxelMap, key: torch.Tensor) -> AbstractContextManager[None]:
        """See :func:`in_memory`."""
        return in_memory(self, world, key)

    def take(self, loaded: VoxelMap, merge: bool = False) -> None:
        """Go on with a map that ``read`` gave in place of this one, or add it to this one."""
        with self.lock:
            self._shown_by = None
            if merge:
                self.map.merge(loaded)
            else:
                self.map = loaded
                self._configure_map()  # options may have changed while the file was read


def _deadline(time_limit: float | None) -> float:
    """time.monotonic() after so many seconds; None = never.

    Raises:
        InputError: not in 0..3600.
    """
    if time_limit is None:
        return math.inf
    if not 0 <= time_limit <= MAX_TIME_LIMIT:  # also NaN
        raise InputError(f"a time limit is in 0..{MAX_TIME_LIMIT:g} s, got {time_limit:g}")
    return time.monotonic() + time_limit


def _check_size(voxels: int, texts: int) -> None:
    """Refuse more scores at once than there is memory for."""
    if voxels * texts > MAX_SCORES:
        raise InputError(
            f"{texts} labels over {voxels} voxels are too many at once: ask for "
            f"{max(1, MAX_SCORES // voxels)} at a time"
        )


def _check_vectors(vectors: np.ndarray, texts: int, channels: int) -> torch.Tensor:
    """(Q, D) of any length -> of unit length.

    Raises:
        InputError: another shape, not finite, or of no length.
    """
    given = torch.as_tensor(vectors, dtype=torch.float32)
    if given.shape != (texts, channels):
        raise InputError(
            f"a vector for each of {texts} texts has {channels} numbers here, got an array of "
            f"shape {tuple(given.shape)}"
        )
    if not bool(torch.isfinite(given).all()) or not bool(given.any(1).all()):
        raise InputError("a vector must be finite and of some length")
    return torch.nn.functional.normalize(given, dim=1)


def _no_scores(vectors: torch.Tensor) -> torch.Tensor:
    return vectors[:, :0]


def _near(source: VoxelMap, where: Filter, most: int) -> torch.Tensor | None:
    """The rows of the voxels that may answer, see :func:`rows_near`."""
    now_ns = source.clock.now_ns
    return rows_near(source, where, lambda geometry: mask(geometry, where, now_ns), most)


def _outline(world: VoxelMap, lock: threading.Lock) -> Answered:
    """The voxels of a map, and no scores."""
    with lock:
        geometry = world.geometry()
    return geometry, geometry.xyz[:, :0]


def _everything(geometry: MapGeometry, scores: torch.Tensor) -> MapChanges:
    """The changes of a map of which no copy is kept."""
    slots = torch.arange(len(geometry))
    return MapChanges(-1, torch.ones_like(slots, dtype=torch.bool), slots, geometry, scores)
