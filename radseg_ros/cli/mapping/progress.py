# SPDX-License-Identifier: Apache-2.0
"""What someone who waits for a map sees, and how they end it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...frames.folder import Recording
    from ...mapper import Mapper

Stop = Callable[[], bool]  # whether to end after the frame in hand
Update = Callable[[], object]  # a frame was looked at


class Growing(Protocol):
    """A map that grows from a recording."""

    mapper: Mapper
    recording: Recording
    read: int  # frames of the recording that were looked at


@contextmanager
def bar(grown: Growing) -> Iterator[Update]:
    """Frames, rate and remaining time on stderr; silent where nobody looks."""
    from tqdm import tqdm

    with tqdm(
        desc=grown.recording.path.name[:30],
        total=len(grown.recording),
        initial=grown.read,
        unit="frame",
        disable=None,
        mininterval=0.5,
    ) as shown:

        def update() -> None:
            shown.set_postfix(voxels=grown.mapper.voxels, refresh=False)
            shown.update(grown.read - shown.n)

        yield update


@contextmanager
def no_bar(grown: Growing) -> Iterator[Update]:
    """Nobody looks."""
    yield lambda: None


@contextmanager
def interruptible(name: str) -> Iterator[Stop]:
    """The first SIGINT or SIGTERM only asks to end, a second one ends at once.

    Args:
        name: of the command.

    Yields:
        Whether it was asked to.
    """
    asked = threading.Event()

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print(
            f"\n{name}: ending after the frame in hand, then the map is saved; once more gives "
            "both up",
            file=sys.stderr,
        )

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
