# SPDX-License-Identifier: Apache-2.0
"""How old a voxel is, whatever the stamps do: clocks are set back, and bags start again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

LARGE_STEP_NS = 3_600_000_000_000  # an hour: a larger step counts once a second stamp confirms it
LATE_NS = 1_000_000_000  # a second: a step back by less is a late frame, of another camera


@dataclass(frozen=True, slots=True)
class MapClock:
    """Time that only passes: the sum of the steps from frame to frame.

    A small step back is a frame that comes late and changes nothing; a larger one counts as none,
    and what follows is measured from there. A large step forward counts when the next stamp lies
    beyond it too, so one stamp from the far future ages nothing.
    """

    now_ns: int = 0
    stamp_ns: int | None = None  # of the last frame that was not late
    doubtful_ns: int = 0  # of a step that no second stamp has confirmed yet

    def at(self, stamp_ns: int) -> MapClock:
        """The clock after a frame of this stamp."""
        if self.stamp_ns is None:  # begins with the stamps, so that both agree while nothing jumps
            return MapClock(stamp_ns, stamp_ns)
        step = stamp_ns - self.stamp_ns
        if -LATE_NS <= step < 0:
            return self
        if step < 0:
            return replace(self, stamp_ns=stamp_ns, doubtful_ns=0)
        confirmed = self.now_ns + self.doubtful_ns
        if step > LARGE_STEP_NS:
            return MapClock(confirmed, stamp_ns, step)
        return MapClock(confirmed + step, stamp_ns)

    def ago(self, stamp_ns: torch.Tensor) -> torch.Tensor:
        """(N,) int64 stamps of earlier frames -> the clock's time then; later ones are now."""
        last = self.now_ns if self.stamp_ns is None else self.stamp_ns
        return self.now_ns - (last - stamp_ns).clamp_(min=0)
