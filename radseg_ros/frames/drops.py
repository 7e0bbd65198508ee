# SPDX-License-Identifier: Apache-2.0
"""Counting what could not be used, by reason."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from ..datatypes import InputError, RadsegRosError, brief

logger = logging.getLogger(__name__)

MAX_REASONS = 64  # a sender of nonsense must not fill the memory
MAX_TEXT = 300  # characters of a reason or an example
OTHER = "other reasons"


class Unusable(InputError):
    """One input cannot be used.

    Args:
        reason: short, and the same for every input with this fault.
        detail: what is wrong with this one; may quote the input (see :func:`brief`).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class DropCounts:
    """Reason -> count, from any thread. Each reason is logged the first time.

    Afterwards it is only counted.

    Args:
        word: what happens to the inputs, for the log.
        camera: that the inputs are of; every reason begins with its name. Empty = the only one.
    """

    def __init__(self, word: str = "dropped", camera: str = "") -> None:
        self.failures = 0  # of add_failure, whatever its reason
        self._word = word
        self._prefix = f"{camera}: " if camera else ""
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}
        self._kinds: set[object] = set()  # of errors whose trace was logged
        self._lock = threading.Lock()

    def add(self, reason: str, count: int = 1, example: str = "") -> None:
        """Count ``count`` (0 is fine) inputs that were dropped for ``reason``.

        Args:
            example: one of them, and what is wrong with it; the first of each reason is kept.
        """
        if count <= 0:
            return
        reason, example = brief(self._prefix + reason, MAX_TEXT), brief(example, MAX_TEXT)
        with self._lock:
            new = reason not in self._counts
            if new and len(self._counts) >= MAX_REASONS:
                reason = self._prefix + OTHER
                new = reason not in self._counts
            self._counts[reason] = self._counts.get(reason, 0) + count
            if new and example:
                self._examples[reason] = example
        if new:
            logger.warning(
                "%s: %s (from now on this is only counted)", self._word, _said(reason, example)
            )

    def add_error(self, error: Exception, count: int = 1) -> None:
        """Count inputs that were dropped for what ``error`` says, or by an error that nobody
        expected.
        """
        if isinstance(error, Unusable):
            self.add(error.reason, count, error.detail)
        elif isinstance(error, RadsegRosError):
            self.add(str(error), count)
        else:
            self.add_failure("frame lost to an internal error, see the log", error, count)

    def add_failure(self, reason: str, error: Exception, count: int = 1) -> None:
        """Count an error that nobody expected; its trace is logged once for each kind of error."""
        self.add(reason, count)
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        kind = (type(error), None if trace is None else (trace.tb_frame.f_code, trace.tb_lineno))
        with self._lock:
            self.failures += count
            new = kind not in self._kinds and len(self._kinds) < MAX_REASONS
            self._kinds.add(kind)
        if new:
            logger.error("%s (once for each kind of error)", reason, exc_info=error)

    def items(self) -> list[tuple[str, int]]:
        """(reason, count), most frequent first."""
        with self._lock:
            return sorted(self._counts.items(), key=lambda item: -item[1])

    def told(self) -> list[tuple[str, int]]:
        """As ``items``, each reason together with its example."""
        examples = self.examples
        return [(_said(reason, examples.get(reason, "")), n) for reason, n in self.items()]

    @property
    def examples(self) -> dict[str, str]:
        """Reason -> the first example that was given."""
        with self._lock:
            return dict(self._examples)

    @property
    def total(self) -> int:
        """Sum over all reasons."""
        with self._lock:
            return sum(self._counts.values())

    def __getitem__(self, reason: str) -> int:
        with self._lock:
            return self._counts.get(self._prefix + reason, 0)

    def __iter__(self) -> Iterator[str]:
        return iter([reason for reason, _ in self.items()])

    def __str__(self) -> str:
        return ", ".join(f"{count} x {reason}" for reason, count in self.items()) or "none"


def _said(reason: str, example: str) -> str:
    return f"{reason} (e.g. {example})" if example else reason
