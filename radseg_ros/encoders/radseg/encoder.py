# SPDX-License-Identifier: Apache-2.0
"""The RADSeg encoder (docs/method.md 2): RADIO with SCRA in its last block, sliding windows, SCGA,
and a language head on top. With another attention in the last block it is one of RADSeg's peers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...config import RadsegConfig
from ...datatypes import (
    CheckpointError,
    ConfigError,
    FeatureMap,
    InputError,
    Pixels,
)
from ...device import number_type, pick_device
from ...gpu.replay import Replayed
from ...hub import find_radio
from ...language.embedder import BACKGROUND, TextEmbedder
from ...language.tower import TextTower, tower_of
from ...reading import border
from ..image import image_on, image_tensor, planes
from ..windows import corners, resized, stitch
from .attention.block import plain
from .attention.choice import blocks_wanted, make_attention, name_suffix
from .backbone import build_radio
from .checkpoint import RadioCheckpoint, Tensors, language_head, read_checkpoint
from .correlation import aggregate, product_type
from .heads import build_head, head_size
from .network import Network
from .sam_features import RadioSamFeatures, sam_head

logger = logging.getLogger(__name__)

# bounds the memory; more at once is not faster
WINDOWS_AT_ONCE = {"cpu": 12, "cuda": 32, "mps": 12}
VECTORS_AT_ONCE = 16384  # rows that go through a head at once
See = Callable[[torch.Tensor], torch.Tensor]  # (B, 3, H, W) -> (B, C, H / patch, W / patch)


class RadsegEncoder:
    """RADSeg as an :class:`~radseg_ros.encoders.protocol.Encoder`.

    Raises:
        CheckpointError: the weights cannot be had, are damaged, or have no such head.
        ConfigError: the device cannot be used, or an option does not fit the weights.
        LanguageError: a file of text embeddings cannot be used.
    """

    logit_scale: float = 100.0
    coarse_head: bool  # see Encoder
    sees_tensors = True  # ``encode`` takes images that are on ``device`` already
    background: tuple[str, ...] = BACKGROUND

    def __init__(self, config: RadsegConfig) -> None:
        self.config = config
        self.crop, self.stride = config.window()
        self.side = config.short_side()
        self.device = pick_device(config.device, "radseg.device")
        self.dtype = number_type(config.dtype, self.device)
        path = find_radio(config.checkpoint, config.offline)
        with border(path, "a RADIO checkpoint", CheckpointError):
            checkpoint = read_checkpoint(path)
            refuse_unaligned(checkpoint, config.force)
            self.language = language_head(checkpoint, config.language)
            model: Any = build_radio(checkpoint)
            names = checkpoint.teacher_names
            tower = str(checkpoint.teacher(self.language).get("model") or "")
        self.checkpoint_hash = checkpoint.hash
        self.name = f"radseg-{checkpoint.hash}-{self.language}{name_suffix(config)}"

        self._network = self._fitting(model, checkpoint)
        self.patch, self.channels = self._network.patch, self._network.channels
        self._check_windows()
        with border(path, "a RADIO checkpoint", CheckpointError):
            self._attention: Any = make_attention(config, checkpoint, self._head)
        self._see = torch.compile(self._run) if config.compile else self._run
        self._whole = Replayed(lambda rgb: (self.features(self._sized(planes(rgb))),))
        self._language_token = names.index(self.language) if self.language in names else 0
        head = checkpoint.summary_heads[self.language]
        self._summary_head = self._head(head, f"{checkpoint.path}, head {self.language}")
        self.language_channels = head_size(head)
        self.coarse_head = self.dtype == torch.float32  # others are coarse already
        self.text = self._text_embedder(tower)
        self.sam = self._sam_features(checkpoint) if config.refine == "sam" else None

    @torch.no_grad()
    def encode(self, rgb: Pixels) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> FeatureMap (C, h, w) in backbone space,
        float32. On a GPU it may still be at work on it.
        """
        return FeatureMap(*self._whole(image_on(self.device, rgb)))

    @torch.no_grad()
    def project(self, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(N, C) backbone vectors -> (N, D) in the language space, not normalised, float32, on
        ``device``.
        """
        vectors = torch.as_tensor(vectors, device=self.device)
        if vectors.ndim != 2 or vectors.shape[1] != self.channels:
            raise InputError(f"vectors must be (N, {self.channels}), got {tuple(vectors.shape)}")
        return torch.cat(
            [
                self._summary_head(part.to(self.dtype)).float()
                for part in vectors.split(VECTORS_AT_ONCE)
            ]
        )

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of things -> (Q, D) on ``device``, each the mean over 80 templates.

        See :meth:`TextEmbedder.labels`.
        """
        return self.text.labels(labels).to(self.device)

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Free text -> (Q, D) on ``device``, each text as it is.

        See :meth:`TextEmbedder.prompts`.
        """
        return self.text.prompts(prompts).to(self.device)

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As the texts are embedded: vectors of similar names are near each other."""
        return self.embed_prompts(texts) if prompts else self.embed_labels(texts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """See :meth:`TextEmbedder.at_hand`."""
        return self.text.at_hand(labels)

    @torch.no_grad()
    def single_pass_features(self, rgb: torch.Tensor, scra: bool = True) -> torch.Tensor:
        """One pass over the whole image, without SCGA.

        Args:
            rgb: (3, H, W) in [0, 1] on ``device``, sides multiples of the patch size.
            scra: with the encoder's own attention in the last block, or as RADIO is.

        Returns:
            (C, H / patch, W / patch) float32.
        """
        return self._see(rgb[None], plainly=not scra)[0]

    @torch.no_grad()
    def single_pass_summary(self, rgb: torch.Tensor) -> torch.Tensor:
        """The cls token of the language teacher, of RADIO as it is: (3, H, W) as above -> (C,)
        float32.
        """
        return self._network.tokens(rgb[None].to(self.dtype))[0, self._language_token].float()

    def _fitting(self, model: Any, checkpoint: RadioCheckpoint) -> Network:
        """The network in its type; where that was chosen here, in one whose range it keeps to."""
        seen = blocks_wanted(self.config, len(model.encoder.layer))
        network = Network(model.to(self.device, self.dtype), seen)
        chosen = self.config.dtype == "auto" and self.dtype == torch.float16
        if chosen and not bool(network.probe().isfinite().all()):
            logger.warning("%s leaves the range of float16: bfloat16 is taken", checkpoint.path)
            self.dtype = torch.bfloat16
            again: Any = build_radio(checkpoint)
            network = Network(again.to(self.device, self.dtype), seen)
        return network

    def _check_windows(self) -> None:
        for name, side in (("crop", self.crop), ("stride", self.stride)):
            if self.crop and side % self.patch:
                raise ConfigError(
                    f"radseg.{name} must be a multiple of the {self.patch} px that a patch of this "
                    f"checkpoint has, got {side}"
                )

    def _head(self, tensors: Tensors, where: str) -> nn.Module:
        with border(Path(where), "a head of RADIO", CheckpointError):
            head = build_head(tensors, where)
        return head.to(self.device, self.dtype).requires_grad_(False).eval()

    def _sam_features(self, checkpoint: RadioCheckpoint) -> RadioSamFeatures:
        with border(checkpoint.path, "a RADIO checkpoint", CheckpointError):
            tensors = sam_head(checkpoint)
        head = self._head(tensors, f"{checkpoint.path}, head sam")
        return RadioSamFeatures(
            self.config.refinement,
            backbone=self.single_pass_features,
            head=lambda vectors: head(vectors.to(self.dtype)).float(),
            channels=head_size(tensors),
            device=self.device,
            offline=self.config.offline,
        )

    def _text_embedder(self, teacher_model: str) -> TextEmbedder:
        config, dimensions = self.config, self.language_channels
        name = config.text_tower or tower_of(self.language, dimensions, teacher_model)
        tower = TextTower(name, self.device, config.offline) if name else None
        return TextEmbedder(tower, dimensions, config.text_embeddings)

    @torch.no_grad()
    def _encode(self, rgb: Pixels, see: See | None = None) -> FeatureMap:
        return FeatureMap(self.features(self.image(rgb), see))

    def image(self, rgb: Pixels) -> torch.Tensor:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> (3, h, w) float32 in [0, 1] on ``device``,
        of the size at which the network sees it.
        """
        return self._sized(image_tensor(rgb, self.device))

    def _sized(self, image: torch.Tensor) -> torch.Tensor:
        own = tuple(image.shape[1:])
        size = resized(own, self.crop, self.stride, self.patch, self.side)
        if size == own:
            return image
        smaller = 0 < self.side < min(own)
        return F.interpolate(
            image[None], size=size, mode="bilinear", align_corners=False, antialias=smaller
        )[0]

    def features(
        self, image: torch.Tensor, see: See | None = None, at_once: int = 0
    ) -> torch.Tensor:
        """Windows and SCGA.

        Args:
            image: (3, H, W) as :meth:`image` gives it.
            see: what a window is seen by; None = the network with the encoder's attention.
            at_once: windows in a batch; 0 = as many as the device likes.

        Returns:
            (C, H / patch, W / patch) float32.
        """
        see = see or partial(self._see, plainly=not self.config.scra)
        size = image.shape[1:]
        places = corners(size, self.crop, self.stride) if self.crop else [(0, 0)]
        if len(places) == 1:
            features = see(image[None])[0]
        else:
            patch = self.patch
            empty = image.new_zeros(self.channels, size[0] // patch, size[1] // patch)
            features = stitch(
                self._windows(image, places, see, at_once or WINDOWS_AT_ONCE[self.device.type]),
                [(y // patch, x // patch) for y, x in places],
                empty,
            )
        scga = self.config.aggregation()
        if scga == "always" or (scga == "multi_window" and len(places) > 1):
            kind = product_type(self.dtype, self.device)
            features = aggregate(features, self.config.tau_scga, kind)
        return features

    def _windows(
        self,
        image: torch.Tensor,
        places: Sequence[tuple[int, int]],
        see: See,
        at_once: int,
    ) -> Iterator[torch.Tensor]:
        """The (C, crop / patch, crop / patch) features of each window of (3, H, W)."""
        side = self.crop
        for start in range(0, len(places), at_once):
            some = [
                image[:, y : y + side, x : x + side] for y, x in places[start : start + at_once]
            ]
            yield from see(torch.stack(some))

    def _run(self, images: torch.Tensor, plainly: bool = False) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H / patch, W / patch) float32.

        Args:
            images: of one size.
            plainly: RADIO as it is, whatever the encoder's attention.
        """
        attention = plain if plainly else self._attention
        return self._network.features(images.to(self.dtype), attention)


def refuse_unaligned(checkpoint: RadioCheckpoint, force: bool) -> None:
    """Refuse C-RADIOv3-L, whose patches are not aligned with its cls token: 0.86 mIoU (Table A.7).

    Raises:
        CheckpointError: it is that model and ``force`` is not set.
    """
    width = checkpoint.backbone["patch_generator.embedder.weight"].shape[0]
    # v2.5-l has no LayerScale, v4 no such width
    large_v3 = width == 1024 and "blocks.0.ls1.grandma" in checkpoint.backbone
    if not force and (checkpoint.version == "c-radio_v3-l" or not checkpoint.version and large_v3):
        raise CheckpointError(
            f"{checkpoint.path}: the patches of C-RADIOv3-L are not aligned with text (0.86 "
            "mIoU), so queries would be noise; take c-radio_v3-b or c-radio_v3-h, or set "
            "radseg.force to use it all the same"
        )
