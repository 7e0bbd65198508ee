# SPDX-License-Identifier: Apache-2.0
"""The text side of our encoders for the tools of OpenLex3D, which compare it with the vectors that
``eval3d export openlex3d`` writes.

Put this file into the folder openlex3d/models of its checkout, and add to its commands

    model.type=openlex3d_text model.backbone=radseg model.checkpoint=c-radio_v3-b_half.pth.tar
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from openlex3d.models.base import VisualLanguageEncoder

from radseg_ros import make_encoder


class EncoderText(VisualLanguageEncoder):
    """Names of things as vectors, each the mean over the encoder's templates."""

    def __init__(self, name: str, checkpoint: str, device: str) -> None:
        self.encoder = make_encoder(name, checkpoint=checkpoint, device=device)

    def compute_text_features(self, input_text: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """(Q,) names -> (Q, D) float32."""
        parts = [
            self.encoder.embed_labels(input_text[start : start + batch_size]).cpu().numpy()
            for start in range(0, len(input_text), batch_size)
        ]
        return np.concatenate(parts).astype(np.float32)


def load_model(backbone: str, checkpoint: str, device: str = "cpu") -> EncoderText:
    """What OpenLex3D calls.

    Args:
        backbone: the encoder's name.
        checkpoint: its weights.
    """
    return EncoderText(backbone, checkpoint, device)
