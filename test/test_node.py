# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Real nodes, as processes, over the real transport: node, player and client, and what happens to
bad input.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require_ros, shared
from PIL import Image as Picture

require_ros()

import rclpy
from color_encoder import ColorEncoder
from color_node import SLOW, SLOW_PIXEL
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from recordings import BagWriter, K, write_folder
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from radseg_interfaces.srv import LoadMap, QueryText, SaveMap
from radseg_ros.config import Config
from radseg_ros.datatypes import Cloud
from radseg_ros.frames.folder import open_recording
from radseg_ros.mapper import Mapper
from radseg_ros.ros import messages
from radseg_ros.ros.transport import profile_environment

HERE = Path(__file__).parent
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RED_CENTRE = (0.2, 0.0, 2.0)  # where write_scene puts the red square
FRAMES = 8
BACKLOG = 20


def write_scene(path: Path) -> Path:
    """A grey wall at 2 m with a red square of 0.4 m.

    The camera moves 2 cm to the right from frame to frame.
    """
    write_folder(path, list(range(FRAMES)))
    height, width, focal = 120, 160, 120.0
    np.savetxt(path / "intrinsics.txt", [[focal, 0, 80], [0, focal, 60], [0, 0, 1]])
    for i in range(FRAMES):
        left, right = (80 + focal * (RED_CENTRE[0] + side - 0.02 * i) / 2 for side in (-0.2, 0.2))
        rgb = np.full((height, width, 3), 128, np.uint8)
        rgb[48:72, round(left) : round(right)] = (255, 0, 0)
        Picture.fromarray(rgb).save(path / "color" / f"{i:06d}.png")
        Picture.fromarray(np.full((height, width), 2000, np.uint16)).save(
            path / "depth" / f"{i:06d}.png"
        )
        T = np.eye(4)
        T[0, 3] = 0.02 * i
        np.savetxt(path / "pose" / f"{i:06d}.txt", T)
    return path


def wait_for(condition: Callable[[], Any], timeout: float = 20.0, what: str = "") -> Any:
    """The first true value of ``condition``."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout} s: {what or condition}"
        time.sleep(0.05)
    return value


class Process:
    """A child process whose output is kept, and which never outlives the test."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.lines: list[str] = []
        path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-u", *command],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(
            target=lambda: self.lines.extend(iter(self.process.stdout.readline, "")), daemon=True
        )
        self._reader.start()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def result(self, timeout: float = 40.0) -> tuple[int, str]:
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code, self.text

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.result()[0]


class Robot:
    """This process's own ROS node: sends messages, calls services, listens to clouds."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("test_robot")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._closed = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}

    def _spin(self) -> None:
        while not self._closed:
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        self.node.destroy_node()

    def call(self, type_: Any, name: str, timeout: float = 15.0, **request: Any) -> Any:
        client = self._clients.get(name) or self._clients.setdefault(
            name, self.node.create_client(type_, name)
        )
        assert client.wait_for_service(timeout), f"no service {name}"
        future = client.call_async(type_.Request(**request))
        wait_for(future.done, timeout, f"answer of {name}")
        return future.result()

    def query(self, *labels: str, node: str = "/radseg_mapping", **request: Any) -> Any:
        return self.call(QueryText, f"{node}/query", labels=list(labels), **request)

    def publish(self, topic: str, message: Any) -> None:
        if topic not in self._publishers:
            qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
            self._publishers[topic] = self.node.create_publisher(type(message), topic, qos)
            wait_for(self._publishers[topic].get_subscription_count, what=f"subscriber of {topic}")
            time.sleep(0.3)
        self._publishers[topic].publish(message)

    def latest(self, topic: str) -> PointCloud2:
        """The latched message, received by a subscriber that comes late."""
        received: list = []
        subscription = self.node.create_subscription(PointCloud2, topic, received.append, LATCHED)
        wait_for(lambda: received, what=topic)
        self.node.destroy_subscription(subscription)
        return received[-1]


@pytest.fixture(scope="module")
def robot() -> Iterator[Robot]:
    """ROS in this process, in a domain of its own."""
    changes = {
        "ROS_DOMAIN_ID": str(10 + os.getpid() % 90),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **profile_environment(),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setenv(name, value)
        rclpy.init()
        robot = Robot()
        yield robot
        robot.close()
        rclpy.shutdown()


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "recording")


@pytest.fixture(scope="module")
def node(robot: Robot, maps: Path) -> Iterator[Process]:
    """The mapping node with the test encoder; it must survive all tests and end cleanly."""
    settings = {"encoder": "colors", "short_side": 0}
    settings |= {"node.publish_period": 0.2, "node.backlog": BACKLOG, "node.map_directory": maps}
    parameters = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    process = Process(str(HERE / "color_node.py"), "--ros-args", *parameters)
    wait_for(
        lambda: "ready" in process.text or process.process.poll() is not None,
        60,
        "start of the node",
    )
    yield process
    assert process.stop() == 0 and "Traceback" not in process.text, process.text


@pytest.fixture
def empty(robot: Robot, node: Process) -> Any:
    """The running node with an empty map; returns a function that gives drops counted since."""
    assert robot.call(Trigger, "/radseg_mapping/reset").success
    before = {drop.reason: drop.count for drop in robot.query("red").status.drops}

    def drops() -> dict[str, int]:
        now = {drop.reason: drop.count for drop in robot.query("red").status.drops}
        return {
            reason: count - before.get(reason, 0)
            for reason, count in now.items()
            if count != before.get(reason, 0)
        }

    return drops


def integrated(robot: Robot) -> int:
    return robot.query("red").status.frames_integrated


def play(*arguments: str) -> str:
    code, text = Process("-m", "radseg_ros.ros.player", *arguments).result()
    assert code == 0, text
    return text


def as_array(cloud: PointCloud2) -> np.ndarray:
    assert (
        cloud.point_step == messages.POINT.itemsize
        and cloud.width * cloud.point_step == cloud.row_step == len(cloud.data)
    )
    return np.frombuffer(cloud.data, messages.POINT)


def offline(recording: Path) -> Mapper:
    """The map that the same frames give without ROS."""
    mapper = Mapper(Config(short_side=0), ColorEncoder())
    for frame in open_recording(recording):
        mapper.integrate(frame)
    return mapper


def test_silence_is_explained(robot, node):
    """The first test: nothing has been published yet."""
    line = wait_for(
        lambda: next((line for line in node.lines if "no frame for 5 s" in line), None), 10
    )
    assert "/depth/camera_info, /pose, /depth/image, /color/image: no publisher" in line


def test_a_recording_is_mapped_and_answers_queries(robot, node, empty, scene):
    first = integrated(robot)
    assert re.search(
        rf"published {FRAMES} info, {FRAMES} pose, {FRAMES} depth, {FRAMES} color",
        play(str(scene), "--rate", "10"),
    )
    wait_for(lambda: integrated(robot) == first + FRAMES, what=f"all frames; {empty()}")
    assert not empty(), "nothing was lost"

    answer = robot.query("a red square", "blue", return_cloud=True)
    assert (
        answer.success
        and answer.header.frame_id == "map"
        and answer.header.stamp.sec > 1_500_000_000
    )
    red, blue = answer.answers
    assert (
        red.found
        and red.label == "a red square"
        and not blue.found
        and not blue.objects
        and blue.best_score < red.best_score
    )
    (square,) = red.objects
    centre = (square.centre.x, square.centre.y, square.centre.z)
    np.testing.assert_allclose(centre, RED_CENTRE, atol=0.05)
    assert (
        0.3 < square.size.x < 0.55
        and square.voxels > 30
        and square.last_seen == answer.header.stamp
    )

    reference = offline(scene)
    points = as_array(answer.cloud)
    assert [field.name for field in answer.cloud.fields] == [
        "x",
        "y",
        "z",
        "rgb",
        "label",
        "score",
        "hits",
    ]
    assert len(points) == len(reference.map) == answer.status.voxels
    expected = reference.query(["a red square", "blue"]).cloud()
    assert sorted(zip(*points_of(points), strict=True)) == sorted(
        zip(*points_of_cloud(expected), strict=True)
    ), "node == offline"


def points_of(points: np.ndarray) -> list[list]:
    return [np.round(points[name], 4).tolist() for name in ("x", "y", "z", "label", "hits")]


def points_of_cloud(cloud: Cloud) -> list[list]:
    return [np.round(column, 4).tolist() for column in (*cloud.xyz.T, cloud.label, cloud.hits)]


def test_clouds_are_latched_and_stamped_with_the_last_frame(robot, node, scene):
    """Continues with the map of the test before."""
    answer = robot.query("red")
    for topic in ("rgb_cloud", "semantic_cloud"):
        cloud = robot.latest(f"/radseg_mapping/{topic}")
        assert cloud.header == answer.header
        points = as_array(cloud)
        red = np.abs(points["x"] - RED_CENTRE[0]) + np.abs(points["y"]) < 0.1
        if topic == "rgb_cloud":
            assert (points["rgb"][red] == 0xFF0000).all() and (points["label"] == -1).all()
        else:
            assert (points["label"][red] == 0).all() and (points["label"] == -1).sum() > red.sum()


def test_reset_empties_the_map_and_an_empty_cloud_keeps_its_layout(robot, node, empty):
    answer = robot.query("red", return_cloud=True)
    assert (
        answer.success
        and answer.status.voxels == 0
        and not answer.answers[0].found
        and answer.answers[0].best_score == 0
    )
    assert (
        len(as_array(answer.cloud)) == 0
        and len(answer.cloud.fields) == 7
        and answer.header.stamp.sec == 0
    )
    wait_for(lambda: robot.latest("/radseg_mapping/rgb_cloud").width == 0, what="empty cloud")


def test_requests_that_cannot_be_answered_say_why(robot, node):
    for request, text in (
        ({"labels": []}, "at least one label"),
        ({"labels": ["red", "  "]}, "none of them empty"),
        ({"labels": ["a walrus"]}, "knows only red"),
        ({"labels": ["red"], "threshold": 1.5}, "query.threshold must be in 0..1"),
    ):
        answer = robot.call(QueryText, "/radseg_mapping/query", **request)
        assert not answer.success and text in answer.message and not answer.answers


@pytest.mark.slow
def test_the_client_prints_a_table_and_json(robot, node, empty, scene):
    first = integrated(robot)
    play(str(scene), "--rate", "20", "--pose", "odometry", "--count", "3")
    wait_for(lambda: integrated(robot) == first + 3)
    table = Process("-m", "radseg_ros.ros.query_client", "red", "blue")
    printed = subprocess.run(
        [sys.executable, "-m", "radseg_ros.ros.query_client", "red", "--json"],
        capture_output=True,
        text=True,
    )
    code, text = table.result()
    assert code == 0 and re.search(r"red +1\.00 +0\.2\d +-?0\.0\d +2\.00", text), text
    assert re.search(r"blue +0\.\d\d +not found", text), text
    result = json.loads(printed.stdout)
    assert printed.returncode == 0 and result["answers"][0]["found"]
    assert result["frame_id"] == "map" and result["frames"]["integrated"] == first + 3


def test_a_client_without_a_node_gives_up(robot):
    code, text = Process(
        "-m", "radseg_ros.ros.query_client", "red", "--node", "/nobody", "--timeout", "0.5"
    ).result()
    assert code == 1 and "no service /nobody/query after 0.5 s" in text and "Traceback" not in text


def write_looping_bag(path: Path) -> Path:
    with BagWriter(path, StoragePlugin.MCAP) as bag:
        for i in range(12):
            ns = 5_000_000_000 + i * 150_000_000
            bag.pose("/odom", ns, i / 100, odometry=True)
            bag.info("/camera/info", ns)
            bag.image("/camera/color", ns, np.full((12, 16, 3), 255, np.uint8), "rgb8")
            bag.image("/camera/depth", ns, np.full((12, 16), 1000, np.uint16), "16UC1")
    return path


@pytest.mark.slow
def test_a_bag_that_starts_again_is_mapped_again(robot, node, empty, tmp_path):
    first, logged = integrated(robot), len(node.lines)
    player = Process(
        "-m",
        "radseg_ros.ros.player",
        str(write_looping_bag(tmp_path / "bag")),
        "--speed",
        "3",
        "--loop",
    )
    wait_for(
        lambda: integrated(robot) >= first + 30,
        what=f"two turns of twelve frames and a half; {empty()}",
    )
    player.stop()
    assert re.search(r"published .*\d+ info", player.text), player.text
    warnings = [line for line in node.lines[logged:] if "time ran backwards on" in line]
    said = [float(re.search(r"\[(\d+\.\d+)\]", line)[1]) for line in warnings]  # s
    assert said and all(
        later - earlier > 4.5 for earlier, later in zip(said, said[1:], strict=False)
    ), (
        "four topics jump at once: the user reads of it once, and of the next turn not within 5 "
        f"s: {said}"
    )
    assert robot.query("white").answers[0].found


def test_save_load_and_their_refusals(robot, node, empty, scene, maps):
    first = integrated(robot)
    play(str(scene), "--rate", "20")
    wait_for(lambda: integrated(robot) == first + FRAMES)
    before = robot.query("red", return_cloud=True)
    saved = robot.call(SaveMap, "/radseg_mapping/save_map", path="rooms/office")
    assert saved.success, saved.message
    assert (
        Path(saved.path) == maps / "rooms" / "office.radmap"
        and saved.voxels == before.status.voxels
    )
    assert saved.bytes == Path(saved.path).stat().st_size
    robot.call(Trigger, "/radseg_mapping/reset")
    assert robot.query("red").status.voxels == 0
    loaded = robot.call(LoadMap, "/radseg_mapping/load_map", path="rooms/office")
    assert loaded.success and loaded.voxels == saved.voxels, loaded.message
    after = robot.query("red", return_cloud=True)
    assert after.answers == before.answers and after.header == before.header
    merged = robot.call(LoadMap, "/radseg_mapping/load_map", path="rooms/office.radmap", merge=True)
    assert merged.success and merged.voxels == saved.voxels
    doubled = as_array(robot.query("red", return_cloud=True).cloud)["hits"].sum()
    assert doubled == 2 * as_array(before.cloud)["hits"].sum()
    ply = robot.call(SaveMap, "/radseg_mapping/save_map", path="office.ply")
    assert ply.success and (maps / "office.ply").read_bytes().startswith(b"ply"), ply.message

    labelled = robot.call(
        SaveMap, "/radseg_mapping/save_map", path="labels.pcd", labels=["red", "blue"]
    )
    fields = next(
        line
        for line in (maps / "labels.pcd").read_bytes().splitlines()
        if line.startswith(b"FIELDS")
    )
    assert (
        labelled.success
        and labelled.voxels == ply.voxels
        and set(fields.split()) >= {b"x", b"rgb", b"label", b"score"}
    )

    (maps / "broken.radmap").write_bytes(Path(saved.path).read_bytes()[:-100])
    for service, type_, path, text in (
        ("save_map", SaveMap, "../office", "without '..'"),
        ("save_map", SaveMap, "/tmp/office", "must name a file below"),
        ("load_map", LoadMap, "nowhere", "no file nowhere.radmap"),
        ("load_map", LoadMap, "broken", "broken.radmap"),
        ("load_map", LoadMap, "office.ply", "only .radmap can be loaded"),
        ("save_map", SaveMap, "office.ply/inner", "office.ply is a file, not a folder"),
    ):
        response = robot.call(type_, f"/radseg_mapping/{service}", path=path)
        assert not response.success and text in response.message, response.message
    assert robot.query("red").status.voxels == saved.voxels, (
        "a refused file leaves the map as it is"
    )


class Sender:
    """Publishes one frame after the other with whatever is wrong with it."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.stamp_ns = time.time_ns()

    def __call__(
        self,
        color: dict | None = None,
        depth: dict | None = None,
        info: dict | None = None,
        pose: Any = None,
    ) -> None:
        self.stamp_ns += 100_000_000
        camera, world = (
            messages.header(self.stamp_ns, "camera"),
            messages.header(self.stamp_ns, "map"),
        )
        rgb, metres = np.full((12, 16, 3), 200, np.uint8), np.full((12, 16), 1.5, np.float32)
        sent = {
            "depth/camera_info": (messages.info_message(K, (12, 16), camera), info),
            "color/image": (messages.color_message(rgb, camera), color),
            "depth/image": (messages.depth_message(metres, camera), depth),
            "pose": (messages.pose_message(np.eye(4), world, "camera"), pose),
        }
        for topic, (message, changes) in sent.items():
            for path, value in (changes or {}).items():
                *parts, leaf = path.split(".")
                setattr(functools.reduce(getattr, parts, message), leaf, value)
            self.robot.publish(topic, message)


def test_bad_input_is_dropped_with_its_reason_and_the_node_goes_on(robot, node, empty):
    send = Sender(robot)
    first = integrated(robot)
    send()
    wait_for(lambda: integrated(robot) == first + 1, what=f"a good frame; {empty()}")
    bad = [
        (
            {"color": {"encoding": "yuv422"}},
            "image encoding 'yuv422' is not supported; supported: rgb8",
        ),
        ({"color": {"height": 0, "data": b""}}, "image is empty (16x0)"),
        ({"color": {"data": bytes(100)}}, "image data is truncated: 100 bytes"),
        (
            {"color": {"height": 6, "data": bytes(288)}},
            "colour image (16x6) and depth image (16x12) do not show the same view",
        ),
        ({"depth": {"encoding": "rgb8"}}, "depth image has encoding 'rgb8'"),
        ({"color": {"header.stamp.nanosec": 10**9}}, "stamp that is no time"),
        ({"pose": {"pose.pose.orientation.w": 0.0}}, "pose not rigid"),
        ({"pose": {"header.frame_id": "odom"}}, "pose in frame 'odom', but the map is in 'map'"),
    ]
    for changes, _ in bad:
        send(**changes)
    send()
    wait_for(
        lambda: integrated(robot) >= first + 2, what=f"the good frame after the bad ones; {empty()}"
    )
    counted = wait_for(lambda: (found := empty()) and len(found) >= len(bad) and found)
    for _, reason in bad:
        assert any(reason in text for text in counted), (reason, counted)
    # The two frames without a usable pose of their own were completed by interpolation between
    # their neighbours.
    wait_for(
        lambda: integrated(robot) == first + 4,
        what=f"two good and two interpolated frames; {empty()}",
    )
    voxels = robot.query("red").status.voxels
    nothing = messages.depth_message(
        np.full((12, 16), np.nan, np.float32), messages.header(0, "camera")
    )
    send(depth={"encoding": nothing.encoding, "step": nothing.step, "data": nothing.data})
    wait_for(lambda: any("no returns" in reason for reason in empty()), what="an empty frame")
    status = robot.query("red").status
    assert (status.voxels, status.frames_integrated) == (voxels, first + 4)


def test_a_query_is_answered_while_the_encoder_works_and_the_newest_frames_win(robot, node, empty):
    send = Sender(robot)
    slow = messages.color_message(
        np.full((12, 16, 3), SLOW_PIXEL, np.uint8), messages.header(0, "camera")
    ).data
    first = integrated(robot)
    send(color={"data": slow})
    wait_for(lambda: robot.query("red").status.frames_waiting, what="the first frame")
    start = time.monotonic()
    status = robot.query("red").status
    assert time.monotonic() - start < SLOW / 2 and status.frames_integrated == first, (
        "answered while the frame was encoded"
    )
    for _ in range(BACKLOG + 3):
        send()
    wait_for(
        lambda: integrated(robot) == first + 1 + BACKLOG, what="the first and the newest frames"
    )
    ((reason, count),) = empty().items()
    assert count == 3 and "replaced by a newer one" in reason


@pytest.mark.slow
def test_a_burst_of_questions_is_answered_or_refused_at_once(robot, node, empty, scene):
    first = integrated(robot)
    play(str(scene), "--rate", "20")
    wait_for(lambda: integrated(robot) == first + FRAMES)
    client = robot.node.create_client(QueryText, "/radseg_mapping/query")
    assert client.wait_for_service(5)
    futures = [client.call_async(QueryText.Request(labels=["red"])) for _ in range(200)]
    wait_for(lambda: all(future.done() for future in futures), 60, "200 answers")
    answers = [future.result() for future in futures]
    refused = [answer for answer in answers if not answer.success]
    assert all("busy: 64 requests are waiting" in answer.message for answer in refused)
    good = [answer for answer in answers if answer.success]
    assert len(good) >= 64 and all(answer.answers[0].found for answer in good)
    robot.node.destroy_client(client)
    assert robot.query("red").success, "and then it goes on"


def test_questions_that_are_refused_name_what_is_wrong(robot, node):
    for request, text in (
        ({"labels": ["x"] * 1001}, "at most 1000 labels"),
        ({"labels": ["red"], "threshold": float("nan")}, "query.threshold must be a finite number"),
        ({"labels": ["red"], "threshold": 7.0}, "query.threshold must be in 0..1"),
    ):
        answer = robot.call(QueryText, "/radseg_mapping/query", **request)
        assert not answer.success and text in answer.message, answer.message


def test_lite_finds_the_sofa_of_the_real_recording(robot):
    recording = shared("data/hololens_office")
    lite = ["-p", "encoder:=lite", "-p", "node.backlog:=50", "-r", "__ns:=/lite"]
    process = Process("-m", "radseg_ros.ros.mapper_node", "--ros-args", *lite)
    try:
        topics = [word for topic in ("color/image", "depth/image", "depth/camera_info", "pose")
                  for word in ("-r", f"{topic}:=/lite/{topic}")]  # fmt: skip
        play(
            str(recording), "--start", "200", "--count", "12", "--rate", "5", "--ros-args", *topics
        )
        node = "/lite/radseg_mapping"
        wait_for(
            lambda: robot.query("sofa", node=node).status.frames_integrated == 12,
            60,
            "twelve frames",
        )
        sofa, giraffe = robot.query("sofa", "giraffe", node=node).answers
        assert sofa.found and not giraffe.found
        assert -3.5 < sofa.objects[0].centre.z < 0.5 and 0.5 < sofa.objects[0].centre.x < 3.5, (
            "where the labelled boxes are"
        )
    finally:
        assert process.stop() == 0, process.text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["-p", "lift.max_rnage:=4.0"],
            "unknown option lift.max_rnage; did you mean lift.max_range?",
        ),
        (["-p", "encoder:=radseg", "-p", "radseg.checkpoint:=/nowhere/c.pth.tar"], "encoder:=lite"),
        pytest.param(
            ["-p", "encoder:=light"],
            "'light' is not one of radseg, lite; did you mean",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["-p", "node.camera_offset:=[1.0]"],
            "camera_offset takes 16 numbers",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_node_that_cannot_work_ends_with_one_clear_line(robot, arguments, text):
    code, output = Process("-m", "radseg_ros.ros.mapper_node", "--ros-args", *arguments).result(60)
    assert code == 1 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("radseg_mapping:")]
    assert text in line


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "missing.yaml"),
        ("/**:\n  ros__parameters:\n    node.camera_offset: [0, 0.1]\n", "params.yaml"),
        ("{", "params.yaml"),
        ("/**:\n  ros__parameters:\n    map:\n      voxel_size: .inf\n", "map.voxel_size"),
    ],
)
def test_a_parameter_file_that_cannot_be_used_is_one_line(robot, tmp_path, content, text):
    path = tmp_path / ("missing.yaml" if content is None else "params.yaml")
    if content is not None:
        path.write_text(content)
    arguments = ["--ros-args", "-p", "encoder:=lite", "--params-file", str(path)]
    code, output = Process("-m", "radseg_ros.ros.mapper_node", *arguments).result(60)
    assert code == 1 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("radseg_mapping:")]
    assert text in line


def test_a_map_that_was_not_saved_is_told_at_the_end(robot, scene):
    node = "/unsaved/radseg_mapping"
    parameters = ["-p", "encoder:=colors", "-p", "short_side:=0", "-r", "__ns:=/unsaved"]
    process = Process(str(HERE / "color_node.py"), "--ros-args", *parameters)
    try:
        wait_for(lambda: "ready" in process.text, 60, "start of the node")
        remaps = [
            w
            for topic in ("color/image", "depth/image", "depth/camera_info", "pose")
            for w in ("-r", f"{topic}:=/unsaved/{topic}")
        ]
        play(str(scene), "--rate", "20", "--ros-args", *remaps)
        wait_for(lambda: robot.query("red", node=node).status.voxels > 0)
    finally:
        process.process.send_signal(signal.SIGTERM)
        code, text = process.result()
    assert code == 0 and re.search(r"map of \d+ voxels is lost: it was not saved", text), text


def test_a_player_without_listeners_gives_up(robot, scene):
    elsewhere = ["--wait-timeout", "0.3", "--ros-args", "-r", "pose:=/else/pose"]
    code, text = Process("-m", "radseg_ros.ros.player", str(scene), *elsewhere).result()
    assert (
        code == 1
        and "no subscriber of" in text
        and "/else/pose" in text
        and "published nothing" in text
    )
    code, text = Process("-m", "radseg_ros.ros.player", str(scene.parent)).result()
    assert code == 1 and "neither a rosbag2" in text and "Traceback" not in text
