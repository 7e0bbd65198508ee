# SPDX-License-Identifier: Apache-2.0
"""The RADIO backbone as a ``transformers.RadioModel``: sizes inferred from the tensors, weights
mapped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ...datatypes import CheckpointError
from .checkpoint import RadioCheckpoint, Tensors

if TYPE_CHECKING:
    from transformers import RadioConfig, RadioModel

MAX_DEPTH = 200  # blocks; the largest RADIO has 40
HEADS_BY_WIDTH = {1152: 16, 1280: 16}  # head dim 72 and 80; every other RADIO has head dim 64


def radio_config(checkpoint: RadioCheckpoint) -> RadioConfig:
    """Sizes of the network: from the training options where they say, else from the tensors.

    Raises:
        CheckpointError: the tensors do not describe a ViT of this family.
    """
    from transformers import RadioConfig

    tensors, args = checkpoint.backbone, checkpoint.args
    try:
        width, patch_inputs = tensors["patch_generator.embedder.weight"].shape
        positions = tensors["patch_generator.pos_embed"].shape[-2]
        prefix = tensors["patch_generator.cls_token.token"].shape[0]
        mlp, mlp_inner = (
            tensors["blocks.0.mlp.fc1.weight"].shape[0],
            tensors["blocks.0.mlp.fc2.weight"].shape[1],
        )
        qkv_bias = "blocks.0.attn.qkv.bias" in tensors
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path}: the backbone lacks {error.args[0]}; damaged, or not a ViT RADIO"
        ) from error
    if mlp != mlp_inner:
        raise CheckpointError(
            f"{checkpoint.path}: the backbone has gated MLPs (as v3-g), which are not supported"
        )
    blocks = {int(key.split(".")[1]) for key in tensors if key.startswith("blocks.")}
    depth = len(blocks)
    if blocks != set(range(depth)) or depth > MAX_DEPTH:
        raise CheckpointError(
            f"{checkpoint.path}: the backbone has {depth} blocks up to number {max(blocks)}; need "
            f"all of them, and at most {MAX_DEPTH}"
        )
    kwargs = args.get("model_kwargs") or {}
    heads = (
        kwargs.get("num_heads")
        or args.get("num_attention_heads")
        or HEADS_BY_WIDTH.get(width, width // 64)
    )
    patch = math.isqrt(patch_inputs // 3)
    names = checkpoint.teacher_names
    cls_tokens = args.get("num_cls_tokens") or (
        len(names) if args.get("cls_token_per_teacher") else 1
    )
    idxs = checkpoint.summary_idxs or sorted(
        {names.index(str(t.get("name"))) for t in checkpoint.teachers if t.get("use_summary", True)}
    )
    if (
        not all(type(count) is int and count >= 1 for count in (heads, cls_tokens))
        or width % heads
        or patch * patch * 3 != patch_inputs
        or not 8 <= patch <= 32  # finer ones would make millions of tokens
        or math.isqrt(positions) ** 2 != positions
    ):
        raise CheckpointError(
            f"{checkpoint.path}: impossible sizes: width {width}, {heads} heads, "
            f"{cls_tokens} cls tokens, patches of {patch_inputs}, {positions} positions"
        )
    return RadioConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        mlp_ratio=(mlp + 0.5)
        / width,  # the model takes int(width * ratio); the half keeps rounding from losing one
        qkv_bias=qkv_bias,
        patch_size=patch,
        max_img_size=math.isqrt(positions) * patch,
        num_cls_tokens=min(cls_tokens, prefix),
        num_registers=max(prefix - cls_tokens, 0),
        summary_idxs=[i for i in idxs if 0 <= i < cls_tokens] or [0],
    )


def build_radio(checkpoint: RadioCheckpoint) -> RadioModel:
    """The backbone of ``checkpoint``, in evaluation mode, float32, on the CPU.

    Raises:
        CheckpointError: missing or unexpected tensors, or wrong shapes; names the file and the
            keys.
    """
    from transformers import RadioModel

    config = radio_config(checkpoint)
    with torch.device("meta"):  # no time spent on random weights
        model = RadioModel(config)
    state = _radio_state(checkpoint, config)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    problems = [f"lacks {key} {shape}" for key, shape in wanted.items() if key not in state]
    problems += [f"has {key}, which the network lacks" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{checkpoint.path}: the backbone does not fit: {'; '.join(problems[:5])}{more}"
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


RENAMED = {  # RADIO's name -> name in transformers.RadioModel
    "patch_generator.embedder.weight": "embeddings.patch_projection.weight",
    "patch_generator.pos_embed": "embeddings.position_embedding",
    "patch_generator.cls_token.token": "embeddings.cls_register_token",
}
RENAMED_IN_BLOCK = {"attn.proj": "attention.o_proj", "ls1": "layer_scale1", "ls2": "layer_scale2"}


def _radio_state(checkpoint: RadioCheckpoint, config: RadioConfig) -> Tensors:
    """The tensors of the backbone under the names of ``transformers.RadioModel``, float32."""
    state: Tensors = {
        "input_conditioner.norm_mean": torch.tensor(config.norm_mean).view(3, 1, 1),
        "input_conditioner.norm_std": torch.tensor(config.norm_std).view(3, 1, 1),
        "summary_idxs": torch.tensor(config.summary_idxs),
    }
    state.update(
        {f"input_conditioner.{key}": value.float() for key, value in checkpoint.conditioner.items()}
    )
    for index in range(
        config.num_hidden_layers
    ):  # the plain ViTs have no LayerScale; a factor of one is the same
        for scale in ("layer_scale1", "layer_scale2"):
            state[f"encoder.layer.{index}.{scale}.lambda1"] = torch.ones(config.hidden_size)
    for key, value in checkpoint.backbone.items():
        value = value.float()
        if key in RENAMED:
            state[RENAMED[key]] = value
        elif key.startswith("blocks."):
            _, block, part, *rest = key.split(".")
            where = f"encoder.layer.{block}."
            module = f"{part}.{rest[0]}"
            if part in ("ls1", "ls2"):  # stored as gamma or, by some exports, grandma
                state[f"{where}{RENAMED_IN_BLOCK[part]}.lambda1"] = value
            elif module == "attn.qkv":
                for name, third in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
                    state[f"{where}attention.{name}.{rest[-1]}"] = third.contiguous()
            elif module in RENAMED_IN_BLOCK:
                state[f"{where}{RENAMED_IN_BLOCK[module]}.{rest[-1]}"] = value
            else:
                state[f"{where}{'.'.join((part, *rest))}"] = value
    return state
