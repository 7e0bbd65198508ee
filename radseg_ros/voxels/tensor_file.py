# SPDX-License-Identifier: Apache-2.0
"""Safetensors files that say what their numbers mean: what map files and journals have in common.

The metadata has a JSON object under a tag, with ``version`` and ``sha256``, one digest per tensor;
and the digest of that text under ``<tag>_sha256``, which the first map files did not have. A file
is written beside its place, brought to the disk, and renamed: whoever reads finds the old file or
the new one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from ..datatypes import MapFileError
from ..device import out_of_memory
from ..files import plain_file, read_bytes, whole_file
from ..reading import MAX_TEXT, MISFITS

_DTYPES = {
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
}
_TYPES = {name: dtype for dtype, name in _DTYPES.items()}
Room = TypeVar("Room", bytearray, memoryview)


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


def _digest(tensor: torch.Tensor) -> str:
    digest = _PartedDigest()
    digest.update(_bytes(tensor))
    return digest.hexdigest()


class _PartedDigest:
    """The digest of the digests of parts of 16 MB, as files of all versions have it."""

    PART = 1 << 24  # bytes

    def __init__(self) -> None:
        self._whole, self._part = hashlib.sha256(), hashlib.sha256()
        self._room = self.PART  # bytes that the part still takes

    def update(self, data: memoryview) -> None:
        while len(data):
            some, data = data[: self._room], data[self._room :]
            self._part.update(some)
            self._room -= len(some)
            if not self._room:
                self._whole.update(self._part.digest())
                self._part, self._room = hashlib.sha256(), self.PART

    def hexdigest(self) -> str:
        whole = self._whole.copy()
        if self._room < self.PART:
            whole.update(self._part.digest())
        return whole.hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a header, which holds the digests of all tensors: it names the content."""
    return hashlib.sha256(text.encode()).hexdigest()


class TensorFile:
    """A safetensors file that is read and never mapped: one that is cut meanwhile is damaged, where
    a process that has it mapped is killed (SIGBUS).

    Raises:
        MapFileError: it is damaged, or none; as its methods do.
    """

    def __init__(self, path: Path, kind: Kind, file: io.FileIO) -> None:
        self._path, self._kind, self._file = path, kind, file
        self._places: dict[str, _Place] = {}
        with _damage_told(path, kind):
            self.metadata = self._understood()

    def _understood(self) -> Mapping[str, str]:
        """The metadata; tensors must lie behind the header one after the other, to the end."""
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._filled(0, bytearray(8)), "little")
        if length > min(size, MAX_TEXT):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(self._filled(8, bytearray(length)))
        metadata: Mapping[str, str] = header.pop("__metadata__", {})
        self._start, end = 8 + length, 0  # bytes
        for name, said in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            place = _Place(_TYPES[said["dtype"]], tuple(said["shape"]), *said["data_offsets"])
            if place.start != end or not place.fits:
                raise ValueError(f"{name} lies where it cannot")
            self._places[name], end = place, place.end
        if self._start + end != size:
            raise ValueError("the tensors do not end where the file does")
        return metadata

    @property
    def names(self) -> list[str]:
        """Of its tensors."""
        return list(self._places)

    def tensor(self, name: str) -> torch.Tensor:
        """One of them."""
        place = self._places[name]
        part = self.part(name, 0, place.nbytes).view(place.dtype)
        with _damage_told(self._path, self._kind):  # no tensor has such a shape
            return part.view(place.shape)

    def part(self, name: str, start: int, end: int) -> torch.Tensor:
        """Some bytes of one, as (n,) uint8."""
        with _damage_told(self._path, self._kind):
            room = torch.empty(end - start, dtype=torch.uint8)
            self._filled(self._start + self._places[name].start + start, room.numpy().data)
        return room

    def rows(self, name: str) -> Rows:
        """One of them, to be read part by part."""
        place = self._places[name]
        return Rows(self, name, place.dtype, place.shape)

    def _filled(self, at: int, room: Room) -> Room:
        """``room`` with what is at byte ``at``."""
        self._file.seek(at)
        left = memoryview(room)
        while len(left):
            count = self._file.readinto(left)
            if not count:
                raise ValueError("it ends too soon")
            left = left[count:]
        return room


class _Place(NamedTuple):
    """Where the bytes of a tensor are, behind the header of its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    @property
    def fits(self) -> bool:
        """Whether it has the numbers that it says."""
        numbers = (*self.shape, self.start, self.end)
        whole = all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
        return whole and math.prod(self.shape) * self.dtype.itemsize == self.nbytes


class Rows:
    """A tensor of a file, of which each row is read once: by slices that follow each other."""

    def __init__(
        self, file: TensorFile, name: str, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape
        self._file, self._next = file, 0
        self._digest = _PartedDigest()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        first, end, _ = rows.indices(len(self))
        if first != self._next:
            raise ValueError(f"row {first} of {self.name} was asked for, and {self._next} is next")
        self._next = max(first, end)
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        part = self._file.part(self.name, first * width, self._next * width)
        self._digest.update(part.numpy().data)
        return part.view(self.dtype).view(-1, *self.shape[1:])

    @property
    def digest(self) -> str:
        """Of what has been read."""
        return self._digest.hexdigest()


def read_tensors(
    path: Path, kind: Kind, most: int | None = None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The header and the tensors of a file, of at most ``most`` bytes, whose digests agree.

    Raises:
        MapFileError: the file is missing, damaged, larger, or of another kind or version.
    """
    with opened(path, kind, most) as (file, header):
        state = {name: file.tensor(name) for name in file.names}
    check_digests(path, header, digests(state))
    return header, state


@contextmanager
def opened(
    path: Path, kind: Kind, most: int | None = None
) -> Iterator[tuple[TensorFile, dict[str, Any]]]:
    """A file of this kind, and its header, whose digest agrees; no tensor has been read.

    Raises:
        MapFileError: as :func:`read_tensors`.
    """
    with _damage_told(path, kind):
        plain = plain_file(path, most)
    with plain:
        file = TensorFile(path, kind, plain)
        with _damage_told(path, kind):
            header = _header_in(path, kind, file.metadata)
        said = header.get("sha256")
        if isinstance(said, dict) and (missing := said.keys() - set(file.names)):
            raise MapFileError(f"{path} is damaged: {', '.join(sorted(missing))} is missing")
        yield file, header


@contextmanager
def _damage_told(path: Path, kind: Kind) -> Iterator[None]:
    if not os.path.isfile(path):  # False for names that no file can have, too
        raise MapFileError(f"there is no {kind.said} {path}")
    try:
        yield
    except (*MISFITS, OSError, RuntimeError, MemoryError) as error:
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


def check_digests(path: Path, header: dict[str, Any], found: Mapping[str, str]) -> None:
    """Refuse tensors, by their digests, that are not those of which the header tells.

    Raises:
        MapFileError: says so.
    """
    said = header.get("sha256")
    if not isinstance(said, dict) or found != {name: said.get(name) for name in found}:
        raise MapFileError(f"{path} is damaged: its contents do not match their checksums")
