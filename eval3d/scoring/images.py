# SPDX-License-Identifier: Apache-2.0
"""mIoU over a set of images: what ``radseg-eval2d`` and the tables of the paper count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.segmentation.probabilities import Segmenter, read_rgb
from radseg_ros.segmentation.refine import make_refiner

from ..datasets.labelled_images import truth_image
from .metrics import confusion, score_confusion

if TYPE_CHECKING:
    from radseg_ros.encoders.protocol import Encoder

Classes = Sequence[Sequence[str]]  # the names of each class
Predict = Callable[[Path, tuple[int, int]], np.ndarray]  # file, (H, W) -> labels 1..C, 0 = none


def segmented(
    encoder: Encoder,
    classes: Classes,
    short_side: int,
    denoise_threshold: float = 0.5,
    threshold: float = 0.0,
) -> Predict:
    """What ``encoder`` predicts for an image file; see :class:`Segmenter`.

    Args:
        threshold: pixels whose best class is less probable are predicted as none.
    """
    segmenter = Segmenter(
        encoder,
        classes,
        make_refiner(encoder),
        short_side=short_side,
        denoise_threshold=denoise_threshold,
    )

    def predict(path: Path, size: tuple[int, int]) -> np.ndarray:
        return segmenter(read_rgb(path), size).labels(threshold).cpu().numpy()

    return predict


def count_pixels(
    pairs: Iterable[tuple[Path, Path]],
    predict: Predict,
    classes: int,
    first_label: int,
    background: bool = False,
) -> np.ndarray:
    """The (C + 1, C + 1) confusion of all pixels: row = truth, column = prediction.

    Args:
        pairs: what is predicted from, and the label image.
        first_label: value of the first class in label images; lower ones and 255 are ignored.
        background: the first class gets the pixels that are predicted as none.

    Raises:
        InputError: a file cannot be used; names it.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for path, label in pairs:
        truth = truth_image(label, classes, first_label)
        prediction = predict(path, truth.shape)  # type: ignore[arg-type]  # two sides
        if background:
            prediction = np.where(prediction == 0, 1, prediction)
        matrix += confusion(truth.ravel(), prediction.ravel(), classes)
    return matrix


def image_scores(matrix: np.ndarray, classes: Classes) -> dict[str, Any]:
    """The numbers of a confusion as plain data.

    mIoU runs over the classes that occur, and those that are predicted and nowhere true.

    Raises:
        InputError: no pixel has a label.
    """
    if not matrix[1:].any():
        raise InputError("no labelled pixel: check --first-label and the label images")
    found = score_confusion(matrix, claimed=True)
    return {
        "miou": found.miou,
        "accuracy": found.acc,
        "mean_accuracy": found.macc,
        "iou": {
            names[0]: None if np.isnan(iou) else float(iou)
            for names, iou in zip(classes, found.iou, strict=True)
        },
    }
