# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""A real node whose map is larger than its memory may be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import require_ros

require_ros()

from diagnostic_msgs.msg import DiagnosticArray
from robot import NODE, WALL, Listener, Robot, Sender, color_node, start, wait_for
from test_node_robots import shifted

from radseg_interfaces.srv import SaveMap
from radseg_ros.voxels.map_file import load_map

pytestmark = pytest.mark.slow  # nodes of their own
BOUND, A_WALL = 200, 80  # voxels


def bounded(folder: Path, bricks: Path) -> dict[str, object]:
    """Settings of a node whose map has room for two of the walls, and the rest on the disk."""
    return {
        "node.map_directory": folder,
        "map.disk_directory": bricks,
        "map.max_voxels": BOUND,
        "map.autosave": "kept",
        "node.backlog": 9,
    }


def drive(robot: Robot, send: Sender, places: range) -> None:
    """See a wall at each of the places."""
    for place in places:
        known = robot.integrated() if place else 0
        walls = replace(WALL, T_world_camera=shifted(4.0 * place))
        wait_for(lambda known=known, walls=walls: send(walls) or robot.integrated() > known)


def test_all_of_it_is_asked_counted_and_saved_also_at_the_end(robot, tmp_path):
    bricks, send = tmp_path / "bricks", Sender(robot)
    settings = bounded(tmp_path, bricks)
    health = Listener(robot, DiagnosticArray, "/diagnostics")

    def said(key: str) -> int:
        statuses = [status for message in health.got[-1:] for status in message.status]
        values = {each.key: each.value for status in statuses for each in status.values}
        return int(values.get(key, 0))

    with color_node(settings) as process:
        drive(robot, send, range(8))
        wait_for(lambda: said("voxels on the disk") > 2 * BOUND, what="what is on the disk")
        wait_for(lambda: said("voxels") <= BOUND, what="what is beyond the bound")
        assert not said("bricks not written")
        assert list(bricks.glob("*.radbrick"))
        saved = robot.call(SaveMap, f"{NODE}/save_map", path="all")
        assert saved.success and saved.voxels == 8 * A_WALL, saved.message
        world = load_map(tmp_path / "all.radmap")[0]
        assert len(world) == saved.voxels
        places = world.geometry().xyz[:, 0].div(4).round()
        assert [int((places == place).sum()) for place in range(8)] == [A_WALL] * 8
        answer = robot.query("grey")
        assert answer.covered == 1.0
        assert answer.status.voxels_on_disk > 2 * BOUND
        known = robot.integrated()
        wait_for(lambda: send() or robot.integrated() > known, what="what is not saved yet")
        assert process.stop() == 0
    health.close()
    assert not list(bricks.iterdir())
    assert len(load_map(tmp_path / "kept.radmap")[0]) == 8 * A_WALL


def test_a_folder_that_is_held_or_vanishes_costs_what_is_in_it_and_no_more(robot, tmp_path):
    bricks, send = tmp_path / "bricks", Sender(robot)
    settings = bounded(tmp_path, bricks)
    health = Listener(robot, DiagnosticArray, "/diagnostics")
    values: dict[str, str] = {}

    def said(key: str) -> int:
        for status in (status for message in health.got[-1:] for status in message.status):
            values.update({each.key: each.value for each in status.values})
        return int(values.get(key, 0))

    with color_node(settings) as process:
        drive(robot, send, range(5))
        wait_for(lambda: list(bricks.glob("*.radbrick")), what="bricks")
        second = start(settings, "-r", "__node:=second")
        code, text = second.result()
        assert code and "is in use by another process" in text and "Traceback" not in text, text
        assert list(bricks.glob("*.radbrick")), "those of the first one"
        shutil.rmtree(bricks)
        drive(robot, send, range(5, 9))
        wait_for(lambda: said("bricks not written"), what="what could not be written")
        answer = robot.query("grey")
        assert answer.success and answer.covered <= 1.0
        wait_for(lambda: said("bricks: voxels that could not be read"), what="what is lost")
        assert robot.query("grey").covered == 1.0
        wait_for(lambda: said("voxels") <= BOUND, what="what is beyond the bound")
        assert process.stop() == 0
        assert process.text.count("no brick can be written") == 1
    health.close()
    assert 0 < len(load_map(tmp_path / "kept.radmap")[0]) <= BOUND
