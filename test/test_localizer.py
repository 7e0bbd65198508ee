# SPDX-License-Identifier: Apache-2.0
"""Where the camera was: poses on a topic, of the camera or of a body, and transforms."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from plain_messages import image, info, pose, transforms

from radseg_ros.config import NodeConfig
from radseg_ros.frames.assemble import Assembler

FRAMES = range(100, 600, 100)  # ms
EXTRINSIC = ("tf_static", transforms((0, "base_link", "camera", 0.5)))


def frame(ms: int, of: str = "camera") -> list:
    return [("color", image(ms, frame=of)), ("depth", image(ms, "16UC1", of))]


def odometry(ms: int, child: str = "base_link") -> tuple:
    return "pose", pose(ms, ms / 1000, odometry=True, child=child)


def tree(ms: int) -> tuple:
    """The base drives 1 m/s along map's x."""
    return "tf", transforms((ms, "map", "odom"), (ms, "odom", "base_link", ms / 1000))


def positions(events: list, **node: object) -> tuple[list[float], Assembler]:
    """x of the camera in each frame that is complete."""
    assembler = Assembler(node=NodeConfig(**node))
    assembler.add("info", info())
    found = [o.match.T_world_camera[0, 3] for kind, m in events for o in assembler.add(kind, m)]
    return found, assembler


def even(assembler: Assembler) -> bool:
    return all(
        a.received == a.used + a.superseded + a.waiting + a.dropped
        for a in assembler.accounts().values()
    )


def test_poses_of_a_body_and_a_static_transform():
    events = [EXTRINSIC, *(e for ms in FRAMES for e in (odometry(ms), *frame(ms)))]
    x, assembler = positions(events)
    np.testing.assert_allclose(x, [0.6, 0.7, 0.8, 0.9, 1.0])
    assert not assembler.drops.total and even(assembler)
    assert assembler.accounts()["tf_static"].used == 1


@pytest.mark.parametrize("child", ["", "camera", "/camera"])
def test_poses_of_the_camera_need_no_transform(child):
    x, assembler = positions([e for ms in FRAMES for e in (odometry(ms, child), *frame(ms))])
    np.testing.assert_allclose(x, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert not assembler.drops.total


def test_images_of_no_frame_are_those_of_the_poses():
    x, _ = positions([e for ms in FRAMES for e in (odometry(ms), *frame(ms, ""))])
    assert len(x) == 5


def test_poses_of_a_body_without_its_transform_map_nothing(caplog):
    events = [e for ms in range(100, 3000, 100) for e in (odometry(ms), *frame(ms))]
    with caplog.at_level(logging.WARNING, "radseg_ros"):
        x, assembler = positions(events)
        assembler.flush()
    assert not x and even(assembler)
    assert assembler.drops.total == assembler.accounts()["depth"].dropped == 29
    (line,) = [record.getMessage() for record in caplog.records]
    assert "no transform between 'base_link' and 'camera'" in line
    assert "/tf_static" in line and "node.camera_offset" in line


def test_the_offset_takes_the_place_of_the_transform():
    offset = np.eye(4)
    offset[0, 3] = 2.0
    events = [e for ms in FRAMES for e in (odometry(ms), *frame(ms))]
    x, _ = positions(events, camera_offset=offset.ravel().tolist())
    np.testing.assert_allclose(x, [2.1, 2.2, 2.3, 2.4, 2.5])


def test_transforms_in_place_of_poses():
    events = [EXTRINSIC, *(e for ms in FRAMES for e in (*frame(ms), tree(ms - 20), tree(ms + 20)))]
    x, assembler = positions(events, pose_source="tf")
    np.testing.assert_allclose(x, [0.6, 0.7, 0.8, 0.9, 1.0])
    assert assembler.map_frame == "map" and not assembler.drops.total and even(assembler)
    x, assembler = positions(events, pose_source="tf", map_frame="odom")
    assert len(x) == 5 and assembler.map_frame == "odom"


def test_images_wait_for_transforms_that_come_late():
    events = [EXTRINSIC, tree(0)]
    for ms in range(0, 3000, 100):
        events += [*frame(ms + 100), tree(ms - 300 + 100)] if ms >= 300 else frame(ms + 100)
    x, assembler = positions(events, pose_source="tf")
    assert not assembler.drops.total and len(x) == 27 and even(assembler)
    np.testing.assert_allclose(x, [0.5 + 0.1 * i for i in range(1, 28)])


def test_transforms_that_never_come_cost_frames_and_memory_stays():
    events = [EXTRINSIC, *(e for ms in range(100, 5000, 100) for e in frame(ms))]
    x, assembler = positions(events, pose_source="tf")
    assert not x and assembler.accounts()["depth"].waiting <= 6
    ((reason, _),) = assembler.drops.items()
    assert "no transform between 'map' and 'camera'" in reason and "node.map_frame" in reason
    assert "'map' is in no transform; roots: 'base_link'" in assembler.drops.examples[reason]
    x, assembler = positions(frame(100, ""), pose_source="tf")
    assert "image without a frame id" in str(assembler.drops)


def test_whoever_has_a_pose_first_is_the_source(caplog):
    caplog.set_level(logging.INFO, "radseg_ros")
    both = [e for ms in FRAMES for e in (tree(ms), odometry(ms, "camera"), *frame(ms))]
    x, assembler = positions([EXTRINSIC, *both])
    np.testing.assert_allclose(x, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert assembler.localizers[""].source == "topic" and "the pose topic" in caplog.text
    x, assembler = positions([EXTRINSIC, tree(100), *frame(100), *both[4:]])
    np.testing.assert_allclose(x, [0.6, 0.7, 0.8, 0.9, 1.0])
    assert assembler.localizers[""].source == "tf" and "/tf_static" in caplog.text
    assert caplog.text.count("node.pose_source") == 2, "decided once, and told"


def test_a_frame_that_transforms_cannot_place_decides_nothing():
    first = [EXTRINSIC, *frame(100)]
    x, assembler = positions([*first, odometry(100, "camera")])
    assert x == [0.1] and assembler.localizers[""].source == "topic"
    odom = ("pose", pose(100, 0.7, frame="odom"))
    assert positions([*first, odom])[0] == [0.7], "nor the frame of the map"


def test_a_pose_with_covariance_is_a_pose():
    message = pose(100, 0.3, odometry=True)  # without a child frame
    assert positions([("pose", message), *frame(100)])[0] == [0.3]


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("transform not rigid", transforms((100, "a", "b"), w=0.0)),
        ("transform not rigid", transforms((100, "a", "b"), w=float("nan"))),
        ("transform not finite", transforms((100, "a", "b"), x=float("inf"))),
        ("transform without the names of its two frames", transforms((100, "a", ""))),
        ("frame id that is no name", transforms((100, "a\nb", "c"))),
    ],
)
def test_transforms_that_are_none_are_counted(reason, message):
    for kind in ("tf", "tf_static"):
        _, assembler = positions([(kind, message), (kind, message)])
        assert dict(assembler.drops.items()) == {reason: 2} and even(assembler)
        assert not assembler.localizers[""].transforms


def test_what_has_no_stamp_is_counted():
    still = [("color", image(0)), ("depth", image(0, "16UC1")), ("pose", pose(0)), tree(0)]
    for _, message in still[:3]:
        message.header.stamp.nanosec = 0
    for transform in still[3][1].transforms:
        transform.header.stamp.nanosec = 0
    x, assembler = positions(5 * still)
    assert not x and even(assembler)
    assert dict(assembler.drops.items()) == {
        "transform without a stamp (it is zero)": 10,
        "colour message without a stamp (it is zero)": 5,
        "depth message without a stamp (it is zero)": 5,
        "pose message without a stamp (it is zero)": 5,
    }
