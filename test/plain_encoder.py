# SPDX-License-Identifier: Apache-2.0
"""RADSeg line by line: what the encoder is compared with, by tests and by ``bench/encoder.py``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from radseg_ros.encoders.radseg.backbone import build_radio
from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
from radseg_ros.encoders.windows import corners, resized

TAU = 10.0


def plain_aggregate(features: torch.Tensor, tau: float) -> torch.Tensor:
    """SCGA line by line: (C, h, w) -> (C, h, w)."""
    vectors = features.flatten(1).T
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    scores = unit @ unit.T
    scores = tau * (scores - scores.mean())
    scores[scores < 0] = -math.inf
    return (scores.softmax(-1) @ vectors).T.reshape(features.shape)


class PlainAttention(torch.nn.Module):
    """SCRA line by line, both attention matrices as a whole."""

    def __init__(self, attention: torch.nn.Module) -> None:
        super().__init__()
        self.own = attention

    def forward(self, x: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
        """(B, T, C) -> (B, T, C)."""
        own = self.own
        split = (own.num_attention_heads, -1)
        q, k, v = (
            linear(x).unflatten(-1, split).transpose(1, 2)
            for linear in (own.q_proj, own.k_proj, own.v_proj)
        )
        weights = ((q @ k.transpose(2, 3)) * own.scaling).softmax(-1)
        out = own.o_proj((weights @ v).transpose(1, 2).flatten(2))
        unit = F.normalize(out.unflatten(-1, split).transpose(1, 2), dim=-1)
        scores = TAU * unit @ unit.transpose(2, 3)
        scores[scores < 0] = -math.inf
        return own.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), None


class PlainEncoder:
    """RADSeg line by line: eager attention, all windows in one batch."""

    def __init__(self, checkpoint: Path, crop: int, stride: int) -> None:
        self.crop, self.stride = crop, stride
        self.model = build_radio(read_checkpoint(checkpoint))
        self.model.set_attn_implementation("eager")
        self.model.encoder.layer[-1].attention = PlainAttention(
            self.model.encoder.layer[-1].attention
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        grid = (images.shape[2] // 16, images.shape[3] // 16)
        return self.model(images).features.transpose(1, 2).unflatten(2, grid)

    @torch.inference_mode()
    def encode(self, rgb: np.ndarray) -> torch.Tensor:
        """(H, W, 3) -> (C, h, w)."""
        image = torch.from_numpy(rgb).permute(2, 0, 1)[None]
        size = resized(rgb.shape[:2], self.crop, self.stride)
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        if not self.crop:
            return plain_aggregate(self.features(image)[0], TAU)
        places = corners(size, self.crop, self.stride)
        side = self.crop // 16
        windows = self.features(
            torch.cat([image[:, :, y : y + self.crop, x : x + self.crop] for y, x in places])
        )
        total = torch.zeros(windows.shape[1], size[0] // 16, size[1] // 16)
        count = torch.zeros(total.shape[1:])
        for (y, x), window in zip(places, windows, strict=True):
            total[:, y // 16 : y // 16 + side, x // 16 : x // 16 + side] += window
            count[y // 16 : y // 16 + side, x // 16 : x // 16 + side] += 1
        return plain_aggregate(total / count, TAU)
