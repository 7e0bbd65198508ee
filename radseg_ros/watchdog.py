# SPDX-License-Identifier: Apache-2.0
"""Says how the mapping goes, and why no frame arrives, in words that name the cure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from .frames.assemble import OF_A_CAMERA, SHARED
from .frames.ledger import IMAGES
from .frames.topics import TELLING
from .frames.transforms import KINDS as TRANSFORMS

if TYPE_CHECKING:
    from .live_map import CameraStatus, LiveStatus


@dataclass(frozen=True, slots=True)
class InputState:
    """What the node knows about one of its subscriptions."""

    kind: str  # color, depth, info, pose or tf
    topic: str  # as it is after remapping
    type: str  # that the node expects, e.g. nav_msgs/msg/Odometry
    publishers: Sequence[str]  # type of each publisher on the topic
    received: int  # messages during the last period
    others: Sequence[str] = ()  # topics of that type that are published, where this one is not


LOADING = "loading the encoder"
WAITING = "waiting for frames"
MOST_NAMED = 3  # topics that may be meant by one that nobody publishes

StateReader = Callable[[str, int], InputState]


class Level(IntEnum):
    """How bad it is, in the numbers of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True, slots=True)
class Report:
    """How the node is doing."""

    level: Level
    text: str  # one sentence: progress, or why there is none
    rates: Mapping[str, float] = field(default_factory=dict)  # Hz per input
    latencies: Mapping[str, float] = field(default_factory=dict)  # s per stage, mean of its calls


class Watchdog:
    """Compares the counters of a live map with those of ``period`` seconds ago.

    It is to look several times in each period.
    """

    def __init__(self, period: float) -> None:
        self.period = period  # s
        self._past: deque[tuple[float, LiveStatus, int]] = deque()  # oldest first
        self._level: Level | None = None  # by :meth:`news`, as the next two
        self._said = ""
        self._said_at = 0.0  # s

    def look(
        self,
        now: float,
        status: LiveStatus,
        inputs: Sequence[str],
        states: StateReader,
        faults: int,
    ) -> Report:
        """What has happened during the last period.

        Args:
            now: s, of a steady clock.
            inputs: names of those that are listened to, as in ``status.accounts``.
            states: name and messages of the last period -> InputState; called only to complain.
            faults: errors so far that nobody expected, besides those of the map.
        """
        if not status.encoder or not inputs:
            self._past.clear()
            return Report(Level.STALE, LOADING)
        while len(self._past) > 1 and self._past[1][0] <= now - self.period:
            self._past.popleft()
        self._past.append((now, status, status.failures + faults))
        began, before, failures_before = self._past[0]
        passed = now - began
        arrived = {
            name: status.accounts[name].received - before.accounts[name].received for name in inputs
        }
        level, text = self._judge(status, before, passed, arrived, states)
        if failures := status.failures + faults - failures_before:
            level, text = Level.ERROR, f"{failures} internal errors, see the log; {text}"
        return Report(
            level,
            text,
            {name: count / passed if passed else 0.0 for name, count in arrived.items()},
            _latencies(status.stages, before.stages),
        )

    def _judge(
        self,
        status: LiveStatus,
        before: LiveStatus,
        passed: float,
        arrived: Mapping[str, int],
        states: StateReader,
    ) -> tuple[Level, str]:
        if status.paused:
            return Level.OK, f"paused (~/resume goes on); {status.integrated} frames"
        known = dict(before.drops)
        changes = ((reason, count - known.get(reason, 0)) for reason, count in status.drops)
        drops = [(reason, count) for reason, count in changes if count > 0]
        new = status.integrated - before.integrated
        long = passed >= self.period and not before.paused
        if new or status.waiting or status.skipped > before.skipped:
            most = f", most: {max(drops, key=lambda drop: drop[1])[0]}" if drops else ""
            text = (
                f"{status.integrated} frames (+{new}), {sum(n for _, n in drops)} inputs "
                f"dropped{most}; {status.voxels} voxels"
            )
            still = _still(status.cameras, before.cameras) if long else []
            text += "".join(self._why_still(camera, arrived, drops, states) for camera in still)
            return Level.WARN if still else Level.OK, text
        if not long:
            return Level.OK, WAITING
        inputs = [states(name, count) for name, count in arrived.items()]
        return Level.WARN, why_no_frames(inputs, drops, self.period)

    def _why_still(
        self,
        camera: str,
        arrived: Mapping[str, int],
        drops: Sequence[tuple[str, int]],
        states: StateReader,
    ) -> str:
        """What one camera lacks while others go on."""
        own = {name: count for name, count in arrived.items() if _concerns(name, camera)}
        inputs = [states(name, count) for name, count in own.items()]
        prefixes = {camera} | {name.rpartition("/")[0] for name in own}
        reasons = [
            (r.removeprefix(f"{prefix}: "), n)
            for r, n in drops
            for prefix in prefixes
            if r.startswith(f"{prefix}: ")
        ]
        return f"; camera '{camera}': {why_no_frames(inputs, reasons, self.period)}"

    def news(self, now: float, report: Report, integrated: int) -> str:
        """The line of a report for the log: at once when things change, else once in a period.

        What repeats itself is left out, but for a complaint before the first frame has come: later,
        a recording has ended.
        """
        if report.text in (LOADING, WAITING):
            return ""
        if report.level is self._level and now < self._said_at + self.period:
            return ""
        repeated = report.text == self._said
        self._level, self._said, self._said_at = report.level, report.text, now
        return "" if repeated and (integrated or report.level is Level.OK) else report.text


def _concerns(name: str, camera: str) -> bool:
    """Whether an input is of a camera, or of the robot that carries it."""
    source, _, kind = name.rpartition("/")
    return source == camera or (kind in SHARED and bool(source) and camera.startswith(f"{source}/"))


def _still(now: Mapping[str, CameraStatus], before: Mapping[str, CameraStatus]) -> list[str]:
    """Cameras of which no frame has come between two looks, where there are several."""
    return [
        camera
        for camera, status in now.items()
        if len(now) > 1 and not status.waiting and status == before[camera]
    ]


def _latencies(
    now: Mapping[str, tuple[float, int]], before: Mapping[str, tuple[float, int]]
) -> dict[str, float]:
    """Mean seconds of the calls of each stage that ended between two looks."""
    means = {}
    for stage, (seconds, calls) in now.items():
        earlier_seconds, earlier_calls = before.get(stage, (0.0, 0))
        if calls > earlier_calls:
            means[stage] = (seconds - earlier_seconds) / (calls - earlier_calls)
    return means


def why_no_frames(
    inputs: Sequence[InputState], new_drops: Sequence[tuple[str, int]], period: float
) -> str:
    """One line: what the silent inputs lack and what was dropped in the last ``period`` seconds."""
    topics: dict[str, list[str]] = {}
    sending = any(state.received and state.kind in OF_A_CAMERA for state in inputs)
    for state in inputs:
        if not state.received:
            topics.setdefault(_cause(state, sending), []).append(state.topic)
    reasons = [f"{', '.join(names)}: {cause}" for cause, names in topics.items()]
    reasons += [f"dropped {count} x {reason}" for reason, count in new_drops]
    if not reasons:
        reasons = ["every topic delivers, but nothing belongs together in time yet"]
    return f"no frame for {period:g} s: " + "; ".join(reasons)


def _cause(state: InputState, sending: bool) -> str:
    """Why an input is silent.

    Args:
        sending: whether a camera sends anything: then its images are on the way.
    """
    if not state.publishers and not state.others:
        poses = state.kind in ("pose", *TRANSFORMS)
        runs = "is odometry or SLAM running?" if poses else "is the driver running?"
        return f"no publisher, and none of its type on any topic ({runs})"
    if not state.publishers:
        return f"no publisher (remap to {_likely(state)}?)"
    if state.type not in state.publishers:
        found = ", ".join(sorted(set(state.publishers)))
        parameter = {
            "pose": "node.pose_type",
            "color": "node.image_transport",
            "depth": "node.depth_image_transport",
        }.get(state.kind)
        cure = f"set {parameter}" if parameter else "remap?"
        return f"published as {found}, expected {state.type} ({cure})"
    cure = "is the sender paused, or still waiting for somebody?"
    if sending and state.kind in IMAGES:
        cure = "images are lost without the shared-memory profile config/fastdds.xml"
    return f"published, but nothing arrives ({cure})"


def _likely(state: InputState) -> str:
    """What may be meant by a topic that nobody publishes: those with telling names first."""

    def untold(topic: str) -> tuple[bool, bool, str]:
        depth = re.search("depth", topic, re.IGNORECASE) is not None
        telling = re.search(TELLING.get(state.kind, ""), topic, re.IGNORECASE)
        return depth != (state.kind == "depth"), telling is None, topic

    *others, last = sorted(state.others, key=untold)[:MOST_NAMED]
    return f"{', '.join(others)} or {last}" if others else last
