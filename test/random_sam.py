# SPDX-License-Identifier: Apache-2.0
"""SAM models of any size with random weights, without their vision transformer: benchmarks and
tests need no download.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write(
    folder: str | Path,
    width: int = 256,
    features: int = 1280,
    heads: int = 8,
    mlp: int = 2048,
    seed: int = 0,
) -> Path:
    """Write config.json and model.safetensors.

    Without options the sizes are those of ``facebook/sam-vit-huge``.

    Args:
        folder: made if need be.
        width: channels of prompts and decoder.
        features: channels of the image features that the neck takes.
        heads: attention heads of the decoder.
        mlp: hidden size of the decoder's MLPs.
        seed: of the weights.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, parts = modules(width, features, heads, mlp, seed)
    config.save_pretrained(folder)
    tensors = {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    position = tensors.pop("prompt_encoder.shared_embedding.positional_embedding")
    save_file(
        tensors | {"shared_image_embedding.positional_embedding": position},
        folder / "model.safetensors",
    )
    return folder


def modules(
    width: int, features: int, heads: int, mlp: int, seed: int
) -> tuple[Any, dict[str, torch.nn.Module]]:
    """The configuration, and the three parts of ``SamModel`` that are needed, by the prefix of
    their tensors.
    """
    from transformers import SamConfig
    from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionNeck

    config = SamConfig(
        vision_config={
            "hidden_size": features,
            "output_channels": width,
            "num_pos_feats": width // 2,
        },
        prompt_encoder_config={"hidden_size": width},
        mask_decoder_config={
            "hidden_size": width,
            "num_attention_heads": heads,
            "mlp_dim": mlp,
            "iou_head_hidden_dim": width,
        },
    )
    config.mask_decoder_config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    parts = {
        "vision_encoder.neck": SamVisionNeck(config.vision_config),
        "prompt_encoder": SamPromptEncoder(config),
        "mask_decoder": SamMaskDecoder(config.mask_decoder_config),
    }
    for part in parts.values():
        part.requires_grad_(False).eval()
    return config, parts
