# SPDX-License-Identifier: Apache-2.0
"""The text towers of RADIO's language teachers, through transformers: SigLIP, SigLIP 2 and CLIP."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ..datatypes import CheckpointError, LanguageError
from ..hub import REPO, download_folder, file_hash
from ..reading import border, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

MAX_LAYERS = 200  # the largest towers have 32; each is built before its weights are missed
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

    def __init__(
        self, name: str, device: torch.device | str = "cpu", offline: bool = False
    ) -> None:
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
        """Identity of the weights on this machine: the commit of a hub snapshot, else a hash of the
        files; empty = none here.
        """
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

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts, as the tower reads them -> (N, D) unit vectors, float32, on the CPU.

        Raises:
            LanguageError: as for :meth:`raw`.
        """
        return F.normalize(self.raw(texts), dim=-1)

    @torch.no_grad()
    def raw(self, texts: Sequence[str]) -> torch.Tensor:
        """As :meth:`embed`, of the length that the tower gives them.

        Raises:
            LanguageError: the tower is of a kind that is not supported, or damaged.
        """
        model, tokenizer, output = self._loaded
        parts = []
        with self._border():
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                encoded = tokenizer.encode_batch(list(texts[start : start + TEXTS_AT_ONCE]))
                ids = torch.tensor([text.ids for text in encoded], device=self.device)
                # SigLIP reads the last token, padding or not: padding is part of the text, and
                # there is no attention mask
                parts.append(getattr(model(input_ids=ids), output).float().cpu())
            made = torch.cat(parts)
        if made.ndim != 2 or not made.isfinite().all():
            raise LanguageError(f"text tower {self.name}: damaged, its vectors are not finite")
        return made

    def _border(self) -> AbstractContextManager[None]:
        return border(Path(self.name), "a text tower", LanguageError)

    @cached_property
    def _loaded(self) -> tuple[Any, Tokenizer, str]:
        folder = self.folder(self.offline)
        log.info("loading text tower %s", self.name)
        with self._border():
            kind = str(read_json(folder / "config.json", raises=LanguageError).get("model_type"))
            if kind not in MODELS:
                raise LanguageError(
                    f"text tower {self.name}: {kind[:100]} models are not supported; known: "
                    f"{', '.join(MODELS)}"
                )
            name, output, tokens = MODELS[kind]
            model = load_model(folder, name).to(self.device)
            tokens = min(tokens, int(model.config.max_position_embeddings))
            return model, load_tokenizer(folder, tokens), output


def load_model(folder: Path, name: str) -> Any:
    """The text half of a model of transformers, float32, in evaluation mode.

    Raises:
        LanguageError: the files lack weights, which transformers would make up and only warn, or
            describe no text tower.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    text_config = getattr(config, "text_config", config)
    if not 1 <= text_config.num_hidden_layers <= MAX_LAYERS:
        raise LanguageError(f"{folder}: no tower has {text_config.num_hidden_layers} layers")
    if hasattr(config, "projection_dim"):  # CLIP states it once for both halves
        text_config.projection_dim = config.projection_dim
    report = logging.getLogger("transformers.modeling_utils")
    level = report.level
    report.setLevel(logging.ERROR)  # that the image half is not used is no news
    try:
        model, info = getattr(transformers, name).from_pretrained(
            folder,
            config=text_config,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    finally:
        report.setLevel(level)
    if info["missing_keys"]:
        lacks = ", ".join(sorted(info["missing_keys"])[:3])
        raise LanguageError(f"text tower {folder} cannot be loaded: it lacks {lacks}")
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path, tokens: int) -> Tokenizer:
    """The tokenizer of ``tokenizer.json``, with texts cut or padded on the right to ``tokens``, as
    all towers were trained.

    It is read directly: the tokenizer classes of transformers pad on the left, or forget the end
    token, depending on the version.
    """
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise LanguageError(f"text tower {folder} cannot be loaded: {path.name} is missing")
    tokenizer = Tokenizer.from_file(str(path))
    file = folder / "tokenizer_config.json"
    settings = read_json(file, raises=LanguageError) if file.is_file() else {}
    special = {name: _content(settings.get(f"{name}_token")) for name in ("bos", "eos", "pad")}
    if (
        "add_eos_token" in settings
    ):  # Gemma's, of SigLIP 2: the settings count, not what the file was saved with
        added = [special[name] for name in ("bos", "eos") if settings.get(f"add_{name}_token")]
        first = f"{special['bos']} " if settings.get("add_bos_token") else ""
        last = f" {special['eos']}" if settings["add_eos_token"] else ""
        ids = [(token, tokenizer.token_to_id(token)) for token in added]
        tokenizer.post_processor = TemplateProcessing(single=f"{first}$A{last}", special_tokens=ids)
    pad = special["pad"] or "<pad>"
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(
        direction="right", pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad, length=tokens
    )
    return tokenizer


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else token or ""


@cache
def folder_hash(folder: Path) -> str:
    """Identity of the weights in ``folder``."""
    if folder.parent.name == "snapshots":  # of the hub cache; its name is the commit
        return folder.name[:12]
    return file_hash(
        sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("tokenizer*")])
    )
