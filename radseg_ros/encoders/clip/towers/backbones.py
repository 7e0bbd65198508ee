# SPDX-License-Identifier: Apache-2.0
"""Image towers that CLIP borrows from: DINO, DINOv2 with registers, SAM (docs/method.md 5.1)."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from ...windows import resized
from .clip import IMAGENET_MEAN, IMAGENET_STD, at_size, normalised, positions
from .weights import Weights, load_weights


class Backbone(Protocol):
    """An image tower that gives patch features."""

    hash: str  # of the weights
    channels: int

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w), before anything is normalised."""
        ...


def load_backbone(name: str, device: torch.device, offline: bool = False) -> Backbone:
    """The tower ``name``, a folder or hub id.

    Raises:
        CheckpointError: it cannot be had, is damaged, or of another kind.
    """
    weights = load_weights(name, tuple(BACKBONES), offline)
    return BACKBONES[weights.kind](weights, device)


class Dino:
    """DINO (a ``ViTModel``): the last block's patches after the final norm; positions by the rule
    of :func:`~radseg_ros.encoders.clip.towers.clip.positions`.
    """

    prefix = 1  # tokens before the patches

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.hash, self._model = weights.hash, weights.model.to(device)
        config: Any = self._model.config
        self.patch, self.channels = int(config.patch_size), int(config.hidden_size)
        self._options = self._prepare()

    def _prepare(self) -> dict[str, Any]:
        """Teach the model our positions -> the options of a call."""
        embeddings, patch = self._model.embeddings, self.patch

        def ours(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
            grid = (height // patch, width // patch)
            return positions(embeddings.position_embeddings[0], grid)[None]

        embeddings.interpolate_pos_encoding = ours
        return {"interpolate_pos_encoding": True}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """As :class:`Backbone`; an image of no whole number of patches is stretched to one."""
        size = resized(images.shape[2:], 0, 0, self.patch)
        tokens = self.tokens(at_size(images, size))[:, self.prefix :]
        return tokens.transpose(1, 2).unflatten(2, (size[0] // self.patch, size[1] // self.patch))

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1], sides multiples of the patch -> (B, prefix + h*w, C)."""
        seen = normalised(images, IMAGENET_MEAN, IMAGENET_STD)
        return self._model(seen, **self._options).last_hidden_state


class Dinov2(Dino):
    """DINOv2 with registers: positions by size, bicubic with antialias, as transformers does it."""

    def _prepare(self) -> dict[str, Any]:
        self.prefix = 1 + int(self._model.config.num_register_tokens)
        return {}

    def last_qkv(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the last block attends with: q, k, v, each (B, heads, prefix + h*w, d)."""
        *layers, last = self._model.encoder.layer
        tokens = self._model.embeddings(normalised(images, IMAGENET_MEAN, IMAGENET_STD))
        for layer in layers:
            tokens = layer(tokens)
        seen = last.norm1(tokens)
        made = (getattr(last.attention, f"{name}_proj")(seen) for name in "qkv")
        heads = int(self._model.config.num_attention_heads)
        return tuple(part.unflatten(2, (heads, -1)).transpose(1, 2) for part in made)


class Sam:
    """SAM's image encoder: what its neck gives, of images squashed to the square it takes."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.hash, self._model = weights.hash, weights.model.to(device)
        config: Any = self._model.config
        self.channels, self.side = int(config.output_channels), int(config.image_size)
        self.patch = int(config.patch_size)
        last = int(config.num_hidden_layers) - 1
        self.attends_globally = last in config.global_attn_indexes

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """As :class:`Backbone`."""
        squashed = at_size(images, (self.side, self.side))
        return self.embedding(normalised(squashed, IMAGENET_MEAN, IMAGENET_STD))

    def embedding(self, seen: torch.Tensor) -> torch.Tensor:
        """(B, 3, side, side), normalised and padded -> (B, C, side / patch, side / patch)."""
        return self._model(seen).last_hidden_state

    def last_attention(
        self, seen: torch.Tensor, valid: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How the last block attends, with its relative positions.

        Args:
            seen: (1, 3, side, side), normalised and padded.
            valid: (h, w) patches of the upper left that are no padding.

        Returns:
            Probabilities over all keys, cut to the valid ones and not renormalised (heads, h*w,
            h*w), and values (heads, h, w, d).
        """
        encoder = self._model.vision_encoder
        *layers, last = encoder.layers
        tokens = encoder.patch_embed(seen)
        if encoder.pos_embed is not None:
            tokens = tokens + encoder.pos_embed
        for layer in layers:
            tokens = layer(tokens)
        attention, (height, width) = last.attn, tokens.shape[1:3]
        heads = attention.num_attention_heads
        made = attention.qkv(last.layer_norm1(tokens))
        q, k, v = made.reshape(height * width, 3, heads, -1).permute(1, 2, 0, 3)
        rows, columns = valid
        inside = torch.arange(height * width, device=q.device).view(height, width)
        inside = inside[:rows, :columns].flatten()
        found = q.new_empty(heads, len(inside), len(inside))
        for head in range(heads):  # one at a time: all of a large SAM's are gigabytes
            logits = (q[head] * attention.scale) @ k[head].T
            if attention.use_rel_pos:
                logits += attention.get_decomposed_rel_pos(
                    q[head][None],
                    attention.rel_pos_h,
                    attention.rel_pos_w,
                    (height, width),
                    (height, width),
                ).reshape_as(logits)
            found[head] = logits[inside].softmax(-1)[:, inside]
        return found, v[:, inside].unflatten(1, valid)


BACKBONES: dict[str, Any] = {
    "vit": Dino,
    "dinov2_with_registers": Dinov2,
    "sam_vision_model": Sam,
    "sam": Sam,
}
