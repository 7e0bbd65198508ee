# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Two robots of one node over real transport: one map, and right drops for each."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from color_encoder import ColorEncoder
from conftest import require_ros
from journalled import assert_equal

require_ros()
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not installed (scripts/setup.sh makes it)")

from diagnostic_msgs.msg import DiagnosticStatus
from recordings import K
from robot import Process, Robot, color_node, repeated, values, wait_for
from test_node_poses import transform

from radseg_interfaces.srv import SaveMap
from radseg_ros.config import Config
from radseg_ros.datatypes import Frame
from radseg_ros.mapper import Mapper
from radseg_ros.ros import messages
from radseg_ros.voxels.map_file import load_map

pytestmark = pytest.mark.slow  # a node
NODE = "/radseg_mapping"
SIZE = (12, 16)  # px
ORIGINS = {"a": 4.0, "b": -4.0}  # m, x of the world of each in the map
STEP = 0.125  # m from frame to frame, no pose of which is rounded
BEGIN = 1_000_000_000_000  # ns


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def node(robot: Robot, folder: Path) -> Iterator[Process]:
    # nothing is to be lost for want of time
    given = {"node.robots": "[a,b]", "node.map_directory": folder}
    given |= {"node.backlog": 999, "sync.queue": 999}
    with color_node(given) as node:
        place_robots(robot)
        yield node


def place_robots(robot: Robot) -> None:
    """Robot a is placed by odometry and what all share, b by its own transforms."""
    robot.publish({"/tf_static": transform(0, "map", "a/odom", shifted(ORIGINS["a"]))})
    robot.publish({"/tf_static": transform(0, "a/base", "a/camera", shifted(0.5))})
    robot.publish({"/b/tf_static": transform(0, "base", "camera", shifted(0.5))})


def shifted(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def frame(name: str, step: int) -> Frame:
    """What the camera of a robot sees; no two are alike."""
    rng = np.random.default_rng([step, ord(name)])
    rgb = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    depth = rng.integers(500, 2500, SIZE).astype(np.float32) / 1024  # m; no millimetres
    stamp = BEGIN + step * 100_000_000
    return Frame(stamp, rgb, depth, K, shifted(ORIGINS[name] + 0.5 + step * STEP))


def sent_by(name: str, step: int) -> dict:
    seen = frame(name, step)
    stamp, optical = seen.stamp_ns, "a/camera" if name == "a" else "camera"
    head = [messages.header(stamp, optical) for _ in range(3)]
    at = shifted(step * STEP)
    if name == "a":
        odometry = messages.pose_message(at, messages.header(stamp, "a/odom"), "a/base")
        place = {"/a/pose": odometry}
    else:
        at[0, 3] += ORIGINS["b"]
        place = {"/b/tf": transform(stamp, "map", "base", at)}
    return {
        f"/{name}/depth/camera_info": messages.info_message(K, SIZE, head[0]),
        f"/{name}/color/image": messages.color_message(seen.rgb, head[1]),
        f"/{name}/depth/image": messages.depth_message(seen.depth, head[2]),
        **place,
    }


def test_two_robots_of_one_node(robot, node, folder):
    for step in range(10):
        a, b = sent_by("a", step), sent_by("b", step)
        if step < 3:
            a["/a/color/image"].header.stamp.sec = a["/a/color/image"].header.stamp.nanosec = 0
        if 3 <= step < 7:
            del b["/b/depth/image"]
        robot.publish({**a, **b})
        time.sleep(0.03)
    wait_for(lambda: robot.integrated() == 13, what="seven of a, six of b")
    assert {drop.reason: drop.count for drop in robot.query("red").status.drops} == {
        "a: colour message without a stamp (it is zero)": 3,
        "a: depth image without a colour image within 0.02 s": 3,
        "b: colour image without a depth image within 0.02 s": 4,
    }
    told = values(robot.diagnosed(lambda s: values(s)["frames"] == "13"))
    accounts = {k.removesuffix(" (inputs)"): v for k, v in told.items() if "(in" in k}
    infos = {f"/{name}/depth/camera_info" for name in ORIGINS}
    assert {name: said for name, said in accounts.items() if name not in infos} == {
        "/a/color/image": "10 = 7 used + 0 waiting + 3 dropped",
        "/a/depth/image": "10 = 7 used + 0 waiting + 3 dropped",
        "/a/pose": "10 = 7 used + 3 waiting + 0 dropped",
        "a/tf": "0 = 0 used + 0 waiting + 0 dropped",
        "a/tf_static": "0 = 0 used + 0 waiting + 0 dropped",
        "/b/color/image": "10 = 6 used + 0 waiting + 4 dropped",
        "/b/depth/image": "6 = 6 used + 0 waiting + 0 dropped",
        "b/pose": "0 = 0 used + 0 waiting + 0 dropped",
        "/b/tf": "10 = 6 used + 4 waiting + 0 dropped",
        "b/tf_static": "1 = 1 used + 0 waiting + 0 dropped",
        "/tf": "0 = 0 used + 0 waiting + 0 dropped",
        "tf_static": "2 = 2 used + 0 waiting + 0 dropped",
    }
    for name in ORIGINS:
        assert f"/{name}/color/image (Hz)" in told

    assert robot.call(SaveMap, f"{NODE}/save_map", path="both.radmap").success
    one = Mapper(Config(encoder="colors", short_side=0), ColorEncoder())
    for name, steps in (("a", range(3, 10)), ("b", (0, 1, 2, 7, 8, 9))):
        for step in steps:
            one.integrate(frame(name, step))
    both, identity = load_map(folder / "both.radmap")
    assert identity.frame_id == "map" and len(both) > 1000
    assert_equal(both, one.map)


def test_a_robot_that_falls_silent_and_sends_nonsense_leaves_the_other_alone(robot, node):
    before = robot.query("red").status
    steps: list[int] = []

    def only_a() -> None:
        lost = messages.pose_message(shifted(np.nan), messages.header(1, "x"), "y")
        steps.append(100 + len(steps))
        robot.publish({**sent_by("a", steps[-1]), "/b/pose": lost})
        time.sleep(0.05)

    with repeated(only_a):
        report = robot.diagnosed(lambda s: "camera 'b': no frame for 5 s" in s.message)
    text = report.message
    assert report.level == DiagnosticStatus.WARN
    assert re.search(r"\(\+\d+\)", text)
    assert "/b/depth/image" in text and "/a/" not in text
    wait_for(lambda: robot.integrated() == before.frames_integrated + len(steps), "all of a")
    known = {drop.reason for drop in before.drops}
    new = [d for d in robot.query("red").status.drops if d.reason not in known]
    assert new and all(drop.reason.startswith("b: ") for drop in new), new


def test_a_robot_whose_clock_goes_back_leaves_the_other_alone(robot, node):
    before = robot.query("red").status
    for i in range(20):
        robot.publish({**sent_by("a", 2000 + i), **sent_by("b", 2000 + i - 600 * (i % 2))})
        time.sleep(0.04)
    known = {drop.reason: drop.count for drop in before.drops}
    wait_for(lambda: robot.integrated() >= before.frames_integrated + 20, what="all of a")
    after = robot.query("red").status
    new = {d.reason for d in after.drops if d.count > known.get(d.reason, 0)}
    assert all(reason.startswith("b: ") for reason in new), new
    assert node.said("time ran backwards on /b/")
    assert not any("time ran backwards on /a/" in line for line in node.lines)


def test_robots_that_cannot_be_are_refused_at_the_start():
    for parameter, said in (
        ("node.robots:=[a, a]", "node.robots: each once"),
        ("node.robot_origins:=[1.0]", "node.robot_origins takes 16 numbers"),
    ):
        command = ("-m", "radseg_ros.ros.mapper_node", "--ros-args", "-p", parameter)
        code, text = Process(*command).result()
        assert code == 1 and said in text, text
