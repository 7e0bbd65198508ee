# SPDX-License-Identifier: Apache-2.0
"""Callbacks that cannot end the node: what they raise is counted, and told once for each kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ..frames.drops import DropCounts

Callback = TypeVar("Callback", bound=Callable[..., Any])


class Faults(DropCounts):
    """Counts what callbacks raise, by callback."""

    def __init__(self) -> None:
        super().__init__("caught")

    def guarded(self, name: str, callback: Callback) -> Callback:
        """``callback``, which from now on returns None where it would raise."""

        @wraps(callback)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except Exception as error:
                self.add_failure(f"{name} failed", error)
                return None

        return call  # type: ignore[return-value]
