# SPDX-License-Identifier: Apache-2.0
"""How well patches and language agree in a checkpoint, measured without labels (Fig. A.2)."""

from __future__ import annotations

import numpy as np
from torch.nn import functional as F

from ...geometry import resize_rgb
from ..image import image_tensor
from ..windows import resized
from .encoder import RadsegEncoder

# the mean cosine over 1000 ImageNet images by the last part of a version's name
PAPER = {"v3-b": 0.48, "v3-h": 0.38, "v3-l": -0.04}


def alignment(encoder: RadsegEncoder, rgb: np.ndarray) -> tuple[float, float]:
    """Mean cosine between patches and cls token: in the backbone, and through the language head.

    Args:
        rgb: (H, W, 3) RGB, uint8 or float32 in [0, 1].
    """
    rgb = resize_rgb(rgb, resized(rgb.shape[:2], 0, 0, encoder.patch))
    image = image_tensor(rgb, encoder.device)
    patches = encoder.single_pass_features(image, scra=False).flatten(1).T
    cls = encoder.single_pass_summary(image)[None]
    plain = F.cosine_similarity(patches, cls).mean()
    aligned = F.cosine_similarity(encoder.project(patches), encoder.project(cls)).mean()
    return float(plain), float(aligned)
