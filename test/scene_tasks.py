# SPDX-License-Identifier: Apache-2.0
"""Stands for the evaluation of a scene where only its process matters; imports next to nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

SITS = {"notes": 1, "naps": 4, "waits": 600}  # s, after a file of its name says where it has begun


def by_name(name: str, *sent: Any) -> dict[str, Any] | str:
    """A scene that does what it is called: dies, fails, sits, or is well."""
    if name.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("exits"):
        os._exit(3)
    if name.startswith("fails"):
        return "cannot be used"
    for kind, duration in SITS.items():
        if name.startswith(kind):
            Path(sent[1], name).write_text(str(os.getpid()))
            time.sleep(duration)
    time.sleep(0.2)
    return {"scene": name, "process": os.getpid()}
