# SPDX-License-Identifier: Apache-2.0
"""The one conversion on the way in: from numpy to torch."""

from __future__ import annotations

import numpy as np
import torch

from ..datatypes import check_rgb


def image_tensor(rgb: np.ndarray, device: torch.device) -> torch.Tensor:
    """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> (3, H, W) float32 in [0, 1] on ``device``.

    Raises:
        InputError: it is no such image.
    """
    rgb = np.ascontiguousarray(check_rgb(rgb))
    image = torch.tensor(rgb).to(device).permute(2, 0, 1).float()
    return image / 255 if rgb.dtype == np.uint8 else image
