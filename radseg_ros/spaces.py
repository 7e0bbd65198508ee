# SPDX-License-Identifier: Apache-2.0
"""What a voxel stores, as a choice: backbone vectors, language vectors, or probabilities; and what
its answers are measured by.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch.nn.functional import normalize

from .answers import scores
from .answers.scores import BEST_VOXELS, SAMPLE, Census
from .config import LABELLED_SPACES, Config, QueryConfig, one_of
from .datatypes import ConfigError, FeatureMap, Pixels
from .device import multiplies_bfloat16
from .encoders.protocol import Classifier, Encoder
from .language.memory import TextMemory
from .language.words import read_words
from .segmentation.probabilities import probability_map
from .segmentation.refine import make_refiner
from .voxels.map_file import MapIdentity
from .voxels.view import ProductScorer
from .voxels.voxel_map import VoxelMap

Sample = Callable[[int], torch.Tensor]  # up to so many voxels of the map -> (n, W) answer vectors
logger = logging.getLogger(__name__)

GROWTH = 1.1  # of a map, until clouds are measured anew: all of their points change then
LEAST_NAMES = 100  # everyday names that a text must be compared with for a calibrated answer


@dataclass(frozen=True, slots=True, eq=False)
class Everyday:
    """Names of everyday things: what a map's answers are calibrated by."""

    vectors: torch.Tensor  # (V, D) unit vectors, as those of texts
    meanings: torch.Tensor  # (V, E), see Encoder.embed_meanings


def _by_cosine(similarity: torch.Tensor, background: torch.Tensor, scale: float) -> torch.Tensor:
    del background, scale
    return similarity.clamp(0, 1)


_JUDGES = {
    "calibrated": scores.log_odds,
    "relevancy": scores.relevancy,
    "softmax": scores.softmax,
    "cosine": _by_cosine,
}


class Space(Protocol):
    """How images become what voxels store, and how what is stored answers texts."""

    channels: int  # numbers per voxel
    identity: MapIdentity  # maps of different identity cannot be mixed
    answer_channels: int  # W, numbers that a voxel's answers are made of
    exact: bool  # whether answer vectors must be kept as they are
    calibrates: bool  # whether answers may be calibrated, if there are everyday names
    straight: bool  # whether answer vectors are the directions of what is stored
    sees_on: torch.device  # where images are wanted; on the processor they are arrays

    def features(self, rgb: Pixels) -> FeatureMap:
        """(H, W, 3) image at the working size -> (C, h, w); on a GPU perhaps still at work."""
        ...

    def answer_vectors(self, means: torch.Tensor) -> torch.Tensor:
        """(n, C) mean vectors of voxels -> (n, W), what texts are compared with."""
        ...

    def text_vectors(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """(Q, W) what answer vectors are compared with.

        Args:
            prompts: take the texts as they are instead of as names of things.

        Raises:
            LanguageError: a text cannot be embedded.
            ConfigError: the space has fixed labels and a text is not one of them.
        """
        ...

    def scorer(self, vectors: torch.Tensor, rules: QueryConfig) -> ProductScorer:
        """What scores answer vectors. What takes long (embedding) is done here.

        Args:
            vectors: (Q, W) of :meth:`text_vectors`, or unit vectors from elsewhere.
            rules: name the mode and the texts of the background. In mode ``calibrated`` scores are
                log odds, for :meth:`Census.probability`, otherwise scores in 0..1.

        Raises:
            LanguageError: a background text cannot be embedded.
            ConfigError: there are no background texts.
        """
        ...

    def everyday(self) -> Everyday | None:
        """What answers are calibrated by; None = they cannot be."""
        ...

    def meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """(Q, E) vectors that are compared with those of everyday names.

        Raises:
            LanguageError: a text cannot be embedded.
        """
        ...

    def language_vectors(self, voxel_map: VoxelMap) -> torch.Tensor | None:
        """(M, D) unit vectors in the space of the texts; None = voxels hold probabilities."""
        ...


class Backbone:
    """Voxels store the encoder's vectors; they are projected when a question comes."""

    exact, calibrates, straight = False, True, False

    def __init__(self, config: Config, encoder: Encoder) -> None:
        self.encoder = encoder
        self.channels = encoder.channels
        sees_tensors = getattr(encoder, "sees_tensors", False)  # programs of others see arrays
        self.sees_on = encoder.device if sees_tensors else torch.device("cpu")
        self.answer_channels = encoder.language_channels
        self.identity = _identity(encoder)
        _background(config.query, encoder)
        self._texts = TextMemory(encoder.embed_labels, encoder.embed_prompts)
        self._meanings = TextMemory(
            encoder.embed_meanings, lambda prompts: encoder.embed_meanings(prompts, prompts=True)
        )
        on_processor = encoder.device.type == "cpu" and multiplies_bfloat16()
        self._coarse = config.map.fast_projection and encoder.coarse_head and on_processor

    def features(self, rgb: Pixels) -> FeatureMap:
        """As the encoder gives them."""
        return self.encoder.encode(cast(Any, rgb))

    def answer_vectors(self, means: torch.Tensor) -> torch.Tensor:
        """Unit vectors, through the language head, in bfloat16 if that is faster."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._coarse):
            return self._unit_vectors(means)

    def _unit_vectors(self, means: torch.Tensor) -> torch.Tensor:
        return normalize(self.encoder.project(means).float(), dim=1)

    def text_vectors(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """Unit vectors of the texts."""
        return self._texts.vectors(texts, prompts)

    def scorer(self, vectors: torch.Tensor, rules: QueryConfig) -> ProductScorer:
        """By cosines with the texts and with those of the background."""
        background = self._texts.vectors(_background(rules, self.encoder))
        both = torch.cat([vectors.to(background.device, background.dtype), background])
        judge, scale = _JUDGES[rules.mode], self.encoder.logit_scale

        def of_both(similarity: torch.Tensor) -> torch.Tensor:
            own, against = similarity.tensor_split([len(vectors)], dim=1)
            return judge(own, against, scale)

        return ProductScorer(both.float(), of_both)

    def everyday(self) -> Everyday | None:
        """The everyday names that can be embedded now, if they are enough."""
        return self._everyday

    @cached_property
    def _everyday(self) -> Everyday | None:
        """Looked for once: where there are none, each question would read hundreds of files."""
        names = self.encoder.at_hand(read_words("everyday"))
        if len(names) < LEAST_NAMES:
            return None
        vectors = normalize(self.encoder.embed_labels(names).float(), dim=1)
        return Everyday(vectors, self.encoder.embed_meanings(names))

    def meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As the encoder gives them, of unit length."""
        return self._meanings.vectors(texts, prompts)

    def language_vectors(self, voxel_map: VoxelMap) -> torch.Tensor:
        """The answer vectors of all voxels, a copy, in float32."""
        parts = [self._unit_vectors(means) for means in voxel_map.means()]
        empty = torch.zeros(0, self.answer_channels, device=voxel_map.device)
        return torch.cat(parts) if parts else empty


class Language(Backbone):
    """Voxels store vectors of the language space: patches are projected instead of voxels."""

    straight = True

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.channels = encoder.language_channels

    def features(self, rgb: Pixels) -> FeatureMap:
        """The encoder's vectors through the language head."""
        features = super().features(rgb).data
        projected = self.encoder.project(features.flatten(1).T)
        return FeatureMap(projected.T.unflatten(1, features.shape[1:]).contiguous())

    def _unit_vectors(self, means: torch.Tensor) -> torch.Tensor:
        """Zero vectors stay zero."""
        return normalize(means, dim=1)


class Probability:
    """Voxels store the probability of each label of a fixed set."""

    exact, calibrates, straight = True, False, False

    def __init__(self, config: Config, encoder: Encoder) -> None:
        self.encoder = encoder
        self.labels = list(config.map.labels)
        self.sees_on = torch.device("cpu")
        self.channels = self.answer_channels = len(self.labels)
        self.refiner = make_refiner(encoder)
        refined = "" if self.refiner is None else "-sam"  # refined and coarse maps do not mix
        self.identity = _identity(encoder, encoder.name + refined, self.labels)
        self._texts = TextMemory(encoder.embed_labels, encoder.embed_prompts)

    def features(self, rgb: Pixels) -> FeatureMap:
        """Probabilities per patch, or per pixel where masks are refined."""
        vectors = self._texts.vectors(self.labels)
        return probability_map(self.encoder, cast(Any, rgb), vectors, refiner=self.refiner)

    def answer_vectors(self, means: torch.Tensor) -> torch.Tensor:
        """The probabilities themselves."""
        return means

    def text_vectors(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """(Q, L) which of the labels each text is."""
        del prompts
        return torch.eye(len(self.labels))[[self._column(text) for text in texts]]

    def scorer(self, vectors: torch.Tensor, rules: QueryConfig) -> ProductScorer:
        """The stored probabilities of those labels."""
        del rules
        return ProductScorer(vectors, lambda products: products)

    def everyday(self) -> None:
        """What is stored is a probability already."""

    def meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As ``text_vectors``."""
        return self.text_vectors(texts, prompts)

    def language_vectors(self, voxel_map: VoxelMap) -> None:
        """There are none."""
        del voxel_map

    def _column(self, text: str) -> int:
        if text not in self.labels:
            known = ", ".join(self.labels)
            raise ConfigError(
                f"the map stores probabilities of {known}; {text!r} is not among them"
            )
        return self.labels.index(text)


SPACES: dict[str, type[Backbone] | type[Probability]] = {
    "backbone": Backbone,
    "language": Language,
    "probability": Probability,
}


def make_space(config: Config, encoder: Encoder) -> Space:
    """The space that ``config.map.space`` names.

    Raises:
        ConfigError: there is none of that name, or the encoder cannot serve it.
    """
    space = one_of("map.space", config.map.space, SPACES)
    reason = encoder.labels_only if isinstance(encoder, Classifier) else ""
    if reason and space not in LABELLED_SPACES:
        raise ConfigError(
            f"encoder {encoder.name} serves no map of space {space}: {reason}; take map.space "
            "probability and name map.labels"
        )
    return SPACES[space](config, encoder)


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
            if not len(vectors):  # forgotten since the question came
                vectors = torch.zeros(1, self._space.answer_channels)
            odds = self._space.scorer(everyday.vectors, rules)(vectors)
            best = round(BEST_VOXELS * len(vectors) / max(1, voxels))
            newest = self._newest = (key, Census.take(odds, best, everyday.meanings))
        return newest[1]

    def context(self, census: Census, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """(Q,) how well each text goes with what is in the map; see :meth:`Census.context`."""
        return census.context(self._space.meanings(texts, prompts))


def _background(rules: QueryConfig, encoder: Encoder) -> list[str]:
    """The texts that a query must beat.

    Raises:
        ConfigError: there are none.
    """
    texts = rules.background or list(encoder.background)
    if not texts:
        raise ConfigError(
            f"encoder {encoder.name} has no background texts: name some in query.background"
        )
    return texts


def _identity(encoder: Encoder, name: str = "", labels: Sequence[str] = ()) -> MapIdentity:
    return MapIdentity(
        encoder=name or encoder.name,
        checkpoint_hash=encoder.checkpoint_hash,
        language=encoder.language,
        labels=tuple(labels),
    )
