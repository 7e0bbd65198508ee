# SPDX-License-Identifier: Apache-2.0
"""Labelled images in two folders, as VOC, Context, Stuff, ADE and Cityscapes come.

A label image has the name of its image, up to the usual endings (_leftImg8bit,
_gtFine_labelTrainIds, _labelTrainIds); sub-folders are searched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.files import open_image
from radseg_ros.frames.disk import COLOR_SUFFIXES, LABEL_SUFFIXES, is_ours

ENDINGS = ("_leftImg8bit", "_gtFine_labelTrainIds", "_labelTrainIds")
# value of the first class; lower ones are ignored
FIRST_LABEL = {"voc": 1, "context": 1, "ade": 1, "stuff": 0, "cityscapes": 0}
VOID = 255  # never counted


def truth_image(path: Path, classes: int, first_label: int) -> np.ndarray:
    """A label PNG -> (H, W) int64 with 0 = ignored, 1..C.

    Raises:
        InputError: it is no label image, or holds a value for which there is no class.
    """
    image = open_image(path, "label image")
    if image.format == "JPEG":
        raise InputError(f"{path}: a JPEG does not keep class numbers exact: use PNG")
    values = np.asarray(image).astype(np.int64)
    if values.ndim != 2:
        raise InputError(
            f"{path}: a label image has one channel of class numbers, this one has shape "
            f"{values.shape}"
        )
    labels = np.where(values == VOID, 0, values - first_label + 1).clip(min=0)
    if labels.max() > classes:
        value = labels.max() + first_label - 1
        raise InputError(
            f"{path}: holds the value {value}, but there are {classes} classes, the first is "
            f"{first_label}"
        )
    return labels


def pair_files(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Label images with their images, sorted by name.

    Raises:
        InputError: a folder is missing or empty, or a label image has no image, or two.
    """
    by_name: dict[str, list[Path]] = {}
    for path in sorted(images.rglob("*")):
        if is_ours(path, COLOR_SUFFIXES):
            by_name.setdefault(_name(path), []).append(path)
    truths = sorted(
        path
        for path in labels.rglob("*")
        if is_ours(path, LABEL_SUFFIXES) and not _other_export(path)
    )
    if not truths or not by_name:
        raise InputError(f"{labels if by_name else images}: no such folder, or no images in it")
    missing = [path.name for path in truths if _name(path) not in by_name]
    if missing:
        raise InputError(
            f"{images}: no image for {len(missing)} of {len(truths)} label images, e.g. "
            f"{missing[0]}"
        )
    return [(_only(by_name[_name(path)], path), path) for path in truths]


def _only(found: list[Path], truth: Path) -> Path:
    if len(found) > 1:
        raise InputError(f"which one is the image of {truth}: {found[0]} or {found[1]}?")
    return found[0]


def _name(path: Path) -> str:
    for ending in ENDINGS:
        if path.stem.endswith(ending):
            return path.stem.removesuffix(ending)
    return path.stem


def _other_export(path: Path) -> bool:
    """Cityscapes keeps colours, instances and raw ids beside the training ids."""
    return "_gtFine_" in path.stem and not path.stem.endswith("_gtFine_labelTrainIds")
