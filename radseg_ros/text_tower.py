# SPDX-License-Identifier: Apache-2.0
"""The text towers of RADIO's language teachers, through transformers: SigLIP, SigLIP 2 and CLIP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from .datatypes import CheckpointError, LanguageError
from .hub import REPO, download_folder, file_hash

log = logging.getLogger(__name__)

TEXTS_AT_ONCE = 80  # one label with all its templates
TOWERS = {  # what RADIO's training options call a teacher -> hub id
    "siglip2-g-384": "google/siglip2-giant-opt-patch16-384",
    "siglip2-so400m": "google/siglip2-so400m-patch16-naflex",
    "ViT-SO400M-14-SigLIP-384": "google/siglip-so400m-patch14-384",
    "ViT-H-14-378-quickgelu": "apple/DFN5B-CLIP-ViT-H-14-378",
}
TOWERS_BY_HEAD = {  # head and its size -> hub id, for checkpoints that do not name the model
    ("siglip2", 1152): TOWERS["siglip2-so400m"],
    ("siglip2", 1536): TOWERS["siglip2-g-384"],
    ("siglip2-g", 1536): TOWERS["siglip2-g-384"],
    ("siglip", 1152): TOWERS["ViT-SO400M-14-SigLIP-384"],
    ("clip", 1024): TOWERS["ViT-H-14-378-quickgelu"],
}
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "pytorch_model*.bin"]  # of a hub repository
MODELS = {  # model_type of config.json -> class, output, tokens a text is padded to
    "siglip": ("SiglipTextModel", "pooler_output", 64),
    "siglip_text_model": ("SiglipTextModel", "pooler_output", 64),
    "siglip2": ("Siglip2TextModel", "pooler_output", 64),
    "siglip2_text_model": ("Siglip2TextModel", "pooler_output", 64),
    "clip": ("CLIPTextModelWithProjection", "text_embeds", 77),
    "clip_text_model": ("CLIPTextModelWithProjection", "text_embeds", 77),
}


def tower_of(head: str, dimensions: int, teacher_model: str) -> str:
    """Hub id of the text tower of a language head; empty when nothing tells.

    Args:
        head: name of the head, e.g. ``siglip2``.
        dimensions: size of its output.
        teacher_model: the teacher's ``model`` in the training options; may be empty.
    """
    return TOWERS.get(teacher_model) or TOWERS_BY_HEAD.get((head, dimensions), "")


class TextTower:
    """A text tower that is downloaded and loaded when it gets its first text.

    Args:
        name: hub id or folder.
        device: where it runs.
        offline: use only what is on this machine.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu", offline: bool = False) -> None:
        self.name = name
        self.device = torch.device(device)
        self.offline = offline

    def folder(self, offline: bool) -> Path:
        """Where its files are, downloaded if need be and allowed.

        Raises:
            LanguageError: they cannot be had.
        """
        path = Path(self.name).expanduser()
        if path.is_dir():
            return path
        if not REPO.fullmatch(self.name):
            raise LanguageError(f"text tower {self.name!r}: no such folder, and no hub id")
        try:
            return download_folder(self.name, FILES, offline)
        except CheckpointError as error:
            raise LanguageError(f"text tower {error}") from error

    @property
    def local_hash(self) -> str:
        """Identity of the weights on this machine: the commit of a hub snapshot, else a hash of the files; empty = none here."""
        try:
            return folder_hash(self.folder(offline=True))
        except LanguageError:
            return ""

    @property
    def dimensions(self) -> int:
        """D of its vectors; loads the tower.

        Raises:
            LanguageError: as for :meth:`embed`.
        """
        return int(self.embed(["object"]).shape[1])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts, already canonical -> (N, D) unit vectors, float32, on the CPU.

        Raises:
            LanguageError: the tower is of a kind that is not supported, or damaged.
        """
        model, tokenizer, output, tokens = self._loaded
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            batch = list(texts[start : start + TEXTS_AT_ONCE])
            # SigLIP reads the padded last token, so the padding is part of the text and there is no attention mask
            encoded = tokenizer(batch, max_length=tokens, padding="max_length", truncation=True, return_tensors="pt")
            vectors = getattr(model(input_ids=encoded["input_ids"].to(self.device)), output)
            parts.append(F.normalize(vectors.float(), dim=-1).cpu())
        return torch.cat(parts)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, str, int]:
        import transformers

        folder = self.folder(self.offline)
        log.info("loading text tower %s", self.name)
        try:
            kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            if kind not in MODELS:
                raise LanguageError(f"text tower {self.name}: {kind} models are not supported; known: {', '.join(MODELS)}")
            name, output, tokens = MODELS[kind]
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = getattr(transformers, name).from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise LanguageError(f"text tower {self.name}: {folder} cannot be loaded: {reason}") from error
        return model.to(self.device).eval(), tokenizer, output, tokens


@cache
def folder_hash(folder: Path) -> str:
    """Identity of the weights in ``folder``."""
    if folder.parent.name == "snapshots":  # of the hub cache; its name is the commit
        return folder.name[:12]
    return file_hash(sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("tokenizer*")]))
