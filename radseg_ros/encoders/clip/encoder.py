# SPDX-License-Identifier: Apache-2.0
"""What the encoders of the family share (docs/method.md 5.1): windows over the image, texts, and
the scores of pixels that their authors publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from ...config import Options, option
from ...datatypes import FeatureMap
from ...device import pick_device
from ...language.embedder import BACKGROUND, TextEmbedder
from ...language.templates import AS_WRITTEN, Wording
from ...language.tower import TextTower
from ..image import image_tensor
from ..pamr import pamr
from ..windows import corners, resized, stitch
from .attention import cosine_maps
from .towers.clip import ClipTower, at_size, normalised

# bounds the memory; more at once is not faster
WINDOWS_AT_ONCE = {"cpu": 4, "cuda": 32, "mps": 8}


@dataclass(frozen=True, slots=True)
class ClipConfig(Options):
    """Options that every encoder of the family has."""

    FIXED: ClassVar[str] = "the encoder is loaded with it"

    checkpoint: str = option(
        "openai/clip-vit-base-patch16", "CLIP weights: a folder of transformers or a hub id"
    )
    crop: int = option(
        224, "window side in px, rounded down to whole patches; 0 = single pass", low=0, high=8192
    )
    stride: int = option(
        112, "window stride in px, whole patches, at most the crop", low=1, high=8192
    )
    pamr: int = option(
        0, "probability maps: steps of refinement along colours (PAMR; 10 where authors use it)",
        low=0, high=100,
    )  # fmt: skip
    text_tower: str = option("", "a CLIP whose text half is used; empty = that of the checkpoint")
    text_embeddings: list[str] = option(
        [], "files written by radseg-text --wording clip, so that no text tower is needed"
    )
    device: str = option("auto", "cpu, cuda, cuda:N, mps, or auto (cuda if there is one)")
    offline: bool = option(False, "never touch the network; use only files and the hub cache")


class WindowEncoder:
    """An :class:`~radseg_ros.encoders.protocol.Encoder` whose vectors are those of the texts.

    What a method adds is :meth:`features`.
    """

    CONFIG: ClassVar[type[ClipConfig]]
    wording: ClassVar[Wording] = AS_WRITTEN
    language = ""
    sam = None
    coarse_head = False
    background: tuple[str, ...] = BACKGROUND
    logit_scale: float = 40.0
    labels_only = ""  # see Classifier
    align_corners = False  # of the enlargement of scores to pixels

    def __init__(
        self, config: ClipConfig, device: torch.device, patch: int, channels: int, *hashes: str
    ) -> None:
        """
        Args:
            patch: px; windows lie on whole ones.
            channels: of the feature map.
            hashes: of all weights that make it.
        """
        self.config, self.device, self.patch = config, device, patch
        self.channels = self.language_channels = channels
        self.checkpoint_hash = hashes[0]
        self.name = "-".join((config.PREFIX.removesuffix("."), *hashes))
        self.crop, self.stride = self._window()
        tower = TextTower(config.text_tower or config.checkpoint, device, config.offline)
        self.text = self._embedder(tower)

    def features(self, images: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """The method: (B, 3, H, W) windows in [0, 1] -> (B, D, h, w) unit vectors.

        Args:
            text: (N, D) unit vectors of the labels, where they are known; only encoders with
                ``labels_only`` look at them.
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> (D, h, w) in the space of the texts: unit
        vectors, their mean where windows overlap.
        """
        return FeatureMap(self.feature_map(image_tensor(rgb, self.device)))

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) in [0, 1] -> (D, h, w).

        A method may have a grid of its own, finer or coarser than patches. It is kept where there
        is one window; else each window is brought to a whole number of cells per patch.
        """
        patch = self.patch
        image = at_size(image, resized(image.shape[1:], 0, 0, patch))
        places = self._places(image)
        if len(places) == 1:
            return self.features(image[None])[0]
        cells, windows = 0, []
        for window in self._windows(image, places, self.features):
            side = min(self.crop, image.shape[1]) // patch, min(self.crop, image.shape[2]) // patch
            cells = cells or max(1, round(window.shape[1] / side[0]))
            windows.append(at_size(window, (side[0] * cells, side[1] * cells)))
        out = image.new_zeros(
            self.channels, *(length // patch * cells for length in image.shape[1:])
        )
        return stitch(windows, [(y // patch * cells, x // patch * cells) for y, x in places], out)

    @torch.no_grad()
    def probabilities(self, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Probabilities of pixels as the authors publish them.

        Cosines are enlarged to the pixels of each window and averaged there, refined by PAMR if
        ``pamr`` is set, and softmax is taken over the texts.

        Args:
            rgb: (H, W, 3) RGB, uint8 or float32 in [0, 1].
            vectors: (N, D) of the texts.

        Returns:
            (N, H, W).
        """
        image = image_tensor(rgb, self.device)
        text = F.normalize(torch.as_tensor(vectors, device=self.device).float(), dim=1)
        return self.shares(self.pixel_scores(image, text))

    def shares(self, scores: torch.Tensor) -> torch.Tensor:
        """(N, H, W) scores -> probabilities."""
        return (self.logit_scale * scores).softmax(0)

    def pixel_scores(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """(3, H, W) in [0, 1], (N, D) unit vectors -> (N, H, W) mean cosines, refined."""
        image = at_size(image, [max(side, self.patch) for side in image.shape[1:]])
        places = self._places(image)
        size = [min(self.crop or side, side) for side in image.shape[1:]]
        looked = self._windows(image, places, lambda images: self.window_scores(images, text))
        scores = (at_size(each, size, self.align_corners) for each in looked)
        return self.refined(
            image, stitch(scores, places, image.new_zeros(len(text), *image.shape[1:]))
        )

    def window_scores(self, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) windows, (N, D) -> (B, N, h, w) cosines."""
        return cosine_maps(self.features(images, text), text)

    def refined(self, image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """(3, H, W), (N, H, W) -> the maps after PAMR."""
        return pamr(normalised(image), maps, self.config.pamr)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, D) -> the same: features are in the space of the texts already."""
        return torch.as_tensor(vectors, device=self.device)

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of things -> (Q, D) unit vectors; each text is normalised, and their mean again.

        See :meth:`TextEmbedder.labels`.
        """
        return F.normalize(self.text.labels(labels).to(self.device), dim=1)

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Free text -> (Q, D) unit vectors. See :meth:`TextEmbedder.prompts`."""
        return F.normalize(self.text.prompts(prompts).to(self.device), dim=1)

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As the texts are embedded: vectors of similar names are near each other."""
        return self.embed_prompts(texts) if prompts else self.embed_labels(texts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """See :meth:`TextEmbedder.at_hand`."""
        return self.text.at_hand(labels)

    def _embedder(self, tower: TextTower) -> TextEmbedder:
        return TextEmbedder(tower, self.channels, self.config.text_embeddings, wording=self.wording)

    def _window(self) -> tuple[int, int]:
        """Crop and stride in whole patches; crop 0 = single pass."""
        patch = self.patch
        crop = max(self.config.crop // patch, 1) * patch if self.config.crop else 0
        stride = max(self.config.stride // patch, 1) * patch
        return crop, min(stride, crop)

    def _places(self, image: torch.Tensor) -> list[tuple[int, int]]:
        """Upper-left corners (y, x) of the windows; one that is larger than the image is cut."""
        if not self.crop:
            return [(0, 0)]
        found = corners(image.shape[1:], self.crop, self.stride)
        return [(max(y, 0), max(x, 0)) for y, x in found]

    def _windows(
        self,
        image: torch.Tensor,
        places: list[tuple[int, int]],
        look: Callable[[torch.Tensor], torch.Tensor],
    ) -> Iterator[torch.Tensor]:
        """What ``look`` sees in each window of (3, H, W), some windows at once."""
        side, at_once = self.crop or max(image.shape), WINDOWS_AT_ONCE[self.device.type]
        for start in range(0, len(places), at_once):
            some = [
                image[:, y : y + side, x : x + side] for y, x in places[start : start + at_once]
            ]
            yield from look(torch.stack(some))


class ClipEncoder(WindowEncoder):
    """One that looks with CLIP's image tower.

    Raises:
        CheckpointError: the weights cannot be had, are damaged, or are no CLIP.
        ConfigError: the device cannot be used.
        LanguageError: a file of text embeddings cannot be used.
    """

    def __init__(self, config: ClipConfig, *hashes: str) -> None:
        device = pick_device(config.device, f"{config.PREFIX}device")
        self.tower = ClipTower(config.checkpoint, device, config.offline)
        tower = self.tower
        super().__init__(config, device, tower.patch, tower.channels, tower.hash, *hashes)
