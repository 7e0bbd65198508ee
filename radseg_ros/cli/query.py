# SPDX-License-Identifier: Apache-2.0
"""radseg-query: ask a running node where things are, or a map file.

Both answer alike: with --map, the file is asked as the node would be that it comes from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command import run_command
from ..datatypes import ConfigError
from ..files import prepare_file
from ..ros import query_client
from .options.mapper import add_mapper_options, given_options

if TYPE_CHECKING:
    from ..answers.result import QueryResult
    from ..datatypes import Answer
    from ..live_map import LiveMap
    from ..voxels.map_file import MapHeader

NAME = "radseg-query"


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when there was an answer (also "not found")."""
    p = parser()
    options = p.parse_args(arguments)
    if options.map is None and options.picture is not None:
        p.error("--picture draws a --map; `radseg-view` shows a running node")
    if options.map is not None and (options.frame or options.show):
        p.error("--frame and --show need a running node")
    query_client.check_question(options, p)
    if options.map is None:
        return query_client.run(options)
    return run_command(NAME, lambda: command(options))


def parser() -> argparse.ArgumentParser:
    """The command line of the client, and what a file needs."""
    p = query_client.parser()
    group = p.add_argument_group("a map file")
    group.add_argument("--map", type=Path, metavar="FILE", help="ask this .radmap file, not a node")
    group.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw where things are into this .png"
    )
    add_mapper_options(p, "encoder", "checkpoint", "text-embeddings", "device")
    return p


def command(options: argparse.Namespace) -> int:
    """Ask a file -> the exit status."""
    result = ask_file(options)
    print(json.dumps(result, indent=2) if options.json else query_client.table(result))
    return 0


def ask_file(options: argparse.Namespace) -> dict[str, Any]:
    """The answer of a file as plain values; also draws it, if that is wanted."""
    from ..view.saved_map import open_map
    from ..voxels.map_file import read_header

    if options.picture is not None:
        if not options.labels:
            raise ConfigError("--picture shows labels")
        if options.picture.suffix.lower() != ".png":
            raise ConfigError(f"--picture writes a .png, not {options.picture.name}")
        prepare_file(options.picture)
    with open_map(options.map, {"map.work_ahead": 0.0, **given_options(options)}) as live:
        result = ask(live, options)
        answers = result.answers
        if options.viewpoint:
            answers = live.with_viewpoints(answers, options.viewpoint)
        if options.picture is not None:
            draw(live, options)
        return plain(live, answers, result.covered, read_header(options.map))


def ask(live: LiveMap, options: argparse.Namespace) -> QueryResult:
    """Put the question of a command line to a map."""
    limit, where = options.time_limit or None, query_client.asked_where(options)
    rules, rgb = query_client.asked_rules(options), query_client.asked_picture(options)
    if rgb is not None:
        return live.query_image(rgb, options.image.stem, limit, where, **rules)
    return live.query(options.labels, options.prompts, limit, where, **rules)


def plain(
    live: LiveMap, answers: Sequence[Answer], covered: float, header: MapHeader
) -> dict[str, Any]:
    """An answer as the client of a node has it (``as_dict``); of what the file tells of its frames.

    Positions and sizes are [x, y, z] in metres, stamps in seconds.
    """
    from ..answers.plain import answer_dict
    from ..voxels.camera_path import CameraPath

    stamp_ns, frame_id = live.moment()
    recording, frames = header.notes.get("recording") or {}, CameraPath.of(header).frames
    return {
        "frame_id": frame_id,
        "stamp": stamp_ns / 1e9,
        "voxels": len(live.mapper.map),
        "pending_voxels": live.pending,
        "covered": covered,
        "frames": {"integrated": frames, "waiting": 0},
        "drops": recording.get("dropped", {}),
        "answers": [answer_dict(answer) for answer in answers],
    }


def draw(live: LiveMap, options: argparse.Namespace) -> None:
    """A picture of where the answers are."""
    from ..files import whole_file
    from ..view.pictures import draw_answers
    from ..view.source import FileSource

    threshold = options.threshold or live.config.query.threshold
    picture = draw_answers(FileSource(options.map, live), options.labels, threshold)
    with whole_file(options.picture) as part:
        picture.save(part, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
