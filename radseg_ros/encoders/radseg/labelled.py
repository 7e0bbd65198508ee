# SPDX-License-Identifier: Apache-2.0
"""ResRADIO with SFR: what it sees depends on the labels that it looks for (docs/method.md 2.7)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from ...datatypes import FeatureMap
from ..feedback import first_labels
from .attention.resradio import SecondLook
from .encoder import RadsegEncoder


class LabelledEncoder(RadsegEncoder):
    """A :class:`RadsegEncoder` with ``radseg.sfr``: it tells probabilities of given texts.

    ``encode`` alone, which knows no texts, gives the features of the first pass.
    """

    labels_only = "with radseg.sfr features depend on the labels that are looked for"

    @torch.no_grad()
    def probabilities(self, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Probability of each text at each patch.

        Args:
            rgb: (H, W, 3) RGB, uint8 or float32 in [0, 1].
            vectors: (Q, D) of the texts.

        Returns:
            (Q, h, w), which sum to 1 over the texts.
        """
        features = self.encode_for(rgb, vectors).data
        logits = self.logit_scale * self._cosines(features.flatten(1).T, self._unit(vectors))
        return logits.softmax(-1).T.unflatten(1, features.shape[1:]).contiguous()

    @torch.no_grad()
    def encode_for(self, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray) -> FeatureMap:
        """Image and (Q, D) vectors of texts as above -> (C, h, w) in backbone space."""
        texts = self._unit(vectors)
        return self._encode(rgb, partial(self._run_for, texts=texts))

    def _run_for(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1], (Q, D) -> (B, C, H / patch, W / patch) float32."""
        images = images.to(self.dtype)
        second = self._second_look(self._network.normalised(images).float(), texts)
        return self._network.features(images, partial(self._attention, second=second))

    def _second_look(self, seen: torch.Tensor, texts: torch.Tensor) -> SecondLook:
        """How the (B, 3, H, W) normalised images are labelled in between."""
        grid = [side // self.patch for side in seen.shape[-2:]]
        scale, threshold = self.logit_scale, self.config.sfr_threshold

        def labels(features: torch.Tensor) -> torch.Tensor:
            cosines = self._cosines(features, texts).transpose(1, 2).unflatten(2, grid)
            pairs = zip(cosines, seen, strict=True)
            return torch.stack([first_labels(*pair, scale, threshold) for pair in pairs])

        return SecondLook(labels, self.config.tau_s, self.config.lambda_s)

    def _cosines(self, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """(..., C), (Q, D) unit vectors -> (..., Q)."""
        flat = self.project(features.flatten(0, -2)).unflatten(0, features.shape[:-1])
        return F.normalize(flat, dim=-1) @ texts.T

    def _unit(self, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        texts = torch.as_tensor(vectors, dtype=torch.float32, device=self.device)
        return F.normalize(texts, dim=-1)
