# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""A real node whose frames are moved by corrected poses that come as messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import require_ros

require_ros()

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path as PosePath
from robot import NODE, Robot, Sender, color_node, running_robot, wait_for
from test_node_robots import ORIGINS, STEP, place_robots, sent_by, shifted
from test_node_robots import frame as scene
from test_robots import poses_in_journal

from radseg_interfaces.srv import CorrectPoses, SaveMap
from radseg_ros.journal.folder import Journal
from radseg_ros.journal.record import FRAME
from radseg_ros.ros import messages
from radseg_ros.voxels.map_file import load_map

pytestmark = pytest.mark.slow  # nodes of their own


@pytest.fixture(scope="module")
def robot() -> Iterator[Robot]:
    with running_robot() as robot:
        yield robot


def path_of(journal: Journal, shift: float, frame: str = "map") -> PosePath:
    """Where the frames of a journal would be, so many metres further along x."""
    path = PosePath(header=messages.header(1, frame))
    for record in journal.records:
        if record.kind == FRAME:
            header = journal.header(record)
            assert header is not None
            T = np.array(header["pose"])
            T[0, 3] += shift
            stamp = messages.header(header["stamp_ns"], frame)
            path.poses.append(PoseStamped(header=stamp, pose=messages.pose(T)))
    return path


def middle(robot: Robot, folder: Path) -> float:
    """x of the middle of the node's map, m."""
    saved = robot.call(SaveMap, f"{NODE}/save_map", path="now")
    assert saved.success, saved.message
    geometry = load_map(folder / "now.radmap")[0].geometry()
    return float((geometry.xyz[:, 0] * geometry.hits).sum() / geometry.hits.sum())


def test_frames_move_where_the_service_and_the_topic_say(robot, tmp_path):
    settings = {"node.map_directory": tmp_path, "journal.directory": tmp_path / "journal"}
    send = Sender(robot)
    with color_node({**settings, "node.backlog": 9}):
        wait_for(lambda: send() or robot.integrated() >= 3, what="frames")
        wait_for(lambda: not robot.query("red").status.frames_waiting, what="the last frame")
        journal = Journal(tmp_path / "journal")
        before = middle(robot, tmp_path)
        done = robot.call(CorrectPoses, f"{NODE}/correct", path=path_of(journal, 1.0))
        assert done.success and done.moved == journal.frames >= 3, done.message
        assert (done.kept, done.outside) == (0, 0)
        wait_for(lambda: abs(middle(robot, tmp_path) - before - 1.0) < 0.01, what="the move")
        again = robot.call(CorrectPoses, f"{NODE}/correct", path=path_of(journal, 1.0))
        assert again.success and (again.moved, again.kept) == (0, done.moved)
        robot.publish({"/trajectory": path_of(journal, -2.0)})
        wait_for(lambda: abs(middle(robot, tmp_path) - before + 2.0) < 0.01, what="the move back")
        for path, said in (
            (path_of(journal, 0.0, "odom"), "is in frame 'odom', the map in 'map'"),
            (PosePath(), "1 to 200000 poses"),
            (PosePath(poses=[PoseStamped()]), "not rigid|no stamp"),
        ):
            refused = robot.call(CorrectPoses, f"{NODE}/correct", path=path)
            assert not refused.success and any(s in refused.message for s in said.split("|"))


def test_each_of_two_robots_has_a_trajectory(robot, tmp_path):
    given = {"node.robots": "[a,b]", "node.backlog": 99, "correct.body_frame": "base"}
    with color_node({**given, "journal.directory": tmp_path}):
        place_robots(robot)
        for step in range(3):
            robot.publish({**sent_by("a", step), **sent_by("b", step)})
            time.sleep(0.03)
        wait_for(lambda: robot.integrated() == 6, what="three frames of each")
        before = poses_in_journal(tmp_path)

        def path(name: str, frame: str, shift: float) -> PosePath:
            path = PosePath(header=messages.header(1, frame))
            for step in range(3):
                stamp = messages.header(scene(name, step).stamp_ns, frame)
                at = messages.pose(shifted(shift + step * STEP))
                path.poses.append(PoseStamped(header=stamp, pose=at))
            return path

        def moved(**by: float) -> bool:
            wanted = {key: x + by.get(key[0], 0.0) for key, x in before.items()}
            return poses_in_journal(tmp_path) == pytest.approx(wanted)

        done = robot.call(CorrectPoses, f"{NODE}/a/correct", path=path("a", "a/odom", 1.0))
        assert (done.moved, done.kept, done.outside) == (3, 0, 0), done.message
        assert moved(a=1.0)
        robot.publish({"/b/trajectory": path("b", "map", ORIGINS["b"] - 2.0)})
        wait_for(lambda: moved(a=1.0, b=-2.0), what="the frames of b")


def test_without_a_journal_a_trajectory_is_counted_and_told(robot, tmp_path):
    with color_node({}) as node:
        path = PosePath(header=messages.header(1, "map"))
        pose = PoseStamped(header=messages.header(1, "map"), pose=messages.pose(np.eye(4)))
        path.poses.append(pose)
        refused = robot.call(CorrectPoses, f"{NODE}/correct", path=path)
        assert not refused.success and "need a journal" in refused.message
        robot.publish({"/trajectory": path})
        wait_for(lambda: "trajectory that cannot be used" in node.text, what="the warning")
