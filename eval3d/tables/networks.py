# SPDX-License-Identifier: Apache-2.0
"""The networks that only tables need: RADIO with a feature head for language (Table A.7), and the
vision models whose patches and pooled outputs Figure A.2 compares.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from radseg_ros.datatypes import CheckpointError, ConfigError
from radseg_ros.device import pick_device
from radseg_ros.encoders.image import image_tensor
from radseg_ros.encoders.protocol import Encoder, make_encoder
from radseg_ros.hub import download_folder, file_hash, find_radio
from radseg_ros.reading import border, read_json

from ..report.protocol import OTHERS, Protocol, encoder_protocol, weights_of

if TYPE_CHECKING:
    from radseg_ros.encoders.radseg.encoder import RadsegEncoder

ADAPTORS = ("", "patch")
Cosine = Callable[[np.ndarray], float]  # of (H, W, 3) uint8 RGB
# model_type of config.json -> mean and std of its input
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
VISION = {
    "dinov2": IMAGENET,
    "dinov2_with_registers": IMAGENET,
    "dinov3_vit": IMAGENET,
    "clip": OPENAI,
    "siglip": HALF,  # and SigLIP 2 of a fixed size
}


def row_encoder(how: dict[str, Any]) -> Encoder:
    """The encoder of a cell.

    Raises:
        ConfigError: an option does not exist.
        CheckpointError: the weights cannot be had, or lack a head.
    """
    encoder: Any = make_encoder(how["encoder"], **how["options"])
    if how["adaptor"] not in ADAPTORS:
        raise ConfigError(f"adaptor: {how['adaptor']!r} is not one of patch")
    return PatchAdaptor(encoder) if how["adaptor"] else encoder


class PatchAdaptor:
    """RADIO's language teacher by its feature head, which is trained on patches and not on text.

    Everything else is the encoder's.
    """

    def __init__(self, encoder: RadsegEncoder) -> None:
        from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
        from radseg_ros.encoders.radseg.heads import build_head, head_size

        config = encoder.config
        checkpoint = read_checkpoint(find_radio(config.checkpoint, config.offline))
        with border(checkpoint.path, "a RADIO checkpoint", CheckpointError):
            tensors = checkpoint.feature_heads.get(encoder.language)
            if (
                tensors is None
                or head_size(tensors) != encoder.language_channels
                or checkpoint.upsampling(encoder.language) != 1
            ):
                raise CheckpointError(
                    f"{checkpoint.path}: the feature head of {encoder.language} is missing, or of "
                    "another size than its text vectors"
                )
            head = build_head(tensors, f"{checkpoint.path}, feature head {encoder.language}")
        self._head = head.to(encoder.device, encoder.dtype).requires_grad_(False).eval()
        self._encoder = encoder
        self.name = f"{encoder.name}-patch"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    @torch.no_grad()
    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """(N, C) -> (N, D) by the feature head."""
        return self._head(vectors.to(self._encoder.dtype)).float()


def cosine_of(how: dict[str, Any]) -> tuple[Cosine, Protocol]:
    """What measures the mean cosine between an image's patches and its pooled output.

    Raises:
        CheckpointError: the weights cannot be had, or are of another kind.
    """
    if how["encoder"] == "vision":
        return _vision(**how["options"])
    from radseg_ros.encoders.radseg.alignment import alignment

    encoder: Any = row_encoder(how)
    return lambda rgb: alignment(encoder, rgb)[1], encoder_protocol(encoder)


def _vision(checkpoint: str, device: str = "auto") -> tuple[Cosine, Protocol]:
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # of weights, which takes a moment
    folder = Path(checkpoint).expanduser()
    if not folder.exists():
        folder = download_folder(checkpoint, ["*.json", "*.safetensors"], offline=False)
    with border(folder, "a vision model of transformers", CheckpointError):
        kind = str(read_json(folder / "config.json", raises=CheckpointError).get("model_type"))
        if kind not in VISION:
            raise CheckpointError(f"{folder}: {kind} is not one of {', '.join(VISION)}")
        model = AutoModel.from_pretrained(folder, use_safetensors=True)
    place = pick_device(device)
    model.requires_grad_(False).eval().to(place)
    vision = model.config.vision_config if kind in ("clip", "siglip") else model.config
    side = int(vision.image_size)
    mean, std = (torch.tensor(each, device=place).view(3, 1, 1) for each in VISION[kind])

    def cosine(rgb: np.ndarray) -> float:
        image = image_tensor(rgb, place)[None]
        image = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
        pooled, patches = _tokens(model, kind, (image - mean) / std)
        return float(F.cosine_similarity(patches, pooled[None]).mean())

    source = {
        "encoder": f"{kind} {folder.name}",
        "weights": weights_of(file_hash(sorted(folder.glob("*.safetensors")))),
        "windows": f"none ({side} x {side} px)",
        OTHERS: "none",
    }
    return cosine, source


def _tokens(model: Any, kind: str, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 3, H, W) -> what stands for the image (D,), and its patches (T, D), in one space."""
    if kind == "clip":
        tokens = model.vision_model(image).last_hidden_state
        found = model.visual_projection(model.vision_model.post_layernorm(tokens))[0]
        return found[0], found[1:]
    if kind == "siglip":
        output = model.vision_model(image)
        return output.pooler_output[0], output.last_hidden_state[0]
    found = model(image).last_hidden_state[0]
    registers = int(getattr(model.config, "num_register_tokens", 0) or 0)
    return found[0], found[1 + registers :]
