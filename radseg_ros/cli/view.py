# SPDX-License-Identifier: Apache-2.0
"""radseg-view: show a map in the browser and ask it: a file, or that of a running node."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..command import run_command
from ..config import Config, with_options
from .options.mapper import add_mapper_options, given_options

if TYPE_CHECKING:
    from ..view.source import MapSource

NAME = "radseg-view"
HOST, PORT = "127.0.0.1", 8080


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = parser().parse_args(arguments)
    return run_command(NAME, lambda: command(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog=NAME, description=__doc__)
    p.add_argument(
        "map", nargs="?", type=Path, metavar="MAP", help="a .radmap file; none = a running node"
    )
    p.add_argument("--node", default="radseg_mapping", help="name of the node (%(default)s)")
    p.add_argument(
        "--pose-type",
        choices=("odometry", "pose"),
        default="odometry",
        help="message type of the topic 'pose', for the camera's path (%(default)s)",
    )
    p.add_argument(
        "--host",
        default=HOST,
        help="address to serve at; 0.0.0.0 lets everybody in your network see and ask the map "
        "(%(default)s: this machine only)",
    )
    p.add_argument("--port", type=int, default=PORT, help="the first that is free from here on")
    p.add_argument("--open", action="store_true", help="open the page in a browser")
    add_mapper_options(p, "encoder", "checkpoint", "text-embeddings", "device", "threshold")
    return p


def command(options: argparse.Namespace) -> int:
    """Serve the page until a signal -> the exit status."""
    logging.basicConfig(level=logging.WARNING, format=f"{NAME}: %(message)s")
    given = given_options(options)
    with_options(Config(), given)  # refused before anything is loaded
    from ..view.page import Page
    from ..view.server import serve

    with (
        told_to_end() as ending,
        source_of(options, given) as source,
        serve(options.host, options.port) as (server, url),
    ):
        page = Page(source, server)
        try:
            print(f"{source.name}: {url} (Ctrl-C ends)", flush=True)
            if options.open:
                import webbrowser

                webbrowser.open(url)
            ending.wait()
        finally:
            page.close()
    return 0


@contextmanager
def told_to_end() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    ending = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: ending.set()) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def source_of(options: argparse.Namespace, given: dict) -> Iterator[MapSource]:
    """The map that a command line names.

    Raises:
        RadsegRosError: the file cannot be read, or its encoder not be loaded.
    """
    if options.map is not None:
        from ..view.saved_map import open_map
        from ..view.source import FileSource

        with open_map(options.map, given) as live:
            yield FileSource(options.map, live)
        return
    from ..view.node_source import NodeSource
    from ..view.observer_node import Observer

    name = options.node.strip("/")
    with Observer(options.pose_type, name) as observer:
        yield NodeSource(observer, name)


if __name__ == "__main__":
    sys.exit(main())
