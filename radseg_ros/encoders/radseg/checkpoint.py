# SPDX-License-Identifier: Apache-2.0
"""Reading RADIO checkpoints (docs/method.md 1.1): torch-hub files and Hugging Face folders, brought
into one form.

Nothing here executes code that comes with a checkpoint: torch files are read with ``weights_only``
and the only extra type that they may hold is ``argparse.Namespace``; Hugging Face folders hold JSON
and safetensors.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...datatypes import CheckpointError
from ...hub import file_hash, heads_hint
from ...reading import border, read_json, read_torch

Tensors = dict[str, torch.Tensor]
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")  # a part of the weights
LANGUAGE_HEADS = ("siglip2", "siglip2-g", "siglip", "clip")  # best first (Table A.7)


@dataclass(frozen=True, slots=True, eq=False)
class RadioCheckpoint:
    """One RADIO checkpoint, whatever file it came from."""

    path: Path  # the file or folder, for messages
    hash: str  # first 12 hex digits of the SHA-256 of the weights
    version: str  # c-radio_v3-b, ...; empty = unknown
    backbone: Tensors  # keys relative to the ViT: patch_generator.*, blocks.N.*
    conditioner: Tensors  # norm_mean, norm_std (3, 1, 1); may be empty
    summary_heads: dict[str, Tensors]  # teacher -> tensors of its summary head
    feature_heads: dict[str, Tensors]  # teacher -> tensors of its feature head
    summary_idxs: tuple[int, ...] | None  # cls tokens that make the summary; None = not stored
    teachers: tuple[dict[str, Any], ...]  # as the training options list them
    args: dict[str, Any]  # training options, or the fields of config.json

    def teacher(self, name: str) -> dict[str, Any]:
        """The first entry of ``teachers`` called ``name``; empty when there is none."""
        return next((t for t in self.teachers if t.get("name") == name), {})

    @property
    def teacher_names(self) -> list[str]:
        """Each name once; where each teacher has a cls token of its own, in the order of those."""
        return list(dict.fromkeys(str(t.get("name")) for t in self.teachers))

    def upsampling(self, name: str) -> int:
        """How many times more vectors than patches the feature head of teacher ``name`` gives along
        each side.
        """
        configured = ((self.args.get("adaptor_configs") or {}).get(name) or {}).get("feature") or {}
        return int(
            configured.get("upsample_factor") or self.teacher(name).get("fd_upsample_factor") or 1
        )


def read_checkpoint(path: str | Path) -> RadioCheckpoint:
    """Read a ``.pth.tar`` file, a Hugging Face folder, or a file of safetensors in one.

    Raises:
        CheckpointError: missing, truncated, or of a kind that is not supported; names the file.
    """
    path = Path(path)
    with border(path, "a RADIO checkpoint", CheckpointError):
        if path.is_dir():
            return _read_folder(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file or folder")
        if path.suffix == ".safetensors":
            return _read_folder(path.parent, path)
        return _read_torch_file(path)


def language_head(checkpoint: RadioCheckpoint, wanted: str) -> str:
    """Name of the summary head that leads into text space: the one wanted, else the best language
    teacher's.

    Raises:
        CheckpointError: there is no such head; says which heads there are, or which file holds
            them.
    """
    have = checkpoint.summary_heads
    if not have:
        hint = heads_hint(checkpoint.version)
        raise CheckpointError(
            f"{checkpoint.path}: this file holds the backbone only, without a language head; {hint}"
        )
    if wanted and wanted not in have:
        raise CheckpointError(f"{checkpoint.path}: no head {wanted!r}; it has {', '.join(have)}")
    teachers = {str(t.get("name")): f"{t.get('name')} {t.get('type')}" for t in checkpoint.teachers}
    others = [
        name
        for word in ("siglip", "clip")
        for name, kind in teachers.items()
        if word in kind and name in have
    ]
    found = [wanted] if wanted else [*(name for name in LANGUAGE_HEADS if name in have), *others]
    if not found:
        raise CheckpointError(
            f"{checkpoint.path}: none of its heads is a language head: {', '.join(have)}"
        )
    return found[0]


def feature_head(checkpoint: RadioCheckpoint, teacher: str, wanted_by: str) -> Tensors:
    """The tensors of the feature head of a teacher.

    Args:
        checkpoint: the weights.
        teacher: ``dino_v2``, ``sam``, ...
        wanted_by: what cannot do without, for the message.

    Raises:
        CheckpointError: it has none; says which checkpoints do.
    """
    have = checkpoint.feature_heads
    if teacher not in have:
        hint = "take c-radio_v3-b, c-radio_v3-h or radio_v2.5-*"
        if not have:
            hint = heads_hint(checkpoint.version)
        raise CheckpointError(
            f"{checkpoint.path}: no feature head {teacher!r}; it has {', '.join(have) or 'none'}; "
            f"{wanted_by} needs it: {hint}"
        )
    return have[teacher]


def _read_torch_file(path: Path) -> RadioCheckpoint:
    content = read_torch(path, "a RADIO checkpoint", [argparse.Namespace], CheckpointError)
    if not isinstance(content, dict) or not (
        "state_dict" in content or "state_dict_ema" in content
    ):
        raise CheckpointError(
            f"{path}: no RADIO checkpoint, it holds neither state_dict nor state_dict_ema"
        )
    args = _as_dict(content.get("args"))
    if "state_dict_ema" in content:
        state = content["state_dict_ema"]
    elif args.get("spectral_reparam"):
        raise CheckpointError(
            f"{path}: state_dict holds weights under spectral reparametrisation, which is not "
            "supported; "
            "use the released file, whose weights are plain"
        )
    else:
        state = content["state_dict"]
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    layout = {"base_model.": "backbone", "input_conditioner.": "conditioner"}
    groups = {name: _below(state, prefix) for prefix, name in layout.items()}
    return _checked(
        path=path,
        hash=file_hash([path]),
        version=_version(args, path),
        **groups,
        summary_heads=_heads(state, r"_heads\.([^.]+)\.(.+)", args),
        feature_heads=_heads(state, r"_feature_projections\.([^.]+)\.(.+)", args),
        extra=state,
        args=args,
    )


def _read_folder(path: Path, weights: Path | None = None) -> RadioCheckpoint:
    """``weights``: the file of the folder that is meant; None = what its index names."""
    from safetensors.torch import load_file

    if not (path / "config.json").is_file():
        others = ", ".join(sorted(file.name for file in path.glob("*.pth*"))[:5])
        raise CheckpointError(
            f"{path / 'config.json'}: no such file; a Hugging Face folder holds config.json and "
            f"model.safetensors{f'; or name the file itself: {others}' if others else ''}"
        )
    config = read_json(path / "config.json", raises=CheckpointError)
    index = path / "model.safetensors.index.json"
    names = {"model.safetensors" if weights is None else weights.name}
    if index.is_file() and (weights is None or SHARD.fullmatch(weights.name)):
        names = set(read_json(index, raises=CheckpointError)["weight_map"].values())
    files = [path / Path(name).name for name in sorted(names)]  # never outside of the folder
    state: Tensors = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file")
        with border(file, "a file of safetensors", CheckpointError):
            state.update(load_file(file))
    state = {key.removeprefix("radio_model."): value for key, value in state.items()}
    args = {**config, **_as_dict(config.get("args"))}
    return _checked(
        path=path,
        hash=file_hash(files),
        version=_version(config, path),
        backbone=_below(state, "model."),
        conditioner=_below(state, "input_conditioner."),
        summary_heads=_heads(state, r"adaptors\.([^.]+)\.head_mlp\.(.+)", args),
        feature_heads=_heads(state, r"adaptors\.([^.]+)\.feat_mlp\.(.+)", args),
        extra=state,
        args=args,
    )


def _checked(
    *, extra: Tensors, args: dict[str, Any], path: Path, backbone: Tensors, **fields: Any
) -> RadioCheckpoint:
    """The checkpoint, after the refusals that both layouts share.

    ``extra``: all tensors of the file.
    """
    if not backbone:
        raise CheckpointError(
            f"{path}: no RADIO checkpoint, it holds no backbone; its keys begin {sorted(extra)[:5]}"
        )
    if any("feature_normalizer." in key for key in extra):
        raise CheckpointError(
            f"{path}: its features must be normalised (_feature_normalizer) before use; this is "
            "not supported"
        )
    if any(".parametrizations." in key for key in extra):
        raise CheckpointError(
            f"{path}: its weights are parametrised (spectral reparametrisation); this is not "
            "supported"
        )
    if args.get("model_norm"):
        raise CheckpointError(
            f"{path}: its backbone ends in a norm (model_norm); this is not supported"
        )
    heads = [*fields["summary_heads"].values(), *fields["feature_heads"].values()]
    for tensors in (backbone, fields["conditioner"], *heads):
        for key, value in tensors.items():
            _check_weights(path, key, value)
    idxs = extra.get("summary_idxs")
    return RadioCheckpoint(
        path=path,
        backbone=backbone,
        args=args,
        teachers=tuple(_as_dict(t) for t in args.get("teachers") or ()),
        summary_idxs=None if idxs is None else tuple(idxs.tolist()),
        **fields,
    )


def _check_weights(path: Path, key: str, value: Any) -> None:
    """Refuse what cannot be the weights of a layer."""
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(f"{path}: {key[:100]} is no tensor but a {type(value).__name__}")
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not (plain and value.is_floating_point()):
        raise CheckpointError(
            f"{path}: {key[:100]} is {value.dtype}; weights must be plain floating-point numbers"
        )
    if not value.isfinite().all():
        raise CheckpointError(f"{path}: {key[:100]} holds numbers that are not finite")


def _heads(state: Tensors, pattern: str, args: Mapping[str, Any]) -> dict[str, Tensors]:
    """Group head tensors by teacher.

    A head that is named by its index gets the name of that teacher.
    """
    names = [_as_dict(t).get("name") for t in args.get("teachers") or ()]
    heads: dict[str, Tensors] = {}
    for key, value in state.items():
        if match := re.fullmatch(pattern, key):
            name, rest = match.groups()
            if name.isdigit() and int(name) < len(names):
                name = names[int(name)]
            heads.setdefault(name, {})[rest] = value
    return heads


def _version(fields: Mapping[str, Any], path: Path) -> str:
    """``c-radio_v3-b``, ``radio_v2.5-l``, ...: what the file says, else what its name says, else
    empty.
    """
    hub_cache = [
        part for part in path.parts if part.startswith("models--")
    ]  # <cache>/models--nvidia--C-RADIOv3-B/snapshots/...
    for text in (fields.get("version"), path.name, *hub_cache):
        if match := re.search(
            r"radio[-_]?(v\d(?:\.\d)?)[-_](so400m|[blhg])(?![a-z])", str(text or "").lower()
        ):
            family = "radio" if match[1] == "v2.5" else "c-radio"
            return f"{family}_{match[1]}-{match[2]}"
    return ""


def _below(state: Tensors, prefix: str) -> Tensors:
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _as_dict(value: Any) -> dict[str, Any]:
    return dict(vars(value)) if isinstance(value, argparse.Namespace) else dict(value or {})
