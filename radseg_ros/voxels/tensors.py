# SPDX-License-Identifier: Apache-2.0
"""Two operations of torch, made faster on a CPU."""

from __future__ import annotations

import torch


def take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``values[rows]`` for (N,) row numbers: on a CPU ``index_select`` takes an eighth of the time
    of indexing.
    """
    return torch.index_select(values, 0, rows)


# Added to float64 |values| < 2^51, 1.5 * 2^52 leaves no bits for a fraction, so it rounds as
# ``torch.round`` does, and the bits of the sum count up from its own as an integer does.
# ``torch.round`` splits even small tensors between threads, and on a busy machine each such split
# waits for a core.
ROUNDER = 6755399441055744.0
ROUNDER_BITS = 0x4338000000000000


def round_half_even(values: torch.Tensor) -> torch.Tensor:
    """Round float64 |values| < 2^51 in place, as ``torch.round`` does."""
    return values.add_(ROUNDER).sub_(ROUNDER)
