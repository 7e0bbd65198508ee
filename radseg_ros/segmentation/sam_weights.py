# SPDX-License-Identifier: Apache-2.0
"""SAM without its image encoder: neck, prompt encoder and mask decoder of ``transformers``.

The vision transformer is never built, and its tensors are not even read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..datatypes import CheckpointError
from ..hub import download_folder
from ..reading import border, read_json

PARTS = {
    "neck": "vision_encoder.neck.",
    "prompt_encoder": "prompt_encoder.",
    "mask_decoder": "mask_decoder.",
}
POSITION = "shared_image_embedding.positional_embedding"  # (2, C / 2), also that of the prompts


MAX_LAYERS, MAX_GRID = 16, 256  # SAM has 2 layers, and 64 patches along each side


@dataclass(frozen=True, slots=True, eq=False)
class SamWeights:
    """The parts of SAM behind its image encoder, float32, in evaluation mode."""

    neck: Any  # SamVisionNeck
    prompt_encoder: Any  # SamPromptEncoder
    mask_decoder: Any  # SamMaskDecoder


def load_sam(name: str, offline: bool = False, device: torch.device | str = "cpu") -> SamWeights:
    """Read the parts of a SAM.

    Args:
        name: a folder in the layout of ``SamModel.save_pretrained``, or a hub id
            (``facebook/sam-vit-huge``).
        offline: never touch the network.
        device: where the weights go.

    Raises:
        CheckpointError: there is no such model, a part of it is missing, or it is no SAM.
    """
    from transformers import SamConfig

    with border(Path(name), "a folder", CheckpointError):
        folder = Path(name).expanduser()
        known = folder.is_dir()
    if not known:
        folder = download_folder(name, ["config.json", "model.safetensors"], offline)
    read_json(folder / "config.json", raises=CheckpointError)  # transformers does not bound it
    with border(folder, "a SAM model", CheckpointError):
        config: Any = SamConfig.from_pretrained(folder)
        _check_sizes(config, name)
        tensors = _read_parts(folder / "model.safetensors")
        parts = _empty_parts(config)
        for part, module in parts.items():
            own = {
                key.removeprefix(PARTS[part]): value
                for key, value in tensors.items()
                if key.startswith(PARTS[part])
            }
            if part == "prompt_encoder":
                own["shared_embedding.positional_embedding"] = tensors[POSITION]
            _fill(module, own, f"{name}: the {part}")
    for module in parts.values():
        module.to(device).requires_grad_(False).eval()
    return SamWeights(**parts)


def _check_sizes(config: Any, name: str) -> None:
    """Refuse sizes that no SAM has, before anything of those sizes is made."""
    prompts, decoder = config.prompt_encoder_config, config.mask_decoder_config
    layers, side, patch = decoder.num_hidden_layers, prompts.image_size, prompts.patch_size
    whole = all(type(size) is int and size > 0 for size in (layers, side, patch))
    if not whole or layers > MAX_LAYERS or not 1 <= side // patch <= MAX_GRID:
        raise CheckpointError(
            f"{name} is not a SAM model: {layers} layers, patches of {patch} in {side} px"
        )


def _fill(module: Any, tensors: dict[str, torch.Tensor], what: str) -> None:
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{what} does not fit the configuration: {reason}") from error
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CheckpointError(f"{what} holds numbers that are not finite")


def _empty_parts(config: Any) -> dict[str, Any]:
    from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionNeck

    config.mask_decoder_config._attn_implementation = "sdpa"  # unset where there is no SamModel
    with torch.device("meta"):  # no time spent on random weights
        return {
            "neck": SamVisionNeck(config.vision_config),
            "prompt_encoder": SamPromptEncoder(config),
            "mask_decoder": SamMaskDecoder(config.mask_decoder_config),
        }


def _read_parts(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    wanted = (*PARTS.values(), POSITION)
    with border(path, "a file of safetensors", CheckpointError), safe_open(path, "pt") as file:
        names = [key for key in file.keys() if key.startswith(wanted)]  # noqa: SIM118
        tensors = {key: file.get_tensor(key).float() for key in names}
    if POSITION not in tensors:
        raise CheckpointError(f"{path} is not a SAM model: it has no {POSITION}")
    return tensors
