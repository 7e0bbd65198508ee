# SPDX-License-Identifier: Apache-2.0
"""RADIO run block by block, so that its last block can attend as a method wants."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch

from .attention.block import Attention, attend, complete, take_apart


class Network:
    """A RADIO without its summary.

    Args:
        model: a ``transformers.RadioModel``.
        seen: numbers of blocks, from 0, whose queries and keys the attention of the last one wants.
    """

    def __init__(self, model: Any, seen: Container[int] = ()) -> None:
        self.patch = int(model.config.patch_size)
        self.channels = int(model.config.hidden_size)
        self._prefix = int(model.config.num_summary_tokens)
        self._model = model
        self._seen = [number in seen for number in range(len(model.encoder.layer) - 1)]

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] as the network sees it."""
        return self._model.input_conditioner(images)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) as above -> (B, T, C), all tokens of RADIO as it is."""
        return self._model(images).last_hidden_state

    def features(self, images: torch.Tensor, attention: Attention) -> torch.Tensor:
        """The patches after the last block, which attends by ``attention``.

        Args:
            images: (B, 3, H, W) in [0, 1], of the network's type; sides multiples of the patch.
            attention: of the last block.

        Returns:
            (B, C, H / patch, W / patch) float32.
        """
        grid = (images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        tokens = self._model.embeddings(self.normalised(images))
        earlier = []
        *layers, last = self._model.encoder.layer
        for layer, seen in zip(layers, self._seen, strict=True):
            if seen:
                block = take_apart(layer, tokens, self._prefix, grid)
                earlier.append((block.query, block.key))
                tokens = block.complete(attend(block))
            else:
                tokens = layer(tokens)
        attended = attention(take_apart(last, tokens, self._prefix, grid, tuple(earlier)))
        features = complete(last, tokens, attended)  # queries, keys and values are gone
        return features.float().transpose(1, 2).unflatten(2, grid)
