# SPDX-License-Identifier: Apache-2.0
"""The one conversion on the way in: from pixels to what networks see."""

from __future__ import annotations

import torch

from ..datatypes import Pixels, check_rgb
from ..geometry import tensor


def image_tensor(rgb: Pixels, device: torch.device) -> torch.Tensor:
    """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> (3, H, W) float32 in [0, 1] on ``device``.

    Raises:
        InputError: it is no such image.
    """
    return planes(image_on(device, rgb))


def image_on(device: torch.device, rgb: Pixels) -> torch.Tensor:
    """(H, W, 3) as above -> the same on ``device``; what is a tensor has been looked at before."""
    return tensor(rgb if isinstance(rgb, torch.Tensor) else check_rgb(rgb), device)


def planes(rgb: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) uint8, or float in [0, 1] -> (3, H, W) float32 in [0, 1]."""
    image = rgb.permute(2, 0, 1).float()
    return image / 255 if rgb.dtype == torch.uint8 else image
