# SPDX-License-Identifier: Apache-2.0
"""One question to a map, as the node would answer it, and which voxels each object consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from radseg_ros.answers.objects import find_groups, make_object
from radseg_ros.answers.scores import cosine
from radseg_ros.datatypes import Answer, MapGeometry
from radseg_ros.mapper import Mapper

from ..scoring.metrics import as_numpy
from ..scoring.retrieval import Similarity


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What a map of M voxels answers to one name."""

    answer: Answer
    rows: tuple[np.ndarray, ...]  # of each object: its voxels
    scores: np.ndarray  # (M,) float32 in 0..1
    geometry: MapGeometry  # of the M voxels

    def owner(self) -> np.ndarray:
        """(M,) int64: which object a voxel is of, 1..P, best first; 0 = of none."""
        owner = np.zeros(len(self.geometry), np.int64)
        for number, rows in enumerate(self.rows, start=1):
            owner[rows] = number
        return owner


def ask(mapper: Mapper, name: str, most: int = 0) -> Reply:
    """Ask for one name by the rules of the mapper's configuration (``query.*``).

    Args:
        most: objects; 0 = as configured.

    Raises:
        RadsegRosError: as :meth:`Mapper.query`.
    """
    rules = mapper.config.query
    result = mapper.query([name], replace(rules, max_objects=most or rules.max_objects))
    geometry, scores = result.geometry, result.scores[:, 0]
    groups = find_groups(geometry, scores, result.rules)
    things = tuple(make_object(name, geometry, scores, rows, score) for rows, score in groups)
    answer = Answer(name, float(scores.max(initial=0.0)), things)
    rows = tuple(rows for rows, _ in groups)
    return Reply(answer, rows, scores, geometry)


def mode_of(mapper: Mapper) -> str:
    """What scores mean (``query.mode``); calibrated ones need the vectors of everyday names."""
    return mapper.calibration.possible(mapper.config.query).mode


@torch.inference_mode()
def similarity(mapper: Mapper, names: Sequence[str]) -> Similarity:
    """How well voxels of the map, in the order of its geometry, fit each of ``names``.

    Raises:
        LanguageError: a name cannot be embedded.
        ConfigError: the map stores probabilities, and a name is none of its labels.
    """
    vectors = mapper.space.language_vectors(mapper.map)
    if vectors is None:
        known = as_numpy(mapper.space.text_vectors(names))
        stored = as_numpy(mapper.map.snapshot().features) @ known.T
        return lambda rows: stored[rows]
    text = mapper.encoder.embed_labels(names)
    return lambda rows: as_numpy(cosine(vectors[torch.from_numpy(rows)], text))
