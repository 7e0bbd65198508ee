# SPDX-License-Identifier: Apache-2.0
"""Where text vectors are kept: files that a robot loads instead of a text tower, and a cache on
disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from ..datatypes import LanguageError
from .templates import TEMPLATES

log = logging.getLogger(__name__)

LABEL, PROMPT = "label", "prompt"
Key = tuple[str, str]  # LABEL or PROMPT, and the canonical text
TEMPLATE_SET = hashlib.sha256("\n".join(TEMPLATES).encode()).hexdigest()[:12]


def save_embeddings(path: str | Path, tower: str, vectors: Mapping[Key, np.ndarray]) -> None:
    """Write text vectors (each (D,) float32) to a file (numpy ``.npz``, no pickle), whole or not at
    all.
    """
    keys = list(vectors)
    with atomic_file(Path(path)) as file:
        np.savez(
            file,
            kind=np.array([kind for kind, _ in keys], dtype=str),
            text=np.array([text for _, text in keys], dtype=str),
            vector=np.stack([vectors[key] for key in keys]).astype(np.float32),
            tower=np.array(tower),
            templates=np.array(TEMPLATE_SET),
        )


def load_embeddings(
    path: str | Path, tower: str = "", dimensions: int = 0
) -> dict[Key, np.ndarray]:
    """Read what :func:`save_embeddings` wrote.

    Args:
        path: the file.
        tower: the text tower that the vectors must come from; empty = any.
        dimensions: D that they must have; 0 = any.

    Raises:
        LanguageError: missing, damaged, or of another text tower or template set; names the file.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            kinds, texts, vectors = (
                content["kind"].tolist(),
                content["text"].tolist(),
                content["vector"].astype(np.float32),
            )
            written_by, templates = str(content["tower"]), str(content["templates"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise LanguageError(f"{path}: cannot be read as text embeddings ({error})") from error
    if (
        tower and written_by and Path(tower).name != Path(written_by).name
    ):  # a hub id, or a folder that is named after it
        raise LanguageError(
            f"{path}: made with the text tower {written_by}, but the checkpoint needs {tower}"
        )
    if templates != TEMPLATE_SET:
        raise LanguageError(f"{path}: made with other templates; write it again with radseg-text")
    if (
        vectors.ndim != 2
        or not len(vectors) == len(kinds) == len(texts)
        or not np.isfinite(vectors).all()
    ):
        raise LanguageError(
            f"{path}: damaged, {len(texts)} texts but vectors of shape {vectors.shape}, or not "
            "finite"
        )
    if dimensions and vectors.shape[1] != dimensions:
        raise LanguageError(
            f"{path}: holds vectors of {vectors.shape[1]} numbers, the head gives {dimensions}"
        )
    return dict(zip(zip(kinds, texts, strict=True), vectors, strict=True))


class TextCache:
    """Text vectors on disk, one small file each, so that processes can share them without locks.

    A file's place says what it depends on: the text tower, the hash of its weights, the template
    set, and the text.

    Args:
        folder: where; None = ``text`` in ``$RADSEG_CACHE``, or in ``~/.cache/radseg_ros``.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        base = os.environ.get("RADSEG_CACHE") or Path.home() / ".cache" / "radseg_ros"
        self.folder = Path(folder) if folder else Path(base) / "text"

    def read(self, tower: str, weights_hash: str, key: Key, dimensions: int) -> np.ndarray | None:
        """The (D,) vector of ``key``, or None.

        An empty ``weights_hash`` takes the newest weights that were seen.
        """
        folder = self._tower(tower)
        hashes = [folder / weights_hash] if weights_hash else sorted(folder.glob("*"), key=_age)
        for place in hashes:
            file = place / _file_name(key)
            with contextlib.suppress(
                OSError, ValueError, EOFError
            ):  # absent, or damaged: it is made again
                vector = np.load(file, allow_pickle=False)
                if (
                    vector.shape == (dimensions,)
                    and vector.dtype == np.float32
                    and np.isfinite(vector).all()
                ):
                    return vector
        return None

    def write(self, tower: str, weights_hash: str, key: Key, vector: np.ndarray) -> None:
        """Keep a vector. A cache that cannot be written costs time, not the answer: it is reported
        and ignored.
        """
        try:
            with atomic_file(self._tower(tower) / weights_hash / _file_name(key)) as file:
                np.save(file, vector.astype(np.float32))
        except OSError as error:
            log.warning("text vectors are not cached: %s", error)

    def _tower(self, tower: str) -> Path:
        return self.folder / re.sub(r"[^\w.-]+", "--", tower)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file for writing that appears under its name when it is complete, and not at all when
    something fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(
                file.name, 0o666 & ~umask
            )  # a temporary file is private; the result is an ordinary file
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _file_name(key: Key) -> str:
    return hashlib.sha256("\0".join((TEMPLATE_SET, *key)).encode()).hexdigest()[:32] + ".npy"


def _age(folder: Path) -> float:
    return -folder.stat().st_mtime
