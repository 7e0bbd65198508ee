# SPDX-License-Identifier: Apache-2.0
"""A background thread that works on the newest item and counts what it had to leave out."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class LatestWorker(Generic[Item]):
    """Calls ``work(item)`` in one thread of its own.

    At most ``capacity`` items of each source wait; a newer one pushes the oldest out, which is
    counted in ``dropped``. Sources take turns, so that a fast one does not starve the others. An
    exception in ``work`` is logged and counted in ``failed``: it costs one item, not the thread.
    """

    def __init__(
        self, work: Callable[[Item], object], capacity: int = 1, name: str = "worker"
    ) -> None:
        self.done = 0
        self.failed = 0
        self.dropped = 0
        self._work = work
        self._capacity = capacity
        self._waiting: dict[str, deque[Item]] = {}  # by source; whose turn is next comes first
        self._busy = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Items that wait or are being worked on."""
        with self._changed:
            return sum(map(len, self._waiting.values())) + self._busy

    def submit(self, item: Item, source: str = "") -> int:
        """Let ``item`` wait for its turn; never blocks. After ``close`` items are ignored.

        Returns:
            How many items of that source will not be worked on because of it: an older one, or
            itself.
        """
        with self._changed:
            lost = 1 if self._closed else 0
            if not self._closed:
                if source not in self._waiting:  # who has had no turn yet is next
                    self._waiting = {source: deque(), **self._waiting}
                items = self._waiting[source]
                items.append(item)
                if len(items) > self._capacity:
                    items.popleft()
                    lost = 1
            self.dropped += lost
            self._changed.notify_all()
            return lost

    def clear(self) -> Counter[str]:
        """Forget what is waiting, e.g. because the map was reset.

        Return how many items of each source, for the caller to count.
        """
        with self._changed:
            counts = Counter({source: len(items) for source, items in self._waiting.items()})
            for items in self._waiting.values():
                items.clear()
            self._changed.notify_all()
            return counts

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

    def _next(self) -> Item:
        """The oldest item of the source that has not had a turn for longest."""
        source = next(source for source, items in self._waiting.items() if items)
        items = self._waiting.pop(source)
        self._waiting[source] = items  # behind all others
        return items.popleft()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(self._waiting.values()) or self._closed)
                if self._closed:
                    return
                item = self._next()
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
