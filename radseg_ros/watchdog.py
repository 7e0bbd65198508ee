# SPDX-License-Identifier: Apache-2.0
"""Says why no frame arrives, in words that name the cure. Imports no ROS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InputState:
    """What the node knows about one of its subscriptions."""

    kind: str  # color, depth, info or pose
    topic: str  # as it is after remapping
    type: str  # that the node expects, e.g. nav_msgs/msg/Odometry
    publishers: Sequence[str]  # type of each publisher on the topic
    received: int  # messages during the last period


StateReader = Callable[[str, int], InputState]


class Watchdog:
    """Compares the node's counters with those of the last look."""

    def __init__(self, period: float) -> None:
        self.period = period  # s between two looks
        self._integrated = 0
        self._received: dict[str, int] = {}
        self._drops: dict[str, int] = {}
        self._last_reason = ""

    def look(
        self,
        integrated: int,
        busy: bool,
        received: Mapping[str, int],
        drops: Mapping[str, int],
        states: StateReader,
    ) -> tuple[str, str]:
        """All counters so far -> (progress, complaint); at most one of the two lines is not empty.

        Args:
            integrated: frames in the map.
            busy: a frame is being encoded.
            received: messages per kind of input.
            drops: dropped inputs per reason.
            states: kind and messages since the last look -> InputState; called only to complain.
        """
        arrived = {kind: count - self._received.get(kind, 0) for kind, count in received.items()}
        changes = ((reason, count - self._drops.get(reason, 0)) for reason, count in drops.items())
        new_drops = [(reason, count) for reason, count in changes if count > 0]
        new_frames = integrated - self._integrated
        self._integrated, self._received, self._drops = integrated, dict(received), dict(drops)
        if new_frames or busy:
            self._last_reason = ""
            most = f", most: {max(new_drops, key=lambda drop: drop[1])[0]}" if new_drops else ""
            return (
                f"{integrated} frames (+{new_frames}), {sum(n for _, n in new_drops)} inputs "
                f"dropped{most}",
                "",
            )
        reason = why_no_frames(
            [states(kind, count) for kind, count in arrived.items()], new_drops, self.period
        )
        repeated, self._last_reason = reason == self._last_reason, reason
        return (
            "",
            "" if repeated and integrated else reason,
        )  # after a recording has ended, once is enough


def why_no_frames(
    inputs: Sequence[InputState], new_drops: Sequence[tuple[str, int]], period: float
) -> str:
    """One line: what the silent inputs lack and what was dropped in the last ``period`` seconds."""
    topics: dict[str, list[str]] = {}
    for state in inputs:
        if not state.received:
            topics.setdefault(_cause(state), []).append(state.topic)
    reasons = [f"{', '.join(names)}: {cause}" for cause, names in topics.items()]
    reasons += [f"dropped {count} x {reason}" for reason, count in new_drops]
    if not reasons:
        reasons = ["every topic delivers, but nothing belongs together in time yet"]
    return f"no frame for {period:g} s: " + "; ".join(reasons)


def _cause(state: InputState) -> str:
    if not state.publishers:
        return "no publisher (remap?)"
    if state.type not in state.publishers:
        found = ", ".join(sorted(set(state.publishers)))
        parameter = {
            "pose": "node.pose_type",
            "color": "node.image_transport",
            "depth": "node.image_transport",
        }.get(state.kind)
        cure = f"set {parameter}" if parameter else "remap?"
        return f"published as {found}, expected {state.type} ({cure})"
    cure = "paused? images are lost without the shared-memory profile config/fastdds.xml"
    return f"published, but nothing arrives ({cure})"
