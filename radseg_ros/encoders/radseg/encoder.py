# SPDX-License-Identifier: Apache-2.0
"""The RADSeg encoder (docs/method.md 2): RADIO with SCRA in its last block, sliding windows, SCGA,
and a language head on top.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...config import RadsegConfig
from ...datatypes import CheckpointError, FeatureMap, InputError, check_rgb
from ...device import pick_device
from ...hub import find_radio
from ...language.embedder import BACKGROUND, TextEmbedder
from ...language.tower import TextTower, tower_of
from ...segmentation.probabilities import probabilities, probability_map
from ...segmentation.refine import Refinement, Refiner
from .backbone import build_radio
from .checkpoint import RadioCheckpoint, Tensors, language_head, read_checkpoint
from .correlation import SelfCorrelatingAttention, aggregate
from .heads import build_head, head_size
from .windows import corners, resized, stitch

WINDOWS_AT_ONCE = {
    "cpu": 12,
    "cuda": 32,
    "mps": 12,
}  # bounds the memory; more at once is not faster
VECTORS_AT_ONCE = 16384  # rows that go through a head at once


class RadsegEncoder:
    """RADSeg as an :class:`~radseg_ros.encoders.protocol.Encoder`.

    Raises:
        CheckpointError: the weights cannot be had, are damaged, or have no such head.
        ConfigError: the device cannot be used.
        LanguageError: a file of text embeddings cannot be used.
    """

    logit_scale: float = 100.0
    background: tuple[str, ...] = BACKGROUND

    def __init__(self, config: RadsegConfig) -> None:
        self.config = config
        self.crop, self.stride = config.window()
        self.device = pick_device(config.device, "radseg.device")
        self.dtype = getattr(torch, config.dtype)
        checkpoint = read_checkpoint(find_radio(config.checkpoint, config.offline))
        refuse_unaligned(checkpoint, config.force)
        self._checkpoint = dataclasses.replace(
            checkpoint, backbone={}, conditioner={}
        )  # heads may be asked for later
        self.checkpoint_hash = checkpoint.hash
        self.version = checkpoint.version  # c-radio_v3-b, ...; empty when nothing tells
        self.language = language_head(checkpoint, config.language)
        self.name = f"radseg-{checkpoint.hash}-{self.language}"
        self.probability_name = self.name + (
            "-sam" if config.refine == "sam" else ""
        )  # refined and coarse maps do not mix
        self.heads = tuple(checkpoint.feature_heads)  # teachers that have a feature head

        model: Any = build_radio(checkpoint)
        last = model.encoder.layer[-1]
        last.attention = SelfCorrelatingAttention(
            last.attention, config.tau_scra, config.recursions
        )
        self._model = model.to(self.device, self.dtype)
        self._network = torch.compile(self._run) if config.compile else self._run
        self.patch = int(model.config.patch_size)
        self.channels = int(model.config.hidden_size)
        self._summary_head = self._head(checkpoint.summary_heads, self.language)
        self.language_channels = head_size(checkpoint.summary_heads[self.language])
        self.text = self._text_embedder(checkpoint.teacher(self.language))
        self.refiner = Refiner(self, config) if config.refine == "sam" else None

    @torch.no_grad()
    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> FeatureMap (C, h, w) in backbone space,
        float32.
        """
        image = self._image(rgb)
        size = resized(image.shape[1:], self.crop, self.stride, self.patch)
        if size != tuple(image.shape[1:]):
            image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        places = corners(size, self.crop, self.stride) if self.crop else [(0, 0)]
        if len(places) == 1:
            features = self._network(image[None], self.config.scra)[0]
        else:
            patch = self.patch
            empty = image.new_zeros(self.channels, size[0] // patch, size[1] // patch)
            features = stitch(
                self._windows(image, places), [(y // patch, x // patch) for y, x in places], empty
            )
        if self.config.scga == "always" or (self.config.scga == "multi_window" and len(places) > 1):
            features = aggregate(features, self.config.tau_scga)
        return FeatureMap(features)

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

    def probabilities(
        self,
        rgb: np.ndarray,
        vectors: torch.Tensor | np.ndarray,
        size: tuple[int, int] | None = None,
        denoise_threshold: float = 0.5,
    ) -> torch.Tensor:
        """Probability of each text at each pixel, (Q, H, W), refined where the options say so.

        See :func:`radseg_ros.segmentation.probabilities.probabilities` and
        :func:`radseg_ros.segmentation.refine.refine`.
        """
        coarse = probabilities(self, rgb, vectors, size, denoise_threshold)
        return (
            coarse if self.refiner is None else self.refiner(self._image(rgb), coarse).probabilities
        )

    def probability_map(
        self, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray, denoise_threshold: float = 0.5
    ) -> FeatureMap:
        """What a map in probability space stores: per patch, or per pixel when the masks are
        refined.
        """
        if self.refiner is None:
            return probability_map(self, rgb, vectors, denoise_threshold)
        return FeatureMap(self.probabilities(rgb, vectors, denoise_threshold=denoise_threshold))

    def refine(self, rgb: np.ndarray, coarse: torch.Tensor) -> Refinement | None:
        """Refined masks of an image whose (Q, H, W) coarse probabilities are known.

        None where refinement is off.
        """
        return None if self.refiner is None else self.refiner(self._image(rgb), coarse)

    @torch.no_grad()
    def single_pass_features(self, rgb: torch.Tensor, scra: bool = True) -> torch.Tensor:
        """One pass over the whole image, without SCGA.

        Args:
            rgb: (3, H, W) in [0, 1] on ``device``, sides multiples of the patch size.
            scra: with self-correlating attention in the last block, or as RADIO is.

        Returns:
            (C, H / patch, W / patch) float32.
        """
        return self._network(rgb[None], scra)[0]

    @torch.no_grad()
    def single_pass_summary(self, rgb: torch.Tensor) -> torch.Tensor:
        """The cls token of the language teacher, of the backbone without SCRA: (3, H, W) as above
        -> (C,) float32.
        """
        names = [t.get("name") for t in self._checkpoint.teachers]
        cls = list(dict.fromkeys(names)).index(self.language) if self.language in names else 0
        return self._model(rgb[None].to(self.dtype), scra=False).last_hidden_state[0, cls].float()

    def feature_head(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head that brings patch vectors into the feature space of teacher ``name`` (one of
        ``heads``): (N, C) -> (N, D).

        Raises:
            CheckpointError: the checkpoint has no such head, or one that this encoder does not
                support.
        """
        if name not in self.heads:
            raise CheckpointError(
                f"{self._checkpoint.path}: no feature head {name!r}; it has "
                f"{', '.join(self.heads) or 'none'}"
            )
        if (factor := self._checkpoint.upsampling(name)) > 1:
            raise CheckpointError(
                f"{self._checkpoint.path}: feature head {name} upsamples {factor} times; this is "
                "not supported"
            )
        head = self._head(self._checkpoint.feature_heads, name)
        return lambda vectors: head(vectors.to(self.device, self.dtype)).float()

    def _head(self, heads: Mapping[str, Tensors], name: str) -> nn.Module:
        head = build_head(heads[name], f"{self._checkpoint.path}, head {name}")
        return head.to(self.device, self.dtype).requires_grad_(False).eval()

    def _text_embedder(self, teacher: Mapping[str, Any]) -> TextEmbedder:
        config, dimensions = self.config, self.language_channels
        name = config.text_tower or tower_of(
            self.language, dimensions, str(teacher.get("model") or "")
        )
        tower = TextTower(name, self.device, config.offline) if name else None
        return TextEmbedder(tower, dimensions, config.text_embeddings)

    def _image(self, rgb: np.ndarray) -> torch.Tensor:
        """(H, W, 3) numpy -> (3, H, W) float32 in [0, 1] on the device: the one conversion on the
        way in.
        """
        rgb = check_rgb(rgb)
        image = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).permute(2, 0, 1)
        return image.float() / 255 if rgb.dtype == np.uint8 else image.float()

    def _run(self, images: torch.Tensor, scra: bool) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H / patch, W / patch) float32."""
        grid = (images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        features = self._model(images.to(self.dtype), scra=scra).features
        return features.float().transpose(1, 2).unflatten(2, grid)

    def _windows(
        self, image: torch.Tensor, places: Sequence[tuple[int, int]]
    ) -> Iterator[torch.Tensor]:
        """The (C, crop / patch, crop / patch) features of each window of (3, H, W)."""
        side = self.crop
        at_once = WINDOWS_AT_ONCE[self.device.type]
        for start in range(0, len(places), at_once):
            some = [
                image[:, y : y + side, x : x + side] for y, x in places[start : start + at_once]
            ]
            yield from self._network(torch.stack(some), self.config.scra)


def refuse_unaligned(checkpoint: RadioCheckpoint, force: bool) -> None:
    """Refuse C-RADIOv3-L, whose patches are not aligned with its cls token: 0.86 mIoU (Table A.7).

    Raises:
        CheckpointError: it is that model and ``force`` is not set.
    """
    width = checkpoint.backbone["patch_generator.embedder.weight"].shape[0]
    large_v3 = (
        width == 1024 and "blocks.0.ls1.grandma" in checkpoint.backbone
    )  # v2.5-l has no LayerScale, v4 no such width
    if not force and (checkpoint.version == "c-radio_v3-l" or not checkpoint.version and large_v3):
        raise CheckpointError(
            f"{checkpoint.path}: the patches of C-RADIOv3-L are not aligned with text (0.86 "
            "mIoU), so queries would be noise; "
            "take c-radio_v3-b or c-radio_v3-h, or set radseg.force to use it all the same"
        )
