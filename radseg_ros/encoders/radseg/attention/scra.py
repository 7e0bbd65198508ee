# SPDX-License-Identifier: Apache-2.0
"""SCRA, RADSeg's own: attention that recurs on its own output (docs/method.md 2.1)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..correlation import correlate, fused, product_type
from .block import Block, attend


def scra(block: Block, tau: float, recursions: int, compiled: bool = False) -> torch.Tensor:
    """The output of the attention, correlated with itself, is the attention of the next pass.

    Args:
        block: the last one of RADIO.
        tau: temperature of the correlation.
        recursions: how often; the paper does it once.
        compiled: in half precision on a GPU the correlation may be compiled, to one kernel.

    Returns:
        (B, h w, C).
    """
    out = attend(block)
    kind = product_type(out.dtype, out.device)
    alike = fused if compiled and out.is_cuda and kind != torch.float32 else correlate
    for _ in range(recursions):
        unit = F.normalize(
            block.split(out).float(), dim=-1, eps=1e-12
        )  # half precision would round eps to 0
        again = alike(unit.to(kind), block.value.to(kind), tau)
        out = block.merge(again.to(out.dtype))
    return block.patches(out)
