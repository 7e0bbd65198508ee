# SPDX-License-Identifier: Apache-2.0
"""CLIP's image tower, block by block, on the modules of ``transformers`` (docs/method.md 5.1).

Tokens are (B, 1 + h*w, C): the class token, then the patches row by row. Per head they are
(B, heads, 1 + h*w, C / heads).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ....datatypes import CheckpointError
from .weights import Weights, load_weights

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # q, k, v


def normalised(
    images: torch.Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> torch.Tensor:
    """(..., 3, H, W) in [0, 1] -> the same less ``mean``, in units of ``std``."""
    return (images - images.new_tensor(mean).view(3, 1, 1)) / images.new_tensor(std).view(3, 1, 1)


def positions(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Position embeddings for a ``grid`` (h, w), as the programs of OpenAI's CLIP and DINO's
    followers make them.

    Bicubic, and the coordinates follow from the scale (h + 0.1) / g rather than from h / g, which
    is what ``interpolate_pos_encoding`` of transformers takes.

    Args:
        table: (1 + g*g, C), class token first.

    Returns:
        (1 + h*w, C); the table itself for as many patches as it has.
    """
    side, (height, width) = math.isqrt(len(table) - 1), grid
    if height * width == side * side:
        return table
    patches = table[1:].T.reshape(1, -1, side, side)
    scale = ((height + 0.1) / side, (width + 0.1) / side)
    resized = F.interpolate(
        patches,
        scale_factor=scale,
        mode="bicubic",
        align_corners=False,
        recompute_scale_factor=False,
    )
    return torch.cat([table[:1], resized[0].flatten(1).T])


def at_size(maps: torch.Tensor, size: Sequence[int], align_corners: bool = False) -> torch.Tensor:
    """(B, C, h, w) or (C, h, w) brought to ``size``, bilinear."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if not maps.numel():
        return maps.new_zeros(*maps.shape[:-2], *size)
    batch = maps if maps.ndim == 4 else maps[None]
    made = F.interpolate(batch, tuple(size), mode="bilinear", align_corners=align_corners)
    return made if maps.ndim == 4 else made[0]


class ClipTower:
    """The image half of a CLIP, opened up.

    Raises:
        CheckpointError: the weights cannot be had, or are no CLIP.
    """

    def __init__(self, name: str, device: torch.device, offline: bool = False) -> None:
        weights: Weights = load_weights(name, ("clip",), offline)
        self.hash = weights.hash
        self._model: Any = weights.model.to(device)
        self._vision: Any = self._model.vision_model
        config = self._vision.config
        self.patch, self.heads = int(config.patch_size), int(config.num_attention_heads)
        self.depth, self.channels = int(config.num_hidden_layers), int(config.projection_dim)
        if self.depth < 2:
            raise CheckpointError(
                f"{weights.folder}: a tower of {self.depth} block has no last one"
            )
        self._layers = self._vision.encoder.layers

    def grid(self, images: torch.Tensor) -> tuple[int, int]:
        """(h, w) patches of (..., H, W) images; what is left at the right and below is not seen."""
        return images.shape[-2] // self.patch, images.shape[-1] // self.patch

    def blocks(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) in [0, 1] -> tokens before the first block and after every block but the
        last: ``[i]`` is the output of block i, counted from 1.
        """
        embeddings = self._vision.embeddings
        patches = embeddings.patch_embedding(normalised(images)).flatten(2).transpose(1, 2)
        first = embeddings.class_embedding.expand(len(patches), 1, -1)
        places = positions(embeddings.position_embedding.weight, self.grid(images))
        found = [self._vision.pre_layrnorm(torch.cat([first, patches], 1) + places)]
        for layer in self._layers[:-1]:
            found.append(layer(found[-1], None))
        return found

    def qkv(self, tokens: torch.Tensor, block: int = -1) -> Heads:
        """What block number ``block`` (from 0) attends with, of the tokens that enter it: q, k, v,
        each (B, heads, T, d).
        """
        layer = self._layers[block]
        seen = layer.layer_norm1(tokens)
        attention = layer.self_attn
        made = (attention.q_proj(seen), attention.k_proj(seen), attention.v_proj(seen))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in made)
        return q, k, v

    def output(self, mixed: torch.Tensor) -> torch.Tensor:
        """Mixed values of the last block, (B, heads, S, d) -> (B, S, C), its attention's output."""
        return self.out_projection(mixed.transpose(1, 2).flatten(2))

    def out_projection(self, side_by_side: torch.Tensor) -> torch.Tensor:
        """As :meth:`output`, of heads side by side, (B, S, C)."""
        return self._layers[-1].self_attn.out_proj(side_by_side)

    def kept(self, tokens: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """The rest of the last block: residual and MLP around its ``attention``."""
        tokens, layer = tokens + attention, self._layers[-1]
        return tokens + layer.mlp(layer.layer_norm2(tokens))

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., D) in the space of texts: final norm and visual projection."""
        return self._model.visual_projection(self._vision.post_layernorm(tokens))
