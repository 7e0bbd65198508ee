# SPDX-License-Identifier: Apache-2.0
"""The recipe: frames in, answers and clouds out.

The node and the evaluator drive this same object.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .answers import cloud
from .answers import objects as query
from .config import Config
from .datatypes import Answer, Cloud, ConfigError, FeatureMap, Frame, MapSnapshot
from .encoders.protocol import Encoder
from .geometry import resize_frame
from .segmentation import probabilities as segmentation
from .voxels.map_file import MapIdentity, load_map, save_map
from .voxels.voxel_map import IntegrationStats, VoxelMap


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


class Mapper:
    """An encoder and a voxel map.

    ``integrate`` is for one thread (the worker); ``answer`` and the clouds may be called from any
    thread at the same time.
    """

    def __init__(self, config: Config, encoder: Encoder) -> None:
        self.config = config
        self.encoder = encoder
        self.timings = Timings()
        self.lock = threading.Lock()  # guards self.map
        self._texts: dict[tuple[str, bool], torch.Tensor] = {}
        self._text_lock = threading.Lock()
        space = config.map.space
        channels = {
            "backbone": encoder.channels,
            "language": encoder.language_channels,
            "probability": len(config.map.labels),
        }
        device = encoder.device if config.map.device == "auto" else torch.device(config.map.device)
        self.map = VoxelMap(channels[space], config.map, config.lift, device)

    def integrate(self, frame: Frame) -> IntegrationStats:
        """Fuse one frame into the map."""
        with self.timings.stage("resize"):
            frame = resize_frame(frame, self.config.short_side)
        with self.timings.stage("encode"):
            features = self.features(frame.rgb)
        with self.timings.stage("fuse"), self.lock:
            return self.map.integrate(frame, features)

    @torch.inference_mode()
    def features(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) image at the working size -> what the map's space stores, (C, h, w)."""
        if self.config.map.space == "probability":
            own = getattr(
                self.encoder, "probability_map", None
            )  # an encoder that refines its masks has its own
            make_map = own or partial(segmentation.probability_map, self.encoder)
            return make_map(rgb, self._embed(self.config.map.labels, prompts=False))
        features = self.encoder.encode(rgb)
        if self.config.map.space == "backbone":
            return features
        channels, height, width = features.data.shape
        projected = self.encoder.project(features.data.reshape(channels, -1).T)
        return FeatureMap(projected.T.reshape(-1, height, width).contiguous())

    @torch.inference_mode()
    def scores(self, texts: Sequence[str], prompts: bool = False) -> tuple[MapSnapshot, np.ndarray]:
        """The voxels (without features) and their (M, Q) scores in 0..1 for each text, from one
        moment of the map.

        Raises:
            LanguageError: a text cannot be embedded.
            ConfigError: the map stores probabilities and a text is not one of its labels.
        """
        if self.config.map.space == "probability":
            columns = [self._column(text) for text in texts]
            with self.lock:
                snapshot = self.map.snapshot()
            return snapshot, snapshot.features[:, columns].cpu().numpy()
        text = self._embed(texts, prompts)
        background = self._embed(
            self.config.query.background or self.encoder.background, prompts=False
        )
        with self.timings.stage("score"), self.lock:
            geometry = self.map.geometry()
            similarity = self.map.cosines(self.encoder.project, torch.cat([text, background]))
        wanted, rest = similarity.split([len(text), len(background)], dim=1)
        return geometry, query.relevancy(wanted, rest, self.encoder.logit_scale).cpu().numpy()

    def answer(
        self,
        texts: Sequence[str],
        prompts: bool = False,
        threshold: float | None = None,
        max_objects: int | None = None,
    ) -> list[Answer]:
        """Where each text is: objects with position, extent and score, best first.

        None when it was not found.

        Args:
            prompts: take the texts as they are instead of as names of things.
            threshold, max_objects: instead of those of the configuration.
        """
        changes: dict[str, Any] = {"threshold": threshold, "max_objects": max_objects}
        rules = dataclasses.replace(
            self.config.query, **{k: v for k, v in changes.items() if v is not None}
        )
        geometry, scores = self.scores(texts, prompts)
        return [
            Answer(
                text, float(column.max(initial=0.0)), query.find_objects(geometry, column, rules)
            )
            for text, column in zip(texts, scores.T, strict=True)
        ]

    def semantic_cloud(self, labels: Sequence[str], min_hits: int = 1) -> Cloud:
        """Every voxel with its best label."""
        return cloud.semantic_cloud(*self.scores(labels), self.config.query.threshold, min_hits)

    def rgb_cloud(self, min_hits: int = 1) -> Cloud:
        """The map in its true colours."""
        with self.lock:
            geometry = self.map.geometry()
        return cloud.rgb_cloud(geometry, min_hits)

    def reset(self) -> None:
        """Forget the whole map."""
        with self.lock:
            self.map.clear()

    def identity(self, frame_id: str = "") -> MapIdentity:
        """What the vectors of this map mean."""
        stated = {name: getattr(self.encoder, name, "") for name in ("checkpoint_hash", "language")}
        name = self.encoder.name
        if self.config.map.space == "probability":
            name = getattr(self.encoder, "probability_name", name)
        return MapIdentity(
            encoder=name, labels=tuple(self.config.map.labels), frame_id=frame_id, **stated
        )

    def save(self, path: Path, frame_id: str = "") -> int:
        """Write the map and return its number of voxels.

        Raises:
            MapFileError: the file cannot be written.
        """
        with self.lock:
            save_map(path, self.map, self.identity(frame_id))
            return len(self.map)

    def load(self, path: Path, frame_id: str = "", merge: bool = False) -> str:
        """Read a map in place of this one, or add it to this one; return the frame that it is in.

        Args:
            frame_id: the frame of this map; "" takes a map of any frame.

        Raises:
            MapFileError: the file is damaged, or was made with other weights, options or in another
                frame; nothing changed.
        """
        config = self.config
        loaded, identity = load_map(
            path,
            self.identity(frame_id),
            config=config.map,
            lift=config.lift,
            device=self.map.device,
        )
        with self.lock:
            if merge:
                self.map.merge(loaded)
            else:
                self.map = loaded
        return identity.frame_id

    def _column(self, text: str) -> int:
        if text not in self.config.map.labels:
            raise ConfigError(
                f"the map stores probabilities of {', '.join(self.config.map.labels)}; {text!r} "
                "is not among them"
            )
        return self.config.map.labels.index(text)

    def _embed(self, texts: Sequence[str], prompts: bool) -> torch.Tensor:
        """(Q, D) unit vectors; each text is embedded once."""
        with self._text_lock:
            new = [text for text in dict.fromkeys(texts) if (text, prompts) not in self._texts]
            if new:
                embed = self.encoder.embed_prompts if prompts else self.encoder.embed_labels
                vectors = torch.nn.functional.normalize(embed(new).float(), dim=1)
                self._texts.update(
                    {(text, prompts): vector for text, vector in zip(new, vectors, strict=True)}
                )
            if not texts:
                return torch.zeros(0, self.encoder.language_channels, device=self.encoder.device)
            return torch.stack([self._texts[text, prompts] for text in texts])
