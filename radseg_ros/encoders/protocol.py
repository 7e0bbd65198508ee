# SPDX-License-Identifier: Apache-2.0
"""What an encoder is, and the table of those that exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..config import LiteConfig, RadsegConfig, RefineConfig, from_dict, one_of

if TYPE_CHECKING:
    import torch

    from ..datatypes import FeatureMap


class SamFeatures(Protocol):
    """What RADSeg+ needs of an encoder: features that SAM's mask decoder understands."""

    config: RefineConfig
    channels: int  # D, as SAM's image encoder gives them
    device: torch.device
    offline: bool  # never touch the network for SAM's weights

    def __call__(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1], seen at ``size`` (h, w) px -> (D, h', w')."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Dense image features that can be compared with text.

    A voxel stores vectors of ``encode``; ``project`` brings them into the space of the text vectors
    when a query comes.
    """

    name: str  # identity of weights and head: maps made with different names cannot be mixed
    checkpoint_hash: str  # of the weights; empty = they need none
    language: str  # language head; empty = there is only one
    channels: int  # C of the feature map
    language_channels: int  # D of project and embed_*
    logit_scale: float  # factor on the cosine before a softmax (100 in the paper)
    background: tuple[str, ...]  # texts that a query must beat to count as found
    device: torch.device
    coarse_head: bool  # whether ``project`` may be run in bfloat16: no cosine moves by 1e-3

    @property
    def sam(self) -> SamFeatures | None:
        """What SAM's decoder needs to refine its probability maps; None = they stay coarse."""
        ...

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1], at the working size -> FeatureMap (C, h, w) on
        ``device``.
        """
        ...

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, D) in the language space, not normalised."""
        ...

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of things -> (Q, D), each the mean over a set of templates.

        Raises:
            LanguageError: a label cannot be embedded; the message says what is missing.
        """
        ...

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Free text -> (Q, D), each text as it is."""
        ...

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """Names of things, or free texts -> (Q, E); their cosines say how near they are to each
        other in meaning.
        """
        ...

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """Those of ``labels`` that can be embedded now, without a text tower."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """What an encoder has besides if it tells itself how probable texts are: networks with a fixed
    set of classes, and methods whose scores are no plain softmax over cosines.
    """

    labels_only: str  # why it can serve maps of probabilities only; empty = any map

    def probabilities(self, rgb: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
        """Probability of each text.

        Args:
            rgb: (H, W, 3) RGB, uint8 or float32 in [0, 1], at the working size.
            vectors: (Q, D) of the texts, as ``embed_labels`` or ``embed_prompts`` give them.

        Returns:
            (Q, h, w) of any size, float32 on ``device``.
        """
        ...


def _radseg(options: dict[str, Any]) -> Encoder:
    config: RadsegConfig = from_dict(RadsegConfig, options, "radseg.")
    if config.sfr:
        from .radseg.labelled import LabelledEncoder

        return LabelledEncoder(config)
    from .radseg.encoder import RadsegEncoder

    return RadsegEncoder(config)


def _lite(options: dict[str, Any]) -> Encoder:
    from .lite import LiteEncoder

    return LiteEncoder(from_dict(LiteConfig, options, "lite."))


ENCODERS = {"radseg": _radseg, "lite": _lite}


def make_encoder(name: str, **options: Any) -> Encoder:
    """Make the encoder ``name`` with the options of its config class (``RadsegConfig``,
    ``LiteConfig``).

    Raises:
        ConfigError: unknown encoder or option; the message names the known ones.
        CheckpointError: the weights cannot be had or are damaged.
    """
    one_of("encoder", name, ENCODERS)
    return ENCODERS[name](options)
