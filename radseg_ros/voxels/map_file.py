# SPDX-License-Identifier: Apache-2.0
"""Map files (``.radmap``): a safetensors file whose metadata says what the numbers mean.

It is written and checked by :mod:`.tensor_file`. Metadata ``radmap`` is a JSON object with
``identity`` (encoder, checkpoint, head, labels, frame), ``map`` and ``lift`` (the options),
``channels``, ``last_stamp_ns``, ``camera``, and ``notes`` (of whoever made the map: all its
options, how much of a recording or of a journal is in it). The tensors are those of
:meth:`VoxelTable.state`: ``key`` (21 bits per axis), ``hits``, ``views`` (since version 2),
``rgb_sum``, stamps, and ``vectors``: per voxel the sum over its points where float32, the mean
where float16. In place of ``vectors`` a file may have (since version 3) ``codes`` of their means,
and the tensors of the codecs (:meth:`Codecs.state`) that tell what they mean; in version 3 there
was one codec, and codes did not begin with its number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import LABELLED_SPACES, LiftConfig, MapConfig, from_dict, to_dict
from ..datatypes import ConfigError, InputError, MapFileError, MapGeometry
from ..device import out_of_memory
from ..reading import MISFITS
from .coding.codec import LEAST_BYTES, VectorCodec, sample_size
from .coding.codecs import NUMBER_BYTES, Codecs
from .index import valid_keys
from .tensor_file import (
    Kind,
    Rows,
    TensorFile,
    check_digests,
    digests,
    opened,
    save_tensors,
    text_digest,
)
from .voxel_map import LARGEST, Beyond, VoxelMap

SUFFIX = ".radmap"
VERSION = 4  # earlier ones are read as well
FILE = Kind("radmap", "map file", VERSION)
MAX_CHANNELS = 65_536
MOST_ALONG = 1024  # along an axis of vectors: four times what axes of unit length come to
SMALLEST = 64  # times less than float32 takes: what vectors may be coded in
ALWAYS_DECODED = 1 << 30  # bytes of vectors, in however few of codes
MOST_HOT = 1 << 22  # voxels that a reader keeps in full because a file says so: 120 MB without them
_LARGE = ("vectors", "codes")  # nearly all of a file
ROWS = 8192  # vectors that are coded at once
# of a voxel, so that the sum of two is a number still
MOST_HITS, MOST_VIEWS = 1 << 52, (1 << 30) - 1
STAMP_LIMIT_NS = 2**31 * 10**9  # seconds of a ROS stamp are an int32


@dataclass(frozen=True, slots=True)
class MapIdentity:
    """What the vectors of a map mean. Maps of different identity cannot be mixed.

    An empty field was not stated.
    """

    encoder: str = ""  # name of the encoder
    checkpoint_hash: str = ""  # of its weights
    language: str = ""  # language head
    labels: tuple[str, ...] = ()  # of space probability
    frame_id: str = ""  # the world frame

    def require(self, expected: MapIdentity, what: str = "the map") -> None:
        """Raise MapFileError, in one sentence, at the first field that differs.

        Fields that ``expected`` leaves empty may.
        """
        for field in dataclasses.fields(self):
            found, wanted = getattr(self, field.name), getattr(expected, field.name)
            if wanted and found != wanted:
                raise MapFileError(
                    f"{what} was made with {field.name} {_said(found)}, here it is {_said(wanted)}"
                )


@dataclass(frozen=True, slots=True)
class MapHeader:
    """What a map file says of itself, without its voxels."""

    identity: MapIdentity
    config: MapConfig
    lift: LiftConfig
    channels: int  # numbers per voxel
    last_stamp_ns: int | None  # of the last frame
    camera: tuple[float, float, float]  # m, where the last frame was taken
    # of whoever made the map; {} = said nothing. "options": all options of the mapper (Config);
    # "recording": how much of it is in the map (radseg-map); "journal": likewise (VoxelMap.history)
    notes: dict[str, Any]


def _said(value: str | tuple[str, ...]) -> str:
    return repr(value) if isinstance(value, str) else f"[{', '.join(value)}]"


def save_map(
    path: Path | str,
    voxel_map: VoxelMap,
    identity: MapIdentity | None = None,
    notes: Mapping[str, Any] | None = None,
    share: int = 1,
    whole: dict[str, torch.Tensor] | None = None,
) -> int:
    """Write a map; return the number of its voxels.

    A process that dies meanwhile leaves the old file, or none, in place; its leftovers go with the
    next save.

    Args:
        notes: what else the file says of the map, as JSON (:class:`MapHeader`).
        share: write vectors in 1/share of the bytes of float32, up to 1/64: what is read back is
            near to them (docs/method.md 3.2). 1 = exact.
        whole: its tensors, where memory has only a part of them; what bounded memory is then not
            said, because it would not bound the map of the reader.

    Raises:
        InputError: there is no such share, or none of so few numbers.
        MapFileError: the map is damaged, or the file cannot be written; the old one is still
            there.
    """
    path = Path(path)
    state = voxel_map.table.state() if whole is None else whole
    _check("the map in memory", state, voxel_map.channels, voxel_map.config)
    if share != 1:
        state = _coded(voxel_map, state, share)
    config = voxel_map.config
    if whole is not None:
        config = dataclasses.replace(config, max_bytes=0, max_voxels=0)
    header = {
        "identity": dataclasses.asdict(identity or MapIdentity()),
        "map": to_dict(config),
        "lift": to_dict(voxel_map.lift),
        "channels": voxel_map.channels,
        "last_stamp_ns": voxel_map.last_stamp_ns,
        "camera": voxel_map.camera,
        "notes": dict(notes or {}),
    }
    try:
        save_tensors(path, FILE, header, state)
    except OSError as error:
        reason = error.strerror or error
        raise MapFileError(f"the map cannot be written to {path}: {reason}") from error
    return len(state["key"])


def _coded(
    voxel_map: VoxelMap, state: dict[str, torch.Tensor], share: int
) -> dict[str, torch.Tensor]:
    """The tensors of a map, with codes in place of vectors."""
    nbytes = voxel_map.channels * torch.float32.itemsize // share if share else 0
    least = LEAST_BYTES + NUMBER_BYTES
    if not 1 < share <= SMALLEST or nbytes < least:
        raise InputError(
            f"vectors of {voxel_map.channels} numbers cannot be written in 1/{share} of their "
            f"memory: from 1/2 to 1/{SMALLEST}, and at least {least} bytes for each"
        )
    if voxel_map.config.space in LABELLED_SPACES:
        raise InputError("probabilities are written as they are: there is no share of them")
    if not len(voxel_map):
        return state
    table, count = voxel_map.table, len(voxel_map)
    random = torch.Generator().manual_seed(0)  # one map makes one file
    sample = torch.randperm(count, generator=random)[: sample_size(voxel_map.channels)]
    vectors = table.means(sample.to(voxel_map.device))
    codecs = Codecs((VectorCodec.learn(vectors, nbytes - NUMBER_BYTES),))
    rows = torch.arange(count, device=voxel_map.device)
    codes = torch.cat([codecs.encode(table.means(some)) for some in rows.split(ROWS)]).cpu()
    return {**_without_vectors(state), "codes": codes, **codecs.to(codes.device).state()}


def _without_vectors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a map but for its vectors, their codes, and the codecs."""
    return {
        name: values
        for name, values in state.items()
        if name not in _LARGE and not name.startswith("codec")
    }


def load_map(
    path: Path | str,
    expect: MapIdentity | None = None,
    *,
    config: MapConfig | None = None,
    lift: LiftConfig | None = None,
    channels: int | None = None,
    device: torch.device | str = "cpu",
    beyond: Beyond | None = None,
) -> tuple[VoxelMap, MapIdentity]:
    """Read a map; nothing is returned unless everything in the file is sound.

    Args:
        expect: what the reader works with; stated fields must agree.
        config: options that the map goes on with; voxel size, space and labels must agree. None =
            those it was saved with.
        lift: likewise.
        channels: numbers per voxel that the reader works with; None = any.
        beyond: where voxels go that the bounds of ``config`` have no room for.

    Raises:
        MapFileError: the file is missing, damaged or partial, of another version, or does not fit
            ``expect`` or ``config``.
    """
    path = Path(path)
    with opened(path, FILE) as (file, said):
        header = _understood(path, said)
        if expect is not None:
            header.identity.require(expect, str(path))
        _require(path, header, config, channels)
        rules = config or header.config
        state = _state(path, file, said, in_parts=not rules.hot_voxels)
        _check(str(path), state, header.channels, header.config)
        if "codes" in state and not rules.hot_voxels:
            state = _decoded(str(path), state, header.config)
        with _fitting(path):
            try:
                voxel_map = VoxelMap(header.channels, rules, lift or header.lift, device, beyond)
            except ConfigError as error:
                if config is not None:
                    raise
                raise MapFileError(f"{path} is damaged: {error}") from error
            voxel_map.table.load(state)
        if isinstance(vectors := state.get("vectors"), _Vectors):
            check_digests(path, said, {"vectors": vectors.digest})
    voxel_map.camera = header.camera
    voxel_map.continue_from(header.last_stamp_ns)
    return voxel_map, header.identity


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise MapFileError(f"a map as {path} says does not fit into the memory") from error
        raise


def _require(path: Path, header: MapHeader, config: MapConfig | None, channels: int | None) -> None:
    """Refuse a map that does not fit its reader.

    Raises:
        MapFileError: says why.
    """
    for name in ("voxel_size", "space", "labels") if config is not None else ():
        if getattr(header.config, name) != getattr(config, name):
            raise MapFileError(
                f"{path} holds {name} {getattr(header.config, name)}, here it is "
                f"{getattr(config, name)}"
            )
    if channels is not None and header.channels != channels:
        raise MapFileError(
            f"{path} holds {header.channels} numbers per voxel, here it is {channels}"
        )


def read_header(path: Path | str) -> MapHeader:
    """What a map file says of itself; its voxels are not read.

    Raises:
        MapFileError: the file is missing, damaged, or of another version.
    """
    path = Path(path)
    with opened(path, FILE) as (_, said):
        return _understood(path, said)


def fingerprint(path: Path | str) -> str:
    """A name of what a map file holds; its voxels are not read.

    Raises:
        MapFileError: as :func:`read_header`.
    """
    with opened(Path(path), FILE) as (file, _):
        return text_digest(file.metadata[FILE.tag])


def read_geometry(path: Path | str) -> tuple[MapGeometry, MapHeader]:
    """The voxels of a map file without their vectors, which are nearly all of it.

    Raises:
        MapFileError: as :func:`load_map`, but for what is wrong with the vectors.
    """
    path = Path(path)
    with opened(path, FILE) as (file, said):
        header = _understood(path, said)
        state = {name: file.tensor(name) for name in file.names if name not in _LARGE}
        check_digests(path, said, digests(state))
        _complete(said, state)
    count = state["key"].shape[:1] if "key" in state else (0,)
    empty = VoxelMap(1, _in_full(header.config), device="cpu")
    state["vectors"] = empty.table.state()["vectors"].new_zeros(*count, 1)
    _check(str(path), state, 1, header.config)
    empty.table.load(state)
    return empty.geometry(), header


def _understood(path: Path, header: dict[str, Any]) -> MapHeader:
    """What a header says, each part of the type that it must have.

    Raises:
        MapFileError: a part is missing or impossible.
    """
    try:
        said = dict(header["identity"])
        labels = tuple(said.pop("labels"))
        identity = MapIdentity(**said, labels=labels)
        config = from_dict(MapConfig, header["map"], "map.")
        config = dataclasses.replace(config, hot_voxels=min(config.hot_voxels, MOST_HOT))
        lift = from_dict(LiftConfig, header["lift"], "lift.")
        channels, last_stamp_ns, camera = (
            header[name] for name in ("channels", "last_stamp_ns", "camera")
        )
        notes = header.get("notes", {})  # the first files had none
        sound = {
            "identity": all(isinstance(text, str) for text in (*said.values(), *labels)),
            "channels": type(channels) is int and 0 < channels <= MAX_CHANNELS,
            "last_stamp_ns": last_stamp_ns is None
            or (type(last_stamp_ns) is int and abs(last_stamp_ns) < STAMP_LIMIT_NS),
            "camera": len(camera) == 3
            and all(type(c) in (int, float) and math.isfinite(c) for c in camera),
            "notes": isinstance(notes, dict),
        }
    except MISFITS as error:
        raise MapFileError(f"{path} is damaged: its header cannot be understood") from error
    for what, good in sound.items():
        if not good:
            raise MapFileError(f"{path} is damaged: its header has an impossible {what}")
    x, y, z = (float(c) for c in camera)
    return MapHeader(identity, config, lift, channels, last_stamp_ns, (x, y, z), notes)


class _Vectors:
    """The vectors of a file, looked at as they are taken from it: they are nearly all of a map,
    which memory shall not hold twice.
    """

    def __init__(self, path: Path, rows: Rows, hits: torch.Tensor) -> None:
        self._path, self._rows, self._hits = path, rows, hits
        self.dtype, self.shape = rows.dtype, rows.shape

    def __getitem__(self, rows: slice) -> torch.Tensor:
        found = self._rows[rows]
        if not _sound(found, self._hits[rows]):
            raise MapFileError(f"{self._path} is damaged: impossible vectors")
        return found

    @property
    def digest(self) -> str:
        """Of what was taken."""
        return self._rows.digest


def _state(path: Path, file: TensorFile, said: dict[str, Any], in_parts: bool) -> dict[str, Any]:
    """The tensors of a file whose digests agree, as this version has them.

    Args:
        in_parts: ``vectors`` as :class:`_Vectors`; their digest is not known before the end.
    """
    later = ["vectors"] if in_parts and "vectors" in file.names and "hits" in file.names else []
    state: dict[str, Any] = {n: file.tensor(n) for n in file.names if n not in later}
    check_digests(path, said, digests(state))
    for name in later:
        state[name] = _Vectors(path, file.rows(name), state["hits"])
    _complete(said, state)
    return state


def _decoded(
    what: str, state: dict[str, torch.Tensor], config: MapConfig
) -> dict[str, torch.Tensor]:
    """Vectors in place of their codes, which have been checked.

    Raises:
        MapFileError: there would be too many of them for so small a file.
    """
    codecs, codes, hits = Codecs.of(state), state["codes"], state["hits"]
    kind, channels = getattr(torch, config.dtype), codecs.channels
    if 4 * channels * len(codes) > max(SMALLEST * codes.nbytes, ALWAYS_DECODED):
        raise MapFileError(f"{what} is damaged: its codes stand for more than they can")
    vectors = torch.empty(len(codes), channels, dtype=kind)
    for rows in torch.arange(len(codes)).split(ROWS):
        means = codecs.decode(codes[rows])
        vectors[rows] = (means * hits[rows, None] if kind == torch.float32 else means).to(kind)
    return {**_without_vectors(state), "vectors": vectors}


def _complete(header: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """Bring the tensors of an earlier version to those of this one."""
    if header["version"] == 1 and "hits" in state:  # it did not count frames
        state["views"] = torch.ones_like(state["hits"], dtype=torch.int32)
    if header["version"] == 3:  # it had one codec
        for name in [name for name in state if name.startswith("codec_")]:
            state[name.replace("codec_", "codec0_", 1)] = state.pop(name)
        codes = state.get("codes")
        if codes is not None and codes.ndim == 2 and codes.dtype == torch.uint8:
            state["codes"] = torch.nn.functional.pad(codes, (NUMBER_BYTES, 0))


def _check(what: str, state: Mapping[str, Any], channels: int, config: MapConfig) -> None:
    """Refuse what cannot be the contents of a map.

    Raises:
        MapFileError: names what is impossible, and ``what`` it is in.
    """
    empty = VoxelMap(channels, _in_full(config), device="cpu").table.state()
    count = state["key"].shape[:1] if "key" in state else ()
    if not count:
        raise MapFileError(f"{what} is damaged: key is missing or has another shape or type")
    if "codes" in state and "vectors" in state:
        raise MapFileError(f"{what} is damaged: it has vectors and codes of them")
    if "codes" in state:
        _check_codes(what, state, channels, count)
        del empty["vectors"]
    for name, wanted in empty.items():
        found = state.get(name)
        if (
            found is None
            or found.dtype != wanted.dtype
            or found.shape != (*count, *wanted.shape[1:])
        ):
            raise MapFileError(f"{what} is damaged: {name} is missing or has another shape or type")
    key, hits, views, rgb_sum = (state[name] for name in ("key", "hits", "views", "rgb_sum"))
    first, last = state["first_seen_ns"], state["last_seen_ns"]
    sound = {
        "voxel keys": bool(valid_keys(key).all()) and len(key.unique()) == len(key),
        "hits": bool(((hits > 0) & (hits <= MOST_HITS)).all()),
        "views": bool(((views > 0) & (views <= hits) & (views <= MOST_VIEWS)).all()),
        "colours": bool(((rgb_sum >= 0) & (rgb_sum <= hits[:, None] * (1 + 1e-6))).all()),
        "stamps": bool(
            ((-STAMP_LIMIT_NS < first) & (first <= last) & (last < STAMP_LIMIT_NS)).all()
        ),
        "counts of looks through a voxel": bool((state["seen_through"] >= 0).all()),
        "vectors": not isinstance(state.get("vectors"), torch.Tensor)
        or _sound(state["vectors"], hits),
    }
    for part, good in sound.items():
        if not good:
            raise MapFileError(f"{what} is damaged: impossible {part}")


def _sound(vectors: torch.Tensor, hits: torch.Tensor) -> bool:
    """Whether no mean is larger than a map takes it; sums are rounded."""
    most = LARGEST * 1.001 * (hits if vectors.dtype == torch.float32 else torch.ones_like(hits))
    parts = zip(vectors.split(ROWS), most.split(ROWS), strict=True)
    return all(bool((some.abs().amax(1) <= limit).all()) for some, limit in parts)


def _check_codes(
    what: str, state: Mapping[str, torch.Tensor], channels: int, count: tuple[int, ...]
) -> None:
    try:
        codecs = Codecs.of(state)
    except InputError as error:
        raise MapFileError(f"{what} is damaged: {error}") from error
    if state["codes"].shape[:1] != count or codecs.channels != channels:
        raise MapFileError(f"{what} is damaged: its codes are not for its voxels")
    if any(bool((codec.axes.abs().sum(0) > MOST_ALONG).any()) for codec in codecs.all):
        raise MapFileError(f"{what} is damaged: its codes stand for impossible vectors")


def _in_full(config: MapConfig) -> MapConfig:
    return dataclasses.replace(config, hot_voxels=0)
