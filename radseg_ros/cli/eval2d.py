# SPDX-License-Identifier: Apache-2.0
"""radseg-eval2d: mIoU over a folder of images and a folder of label PNGs (docs/method.md 2.5, Table
A.1).

VOC, Context, Stuff, ADE and Cityscapes come as such folders. A label image has the name of its
image, up to the usual endings (_leftImg8bit, _gtFine_labelTrainIds, _labelTrainIds); sub-folders
are searched. The class file has one class a line, synonyms separated by commas, in the order of the
label values.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..datatypes import InputError, RadsegRosError
from ..device import let_threads_sleep
from .encoder_options import add_encoder_options, add_settings_option, encoder_from, short_side_of

if TYPE_CHECKING:
    import numpy as np

ENDINGS = ("_leftImg8bit", "_gtFine_labelTrainIds", "_labelTrainIds")
IMAGES = {".jpg", ".jpeg", ".png"}
FIRST_LABEL = {
    "voc": 1,
    "context": 1,
    "ade": 1,
    "stuff": 0,
    "cityscapes": 0,
}  # value of the first class; lower ones are ignored
VOID = 255  # never counted


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a confusion matrix says; fractions of 1."""

    iou: np.ndarray  # (C,), NaN = the class occurs neither in the labels nor in the predictions
    miou: float  # mean over the classes that occur
    accuracy: float  # share of labelled pixels that are right
    mean_accuracy: float  # mean recall of the labelled classes


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(C + 1, C + 1) counts of pixels, rows = truth; both images hold 0 = none, 1..C.

    Pixels without truth are not counted.
    """
    import numpy as np

    valid = truth > 0
    pairs = truth[valid].astype(np.int64) * (classes + 1) + prediction[valid]
    return np.bincount(pairs, minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)


def scores(matrix: np.ndarray) -> Scores:
    """Scores of a confusion matrix of :func:`confusion`.

    A pixel that is predicted as none counts as missed.

    Raises:
        InputError: no pixel was labelled.
    """
    import numpy as np

    if not matrix.sum():
        raise InputError("no labelled pixel: check --first-label and the label images")
    hits = np.diag(matrix)[1:].astype(float)
    truth, predicted = matrix.sum(1)[1:], matrix.sum(0)[1:]
    with np.errstate(invalid="ignore"):
        iou, recall = hits / (truth + predicted - hits), hits / truth
    return Scores(
        iou, float(np.nanmean(iou)), float(hits.sum() / matrix.sum()), float(np.nanmean(recall))
    )


def truth_image(path: Path, classes: int, first_label: int) -> np.ndarray:
    """A label PNG -> (H, W) int64 with 0 = ignored, 1..C.

    Raises:
        InputError: it is no label image, or holds a value for which there is no class.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            values = np.array(image).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as a label image ({error})") from error
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
        InputError: a folder is missing or empty, or a label image has no image.
    """
    by_name = {_name(path): path for path in images.rglob("*") if path.suffix.lower() in IMAGES}
    truths = sorted(path for path in labels.rglob("*.png") if not _other_export(path))
    if not truths or not by_name:
        raise InputError(f"{labels if by_name else images}: no such folder, or no images in it")
    missing = [path.name for path in truths if _name(path) not in by_name]
    if missing:
        raise InputError(
            f"{images}: no image for {len(missing)} of {len(truths)} label images, e.g. "
            f"{missing[0]}"
        )
    return [(by_name[_name(path)], path) for path in truths]


def _name(path: Path) -> str:
    for ending in ENDINGS:
        if path.stem.endswith(ending):
            return path.stem.removesuffix(ending)
    return path.stem


def _other_export(path: Path) -> bool:
    """Cityscapes keeps colours, instances and raw ids beside the training ids."""
    return "_gtFine_" in path.stem and not path.stem.endswith("_gtFine_labelTrainIds")


def evaluate(options: argparse.Namespace) -> dict:
    """Run the evaluation that ``options`` describe; returns what is written as JSON."""
    import numpy as np
    from tqdm import tqdm

    from ..segmentation.probabilities import Segmenter, read_classes, read_rgb
    from ..segmentation.refine import make_refiner

    classes = read_classes(options.classes)
    pairs = pair_files(options.images, options.labels)[: options.limit]
    first_label = options.first_label
    if first_label is None:
        first_label = FIRST_LABEL[options.settings.split("-")[0]] if options.settings else 1
    encoder = encoder_from(options)
    segmenter = Segmenter(
        encoder,
        classes,
        make_refiner(encoder),
        short_side=short_side_of(options),
        denoise_threshold=options.denoise,
    )
    matrix = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    for image, label in tqdm(pairs, disable=None, unit="image"):
        truth = truth_image(label, len(classes), first_label)
        prediction = segmenter(read_rgb(image), truth.shape).labels(options.threshold)
        if options.background:  # the first class is what remains where nothing else is sure enough
            prediction[prediction == 0] = 1
        matrix += confusion(prediction.cpu().numpy(), truth, len(classes))
    result = scores(matrix)
    return {
        "encoder": encoder.name,
        "settings": options.settings or "",
        "short_side": short_side_of(options),
        "images": len(pairs),
        "miou": result.miou,
        "accuracy": result.accuracy,
        "mean_accuracy": result.mean_accuracy,
        "iou": {
            names[0]: None if np.isnan(v) else float(v)
            for names, v in zip(classes, result.iou, strict=True)
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    let_threads_sleep()
    try:
        result = evaluate(options)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except (RadsegRosError, OSError) as error:
        print(f"radseg-eval2d: {error}", file=sys.stderr)
        return 1
    for name, iou in result["iou"].items():
        print(f"{'   -' if iou is None else f'{100 * iou:6.2f}'}  {name}")
    summary = {
        "mIoU": result["miou"],
        "accuracy": result["accuracy"],
        "mean accuracy": result["mean_accuracy"],
    }
    print(
        "  ".join(f"{name} {100 * value:.2f}" for name, value in summary.items()),
        f" ({result['images']} images)",
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="radseg-eval2d", description=__doc__, formatter_class=raw)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("labels", type=Path, help="folder of label PNGs")
    parser.add_argument("--classes", type=Path, required=True, help="class file")
    parser.add_argument(
        "--first-label",
        type=int,
        help="value of the first class; lower ones and 255 are ignored (1)",
    )
    parser.add_argument(
        "--background", action="store_true", help="the first class gets what --threshold rejects"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        help="less probable pixels are predicted as none (0)",
    )
    parser.add_argument(
        "--denoise",
        type=float,
        default=0.5,
        help="drop classes that are nowhere as probable as this (0.5)",
    )
    parser.add_argument("--limit", type=int, help="only so many images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores to a file")
    add_settings_option(parser)
    add_encoder_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
