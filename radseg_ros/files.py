# SPDX-License-Identifier: Apache-2.0
"""Files: written whole or not at all, and images read with a bound on their size."""

from __future__ import annotations

import errno
import glob
import io
import itertools
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .datatypes import InputError, MapFileError

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

MAX_PIXELS = 36_000_000  # of an image from outside: 8K is 33 million; decoding takes 14 bytes each
_number = itertools.count()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write to, whose content appears as ``path`` once the block has ended well.

    A reader finds the old file or the new one, whole, even when the process is killed meanwhile.
    What killed processes left behind is removed by the next one that writes ``path``.

    Yields:
        A path in the same folder, with the suffix of ``path``.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full; names ``path``.
    """
    _remove_leftovers(path)
    part = path.with_name(f".{path.name}.{os.getpid()}-{next(_number)}.part{path.suffix}")
    try:
        yield part
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        if error.filename in (
            None,
            part,
            str(part),
        ):  # writing knows no name, opening the hidden one
            error.filename = str(path)
        raise
    finally:
        if part.exists():
            part.unlink()


def write_whole(path: Path, data: bytes | str) -> None:
    """Write ``data`` as a whole file; missing folders are made.

    Text becomes UTF-8; what that cannot say (a file name of other bytes) is escaped.

    Raises:
        OSError: as :func:`whole_file`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        part.write_bytes(content)


def prepare_folder(path: Path) -> None:
    """Make a folder for results, and see that files can be written there, before work begins.

    Raises:
        InputError: it is a file, or cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{os.getpid()}-{next(_number)}.part"
        probe.write_bytes(b"")
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path} is not a folder, or lies below a file: name another") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such name can be given"
        raise InputError(f"no file can be written to {path}: {reason}") from None


def prepare_file(path: Path) -> None:
    """The same for a file, whose folder is made.

    Raises:
        InputError: it is a folder, or cannot be written.
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: name a file")
    prepare_folder(path.parent)


def _remove_leftovers(path: Path) -> None:
    """Remove what writers of ``path`` left behind whose process is gone."""
    start = f".{path.name}."
    for part in path.parent.glob(f"{glob.escape(start)}*.part{glob.escape(path.suffix)}"):
        owner = part.name[len(start) :].partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)):
            part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def locked_folder(folder: Path, what: str) -> int:
    """The descriptor of a folder that this process alone writes to, as long as it is open.

    Raises:
        MapFileError: another one does, or it cannot be opened; ``what`` says what the folder is.
    """
    import fcntl  # reading needs none

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise MapFileError(f"{what} {folder} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise MapFileError(f"{what} {folder} is in use by another process") from error
    except OSError:  # a file system without locks
        logger.info("the file system of %s does not tell whether another process writes", folder)
    return descriptor


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file of at most ``most`` bytes. Never waits for a writer.

    Raises:
        OSError: there is none, it is larger, or no plain file, or cannot be read.
    """
    with plain_file(path, most) as file:
        return file.read(most)


def plain_file(path: Path, most: int | None = None) -> io.FileIO:
    """A file of at most ``most`` bytes, to be read without a buffer. Never waits for a writer.

    Raises:
        OSError: there is none, it is larger, or no plain file, or cannot be opened.
    """
    file = io.FileIO(path, opener=lambda name, how: os.open(name, how | os.O_NONBLOCK))
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no plain file", str(path))
    if most is not None and found.st_size > most:
        file.close()
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return file


def refuse_pipes(path: Path) -> None:
    """Refuse what is neither a file nor a folder: reading a pipe or a device may never end.

    Raises:
        InputError: names it.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path} is neither a file nor a folder")


def open_image(
    source: Path | bytes, what: str = "image", formats: tuple[str, ...] | None = None
) -> Image.Image:
    """An image, decoded. What it is, is told by its content and never by its name.

    Args:
        source: a file, or its bytes.
        what: what the messages call it; a path is named besides.
        formats: Pillow's names of the formats that are allowed; None = all that it knows.

    Raises:
        InputError: missing, damaged, of another format, or of more than ``MAX_PIXELS`` pixels.
    """
    from PIL import Image

    if not isinstance(source, bytes):
        refuse_pipes(source)
    name = what if isinstance(source, bytes) else f"{source}: {what}"
    try:
        image = Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, "r", formats
        )
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()  # finds half-written files
    except Image.DecompressionBombError:  # Pillow has a limit of its own
        most = f"{MAX_PIXELS // 1_000_000} million pixels"
        raise InputError(f"{name} has more than {most}") from None
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (
        Exception
    ) as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, EOFError, ...
        kinds = " or ".join(formats) if formats else "an image"
        raise InputError(f"{name} cannot be read: damaged, truncated, or not {kinds}") from error
    return image


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """An image of any kind -> (H, W, 3) uint8 RGB; one channel of 16 bit is grey.

    Raises:
        InputError: one channel of floats, or of whole numbers beyond 16 bit.
    """
    if image.mode[0] not in "IF":
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    grey = np.asarray(image)  # Pillow's own way makes all above 255 white
    if image.mode == "F" or grey.min() < 0 or grey.max() > np.iinfo(np.uint16).max:
        raise InputError(f"one channel of more than 16 bit (mode {image.mode}) is no colour")
    return np.repeat(to_8_bit(grey.astype(np.uint16))[..., None], 3, axis=2)


def to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """0..65535 -> 0..255, rounded; 8 bit stay as they are."""
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def photograph(file: str) -> np.ndarray:
    """(h, w, 3) uint8 of 'package/path': an image that a Python package carries.

    Raises:
        FileNotFoundError: the package is not installed; says how to have it.
    """
    import importlib.util

    package, path = file.split("/", 1)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"{file}: package {package} is not installed; pip install 'radseg_ros[demo]'"
        )
    return np.asarray(open_image(Path(spec.origin).parent / path).convert("RGB"))
