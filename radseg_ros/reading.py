# SPDX-License-Identifier: Apache-2.0
"""Files that others wrote: text, JSON, arrays and tensors.

Whatever is wrong with one becomes one sentence that names it, nothing in it is executed, and the
memory that it takes is bounded by its own size.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .datatypes import InputError, RadsegRosError, brief
from .device import out_of_memory
from .files import refuse_pipes

Refusal = type[RadsegRosError]
MAX_TEXT = 1 << 26  # bytes of a text file
MAX_DEPTH = 64  # of JSON
# what comes of fields that are missing, of another type, or beyond every number
MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
# An archive may unpack to this many bytes however small its file is (8 million labelled points),
# and beyond that to so many times its size: measurements hardly shrink, a bomb 1000 times.
FREE_BYTES, MAX_RATIO = 1 << 28, 20
ARRAYS = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 ?".split()  # numbers that torch files may hold


@contextmanager
def border(path: Path, what: str, raises: Refusal = InputError) -> Iterator[None]:
    """Reading ``path``: whatever a library raises becomes one sentence that names the file.

    Args:
        what: the file should be, with its article.
        raises: what is raised instead of them, and of InputError, which keeps its words.
    """
    try:
        refuse_pipes(path)
        yield
    except InputError as error:
        if isinstance(error, raises):
            raise
        raise raises(str(error)) from error
    except RadsegRosError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, struct.error, KeyError, ...
        if out_of_memory(error):
            raise raises(f"{path} does not fit into the memory") from error
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            raise raises(f"{path}: {error.strerror}") from error
        raise raises(f"{path} cannot be read: damaged, truncated, or not {what}") from error


def read_text(path: Path, raises: Refusal = InputError, most: int = MAX_TEXT) -> str:
    """A text file in UTF-8, with or without a byte order mark, of at most ``most`` bytes.

    Raises:
        InputError: or ``raises``: it cannot be read, is not UTF-8, or larger.
    """
    with border(path, "text in UTF-8", raises):
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise InputError(f"{path} is larger than {most >> 20} MB, too large for such a file")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:  # UTF-16 of plain letters decodes, too
            raise InputError(f"{path} is not text in UTF-8: save it as such")
        return text


def read_json(path: Path, kind: type = dict, raises: Refusal = InputError) -> Any:
    """A JSON file whose outermost value is a ``kind``; an object may hold each key once.

    Raises:
        InputError: or ``raises``: as :func:`read_text`, or no such JSON.
    """
    text = read_text(path, raises)
    with border(path, "JSON", raises):
        try:
            found = json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            raise InputError(f"{path} is damaged, or not JSON ({place})") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if _depth(found) > MAX_DEPTH:
            raise InputError(f"{path} nests objects and lists more than {MAX_DEPTH} deep")
        if not isinstance(found, kind):
            raise InputError(f"{path} does not hold a JSON {_JSON[kind]}")
        return found


_JSON = {dict: "object", list: "list", object: "value"}


def _depth(value: Any) -> int:
    """How deep objects and lists are nested."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, (dict, list))]:
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        depth, level = depth + 1, [v for values in inner for v in values]
    return depth


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"the key {twice[:100]!r} occurs twice")
    return found


def read_arrays(path: Path, raises: Refusal = InputError) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file: numbers and texts, never objects.

    Raises:
        InputError: or ``raises``: it cannot be read, or unpacks to too much.
    """
    with border(path, "an .npz file of plain arrays", raises), zipfile.ZipFile(path) as archive:
        _check_archive(path, archive)
        return {
            member.filename.removesuffix(".npy"): _array(
                lambda member=member: archive.open(member),  # type: ignore[misc]
                member.file_size,
            )
            for member in archive.infolist()
            if member.filename.endswith(".npy")
        }


def read_array(path: Path, raises: Refusal = InputError) -> np.ndarray:
    """The array of an ``.npy`` file: numbers or texts.

    Raises:
        InputError: or ``raises``: it cannot be read.
    """
    with border(path, "an .npy file of a plain array", raises):
        return _array(lambda: path.open("rb"), path.stat().st_size)


def _array(opened: Callable[[], IO[bytes]], size: int) -> np.ndarray:
    """An array of ``size`` bytes with its header, which is believed only if both agree."""
    with opened() as file:
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
        content = size - file.tell()
    if dtype.kind not in "biufU" or dtype.itemsize == 0:
        raise ValueError(f"arrays of {dtype} are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != content:
        raise ValueError(f"{content} bytes for an array of {shape}")
    with opened() as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_torch(
    path: Path, what: str, allowed: Iterable[Any] = (), raises: Refusal = InputError
) -> Any:
    """What a file of ``torch.save`` holds.

    Args:
        what: the file should be, with its article.
        allowed: types that it may hold besides tensors, arrays of numbers and plain values.

    Raises:
        InputError: or ``raises``: it cannot be read, unpacks to too much, or holds other types,
            the first of which is named.
    """
    import torch

    with border(path, what, raises):
        source: Path | io.BytesIO = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_archive(path, archive)
        else:  # of old: lengths are believed, so reading must end where the file does
            source = io.BytesIO(path.read_bytes())
        with torch.serialization.safe_globals([*_arrays(), *allowed]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage that an error will tell
            try:
                found = torch.load(source, map_location="cpu", weights_only=True)
            except Exception as error:
                if (refused := re.search(r"GLOBAL ([\w.]+) was not", str(error))) is None:
                    raise
                raise InputError(
                    f"{path} holds {brief(refused[1], 100)}, which could run code, so it is not "
                    f"read as {what}: save it with tensors, arrays and plain values only"
                ) from error
        if (size := _nbytes(found)) > allowance(path):  # one number may pose as many (stride 0)
            raise InputError(f"{path} unpacks to {size >> 20} MB: refused")
        return found


def _arrays() -> list[Any]:
    """What makes numpy's arrays and scalars, under the names of numpy 2 and 1."""
    reconstruct, scalar = np.array([0]).__reduce__()[0], np.float64(0).__reduce__()[0]
    types = sorted({type(np.dtype(kind)) for kind in ARRAYS}, key=repr)
    makers = {"_reconstruct": reconstruct, "scalar": scalar}
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    names = [(make, f"{module}.{name}") for module in modules for name, make in makers.items()]
    return [np.dtype, np.ndarray, *types, *names]


def _nbytes(value: Any) -> int:
    """Bytes of all tensors and arrays in a nest of dictionaries and lists."""
    total, seen, waiting = 0, set(), [value]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        else:
            total += int(getattr(value, "nbytes", 0))
    return total


def allowance(path: Path) -> int:
    """Bytes that the content of an archive may take."""
    return max(FREE_BYTES, MAX_RATIO * path.stat().st_size)


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
        raise ValueError("numpy and torch pack with deflate, if at all")
    if (size := sum(member.file_size for member in members)) > allowance(path):
        raise InputError(f"{path} unpacks to {size >> 20} MB: refused")
