# SPDX-License-Identifier: Apache-2.0
"""A background thread that works on the newest item and counts what it had to leave out."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class LatestWorker(Generic[Item]):
    """Calls ``work(item)`` in one thread of its own.

    At most ``capacity`` items wait; a newer one pushes the oldest out, which is counted in
    ``dropped``. An exception in ``work`` is logged and counted in ``failed``: it costs one item,
    not the thread.
    """

    def __init__(
        self, work: Callable[[Item], object], capacity: int = 1, name: str = "worker"
    ) -> None:
        self.done = 0
        self.failed = 0
        self.dropped = 0
        self._work = work
        self._capacity = capacity
        self._waiting: deque[Item] = deque()
        self._busy = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Items that wait or are being worked on."""
        with self._changed:
            return len(self._waiting) + self._busy

    def submit(self, item: Item) -> int:
        """Let ``item`` wait for its turn; never blocks. After ``close`` items are ignored.

        Returns:
            How many items will not be worked on because of it: an older one, or itself.
        """
        with self._changed:
            lost = 1 if self._closed else 0
            if not self._closed:
                self._waiting.append(item)
                if len(self._waiting) > self._capacity:
                    self._waiting.popleft()
                    lost = 1
            self.dropped += lost
            self._changed.notify_all()
            return lost

    def clear(self) -> int:
        """Forget what is waiting, e.g. because the map was reset.

        Return how many items, for the caller to count.
        """
        with self._changed:
            count = len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
            return count

    def close(self, timeout: float | None = None) -> bool:
        """Forget what waits, let the running item finish, join the thread.

        False when ``timeout`` (s) was not enough.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.clear()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                item = self._waiting.popleft()
                self._busy = True
            failed = False
            try:
                self._work(item)
            except Exception:
                failed = True
                logger.exception("%s: one item was lost", self._thread.name)
            del item  # an image must not stay in memory until the next one comes
            with self._changed:
                self._busy = False
                self.failed += failed
                self.done += not failed
                self._changed.notify_all()
