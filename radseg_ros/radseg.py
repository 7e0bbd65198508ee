# SPDX-License-Identifier: Apache-2.0
"""The RADSeg encoder (SPEC 2): RADIO with SCRA in its last block, sliding windows, SCGA, and a language head on top."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from .config import RadsegConfig, one_of
from .datatypes import CheckpointError, ConfigError, FeatureMap, InputError, check_rgb
from .heads import build_head
from .radio import SelfCorrelatingAttention, build_radio, correlate
from .radio_checkpoint import RadioCheckpoint, read_checkpoint

LANGUAGE_HEADS = ("siglip2", "siglip2-g", "siglip", "clip")  # best first (Table A.7)
WINDOWS_AT_ONCE = 8  # bounds the memory; more at once is not faster
VECTORS_AT_ONCE = 16384  # rows that go through a head at once


class RadsegEncoder:
    """RADSeg as an :class:`~radseg_ros.encoder.Encoder`.

    Raises:
        CheckpointError: the weights cannot be had, are damaged, or have no such head.
        ConfigError: the device or an option is impossible.
    """

    logit_scale = 100.0

    def __init__(self, config: RadsegConfig) -> None:
        self.config = config
        self.crop, self.stride = config.window()
        self.device = pick_device(config.device)
        self.dtype = getattr(torch, config.dtype)
        checkpoint = read_checkpoint(config.checkpoint)
        self.checkpoint_hash = checkpoint.hash
        self.version = checkpoint.version
        self.heads = tuple(checkpoint.feature_heads)
        self.language = language_head(checkpoint, config.language)
        self.name = f"radseg-{checkpoint.hash}-{self.language}"
        where = f"{checkpoint.path}, head {self.language}"
        self._project = build_head(checkpoint.summary_heads[self.language], where).to(self.device, self.dtype)
        self._checkpoint = checkpoint
        model = build_radio(checkpoint)
        last = model.encoder.layer[-1]
        last.attention = SelfCorrelatingAttention(last.attention, config.tau_scra, config.recursions)
        self._model = model.to(self.device, self.dtype)
        self.patch = int(model.config.patch_size)
        self.channels = int(model.config.hidden_size)
        self.language_channels = int(list(self._project.parameters())[-1].shape[0])

    @torch.inference_mode()
    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> FeatureMap (C, h, w) in backbone space, float32."""
        image = self._image(rgb)
        size = window_size(image.shape[-2:], self.crop, self.stride, self.patch)
        if size != tuple(image.shape[-2:]):
            image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        windows = window_corners(size, self.crop, self.stride) if self.crop else [(0, 0)]
        if len(windows) == 1 and size == (self.crop, self.crop) or not self.crop:
            features = self._network(image[None], self.config.scra)[0]
        else:
            features = self._stitch(image, windows)
        if self.config.scga == "always" or (self.config.scga == "multi_window" and len(windows) > 1):
            features = aggregate(features, self.config.tau_scga)
        return FeatureMap(features)

    @torch.inference_mode()
    def project(self, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(N, C) backbone vectors -> (N, D) in the language space, not normalised, float32, on ``device``."""
        vectors = torch.as_tensor(vectors, device=self.device)
        if vectors.ndim != 2 or vectors.shape[1] != self.channels:
            raise InputError(f"vectors must be (N, {self.channels}), got {tuple(vectors.shape)}")
        return torch.cat([self._project(part.to(self.dtype)).float() for part in vectors.split(VECTORS_AT_ONCE)])

    def probabilities(
        self,
        rgb: np.ndarray,
        vectors: torch.Tensor | np.ndarray,
        size: tuple[int, int] | None = None,
        denoise_threshold: float = 0.5,
    ) -> torch.Tensor:
        """Probability of each text at each pixel; see :func:`radseg_ros.segmentation.probabilities`."""
        from .segmentation import probabilities

        return probabilities(self, rgb, vectors, size, denoise_threshold)

    @torch.inference_mode()
    def single_pass_features(self, rgb: torch.Tensor, scra: bool = True) -> torch.Tensor:
        """One pass over the whole image, without SCGA.

        Args:
            rgb: (3, H, W) in [0, 1] on ``device``, sides multiples of the patch size.
            scra: with self-correlating attention in the last block, or as RADIO is.

        Returns:
            (C, H / patch, W / patch) float32.
        """
        return self._network(rgb[None], scra)[0]

    def feature_head(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """The head that brings patch vectors into the feature space of teacher ``name`` (one of ``heads``): (N, C) -> (N, D).

        Raises:
            CheckpointError: the checkpoint has no such head.
        """
        if name not in self.heads:
            raise CheckpointError(f"{self._checkpoint.path}: no feature head {name!r}; it has {', '.join(self.heads) or 'none'}")
        where = f"{self._checkpoint.path}, feature head {name}"
        head = build_head(self._checkpoint.feature_heads[name], where).to(self.device, self.dtype).requires_grad_(False)
        return lambda vectors: head(vectors.to(self.device, self.dtype)).float()

    def _image(self, rgb: np.ndarray) -> torch.Tensor:
        """(H, W, 3) numpy -> (3, H, W) float32 in [0, 1] on the device: the one conversion on the way in."""
        rgb = check_rgb(rgb)
        image = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device).permute(2, 0, 1)
        return image.float() / 255 if rgb.dtype == np.uint8 else image.float()

    def _network(self, images: torch.Tensor, scra: bool) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H / patch, W / patch) float32."""
        rows, cols = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        features = self._model(images.to(self.dtype), scra=scra).features
        return features.float().transpose(1, 2).unflatten(2, (rows, cols))

    def _stitch(self, image: torch.Tensor, corners: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Mean over all windows: (3, H, W) -> (C, H / patch, W / patch)."""
        crop, patch = self.crop, self.patch
        side = crop // patch
        total = image.new_zeros(self.channels, image.shape[1] // patch, image.shape[2] // patch)
        count = image.new_zeros(total.shape[1:])
        for start in range(0, len(corners), WINDOWS_AT_ONCE):
            batch = corners[start : start + WINDOWS_AT_ONCE]
            windows = torch.stack([image[:, y : y + crop, x : x + crop] for y, x in batch])
            for (y, x), features in zip(batch, self._network(windows, self.config.scra), strict=True):
                rows, cols = slice(y // patch, y // patch + side), slice(x // patch, x // patch + side)
                total[:, rows, cols] += features
                count[rows, cols] += 1
        return total / count


def aggregate(features: torch.Tensor, tau: float) -> torch.Tensor:
    """SCGA (SPEC 2.3): every patch becomes the correlation-weighted mean of all patches of its image.

    Args:
        features: (C, h, w) float32.
        tau: temperature.

    Returns:
        (C, h, w).
    """
    vectors = features.flatten(1).T.contiguous()
    unit = F.normalize(vectors, dim=-1, eps=1e-12)
    mean = (unit.mean(0) ** 2).sum()  # the mean over all T x T cosines = |mean of the unit vectors|^2
    return correlate(unit, vectors, tau, mean).T.reshape(features.shape)


def window_size(size: Sequence[int], crop: int, stride: int, patch: int = 16) -> tuple[int, int]:
    """(h, w) that an image is resized to (SPEC 2.2): multiples of the stride, at least a window; single pass: of the patch."""
    h, w = int(size[0]), int(size[1])
    if not crop:
        return max(round(h / patch), 1) * patch, max(round(w / patch), 1) * patch
    if h % stride or w % stride:
        long = max(h, w)
        target = math.ceil(long / stride) * stride
        h, w = (math.ceil(int(side * target / long) / stride) * stride for side in (h, w))
    return max(h, crop), max(w, crop)


def window_corners(size: Sequence[int], crop: int, stride: int) -> list[tuple[int, int]]:
    """Upper-left corners (y, x) of all windows; the last ones are pushed back inside the image."""
    ys, xs = (
        [min(i * stride, side - crop) for i in range(max(side - crop + stride - 1, 0) // stride + 1)] for side in size
    )
    return [(y, x) for y in ys for x in xs]


def language_head(checkpoint: RadioCheckpoint, wanted: str) -> str:
    """Name of the summary head that leads into text space.

    Raises:
        CheckpointError: there is no such head.
    """
    have = checkpoint.summary_heads
    if wanted:
        if wanted not in have:
            raise CheckpointError(f"{checkpoint.path}: no head {wanted!r}; it has {', '.join(have) or 'none'}")
        return wanted
    for name in LANGUAGE_HEADS:
        if name in have:
            return name
    raise CheckpointError(f"{checkpoint.path}: no language head; it has {', '.join(have) or 'no heads at all'}")


def pick_device(name: str) -> torch.device:
    """``auto`` is cuda if there is one; everything else is what torch knows.

    Raises:
        ConfigError: torch does not know the device, or the machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"radseg.device: {name!r} cannot be used ({reason})") from error
    one_of("radseg.device", device.type, ("cpu", "cuda", "mps"))
    return device
