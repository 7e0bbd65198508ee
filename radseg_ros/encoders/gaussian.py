# SPDX-License-Identifier: Apache-2.0
"""The Gaussian that draws the attention of a patch to what is near (NACLIP, NARADIO, ResCLIP)."""

from __future__ import annotations

from collections.abc import Callable

import torch

Bias = Callable[[slice], torch.Tensor]  # rows of patches -> (n, h w), or (B, 1, n, h w)


def gaussian(grid: tuple[int, ...], sigma: float, device: torch.device | str = "cpu") -> Bias:
    """exp(-distance^2 / (2 sigma^2)) of the patches of a grid to each other.

    It is the product of two small matrices, and made row by row: the whole of it, (h w, h w), need
    not exist at once.

    Args:
        grid: (h, w).
        sigma: patches.
        device: where it is made.

    Returns:
        A function from rows of patches (h w of them, row by row) to (n, h w) float32.
    """
    down, across = (
        torch.exp(-((steps[:, None] - steps) ** 2) / (2 * sigma**2))
        for steps in (torch.arange(side, device=device, dtype=torch.float32) for side in grid)
    )
    places = torch.arange(grid[0] * grid[1], device=device)

    def rows(wanted: slice) -> torch.Tensor:
        y, x = places[wanted] // grid[1], places[wanted] % grid[1]
        return (down[y, :, None] * across[x, None, :]).flatten(1)

    return rows
