# SPDX-License-Identifier: Apache-2.0
"""What a question to the map brings: the scores of one moment, as places and as a cloud."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..config import QueryConfig
from ..datatypes import Answer, Cloud, MapGeometry
from .cloud import heat_cloud, label_colors, semantic_cloud
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

    @property
    def distribution(self) -> np.ndarray:
        """(Q,) how the voxels divide among the texts: mean scores by points, together 1.

        All 0 where there is no voxel. Scores should be those of mode softmax.
        """
        share = self.geometry.hits.double().cpu().numpy() @ self.scores.astype(np.float64)
        return share / max(share.sum(), np.finfo(np.float64).tiny)

    def cloud(self, min_hits: int = 1, shown: Sequence[str] = ()) -> Cloud:
        """Every voxel with its best text; voxels of fewer than ``min_hits`` points are left out.

        Args:
            shown: see :func:`label_colors`.
        """
        colors = label_colors(self.texts, shown)
        threshold = self.rules.threshold
        return semantic_cloud(self.geometry, self.scores, threshold, min_hits, colors)

    def heat_cloud(self, min_hits: int = 1) -> Cloud:
        """As :meth:`cloud`, in the glow of the best score."""
        return heat_cloud(self.geometry, self.scores, self.rules.threshold, min_hits)

    def _answer(self, text: str, scores: np.ndarray) -> Answer:
        question = (text, self.geometry, scores, self.rules)
        with self.turn:
            if self.tracks is None:
                objects = find_objects(*question)
            else:
                objects = self.tracks.follow(*question, self.whole)
        return Answer(text, float(scores.max(initial=0.0)), objects)
