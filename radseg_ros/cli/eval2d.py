# SPDX-License-Identifier: Apache-2.0
"""radseg-eval2d: mIoU over a folder of images and one of label PNGs (docs/method.md 2.5).

VOC, Context, Stuff, ADE and Cityscapes come as such folders. A label image has the name of its
image, up to the usual endings (_leftImg8bit, _gtFine_labelTrainIds, _labelTrainIds); sub-folders
are searched. The class file has one class a line, synonyms separated by commas, in the order of the
label values.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..command import fraction, positive, run_command
from ..datatypes import InputError
from ..files import prepare_file, write_whole
from .encoder_options import add_encoder_options, add_settings_option, encoder_from, short_side_of


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Run the evaluation that ``options`` describe; returns what is written as JSON."""
    import numpy as np
    from tqdm import tqdm

    from eval3d.datasets.labelled_images import FIRST_LABEL, pair_files, truth_image
    from eval3d.scoring.metrics import confusion, score_confusion

    from ..segmentation.probabilities import Segmenter, read_classes, read_rgb
    from ..segmentation.refine import make_refiner

    if options.json:
        prepare_file(options.json)
    classes, short_side = read_classes(options.classes), short_side_of(options)
    pairs = pair_files(options.images, options.labels)[: options.limit]
    first_label = options.first_label
    if first_label is None:
        first_label = FIRST_LABEL[options.settings.split("-")[0]] if options.settings else 1
    encoder = encoder_from(options)
    segmenter = Segmenter(
        encoder,
        classes,
        make_refiner(encoder),
        short_side=short_side,
        denoise_threshold=options.denoise,
    )
    matrix = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    for image, label in tqdm(pairs, disable=None, unit="image"):
        truth = truth_image(label, len(classes), first_label)
        prediction = segmenter(read_rgb(image), truth.shape).labels(options.threshold)
        if options.background:  # the first class is what remains where nothing else is sure enough
            prediction[prediction == 0] = 1
        matrix += confusion(truth.ravel(), prediction.cpu().numpy().ravel(), len(classes))
    if not matrix[1:].any():
        raise InputError("no labelled pixel: check --first-label and the label images")
    result = score_confusion(matrix, claimed=True)
    return {
        "encoder": encoder.name,
        "settings": options.settings or "",
        "short_side": short_side,
        "images": len(pairs),
        "miou": result.miou,
        "accuracy": result.acc,
        "mean_accuracy": result.macc,
        "iou": {
            names[0]: None if np.isnan(v) else float(v)
            for names, v in zip(classes, result.iou, strict=True)
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run_command("radseg-eval2d", lambda: report(options))


def report(options: argparse.Namespace) -> int:
    """Evaluate and print -> the exit status."""
    result = evaluate(options)
    if options.json:
        write_whole(options.json, json.dumps(result, indent=2) + "\n")
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
        type=fraction,
        default=0.0,
        help="less probable pixels are predicted as none (0)",
    )
    parser.add_argument(
        "--denoise",
        type=fraction,
        default=0.5,
        help="drop classes that are nowhere as probable as this (0.5)",
    )
    parser.add_argument("--limit", type=positive, help="only so many images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores to a file")
    add_settings_option(parser)
    add_encoder_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
