# SPDX-License-Identifier: Apache-2.0
"""The program `radseg_mapping`: runs the node until it is told to end.

ROS and the messages are imported when it runs: where they are missing, it says what to do.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..command import run_command, sentence
from ..datatypes import CheckpointError, RadsegRosError

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from .node import MapperNode

logger = logging.getLogger(__name__)

# clouds, things and floor plans, health, events; inputs, encoder and services have their own
THREADS = 4
GIVE_UP = 10.0  # s during which everything that ROS does fails
UNREADABLE = "request or message that ROS cannot read"
POLL = 0.05  # s


def _explain(error: Exception) -> str:
    from rclpy.exceptions import ParameterException

    text = str(error) or repr(error)
    if not isinstance(error, (RadsegRosError, ParameterException)):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, CheckpointError) and "encoder:=lite" not in text:
        text += " (the small encoder that needs no weights: start with encoder:=lite)"
    return " ".join(text.split())


class Signals:
    """SIGINT and SIGTERM, counted.

    Two within a moment are one wish: Ctrl-C comes from the terminal and from ros2 launch.
    """

    MOMENT = 1.0  # s

    def __init__(self) -> None:
        self.count = 0
        self._last = -math.inf
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._add)

    def _add(self, *_: Any) -> None:
        now = time.monotonic()
        self.count += now - self._last > self.MOMENT
        self._last = now


def main(args: Sequence[str] | None = None) -> int:
    """Entry point.

    The process ends with 0 after a normal end; with 1, and one line on stderr, when the node cannot
    do its work, or ROS or the messages are missing.
    """
    return run_command("radseg_mapping", lambda: run(args))


def run(args: Sequence[str] | None = None) -> NoReturn:
    """Make the node, run it, and end the process."""
    import rclpy
    from rclpy.exceptions import ParameterException
    from rclpy.signals import SignalHandlerOptions

    from .node import NODE_NAME, MapperNode
    from .transport import image_transport

    signals = Signals()
    error: Exception | None = None
    try:
        # not rclpy's handlers: they end logging and publishing before the last frame has ended
        options = SignalHandlerOptions.NO
        rclpy.init(args=None if args is None else list(args), signal_handler_options=options)
        with image_transport() as warning:
            node = MapperNode()
        if warning:
            node.get_logger().warning(warning)
    except (RadsegRosError, ParameterException, RuntimeError, ValueError, OSError) as problem:
        error = problem  # the last three: what rclpy says of its own arguments and files
    else:
        error = _run(node, signals)
    rclpy.try_shutdown()
    if error is not None:
        print(f"{NODE_NAME}: {_explain(error)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Taking apart an interpreter with torch in it takes a second, and crashes beside a frame that
    # was given up. Everything that must be closed is.
    os._exit(int(error is not None))


def _run(node: MapperNode, signals: Signals) -> Exception | None:
    """Run the node until it is told to end, or cannot go on: then that is returned."""
    from rclpy.logging import LoggingSeverity

    from .inputs import RestExecutor
    from .node_log import NodeLogHandler

    core = logging.getLogger("radseg_ros")
    verbose = node.get_logger().is_enabled_for(LoggingSeverity.DEBUG)
    core.setLevel(logging.DEBUG if verbose else logging.INFO)
    core.addHandler(NodeLogHandler(node))
    inputs = node.inputs.executor
    rest = RestExecutor(THREADS, inputs)
    rest.add_node(node)
    ending = threading.Event()
    worked = time.monotonic()  # s, when anything did last; health ticks every second

    def spin(executor: Executor) -> None:
        nonlocal worked
        while not ending.is_set():
            try:
                executor.spin_once()
                worked = time.monotonic()
            except Exception as error:  # of ROS itself: our callbacks are guarded
                node.faults.add(UNREADABLE, example=sentence(error))
                if time.monotonic() - worked > GIVE_UP:
                    logger.exception("the node cannot go on")
                    node.error = error
                    return

    spinning = {
        each: threading.Thread(target=spin, args=(each,), name=name, daemon=True)
        for name, each in (("executor", rest), ("inputs", inputs))
    }
    for thread in spinning.values():
        thread.start()
    while not signals.count and node.error is None:
        time.sleep(POLL)
    ending.set()
    for executor, thread in spinning.items():
        executor.create_task(lambda: None)  # so that it does not wait for something to do
        thread.join(1.0)

    def close() -> None:
        try:
            node.close(hurry=lambda: signals.count > 1)
        except Exception as error:
            logger.exception("the node cannot be closed")
            node.error = node.error or error

    closing = threading.Thread(target=close, name="closing", daemon=True)
    closing.start()
    while closing.is_alive() and signals.count < 3:
        closing.join(POLL)
    return node.error


if __name__ == "__main__":
    sys.exit(main())
