# SPDX-License-Identifier: Apache-2.0
"""Work that need not wait for what a GPU was asked for before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SideStream:
    """Where a GPU works on something while it is still busy with what was asked for before.

    For one thread. On other devices everything is done in its turn.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._ready: torch.cuda.Event | None = None

    def mark(self) -> None:
        """What was asked for so far must be there when :meth:`work` begins."""
        if self._stream is not None:
            self._ready = torch.cuda.current_stream(self._stream.device).record_event()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Do not wait for what was asked for since :meth:`mark`; what comes after waits for both.

        Memory that was used here is used again only after the next mark, which waits for whoever
        reads it.
        """
        if self._stream is None or self._ready is None:
            yield
            return
        self._stream.wait_event(self._ready)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
