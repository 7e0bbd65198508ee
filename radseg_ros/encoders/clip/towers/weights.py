# SPDX-License-Identifier: Apache-2.0
"""Weights of other people's image towers: folders in the layout of ``transformers``, or hub ids.

Nothing that comes with a folder is executed: ``config.json`` is read as JSON, weights as
safetensors or, where there are none, by ``torch.load`` with ``weights_only``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....datatypes import CheckpointError
from ....hub import REPO, download_folder, file_hash
from ....reading import border, read_json, read_torch

MAX_BLOCKS = 200  # the largest towers have 48; each is built before its weights are missed
MAX_SIDE = 8192  # px of an image that a tower was trained on
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin"]
# model_type of config.json -> configuration, model, and what it is built with besides
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("CLIPConfig", "CLIPVisionModelWithProjection", {}),
    "vit": ("ViTConfig", "ViTModel", {"add_pooling_layer": False}),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {}),
    "sam": ("SamConfig", "SamVisionModel", {}),
    "sam_vision_model": ("SamVisionConfig", "SamVisionModel", {}),
    "sam2": ("Sam2Config", "Sam2Model", {}),
    "sam2_video": ("Sam2Config", "Sam2Model", {}),  # as it is published
}


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A network with its weights, float32, in evaluation mode, on the CPU."""

    folder: Path
    kind: str  # model_type of config.json
    hash: str  # first 12 hex digits of the SHA-256 of the weights
    model: Any  # of transformers


def load_weights(name: str, kinds: tuple[str, ...], offline: bool = False) -> Weights:
    """Read the image tower ``name``.

    Args:
        name: a folder or hub id.
        kinds: the kinds of ``MODELS`` that will do.
        offline: use only what is on this machine.

    Raises:
        CheckpointError: it cannot be had, is damaged or of another kind; names the folder.
    """
    folder = find_folder(name, offline)
    with border(folder, f"a {' or '.join(kinds)} model", CheckpointError):
        kind = _kind(folder, kinds)
        files = weight_files(folder)
        tensors = _read(files)
        model = _build(folder, kind, tensors)
        return Weights(folder, kind, file_hash(files), model)


def find_folder(name: str, offline: bool) -> Path:
    """The folder of a model, downloaded if need be and allowed.

    Raises:
        CheckpointError: there is no such folder, or it cannot be fetched.
    """
    with border(Path(name), "a folder", CheckpointError):
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        if path.exists() or not REPO.fullmatch(name):
            raise CheckpointError(f"{name}: no such folder, and no hub id")
    return download_folder(name, FILES, offline)


def weight_files(folder: Path) -> list[Path]:
    """The files of ``folder`` that hold its weights: safetensors if there are any.

    Raises:
        CheckpointError: there are none, or one that the index names is missing.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        names = {stem}
        if (index := folder / f"{stem}.index.json").is_file():
            names = set(read_json(index, raises=CheckpointError)["weight_map"].values())
        files = [folder / Path(name).name for name in sorted(names)]  # never outside of the folder
        missing = [file for file in files if not file.is_file()]
        if not missing:
            return files
        if index.is_file():
            raise CheckpointError(f"{missing[0]}: no such file")
    raise CheckpointError(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def _kind(folder: Path, kinds: tuple[str, ...]) -> str:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder / 'config.json'}: no such file")
    config = read_json(folder / "config.json", raises=CheckpointError)
    kind = str(config.get("model_type"))
    if kind not in kinds:
        raise CheckpointError(f"{folder} holds a {kind[:100]} model, not {' or '.join(kinds)}")
    return kind


def _read(files: list[Path]) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in files:
        with border(file, "a file of weights", CheckpointError):
            if file.suffix == ".safetensors":
                found.update(load_file(file))
            else:
                found.update(read_torch(file, "a file of weights", (), CheckpointError))
    for key, value in found.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise CheckpointError(f"{files[0]}: {key[:100]} is no plain tensor")
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{files[0]}: {key[:100]} holds numbers that are not finite")
    return found


def _build(folder: Path, kind: str, tensors: dict[str, torch.Tensor]) -> Any:
    import transformers

    config_name, model_name, options = MODELS[kind]
    config = getattr(transformers, config_name).from_pretrained(folder, local_files_only=True)
    if kind.startswith("sam2"):
        _check_stages(folder, config)
    else:
        config = _of_the_image(config)
        _check_sizes(folder, config)
    build = getattr(transformers, model_name)
    _check_count(folder, build, config, options, tensors)
    with _quiet():
        model, info = build.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    if info["missing_keys"]:
        lacks = ", ".join(sorted(info["missing_keys"])[:3])
        raise CheckpointError(f"{folder} cannot be loaded: it lacks {lacks}")
    return model.eval().requires_grad_(False)


def _of_the_image(config: Any) -> Any:
    """The configuration of the image half."""
    image = getattr(config, "vision_config", config)
    if hasattr(config, "projection_dim"):  # CLIP states it once for both halves
        image.projection_dim = config.projection_dim
    return image


def _check_sizes(folder: Path, config: Any) -> None:
    """Refuse sizes that no tower has, before anything of those sizes is made."""
    blocks, side, patch = config.num_hidden_layers, config.image_size, config.patch_size
    width, heads = config.hidden_size, config.num_attention_heads
    sizes = (blocks, side, patch, width, heads)
    whole = all(type(size) is int and size > 0 for size in sizes)
    if not whole or blocks > MAX_BLOCKS or not patch <= side <= MAX_SIDE or width % heads:
        raise CheckpointError(
            f"{folder}: no tower has {blocks} blocks, patches of {patch} in {side} px, "
            f"{heads} heads and width {width}"
        )
    if getattr(config, "num_channels", 3) != 3:
        raise CheckpointError(f"{folder}: it takes {config.num_channels} channels, images have 3")


def _check_stages(folder: Path, config: Any) -> None:
    """As :func:`_check_sizes`, of a SAM 2."""
    stages = config.vision_config.backbone_config.blocks_per_stage
    side = config.prompt_encoder_config.image_size
    if not 1 <= sum(stages) <= MAX_BLOCKS or not 1 <= side <= MAX_SIDE:
        raise CheckpointError(
            f"{folder}: no SAM 2 has {sum(stages)} blocks and images of {side} px"
        )


def _check_count(
    folder: Path, build: Any, config: Any, options: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    """Refuse a configuration that asks for more numbers than there are: they would be made up."""
    with torch.device("meta"), _quiet():
        wanted = sum(p.numel() for p in build(config, **options).parameters())
    there = sum(tensor.numel() for tensor in tensors.values())
    if wanted > there:
        raise CheckpointError(
            f"{folder}: config.json describes {wanted} weights, the files hold {there}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and without the report of what was not used: the text half is no news."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
