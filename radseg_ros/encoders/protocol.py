# SPDX-License-Identifier: Apache-2.0
"""What an encoder is, and the table of those that exist."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..config import (
    GROUPS,
    Config,
    LiteConfig,
    RadsegConfig,
    RefineConfig,
    from_dict,
    from_texts,
    one_of,
    split_assignments,
    to_dict,
)
from ..datatypes import ConfigError, RadsegRosError

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


Factory = Callable[[dict[str, Any]], Encoder]


def _radseg(options: dict[str, Any]) -> Encoder:
    config: RadsegConfig = from_dict(RadsegConfig, options, "radseg.")
    if config.sfr:
        from .radseg.labelled import LabelledEncoder

        return LabelledEncoder(config)
    if config.engine != "torch":
        from .engines.encoder import EngineEncoder

        return EngineEncoder(config)
    from .radseg.encoder import RadsegEncoder

    return RadsegEncoder(config)


def _lite(options: dict[str, Any]) -> Encoder:
    from .lite import LiteEncoder

    return LiteEncoder(from_dict(LiteConfig, options, "lite."))


def _clip(name: str) -> Factory:
    """The encoder ``ENCODER`` of the module ``name``."""

    def make(options: dict[str, Any]) -> Encoder:
        encoder = importlib.import_module(f".clip.{name}", __package__).ENCODER
        return encoder(from_texts(encoder.CONFIG, options, f"{name}."))

    return make


CLIP_FAMILY = ("naclip", "scclip", "proxyclip", "resclip", "talk2dino", "trident", "textregion")
ENCODERS: dict[str, Factory] = {
    "radseg": _radseg,
    "lite": _lite,
    **{name: _clip(name) for name in CLIP_FAMILY},
}
GROUP = "radseg_ros.encoders"  # of the entry points by which packages bring encoders
PARTS = [*Encoder.__annotations__, *(part for part in vars(Encoder) if not part.startswith("_"))]


def known_encoders() -> list[str]:
    """Names that :func:`make_encoder` takes."""
    return [*ENCODERS, *(entry.name for entry in entry_points(group=GROUP))]


def encoder_behind(name: str) -> str:
    """Which of the known encoders calls itself ``name`` (:attr:`Encoder.name`); empty = none."""
    return next((known for known in known_encoders() if name.startswith(known)), "")


def make_encoder(name: str, **options: Any) -> Encoder:
    """Make the encoder ``name`` with the options of its config class (``RadsegConfig``,
    ``LiteConfig``, and those beside the methods of the CLIP family), or of the package that brings
    it.

    Raises:
        ConfigError: unknown encoder or option; the message names the known ones.
        CheckpointError: the weights cannot be had or are damaged.
    """
    if name in ENCODERS:  # what packages bring is read from the disk
        return ENCODERS[name](options)
    return _installed(one_of("encoder", name, known_encoders()), options)


def encoder_options(config: Config, name: str) -> dict[str, Any]:
    """What a mapper's options say for the encoder ``name``: those of its group, or
    ``encoder_options``, whose values are texts.

    Raises:
        ConfigError: they are not NAME=VALUE, or meant for an encoder that has a group.
    """
    given: dict[str, Any] = dict(split_assignments(config.encoder_options))
    if name not in GROUPS:
        return given
    if given:
        raise ConfigError(
            f"encoder_options are for encoders without options here; those of {name} are "
            f"{name}.{', '.join(given)}"
        )
    return to_dict(getattr(config, name))


def _installed(name: str, options: dict[str, Any]) -> Encoder:
    """The encoder that a package brings.

    Raises:
        ConfigError: it cannot be imported or made, or is no encoder.
    """
    entry = next(entry for entry in entry_points(group=GROUP) if entry.name == name)
    try:
        made = entry.load()(**options)
    except RadsegRosError:
        raise
    except Exception as error:  # of code that others wrote
        raise ConfigError(f"encoder {name} ({entry.value}) cannot be made: {error}") from error
    lacks = [part for part in PARTS if not hasattr(made, part)]
    if lacks:
        raise ConfigError(f"{entry.value} makes no encoder: it lacks {', '.join(lacks)}")
    return made
