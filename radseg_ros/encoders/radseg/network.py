# SPDX-License-Identifier: Apache-2.0
"""RADIO run block by block, so that its last block can attend as a method wants."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch

from .attention.block import Attention, attend, complete, prepare, take_apart


class Network:
    """A RADIO without its summary.

    Args:
        model: a ``transformers.RadioModel``, of its final type and on its device; its blocks are
            prepared, after which it does not run by itself.
        seen: numbers of blocks, from 0, whose queries and keys the attention of the last one wants.
    """

    def __init__(self, model: Any, seen: Container[int] = ()) -> None:
        self.patch = int(model.config.patch_size)
        self.channels = int(model.config.hidden_size)
        self._prefix = int(model.config.num_summary_tokens)
        self._model = model
        for layer in model.encoder.layer:
            prepare(layer)
        self._seen = [number in seen for number in range(len(model.encoder.layer) - 1)]

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] as the network sees it."""
        return self._model.input_conditioner(images)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) as above -> (B, T, C), all tokens of RADIO as it is."""
        return self._after(images, attend)

    @torch.no_grad()
    def probe(self) -> torch.Tensor:
        """(1, T, C) tokens of an image of 14 x 14 patches: flat ones, and others of noise."""
        weights, side = next(self._model.parameters()), 14 * self.patch
        random = torch.Generator().manual_seed(0)
        noise, flat = (torch.rand(1, 3, n, n, generator=random) for n in (side, 14))
        image = torch.nn.functional.interpolate(flat, (side, side), mode="nearest")
        image[..., ::2, :] = torch.where(image[..., ::2, :] > 0.5, noise[..., ::2, :], 1.0)
        return self.tokens(image.to(weights.device, weights.dtype))

    def features(self, images: torch.Tensor, attention: Attention) -> torch.Tensor:
        """The patches after the last block, which attends by ``attention``.

        Args:
            images: (B, 3, H, W) in [0, 1], of the network's type; sides multiples of the patch.
            attention: of the last block.

        Returns:
            (B, C, H / patch, W / patch) float32.
        """
        features = self._after(images, attention)
        return features.float().transpose(1, 2).unflatten(2, self._grid(images))

    def _grid(self, images: torch.Tensor) -> tuple[int, int]:
        return (images.shape[-2] // self.patch, images.shape[-1] // self.patch)

    def _after(self, images: torch.Tensor, attention: Attention) -> torch.Tensor:
        """(B, n, C), the tokens that ``attention`` gives, after the last block."""
        grid = self._grid(images)
        tokens = self._model.embeddings(self.normalised(images))
        earlier: list[tuple[torch.Tensor, torch.Tensor]] = []
        *layers, last = self._model.encoder.layer
        for layer, seen in zip(layers, self._seen, strict=True):
            block = take_apart(layer, tokens, self._prefix, grid)
            if seen:
                earlier.append((block.query, block.key))
            attended = attend(block)
            del block  # queries, keys and values are gone
            tokens = complete(layer, tokens, attended)
        attended = attention(take_apart(last, tokens, self._prefix, grid, tuple(earlier)))
        return complete(last, tokens, attended)
