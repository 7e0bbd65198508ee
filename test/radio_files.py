# SPDX-License-Identifier: Apache-2.0
"""Small RADIO checkpoints for tests, and their other layouts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import random_radio
import torch

OUTPUTS = {"clip": 16, "siglip2": 24, "dino_v2": 12, "sam": 8}


def write_small(path: Path, **options: Any) -> Path:
    """A float32 checkpoint of two blocks, 64 channels."""
    sizes = {
        "width": 64,
        "depth": 2,
        "heads": 4,
        "grid": 16,
        "outputs": OUTPUTS,
        "head_hidden": 40,
        "head_inner": 1,
    }
    return random_radio.write(path, **(sizes | {"dtype": torch.float32} | options))


def load(path: Path) -> dict[str, Any]:
    """The content of a torch-hub file."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """``source`` with ``change`` applied to its content."""
    content = load(source)
    change(content)
    torch.save(content, target)
    return target


def index_heads(content: dict[str, Any]) -> None:
    """Name the heads by the index of their teacher."""
    index = {t["name"]: str(i) for i, t in enumerate(content["args"].teachers)}
    for key in list(content["state_dict"]):
        kind, *rest = key.split(".")
        if kind in ("_heads", "_feature_projections"):
            content["state_dict"][".".join((kind, index[rest[0]], *rest[1:]))] = content[
                "state_dict"
            ].pop(key)


def as_ema(content: dict[str, Any]) -> None:
    """Keep the weights as the moving average.

    The plain ones become noise under another parametrisation.
    """
    content["state_dict_ema"] = content.pop("state_dict")
    content["state_dict"] = {
        key: torch.randn_like(value.float()) for key, value in content["state_dict_ema"].items()
    }
    content["args"].spectral_reparam = True


def as_folder(
    source: Path, folder: Path, shards: int = 1, with_heads: bool = True, **config: Any
) -> Path:
    """The same weights as a Hugging Face folder."""
    from safetensors.torch import save_file

    content = load(source)
    names = {"base_model.": "model.", "input_conditioner.": "input_conditioner."}
    state = {}
    for key, value in content["state_dict"].items():
        kind, name, rest = (key.split(".", 2) + ["", ""])[:3]
        if kind in ("_heads", "_feature_projections"):
            if with_heads:
                state[
                    f"radio_model.adaptors.{name}."
                    f"{'head_mlp' if kind == '_heads' else 'feat_mlp'}.{rest}"
                ] = value
        else:
            old = next(prefix for prefix in names if key.startswith(prefix))
            state["radio_model." + names[old] + key.removeprefix(old)] = value
    state["radio_model.summary_idxs"] = torch.tensor([0, 1, 2])
    folder.mkdir()
    args = {key: value for key, value in vars(content["args"]).items()}
    (folder / "config.json").write_text(json.dumps({"args": args} | config))
    keys = sorted(state)
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    files = {
        key: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, key in enumerate(keys)
    }
    for file in set(files.values()):
        save_file({key: state[key] for key in keys if files[key] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder
