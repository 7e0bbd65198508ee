# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Two cameras of one node, and two nodes in two namespaces, over real transport: right drops for
each, and nothing mixes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import require_ros

require_ros()
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not installed (scripts/setup.sh makes it)")

from diagnostic_msgs.msg import DiagnosticStatus
from recordings import K
from robot import Process, Robot, Sender, color_node, color_nodes, repeated, values, wait_for
from test_node_poses import transform

from radseg_ros.ros import messages

pytestmark = pytest.mark.slow  # three nodes
SETTINGS = {"node.backlog": 50, "node.publish_period": 0.2}
PLACES = {"front": 2.0, "rear": -2.0}  # m, x of each camera on the base
NODE = "/rig/radseg_mapping"
COLORS = {"front": (255, 0, 0), "rear": (0, 0, 255)}


@pytest.fixture(scope="module")
def rig(robot: Robot) -> Iterator[Process]:
    """A node of two cameras, which knows where they are."""
    cameras = {"node.cameras": f"[{','.join(PLACES)}]"}
    with color_node({**SETTINGS, **cameras}, "-r", "__ns:=/rig") as node:
        for camera, x in PLACES.items():
            T = np.eye(4)
            T[0, 3] = x
            robot.publish({"/tf_static": transform(0, "base", f"{camera}_optical", T)})
        yield node


def sent_by(camera: str, stamp_ns: int) -> dict:
    """A wall at 1.5 m, in the colour of the camera."""
    depth, color, info = (messages.header(stamp_ns, f"{camera}_optical") for _ in range(3))
    rgb = np.full((12, 16, 3), COLORS[camera], np.uint8)
    sent = {
        "depth/camera_info": messages.info_message(K, (12, 16), info),
        "color/image": messages.color_message(rgb, color),
        "depth/image": messages.depth_message(np.full((12, 16), 1.5, np.float32), depth),
    }
    return {f"/rig/{camera}/{topic}": message for topic, message in sent.items()}


def odometry(stamp_ns: int) -> dict:
    head = messages.header(stamp_ns, "odom")
    return {"/rig/pose": messages.pose_message(np.eye(4), head, "base")}


def accounts(status: DiagnosticStatus) -> dict[str, str]:
    return {k.removesuffix(" (inputs)"): v for k, v in values(status).items() if "(in" in k}


def test_two_cameras_of_one_node(robot, rig):
    start = time.time_ns()
    for i in range(10):
        stamp = start + i * 50_000_000
        front, rear = sent_by("front", stamp), sent_by("rear", stamp)
        if i < 4:
            rear.pop("/rig/rear/depth/image")
        if i < 3:
            front["/rig/front/color/image"].header.stamp.sec = 0
            front["/rig/front/color/image"].header.stamp.nanosec = 0
        robot.publish({**front, **rear, **odometry(stamp)})
        time.sleep(0.03)
    wait_for(lambda: robot.integrated(NODE) == 13, what="seven of front, six of rear")
    answer = robot.query("red", "blue", node=NODE)
    assert {drop.reason: drop.count for drop in answer.status.drops} == {
        "front: colour message without a stamp (it is zero)": 3,
        "front: depth image without a colour image within 0.02 s": 3,
        "rear: colour image without a depth image within 0.02 s": 4,
    }
    (red,), (blue,) = (found.objects for found in answer.answers)
    assert red.centre.x == pytest.approx(2.0, abs=0.1), "each where it is on the base"
    assert blue.centre.x == pytest.approx(-2.0, abs=0.1)
    report = robot.diagnosed(lambda s: values(s)["frames"] == "13", NODE)
    assert accounts(report) == {
        "/rig/front/color/image": "10 = 7 used + 0 waiting + 3 dropped",
        "/rig/front/depth/image": "10 = 7 used + 0 waiting + 3 dropped",
        "/rig/front/depth/camera_info": accounts(report)["/rig/front/depth/camera_info"],
        "/rig/rear/color/image": "10 = 6 used + 0 waiting + 4 dropped",
        "/rig/rear/depth/image": "6 = 6 used + 0 waiting + 0 dropped",
        "/rig/rear/depth/camera_info": accounts(report)["/rig/rear/depth/camera_info"],
        "/rig/pose": "10 = 7 used + 3 waiting + 0 dropped",
        "tf": "0 = 0 used + 0 waiting + 0 dropped",
        "tf_static": "2 = 2 used + 0 waiting + 0 dropped",
    }


def test_a_camera_that_falls_silent_is_named(robot, rig):
    def only_front() -> None:
        stamp = time.time_ns()
        robot.publish({**sent_by("front", stamp), **odometry(stamp)})
        time.sleep(0.05)

    with repeated(only_front):
        report = robot.diagnosed(lambda s: "camera 'rear': no frame for 5 s" in s.message, NODE)
    text = report.message
    assert report.level == DiagnosticStatus.WARN
    assert re.search(r"\(\+\d+\)", text)
    assert "/rig/rear/depth/image" in text and "published, but nothing arrives" in text
    assert "/rig/front" not in text
    assert rig.said("camera 'rear'", "WARN")


def test_a_camera_whose_time_goes_back_leaves_the_other_alone(robot, rig):
    stamp = time.time_ns()
    robot.publish({**sent_by("front", stamp), **odometry(stamp)})
    robot.settle(messages.time_message(stamp), NODE)  # nothing of the test before is on its way
    before = robot.query("red", node=NODE).status
    for i in range(20):
        stamp = time.time_ns()
        behind = stamp - 60_000_000_000 if i % 2 else stamp  # two drivers with two clocks
        robot.publish({**sent_by("front", stamp), **sent_by("rear", behind), **odometry(stamp)})
        time.sleep(0.04)
    known = {drop.reason: drop.count for drop in before.drops}
    wait_for(lambda: robot.integrated(NODE) >= before.frames_integrated + 20, what="all of front")
    after = robot.query("red", node=NODE).status
    new = {d.reason for d in after.drops if d.count > known.get(d.reason, 0)}
    assert new and all(reason.startswith("rear: ") for reason in new), new
    assert rig.said("time ran backwards on /rig/rear/")
    assert not any("time ran backwards on /rig/front/" in line for line in rig.lines)


def test_two_nodes_in_two_namespaces(robot):
    with color_nodes({**SETTINGS, "node.pose_source": "topic"}, "left", "right") as nodes:
        left, right = Sender(robot, "/left"), Sender(robot, "/right")
        for i in range(8):
            left()
            right(**({"depth": {"encoding": "rgb8"}} if i < 3 else {}))
        for _ in range(2):
            left(color={"header.stamp.sec": 0, "header.stamp.nanosec": 0})
        wait_for(lambda: robot.integrated("/left/radseg_mapping") == 8, what="left")
        wait_for(lambda: robot.integrated("/right/radseg_mapping") == 5, what="right")
        drops = {
            name: {
                drop.reason.split(" (e.g.")[0]: drop.count
                for drop in robot.query("red", node=f"/{name}/radseg_mapping").status.drops
            }
            for name in nodes
        }
    assert drops["left"] == {
        f"{kind} message without a stamp (it is zero)": 2 for kind in ("colour", "depth")
    }
    assert drops["right"] == {"depth of wrong type": 3}
