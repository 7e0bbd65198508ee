# SPDX-License-Identifier: Apache-2.0
"""RADIO in place of SAM's image encoder, whose features it imitates (docs/method.md 2.6)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from ...config import RefineConfig
from ...datatypes import CheckpointError
from ..image import image_tensor
from .checkpoint import RadioCheckpoint, Tensors, feature_head

HEAD = "sam"  # the teacher whose feature head imitates SAM's image encoder


class RadioSamFeatures:
    """A :class:`~radseg_ros.encoders.protocol.SamFeatures`: one pass of RADIO, and its SAM head.

    Args:
        config: how the maps are refined.
        backbone: (3, H, W) image -> (C, h, w) patch vectors, in one pass.
        head: (N, C) patch vectors -> (N, channels).
        channels: of what the head gives.
        device: where the backbone is.
        offline: never touch the network.
    """

    def __init__(
        self,
        config: RefineConfig,
        backbone: Callable[[torch.Tensor], torch.Tensor],
        head: Callable[[torch.Tensor], torch.Tensor],
        channels: int,
        device: torch.device,
        offline: bool,
    ) -> None:
        self.config, self.channels = config, channels
        self.device, self.offline = device, offline
        self._backbone, self._head = backbone, head

    @torch.no_grad()
    def __call__(self, rgb: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1], seen at ``size`` (h, w) px, multiples of the
        patch size -> (channels, h / patch, w / patch) float32.
        """
        image = image_tensor(rgb, self.device)[None]
        large = F.interpolate(image, size, mode="bilinear", align_corners=False)[0]
        vectors = self._backbone(large)
        return self._head(vectors.flatten(1).T).T.unflatten(1, vectors.shape[1:])


def sam_head(checkpoint: RadioCheckpoint) -> Tensors:
    """The tensors of RADIO's feature head for SAM.

    Raises:
        CheckpointError: the checkpoint has none, or one that is not supported.
    """
    have = checkpoint.feature_heads
    if HEAD not in have and "sam3" in have:
        raise CheckpointError(
            "refine: this checkpoint learned from SAM 3 (head sam3), as all of C-RADIOv4 do, and "
            "SAM's mask decoder does not understand its features; take c-radio_v3-b, c-radio_v3-h "
            "or radio_v2.5-*, or set refine: off"
        )
    tensors = feature_head(checkpoint, HEAD, "radseg.refine sam")
    if (factor := checkpoint.upsampling(HEAD)) > 1:
        raise CheckpointError(
            f"{checkpoint.path}: feature head {HEAD} upsamples {factor} times; this is not "
            "supported"
        )
    return tensors
