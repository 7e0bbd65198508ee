# SPDX-License-Identifier: Apache-2.0
"""What answers of one map are measured by: a census of everyday names, taken when it is needed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable, Sequence

import torch

from .answers.scores import BEST_VOXELS, SAMPLE, Census
from .config import QueryConfig
from .spaces import Space

logger = logging.getLogger(__name__)

GROWTH = 1.1  # of a map, until clouds are measured anew: all of their points change then

Sample = Callable[[int], torch.Tensor]  # up to so many voxels of the map -> (n, W) answer vectors


class Calibration:
    """Turns what voxels answer into probabilities. Not thread safe, except that answers stay right.

    Args:
        space: says what everyday names are, and what texts mean.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._told = False
        self._newest: tuple[Hashable, Census] | None = None

    def possible(self, rules: QueryConfig) -> QueryConfig:
        """The rules, with the mode that can be answered in.

        Without the vectors of everyday names (no text tower and no file of ``radseg-text
        --vocabulary``) answers are relevancies; it is said once.
        """
        if rules.mode != "calibrated" or self._space.everyday() is not None:
            return rules
        if not self._told and self._space.calibrates:
            self._told = True
            logger.warning(
                "answers are not calibrated, but relevancies: the vectors of everyday names are "
                "missing; write them once with radseg-text --vocabulary, where the text tower is"
            )
        return dataclasses.replace(rules, mode="relevancy")

    def census(self, rules: QueryConfig, sample: Sample, voxels: int, moment: Hashable) -> Census:
        """What everyday names get in the map.

        Args:
            rules: in mode ``calibrated``, and possible.
            sample: gives voxels of the map.
            voxels: M of the map, at least one.
            moment: anything that is equal as long as the map has not changed.
        """
        key = (moment, tuple(rules.background))
        newest = self._newest
        if newest is None or newest[0] != key:
            everyday = self._space.everyday()
            assert everyday is not None
            vectors = sample(SAMPLE)
            odds = self._space.scorer(everyday.vectors, rules)(vectors)
            best = round(BEST_VOXELS * len(vectors) / voxels)
            newest = self._newest = (key, Census.take(odds, best, everyday.meanings))
        return newest[1]

    def context(self, census: Census, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """(Q,) how well each text goes with what is in the map; see :meth:`Census.context`."""
        return census.context(self._space.meanings(texts, prompts))
