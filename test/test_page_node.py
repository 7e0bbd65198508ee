# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""The page beside a running node: it grows with the map, and answers as node and file do."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from browser import field, free_port, open_browser, visit
from conftest import require_ros

require_ros()

from color_encoder import ColorEncoder
from geometry_msgs.msg import Pose, PoseStamped, Quaternion
from robot import NODE, Process, Sender, color_node, running_robot, wait_for

from radseg_interfaces.srv import SaveMap
from radseg_ros.cli import query
from radseg_ros.datatypes import Frame
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.ros.client import as_dict
from radseg_ros.view.observer_node import MOST_POSES, Observer
from radseg_ros.view.saved_map import open_map
from radseg_ros.voxels.map_file import read_header

pytestmark = pytest.mark.slow
K = np.array([[80.0, 0, 63.5], [0, 80, 47.5], [0, 0, 1]])


def frame(x: float) -> Frame:
    """A grey wall at 2 m with a red square, seen from (x, 0, 0)."""
    rgb = np.full((96, 128, 3), 128, np.uint8)
    rgb[32:64, 16:48] = (220, 20, 20)
    T = np.eye(4)
    T[0, 3] = x
    return Frame(0, rgb, np.full((96, 128), 2.0, np.float32), K, T)


def voxels_on(tab: Any) -> int:
    """How many the page says that there are."""
    found = re.search(r"(\d+) voxels, live", tab.inner_text("body"))
    return int(found[1]) if found else 0


def as_found(value: Any) -> Any:
    """Without what a map learns by following a thing: its number, and where it was seen from."""
    if isinstance(value, dict):
        followed = ("id", "viewpoint")
        return {name: as_found(each) for name, each in value.items() if name not in followed}
    return [*map(as_found, value)] if isinstance(value, list) else value


def nearly(value: Any) -> Any:
    """With numbers as a message carries them."""
    if isinstance(value, dict):
        return {name: nearly(each) for name, each in value.items()}
    if isinstance(value, list):
        return [*map(nearly, value)]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_who_watches_all_day_keeps_some_poses_and_none_that_are_none():
    with Observer("pose") as observer:
        observer._pose(PoseStamped(pose=Pose(orientation=Quaternion(w=0.0))))
        assert not observer.poses, "no rotation, and no end of the thread that listens"
        message, count = PoseStamped(), 5 * MOST_POSES
        for i in range(count):
            message.header.stamp.sec, message.pose.position.x = i, float(i)
            observer._pose(message)
        kept = np.array([T[0, 3] for T in observer.poses.values()])
    assert MOST_POSES / 2 <= len(kept) <= MOST_POSES
    gaps = np.diff(kept)
    assert (
        gaps.max() <= 2 * gaps.min() and kept[0] < gaps.max() and kept[-1] + 2 * gaps.max() > count
    )


def test_page_node_and_file_answer_alike_while_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())
    settings = {"node.map_directory": str(tmp_path), "node.backlog": 50}
    with open_browser() as browser, running_robot() as robot, color_node(settings):
        send = Sender(robot)
        send(frame(0.0))
        robot.settle(send.stamp)
        viewer = Process("-m", "radseg_ros.cli.view", "--port", str(free_port()))
        try:
            (line,) = viewer.said("Ctrl-C ends")  # at a port that was free then
            with visit(browser, re.search(r"http://\S+", line)[0]) as tab:
                before = wait_for(lambda: voxels_on(tab))
                field(tab, "Text").fill("red")
                tab.get_by_text("red: 1 found").wait_for()
                send(frame(5.0))
                robot.settle(send.stamp)
                wait_for(lambda: voxels_on(tab) > before)
                wait_for(lambda: "red: 2 found" in tab.inner_text("body"))
                shown = tab.inner_text("body")
        finally:
            viewer.stop()
        told = as_dict(robot.query("red", "blue"))
        robot.call(SaveMap, f"{NODE}/save_map", path="office.radmap")
    path = tmp_path / "office.radmap"
    with open_map(path, {"map.work_ahead": 0.0}) as live:
        result = live.query(["red", "blue"])
        asked = query.plain(live, result.answers, result.covered, read_header(path))
    assert as_found(asked["answers"]) == nearly(as_found(told["answers"]))
    for what in ("frame_id", "stamp", "voxels", "covered", "frames"):
        assert asked[what] == nearly(told[what]), what
    red, blue = told["answers"]
    assert red["found"] and not blue["found"]
    for thing in red["objects"]:
        x, y, z = thing["centre"]
        assert f"{thing['score']:.2f} ({x:.2f}, {y:.2f}, {z:.2f}) m" in shown
