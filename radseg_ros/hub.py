# SPDX-License-Identifier: Apache-2.0
"""Where weights come from: a local path, the Hugging Face cache, or a download into that cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from .datatypes import CheckpointError
from .reading import border

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WITHOUT = "A copy is named by its path (checkpoint); the encoder `lite` needs no download"
RADIO_VERSIONS = {  # version -> repository and the file that holds backbone and heads
    "c-radio_v4-h": ("nvidia/C-RADIOv4-H", "c-radio_v4-h_half.pth.tar"),
    "c-radio_v4-so400m": ("nvidia/C-RADIOv4-SO400M", "c-radio_v4-so400m_half.pth.tar"),
    "c-radio_v3-b": ("nvidia/C-RADIOv3-B", "c-radio_v3-b_half.pth.tar"),
    "c-radio_v3-l": ("nvidia/C-RADIOv3-L", "c-radio-v3_l_half.pth.tar"),
    "c-radio_v3-h": ("nvidia/C-RADIOv3-H", "c-radio_v3-h_half.pth.tar"),
    "radio_v2.5-b": ("nvidia/RADIO", "radio-v2.5-b_half.pth.tar"),
    "radio_v2.5-l": ("nvidia/RADIO", "radio-v2.5-l_half.pth.tar"),
    "radio_v2.5-h": ("nvidia/RADIO", "radio_v2.5-h.pth.tar"),
}


def find_radio(name: str, offline: bool = False) -> Path:
    """The file or folder of a RADIO checkpoint, downloaded if need be.

    Args:
        name: a path, a version (``c-radio_v3-b``), a hub id (``nvidia/C-RADIOv3-B``), or a hub id
            and a file (``nvidia/RADIO/radio-v2.5-b_half.pth.tar``).
        offline: use only what is on this machine.

    Raises:
        CheckpointError: no such file, version or repository; or it is not here and cannot be
            fetched.
    """
    with border(Path(name), "a checkpoint", CheckpointError):
        path = Path(name).expanduser()
        if path.exists():
            return path
    by_repo = {
        repo: [v for v, (r, _) in RADIO_VERSIONS.items() if r == repo]
        for repo, _ in RADIO_VERSIONS.values()
    }
    if name in RADIO_VERSIONS:
        return download_file(*RADIO_VERSIONS[name], offline)
    if name in by_repo:
        if len(by_repo[name]) > 1:
            raise CheckpointError(
                f"{name} holds several models; name one: {', '.join(by_repo[name])}"
            )
        return download_file(*RADIO_VERSIONS[by_repo[name][0]], offline)
    repo, _, file = name.rpartition("/")
    if REPO.fullmatch(repo) and ".pth" in file:
        return download_file(repo, file, offline)
    if REPO.fullmatch(name) and path.suffix not in {".tar", ".pth", ".pt", ".safetensors"}:
        return download_folder(
            name, ["config.json", "*.safetensors", "*.safetensors.index.json"], offline
        )
    raise CheckpointError(
        f"{name}: no such file or folder, nor a known version ({', '.join(RADIO_VERSIONS)}) or "
        "hub id"
    )


def heads_hint(version: str) -> str:
    """Which file holds the heads, for an error message."""
    repo, file = RADIO_VERSIONS.get(version, RADIO_VERSIONS["c-radio_v3-b"])
    example = "" if version in RADIO_VERSIONS else "for C-RADIOv3-B: "
    return f"the file with the heads is, {example}{file} of https://huggingface.co/{repo}"


def download_file(repo: str, file: str, offline: bool) -> Path:
    """A RADIO file of a hub repository, from the cache or the net (with a progress bar).

    Raises:
        CheckpointError: it is not in the cache and cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, local_files_only=offline))
    except Exception as error:  # the hub client raises its own, httpx's and the system's errors
        why = _not_fetched(f"{file} of {repo}", offline, error)
        raise CheckpointError(why if offline else f"{why}. {WITHOUT}") from error


def download_folder(repo: str, patterns: list[str], offline: bool) -> Path:
    """The files of a hub repository that match ``patterns``, from the cache or the net (with a
    progress bar).

    Raises:
        CheckpointError: they are not in the cache and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=offline))
    except Exception as error:
        raise CheckpointError(_not_fetched(repo, offline, error)) from error


def file_hash(paths: Iterable[Path]) -> str:
    """First 12 hex digits of the SHA-256 over the contents of ``paths``, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]


def _not_fetched(what: str, offline: bool, error: Exception) -> str:
    if offline:
        where = "the Hugging Face cache of this machine"
        return f"{what} is not in {where}, and offline forbids to fetch it"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = getattr(error, "strerror", None) or "no connection?"  # the disk may be full
    reason = next((why for kind, why in _HUB_ERRORS.items() if kind in kinds), reason)
    return f"{what} cannot be fetched from the Hugging Face hub: {reason}"


_HUB_ERRORS = {  # what the client raises, the special before the general -> in our words
    "LocalEntryNotFoundError": "no connection, and it is not in the cache",
    "GatedRepoError": "its licence must be accepted there first, and this machine be logged in",
    "RepositoryNotFoundError": "there is no such repository, or it is private",
    "EntryNotFoundError": "the repository has no such file",
    "RevisionNotFoundError": "the repository is empty",
    "HFValidationError": "that is no name of a repository",
    "HfHubHTTPError": "the hub refused",
}
