# SPDX-License-Identifier: Apache-2.0
"""CLIP, DINO, DINOv2 and SAM folders of any size with random weights: tests and benchmarks need no
download.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SPECIAL = {"bos": "<|startoftext|>", "eos": "<|endoftext|>"}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,"


def write(
    folder: str | Path,
    width: int = 64,
    depth: int = 12,
    heads: int = 2,
    patch: int = 16,
    side: int = 96,
    projection: int = 32,
    act: str = "quick_gelu",
    seed: int = 0,
    spread: float = 0.5,
    tokenizer: bool = True,
) -> Path:
    """A ``CLIPModel`` with a text tower of one block that reads letters.

    Args:
        side: px of the images that its positions are made for.
        spread: standard deviation of positions, class token and biases, which would be 0 or small.
    """
    import transformers

    folder = Path(folder)
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": side,
        "hidden_act": act,
    }
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": len(LETTERS) + 2,
        "max_position_embeddings": 77,
        "bos_token_id": len(LETTERS),
        "eos_token_id": len(LETTERS) + 1,
        "pad_token_id": len(LETTERS) + 1,
        "hidden_act": act,
    }
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=projection
    )
    save(transformers.CLIPModel, config, folder, seed, spread)
    if tokenizer:
        write_tokenizer(folder)
    return folder


def save(
    kind: Any, config: Any, folder: str | Path, seed: int = 0, spread: float = 0.5, **options: Any
) -> Path:
    """A model of transformers with lively random weights."""
    torch.manual_seed(seed)
    model = kind(config, **options)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim == 2 and "embed" not in name and "rel_pos" not in name:
                weights.normal_(std=weights.shape[1] ** -0.5)
            elif "norm" in name or "lambda" in name:
                weights.normal_(1.0 if name.endswith(("weight", "lambda1")) else 0.0, 0.2)
            elif "logit_scale" not in name:
                weights.normal_(std=spread / 10 if "rel_pos" in name else spread)
    model.eval().save_pretrained(folder)
    return Path(folder)


def write_tokenizer(folder: Path) -> None:
    """One token per letter, between CLIP's two special ones; lower case."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokens = [*LETTERS, *SPECIAL.values()]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL['bos']} $A {SPECIAL['eos']}",
        special_tokens=[(token, vocabulary[token]) for token in SPECIAL.values()],
    )
    special = {"bos_token": SPECIAL["bos"], "eos_token": SPECIAL["eos"]}
    special |= {"pad_token": SPECIAL["eos"], "unk_token": " "}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(
        folder
    )


def write_dino(folder: str | Path, patch: int = 8, side: int = 64, **sizes: int) -> Path:
    """A DINO (``ViTModel``)."""
    import transformers

    vit = _vit(patch, side, **sizes)
    config = transformers.ViTConfig(**vit, intermediate_size=4 * vit["hidden_size"])
    return save(transformers.ViTModel, config, folder, add_pooling_layer=False)


def write_dinov2(folder: str | Path, patch: int = 14, side: int = 112, **sizes: int) -> Path:
    """A DINOv2 with registers."""
    import transformers

    config = transformers.Dinov2WithRegistersConfig(**_vit(patch, side, **sizes))
    return save(transformers.Dinov2WithRegistersModel, config, folder)


def write_sam(
    folder: str | Path, patch: int = 16, side: int = 256, window: int = 7, **sizes: int
) -> Path:
    """A SAM's image encoder, every third block of which is global."""
    import transformers

    vit = _vit(patch, side, **sizes)
    config = transformers.SamVisionConfig(
        **vit,
        output_channels=32,
        mlp_dim=4 * vit["hidden_size"],
        global_attn_indexes=list(range(2, vit["num_hidden_layers"], 3)),
        window_size=window,
    )
    return save(transformers.SamVisionModel, config, folder)


def _vit(patch: int, side: int, width: int = 48, depth: int = 3, heads: int = 3) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": side,
    }


def write_sam2(folder: str | Path, side: int = 64, video: bool = False) -> Path:
    """A SAM 2 of 7 blocks, for images of ``side`` px; as it is published (video) with a memory."""
    import transformers

    backbone = {
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [side, side],
        "blocks_per_stage": [1, 2, 3, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [4, 5],
    }
    vision = {
        "backbone_config": backbone | {"model_type": "sam2_hiera_det_model"},
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[side // 4] * 2, [side // 8] * 2, [side // 16] * 2],
        "fpn_hidden_size": 32,
    }
    prompts = {"hidden_size": 32, "image_size": side, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 32,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    }
    kind = "Sam2Video" if video else "Sam2"
    config = getattr(transformers, f"{kind}Config")(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    return save(getattr(transformers, f"{kind}Model"), config, folder)
