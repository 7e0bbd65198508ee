# SPDX-License-Identifier: Apache-2.0
"""Stands for the evaluation of a scene where only its process matters; imports next to nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def by_name(name: str, *sent: Any) -> dict[str, Any] | str:
    """A scene that does what it is called: dies, fails, waits, or is well."""
    if name.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("exits"):
        os._exit(3)
    if name.startswith("fails"):
        return "cannot be used"
    if name.startswith("naps"):
        Path(sent[1], name).touch()
        time.sleep(4)
    if name.startswith("waits"):
        time.sleep(600)
    time.sleep(0.2)
    return {"scene": name, "process": os.getpid()}
