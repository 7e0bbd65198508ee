# SPDX-License-Identifier: Apache-2.0
"""Options that the commands which run an encoder share.

Nothing heavy is imported before the encoder is made.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ...config import (
    GROUPS,
    WINDOWS,
    Config,
    RadsegConfig,
    one_of,
    options_of,
    parse_assignments,
    split_assignments,
)
from ...segmentation.settings import SETTINGS

if TYPE_CHECKING:
    from ...encoders.protocol import Encoder


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Options that :func:`encoder_from` reads."""
    group = parser.add_argument_group("encoder")
    group.add_argument(
        "--encoder",
        default="radseg",
        help=options_of(Config)["encoder"].doc,
    )
    group.add_argument(
        "--checkpoint",
        help="weights: of RADIO a file, folder, version or hub id "
        f"({RadsegConfig().checkpoint}), of others a folder or hub id",
    )
    group.add_argument("--preset", choices=WINDOWS, help="paper, balanced, fast or cpu")
    group.add_argument(
        "--text-embeddings",
        action="append",
        metavar="FILE",
        help="written by radseg-text; may be repeated",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:N, mps or auto")
    group.add_argument("--offline", action="store_true", help="never touch the network")
    anything = "any other option of the encoder, e.g. scga=off; may be repeated"
    group.add_argument(
        *("--set", "--encoder-option"),
        dest="set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=anything,
    )


def add_settings_option(parser: argparse.ArgumentParser) -> None:
    """The options that say at which size images are seen."""
    names = "{voc,stuff,context,ade,cityscapes}-{low,mid,high}: short side, crop and stride "
    names += "of Table A.1"
    parser.add_argument("--settings", choices=SETTINGS, metavar="NAME", help=names)
    parser.add_argument(
        "--short-side",
        type=int,
        help="px that images are brought to; 0 = as they are (640, or as --settings)",
    )


def short_side_of(options: argparse.Namespace) -> int:
    """The short side that ``options`` ask for.

    Raises:
        ConfigError: no image is seen at that size.
    """
    if options.short_side is not None:
        return Config(short_side=options.short_side).short_side
    return SETTINGS[options.settings][0] if options.settings else Config().short_side


def encoder_from(options: argparse.Namespace) -> Encoder:
    """The encoder that ``options`` describe.

    Raises:
        RadsegRosError: it cannot be made.
    """
    from ...encoders.protocol import CLIP_FAMILY, known_encoders, make_encoder

    name = one_of("--encoder", options.encoder, known_encoders())
    values: dict[str, Any] = {
        flag: getattr(options, flag)
        for flag in ("checkpoint", "preset", "text_embeddings", "device")
        if getattr(options, flag) is not None
    }
    if options.offline:
        values["offline"] = True
    if getattr(options, "refine", False):
        values["refine"] = "sam"
    if getattr(options, "settings", None) and name in ("radseg", *CLIP_FAMILY):
        _, values["crop"], values["stride"] = SETTINGS[options.settings]
    if name in GROUPS:
        others = parse_assignments(Config, [f"{name}.{text}" for text in options.set])
        values.update({key.removeprefix(f"{name}."): value for key, value in others.items()})
    else:
        values.update(split_assignments(options.set))
    return make_encoder(name, **values)
