# SPDX-License-Identifier: Apache-2.0
"""`radseg-query LABEL...`: asks the running node where things are and prints a table."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import run_command
from ..datatypes import brief
from .client import NODE, MapClient, as_dict

if TYPE_CHECKING:
    import numpy as np

    from ..datatypes import Filter

TIME_LIMIT_MOST = 3600.0  # s


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be in 0..{2**32 - 1}, got {text}")
    return number


def _limit(text: str) -> float:
    number = float(text)
    if not 0 <= number <= TIME_LIMIT_MOST:  # also NaN
        raise argparse.ArgumentTypeError(f"must be in 0..{TIME_LIMIT_MOST:g} s, got {text}")
    return number


def _label(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{ascii(text)} is not UTF-8") from None
    return text


def _labels(text: str) -> list[str]:
    return [part for part in map(str.strip, _label(text).split(",")) if part]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="radseg-query", description=__doc__)
    p.add_argument(
        "labels",
        nargs="*",
        type=_label,
        metavar="LABEL",
        help="names of things, e.g. sofa 'coffee cup'",
    )
    p.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="picture of a thing, cut out: ask for what looks like it, in place of labels",
    )
    p.add_argument(
        "--prompts",
        action="store_true",
        help="use the texts as they are instead of as names of things",
    )
    p.add_argument(
        "--mode", default="", help="how scores are made (default: the node's query.mode)"
    )
    p.add_argument(
        "--negatives",
        type=_labels,
        default=[],
        metavar="A,B",
        help="texts that must be beaten (default: the node's query.background)",
    )
    p.add_argument(
        "--threshold", type=float, default=0.0, help="0..1 (default: the node's query.threshold)"
    )
    p.add_argument(
        "--top",
        "--max-objects",
        dest="max_objects",
        type=_count,
        default=0,
        metavar="N",
        help="objects per text (default: the node's query.max_objects)",
    )
    where = p.add_argument_group("only what is", "Places are in m, in the frame of the answer.")
    where.add_argument("--near", type=float, nargs=3, metavar=("X", "Y", "Z"))
    where.add_argument("--radius", type=float, metavar="M", help="around --near")
    where.add_argument(
        "--box", type=float, nargs=6, metavar=("X", "Y", "Z", "X'", "Y'", "Z'"),
        help="lowest and highest corner",
    )  # fmt: skip
    where.add_argument(
        "--max-age", type=float, default=0.0, metavar="S", help="seen so late before the last frame"
    )
    where.add_argument(
        "--min-hits", type=_count, default=1, metavar="N", help="in voxels of so many points"
    )
    p.add_argument(
        "--viewpoint",
        type=float,
        default=0.0,
        metavar="M",
        help="also look for places to stand and face each thing from so far (in --json)",
    )
    p.add_argument(
        "--time-limit",
        type=_limit,
        default=0.0,
        metavar="S",
        help="s after which the answer is made of the part of the map that is ready (default: when "
        "all of it is)",
    )
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.add_argument("--frame", default="", help="of places, through TF (default: the map's)")
    p.add_argument(
        "--show", action="store_true", help="have the node publish the scores on ~/query_cloud"
    )
    p.add_argument("--node", default=NODE, help="name of the node (default: %(default)s)")
    p.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        help="s to wait for the node, and for an answer while the map does not become readier for "
        "it (default: %(default)s)",
    )
    return p


def check_question(options: argparse.Namespace, command_line: argparse.ArgumentParser) -> None:
    """End the program where options do not go together, with the usage of its command line."""
    if bool(options.labels) == (options.image is not None):
        command_line.error("ask for labels, or with an --image")
    if (options.near is None) != (options.radius is None):
        command_line.error("--near and --radius belong together")


def asked_where(options: argparse.Namespace) -> Filter | None:
    """Which voxels may answer; None = all.

    Raises:
        InputError: a number cannot be.
    """
    from ..datatypes import Filter

    given: dict[str, Any] = {"max_age": options.max_age, "min_hits": options.min_hits}
    if options.near is not None:
        given |= {"centre": tuple(options.near), "radius": options.radius}
    if options.box is not None:
        given |= {"lowest": tuple(options.box[:3]), "highest": tuple(options.box[3:])}
    return None if given == {"max_age": 0.0, "min_hits": 1} else Filter(**given)


def asked_rules(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of QueryConfig that are not to be as configured."""
    rules = {
        "mode": options.mode,
        "background": options.negatives,
        "threshold": options.threshold,
        "max_objects": options.max_objects,
    }
    return {name: value for name, value in rules.items() if value}


def asked_picture(options: argparse.Namespace) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB of --image.

    Raises:
        InputError: it cannot be read.
    """
    from ..files import open_image, rgb_pixels

    return None if options.image is None else rgb_pixels(open_image(options.image))


def ask(options: argparse.Namespace) -> dict[str, Any]:
    """Call the node once and return the answer as plain values.

    Raises:
        NoAnswer: no node, no answer in time, or a refusal.
        InputError: the image cannot be read, or a number cannot be.
    """
    where, rules, picture = asked_where(options), asked_rules(options), asked_picture(options)
    with MapClient(options.node, options.timeout) as client:
        from radseg_interfaces.srv import QueryText, QueryVector

        from . import messages

        request = {
            "where": messages.filter_message(where),
            "frame_id": options.frame,
            "viewpoint_distance": options.viewpoint,
            "time_limit": options.time_limit,
            "publish_cloud": options.show,
            "negatives": rules.pop("background", []),
            **rules,
        }
        if picture is None:
            asked = {"labels": options.labels, "prompts": options.prompts}
            return as_dict(client.call(QueryText, "query", **request, **asked))
        image = messages.color_message(picture, messages.header(0, ""))
        asked = {"image": image, "label": options.image.stem}
        return as_dict(client.call(QueryVector, "query_vector", **request, **asked))


HEAD = ("id", "label", "score", "x m", "y m", "z m", "size m", "voxels", "last seen")
LABEL = 40  # characters of a label that the table shows
EMPTY = (
    "the map is empty, so nothing can be found; if frames should have come: "
    "ros2 topic echo --once --full-length /diagnostics"
)
ALIGNED = (*(str.rjust, str.ljust), *(str.rjust,) * 4, str.ljust, *(str.rjust,) * 2)


def table(result: dict[str, Any]) -> str:
    """The answer for people."""
    rows: list[tuple[str, ...]] = [HEAD]
    for answer in result["answers"]:
        if not answer["objects"]:
            score = f"{answer['best_score']:.2f}"
            rows.append(("", brief(answer["label"], LABEL), score, "not found", *[""] * 5))
        rows += [_row(thing, result["stamp"]) for thing in answer["objects"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [
        "  ".join(align(cell, w) for align, cell, w in zip(ALIGNED, row, widths, strict=True))
        for row in rows
    ]
    frames = result["frames"]
    lines.append(
        f"map: {result['voxels']} voxels from {frames['integrated']} frames; places in frame "
        f"'{result['frame_id']}'; "
        f"{frames['waiting']} frames waiting, {sum(result['drops'].values())} inputs dropped"
    )
    if not result["voxels"]:
        lines.append(EMPTY)
    if result["covered"] < 1:
        ready = int(100 * result["covered"])
        lines.append(f"{ready} % of the map was ready within the time limit: the rest is not in it")
    if waiting := result["pending_voxels"]:
        lines.append(f"a loaded map of {waiting} voxels is not in it: it waits for ~/confirm_map")
    return "\n".join(line.rstrip() for line in lines)


def _row(thing: dict[str, Any], stamp: float) -> tuple[str, ...]:
    """Of a thing; ``stamp`` (s) is what ages are counted from."""
    x, y, z = (f"{value:.2f}" for value in thing["centre"])
    size = " x ".join(f"{value:.2f}" for value in thing["size"])
    since = thing["missing_since"]
    seen = f"{_age(stamp - thing['last_seen'])} ago"
    if since:
        seen = f"missing for {_age(stamp - since)}"
    number = str(thing["id"] or "")
    score = f"{thing['score']:.2f}"
    return number, brief(thing["label"], LABEL), score, x, y, z, size, str(thing["voxels"]), seen


def _age(seconds: float) -> str:
    """So long, as people say it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{math.floor(seconds / length)} {unit}"
    return f"{max(seconds, 0):.1f} s"


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; 0 when the node answered (also "not found"), 1 otherwise."""
    options = parser().parse_args(args)
    check_question(options, parser())
    return run(options)


def run(options: argparse.Namespace) -> int:
    """Ask the node and print its answer -> the exit status."""

    def answer() -> int:
        result = ask(options)
        print(json.dumps(result, indent=2) if options.json else table(result))
        return 0

    return run_command("radseg-query", answer)


if __name__ == "__main__":
    sys.exit(main())
