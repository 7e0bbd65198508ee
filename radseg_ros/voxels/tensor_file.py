# SPDX-License-Identifier: Apache-2.0
"""Safetensors files that say what their numbers mean: what map files and journals have in common.

The metadata has a JSON object under a tag, with ``version`` and ``sha256``, one digest per tensor;
and the digest of that text under ``<tag>_sha256``, which the first map files did not have. A file
is written beside its place, brought to the disk, and renamed: whoever reads finds the old file or
the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..datatypes import MapFileError
from ..device import out_of_memory
from ..files import read_bytes, read_through, whole_file

_DTYPES = {
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file."""

    tag: str  # of its header in the metadata
    said: str  # what messages call it
    version: int  # the newest that is read; earlier ones are as well


def save_tensors(
    path: Path, kind: Kind, header: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> None:
    """Write a file whole; a process that dies meanwhile leaves the old one, or none, in place.

    Raises:
        MapFileError: the disk took less than it was given.
        OSError: the file cannot be written; names it.
    """
    metadata = _metadata(kind, header, state)
    with whole_file(path) as part:
        written = _write(part, state, metadata)
        if part.stat().st_size != written:
            raise MapFileError(f"the {kind.said} was not written whole to {path}")


def write_tensors(path: Path, state: Mapping[str, torch.Tensor]) -> tuple[int, str]:
    """Write tensors for :func:`read_back` of this process alone; return bytes and SHA-256.

    The file is in its place at once, and may not be on the disk yet, so this does not wait for it.

    Raises:
        MapFileError: the disk took less than it was given.
        OSError: the file cannot be written, or there is one, or a link, already.
    """
    written, digest = 0, hashlib.sha256()
    with open(path, "xb") as file:
        for part in _content(state, {}):
            digest.update(part)
            written += file.write(part)
    if path.stat().st_size != written:
        raise MapFileError(f"{path} was not written whole")
    return written, digest.hexdigest()


def read_back(path: Path, nbytes: int, digest: str) -> dict[str, torch.Tensor]:
    """What :func:`write_tensors` wrote, if the file is that to the last byte.

    Raises:
        MapFileError: it is not, whatever it says of itself.
        OSError: it cannot be read.
    """
    from safetensors.torch import load

    data = read_bytes(path, nbytes)
    if len(data) != nbytes or hashlib.sha256(data).hexdigest() != digest:
        raise MapFileError(f"{path} is damaged: it is not what was written there")
    return load(data)


def _metadata(
    kind: Kind, header: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> dict[str, str]:
    text = json.dumps({"version": kind.version, **header, "sha256": digests(state)})
    return {kind.tag: text, f"{kind.tag}_sha256": text_digest(text)}


def _write(path: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> int:
    """Write a safetensors file; return its size in bytes.

    The library's own writer goes by a temporary file of a random name, which a killed process would
    leave behind for ever.
    """
    with open(path, "wb") as file:
        return sum(file.write(part) for part in _content(state, metadata))


def _content(
    state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file: a length, a JSON header and the bytes of the tensors."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in state.items():
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in state.values():
        yield _bytes(tensor)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def digests(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """SHA-256 of the bytes of each tensor, in one thread: frames are fused meanwhile."""
    return {name: _digest(tensor) for name, tensor in state.items()}


def _digest(tensor: torch.Tensor, part_bytes: int = 1 << 24) -> str:
    """The digest of the digests of the parts, as files of all versions have it."""
    data = _bytes(tensor)
    parts = (data[start : start + part_bytes] for start in range(0, len(data), part_bytes))
    digests = (hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a header, which holds the digests of all tensors: it names the content."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_tensors(path: Path, kind: Kind) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The header and the tensors of a file whose digests agree.

    Raises:
        MapFileError: the file is missing, damaged, of another kind or version.
    """
    with opened(path, kind) as (file, header):
        read_through(path)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return _agreeing(path, header, state)


def _agreeing(
    path: Path, header: dict[str, Any], state: dict[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors, if these are all of those of which it tells."""
    check_digests(path, header, state)
    if missing := header["sha256"].keys() - state.keys():
        raise MapFileError(f"{path} is damaged: {', '.join(sorted(missing))} is missing")
    return header, state


def read_small(path: Path, kind: Kind, most: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """As :func:`read_tensors`, of a file of at most ``most`` bytes, which is read and not mapped.

    So one that is cut meanwhile is damaged, too; a process that has it mapped is killed (SIGBUS).

    Raises:
        MapFileError: as :func:`read_tensors`.
    """
    from safetensors.torch import load

    with _damage_told(path, kind):
        data = read_bytes(path, most)
        state = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__")
        header = _header_in(path, kind, metadata or {})
    return _agreeing(path, header, state)


@contextmanager
def opened(path: Path, kind: Kind) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A file of this kind, and its header, whose digest agrees; no tensor has been read.

    Raises:
        MapFileError: as :func:`read_tensors`.
    """
    from safetensors import safe_open

    with _damage_told(path, kind), safe_open(path, framework="pt") as file:
        yield file, _header_in(path, kind, file.metadata() or {})


@contextmanager
def _damage_told(path: Path, kind: Kind) -> Iterator[None]:
    from safetensors import SafetensorError

    if not os.path.isfile(path):  # False for names that no file can have, too
        raise MapFileError(f"there is no {kind.said} {path}")
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise MapFileError(f"{path} does not fit into the memory") from error
        raise MapFileError(f"{path} is damaged, incomplete, or not a {kind.said}") from error


def _header_in(path: Path, kind: Kind, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of itself, if it is of this kind and its digest agrees."""
    if kind.tag not in metadata:
        raise MapFileError(f"{path} is a safetensors file, but not a {kind.said}")
    text = metadata[kind.tag]
    if metadata.get(f"{kind.tag}_sha256", text_digest(text)) != text_digest(text):
        raise MapFileError(f"{path} is damaged: its header does not match its checksum")
    header = json.loads(text)
    version = header.get("version") if isinstance(header, dict) else "unknown"
    if type(version) is not int or not 1 <= version <= kind.version:
        raise MapFileError(
            f"{path} is a {kind.said} of version {str(version)[:20]}, this program reads "
            f"versions up to {kind.version}"
        )
    return header


def check_digests(path: Path, header: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """Refuse tensors that are not those of which the header tells.

    Raises:
        MapFileError: says so.
    """
    if any(tensor.dtype not in _DTYPES for tensor in state.values()):
        raise MapFileError(f"{path} is damaged: it holds numbers of another type")
    said = header.get("sha256")
    if not isinstance(said, dict) or digests(state) != {name: said.get(name) for name in state}:
        raise MapFileError(f"{path} is damaged: its contents do not match their checksums")
