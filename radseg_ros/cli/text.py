# SPDX-License-Identifier: Apache-2.0
"""radseg-text: embed labels where the text tower is, so that a robot can load the file and do
without the tower.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..command import run_command
from ..config import RadsegConfig
from ..datatypes import LanguageError, check_texts
from ..files import prepare_file
from ..language.templates import WORDINGS

NO_TOWER = "Run this where the tower is, or name its folder with --tower"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run_command("radseg-text", lambda: embed(options))


def embed(options: argparse.Namespace) -> int:
    """Write the file, and say so -> the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    count, tower = write_embeddings(options)
    print(f"{options.out}: {count} texts of {tower}")
    return 0


def write_embeddings(options: argparse.Namespace) -> tuple[int, str]:
    """Embed what ``options`` name and write the file.

    Returns:
        The number of texts, and the name of the text tower.

    Raises:
        RadsegRosError: nothing to embed, or something cannot be embedded.
        OSError: the file cannot be written.
    """
    from tqdm import tqdm

    from ..language.embedder import BACKGROUND, TextEmbedder
    from ..language.tower import TextTower
    from ..language.words import read_words
    from ..segmentation.probabilities import MAX_NAMES, read_classes

    prepare_file(options.out)
    labels = list(options.labels)
    for file in options.file or ():
        labels += [name for names in read_classes(file) for name in names]
    if options.vocabulary:
        labels += read_words("everyday")
    if not labels and not options.prompt:
        raise LanguageError("nothing to embed: name labels, --vocabulary, --file or --prompt")
    check_texts([*labels, *(options.prompt or ())], MAX_NAMES)
    if not options.no_background:
        labels += BACKGROUND
    labels = list(dict.fromkeys(labels))
    if options.tower:
        tower = TextTower(options.tower, options.device, options.offline)
        dimensions = tower.dimensions
    else:
        tower, dimensions = tower_of_checkpoint(options)
    progress = tqdm(labels, desc="labels", disable=None)
    embedder = TextEmbedder(tower, dimensions, wording=WORDINGS[options.wording], cure=NO_TOWER)
    return embedder.save(options.out, progress, options.prompt or ()), tower.name


def tower_of_checkpoint(options: argparse.Namespace) -> tuple:
    """The text tower of the checkpoint's language head, and the size of its vectors.

    Raises:
        LanguageError: the checkpoint does not say which text tower it needs.
    """
    from ..encoders.radseg.checkpoint import language_head, read_checkpoint
    from ..encoders.radseg.heads import head_size
    from ..hub import find_radio
    from ..language.tower import TextTower, tower_of

    checkpoint = read_checkpoint(find_radio(options.checkpoint, options.offline))
    head = language_head(checkpoint, options.language)
    dimensions = head_size(checkpoint.summary_heads[head])
    name = tower_of(head, dimensions, str(checkpoint.teacher(head).get("model") or ""))
    if not name:
        raise LanguageError(
            f"{checkpoint.path}: nothing tells which text tower head {head} needs; name it with "
            "--tower"
        )
    return TextTower(name, options.device, options.offline), dimensions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="radseg-text", description=__doc__)
    parser.add_argument("labels", nargs="*", help="names of things; each is put into templates")
    parser.add_argument(
        "--file",
        action="append",
        help="more labels, one a line, synonyms separated by commas; may be repeated",
    )
    parser.add_argument(
        "--vocabulary",
        action="store_true",
        help="also the everyday names that answers are calibrated by",
    )
    parser.add_argument(
        "--prompt", action="append", help="a free text that is embedded as it is; may be repeated"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("text_embeddings.npz"),
        help="the file to write (text_embeddings.npz)",
    )
    parser.add_argument(
        "--checkpoint",
        default=RadsegConfig().checkpoint,
        help="RADIO weights, name the tower (%(default)s)",
    )
    parser.add_argument(
        "--language",
        default="",
        help="language head (the language teacher that the checkpoint names)",
    )
    parser.add_argument(
        "--tower",
        help="the text tower itself: a folder or hub id; the checkpoint is then not needed",
    )
    parser.add_argument(
        "--wording",
        choices=WORDINGS,
        default="radseg",
        help="whose rules and templates: radseg (%(default)s), clip (its family; give --tower), "
        "talk2dino",
    )
    parser.add_argument(
        "--no-background",
        action="store_true",
        help="without the texts that every query is compared with",
    )
    parser.add_argument("--device", default="cpu", help="where the text tower runs (cpu)")
    parser.add_argument("--offline", action="store_true", help="never touch the network")
    return parser


if __name__ == "__main__":
    sys.exit(main())
