# SPDX-License-Identifier: Apache-2.0
"""radseg-segment: open-vocabulary segmentation of images: an overlay with its legend, a label map,
probabilities on request.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ..command import complain, fraction, run_command, sentence
from ..datatypes import InputError, RadsegRosError
from ..files import prepare_folder, whole_file
from .options.encoder import add_encoder_options, add_settings_option, encoder_from, short_side_of

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from ..segmentation.probabilities import Segmenter

OPACITY = 0.55  # of the colours in the overlay
TITLE = 60  # characters of a label that the legend shows


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 1 when an image, or all of them, could not be segmented."""
    options = _parser().parse_args(arguments)
    return run_command("radseg-segment", lambda: segment_all(options))


def segment_all(options: argparse.Namespace) -> int:
    """Segment every image into the folder ``options.out``; those that cannot be used are named.

    Returns:
        The exit status.
    """
    from tqdm import tqdm

    from ..segmentation.probabilities import Segmenter
    from ..segmentation.refine import make_refiner

    classes = classes_of(options)
    stems = unique_stems(options.images)
    check_files(options.images)
    short_side = short_side_of(options)
    prepare_folder(options.out)
    encoder = encoder_from(options)
    segmenter = Segmenter(
        encoder,
        classes,
        make_refiner(encoder),
        short_side=short_side,
        denoise_threshold=options.denoise,
        prompts=options.prompts,
    )
    failed = {}
    for path, stem in zip(tqdm(options.images, disable=None, unit="image"), stems, strict=True):
        try:
            segment(segmenter, path, options.out / stem, options)
        except (RadsegRosError, OSError, MemoryError) as error:
            failed[path] = sentence(error)
    for path, reason in failed.items():
        complain("radseg-segment", reason if str(path) in reason else f"{path}: {reason}")
    print(f"{len(options.images) - len(failed)} of {len(options.images)} images -> {options.out}")
    return 1 if failed else 0


def segment(segmenter: Segmenter, path: Path, stem: Path, options: argparse.Namespace) -> None:
    """Segment one image and write ``<stem>_labels.png``, ``<stem>_overlay.png``, and what
    ``options`` ask for besides.

    Raises:
        InputError: the image cannot be used.
        OSError: a result cannot be written.
    """
    import numpy as np
    from PIL import Image

    from ..segmentation.probabilities import read_rgb

    titles = [names[0] for names in segmenter.classes]
    rgb = read_rgb(path)
    coarse = segmenter.coarse(rgb)
    segmentation = segmenter.refine(rgb, coarse)
    labels = segmentation.labels(options.threshold).cpu().numpy()
    picture = overlay(rgb, labels, titles)
    if segmentation is not coarse:
        before = overlay(rgb, coarse.labels(options.threshold).cpu().numpy(), titles)
        picture = side_by_side({"coarse": before, "refined": picture})
    kind = np.uint8 if len(titles) < 256 else np.uint16
    with whole_file(stem.with_name(f"{stem.name}_labels.png")) as part:
        Image.fromarray(labels.astype(kind)).save(part)
    with whole_file(stem.with_name(f"{stem.name}_overlay.png")) as part:
        picture.save(part)
    if options.save_probabilities:
        maps = segmentation.probabilities.cpu().numpy()
        with whole_file(stem.with_name(f"{stem.name}_probabilities.npz")) as part:
            np.savez_compressed(part, probabilities=maps, labels=np.array(titles))


def classes_of(options: argparse.Namespace) -> list[list[str]]:
    """The classes that ``options`` name, each with its synonyms.

    Raises:
        InputError: there are none, one is named twice, or the class file cannot be read.
    """
    from ..segmentation.probabilities import check_classes, class_names, read_classes

    if options.classes:
        return read_classes(options.classes)
    classes = [[name] for name in class_names(options.labels)]
    check_classes(classes)
    return classes


def check_files(paths: list[Path]) -> None:
    """Refuse where there is nothing to segment, before weights are loaded or fetched for it.

    Raises:
        InputError: none of ``paths`` is a file.
    """
    if not any(path.is_file() for path in paths):
        first = paths[0]
        if first.is_dir():
            raise InputError(f"{first} is a folder: name the images in it, e.g. {first}/*.png")
        raise InputError(f"{first}: no such file")


def unique_stems(paths: list[Path]) -> list[str]:
    """File names without their endings.

    Where two images share one, the folder's name goes in front.

    Raises:
        InputError: two images would still be written under one name.
    """
    count = Counter(path.stem for path in paths)
    stems = [
        path.stem if count[path.stem] == 1 else f"{path.resolve().parent.name}_{path.stem}"
        for path in paths
    ]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem, n in Counter(stems).items() if n > 1)
        raise InputError(
            f"two images would be written as {twice}; segment them one folder at a time"
        )
    return stems


def overlay(rgb: np.ndarray, labels: np.ndarray, titles: list[str]) -> Image.Image:
    """The image in the colours of its labels, with a legend of those that occur, largest first.

    Args:
        rgb: (H, W, 3) uint8.
        labels: (H, W), 0 = none, 1..Q.
        titles: the Q names.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from ..answers.cloud import palette

    colors = palette(len(titles))
    titles = [t if len(t) <= TITLE else f"{t[: TITLE - 3]}..." for t in titles]
    painted = rgb.astype(np.float32)
    known = labels > 0
    painted[known] = (1 - OPACITY) * painted[known] + OPACITY * colors[labels[known] - 1]
    area = np.bincount(labels.ravel(), minlength=len(titles) + 1)[1:]
    shown = [int(i) for i in np.argsort(-area, kind="stable") if area[i]]
    size = max(12, min(rgb.shape[:2]) // 30)
    font = ImageFont.load_default(size)
    line, margin = round(1.5 * size), size // 2
    rows = max(1, (rgb.shape[0] - margin) // line)
    columns = [shown[i : i + rows] for i in range(0, len(shown), rows)]
    widths = [
        max(round(font.getlength(titles[i])) for i in column) + line + 2 * margin
        for column in columns
    ]
    canvas = Image.new("RGB", (rgb.shape[1] + sum(widths), rgb.shape[0]), "white")
    canvas.paste(Image.fromarray(painted.round().astype(np.uint8)))
    draw = ImageDraw.Draw(canvas)
    left = rgb.shape[1] + margin
    for column, width in zip(columns, widths, strict=True):
        for row, i in enumerate(column):
            top = margin + row * line
            draw.rectangle(
                (left, top, left + size, top + size), fill=tuple(int(c) for c in colors[i])
            )
            draw.text(
                (left + line, top + size / 2), titles[i], fill="black", font=font, anchor="lm"
            )
        left += width
    return canvas


def side_by_side(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures from left to right, each under its caption."""
    from PIL import Image, ImageDraw, ImageFont

    height = max(picture.height for picture in pictures.values())
    size = max(12, height // 30)
    top = 2 * size
    canvas = Image.new(
        "RGB", (sum(picture.width for picture in pictures.values()), top + height), "white"
    )
    draw, left = ImageDraw.Draw(canvas), 0
    for caption, picture in pictures.items():
        canvas.paste(picture, (left, top))
        draw.text(
            (left + size // 2, top / 2),
            caption,
            fill="black",
            font=ImageFont.load_default(size),
            anchor="lm",
        )
        left += picture.width
    return canvas


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="radseg-segment", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--labels", help="what to look for, separated by commas")
    wanted.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="the same, one class a line, synonyms separated by commas",
    )
    parser.add_argument(
        "--prompts",
        action="store_true",
        help="the labels are free text, not names for the 80 templates",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("segmentation"),
        help="folder of the results (segmentation)",
    )
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=0.0,
        help="pixels whose best label is less probable stay 0 = none (0)",
    )
    parser.add_argument(
        "--denoise",
        type=fraction,
        default=0.5,
        help="drop labels that are nowhere as probable as this (0.5)",
    )
    parser.add_argument(
        "--refine",
        action="store_true",
        help="refine the masks with SAM's decoder (RADSeg+); shows both",
    )
    parser.add_argument(
        "--save-probabilities", action="store_true", help="write the probability maps too, as .npz"
    )
    add_settings_option(parser)
    add_encoder_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
