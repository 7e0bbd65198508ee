# SPDX-License-Identifier: Apache-2.0
"""A block of RADIO taken apart, so that another attention can be put into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ...gaussian import Bias
from ..correlation import rows_at_once
from ..linear import joined, linear

QueriesAndKeys = tuple[tuple[torch.Tensor, torch.Tensor], ...]


@dataclass(frozen=True, eq=False)
class Block:
    """A block at work on one batch.

    T tokens: ``prefix`` class tokens and registers, then the h x w patches row by row.
    """

    layer: Any  # a RadioLayer of transformers, see prepare
    tokens: torch.Tensor  # (B, T, C), what goes into it
    query: torch.Tensor  # (B, heads, T, d), as key and value
    key: torch.Tensor
    value: torch.Tensor
    prefix: int
    grid: tuple[int, int]  # (h, w)
    earlier: QueriesAndKeys = ()  # of blocks before it that the attention wants to see

    @property
    def scale(self) -> float:
        """1 / sqrt(d)."""
        return float(self.layer.attention.scaling)

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, n, C) -> (B, heads, n, d)."""
        return split(self.layer, tokens)

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, n, C), heads side by side -> (B, n, C), by the attention's W_o."""
        return linear(self.layer.attention.o_proj, tokens)

    def merge(self, heads: torch.Tensor) -> torch.Tensor:
        """(B, heads, n, d) -> (B, n, C), projected."""
        return self.project(heads.transpose(1, 2).flatten(2))

    def patches(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., T, d) -> (..., h w, d)."""
        return tokens[..., self.prefix :, :]

    def complete(self, attended: torch.Tensor) -> torch.Tensor:
        """What the rest of the block makes of an attention's output.

        Args:
            attended: (B, n, C), of the last n tokens.

        Returns:
            (B, n, C), those tokens after the block.
        """
        return complete(self.layer, self.tokens, attended)


Attention = Callable[[Block], torch.Tensor]  # -> (B, h w, C), its output for the patches


def prepare(layer: Any) -> Any:
    """A RadioLayer whose attention makes queries, keys and values by one product, ``qkv_proj``.

    It takes the place of the three projections, so that there are no weights twice.
    """
    own = layer.attention
    own.qkv_proj = joined([own.q_proj, own.k_proj, own.v_proj])
    del own.q_proj, own.k_proj, own.v_proj
    return layer


def take_apart(
    layer: Any,
    tokens: torch.Tensor,
    prefix: int,
    grid: tuple[int, int],
    earlier: QueriesAndKeys = (),
) -> Block:
    """The block ``layer``, prepared, with (B, T, C) tokens going into it."""
    own = layer.attention
    made = linear(own.qkv_proj, layer.norm1(tokens))
    made = made.unflatten(-1, (3, own.num_attention_heads, -1)).permute(2, 0, 3, 1, 4)
    if made.device.type == "cpu":  # a head's rows that lie far apart compete for places in a cache
        made = made.contiguous()
    query, key, value = made.unbind()
    return Block(layer, tokens, query, key, value, prefix, grid, earlier)


def split(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """(B, n, C) -> (B, heads, n, d), with the heads of ``layer``."""
    return tokens.unflatten(-1, (layer.attention.num_attention_heads, -1)).transpose(1, 2)


def complete(layer: Any, tokens: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """The rest of ``layer``; see :meth:`Block.complete`."""
    tokens = tokens[:, -attended.shape[1] :].addcmul(attended, layer.layer_scale1.lambda1)
    hidden = linear(layer.mlp.fc1, layer.norm2(tokens), gelu=True)
    return tokens.addcmul(linear(layer.mlp.fc2, hidden), layer.layer_scale2.lambda1)


def attend(block: Block) -> torch.Tensor:
    """The block's own attention, of all tokens: (B, T, C)."""
    return block.merge(
        F.scaled_dot_product_attention(block.query, block.key, block.value, scale=block.scale)
    )


def plain(block: Block) -> torch.Tensor:
    """RADIO as it is: (B, h w, C)."""
    return block.patches(attend(block))


def key_attention(
    block: Block, bias: Bias, scale: float | None = None, batch_of_bias: int = 1
) -> torch.Tensor:
    """softmax(scale k k^T + bias) v for the patches, which attend to all tokens.

    The bias is 0 for class tokens and registers, which are near to nothing.

    Args:
        block: the last one of RADIO.
        bias: rows of patches -> (n, h w), or (B, 1, n, h w) where it differs within the batch.
        scale: None = 1 / sqrt(d).
        batch_of_bias: 1 or B, so that not more of the bias is made at once than may exist.

    Returns:
        (B, heads, h w, d).
    """
    own = block.patches(block.key)
    count = own.shape[-2]
    step = max(1, rows_at_once(block.key.shape[-2], own.device) // batch_of_bias)
    scale = block.scale if scale is None else scale
    parts = []
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        mask = F.pad(bias(rows), (block.prefix, 0)).to(own.dtype)
        parts.append(
            F.scaled_dot_product_attention(
                own[..., rows, :], block.key, block.value, attn_mask=mask, scale=scale
            )
        )
    return torch.cat(parts, -2)
