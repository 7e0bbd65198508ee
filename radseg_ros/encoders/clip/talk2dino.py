# SPDX-License-Identifier: Apache-2.0
"""Talk2DINO (Barsellotti et al., ICCV 2025; arXiv 2411.19331): a small trained network brings
CLIP's texts to DINOv2's patches (docs/method.md 5.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn import functional as F

from ...config import option
from ...datatypes import CheckpointError, LanguageError
from ...device import pick_device
from ...hub import file_hash
from ...language.embedder import TextEmbedder
from ...language.templates import RAW
from ...language.tower import TextTower
from ...reading import border, read_torch
from ..pamr import pamr
from .attention import cosine_maps
from .encoder import ClipConfig, WindowEncoder
from .towers.backbones import Dinov2
from .towers.weights import load_weights

DILATIONS = (1, 2, 4, 8, 12, 24)  # px, of PAMR
SCALE = 0.125  # of the class token's queries: heads of 64, as in every published DINOv2
BACKGROUND_SHARE = 0.2
LAYERS = ("linear_layer", "hidden_layers.0")  # of the projection
Parts = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Talk2dinoConfig(ClipConfig):
    """Talk2DINO."""

    PREFIX: ClassVar[str] = "talk2dino."

    checkpoint: str = option(
        "facebook/dinov2-with-registers-base",
        "DINOv2 weights with registers: a folder of transformers or a hub id",
    )
    crop: int = option(
        448, "window side in px, rounded down to whole patches; 0 = single pass", low=0, high=8192
    )
    stride: int = option(
        224, "window stride in px, whole patches, at most the crop", low=1, high=8192
    )
    text_tower: str = option(
        "openai/clip-vit-base-patch16", "the CLIP whose text half is used, a folder or hub id"
    )
    projection: str = option(
        "", "file of the trained projection of texts (vitb_mlp_infonce.pth of the authors)"
    )
    clean_background: bool = option(
        False, "probability maps: lower what the class token does not look at"
    )


class Talk2dino(WindowEncoder):
    """DINOv2's patches as they are; only texts are projected.

    Raises:
        CheckpointError: the weights cannot be had, or are damaged.
        ConfigError: the device cannot be used.
        LanguageError: a file of text embeddings cannot be used.
    """

    CONFIG = Talk2dinoConfig
    config: Talk2dinoConfig
    wording = RAW
    align_corners = True

    def __init__(self, config: Talk2dinoConfig) -> None:
        device = pick_device(config.device, "talk2dino.device")
        weights = load_weights(config.checkpoint, ("dinov2_with_registers",), config.offline)
        self.dino, self.projection, hashes = Dinov2(weights, device), None, [weights.hash]
        if config.projection:
            path = Path(config.projection).expanduser()
            self.projection = read_projection(path, self.dino.channels, device)
            hashes.append(file_hash([path]))
        super().__init__(config, device, self.dino.patch, self.dino.channels, *hashes)

    def features(self, images: torch.Tensor, text: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`WindowEncoder.features`."""
        return F.normalize(self.dino(images), dim=1)

    def shares(self, scores: torch.Tensor) -> torch.Tensor:
        """The authors' masks as they are: they do not sum to 1 over the texts."""
        return scores

    def window_scores(self, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), (N, D) -> (B, N, h, w) logistic of the cosines."""
        patches = self.dino(images)
        found = cosine_maps(F.normalize(patches, dim=1), text).sigmoid()
        if not self.config.clean_background:
            return found
        q, k, _ = self.dino.last_qkv(images)
        looks = class_attention(q, k, self.dino.prefix)
        tokens = patches.flatten(2).transpose(1, 2)
        pairs = zip(found, looks, tokens, strict=True)
        return torch.stack([cleaned(*pair, text) for pair in pairs])

    def refined(self, image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """As :meth:`WindowEncoder.refined`, with the authors' neighbours."""
        return pamr(255 * image, maps, self.config.pamr, DILATIONS)

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of things -> (Q, D) unit vectors: the mean over templates, projected."""
        return self._projected(self.text.labels(labels))

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Free text -> (Q, D) unit vectors, projected."""
        return self._projected(self.text.prompts(prompts))

    def _projected(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.projection is None:
            raise LanguageError(
                "talk2dino.projection names no file, and without it texts have no vectors: take "
                "vitb_mlp_infonce.pth of the authors"
            )
        return projected(vectors.to(self.device), self.projection)

    def _embedder(self, tower: TextTower) -> TextEmbedder:
        size = self.projection[0].shape[1] if self.projection else 512
        return TextEmbedder(tower, size, self.config.text_embeddings, wording=self.wording)


def read_projection(path: Path, channels: int, device: torch.device) -> Parts:
    """Weight and bias of both layers of the projection.

    Raises:
        CheckpointError: the file is damaged, or leads to vectors of another size.
    """
    what = "a projection of Talk2DINO"
    with border(path, what, CheckpointError):
        found = read_torch(path, what, (), CheckpointError)
        parts = tuple(
            found[f"{layer}.{part}"].float().to(device)
            for layer in LAYERS
            for part in ("weight", "bias")
        )
        if not all(part.isfinite().all() for part in parts):
            raise CheckpointError(f"{path} holds numbers that are not finite")
        size = len(projected(torch.zeros(1, parts[0].shape[1], device=device), parts)[0])
    if size != channels:
        raise CheckpointError(f"{path} leads to {size} numbers, DINOv2 gives {channels}")
    return parts


def projected(vectors: torch.Tensor, parts: Parts) -> torch.Tensor:
    """(Q, D') of CLIP's texts -> (Q, D) unit vectors among DINOv2's patches."""
    hidden = F.linear(vectors, parts[0], parts[1]).tanh()
    return F.normalize(F.linear(hidden, parts[2], parts[3]), dim=-1)


def class_attention(q: torch.Tensor, k: torch.Tensor, prefix: int) -> torch.Tensor:
    """(B, heads, T, d) twice -> (B, heads, h*w): how each head looks from the class token."""
    return torch.einsum("bmd,bmpd->bmp", q[:, :, 0] * SCALE, k[:, :, prefix:])


def cleaned(
    scores: torch.Tensor, looks: torch.Tensor, tokens: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """Raise the scores of a window where the heads that like a text look.

    Args:
        scores: (N, h, w).
        looks: (heads, h*w) of :func:`class_attention`.
        tokens: (h*w, D) patches, not of unit length.
        text: (N, D).
    """
    seen = F.normalize(looks @ tokens, dim=-1)
    share = (text @ seen.T).softmax(-1)
    shown = (share @ looks).softmax(-1)
    shown = (shown - shown.min()) / shown.max()  # the maximum of before the subtraction
    shown = shown * (scores.max() - scores.min()) + scores.min()
    return (scores + BACKGROUND_SHARE * shown.view_as(scores)) / (1 + BACKGROUND_SHARE)


ENCODER = Talk2dino
