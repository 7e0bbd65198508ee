# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""A real node whose frames are moved by corrected poses that come as messages."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, require_ros

require_ros()

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path as PosePath
from robot import NODE, Process, Robot, Sender, color_node, wait_for
from test_node_robots import ORIGINS, STEP, place_robots, sent_by, shifted
from test_node_robots import frame as scene
from test_robots import poses_in_journal

from radseg_interfaces.srv import CorrectPoses, SaveMap
from radseg_ros.journal.folder import Journal
from radseg_ros.journal.record import FRAME
from radseg_ros.ros import messages
from radseg_ros.voxels.map_file import load_map

pytestmark = pytest.mark.slow  # nodes of their own


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


def of_one_stamp(path: PosePath) -> PosePath:
    """As rtabmap publishes its mapPath: each pose with the stamp of the newest."""
    for pose in path.poses:
        pose.header.stamp = path.poses[-1].header.stamp
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
        for _ in range(3):
            send()
        wait_for(lambda: robot.integrated() == 3, what="frames")
        journal = Journal(tmp_path / "journal")
        before = middle(robot, tmp_path)
        done = robot.call(CorrectPoses, f"{NODE}/correct", path=path_of(journal, 1.0))
        assert done.success and done.moved == journal.frames == 3, done.message
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
            (of_one_stamp(path_of(journal, 0.0)), "have one stamp"),
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


@pytest.mark.parametrize("name", ["rtabmap", "slam_toolbox"])
def test_the_example_gives_the_nodes_of_a_graph_their_stamps(name):
    """Messages with the fields of rtabmap_msgs and slam_toolbox, which are not installed here."""
    example = runpy.run_path(str(ROOT / "examples" / "pose_graph_path.py"))
    graph = example["PoseGraph"](example["SOURCES"][name])
    head = messages.header(9, "map")
    stamps = {3: 10, 4: 20, 6: 30}

    def tell(number: int, stamp: int) -> None:
        told = messages.header(stamp, "map")
        graph.add(
            SimpleNamespace(
                ref_id=number, header=told, new_node_id=number, stamp=messages.time_message(stamp)
            )
        )

    def update(*numbers: int) -> None:
        poses = [messages.pose(shifted(float(number))) for number in numbers]
        nodes = [SimpleNamespace(node_id=n, pose=p) for n, p in zip(numbers, poses, strict=True)]
        graph.update(SimpleNamespace(header=head, poses_id=numbers, poses=poses, nodes=nodes))

    assert graph.path() is None
    tell(3, 10)
    update(-7, 3)
    assert graph.path() is None, "one pose says nothing of how the robot moved"
    for number in (4, 6):
        tell(number, stamps[number])
    update(-7, 1, 3, 4, 6)  # a landmark, and a node from before the example was started
    path = graph.path()
    assert path.header == head and {each.header.frame_id for each in path.poses} == {"map"}
    found = {each.header.stamp.nanosec: each.pose.position.x for each in path.poses}
    assert found == {stamp: number for number, stamp in stamps.items()}
    assert graph.path() is None, "nothing new"
    tell(3, 50)  # after the graph that it is in
    assert [each.header.stamp.nanosec for each in graph.path().poses] == [50, 20, 30]


def test_the_example_says_whose_messages_are_missing():
    program = str(ROOT / "examples" / "pose_graph_path.py")
    code, text = Process(program, "slam_toolbox", "--ros-args", "-r", "trajectory:=/t").result()
    assert code == 1 and text.endswith("the ROS package slam_toolbox is not installed\n"), text
