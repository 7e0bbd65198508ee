# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""A real node whose language head takes as long as the test wants: questions stop nobody."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require_ros

require_ros()

from color_node import ASKED, HEAD_GATE
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from robot import (
    CLIENT,
    LATCHED,
    NODE,
    PATIENCE,
    WALL,
    Listener,
    Process,
    Robot,
    Sender,
    color_node,
    wait_for,
)
from robot import ask as client
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from radseg_interfaces.msg import MapStatus
from radseg_interfaces.srv import QueryText, SetLabels
from radseg_ros.datatypes import Frame

pytestmark = pytest.mark.slow  # waits for what a node says once a second


class Head:
    """Whether the node's head works: it does while a file is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked = Path(f"{path}{ASKED}")

    def hold(self) -> None:
        self.path.unlink(missing_ok=True)
        self._asked.unlink(missing_ok=True)

    def wait_until_asked(self) -> None:
        """Until a question is held up by it."""
        wait_for(self._asked.exists, what="a question at the head")

    def go_on(self) -> None:
        self.path.touch()


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Head:
    return Head(tmp_path_factory.mktemp("head") / "works")


@pytest.fixture(scope="module")
def node(robot: Robot, held: Head) -> Iterator[Process]:
    settings = {"map.work_ahead": 0.0, "node.publish_period": 0.2, "node.backlog": 20}
    with color_node(settings, **{HEAD_GATE: str(held.path)}) as node:
        yield node
        held.go_on()


@pytest.fixture
def half_ready(robot: Robot, node: Process, held: Head) -> Iterator[Head]:
    """One wall that has been asked for, another that has not; the head does not work."""
    held.go_on()
    assert robot.call(Trigger, f"{NODE}/reset").success
    see(robot, 0)
    assert robot.query("white").covered == 1
    held.hold()
    see(robot, 1)
    yield held
    held.go_on()
    assert robot.query("white").covered == 1


def see(robot: Robot, place: int) -> None:
    """A frame of a wall that no other place shows is mapped."""
    T, send = np.eye(4), Sender(robot)
    T[0, 3] = 10.0 * place
    send(Frame(0, WALL.rgb, WALL.depth, WALL.K, T))
    status(robot, lambda now: now.header.stamp == send.stamp)


def status(robot: Robot, condition: Callable[[MapStatus], Any]) -> MapStatus:
    """The first status that fulfils a condition; no question is needed for it."""
    heard = Listener(robot, MapStatus, f"{NODE}/status", 100)
    found = wait_for(lambda: [*filter(condition, list(heard.got))], "a status")
    heard.close()
    return found[0]


def ask(robot: Robot, count: int = 1, **request: Any) -> list[Any]:
    """Questions that nobody waits for yet."""
    client = robot.client(QueryText, f"{NODE}/query")
    return [client.call_async(QueryText.Request(labels=["white"], **request)) for _ in range(count)]


def test_a_second_client_is_answered_while_a_first_long_question_runs(robot, half_ready):
    (first,) = ask(robot)
    half_ready.wait_until_asked()  # else the second may be the one that waits for the head
    second = robot.query("white", time_limit=0.3)
    assert second.success and second.answers[0].found, second.message
    assert second.covered == pytest.approx(0.5) and "50 % of the map was ready" in second.message
    assert not first.done()
    half_ready.go_on()
    wait_for(first.done, what="the first answer")
    assert first.result().covered == 1 and "ready" not in first.result().message
    objects = [len(each.answers[0].objects) for each in (second, first.result())]
    assert objects == [1, 2]


def test_six_slow_questions_starve_nobody(robot, half_ready):
    clouds = Listener(robot, PointCloud2, f"{NODE}/rgb_cloud", LATCHED)
    health = Listener(robot, DiagnosticArray, "/diagnostics")
    futures = ask(robot, 6)
    before = robot.query("white", time_limit=0.05).status.voxels
    for place in (2, 3, 4):
        see(robot, place)
    status(robot, lambda now: now.voxels > before)
    wait_for(lambda: clouds.got and clouds.got[-1].width > before, "a larger cloud")
    see(robot, 5)  # within 5 s, which is when the watchdog complains
    heard = len(health.got)
    wait_for(lambda: len(health.got) > heard + 1, "the watchdog, twice")
    assert health.got[heard].status[0].level == DiagnosticStatus.OK
    for service in ("pause", "resume"):
        assert robot.call(Trigger, f"{NODE}/{service}").success
    assert robot.call(SetLabels, f"{NODE}/set_labels", labels=["red"]).success
    limited = robot.query("white", time_limit=0.2)
    assert limited.success and limited.covered < 0.5
    assert not any(future.done() for future in futures)
    half_ready.go_on()
    wait_for(lambda: all(future.done() for future in futures), what="six answers")
    assert [future.result().covered for future in futures] == [1.0] * 6
    assert robot.call(SetLabels, f"{NODE}/set_labels", labels=[]).success
    clouds.close()
    health.close()


def test_limits_that_are_none_are_refused(robot, node):
    for limit in (-1.0, float("nan"), float("inf"), 3601.0):
        answer = robot.query("white", time_limit=limit)
        assert not answer.success and "a time limit is in 0..3600 s" in answer.message


def test_the_client_tells_what_was_not_ready(robot, half_ready):
    ask(robot)  # somebody else waits for the rest
    half_ready.wait_until_asked()
    code, text = client("white", "--time-limit", "0.3").result()
    assert code == 0 and "50 % of the map was ready within the time limit" in text, text
    code, text = client("white", "--time-limit", "nan").result()
    assert code == 2 and "must be in 0..3600 s" in text


def test_the_client_shows_a_bar_on_a_terminal_only(robot, half_ready):
    ours, theirs = pty.openpty()
    command = [sys.executable, *CLIENT, "white"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as on_terminal:
        elsewhere = client("white")
        os.close(theirs)
        shown = ""
        while "50 % of the map is ready" not in shown:
            shown += os.read(ours, 1000).decode()
        half_ready.go_on()
        table, _ = on_terminal.communicate(timeout=PATIENCE)
    assert re.search(r"\[#{20} {20}\]  50 %", shown)
    assert on_terminal.returncode == 0 and "white" in table and "#" not in table
    code, text = elsewhere.result()
    os.close(ours)
    assert code == 0 and "#" not in text and "is ready" not in text


def test_a_client_gives_up_when_nothing_comes_nearer(robot, half_ready):
    code, text = client("white", "--timeout", "8").result()
    assert code == 1 and "did not answer within 8 s" in text, text
