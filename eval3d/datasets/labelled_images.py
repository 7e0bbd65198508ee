# SPDX-License-Identifier: Apache-2.0
"""Labelled images in two folders, as VOC, Context, Stuff, ADE and Cityscapes come.

A label image has the name of its image, up to the usual endings (_leftImg8bit,
_gtFine_labelTrainIds, _labelTrainIds); sub-folders are searched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.files import open_image
from radseg_ros.frames.disk import COLOR_SUFFIXES, LABEL_SUFFIXES, is_ours

TRAIN_IDS = "_labelTrainIds"
ENDINGS = ("_leftImg8bit", f"_gtFine{TRAIN_IDS}", TRAIN_IDS)
# value of the first class; lower ones are ignored
FIRST_LABEL = {"voc": 1, "context": 1, "ade": 1, "stuff": 0, "cityscapes": 0}
VOID = 255  # never counted


def truth_image(path: Path, classes: int, first_label: int) -> np.ndarray:
    """A label PNG -> (H, W) int64 with 0 = ignored, 1..C.

    Raises:
        InputError: it is no label image, or holds a value for which there is no class.
    """
    values = label_values(path)
    labels = np.where(values == VOID, 0, values - first_label + 1).clip(min=0)
    if labels.max() > classes:
        value = labels.max() + first_label - 1
        raise InputError(
            f"{path}: holds the value {value}, but there are {classes} classes, the first is "
            f"{first_label}"
        )
    return labels


def label_values(path: Path) -> np.ndarray:
    """The (H, W) int64 numbers of a label PNG.

    Raises:
        InputError: it cannot be read, is a JPEG, or has colours.
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
    return values


def pair_files(
    images: Path,
    labels: Path,
    names: Collection[str] = (),
    suffixes: Sequence[str] = COLOR_SUFFIXES,
    endings: Sequence[str] = (),
) -> list[tuple[Path, Path]]:
    """Label images with their images, sorted by name.

    Args:
        images: folder of the images, or of what was predicted for them.
        labels: folder of the label images; where one lies there under training ids as well, those
            are meant.
        names: of those that count; empty = all.
        suffixes: of the files in ``images``.
        endings: that their names may have besides the usual ones.

    Raises:
        InputError: a folder is missing or empty, or a label image has no image, or two.
    """
    truths = [path for name, path in _label_images(labels) if not names or name in names]
    if lost := sorted(set(names) - {name_of(path) for path in truths}):
        raise InputError(
            f"{labels}: no label image for {len(lost)} of {len(names)} names, e.g. {lost[0]}"
        )
    if not truths:
        raise InputError(f"{labels}: no such folder, or no images in it")
    return match_files(images, truths, suffixes, endings)


def match_files(
    images: Path,
    truths: Sequence[Path],
    suffixes: Sequence[str] = COLOR_SUFFIXES,
    endings: Sequence[str] = (),
) -> list[tuple[Path, Path]]:
    """The same for label images that are known already.

    Raises:
        InputError: the folder is missing or empty, or a label image has no image, or two.
    """
    by_name: dict[str, list[Path]] = {}
    for path in sorted(images.rglob("*")):
        if is_ours(path, suffixes):
            by_name.setdefault(name_of(path, endings), []).append(path)
    if not by_name:
        raise InputError(f"{images}: no such folder, or no images in it")
    missing = [path.name for path in truths if name_of(path) not in by_name]
    if missing:
        raise InputError(
            f"{images}: no image for {len(missing)} of {len(truths)} label images, e.g. "
            f"{missing[0]}"
        )
    return [(_only(by_name[name_of(path)], path), path) for path in truths]


def _label_images(folder: Path) -> list[tuple[str, Path]]:
    """The label images, each with the name of its image, sorted by path."""
    found = [
        (name_of(path), path)
        for path in sorted(folder.rglob("*"))
        if is_ours(path, LABEL_SUFFIXES) and not _other_export(path)
    ]
    ids = {name for name, path in found if path.stem.endswith(TRAIN_IDS)}
    return [each for each in found if each[0] not in ids or each[1].stem.endswith(TRAIN_IDS)]


def _only(found: list[Path], truth: Path) -> Path:
    if len(found) > 1:
        raise InputError(f"which one is the image of {truth}: {found[0]} or {found[1]}?")
    return found[0]


def name_of(path: Path, endings: Sequence[str] = ()) -> str:
    """The name that an image and its label image share."""
    for ending in (*ENDINGS, *endings):
        if path.stem.endswith(ending):
            return path.stem.removesuffix(ending)
    return path.stem


def _other_export(path: Path) -> bool:
    """Cityscapes keeps colours, instances and raw ids beside the training ids."""
    return "_gtFine_" in path.stem and not path.stem.endswith(f"_gtFine{TRAIN_IDS}")
