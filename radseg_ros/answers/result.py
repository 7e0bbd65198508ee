# SPDX-License-Identifier: Apache-2.0
"""What a question to the map brings: the scores of one moment, as places and as a cloud."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..config import QueryConfig
from ..datatypes import Answer, Cloud, MapGeometry
from .cloud import semantic_cloud
from .objects import find_objects
from .tracks import Tracks


@dataclass(frozen=True, slots=True, eq=False)
class QueryResult:
    """The voxels of the map and how well each answers each text."""

    texts: tuple[str, ...]  # Q of them
    geometry: MapGeometry  # M voxels
    scores: np.ndarray  # (M, Q) float32 in 0..1
    rules: QueryConfig  # what counts as found
    covered: float = 1.0  # share of the voxels of the map that are among the M
    # held while one text is answered: of many who ask, one at a time computes, beside the frames
    turn: AbstractContextManager[Any] = field(default_factory=nullcontext)
    tracks: Tracks | None = None  # what gives objects their ids; None = they have none
    whole: bool = True  # all voxels of the map may answer

    @property
    def answers(self) -> list[Answer]:
        """Where each text is: objects, best first; none when it was not found."""
        return [self._answer(*each) for each in zip(self.texts, self.scores.T, strict=True)]

    def cloud(self, min_hits: int = 1) -> Cloud:
        """Every voxel with its best text; voxels of fewer than ``min_hits`` points are left out."""
        return semantic_cloud(self.geometry, self.scores, self.rules.threshold, min_hits)

    def _answer(self, text: str, scores: np.ndarray) -> Answer:
        question = (text, self.geometry, scores, self.rules)
        with self.turn:
            if self.tracks is None:
                objects = find_objects(*question)
            else:
                objects = self.tracks.follow(*question, self.whole)
        return Answer(text, float(scores.max(initial=0.0)), objects)
