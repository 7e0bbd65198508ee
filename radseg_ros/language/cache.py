# SPDX-License-Identifier: Apache-2.0
"""Where text vectors are kept: files that a robot loads instead of a text tower, and a cache on
disk.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..datatypes import InputError, LanguageError
from ..files import write_whole
from ..reading import border, read_array, read_arrays, read_text
from .templates import CANONICAL, Wording

log = logging.getLogger(__name__)

LABEL, PROMPT = "label", "prompt"
Key = tuple[str, str]  # LABEL or PROMPT, and the canonical text


def save_embeddings(
    path: str | Path,
    tower: str,
    vectors: Mapping[Key, np.ndarray],
    wording: Wording = CANONICAL,
) -> None:
    """Write text vectors (each (D,) float32) to a file (numpy ``.npz``, no pickle).

    Raises:
        OSError: it cannot be written.
    """
    keys = list(vectors)
    content = io.BytesIO()
    np.savez(
        content,
        kind=np.array([kind for kind, _ in keys], dtype=str),
        text=np.array([text for _, text in keys], dtype=str),
        vector=np.stack([vectors[key] for key in keys]).astype(np.float32),
        tower=np.array(tower),
        templates=np.array(wording.identity),
    )
    write_whole(Path(path), content.getvalue())


def load_embeddings(
    path: str | Path, tower: str = "", dimensions: int = 0, wording: Wording = CANONICAL
) -> dict[Key, np.ndarray]:
    """Read what :func:`save_embeddings` wrote.

    Args:
        path: the file.
        tower: the text tower that the vectors must come from; empty = any.
        dimensions: D that they must have; 0 = any.
        wording: by which they must have been made.

    Raises:
        LanguageError: missing, damaged, or of another text tower or template set; names the file.
    """
    path = Path(path)
    content = read_arrays(path, LanguageError)
    with border(path, "a file of radseg-text", LanguageError):
        kinds, texts, vectors = (
            content["kind"].tolist(),
            content["text"].tolist(),
            content["vector"],
        )
        written_by, templates = str(content["tower"].item()), str(content["templates"].item())
        vectors = vectors.astype(np.float32)
        keys = list(zip(kinds, texts, strict=True))
        if len(set(keys)) < len(keys) or not all(kind in (LABEL, PROMPT) for kind in kinds):
            raise LanguageError(f"{path}: damaged, a text occurs twice, or is no label or prompt")
    # a tower is named by its hub id, or by a folder that has the id's last part
    if tower and written_by and Path(tower).name != Path(written_by).name:
        raise LanguageError(
            f"{path}: made with the text tower {written_by}, but the checkpoint needs {tower}"
        )
    if templates != wording.identity:
        raise LanguageError(
            f"{path}: made with other templates or rules; write it again with "
            "radseg-text (--wording)"
        )
    if vectors.ndim != 2 or len(vectors) != len(keys) or not np.isfinite(vectors).all():
        raise LanguageError(
            f"{path}: damaged, {len(texts)} texts but vectors of shape {vectors.shape}, or not "
            "finite"
        )
    if dimensions and vectors.shape[1] != dimensions:
        raise LanguageError(
            f"{path}: holds vectors of {vectors.shape[1]} numbers, the head gives {dimensions}"
        )
    return dict(zip(keys, vectors, strict=True))


def cache_folder(kind: str = "text") -> Path:
    """Where vectors are kept: ``text`` in ``$RADSEG_CACHE``, or in ``~/.cache/radseg_ros``; other
    kinds beside them.
    """
    base = os.environ.get("RADSEG_CACHE") or Path.home() / ".cache" / "radseg_ros"
    return Path(base) / kind


def read_vectors(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """What :func:`write_vectors` wrote, float32; None if absent, damaged or of another shape."""
    try:
        vectors = read_array(path)
    except InputError:
        return None
    good = vectors.shape == shape and vectors.dtype == np.float32 and np.isfinite(vectors).all()
    return vectors if good else None


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """Keep vectors. A cache that cannot be written costs time, not the answer: it is reported."""
    content = io.BytesIO()
    np.save(content, vectors.astype(np.float32))
    try:
        write_whole(path, content.getvalue())
    except OSError as error:
        log.warning("text vectors are not cached: %s", error)


class TextCache:
    """Text vectors on disk, one small file each, so that processes can share them without locks.

    A file's place says what it depends on: the text tower, the hash of its weights, the template
    set, and the text; the text of a label is also beside it, for people who look for one.

    Args:
        folder: where; None = :func:`cache_folder`.
        wording: by which the vectors are made.
    """

    def __init__(self, folder: str | Path | None = None, wording: Wording = CANONICAL) -> None:
        self.folder = Path(folder) if folder else cache_folder()
        self.wording = wording

    def read(self, tower: str, weights_hash: str, key: Key, dimensions: int) -> np.ndarray | None:
        """The (D,) vector of ``key``, or None.

        An empty ``weights_hash`` takes the newest weights that were seen.
        """
        folder = self._tower(tower)
        hashes = [folder / weights_hash] if weights_hash else sorted(folder.glob("*"), key=_age)
        for place in hashes:
            vector = read_vectors(place / self._file_name(key), (dimensions,))
            if vector is not None:
                return vector
        return None

    def write(self, tower: str, weights_hash: str, key: Key, vector: np.ndarray) -> None:
        """Keep a vector (D,); see :func:`write_vectors`."""
        path = self._tower(tower) / weights_hash / self._file_name(key)
        write_vectors(path, vector)
        if key[0] == LABEL:
            with suppress(OSError):  # it is a convenience
                write_whole(path.with_suffix(".txt"), key[1])

    def labels(self, tower: str, most: int = 100) -> list[str]:
        """Labels whose vectors are here, those that were made last first."""
        found = sorted(self._tower(tower).glob("*/*.txt"), key=_age)[:most]
        texts = []
        for path in found:
            with suppress(InputError):
                texts.append(read_text(path))
        return list(dict.fromkeys(texts))

    def _tower(self, tower: str) -> Path:
        return self.folder / re.sub(r"[^\w.-]+", "--", tower)

    def _file_name(self, key: Key) -> str:
        identity = "\0".join((self.wording.identity, *key))
        return hashlib.sha256(identity.encode()).hexdigest()[:32] + ".npy"


def _age(folder: Path) -> float:
    try:
        return -folder.stat().st_mtime
    except OSError:  # another process has just removed it
        return 0.0
