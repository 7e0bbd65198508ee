# SPDX-License-Identifier: Apache-2.0
"""RADIO checkpoints of any size with random weights, in the torch-hub layout: benchmarks and tests
need no download.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def write(
    path: str | Path,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    grid: int = 128,
    outputs: Mapping[str, int] | None = None,
    head_hidden: int = 1520,
    head_inner: int = 2,
    layer_scale: bool = True,
    patch: int = 16,
    prefix: int = 8,
    upsampling: Mapping[str, int] | None = None,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
    **args: Any,
) -> Path:
    """Write a checkpoint; without options it has the sizes of C-RADIOv3-B.

    Args:
        path: the file.
        width: channels, a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        grid: side of the stored position embedding, in patches.
        outputs: teacher -> size of its heads.
        head_hidden: hidden size of the heads.
        head_inner: inner blocks of the heads.
        layer_scale: with LayerScale (v3) or without (v2.5, v4).
        patch: px.
        prefix: class tokens, one for each teacher, and registers.
        upsampling: teacher -> vectors of its feature head along each side of a patch, if not one.
        dtype: how the weights are stored.
        seed: of the weights.
        args: entries of the training options that replace the usual ones.
    """
    outputs = dict(outputs or {"clip": 1024, "siglip2": 1152, "dino_v2": 1024, "sam": 1280})
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return (torch.randn(*shape, generator=random) * scale).to(dtype)

    def linear(name: str, inputs: int, size: int, bias: bool = True) -> dict[str, torch.Tensor]:
        weights = {f"{name}.weight": normal(size, inputs, scale=inputs**-0.5)}
        return weights | ({f"{name}.bias": normal(size, scale=0.1)} if bias else {})

    def norm(name: str, size: int) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": 1 + normal(size, scale=0.1),
            f"{name}.bias": normal(size, scale=0.1),
        }

    state = linear("base_model.patch_generator.embedder", 3 * patch * patch, width, bias=False)
    state["base_model.patch_generator.pos_embed"] = normal(1, grid * grid, width, scale=0.3)
    state["base_model.patch_generator.cls_token.token"] = normal(prefix, width, scale=1.0)
    for i in range(depth):
        block = f"base_model.blocks.{i}."
        state |= norm(f"{block}norm1", width) | norm(f"{block}norm2", width)
        state |= linear(f"{block}attn.qkv", width, 3 * width) | linear(
            f"{block}attn.proj", width, width
        )
        state |= linear(f"{block}mlp.fc1", width, 4 * width) | linear(
            f"{block}mlp.fc2", 4 * width, width
        )
        if layer_scale:
            state |= {
                f"{block}{name}.grandma": 0.5 + normal(width, scale=0.1) for name in ("ls1", "ls2")
            }
    for kind in ("_heads", "_feature_projections"):
        for name, size in outputs.items():
            if kind == "_feature_projections":
                size *= (upsampling or {}).get(name, 1) ** 2
            head = f"{kind}.{name}."
            state |= linear(f"{head}fc1", width, head_hidden)
            for i in range(head_inner):
                state |= norm(f"{head}blocks.{i}.0", head_hidden) | linear(
                    f"{head}blocks.{i}.2", head_hidden, head_hidden
                )
            state |= norm(f"{head}final.0", head_hidden) | linear(
                f"{head}final.2", head_hidden, size
            )
    state["input_conditioner.norm_mean"] = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(
        3, 1, 1
    )
    state["input_conditioner.norm_std"] = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(
        3, 1, 1
    )
    models = {"siglip2": "siglip2-so400m", "clip": "ViT-H-14-378-quickgelu"}
    teachers = [
        {"name": name, "use_summary": name != "sam", "model": models.get(name)}
        | ({"fd_upsample_factor": upsampling[name]} if name in (upsampling or {}) else {})
        for name in outputs
    ]
    options = {
        "model_kwargs": {"embed_dim": width, "depth": depth, "num_heads": heads},
        "teachers": teachers,
        "cls_token_per_teacher": True,
        "cpe_max_size": grid * patch,
        "spectral_reparam": False,
    }
    torch.save({"state_dict": state, "args": argparse.Namespace(**(options | args))}, path)
    return Path(path)
