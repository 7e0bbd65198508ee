# SPDX-License-Identifier: Apache-2.0
"""``eval3d table``: run a table of the paper for the weights and data that are given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radseg_ros.command import add_workers, positive
from radseg_ros.datatypes import ConfigError

from .published import TABLES, Table, load_table

if TYPE_CHECKING:
    from .plan import Plan, Request

EXAMPLE = """examples:
  eval3d table A.8
      says what to get, and where
  eval3d table A.8 --data voc=~/VOCdevkit/VOC2012 --data ade=~/ADEChallengeData2016 \\
      --weights rv3-b=c-radio_v3-b_half.pth.tar --weights clip-b=openai/clip-vit-base-patch16 \\
      --out results/A.8
"""


def add_table(commands: Any) -> None:
    """The subcommand's parser."""
    parser = commands.add_parser(
        "table",
        help="run a table of the paper, and print paper, ours and the difference",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=TABLES, metavar="NAME", help=", ".join(TABLES))
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a set of images; may be repeated; without any, the command says what there is",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a file, a folder or a hub id; may be repeated",
    )
    parser.add_argument(
        "--predicted",
        action="append",
        default=[],
        metavar="ROW=FOLDER",
        help="score what the row's own program predicted, FOLDER/voc and so on: files as for "
        "radseg-eval2d --predicted; may be repeated",
    )
    parser.add_argument("--rows", default="", metavar="A,B", help="only rows of these names")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="ENCODER.OPTION=VALUE",
        help="an option of all rows of an encoder, e.g. radseg.offline=on; may be repeated",
    )
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--limit", type=positive, help="only so many images of each set")
    parser.add_argument(
        "--threads", type=positive, default=0, help="of one piece of work (the cores, 8 at most)"
    )
    add_workers(parser, "pieces")
    parser.add_argument(
        "--out", type=Path, help="folder of the results; what is there is not repeated"
    )


def command_table(arguments: argparse.Namespace) -> int:
    """Run what can be run -> 0, or 1 where a cell failed."""
    from .plan import make_plan
    from .results import Found, gather, table_text

    table = load_table(arguments.table)
    request = _request(arguments)
    plan = make_plan(table, request)
    if not plan.cells:
        print(table_text(gather(table, plan, Path(), {})))
        print(_what_to_do(arguments, table))
        return 0
    if arguments.out is None:
        raise ConfigError("say where the results go: --out DIR")
    failed = _work(arguments, table, plan, request)
    found: Found = gather(table, plan, arguments.out, failed)
    _write(found, arguments.out)
    print(table_text(found))
    print(arguments.out / "report.html")
    return 1 if found.failed else 0


def _request(arguments: argparse.Namespace) -> Request:
    from .plan import Request

    return Request(
        weights=_named("--weights", arguments.weights),
        data=_named("--data", arguments.data),
        predicted=_named("--predicted", arguments.predicted),
        options=tuple(arguments.set),
        device=arguments.device,
        limit=arguments.limit or 0,
        threads=arguments.threads,
        rows=tuple(name for name in arguments.rows.split(",") if name),
    )


def _named(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` texts.

    Raises:
        ConfigError: one is something else, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"{flag} {text[:100]!r} is not NAME=PATH")
        if name in found:
            raise ConfigError(f"{flag} {name} is given twice")
        found[name] = str(Path(path).expanduser()) if path.startswith("~") else path
    return found


def _work(
    arguments: argparse.Namespace, table: Table, plan: Plan, request: Request
) -> dict[str, str]:
    """Do the pieces that are not there -> those that failed, and why."""
    from tqdm import tqdm

    from ..cluster import elsewhere
    from .pieces import do_piece, piece_names, read_piece
    from .plan import PLAN, write_plan

    out: Path = arguments.out
    write_plan(plan, table, out)
    names = [
        name
        for key, cell in plan.cells.items()
        for name in piece_names(key, len(plan.sets[cell["set"]]["pairs"]))
        if read_piece(out, name, cell["mark"]) is None
    ]
    if not names:
        return {}
    place = str(out.resolve())
    if arguments.cluster or (arguments.jobs > 1 and len(names) > 1):
        folders = (request.data, request.weights, request.predicted)
        given = [*(path for each in folders for path in each.values()), place, str(out / PLAN)]
        paths = [str(Path(path).resolve()) for path in given if Path(path).exists()]
        results = elsewhere(do_piece, names, (place,), arguments.jobs, arguments.cluster, paths)
    else:
        results = ((name, do_piece(name, place)) for name in names)
    shown = tqdm(results, "pieces", total=len(names), unit="piece", disable=None)
    return {name: outcome for name, outcome in shown if isinstance(outcome, str)}


def _write(found: Any, out: Path) -> None:
    from radseg_ros.files import write_whole

    from .page import draw_table, table_page
    from .results import table_json, table_text

    plots = draw_table(found, out / "plots")
    write_whole(out / "table.json", table_json(found))
    write_whole(out / "table.md", table_text(found))
    write_whole(out / "report.html", table_page(found, plots))


def _what_to_do(arguments: argparse.Namespace, table: Table) -> str:
    from .plan import optional

    lines = [f"Optional: {line}" for line in optional(table)]
    if arguments.data:
        return "\n".join([*lines, "Nothing was run: every row lacks something of the above."])
    return "\n".join([*lines, "Nothing was run: give --data NAME=FOLDER and --weights NAME=PATH."])
