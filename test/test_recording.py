# SPDX-License-Identifier: Apache-2.0
"""Folders and bags as Frames: recordings of known contents are written, read, and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import shared
from PIL import Image
from recordings import HUMBLE, SIZE, BagWriter, K, rgb_of, write_bag, write_folder, write_tf_bag
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import Reader, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from radseg_ros.config import NodeConfig
from radseg_ros.datatypes import InputError, RecordingError
from radseg_ros.frames.bag import BagRecording
from radseg_ros.frames.folder import FolderRecording, open_recording
from radseg_ros.frames.topics import Topics


def test_a_folder_is_read_in_order_with_its_gaps(tmp_path):
    recording = open_recording(write_folder(tmp_path / "r", [3, 4, 7, 20]), rate=5.0)
    frames = list(recording)
    assert recording.names == ["000003", "000004", "000007", "000020"] and len(recording) == 4
    assert [f.stamp_ns for f in frames] == [0, 200_000_000, 400_000_000, 600_000_000]
    np.testing.assert_array_equal(frames[2].rgb, rgb_of(7))
    np.testing.assert_allclose(frames[2].depth, 1.007, rtol=1e-6)
    np.testing.assert_allclose(frames[2].T_world_camera[:3, 3], [0.7, 0, 0])
    np.testing.assert_array_equal(frames[2].K, K)
    assert recording.drops.total == 0


def test_damaged_frames_are_named_counted_and_left_out(tmp_path):
    path = write_folder(tmp_path / "r", list(range(8)))
    (path / "pose" / "000001.txt").unlink()
    (path / "pose" / "000002.txt").write_text("1 2 3\n")
    (path / "pose" / "000003.txt").write_text("\n".join(["-inf -inf -inf -inf"] * 4))
    half = (path / "depth" / "000004.png").read_bytes()
    (path / "depth" / "000004.png").write_bytes(half[: len(half) // 2])
    Image.fromarray(rgb_of(5)).save(path / "depth" / "000005.png")
    (path / "color" / "000006.png").write_bytes(b"")
    recording = open_recording(path)
    assert [frame.stamp_ns for frame in recording] == [0, 700_000_000]
    assert dict(recording.drops.items()) == {
        "pose missing": 1,
        "pose damaged": 1,
        "pose not finite": 1,
        "depth damaged": 1,
        "depth of wrong type": 1,
        "colour damaged": 1,
    }
    examples = recording.drops.examples
    assert examples["pose damaged"] == "000002: holds 3 numbers, not 16"
    assert sorted(text[:6] for text in examples.values()) == [f"{i:06d}" for i in range(1, 7)]
    with pytest.raises(InputError, match="depth of wrong type: 000005: need one channel of 16 bit"):
        recording.frame(5)
    assert len(list(recording)) == 2 and recording.drops.total == 6, "counted anew"


@pytest.mark.parametrize("missing", ["color", "depth", "pose", "intrinsics.txt"])
def test_a_folder_without_one_of_its_parts_is_refused(tmp_path, missing):
    path = write_folder(tmp_path / "r", [0])
    (path / missing).rename(tmp_path / "gone")
    with pytest.raises(RecordingError, match=missing):
        open_recording(path)


def test_impossible_folders_are_refused(tmp_path):
    with pytest.raises(RecordingError, match="does not exist"):
        open_recording(tmp_path / "nowhere")
    with pytest.raises(RecordingError, match="neither a rosbag2"):
        open_recording(tmp_path)
    for name in ("x" * 300, "a\0b", "\n" * 300):
        with pytest.raises(RecordingError, match="cannot be read: |does not exist") as caught:
            open_recording(tmp_path / name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    path = write_folder(tmp_path / "r", [])
    with pytest.raises(RecordingError, match="holds no files of"):
        open_recording(path)
    (path / "intrinsics.txt").write_text("0 0 0\n0 0 0\n0 0 0\n")
    with pytest.raises(RecordingError, match="camera matrix"):
        open_recording(path)


def test_the_real_recording_opens():
    recording = FolderRecording(shared("data/hololens_office"))
    frame = recording.frame(200)
    assert (
        len(recording) == 373
        and frame.rgb.shape == (360, 540, 3)
        and frame.depth.shape == (360, 540)
    )
    assert 0.5 < np.median(frame.depth[frame.depth > 0]) < 10


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_bag_is_read_and_its_poses_interpolated(tmp_path, plugin):
    recording = open_recording(write_bag(tmp_path / "bag", plugin))
    assert recording.topics == Topics(
        "/robot/color/image", "/robot/depth/image", "/robot/depth/camera_info", "/robot/pose"
    )
    for _ in range(2):  # a recording can be read again
        frames = list(recording)
        assert len(frames) == len(recording) == 5, str(recording.drops)
        for n, frame in enumerate(frames):
            assert frame.stamp_ns == 1_000_000_000 + n * 100_000_000 + 5_000_000, (
                "the stamp of the depth image"
            )
            np.testing.assert_allclose(frame.T_world_camera[0, 3], n * 0.1 + 0.005, atol=1e-9)
            np.testing.assert_array_equal(frame.rgb, rgb_of(2 * n))
            np.testing.assert_allclose(frame.depth, 1.0 + 2 * n / 1000, rtol=1e-6)
            np.testing.assert_array_equal(frame.K, K)
        assert recording.drops.total == 0


@pytest.mark.parametrize("kind", ["16UC1; png compressed ", "compressedDepth", "mono16; jpeg"])
def test_depth_is_told_from_colour_by_what_its_messages_say(tmp_path, kind):
    with BagWriter(tmp_path / "bag", StoragePlugin.SQLITE3) as bag:
        bag.compressed("/a", 0, rgb_of(0), "bgr8; png compressed bgr8")
        bag.compressed("/b", 0, np.ones(SIZE, np.uint16), kind)
        bag.info("/camera_info", 0)
        bag.pose("/pose", 0, 0.0)
    topics = BagRecording(tmp_path / "bag").topics
    assert (topics.color, topics.depth) == ("/a", "/b")


@pytest.mark.parametrize("kind", ["raw", "png"])
def test_grey_of_16_bit_is_colour_beside_depth(tmp_path, kind):
    grey = np.full(SIZE, 30 * 257, np.uint16)
    with BagWriter(tmp_path / "bag", StoragePlugin.SQLITE3) as bag:
        if kind == "raw":
            bag.image("/thermal/image", 0, grey, "mono16")
        else:
            bag.compressed("/thermal/image", 0, grey, "png")
        bag.image("/range/image", 0, np.full(SIZE, 1000, np.uint16), "16UC1")
        bag.info("/range/camera_info", 0)
        bag.pose("/pose", 0, 0.0)
    (frame,) = open_recording(tmp_path / "bag")
    assert (frame.rgb == 30).all() and (frame.depth == 1).all()


def test_topics_that_were_only_offered_are_none_of_a_map(tmp_path):
    """`ros2 bag record -a` notes what image_transport offers, whether or not it sends anything."""
    compressed = "sensor_msgs/msg/CompressedImage"
    with BagWriter(tmp_path / "bag", StoragePlugin.SQLITE3) as bag:
        for name in ("/color/compressedDepth", "/depth/compressed", "/color", "/depth/theora"):
            bag.writer.add_connection(name, compressed, typestore=bag.store)
        bag.writer.add_connection("/odom", "nav_msgs/msg/Odometry", typestore=bag.store)
        bag.compressed("/color/compressed", 0, rgb_of(3), "rgb8; png compressed bgr8")
        depth = np.full(SIZE, 1000, np.uint16)
        bag.compressed("/depth/compressedDepth", 0, depth, "16UC1; compressedDepth", bytes(12))
        bag.info("/depth/camera_info", 0)
        bag.pose("/pose", 0, 0.0)
    recording = BagRecording(tmp_path / "bag")
    assert recording.topics.color == "/color/compressed"
    assert len(list(recording)) == 1
    with pytest.raises(RecordingError, match="no color topic /color; candidates: /color/compr"):
        BagRecording(tmp_path / "bag", Topics(color="/color"))


def test_depth_that_cannot_be_decoded_is_told_as_that(tmp_path):
    with BagWriter(tmp_path / "bag", StoragePlugin.SQLITE3) as bag:
        bag.image("/color", 0, rgb_of(0), "rgb8")
        bag.image("/depth", 0, np.ones(SIZE), "64FC1")
        bag.info("/camera_info", 0)
        bag.pose("/pose", 0, 0.0)
    recording = open_recording(tmp_path / "bag")
    assert not list(recording)
    assert "image encoding '64FC1' is not supported" in recording.drops.told()[0][0]


def test_a_bag_of_compressed_images_and_a_single_file(tmp_path):
    rgb, millimetres = rgb_of(9), np.arange(192, dtype=np.uint16).reshape(SIZE) + 500
    with BagWriter(tmp_path / "bag", StoragePlugin.MCAP) as bag:
        bag.compressed("/rgb/compressed", 0, rgb, "rgb8; png compressed bgr8")
        bag.compressed(
            "/depth/compressedDepth", 0, millimetres, "16UC1; compressedDepth png", header=bytes(12)
        )
        bag.info("/camera_info", 0)
        bag.pose("/pose", 0, 1.0)
    for path in (tmp_path / "bag", tmp_path / "bag" / "bag.mcap"):  # the folder, and the file alone
        (frame,) = open_recording(path)
        np.testing.assert_array_equal(frame.rgb, rgb)
        np.testing.assert_allclose(frame.depth, millimetres / 1000, rtol=1e-6)


def test_a_bag_of_ros_1_gives_the_frames_of_its_twin(tmp_path):
    path, old = write_bag(tmp_path / "bag"), tmp_path / "old.bag"
    noetic = get_typestore(Stores.ROS1_NOETIC)
    with Reader(path) as reader, Ros1Writer(old) as writer:
        written = {
            each.id: writer.add_connection(each.topic, each.msgtype, typestore=noetic)
            for each in reader.connections
        }
        for each, time_ns, data in reader.messages():
            writer.write(written[each.id], time_ns, bytes(HUMBLE.cdr_to_ros1(data, each.msgtype)))
    bags = BagRecording(path), BagRecording(old)
    assert [bag.is_ros1 for bag in bags] == [False, True]
    frames = list(zip(*bags, strict=True))
    assert len(frames) == 5 and not bags[1].drops.total
    for ours, theirs in frames:
        np.testing.assert_array_equal(ours.rgb, theirs.rgb)
        np.testing.assert_array_equal(ours.depth, theirs.depth)
        np.testing.assert_array_equal(ours.T_world_camera, theirs.T_world_camera)
        assert ours.stamp_ns == theirs.stamp_ns


def test_raw_messages_come_in_the_order_of_recording(tmp_path):
    recording = BagRecording(write_bag(tmp_path / "bag"))
    raw = list(recording.raw_messages())
    assert [m.time_ns for m in raw] == sorted(m.time_ns for m in raw) and len(raw) == 11 + 3 * 5
    assert {m.kind: m.type for m in raw} == recording.types and recording.types[
        "pose"
    ] == "geometry_msgs/msg/PoseStamped"


def test_unusable_messages_of_a_bag_are_counted(tmp_path):
    with BagWriter(tmp_path / "bag", StoragePlugin.SQLITE3) as bag:
        for i in range(4):
            ns = i * 100_000_000
            bag.pose("/pose", ns, 0.0, quat_w=0.0 if i == 1 else 1.0)
            bag.image("/rgb", ns, rgb_of(i)[:0] if i == 2 else rgb_of(i), "rgb8")
            bag.image("/depth", ns, np.ones(SIZE, np.float32), "32FC1")
        bag.info("/camera_info", 350_000_000)
    recording = open_recording(tmp_path / "bag")
    assert [frame.stamp_ns for frame in recording] == [1, 100_000_000, 300_000_000]
    assert any("rotation" in r or "rigid" in r for r in recording.drops) and any(
        "empty" in r for r in recording.drops
    )
    assert recording.drops.total == 2


def test_ambiguous_and_missing_topics_are_named(tmp_path):
    with BagWriter(tmp_path / "bag", StoragePlugin.SQLITE3) as bag:
        for side in ("/left", "/right"):
            bag.image(f"{side}/image", 0, rgb_of(0), "rgb8")
        bag.image("/depth", 0, np.ones(SIZE, np.float32), "32FC1")
        bag.info("/camera_info", 0)
        bag.pose("/pose", 0, 0.0)
    several = (
        "several color topics: /left/image, /right/image; say which one .*--bag-color TOPIC.*"
        "topics.color=TOPIC"
    )
    with pytest.raises(RecordingError, match=several):
        open_recording(tmp_path / "bag")
    with pytest.raises(
        RecordingError, match="no color topic /middle; candidates: /left/image, /right/image"
    ):
        open_recording(tmp_path / "bag", topics={"color": "/middle"})


def test_a_damaged_bag_is_refused(tmp_path):
    path = write_bag(tmp_path / "bag")
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: 9}\n")
    with pytest.raises(RecordingError, match="cannot be read as a bag"):
        open_recording(path)
    (tmp_path / "x.mcap").write_bytes(b"nothing")
    with pytest.raises(RecordingError, match="cannot be read as a bag"):
        open_recording(tmp_path / "x.mcap")


def test_a_bag_of_transforms_needs_no_topic_of_poses(tmp_path):
    recording = open_recording(write_tf_bag(tmp_path / "bag"))
    x = [frame.T_world_camera[0, 3] for frame in recording]
    np.testing.assert_allclose(x, [0.5, 0.6, 0.7, 0.8, 0.9], atol=1e-9)
    assert recording.topics.pose == "" and not recording.drops.total
    for account in recording.assembler.accounts().values():
        parts = account.used + account.superseded + account.waiting + account.dropped
        assert account.received == parts
    messages = list(recording.raw_messages())
    assert messages[0].kind == "tf_static" and sum(m.kind == "tf" for m in messages) == 11
    assert [m.time_ns for m in messages] == sorted(m.time_ns for m in messages)


def test_transforms_of_a_bag_where_its_poses_are_those_of_a_body(tmp_path):
    def write(path: Path, *extrinsic: tuple[str, str, float]) -> Path:
        with BagWriter(path, StoragePlugin.MCAP) as bag:
            bag.transforms("/tf_static", 10**9, *extrinsic)
            for ns in range(10**9, 2 * 10**9, 10**8):
                bag.info("/camera_info", ns)
                bag.pose("/odom", ns, ns / 1e9, odometry=True, child="base_link")
                bag.image("/rgb", ns, rgb_of(1), "rgb8")
                bag.image("/depth", ns, np.full(SIZE, 1000, np.uint16), "16UC1")
        return path

    frames = list(open_recording(write(tmp_path / "whole", ("base_link", "camera", 0.5))))
    np.testing.assert_allclose([f.T_world_camera[0, 3] for f in frames], np.arange(1.5, 2.45, 0.1))
    recording = open_recording(write(tmp_path / "without", ("base_link", "lidar", 0.5)))
    assert not list(recording) and "between 'base_link' and 'camera'" in str(recording.drops)


def test_which_poses_of_a_bag_are_used_can_be_said(tmp_path):
    with BagWriter(tmp_path / "bag", StoragePlugin.SQLITE3) as bag:
        bag.info("/camera_info", 10**9)
        bag.image("/rgb", 10**9, rgb_of(1), "rgb8")
        bag.image("/depth", 10**9, np.full(SIZE, 1000, np.uint16), "16UC1")
        bag.pose("/pose", 10**9, 7.0)
        bag.transforms("/tf", 10**9, ("map", "camera", 3.0))
    for source, x in (("auto", 7.0), ("topic", 7.0), ("tf", 3.0)):
        (frame,) = open_recording(tmp_path / "bag", node=NodeConfig(pose_source=source))
        assert frame.T_world_camera[0, 3] == x
