# SPDX-License-Identifier: Apache-2.0
"""How tests wait for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 180.0  # s; what has not come by then does not come, however busy the machine is


def wait_for(condition: Callable[[], Any], what: str = "", timeout: float = PATIENCE) -> Any:
    """The first true value of ``condition``; looks less and less often."""
    end, pause = time.monotonic() + timeout, 0.001
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout:g} s: {what or condition}"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.02)
    return value
