# SPDX-License-Identifier: Apache-2.0
"""Encoders for tests that know the names of eight colours and need no weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from waiting import PATIENCE

from radseg_ros.datatypes import FeatureMap, LanguageError
from radseg_ros.encoders.image import image_tensor

COLORS = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0),
    "magenta": (1, 0, 1), "cyan": (0, 1, 1), "white": (1, 1, 1), "grey": (0.5, 0.5, 0.5),
}  # fmt: skip
PATCH = 8  # px


class ColorEncoder:
    """Channel i of a patch: how near its mean colour is to colour i.

    A text is the one-hot vector of the colour it names.
    """

    name = "test-colors"
    checkpoint_hash = language = ""
    sam = None
    channels = language_channels = len(COLORS)
    logit_scale = 10.0
    coarse_head = False
    background = ("grey",)
    device = torch.device("cpu")

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) -> (8, H/8, W/8)."""
        image = image_tensor(rgb, self.device)
        size = (max(image.shape[1] // PATCH, 1), max(image.shape[2] // PATCH, 1))
        patches = torch.nn.functional.adaptive_avg_pool2d(image, size)
        known = torch.tensor(list(COLORS.values()), dtype=torch.float32, device=self.device)
        distance = (patches[None] - known[:, :, None, None]).square().sum(1)
        return FeatureMap(torch.softmax(-10 * distance, 0))

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """The language space is the space of the patches."""
        return vectors

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """The last word that names a colour counts."""
        rows = []
        for label in labels:
            known = [word for word in label.lower().split() if word in COLORS]
            if not known:
                raise LanguageError(
                    f"the test encoder knows only {', '.join(COLORS)}, not {label!r}"
                )
            rows.append([float(name == known[-1]) for name in COLORS])
        return torch.tensor(rows).reshape(-1, len(COLORS))

    embed_prompts = embed_labels

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As ``embed_labels``."""
        return self.embed_labels(texts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """None: answers are not calibrated."""
        return []


class GatedEncoder(ColorEncoder):
    """Waits before each image until it is let through, when the gate is closed."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """As a :class:`ColorEncoder`, in its time."""
        self.entered.set()
        assert self.open.wait(PATIENCE)
        return super().encode(rgb)
