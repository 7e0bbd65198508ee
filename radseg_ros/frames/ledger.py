# SPDX-License-Identifier: Apache-2.0
"""What became of every input, by kind: nothing that was received is lost without a trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .drops import DropCounts

IMAGES = ("color", "depth")  # of one frame


def input_name(kind: str, camera: str) -> str:
    """What an input is called in accounts: its kind, below the name of its camera or robot."""
    return f"{camera}/{kind}" if camera else kind


@dataclass(frozen=True, slots=True)
class Account:
    """The inputs of one kind: ``received = used + superseded + waiting + dropped``."""

    received: int
    used: int
    waiting: int
    dropped: int
    # poses that no frame lay beside, camera infos that were followed by others before a frame came
    superseded: int = 0

    def __str__(self) -> str:
        superseded = f" + {self.superseded} superseded" if self.superseded else ""
        return (
            f"{self.received} = {self.used} used{superseded} + {self.waiting} waiting "
            f"+ {self.dropped} dropped"
        )


class Ledger:
    """Counts inputs where they arrive and where they end. Not thread safe, but for ``drops``.

    What waits is not counted here: who lets it wait knows. So a sum that does not come out even
    tells of a loss.

    Args:
        camera: see :class:`DropCounts`.
    """

    def __init__(self, camera: str = "") -> None:
        # a pair of images is one drop here, and two dropped inputs below
        self.drops = DropCounts(camera=camera)
        self.received: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self.superseded: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def drop(
        self, reason: str | Exception, kinds: tuple[str, ...] = IMAGES, count: int = 1
    ) -> None:
        """``count`` times one input of each of ``kinds`` is not used.

        Args:
            reason: a short text, or the error that is to blame.
        """
        if isinstance(reason, str):
            self.drops.add(reason, count)
        else:
            self.drops.add_error(reason, count)
        self.dropped.update(dict.fromkeys(kinds, count))

    def account(self, kind: str, waiting: int) -> Account:
        """The account of one kind, of which ``waiting`` are not decided yet."""
        return Account(
            received=self.received[kind],
            used=self.used[kind],
            waiting=waiting,
            dropped=self.dropped[kind],
            superseded=self.superseded[kind],
        )
