# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Poses as robots have them, through real nodes: of the camera, of the base, and in TF only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import require_ros

require_ros()
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not installed (scripts/setup.sh makes it)")

from geometry_msgs.msg import TransformStamped
from recordings import K, write_tf_bag
from robot import HERE, Process, Robot, color_node, color_nodes, play, wait_for
from scipy.spatial.transform import Rotation
from tf2_msgs.msg import TFMessage

from radseg_ros.ros import messages

pytestmark = pytest.mark.slow  # six nodes
FRAMES = 20
PERIOD_NS = 50_000_000
LATE = 8  # periods that transforms come behind their images: 0.4 s
OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # REP 103
T_BASE_CAMERA = OPTICAL + np.outer([0.1, 0.2, 0.5, 0], [0, 0, 0, 1])
SETTINGS = {"node.backlog": 50, "node.publish_period": 0.2, "map.voxel_size": 0.02}


def base_at(i: float) -> np.ndarray:
    """The base drives and turns."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", 2.0 * i, degrees=True).as_matrix()
    T[0, 3] = 0.03 * i
    return T


def transform(stamp_ns: int, parent: str, child: str, T: np.ndarray) -> TFMessage:
    made = TransformStamped(header=messages.header(stamp_ns, parent), child_frame_id=child)
    for name, value in zip("xyz", T[:3, 3], strict=True):
        setattr(made.transform.translation, name, float(value))
    for name, value in zip("xyzw", Rotation.from_matrix(T[:3, :3]).as_quat(), strict=True):
        setattr(made.transform.rotation, name, float(value))
    return TFMessage(transforms=[made])


class Camera:
    """Sends frames in one namespace: a wall at 1.5 m, of the colour of the place."""

    def __init__(self, robot: Robot, name: str) -> None:
        self.robot, self.name = robot, name
        self.body, self.frame = f"base_{name}", f"camera_{name}"

    def node(self) -> str:
        return f"/{self.name}/radseg_mapping"

    def images(self, stamp_ns: int, color_frame: str = "") -> dict:
        head = messages.header(stamp_ns, self.frame)
        rgb, metres = np.full((48, 64, 3), 200, np.uint8), np.full((48, 64), 1.5, np.float32)
        color = messages.header(stamp_ns, color_frame or self.frame)
        sent = {
            "depth/camera_info": messages.info_message(4 * K + np.diag([0, 0, -3]), (48, 64), head),
            "color/image": messages.color_message(rgb, color),
            "depth/image": messages.depth_message(metres, head),
        }
        return {f"/{self.name}/{topic}": message for topic, message in sent.items()}

    def pose(self, stamp_ns: int, T: np.ndarray, child: str) -> dict:
        head = messages.header(stamp_ns, "map")
        return {f"/{self.name}/pose": messages.pose_message(T, head, child)}

    def extrinsic(self) -> dict:
        return {"/tf_static": transform(0, self.body, self.frame, T_BASE_CAMERA)}

    def drops(self) -> dict[str, int]:
        status = self.robot.query("red", node=self.node()).status
        return {drop.reason: drop.count for drop in status.drops}

    def mapped(self, frames: int, what: str = "frames") -> None:
        """Wait until so many frames are in the map."""
        wait_for(lambda: self.robot.integrated(self.node()) >= frames, f"{what} of {self.name}")
        assert self.robot.integrated(self.node()) == frames

    def voxels(self) -> set:
        answer = self.robot.query("red", node=self.node(), return_cloud=True)
        points = np.frombuffer(answer.cloud.data, messages.POINT)
        xyz = np.stack([points[name] for name in "xyz"], axis=1)
        return set(map(tuple, np.round(xyz / 0.02 - 0.5).astype(int)))


@pytest.fixture(scope="module")
def nodes(robot: Robot) -> Iterator[dict[str, Process]]:
    with color_nodes(SETTINGS, "optical", "body", "alone", "tf") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def optical(robot: Robot, nodes: dict[str, Process]) -> Camera:
    """What the others are compared with: poses of the optical frame, all mapped."""
    camera, start = Camera(robot, "optical"), time.time_ns()
    for i in range(FRAMES):
        stamp = start + i * PERIOD_NS
        pose = camera.pose(stamp, base_at(i) @ T_BASE_CAMERA, camera.frame)
        robot.publish({**camera.images(stamp), **pose})
        time.sleep(0.02)
    camera.mapped(FRAMES)
    return camera


def same_map(camera: Camera, other: Camera) -> bool:
    """Whether two maps differ in at most 2 % of their voxels."""
    ours, theirs = camera.voxels(), other.voxels()
    assert len(theirs) > 500
    return len(ours ^ theirs) <= 0.02 * len(theirs)


def test_odometry_of_the_base_and_a_static_transform(robot, nodes, optical):
    camera, start = Camera(robot, "body"), time.time_ns()
    robot.publish(camera.extrinsic())
    for i in range(FRAMES):
        stamp = start + i * PERIOD_NS
        robot.publish({**camera.images(stamp), **camera.pose(stamp, base_at(i), camera.body)})
        time.sleep(0.02)
    camera.mapped(FRAMES)
    assert not camera.drops() and same_map(camera, optical)


def test_odometry_of_the_base_alone_maps_nothing(robot, nodes):
    camera, start = Camera(robot, "alone"), time.time_ns()
    for i in range(FRAMES):
        stamp = start + i * PERIOD_NS
        robot.publish({**camera.images(stamp), **camera.pose(stamp, base_at(i), camera.body)})
        time.sleep(0.02)
    wait_for(camera.drops, what="a reason")
    assert robot.integrated(camera.node()) == 0
    lines = nodes["alone"].said("dropped: ")
    assert len(lines) == 1 and "'base_alone' and 'camera_alone'" in lines[0]
    assert "/tf_static" in lines[0] and "node.camera_offset" in lines[0]


def test_transforms_alone_that_come_late(robot, nodes, optical):
    camera, start = Camera(robot, "tf"), time.time_ns()
    robot.publish(camera.extrinsic())
    for i in range(FRAMES + LATE):
        stamp, late = (start + j * PERIOD_NS for j in (i, i - LATE))
        robot.publish({"/tf": transform(late, "map", camera.body, base_at(i - LATE))})
        if i < FRAMES:
            robot.publish(camera.images(stamp))
        time.sleep(PERIOD_NS / 1e9)
    camera.mapped(FRAMES)
    assert not camera.drops() and same_map(camera, optical)
    assert len(nodes["tf"].said("(node.pose_source)")) == 1
    assert nodes["tf"].said("poses are those of transforms")


def test_a_bag_of_transforms_is_played_and_mapped(robot, nodes, tmp_path):
    before = robot.integrated("/tf/radseg_mapping")
    text = play(str(write_tf_bag(tmp_path / "bag")), "--ros-args", "-r", "__ns:=/tf")
    assert "11 tf" in text and "1 tf_static" in text
    wait_for(lambda: robot.integrated("/tf/radseg_mapping") == before + 5, "all frames")


def test_frames_that_say_nothing_of_their_time_or_the_same_again(robot, nodes, optical):
    before, drops = robot.integrated(optical.node()), optical.drops()
    for _ in range(5):
        robot.publish(optical.images(0))
    wait_for(lambda: sum(optical.drops().values()) == sum(drops.values()) + 10, what="all counted")
    assert {r: n for r, n in optical.drops().items() if "without a stamp" in r} == {
        "colour message without a stamp (it is zero)": 5,
        "depth message without a stamp (it is zero)": 5,
    }
    stamp = time.time_ns()
    for _ in range(3):
        pose = optical.pose(stamp, T_BASE_CAMERA, optical.frame)
        robot.publish({**optical.images(stamp), **pose})
        time.sleep(0.1)
    wanted = {f"{k} image with the stamp of another one": 2 for k in ("colour", "depth")}
    wait_for(lambda: wanted.items() <= optical.drops().items(), "those that came again")
    wait_for(lambda: robot.integrated(optical.node()) == before + 1, "the first of them")


def test_frame_ids_that_differ_are_told_once(robot, nodes, optical):
    before = robot.integrated(optical.node())
    for i in range(3):
        stamp = time.time_ns()
        pose = optical.pose(stamp, base_at(i) @ T_BASE_CAMERA, optical.frame)
        robot.publish({**optical.images(stamp, "other_frame"), **pose})
        time.sleep(0.1)
    optical.mapped(before + 3)
    lines = nodes["optical"].said("'other_frame'")
    assert len(lines) == 1 and "registered" in lines[0]


def test_without_tf2_msgs_only_tf_is_refused(robot, tmp_path: Path):
    (tmp_path / "tf2_msgs").mkdir()
    (tmp_path / "tf2_msgs" / "__init__.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join(map(str, (tmp_path, HERE.parent, HERE, os.environ["PYTHONPATH"])))
    common = ("-p", "encoder:=lite", "-p", "node.pose_source:=tf")
    refused = Process("-m", "radseg_ros.ros.mapper_node", "--ros-args", *common, PYTHONPATH=path)
    with color_node(SETTINGS, "-r", "__ns:=/plain", PYTHONPATH=path) as node:
        camera = Camera(robot, "plain")
        stamp = time.time_ns()
        pose = camera.pose(stamp, T_BASE_CAMERA, camera.frame)
        robot.publish({**camera.images(stamp), **pose})
        camera.mapped(1)
        assert node.said("no transforms: the ROS package tf2_msgs is not installed")
    code, text = refused.result()
    assert code == 1 and len(text.splitlines()) == 1
    assert "node.pose_source is tf, but the ROS package tf2_msgs is not installed" in text
