# SPDX-License-Identifier: Apache-2.0
"""Where a page has its map from: what it needs to know, and a map file as such a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..answers.plain import answer_dict
from ..datatypes import Cloud, Filter, InputError
from ..language.embedder import TextEmbedder
from ..live_map import LiveMap
from ..voxels.camera_path import CameraPath
from ..voxels.map_file import read_header
from .upright import nearest_axis


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What a map answers."""

    answers: list[dict[str, Any]]  # one per label; see :func:`answer_dict`
    cloud: Cloud  # voxels with their best label and its score


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """Where the map was seen from."""

    positions: np.ndarray  # (P, 3) m; none = nobody tells
    up: np.ndarray  # (3,) unit vector


class MapSource(Protocol):
    """A map that can be looked at and asked. Called from one thread."""

    name: str
    threshold: float  # 0..1, that counts where nobody chooses another

    @property
    def voxel_size(self) -> float:
        """m."""
        ...

    def version(self) -> object:
        """Something that differs whenever the map does."""
        ...

    def voxels(self) -> Cloud:
        """The map in its true colours."""
        ...

    def camera(self) -> Camera:
        """Where the map was seen from so far."""
        ...

    def about(self) -> str:
        """What the map is, in one line."""
        ...

    def suggestions(self) -> list[str]:
        """Texts that are answered without delay."""
        ...

    def ask(self, labels: Sequence[str], threshold: float) -> Reply:
        """Where things are.

        Raises:
            RadsegRosError: the texts cannot be asked for.
        """
        ...

    def here(
        self, place: np.ndarray, radius: float, labels: Sequence[str]
    ) -> list[tuple[str, float]]:
        """How what is within ``radius`` of a place (3,) m divides among labels, most first.

        Raises:
            RadsegRosError: nothing is there, or the texts cannot be asked for.
        """
        ...


class FileSource:
    """A map file.

    Args:
        live: the map of the file (:func:`open_map`).
    """

    def __init__(self, path: Path, live: LiveMap) -> None:
        self.name, self._live = path.name, live
        self.voxel_size = live.mapper.map.voxel_size
        self.threshold = live.config.query.threshold
        self._header = read_header(path)

    def version(self) -> object:
        """See :class:`MapSource`."""
        return self._live.version

    def voxels(self) -> Cloud:
        """See :class:`MapSource`."""
        return self._live.mapper.rgb_cloud()

    def camera(self) -> Camera:
        """See :class:`MapSource`."""
        path = CameraPath.of(self._header)
        up = nearest_axis(path.up) if path.up.any() else np.array([0.0, 0.0, 1.0])
        return Camera(np.array(path.positions, float).reshape(-1, 3), up)

    def about(self) -> str:
        """See :class:`MapSource`."""
        status = self._live.status()
        return f"{status.voxels} voxels of {100 * self.voxel_size:g} cm, {status.encoder}"

    def suggestions(self) -> list[str]:
        """See :class:`MapSource`."""
        config, text = self._live.config, getattr(self._live.mapper.encoder, "text", None)
        if config.map.labels:  # of a map of probabilities, which knows no others
            return list(config.map.labels)
        known = text.known() if isinstance(text, TextEmbedder) else []
        return list(dict.fromkeys([*config.node.labels, *known]))

    def ask(self, labels: Sequence[str], threshold: float) -> Reply:
        """See :class:`MapSource`."""
        result = self._live.query(labels, threshold=threshold)
        return Reply([answer_dict(answer) for answer in result.answers], result.cloud())

    def here(
        self, place: np.ndarray, radius: float, labels: Sequence[str]
    ) -> list[tuple[str, float]]:
        """See :class:`MapSource`."""
        where = Filter(centre=tuple(place.tolist()), radius=radius)
        result = self._live.query(labels, where=where, mode="softmax")
        if not len(result.geometry):
            raise InputError("there is nothing")
        shares = result.distribution.tolist()
        return sorted(zip(result.texts, shares, strict=True), key=lambda each: -each[1])
