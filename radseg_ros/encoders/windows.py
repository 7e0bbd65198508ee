# SPDX-License-Identifier: Apache-2.0
"""Sliding windows (docs/method.md 2.2): the size an image is brought to, where its windows lie, the
mean where they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch.nn import functional as F


def resized(
    size: Sequence[int], crop: int, stride: int, patch: int = 16, side: int = 0
) -> tuple[int, int]:
    """(h, w) that an image is resized to: multiples of the stride and at least one window.

    Single pass, and what is brought down to a short side of ``side`` px: multiples of the patch.
    """
    h, w = size
    scale = side / min(size) if 0 < side < min(size) else 1.0
    if scale < 1 or not crop:
        h, w = (max(round(each * scale / patch), 1) * patch for each in (h, w))
    elif h % stride or w % stride:
        long = max(h, w)
        target = math.ceil(long / stride) * stride
        h, w = (math.ceil(int(each * target / long) / stride) * stride for each in (h, w))
    return max(h, crop), max(w, crop)


def corners(size: Sequence[int], crop: int, stride: int) -> list[tuple[int, int]]:
    """Upper-left corners (y, x) of all windows; the last ones are pushed back inside the image."""
    ys, xs = (
        [
            min(i * stride, side - crop)
            for i in range(max(side - crop + stride - 1, 0) // stride + 1)
        ]
        for side in size
    )
    return [(y, x) for y in ys for x in xs]


def stitch(
    windows: Iterable[torch.Tensor], places: Sequence[tuple[int, int]], out: torch.Tensor
) -> torch.Tensor:
    """Mean of overlapping windows: (C, k, k) maps at ``places`` (row, column) into ``out`` (C, h,
    w), which holds zeros.
    """
    count = out.new_zeros(out.shape[1:])
    if torch.compiler.is_compiling():  # a graph that is written out holds no views to write into
        for (row, col), window in zip(places, windows, strict=True):
            high, wide = window.shape[1:]
            around = (col, out.shape[2] - col - wide, row, out.shape[1] - row - high)
            out = out + F.pad(window, around)
            count = count + F.pad(window.new_ones(high, wide), around)
        return out / count
    for (row, col), window in zip(places, windows, strict=True):
        rows, cols = slice(row, row + window.shape[1]), slice(col, col + window.shape[2])
        out[:, rows, cols] += window
        count[rows, cols] += 1
    return out.div_(count)
