# SPDX-License-Identifier: Apache-2.0
"""2D open-vocabulary segmentation with any encoder (docs/method.md 2.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from ..datatypes import FeatureMap, InputError, check_rgb, check_texts
from ..encoders.protocol import Classifier
from ..files import open_image, rgb_pixels
from ..geometry import resize_rgb, working_size
from ..reading import border, read_text
from .maps import Segmentation, denoise, merge_synonyms

if TYPE_CHECKING:
    from ..encoders.protocol import Encoder
    from .refine import Refiner

MAX_NAMES = 10_000  # of all classes of one list; their memory is bounded by the next
MAX_MAPS = 10**9  # numbers of the probability maps of one image: 4 GB


@torch.no_grad()
def probabilities(
    encoder: Encoder,
    rgb: np.ndarray,
    vectors: torch.Tensor | np.ndarray,
    size: tuple[int, int] | None = None,
    denoise_threshold: float = 0.5,
    refiner: Refiner | None = None,
) -> torch.Tensor:
    """Probability of each text at each pixel.

    Args:
        encoder: any encoder.
        rgb: (H, W, 3) RGB, uint8 or float32 in [0, 1].
        vectors: (Q, D) text vectors, as ``embed_labels`` or ``embed_prompts`` give them.
        size: (H, W) of the result; None = the size of the image.
        denoise_threshold: texts whose probability stays below this everywhere are set to 0 (prompt
            denoising); 0 = off.
        refiner: makes the maps follow the objects (RADSeg+); None = they stay coarse.

    Returns:
        (Q, H, W) float32 on the encoder's device. Coarse ones sum to 1 over the texts, less what
        denoising removed.

    Raises:
        InputError: ``vectors`` has the wrong shape, rgb is not an image, or the result would hold
            more than ``MAX_MAPS`` numbers.
    """
    rgb = check_rgb(rgb)
    height, width = size or rgb.shape[:2]
    if len(vectors) * height * width > MAX_MAPS:
        raise InputError(
            f"{len(vectors)} texts are too many for {width}x{height} pixels: name "
            f"{max(1, MAX_MAPS // (height * width))} at most, or take a smaller image"
        )
    maps = _enlarge(_patch_probabilities(encoder, rgb, vectors), (height, width))
    maps = denoise(maps, denoise_threshold)
    return maps if refiner is None else refiner(rgb, maps).probabilities


@torch.no_grad()
def probability_map(
    encoder: Encoder,
    rgb: np.ndarray,
    vectors: torch.Tensor | np.ndarray,
    denoise_threshold: float = 0.5,
    refiner: Refiner | None = None,
) -> FeatureMap:
    """The same probabilities as a map in probability space stores them.

    Per patch, (Q, h, w): enlarged to the size of the image they equal :func:`probabilities`,
    without ever holding Q images. With a refiner per pixel, (Q, H, W): its masks are finer than
    patches.
    """
    if refiner is not None:
        maps = probabilities(encoder, rgb, vectors, None, denoise_threshold, refiner)
        return FeatureMap(maps)
    rgb = check_rgb(rgb)
    patches = _patch_probabilities(encoder, rgb, vectors)
    for text in patches:
        # enlarging never raises a maximum: only texts that pass here have to be looked at in full
        if (
            text.amax() < denoise_threshold
            or _enlarge(text[None], rgb.shape[:2]).amax() < denoise_threshold
        ):
            text.zero_()
    return FeatureMap(patches)


class Segmenter:
    """Images -> what is where, for fixed classes.

    Args:
        encoder: any encoder.
        classes: the names of each class; a class is as probable as its best name.
        refiner: makes the maps follow the objects (RADSeg+); None = they stay coarse.
        short_side: px that the short side of an image is brought to; 0 = as it is.
        denoise_threshold: see :func:`probabilities`; applies to classes.
        prompts: the names are free text.

    Raises:
        InputError: a name cannot be looked for, or names two classes.
        LanguageError: a name cannot be embedded.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: Sequence[Sequence[str]],
        refiner: Refiner | None = None,
        *,
        short_side: int = 0,
        denoise_threshold: float = 0.5,
        prompts: bool = False,
    ) -> None:
        names = check_classes(classes)
        self.encoder, self.classes, self.refiner = encoder, classes, refiner
        self.short_side, self.denoise_threshold = short_side, denoise_threshold
        self.vectors = encoder.embed_prompts(names) if prompts else encoder.embed_labels(names)

    def __call__(self, rgb: np.ndarray, size: tuple[int, int] | None = None) -> Segmentation:
        """(H, W, 3) RGB, uint8 or float32 -> maps and labels of ``size`` (H, W), refined if there
        is a refiner.

        Size None = that of the image.
        """
        return self.refine(rgb, self.coarse(rgb, size))

    def coarse(self, rgb: np.ndarray, size: tuple[int, int] | None = None) -> Segmentation:
        """As above, before refinement."""
        maps = probabilities(
            self.encoder, self._seen(rgb), self.vectors, size or rgb.shape[:2], 0.0
        )
        maps = denoise(merge_synonyms(maps, self.classes), self.denoise_threshold)
        return Segmentation.of(maps)

    def refine(self, rgb: np.ndarray, coarse: Segmentation) -> Segmentation:
        """The refined one; without a refiner ``coarse`` itself."""
        if self.refiner is None:
            return coarse
        return self.refiner(self._seen(rgb), coarse.probabilities)

    def _seen(self, rgb: np.ndarray) -> np.ndarray:
        return resize_rgb(rgb, working_size(rgb.shape[:2], self.short_side))


def _patch_probabilities(
    encoder: Encoder, rgb: np.ndarray, vectors: torch.Tensor | np.ndarray
) -> torch.Tensor:
    """(Q, h, w) as the encoder tells them, else softmax over the texts of the scaled cosine."""
    vectors = torch.as_tensor(vectors, dtype=torch.float32, device=encoder.device)
    if vectors.ndim != 2 or vectors.shape[1] != encoder.language_channels or not len(vectors):
        raise InputError(
            f"vectors must be (Q, {encoder.language_channels}), got {tuple(vectors.shape)}"
        )
    if isinstance(encoder, Classifier):
        return encoder.probabilities(rgb, vectors)
    features = encoder.encode(rgb).data
    aligned = F.normalize(encoder.project(features.flatten(1).T).float(), dim=-1)
    logits = encoder.logit_scale * aligned @ F.normalize(vectors, dim=-1).T
    return logits.softmax(-1).T.unflatten(1, features.shape[1:]).contiguous()


def _enlarge(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def check_classes(classes: Sequence[Sequence[str]]) -> list[str]:
    """All names of classes, each of which is called by its first one.

    Raises:
        InputError: a class has no name, two have one, or a name cannot be looked for.
    """
    names = [name for synonyms in classes for name in synonyms]
    check_texts(names, MAX_NAMES)
    if not all(classes):
        raise InputError("a class has no name")
    title, count = Counter(synonyms[0].casefold() for synonyms in classes).most_common(1)[0]
    if count > 1:
        raise InputError(f"{count} classes are called {title[:100]!r}: which one would a pixel be?")
    return names


def class_names(line: str) -> list[str]:
    """The names of one class, which are separated by commas."""
    return [" ".join(name.split()) for name in line.split(",") if name.strip()]


def read_classes(path: str | Path) -> list[list[str]]:
    """A class file: one class a line, synonyms separated by commas; empty lines are skipped.

    Raises:
        InputError: the file cannot be read, is of another kind, or names no class or one twice.
    """
    path = Path(path)
    with border(path, "a list of classes"):
        if path.suffix.lower() not in ("", ".txt"):
            raise InputError(f"{path}: a list of classes is a .txt file, one class a line")
        classes = [names for line in read_text(path).splitlines() if (names := class_names(line))]
        if not classes:
            raise InputError(f"{path}: names no class")
        try:
            check_classes(classes)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return classes


def read_rgb(path: str | Path) -> np.ndarray:
    """An image file -> (H, W, 3) uint8 RGB, upright as its EXIF tag says.

    Raises:
        InputError: it cannot be read, or holds more than 16 bit in its only channel.
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(open_image(Path(path)))
    try:
        return np.array(rgb_pixels(image))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
