# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that make or ask maps: any option of ``config/mapping.yaml``."""

from __future__ import annotations

import argparse
from typing import Any

from ...config import Config, encoder_flags, options_of, parse_assignments

# command-line name -> options of that meaning; everything else goes through --set
FLAGS = {
    "encoder": ("encoder",),
    "checkpoint": ("radseg.checkpoint",),
    "preset": ("radseg.preset",),
    "text-embeddings": ("radseg.text_embeddings",),
    "device": ("radseg.device", "lite.device"),
    "threshold": ("query.threshold",),
}


def add_mapper_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Options that :func:`given_options` reads: those of ``FLAGS`` that are named, and --set."""
    known = options_of(Config)
    parser.set_defaults(mapper_flags=names)
    group = parser.add_argument_group("options of the map (config/mapping.yaml)")
    for name in names:
        option = known[FLAGS[name][0]]
        doc = option.doc.replace("%", "%%")
        group.add_argument(f"--{name}", choices=option.choices or None, metavar="VALUE", help=doc)
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="any option, e.g. map.voxel_size=0.1; may be repeated",
    )
    group.add_argument(
        "--encoder-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of an encoder that has none in config/mapping.yaml; may be repeated",
    )


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options that a command line sets, by name.

    Raises:
        ConfigError: not OPTION=VALUE, or no such option.
    """
    given = {flag: getattr(options, flag.replace("-", "_"), None) for flag in options.mapper_flags}
    given = {flag: value for flag, value in given.items() if value is not None}
    own = encoder_flags(str(given.get("encoder", "")), given)
    texts = [f"{name}={value}" for flag, value in given.items() for name in FLAGS[flag]]
    found = parse_assignments(Config, [*texts, *options.set])
    if own or options.encoder_option:
        found.setdefault("encoder_options", [])
        found["encoder_options"] += [*own, *options.encoder_option]
    return found
