# SPDX-License-Identifier: Apache-2.0
"""From messages to frames, as node and bag reader do it.

Messages made by messages.py must decode to what went in.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import require_ros
from plain_messages import K, Message, image, info, pair, pose, transforms

from radseg_ros.config import NodeConfig, SyncConfig
from radseg_ros.datatypes import Cloud, InputError
from radseg_ros.frames.assemble import Assembler


def feed(assembler: Assembler, *events: tuple) -> list:
    return [observation for kind, message in events for observation in assembler.add(kind, message)]


@pytest.mark.parametrize("odometry", [False, True])
def test_messages_become_a_frame(odometry):
    assembler = Assembler()
    (observation,) = feed(
        assembler, ("info", info()), *pair(100), ("pose", pose(100, x=2.0, odometry=odometry))
    )
    frame = observation.frame()
    assert (
        frame.stamp_ns == 100_000_000
        and frame.rgb.shape == (12, 16, 3)
        and frame.depth.shape == (12, 16)
    )
    np.testing.assert_array_equal(frame.K.ravel(), K)
    assert frame.T_world_camera[0, 3] == 2.0 and assembler.map_frame == "map"
    received = {kind: account.received for kind, account in assembler.accounts().items()}
    assert received == {"info": 1, "color": 1, "depth": 1, "pose": 1, "tf": 0, "tf_static": 0}


def test_frames_wait_for_the_first_camera_info():
    assembler = Assembler(SyncConfig(queue=3))
    for i in range(5):
        assert not feed(assembler, *pair(100 * i), ("pose", pose(100 * i)))
    assert assembler.drops["frame without any camera info so far"] == 2
    assert not feed(assembler, ("info", info([0.0] * 9))), "an uncalibrated camera is none"
    assert [o.match.stamp_ns // 1_000_000 for o in feed(assembler, ("info", info()))] == [
        200,
        300,
        400,
    ]
    assert assembler.drops.total == 3


def test_the_map_stays_in_its_frame():
    assembler = Assembler()
    assert len(feed(assembler, ("info", info()), ("pose", pose(0, frame="odom")), *pair(0))) == 1
    assert not feed(assembler, ("pose", pose(100, frame="map")), *pair(100))
    assert assembler.drops.examples == {
        "pose in another frame than the map": "pose in frame 'map', but the map is in 'odom' "
        "(parameter node.map_frame)"
    }
    named = Assembler(node=NodeConfig(map_frame="map"))
    assert (
        not feed(named, ("info", info()), ("pose", pose(0, frame="odom")), *pair(0))
        and named.drops.total == 1
    )


def test_poses_that_are_none_are_counted():
    assembler = Assembler()
    for ms, w in enumerate((0.0, 2.0, float("nan"))):
        assert not feed(assembler, ("info", info()), ("pose", pose(ms, w=w)), *pair(ms))
    assert not feed(assembler, ("pose", pose(0, x=float("inf"))))
    assert dict(assembler.drops.items()) == {"pose not rigid": 3, "pose not finite": 1}


def first_pose(**fields: object) -> Message:
    """A pose in another frame than those that follow, with other fields."""
    return Message(**{**vars(pose(50, frame="odom")), **fields})


NO_POSES = {
    "no time": first_pose(header=Message(stamp=Message(sec=-1, nanosec=0), frame_id="odom")),
    "a stamp of zero": first_pose(header=Message(stamp=Message(sec=0, nanosec=0), frame_id="odom")),
    "no place": pose(50, x=float("nan"), frame="odom"),
    "beyond the world": pose(50, x=1e12, frame="odom"),
    "no turn": pose(50, w=0.0, frame="odom"),
    "a turn that stretches": pose(50, w=3.0, frame="odom", odometry=True),
    "no orientation": first_pose(pose=Message(position=Message(x=0.0, y=0.0, z=0.0))),
    "a text": first_pose(pose="here"),
    "a body of two lines": pose(50, frame="odom", odometry=True, child="base\nmap"),
    "a frame of two lines": pose(50, frame="odom\nmap"),
    "a frame without end": pose(50, frame="o" * 100_000),
}


@pytest.mark.parametrize("case", NO_POSES)
def test_a_first_pose_that_is_none_decides_no_frame(case):
    assembler = Assembler()
    for drops in (1, 2):
        assert not feed(assembler, ("info", info()), ("pose", NO_POSES[case]))
        assert assembler.map_frame == "" and assembler.drops.total == drops
        assert len(feed(assembler, ("pose", pose(100)), *pair(100))) == 1
        assert assembler.map_frame == "map"
        assembler.clear("reset", forget_frame=True)  # and the first one after it


OTHER_TIMES = {
    "two seconds early": -2,
    "an hour early": -3600,
    "a day late": 86_400,
    "in 2038": 2**31 - 9,
}


@pytest.mark.parametrize("kind", ["color", "depth", "pose", "tf"])
@pytest.mark.parametrize("seconds", OTHER_TIMES.values(), ids=OTHER_TIMES)
def test_one_stamp_of_another_time_costs_few_frames(kind, seconds):
    """Ten frames, a message of another time, ten more."""
    assembler, begin = Assembler(), 5_000_000
    used = len(feed(assembler, ("info", info())))
    for i in range(20):
        ms = begin + 100 * i
        if i == 10:
            other = min(ms + round(1000 * seconds), 1000 * (2**31 - 9))
            made = {"tf": transforms((other, "map", "base")), "pose": pose(other)}
            made |= {"color": image(other), "depth": image(other, "16UC1")}
            used += len(feed(assembler, (kind, made[kind])))
        edge = ("tf", transforms((ms, "map", "base")))
        used += len(feed(assembler, edge, *pair(ms), ("pose", pose(ms))))
    assert used >= 18
    for account in assembler.accounts().values():
        parts = (account.used, account.superseded, account.waiting, account.dropped)
        assert account.received == sum(parts) and account.waiting <= 20


def test_the_camera_offset_is_a_parameter():
    offset = np.array(
        [[0, 0, 1, 0.1], [-1, 0, 0, 0], [0, -1, 0, 0.5], [0, 0, 0, 1]]
    )  # an optical frame on a robot
    assembler = Assembler(node=NodeConfig(camera_offset=offset.ravel().tolist()))
    (observation,) = feed(assembler, ("info", info()), ("pose", pose(0, x=3.0)), *pair(0))
    np.testing.assert_allclose(
        observation.frame().T_world_camera @ [0, 0, 2, 1], [5.1, 0, 0.5, 1]
    )  # 2 m ahead of the camera
    with pytest.raises(InputError, match="T_body_camera is not a rigid transform"):
        Assembler(node=NodeConfig(camera_offset=[1.0] * 16))


def test_the_depth_scale_is_a_parameter():
    assembler = Assembler(node=NodeConfig(depth_scale=0.5))
    depth = image(0, "16UC1")
    depth.data = np.full(12 * 16, 3, "<u2").tobytes()
    (observation,) = feed(
        assembler, ("info", info()), ("pose", pose(0)), ("color", image(0)), ("depth", depth)
    )
    assert (observation.frame().depth == 1.5).all()


def test_flush_and_clear_leave_nothing_behind():
    assembler = Assembler()
    feed(assembler, *pair(0), ("pose", pose(0)), ("color", image(100)))
    assert not assembler.flush() and assembler.drops.total == 2
    feed(assembler, ("color", image(200)), *pair(300), ("pose", pose(300)))
    before = assembler.drops.total
    assembler.clear("because")
    assert assembler.drops["because"] == assembler.drops.total - before == 1
    assert not feed(assembler, ("info", info()))
    waiting = {kind: account.waiting for kind, account in assembler.accounts().items()}
    assert waiting == {"info": 1, "color": 0, "depth": 0, "pose": 0, "tf": 0, "tf_static": 0}


def test_messages_decode_to_what_went_in():
    require_ros()
    from radseg_ros.frames import decode
    from radseg_ros.frames.images.color import color_image
    from radseg_ros.frames.images.depth import depth_image
    from radseg_ros.ros import messages

    generator = np.random.default_rng(0)
    rgb, top = (
        generator.integers(0, 256, (12, 16, 3), np.uint8),
        messages.header(1_234_567_890_123_456_789, "camera"),
    )
    assert decode.stamp_to_ns(top.stamp) == 1_234_567_890_123_456_789
    np.testing.assert_array_equal(color_image(messages.color_message(rgb, top)), rgb)
    np.testing.assert_array_equal(
        color_image(messages.color_message((rgb / 255).astype(np.float32), top)), rgb
    )
    depth = generator.uniform(0, 60, (12, 16))
    for metres, encoding in ((np.round(depth, 3), "16UC1"), (depth, "32FC1")):
        message = messages.depth_message(metres.astype(np.float32), top)
        assert message.encoding == encoding
        np.testing.assert_allclose(depth_image(message), metres, rtol=1e-6)
    matrix = np.reshape(K, (3, 3))
    decoded, size = decode.camera_matrix(messages.info_message(matrix, (12, 16), top))
    np.testing.assert_array_equal(decoded, matrix)
    assert size == (12, 16)
    T = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    for child in ("", "camera"):
        np.testing.assert_allclose(
            decode.pose_matrix(decode.pose_message(messages.pose_message(T, top, child))),
            T,
            atol=1e-12,
        )


@pytest.mark.parametrize("count", [0, 3])
def test_a_cloud_message_is_one_structured_array(count):
    require_ros()
    from radseg_ros.answers.packed import pack
    from radseg_ros.ros import messages

    xyz = np.arange(3 * count, dtype=np.float32).reshape(-1, 3)
    rgb = np.tile(np.array([[1, 2, 3]], np.uint8), (count, 1))
    label, number = np.arange(count, dtype=np.int32) - 1, np.arange(count, dtype=np.float32)
    points = pack(Cloud(xyz, rgb, label, number / 4, number))
    message = messages.cloud_message(points, messages.header(5, "map"))
    assert (message.height, message.width, message.point_step, message.row_step) == (
        1,
        count,
        28,
        28 * count,
    )
    assert [(f.name, f.offset, f.datatype) for f in message.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
        ("rgb", 12, 7),
        ("label", 16, 5),
        ("score", 20, 7),
        ("hits", 24, 7),
    ]
    points = np.frombuffer(message.data, messages.POINT)
    np.testing.assert_array_equal(np.stack([points["x"], points["y"], points["z"]], 1), xyz)
    assert (points["rgb"] == 0x010203).all() and points["label"].tolist() == label.tolist()


@pytest.mark.parametrize("count", [0, 3])
def test_a_cloud_message_is_what_sensor_msgs_py_reads_and_makes(count):
    require_ros()
    reason = "sensor_msgs_py is not installed"
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2", reason=reason)
    from radseg_ros.ros import messages

    generator = np.random.default_rng(0)
    xyz, rgb = generator.normal(size=(count, 3)), generator.integers(0, 256, (count, 3), np.uint8)
    label, number = np.arange(count, dtype=np.int32) - 1, np.arange(count, dtype=np.float32)
    cloud = Cloud(xyz.astype(np.float32), rgb, label, number / 4, number)
    message = messages.cloud_message(cloud, messages.header(5, "map"))
    read = point_cloud2.read_points(message)
    for name, values in (("x", cloud.xyz[:, 0]), ("z", cloud.xyz[:, 2]), ("label", cloud.label),
                         ("score", cloud.score), ("hits", cloud.hits)):  # fmt: skip
        np.testing.assert_array_equal(read[name], values)
    packed = np.ascontiguousarray(read["rgb"]).view(np.uint32)
    assert [[n >> 16, n >> 8 & 255, n & 255] for n in packed.tolist()] == rgb.tolist()
    made = point_cloud2.create_cloud(message.header, message.fields, read)
    made.is_dense = True  # which it cannot know
    assert made == message
