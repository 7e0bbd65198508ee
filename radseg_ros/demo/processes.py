# SPDX-License-Identifier: Apache-2.0
"""Programs of this package as child processes: their output is kept, their end is noticed, they
never outlive the demo.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

LAST_LINES = 25
ROOT = Path(__file__).resolve().parents[2]  # where the package is imported from


class DemoError(Exception):
    """The demo cannot go on; the text says why, with the last lines of the program concerned."""


class Program:
    """``python -m MODULE ARGUMENTS``, its output in a file."""

    def __init__(self, name: str, log: Path, module: str, *arguments: str) -> None:
        self.name, self.log = name, log
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        with log.open("wb") as out:
            command = [sys.executable, "-m", module, *arguments]
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def check(self) -> None:
        """Raise DemoError if it has ended with an error."""
        if self.process.poll() not in (None, 0):
            raise DemoError(
                f"{self.name} ended with code {self.process.returncode}; its last "
                f"lines:\n{self.tail()}"
            )

    def wait(self, timeout: float) -> str:
        """Its output, once it has ended well.

        Raises:
            DemoError: it failed, or did not end in time.
        """
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise DemoError(
                f"{self.name} did not end within {timeout:g} s; its last lines:\n{self.tail()}"
            ) from None
        self.check()
        return self.text()

    def text(self) -> str:
        """Everything it has printed."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The last lines it has printed."""
        return (
            "\n".join(f"    {line}" for line in self.text().splitlines()[-LAST_LINES:])
            or "    (nothing)"
        )

    def stop(self) -> None:
        """Ask it to end, then make it."""
        for signal_, patience in ((signal.SIGINT, 15), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            if not self.running:
                return
            self.process.send_signal(signal_)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
