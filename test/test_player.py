# SPDX-License-Identifier: Apache-2.0
"""The player: what it refuses, how it keeps time, and what it says of damaged recordings."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import require_ros
from PIL import Image
from recordings import BagWriter, write_bag, write_folder
from rosbags.rosbag2 import StoragePlugin
from waiting import PATIENCE

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.frames.images.depth import depth_image
from radseg_ros.ros import player


def start(*arguments: object) -> subprocess.Popen[str]:
    """`radseg-play` without anybody who listens."""
    require_ros()
    command = [sys.executable, "-m", "radseg_ros.ros.player", *map(str, arguments)]
    command += ["--no-wait-for-subscribers", "--speed", "20"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Status, stdout, stderr."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--speed", "0"),
        ("--speed", "nan"),
        ("--speed", "inf"),
        ("--rate", "-1"),
        ("--rate", "fast"),
        ("--start", "-1"),
        ("--count", "-3"),
        ("--count", "1.5"),
        ("--depth-scale", "0"),
        ("--wait-timeout", "nan"),
    ],
    ids=" ".join,
)
def test_impossible_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        player.parser().parse_args(["recording", *arguments])
    assert stopped.value.code == 2 and f"argument {arguments[0]}" in capsys.readouterr().err


def test_the_clock_of_a_recording_may_have_been_set(monkeypatch):
    require_ros()
    import rclpy

    slept, now = [], [100.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(rclpy, "ok", lambda: True)
    monkeypatch.setattr(player.time, "sleep", sleep)
    monkeypatch.setattr(player.time, "monotonic", lambda: now[0])
    made = object.__new__(player.Player)
    made.published = Counter()
    made.publishers = {"pose": SimpleNamespace(publish=lambda message: None)}
    seconds = [0.0, 1_600_000_000, 1_600_000_002, 1_600_000_001, 1_600_000_003, 8_000_000_000]
    made.play(((round(s * 1e9), "pose", b"") for s in seconds), speed=4.0)
    assert made.published["pose"] == 6
    np.testing.assert_allclose(slept, [0.5, 0.25])


class Stranger:
    """A node that others ask for its parameters, some of whose answers get lost."""

    def __init__(self, offers_from: float, lost: int, clock: list[float]) -> None:
        self.asked, self._from, self._lost, self._clock = 0, offers_from, lost, clock

    def service_is_ready(self) -> bool:
        return self._clock[0] >= self._from

    def call_async(self, request: object) -> SimpleNamespace:
        self.asked += 1
        number = self.asked
        return SimpleNamespace(done=lambda: number > self._lost)


@pytest.mark.parametrize(
    ("strangers", "seconds"),
    [
        ({}, 0.0),
        ({"/quick": (0.0, 0), "/forgetful": (0.5, 3)}, 1.5),
        ({"/quick": (0.0, 0), "/without": (np.inf, 0)}, player.NO_PARAMETERS),
        ({"/silent": (1.0, 999)}, player.ANSWERED_WITHIN),
    ],
    ids=["nobody", "some answers are lost", "no parameters", "no answer"],
)
def test_nothing_is_sent_before_everybody_who_can_be_asked_hears_it(
    monkeypatch, strangers, seconds
):
    require_ros()
    now = [0.0]
    monkeypatch.setattr(player.time, "monotonic", lambda: now[0])
    known = {f"{name}/get_parameters": Stranger(*each, now) for name, each in strangers.items()}
    node = SimpleNamespace(
        context=SimpleNamespace(ok=lambda: True),
        create_client=lambda type_, name: known[name],
        destroy_client=lambda client: None,
    )
    player.wait_until_known(node, strangers, lambda: now.append(now.pop() + 0.25))
    assert now[0] == pytest.approx(seconds, abs=0.5)
    assert all(each.asked for each in known.values() if each.service_is_ready())


@pytest.mark.slow
def test_who_listens_for_something_else_is_told_which_option_to_set(capsys):
    require_ros()
    import rclpy
    from geometry_msgs.msg import PoseStamped
    from nav_msgs.msg import Odometry
    from robot import wait_for
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

    types = {"info": CameraInfo, "pose": PoseStamped, "depth": Image, "color": CompressedImage}
    heard = {
        "depth/camera_info": CameraInfo,
        "pose": Odometry,
        "depth/image/compressedDepth": CompressedImage,
        "color/image": Image,
    }
    another = rclpy.Context()  # one participant cannot have a topic of two types
    rclpy.init()
    rclpy.init(context=another)
    try:
        listener = rclpy.create_node("listener", context=another)
        for topic, type_ in heard.items():
            listener.create_subscription(type_, topic, print, 1)
        playing = player.Player(types, {"color"})
        wait_for(lambda: all(map(playing.node.count_subscribers, heard)), "whoever listens")
        with pytest.raises(RecordingError, match="no subscriber of"):
            playing.wait_for_subscribers(0.5)
    finally:
        rclpy.shutdown(context=another)
        rclpy.shutdown()
    told = capsys.readouterr().err.splitlines()
    cures = ["node.depth_image_transport raw", "node.image_transport compressed", "pose_type pose"]
    assert len(told) == 3 and all(any(line.endswith(cure) for line in told) for cure in cures)


def test_the_depth_scale_of_a_folder_is_an_option(tmp_path):
    require_ros()
    path = write_folder(tmp_path / "r", [0, 1, 2])
    units = np.asarray(Image.open(path / "depth" / "000001.png")).astype(float)
    options = player.parser().parse_args([str(path), "--depth-scale", "0.0002", "--start", "1"])
    recording, _, _ = player._open(options)
    assert isinstance(recording, FolderRecording)
    timeline = list(player.folder_timeline(recording, options, 0))
    depth = [message for _, kind, message in timeline if kind == "depth"]
    assert len(depth) == 2 and [time for time, *_ in timeline[::4]] == [0, 100_000_000]
    np.testing.assert_allclose(depth_image(depth[0]), units * 0.0002, rtol=1e-6)


@pytest.mark.slow
def test_damaged_messages_of_a_bag_are_left_out_and_told(tmp_path):
    with BagWriter(tmp_path / "bag", StoragePlugin.MCAP) as bag:
        for i in range(4):
            ns = i * 100_000_000
            bag.damage = lambda topic, data, i=i: data[:30] if i == 2 else data
            bag.pose("/pose", ns, 0.0)
            bag.info("/camera_info", ns)
            bag.damage = lambda topic, data: data
            bag.image("/rgb", ns, np.zeros((12, 16, 3), np.uint8), "rgb8")
            bag.image("/depth", ns, np.ones((12, 16), np.float32), "32FC1")
    status, out, err = result(start(tmp_path / "bag"))
    assert status == 0 and "published 3 pose, 3 info, 4 color, 4 depth" in out
    assert "left out 1 x pose message damaged, 1 x camera info message damaged" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_bag_that_cannot_be_played_gets_one_line_with_its_cure(tmp_path):
    whole = write_bag(tmp_path / "whole")
    killed = write_bag(tmp_path / "killed")
    (killed / "metadata.yaml").unlink()
    two = tmp_path / "two"
    with BagWriter(two, StoragePlugin.SQLITE3) as bag:
        for side in ("/left", "/right"):
            bag.image(f"{side}/image", 0, np.zeros((12, 16, 3), np.uint8), "rgb8")
        bag.image("/depth", 0, np.ones((12, 16), np.float32), "32FC1")
        bag.info("/camera_info", 0)
        bag.pose("/pose", 0, 0.0)
    players = [start(whole), start(killed), start(two), start(two, "--bag-color", "/left/image")]
    status, out, err = result(players[0])
    assert status == 0 and "published" in out and not err
    status, out, err = result(players[1])
    assert status == 1 and err.count("\n") == 1 and "ros2 bag reindex" in err
    status, out, err = result(players[2])
    assert status == 1 and err.count("\n") == 1
    assert "/left/image, /right/image; say which one (radseg-play --bag-color TOPIC" in err
    status, out, err = result(players[3])
    assert status == 0 and "1 color" in out and not err
