# SPDX-License-Identifier: Apache-2.0
"""A process of this machine that does one task after the other.

Imports little: a process that is started imports this, and what its tasks need.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any


class Process:
    """Does what it is sent, in a process of its own.

    It ends when this process does, however that happens; its own end closes the connection.
    """

    def __init__(self) -> None:
        context = get_context("spawn")  # fork would copy torch's thread pools
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # so that the other end is open in the process alone

    def begin(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Let it call ``task``; both are pickled.

        Raises:
            OSError: it has died.
        """
        self.connection.send((task, arguments))

    def outcome(self) -> Any:
        """Wait for what the task returns.

        Raises:
            EOFError, OSError: it has died.
        """
        return self.connection.recv()

    def end(self) -> None:
        """Give up what it does."""
        self._process.kill()


def _serve(connection: Connection) -> None:
    """Do what is sent until nobody is there to send, or to be told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever waits
    with suppress(EOFError, OSError):
        while True:
            task, arguments = connection.recv()
            connection.send(task(*arguments))
