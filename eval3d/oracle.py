# SPDX-License-Identifier: Apache-2.0
"""An encoder that knows the truth: label images become text-space vectors, plus noise on request.

With it the whole chain (loading, lifting, fusing, labelling, k-NN, scoring) has a known answer
where no weights exist.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from radseg_ros.datatypes import FeatureMap

from .datasets.scene import nearest_resize

ORACLE = "oracle"  # what it is called in options, and what its name begins with


class OracleEncoder:
    """One direction per class; a patch gets the direction of the label at its centre, plus noise.

    ``look`` shows it the label image of the frame that comes next. Patches without a label get a
    zero vector. A phrase that is none of the classes gets a direction of its own, always the same:
    as similar to one of the classes as ``similarity`` says, and to the others by chance (a standard
    deviation of 1 / sqrt(D)).

    Args:
        names: the classes, in order of their labels.
        noise: length of the noise in each patch, in units of the signal (1 = as long as the
            signal).
        patch: px of the working resolution per patch.
        seed: of the noise; it also depends on the frame's number, never on the order of the frames.
        similarity: cosine of an unknown phrase with one of the classes, 0..1.
    """

    checkpoint_hash = language = ""
    sam = None
    logit_scale = 100.0
    coarse_head = False
    background: tuple[str, ...] = ("something else",)

    def __init__(
        self,
        names: Sequence[str],
        noise: float = 0.0,
        patch: int = 1,
        seed: int = 0,
        similarity: float = 0.3,
    ) -> None:
        self.noise = noise
        self.patch = patch
        self.seed = seed
        self.similarity = similarity
        self.device = torch.device("cpu")
        self.channels = self.language_channels = -(-(len(names) + len(self.background)) // 16) * 16
        identity = hashlib.sha256(repr((tuple(names), patch, seed)).encode()).hexdigest()[:8]
        self.name = f"{ORACLE}-{noise:g}-{identity}"
        gaussian = np.random.default_rng(seed).normal(size=(self.channels, self.channels))
        directions = np.linalg.qr(gaussian)[0].astype(np.float32)
        self._directions = {
            name: directions[i] for i, name in enumerate([*names, *self.background])
        }
        self._table = np.concatenate(
            [np.zeros((1, self.channels), np.float32), directions[: len(names)]]
        )
        self._label: np.ndarray | None = None
        self._number = 0

    def look(self, label: np.ndarray | None, number: int) -> None:
        """The (h, w) labels 0..C of the next frame, and its number.

        None when it has no label image.
        """
        self._label = label
        self._number = number

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """The label image as features; of ``rgb`` only the size is read."""
        hw = tuple(-(-side // self.patch) for side in rgb.shape[:2])
        label = np.zeros(hw, np.int64) if self._label is None else nearest_resize(self._label, hw)
        vectors = self._table[label]
        if self.noise:
            rng = np.random.default_rng([self.seed, self._number])
            noise = rng.standard_normal(vectors.shape, np.float32) * np.float32(
                self.noise / self.channels**0.5
            )
            vectors = vectors + noise * (label > 0)[..., None]
        # a view: the map wants the vector of a pixel in one place, where it is already
        return FeatureMap(torch.from_numpy(vectors).permute(2, 0, 1))

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors are in the text space already."""
        return vectors

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """(Q, D) directions of the classes, or of phrases that are none."""
        return torch.from_numpy(np.stack([self._direction(label) for label in labels]))

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """As ``embed_labels``."""
        return self.embed_labels(prompts)

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As ``embed_labels``: it knows nothing of what goes with what."""
        return self.embed_labels(texts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """All."""
        return list(labels)

    def _direction(self, phrase: str) -> np.ndarray:
        """(D,) float32 unit vector."""
        known = self._directions.get(phrase)
        if known is not None:
            return known
        digest = hashlib.sha256(f"{self.seed} {phrase}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        near = self._table[rng.integers(1, len(self._table))]
        other = rng.normal(size=self.channels)
        other -= (other @ near) * near
        other *= (1 - self.similarity**2) ** 0.5 / np.linalg.norm(other)
        return (self.similarity * near + other).astype(np.float32)
