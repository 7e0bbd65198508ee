# SPDX-License-Identifier: Apache-2.0
"""radseg-eval2d: mIoU over a folder of images and one of label PNGs (docs/method.md 2.5).

VOC, Context, Stuff, ADE and Cityscapes come as such folders. A label image has the name of its
image, up to the usual endings (_leftImg8bit, _gtFine_labelTrainIds, _labelTrainIds); sub-folders
are searched. The class file has one class a line, synonyms separated by commas, in the order of the
label values. With --predicted it scores what another program predicted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval3d.classes import IMAGE_CLASSES, class_file

from ..command import fraction, positive, run_command
from ..files import prepare_file, write_whole
from .options.encoder import add_encoder_options, add_settings_option, encoder_from, short_side_of

# files with their label images, what is predicted from them, and by whom
Source = tuple[list[tuple[Path, Path]], Callable[..., Any], Callable[[], dict[str, str]]]


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Run the evaluation that ``options`` describe; returns what is written as JSON."""
    from tqdm import tqdm

    from eval3d.datasets.labelled_images import FIRST_LABEL
    from eval3d.report.protocol import image_protocol
    from eval3d.scoring.images import count_pixels, image_scores

    from ..segmentation.probabilities import read_classes

    if options.json:
        prepare_file(options.json)
    classes = read_classes(class_file(options.classes))
    short_side = None if options.predicted else short_side_of(options)
    first_label = options.first_label
    if first_label is None:
        first_label = FIRST_LABEL[options.settings.split("-")[0]] if options.settings else 1
    pairs, predict, encoder = (_from_files if options.predicted else _from_encoder)(
        options, classes, short_side
    )
    shown = tqdm(pairs, disable=None, unit="image")
    matrix = count_pixels(shown, predict, len(classes), first_label, options.background)
    scores = image_scores(matrix, classes)
    rules = (options.denoise, options.threshold, options.background)
    data = options.labels.resolve().name
    source = encoder()
    return {
        "encoder": source["encoder"],
        "settings": options.settings or "",
        "short_side": short_side,
        "images": len(pairs),
        **scores,
        "protocol": image_protocol(
            data, len(pairs), short_side, source, classes, first_label, *rules
        ),
    }


def _from_encoder(
    options: argparse.Namespace, classes: Sequence[Sequence[str]], short_side: int | None
) -> Source:
    from eval3d.datasets.labelled_images import pair_files
    from eval3d.report.protocol import encoder_protocol
    from eval3d.scoring.images import segmented

    pairs = pair_files(options.images, options.labels)[: options.limit]
    encoder = encoder_from(options)
    predict = segmented(encoder, classes, short_side or 0, options.denoise, options.threshold)
    return pairs, predict, lambda: encoder_protocol(encoder)


def _from_files(
    options: argparse.Namespace, classes: Sequence[Sequence[str]], short_side: int | None
) -> Source:
    from eval3d.predictions.images import PredictedImages
    from eval3d.report.protocol import outside_protocol

    rules = (options.denoise, options.threshold, options.first_predicted_label)
    outside = PredictedImages(options.images, classes, *rules)
    pairs = outside.pairs(options.labels)[: options.limit]
    return pairs, outside, lambda: outside_protocol(outside.kinds, outside.digest)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run_command("radseg-eval2d", lambda: report(options))


def report(options: argparse.Namespace) -> int:
    """Evaluate and print -> the exit status."""
    from eval3d.report.protocol import block

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
    print(f"\n{block(result['protocol'])}", end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="radseg-eval2d", description=__doc__, formatter_class=raw)
    parser.add_argument("images", type=Path, help="folder of images, or of predictions")
    parser.add_argument("labels", type=Path, help="folder of label PNGs")
    parser.add_argument(
        "--classes",
        type=Path,
        required=True,
        help=f"class file, or one that comes along: {', '.join(IMAGE_CLASSES)}",
    )
    parser.add_argument(
        "--predicted",
        action="store_true",
        help="the first folder holds what another program predicted, .npz or label PNGs: see "
        "docs/evaluation.md",
    )
    parser.add_argument(
        "--first-predicted-label",
        type=int,
        default=1,
        help="value of the first class in predicted label maps; lower ones are none (1)",
    )
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
