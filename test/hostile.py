# SPDX-License-Identifier: Apache-2.0
"""Tensor files (maps, records of journals) that say wrong things and have honest checksums."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from damage import altered
from safetensors import safe_open

from radseg_ros.voxels.tensor_file import Kind, save_tensors

NUMBERS = (float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 65504.0, 1e-45, -1.0, 0.0)
WHOLE = (-(2**63), 2**63 - 1, 2**62, 2**31, 255, 1, 0, -1)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8)


def taken_apart(path: Path, kind: Kind) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a file, as it has them."""
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[kind.tag])
    header.pop("sha256")
    return header, state


def rewritten(
    path: Path,
    kind: Kind,
    header: Any,
    state: Mapping[str, torch.Tensor],
    count: int,
    seed: int = 0,
) -> Iterator[None]:
    """Write ``path`` in ``count`` wrong ways: half of them in the header, half in the tensors."""
    for other in altered(header, count // 2, seed):
        if isinstance(other, dict):
            save_tensors(path, kind, other, state)
            yield
    for other in distorted(state, count - count // 2, seed):
        save_tensors(path, kind, header, other)
        yield


def distorted(
    state: Mapping[str, torch.Tensor], count: int, seed: int = 0
) -> Iterator[dict[str, torch.Tensor]]:
    """``count`` copies of tensors, of which one or two are missing, or have another shape, type or
    number.
    """
    rng = random.Random(seed)
    for _ in range(count):
        found = {name: tensor.clone() for name, tensor in state.items()}
        for _ in range(rng.choice((1, 1, 2))):
            if found:
                _distort(found, rng)
        yield found


def _distort(found: dict[str, torch.Tensor], rng: random.Random) -> None:
    name = rng.choice(sorted(found))
    tensor, way = found[name], rng.randrange(10)
    if way == 0:
        del found[name]
    elif way == 1:
        found[name] = tensor.flatten()[: rng.randrange(tensor.numel() + 1)]
    elif way == 2:
        found[name] = tensor[: rng.randrange(len(tensor) + 1)] if tensor.ndim else tensor[None]
    elif way == 3:
        found[name] = tensor.to(rng.choice(DTYPES))
    elif way == 4:
        found[name] = rng.choice((tensor[None], tensor[..., None], tensor.sum(), tensor[:0]))
    elif tensor.numel():
        values = NUMBERS if tensor.is_floating_point() else WHOLE
        limit = None if tensor.is_floating_point() else torch.iinfo(tensor.dtype)
        value = rng.choice(values)
        first = rng.randrange(tensor.numel())
        last = rng.choice((first + 1, tensor.numel()))
        tensor.view(-1)[first:last] = value if limit is None else value % (limit.max + 1)
