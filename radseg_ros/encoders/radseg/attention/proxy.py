# SPDX-License-Identifier: Apache-2.0
"""ProxyRADIO: patches attend to those that another model finds alike (docs/method.md 2.7).

Derived from ProxyCLIP, since the authors' program was never released. The other model is RADIO
itself, through the feature head of its teacher DINOv2 (-D) or SAM (-S).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from ..correlation import correlate, mean_cosine
from .block import Block, plain

Head = Callable[[torch.Tensor], torch.Tensor]  # (B, n, C) patch vectors -> (B, n, u u D)
TEACHERS = {"proxy_dino": "dino_v2", "proxy_sam": "sam"}  # attention -> whose feature head


def proxy(block: Block, head: Head, beta: float, gamma: float, upsampling: int = 1) -> torch.Tensor:
    """softmax(gamma (S - beta mean(S))) v, with S the cosines of the head's vectors.

    Negative entries count as -inf, but a patch always keeps itself. All heads of the attention have
    the same weights; the mean is that of each window; class tokens and registers are not attended
    to.

    Args:
        block: the last one of RADIO.
        head: the teacher's; of the patches of the unmodified network.
        beta: share of the mean that a similarity must exceed.
        gamma: sharpness.
        upsampling: u, how many times more vectors than patches the head gives along each side.
            Values are then taken between the patches, and a patch gets the mean of its u x u cells.

    Returns:
        (B, h w, C).
    """
    unmodified = block.complete(plain(block))
    unit = F.normalize(cells(head(unmodified).float(), block.grid, upsampling), dim=-1, eps=1e-12)
    values = block.patches(block.value).float().transpose(1, 2).flatten(2)  # heads side by side
    values = _between(values, block.grid, upsampling)
    out = correlate(unit, values, gamma, beta * mean_cosine(unit))
    return block.project(_means(out, block.grid, upsampling).to(block.value.dtype))


def cells(vectors: torch.Tensor, grid: tuple[int, int], upsampling: int) -> torch.Tensor:
    """The output of a head that upsamples, laid out: (B, h w, u u D) -> (B, h u w u, D).

    The u x u vectors of a patch come row by row.
    """
    u = upsampling
    split = vectors.unflatten(2, (u, u, -1)).unflatten(1, grid)  # (B, h, w, u, u, D)
    return split.transpose(2, 3).flatten(1, 4)


def _between(vectors: torch.Tensor, grid: tuple[int, int], upsampling: int) -> torch.Tensor:
    """(B, h w, C) -> (B, h u w u, C), bilinear."""
    if upsampling == 1:
        return vectors
    maps = vectors.transpose(1, 2).unflatten(2, grid)
    size = [side * upsampling for side in grid]
    fine = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    return fine.flatten(2).transpose(1, 2).contiguous()


def _means(vectors: torch.Tensor, grid: tuple[int, int], upsampling: int) -> torch.Tensor:
    """(B, h u w u, C) -> (B, h w, C)."""
    if upsampling == 1:
        return vectors
    maps = vectors.transpose(1, 2).unflatten(2, [side * upsampling for side in grid])
    return F.avg_pool2d(maps, upsampling).flatten(2).transpose(1, 2)
