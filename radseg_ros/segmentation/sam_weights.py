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

PARTS = {
    "neck": "vision_encoder.neck.",
    "prompt_encoder": "prompt_encoder.",
    "mask_decoder": "mask_decoder.",
}
POSITION = "shared_image_embedding.positional_embedding"  # (2, C / 2), also that of the prompts


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

    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = download_folder(name, ["config.json", "model.safetensors"], offline)
    try:
        config: Any = SamConfig.from_pretrained(folder)
        tensors = _read_parts(folder / "model.safetensors")
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name} is not a SAM model: {str(error).splitlines()[0]}") from error
    parts = _empty_parts(config)
    for part, module in parts.items():
        own = {
            key.removeprefix(PARTS[part]): value
            for key, value in tensors.items()
            if key.startswith(PARTS[part])
        }
        if part == "prompt_encoder":
            own["shared_embedding.positional_embedding"] = tensors[POSITION]
        try:
            module.load_state_dict(own, assign=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"{name}: the {part} does not fit the configuration: {reason}"
            ) from error
        module.to(device).requires_grad_(False).eval()
    return SamWeights(**parts)


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
    from safetensors import SafetensorError, safe_open

    wanted = (*PARTS.values(), POSITION)
    try:
        with safe_open(path, "pt") as file:
            names = [key for key in file.keys() if key.startswith(wanted)]  # noqa: SIM118
            tensors = {key: file.get_tensor(key).float() for key in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if POSITION not in tensors:
        raise ValueError(f"{path} has no {POSITION}")
    return tensors
