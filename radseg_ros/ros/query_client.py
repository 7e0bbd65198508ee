# SPDX-License-Identifier: Apache-2.0
"""`radseg-query LABEL...`: asks the running node where things are and prints a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any


class NoAnswer(Exception):
    """The node does not answer, or says no; the text says why."""


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"must be in 0..{2**32 - 1}, got {text}")
    return number


def _label(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{ascii(text)} is not UTF-8") from None
    return text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="radseg-query", description=__doc__)
    p.add_argument(
        "labels",
        nargs="+",
        type=_label,
        metavar="LABEL",
        help="names of things, e.g. sofa 'coffee cup'",
    )
    p.add_argument(
        "--prompts",
        action="store_true",
        help="use the texts as they are instead of as names of things",
    )
    p.add_argument(
        "--threshold", type=float, default=0.0, help="0..1 (default: the node's query.threshold)"
    )
    p.add_argument(
        "--max-objects",
        type=_count,
        default=0,
        help="objects per text (default: the node's query.max_objects)",
    )
    p.add_argument(
        "--node", default="/radseg_mapping", help="name of the node (default: %(default)s)"
    )
    p.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        help="s to wait for node and answer (default: %(default)s)",
    )
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


def ask(options: argparse.Namespace) -> dict[str, Any]:
    """Call ~/query once and return the answer as plain values.

    Raises:
        NoAnswer: no node, no answer in time, or a refusal.
    """
    import rclpy

    from radseg_interfaces.srv import QueryText

    rclpy.init()
    node = rclpy.create_node("radseg_query")
    try:
        service = f"{options.node.rstrip('/')}/query"
        try:
            client: Any = node.create_client(QueryText, service)
        except ValueError as error:
            raise NoAnswer(f"--node {options.node}: {' '.join(str(error).split())}") from error
        if not client.wait_for_service(options.timeout):
            raise NoAnswer(
                f"no service {client.srv_name} after {options.timeout:g} s; is the node running, "
                "and on the same ROS_DOMAIN_ID?"
            )
        request = QueryText.Request(labels=options.labels, prompts=options.prompts)
        request.threshold, request.max_objects = options.threshold, options.max_objects
        future = client.call_async(request)
        rclpy.spin_until_future_complete(node, future, timeout_sec=options.timeout)
        if not future.done():
            raise NoAnswer(f"{client.srv_name} did not answer within {options.timeout:g} s")
        response: Any = future.result()
        if not response.success:
            raise NoAnswer(response.message)
        return as_dict(response)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def as_dict(response: Any) -> dict[str, Any]:
    """QueryText.Response -> plain values; positions and sizes are [x, y, z] in metres."""
    status = response.status
    return {
        "frame_id": response.header.frame_id,
        "stamp": _seconds(response.header.stamp),
        "voxels": status.voxels,
        "frames": {"integrated": status.frames_integrated, "waiting": status.frames_waiting},
        "drops": {drop.reason: drop.count for drop in status.drops},
        "answers": [
            {
                "label": answer.label,
                "found": answer.found,
                "best_score": answer.best_score,
                "objects": [
                    {
                        "centre": [thing.centre.x, thing.centre.y, thing.centre.z],
                        "size": [thing.size.x, thing.size.y, thing.size.z],
                        "score": thing.score,
                        "voxels": thing.voxels,
                        "last_seen": _seconds(thing.last_seen),
                    }
                    for thing in answer.objects
                ],
            }
            for answer in response.answers
        ],
    }


def _seconds(stamp: Any) -> float:
    return stamp.sec + stamp.nanosec / 1e9


def table(result: dict[str, Any]) -> str:
    """The answer for people."""
    head = ("label", "score", "x m", "y m", "z m", "size m", "voxels")
    rows = [head]
    for answer in result["answers"]:
        if not answer["found"]:
            rows.append(
                (answer["label"], f"{answer['best_score']:.2f}", "not found", "", "", "", "")
            )
        for thing in answer["objects"]:
            size = " x ".join(f"{value:.2f}" for value in thing["size"])
            position = (f"{value:.2f}" for value in thing["centre"])
            rows.append(
                (answer["label"], f"{thing['score']:.2f}", *position, size, str(thing["voxels"]))
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    aligned = (str.ljust, str.rjust, str.rjust, str.rjust, str.rjust, str.ljust, str.rjust)
    lines = [
        "  ".join(align(cell, w) for align, cell, w in zip(aligned, row, widths, strict=True))
        for row in rows
    ]
    frames = result["frames"]
    lines.append(
        f"map: {result['voxels']} voxels from {frames['integrated']} frames in frame "
        f"'{result['frame_id']}', "
        f"{frames['waiting']} frames waiting, {sum(result['drops'].values())} inputs dropped"
    )
    return "\n".join(line.rstrip() for line in lines)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; 0 when the node answered (also "not found"), 1 otherwise."""
    options = parser().parse_args(args)
    try:
        result = ask(options)
    except NoAnswer as error:
        print(f"radseg-query: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result, indent=2) if options.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
