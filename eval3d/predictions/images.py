# SPDX-License-Identifier: Apache-2.0
"""Segmentations of another program, one file per label image: ``.npz`` with ``labels`` (H, W),
``probabilities`` (Q, h, w), or ``features`` (D, h, w) with ``text`` (Q, D); or label PNGs.

What all images share (``text``, ``names``, ``logit_scale``) may lie once in ``text.npz``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from radseg_ros.datatypes import InputError
from radseg_ros.reading import border
from radseg_ros.segmentation.maps import Segmentation, denoise, merge_synonyms
from radseg_ros.segmentation.probabilities import MAX_MAPS

from ..datasets.labelled_images import VOID, label_values, match_files, pair_files
from .arrays import Arrays, kind_of, labels_in, load_prediction, numbers, probabilities_in

SHARED = "text.npz"
ENDINGS = ("_labels", "_probabilities")  # as radseg-segment writes them


class PredictedImages:
    """Reads what was predicted for an image.

    Args:
        folder: of the predictions; where ``.npz`` files lie there, PNGs are not looked at.
        classes: the names of each class.
        denoise_threshold: classes whose probability stays below this in an image are removed.
        threshold: less probable pixels are predicted as none.
        first_label: value of the first class in label maps; lower ones are no prediction.

    Raises:
        InputError: there is no such folder, or what the images share cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[Sequence[str]],
        denoise_threshold: float = 0.5,
        threshold: float = 0.0,
        first_label: int = 1,
    ) -> None:
        self.folder, self.classes = folder, classes
        self.denoise_threshold, self.threshold = denoise_threshold, threshold
        self.first_label = first_label
        self.kinds: set[str] = set()  # what the files held: labels, probabilities, features
        self._hash = hashlib.sha256()
        shared = folder / SHARED
        self._shared = load_prediction(shared) if shared.is_file() else {}
        files = (path for path in folder.rglob("*.npz") if path != shared)
        self.suffix = ".npz" if any(files) else ".png"

    def pairs(self, labels: Path | Sequence[Path]) -> list[tuple[Path, Path]]:
        """The predictions with the label images in the folder ``labels``, or with these.

        Raises:
            InputError: one of those has no prediction, or two.
        """
        how: dict[str, Any] = {"suffixes": (self.suffix,), "endings": ENDINGS}
        if isinstance(labels, Path):
            return pair_files(self.folder, labels, **how)
        return match_files(self.folder, labels, **how)

    def __call__(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        """(H, W) int64 of ``size``: 1..C, 0 = no prediction.

        Raises:
            InputError: the file cannot be read, or does not fit the image or the class list.
        """
        self._hash.update(path.read_bytes())
        if self.suffix == ".png":
            values = label_values(path)
            unset = (values == VOID) & (len(self.classes) + self.first_label <= VOID)
            return self._labels({"labels": np.where(unset, -1, values)}, path, size)
        with border(path, "a segmentation in arrays"):
            arrays = load_prediction(path, self._shared)
            if kind_of(arrays, path) == "labels":
                return self._labels(arrays, path, size)
            return self._from_maps(arrays, path, size)

    @property
    def digest(self) -> str:
        """SHA-256 of all files that were read, in that order."""
        return self._hash.hexdigest()

    def _labels(self, arrays: Arrays, path: Path, size: tuple[int, int]) -> np.ndarray:
        self.kinds.add("labels")
        shape = arrays["labels"].shape
        if shape != size:
            raise InputError(
                f"{path}: labels of shape {shape} for an image of {size}: write them at the size "
                "of the label image, or write probabilities"
            )
        return labels_in(arrays, size, self.classes, path, self.first_label)

    def _from_maps(self, arrays: Arrays, path: Path, size: tuple[int, int]) -> np.ndarray:
        kind = kind_of(arrays, path)
        self.kinds.add(kind)
        maps = numbers(arrays, kind, (None, None, None), path, finite=kind != "features")
        every = [name for names in self.classes for name in names]
        first = [names[0] for names in self.classes]
        if len(every) * size[0] * size[1] > MAX_MAPS or 0 in maps.shape:
            raise InputError(f"{path}: {kind} of shape {maps.shape} for an image of {size}")
        rows = maps.reshape(len(maps), -1).T
        which, found = probabilities_in(arrays, rows, (every, first), (every, first), path)
        scores = torch.from_numpy(np.ascontiguousarray(found.T)).unflatten(1, maps.shape[1:])
        if tuple(scores.shape[1:]) != size:
            scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
        scores = merge_synonyms(scores, self.classes) if which == 0 else scores
        return (
            Segmentation.of(denoise(scores, self.denoise_threshold)).labels(self.threshold).numpy()
        )
