# SPDX-License-Identifier: Apache-2.0
"""`radseg-query LABEL...`: asks the running node where things are and prints a table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

TIME_LIMIT_MOST = 3600.0  # s
POLL = 0.2  # s between two looks whether there is anything to show
ACQUAINTANCE = 2.0  # s that a node without ~/status is given to learn where its answer goes


class NoAnswer(Exception):
    """The node does not answer, or says no; the text says why."""


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
        help="s to wait for the node, and for an answer while the map does not become readier for "
        "it (default: %(default)s)",
    )
    p.add_argument(
        "--time-limit",
        type=_limit,
        default=0.0,
        metavar="S",
        help="s after which the node answers from the part of the map that is ready (default: it "
        "answers when all of it is)",
    )
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return p


class Progress:
    """How much of the map is ready for questions: a bar, if ``stream`` is a terminal."""

    DELAY = 1.0  # s; who gets an answer sooner sees no bar
    WIDTH = 40  # characters

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = self.moved_at = time.monotonic()  # s; moved: the share has become larger
        self.known = False  # whether a share has come
        self._most = self._share = 0.0
        self._drawn = False

    def update(self, share: float) -> None:
        """Take a new share, 0..1."""
        if share > self._most:
            self.moved_at = time.monotonic()
        self.known, self._most, self._share = True, max(share, self._most), share

    def draw(self) -> None:
        """Show the bar, once there is something to wait for."""
        late = time.monotonic() - self._begun > self.DELAY
        if self._stream.isatty() and late and self.known:
            bar = ("#" * int(self._share * self.WIDTH)).ljust(self.WIDTH)
            self._stream.write(f"\r[{bar}] {int(100 * self._share):3d} % of the map is ready")
            self._stream.flush()
            self._drawn = True

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def ask(options: argparse.Namespace) -> dict[str, Any]:
    """Call ~/query once and return the answer as plain values.

    Raises:
        NoAnswer: no node, no answer in time, or a refusal.
    """
    import rclpy
    from rclpy.qos import DurabilityPolicy, QoSProfile

    from radseg_interfaces.msg import MapStatus
    from radseg_interfaces.srv import QueryText

    rclpy.init()
    node = rclpy.create_node("radseg_query")
    try:
        name, progress = options.node.rstrip("/"), Progress(sys.stderr)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        try:
            client: Any = node.create_client(QueryText, f"{name}/query")
            node.create_subscription(
                MapStatus,
                f"{name}/status",
                lambda status: progress.update(status.answerable),
                latched,
            )
        except ValueError as error:
            raise NoAnswer(f"--node {options.node}: {' '.join(str(error).split())}") from error
        if not client.wait_for_service(options.timeout):
            raise NoAnswer(
                f"no service {client.srv_name} after {options.timeout:g} s; is the node running, "
                "and on the same ROS_DOMAIN_ID?"
            )
        # An answer before the node knows of this client is lost. It learns of the client first and
        # of the subscription then: when a status comes, both are known.
        end = time.monotonic() + min(ACQUAINTANCE, options.timeout)
        while not progress.known and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=POLL)
        request = QueryText.Request(labels=options.labels, prompts=options.prompts)
        request.threshold, request.max_objects = options.threshold, options.max_objects
        request.time_limit = options.time_limit
        future = client.call_async(request)
        patience, progress.moved_at = options.timeout + options.time_limit, time.monotonic()
        try:
            while not future.done() and time.monotonic() < progress.moved_at + patience:
                rclpy.spin_until_future_complete(node, future, timeout_sec=min(POLL, patience))
                progress.draw()
        finally:
            progress.clear()
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
        "pending_voxels": status.pending_voxels,
        "covered": response.covered,
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
    if result["covered"] < 1:
        ready = int(100 * result["covered"])
        lines.append(f"{ready} % of the map was ready within the time limit: the rest is not in it")
    if waiting := result["pending_voxels"]:
        lines.append(f"a loaded map of {waiting} voxels is not in it: it waits for ~/confirm_map")
    return "\n".join(line.rstrip() for line in lines)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; 0 when the node answered (also "not found"), 1 otherwise."""
    return run(parser().parse_args(args))


def run(options: argparse.Namespace) -> int:
    """Ask the node and print its answer -> the exit status."""
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
