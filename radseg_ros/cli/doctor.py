# SPDX-License-Identifier: Apache-2.0
"""radseg-doctor: what works on this machine, and what to do about the rest. Nothing is fetched."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..command import run_command
from ..config import Config, with_options
from .options.mapper import add_mapper_options, given_options

if TYPE_CHECKING:
    from .checkups import Finding

NAME = "radseg-doctor"
MARKS = {"ok": "  ok ", "not here": "  -  ", "WRONG": "WRONG"}


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 1 if something is wrong, 0 if things are only not here."""
    options = parser().parse_args(arguments)
    return run_command(NAME, lambda: command(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog=NAME, description=__doc__)
    p.add_argument("--json", action="store_true", help="print JSON instead of a page")
    add_mapper_options(p, "checkpoint", "text-embeddings", "device")
    return p


def command(options: argparse.Namespace) -> int:
    """Print what was found -> the exit status."""
    logging.basicConfig(level=logging.ERROR, format=f"{NAME}: %(message)s")
    config = with_options(Config(), given_options(options))
    from .checkups import BAD, examine, plain

    found = examine(config)
    print(json.dumps(plain(found), indent=2) if options.json else page(found))
    return int(any(each.state == BAD for findings in found.values() for each in findings))


def page(found: Mapping[str, list[Finding]]) -> str:
    """The findings for people."""
    lines = []
    for check, findings in found.items():
        lines.append(f"{check}")
        for each in findings:
            cure = f"  -> {each.cure}" if each.cure else ""
            lines.append(f"  [{MARKS[each.state]}] {each.what:<22} {each.text}{cure}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
