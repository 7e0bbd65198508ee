# SPDX-License-Identifier: Apache-2.0
"""From words to vectors (docs/method.md 2.4): canonical text, 80 templates, and as few calls of the
text tower as can be.

A vector is looked for in the given files, in the cache on disk, and only then made by the text
tower. Vectors that are asked for again and again are kept by :mod:`radseg_ros.language.memory`.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..datatypes import LanguageError
from .cache import LABEL, PROMPT, Key, TextCache, load_embeddings, save_embeddings
from .templates import CANONICAL, Wording
from .tower import TextTower
from .words import read_words

BACKGROUND = read_words("background")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonicalise(text: str) -> str:
    """Underscores become spaces, punctuation goes, lower case, single spaces.

    Without this SigLIP 2 loses about 12 %.
    """
    return " ".join(text.replace("_", " ").translate(WITHOUT_PUNCTUATION).lower().split())


class TextEmbedder:
    """Text vectors in the space of one language head.

    Args:
        tower: the text tower; None when nothing tells which it is.
        dimensions: D that the vectors must have.
        files: written by :meth:`save`.
        cache: the cache on disk.
        wording: what becomes of a label or a prompt before the tower reads it, and after.
        cure: what to do where the tower is not at hand.

    Raises:
        LanguageError: a file cannot be read, or belongs to another text tower.
    """

    def __init__(
        self,
        tower: TextTower | None,
        dimensions: int,
        files: Iterable[str | Path] = (),
        cache: TextCache | None = None,
        wording: Wording = CANONICAL,
        cure: str = "Write text embeddings with radseg-text on a machine that has the tower",
    ) -> None:
        self._cure = cure
        self.tower = tower
        self.dimensions = dimensions
        self.wording = wording
        self.cache = cache or TextCache(wording=wording)
        self._given: dict[Key, np.ndarray] = {}
        for file in files:
            self._given.update(
                load_embeddings(file, tower.name if tower else "", dimensions, wording)
            )

    def labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Names of things -> (Q, D) float32: the mean of unit vectors over all templates, as it is,
        not of unit length.

        Raises:
            LanguageError: a label cannot be embedded; the message says what is missing.
        """
        return self._vectors(LABEL, labels)

    def prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Free text -> (Q, D) float32 unit vectors, each text as it is, but canonical.

        Raises:
            LanguageError: as for :meth:`labels`.
        """
        return self._vectors(PROMPT, prompts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """Those of ``labels`` whose vectors are in the given files or in the cache."""
        return [label for label in labels if self._kept(self._key(LABEL, label)) is not None]

    def save(self, path: str | Path, labels: Iterable[str], prompts: Iterable[str] = ()) -> int:
        """Write the vectors of ``labels`` and ``prompts`` to a file that needs no text tower to be
        read; return how many.

        Raises:
            LanguageError: as for :meth:`labels`.
            OSError: the file cannot be written.
        """
        vectors = self._found(LABEL, labels) | self._found(PROMPT, prompts)
        save_embeddings(path, self.tower.name if self.tower else "", vectors, self.wording)
        return len(vectors)

    def known(self) -> list[str]:
        """Labels whose vectors are there already: those of the files, then those of the cache."""
        given = [text for kind, text in self._given if kind == LABEL]
        cached = self.cache.labels(self.tower.name) if self.tower else []
        return list(dict.fromkeys([*given, *cached]))

    def _vectors(self, kind: str, texts: Sequence[str]) -> torch.Tensor:
        if isinstance(texts, str):
            raise LanguageError(f"a list of texts is needed, got one text: {texts!r}")
        found = self._found(kind, texts)
        rows = [found[self._key(kind, text)] for text in texts]
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, self.dimensions)

    def _found(self, kind: str, texts: Iterable[str]) -> dict[Key, np.ndarray]:
        """The vector of each text, made at most once."""
        found: dict[Key, np.ndarray] = {}
        for text in texts:
            key = self._key(kind, text)
            if key not in found:
                kept = self._kept(key)
                found[key] = self._made(key) if kept is None else kept
        return found

    def _kept(self, key: Key) -> np.ndarray | None:
        """From the given files or the cache."""
        given = self._given.get(key)
        if given is not None or self.tower is None:
            return given
        return self.cache.read(self.tower.name, self.tower.local_hash, key, self.dimensions)

    def _made(self, key: Key) -> np.ndarray:
        kind, text = key
        if self.tower is None:
            raise LanguageError(
                f"unknown {kind} {text!r}: no text embeddings hold it, and no text tower is known"
            )
        try:
            vectors = self._read(kind, text)
        except LanguageError as error:
            raise LanguageError(
                f"unknown {kind} {text!r}: neither text embeddings nor the cache hold it, "
                f"and there is no text tower to make it: {error}. {self._cure}"
            ) from error
        if vectors.shape[1] != self.dimensions:
            raise LanguageError(
                f"the text tower {self.tower.name} gives {vectors.shape[1]} numbers, the language "
                f"head {self.dimensions}"
            )
        vector = vectors.mean(0).numpy()
        self.cache.write(self.tower.name, self.tower.local_hash, key, vector)
        return vector

    def _read(self, kind: str, text: str) -> torch.Tensor:
        """(n, D) of the texts that a label is put into, or of the prompt itself."""
        assert self.tower is not None
        texts = [t.format(c=text) for t in self.wording.templates] if kind == LABEL else [text]
        if self.wording.canonical:
            texts = [canonicalise(each) for each in texts]
        return self.tower.embed(texts) if self.wording.unit else self.tower.raw(texts)

    def _key(self, kind: str, text: str) -> Key:
        if not (canonical := canonicalise(text)):
            raise LanguageError(f"{text!r} holds no letter and no digit, so it cannot be embedded")
        return kind, canonical if self.wording.canonical else text
