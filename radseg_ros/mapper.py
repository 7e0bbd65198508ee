# SPDX-License-Identifier: Apache-2.0
"""The recipe: frames in, answers and clouds out. Node and evaluator drive this same object."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from .answers.cloud import rgb_cloud
from .answers.result import QueryResult
from .config import Config, QueryConfig
from .datatypes import Cloud, FeatureMap, Frame, InputError, IntegrationStats, check_texts
from .encoders.protocol import Encoder
from .geometry import resize_frame
from .spaces import make_space
from .voxels.map_file import MapIdentity, load_map, save_map
from .voxels.view import MapView, scored_directly
from .voxels.voxel_map import VoxelMap

MAX_SCORES = 100_000_000  # voxels x texts of one question: 400 MB


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
        self.timings = Timings()
        self.lock = threading.Lock()  # guards self.map
        device = encoder.device if config.map.device == "auto" else config.map.device
        self.map = VoxelMap(self.space.channels, config.map, config.lift, device)
        self.view = MapView(self.space.answer_vectors, self.space.answer_channels, self.space.exact)

    def integrate(self, frame: Frame) -> IntegrationStats:
        """Fuse one frame into the map.

        Raises:
            InputError: the features cannot be used; the map is as it was.
        """
        return self.fuse(*self.prepare(frame))

    @torch.inference_mode()
    def prepare(self, frame: Frame) -> tuple[Frame, FeatureMap]:
        """The long part of ``integrate``, which needs no map: resize and encode."""
        with self.timings.stage("resize"):
            frame = resize_frame(frame, self.config.short_side)
        with self.timings.stage("encode"):
            return frame, self.space.features(frame.rgb)

    def fuse(self, frame: Frame, features: FeatureMap) -> IntegrationStats:
        """The short part of ``integrate``: what ``prepare`` gave goes into the map."""
        with self.timings.stage("fuse"), self.lock:
            stats = self.map.integrate(frame, features)
        if self.view.nbytes:  # it may have to go, now that the map is larger
            self._may_keep(self.map)
        return stats

    @torch.inference_mode()
    def query(
        self,
        texts: Sequence[str],
        rules: QueryConfig | None = None,
        prompts: bool = False,
        time_limit: float | None = None,
    ) -> QueryResult:
        """How well every voxel answers each text.

        Frames are fused meanwhile: the map is locked for milliseconds at a time. Voxels are as
        they were when the question came, or newer.

        Args:
            rules: what counts as found; None = the configuration's.
            prompts: take the texts as they are instead of as names of things.
            time_limit: s after which the answer is made of the voxels whose vectors are there;
                ``QueryResult.covered`` says which share that is.

        Raises:
            InputError: texts that :func:`check_texts` refuses, or too much at once.
            LanguageError: a text cannot be embedded.
            ConfigError: the map stores probabilities and a text is not one of its labels.
        """
        deadline = time.monotonic() + (math.inf if time_limit is None else time_limit)
        check_texts(texts)
        rules = rules or self.config.query
        scorer = self.space.scorer(texts, rules, prompts)
        source = self.map
        if len(source) * len(texts) > MAX_SCORES:
            raise InputError(
                f"{len(texts)} labels over {len(source)} voxels are too many at once: ask for "
                f"{max(1, MAX_SCORES // len(source))} at a time"
            )
        with self.timings.stage("score"):
            if self._may_keep(source):
                self.view.catch_up(source, self.lock, deadline)
                question = (tuple(texts), prompts, tuple(rules.background))
                size = source.voxel_size
                geometry, scores = self.view.scored(size, scorer, len(texts), question)
            else:
                geometry, scores = scored_directly(
                    source, self.lock, self.space.answer_vectors, scorer, len(texts)
                )
        covered = min(1.0, len(geometry) / len(source)) if len(source) else 1.0
        return QueryResult(tuple(texts), geometry, scores.cpu().numpy(), rules, covered)

    @torch.inference_mode()
    def work_ahead(self, rows: int) -> int:
        """Make up to ``rows`` answer vectors before anybody asks; return how many are missing."""
        source = self.map
        return self.view.catch_up(source, self.lock, ahead=rows) if self._may_keep(source) else 0

    def _may_keep(self, source: VoxelMap) -> bool:
        """Whether the bound of the map leaves room for the view, which is given up otherwise."""
        if source.room_for(self.view.nbytes_for(len(source))):
            return True
        self.view.clear()
        source.cache_nbytes = 0
        return False

    def rgb_cloud(self, min_hits: int = 1) -> Cloud:
        """The map in its true colours; voxels of fewer than ``min_hits`` points are left out."""
        with self.lock:
            geometry = self.map.geometry()
        return rgb_cloud(geometry, min_hits)

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

    def save(self, path: Path, frame_id: str = "") -> int:
        """Write the map and return its number of voxels.

        Raises:
            MapFileError: the file cannot be written.
        """
        frozen = self.map.frozen(self.lock)
        save_map(path, frozen, self.identity(frame_id))
        return len(frozen)

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
        )

    def take(self, loaded: VoxelMap, merge: bool = False) -> None:
        """Go on with a map that ``read`` gave in place of this one, or add it to this one."""
        with self.lock:
            if merge:
                self.map.merge(loaded)
            else:
                self.map = loaded
                self._configure_map()  # options may have changed while the file was read
