# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Real nodes, as processes, over the real transport: node, player and client, and what happens to
bad input.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import require_ros, shared
from PIL import Image as Picture

require_ros()

from color_encoder import ColorEncoder
from color_node import GATE, HELD_PIXEL
from geometry_msgs.msg import Pose
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile
from recordings import BagWriter, write_folder
from robot import FRAME_NS, NODE, WALL, Process, Robot, Sender, ask, color_node, play, wait_for
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from radseg_interfaces.srv import LoadMap, QueryText, SaveMap, SetLabels
from radseg_ros.config import Config
from radseg_ros.datatypes import Cloud
from radseg_ros.frames.folder import open_recording
from radseg_ros.mapper import Mapper
from radseg_ros.ros import messages

RED_CENTRE = (0.2, 0.0, 2.0)  # where write_scene puts the red square
FRAMES = 8
BACKLOG = 20
# Cannot work: arguments of the node, content of its parameter file, what it says.
REFUSED = {
    "misspelt parameter": (
        ["-p", "lift.max_rnage:=4.0"],
        None,
        "unknown option lift.max_rnage; did you mean lift.max_range?",
    ),
    "no weights": (
        ["-p", "encoder:=radseg", "-p", "radseg.checkpoint:=/nowhere/c.pth.tar"],
        None,
        "encoder:=lite",
    ),
    "no such encoder": (
        ["-p", "encoder:=light"],
        None,
        "'light' is not one of radseg, lite, naclip",
    ),
    "wrong length": (["-p", "node.camera_offset:=[1.0]"], None, "camera_offset takes 16 numbers"),
    "no file": (["--params-file", "missing.yaml"], None, "missing.yaml"),
    "mixed list": (
        ["--params-file", "params.yaml"],
        "/**:\n  ros__parameters:\n    node.camera_offset: [0, 0.1]\n",
        "params.yaml",
    ),
    "no YAML": (["--params-file", "params.yaml"], "{", "params.yaml"),
    "a number for a QoS policy": (
        ["-p", "qos_overrides./refused/pose.subscription.reliability:=3"],
        None,
        "qos_overrides./refused/pose.subscription.reliability",
    ),
    "a QoS policy that is none": (
        ["-p", "qos_overrides./refused/pose.subscription.history:=keep_some"],
        None,
        "`keep_some`",
    ),
    "a queue below zero": (
        ["-p", "qos_overrides./refused/pose.subscription.depth:=-1"],
        None,
        "qos_overrides./refused/pose.subscription.depth cannot be used",
    ),
    "a queue without end": (
        ["-p", "qos_overrides./refused/pose.subscription.depth:=99999999999"],
        None,
        "qos_overrides./refused/pose.subscription.depth cannot be used",
    ),
    "infinite": (
        ["--params-file", "params.yaml"],
        "/**:\n  ros__parameters:\n    map:\n      voxel_size: .inf\n",
        "map.voxel_size",
    ),
}


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


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "recording")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held images are encoded while this file is there."""
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def node(robot: Robot, maps: Path, gate: Path) -> Iterator[Process]:
    """The mapping node with the test encoder; it must survive all tests and end cleanly."""
    settings = {"node.publish_period": 0.2, "node.backlog": BACKLOG, "node.map_directory": maps}
    with color_node(settings, **{GATE: str(gate)}) as node:
        yield node


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


@pytest.fixture(scope="module")
def refused(
    robot: Robot, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Process]]:
    """All that are tested, started together: what takes their time is loading Python packages."""
    processes = {}
    tests = [item for item in request.session.items if "refused" in item.fixturenames]
    asked = [item.callspec.params["case"] for item in tests if hasattr(item, "callspec")]
    for case in asked:
        arguments, content, _ = REFUSED[case]
        folder = tmp_path_factory.mktemp("refused")
        if content is not None:
            (folder / "params.yaml").write_text(content)
        common = ["--ros-args", "-p", "encoder:=lite", "-r", "__ns:=/refused"]
        command = ["-m", "radseg_ros.ros.mapper_node", *common, *arguments]
        processes[case] = Process(*command, cwd=folder)
    yield processes
    for process in processes.values():
        process.stop()


def show(robot: Robot, scene: Path) -> None:
    """Map a recording without a player."""
    first, send = robot.integrated(), Sender(robot)
    for frame in open_recording(scene):
        send(frame)
    wait_for(lambda: robot.integrated() == first + FRAMES, what="all frames")


@pytest.mark.slow
def test_silence_is_explained(robot, node, refused):
    """The first test: nothing has been published yet. ``refused`` starts meanwhile."""
    line = node.said("no frame for 5 s")[0]
    assert "/depth/camera_info, /depth/image, /color/image: no publisher" in line


@pytest.mark.slow
def test_a_recording_is_mapped_and_answers_queries(robot, node, empty, scene):
    first = robot.integrated()
    assert re.search(
        rf"published {FRAMES} info, {FRAMES} pose, {FRAMES} depth, {FRAMES} color",
        play(str(scene), "--rate", "20"),
    )
    wait_for(lambda: robot.integrated() == first + FRAMES, what=f"all frames; {empty()}")
    assert not empty(), "nothing was lost"

    answer = robot.query("a red square", "blue", return_cloud=True)
    assert answer.success and answer.header.frame_id == "map"
    assert answer.header.stamp.sec > 1_500_000_000
    red, blue = answer.answers
    assert red.found and red.label == "a red square"
    assert not blue.found and not blue.objects and blue.best_score < red.best_score
    (square,) = red.objects
    centre = (square.centre.x, square.centre.y, square.centre.z)
    np.testing.assert_allclose(centre, RED_CENTRE, atol=0.05)
    assert 0.3 < square.size.x < 0.55 and square.voxels > 30
    assert square.last_seen == answer.header.stamp

    reference = offline(scene)
    points = as_array(answer.cloud)
    fields = [field.name for field in answer.cloud.fields]
    assert fields == ["x", "y", "z", "rgb", "label", "score", "hits"]
    assert len(points) == len(reference.map) == answer.status.voxels
    expected = reference.query(["a red square", "blue"]).cloud()
    assert sorted(zip(*points_of(points), strict=True)) == sorted(
        zip(*points_of_cloud(expected), strict=True)
    ), "node == offline"


def points_of(points: np.ndarray) -> list[list]:
    return [np.round(points[name], 4).tolist() for name in ("x", "y", "z", "label", "hits")]


def points_of_cloud(cloud: Cloud) -> list[list]:
    return [np.round(column, 4).tolist() for column in (*cloud.xyz.T, cloud.label, cloud.hits)]


@pytest.mark.slow  # of what the recording left
def test_clouds_are_latched_and_stamped_with_the_last_frame(robot, node, scene):
    """Continues with the map of the test before."""
    assert robot.call(SetLabels, "/radseg_mapping/set_labels", labels=["red"]).success
    answer = robot.query("blue")  # changes nobody's cloud
    for topic in ("rgb_cloud", "semantic_cloud"):
        cloud = robot.latest(f"/radseg_mapping/{topic}")
        assert cloud.header == answer.header
        points = as_array(cloud)
        red = np.abs(points["x"] - RED_CENTRE[0]) + np.abs(points["y"]) < 0.1
        if topic == "rgb_cloud":
            assert (points["rgb"][red] == 0xFF0000).all() and (points["label"] == -1).all()
        else:
            assert (points["label"][red] == 0).all() and (points["label"] == -1).sum() > red.sum()


@pytest.mark.slow
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


@pytest.mark.slow
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
    first = robot.integrated()
    play(str(scene), "--rate", "20", "--pose", "odometry", "--count", "3")
    wait_for(lambda: robot.integrated() == first + 3)
    table, printed = (ask(*words) for words in (("red", "blue"), ("red", "--json")))
    code, text = table.result()
    assert code == 0 and re.search(r"red +1\.00 +0\.2\d +-?0\.0\d +2\.00", text), text
    assert re.search(r"blue +0\.\d\d +not found", text), text
    code, text = printed.result()
    result = json.loads(text)
    assert code == 0 and result["answers"][0]["found"]
    assert result["frame_id"] == "map" and result["frames"]["integrated"] == first + 3


@pytest.mark.slow
def test_a_client_without_a_node_gives_up(robot):
    code, text = ask("red", "--node", "/nobody", "--timeout", "0.5").result()
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
    first, logged = robot.integrated(), len(node.lines)
    player = Process(
        "-m",
        "radseg_ros.ros.player",
        str(write_looping_bag(tmp_path / "bag")),
        "--speed",
        "3",
        "--loop",
    )
    wait_for(
        lambda: robot.integrated() >= first + 30,
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
    send = Sender(robot)
    send()
    robot.settle(send.stamp)  # nothing of the bag is on its way to the next test


def of_the_map(response: Any) -> list[Any]:
    """The answers without what is known of things by following them, which files do not hold."""
    for answer in response.answers:
        for thing in answer.objects:
            thing.id, thing.has_viewpoint, thing.viewpoint = 0, False, Pose()
    return list(response.answers)


@pytest.mark.slow
def test_save_load_and_their_refusals(robot, node, empty, scene, maps):
    show(robot, scene)
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
    assert of_the_map(after) == of_the_map(before) and after.header == before.header
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


@pytest.mark.slow
def test_bad_input_is_dropped_with_its_reason_and_the_node_goes_on(robot, node, empty):
    send = Sender(robot)
    first = robot.integrated()
    send()
    wait_for(lambda: robot.integrated() == first + 1, what=f"a good frame; {empty()}")
    bad = [
        (
            {"color": {"encoding": "nv21"}},
            "image encoding 'nv21' is not supported; supported: rgb8",
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
    first_ns = time.time_ns()  # of one burst, however long it takes: poses are interpolated
    for number, (changes, _) in enumerate(bad):
        send(replace(WALL, stamp_ns=first_ns + number * FRAME_NS), **changes)
    send(replace(WALL, stamp_ns=first_ns + len(bad) * FRAME_NS))
    wait_for(lambda: robot.integrated() >= first + 2, what=f"a good one after them; {empty()}")
    counted = wait_for(lambda: (found := empty()) and len(found) >= len(bad) and found)
    for _, reason in bad:
        assert any(reason in text for text in counted), (reason, counted)
    # The two frames without a usable pose of their own were completed by interpolation between
    # their neighbours.
    wait_for(
        lambda: robot.integrated() == first + 4,
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


@pytest.mark.slow
def test_a_query_is_answered_while_the_encoder_works_and_the_newest_frames_win(
    robot, node, empty, gate
):
    send = Sender(robot)
    held = np.full((12, 16, 3), HELD_PIXEL, np.uint8).tobytes()
    first = robot.integrated()
    send(color={"data": held})
    wait_for(lambda: robot.query("red").status.frames_waiting, what="the first frame")
    for _ in range(BACKLOG + 3):
        send()
    wait_for(lambda: sum(empty().values()) == 3, what="the frames that are too many")
    ((reason, _),) = empty().items()
    assert "replaced by a newer one" in reason
    assert robot.integrated() == first, "answered while a frame was encoded"
    gate.touch()
    wait_for(
        lambda: robot.integrated() == first + 1 + BACKLOG, what="the first and the newest frames"
    )
    assert sum(empty().values()) == 3


@pytest.mark.slow
def test_a_burst_of_questions_is_answered_or_refused_at_once(robot, node, empty, scene):
    show(robot, scene)
    room_for_all = QoSProfile(depth=200)  # ROS's 10 lose answers
    client = robot.client(QueryText, "/radseg_mapping/query", qos=room_for_all)
    futures = [client.call_async(QueryText.Request(labels=["red"])) for _ in range(200)]
    wait_for(lambda: all(future.done() for future in futures), "200 answers")
    answers = [future.result() for future in futures]
    refused = [answer for answer in answers if not answer.success]
    assert all("busy: 64 requests are waiting" in answer.message for answer in refused)
    good = [answer for answer in answers if answer.success]
    assert len(good) >= 64 and all(answer.answers[0].found for answer in good)
    robot.node.destroy_client(client)
    assert robot.query("red").success, "and then it goes on"


@pytest.mark.slow
def test_questions_that_are_refused_name_what_is_wrong(robot, node):
    for request, text in (
        ({"labels": ["x"] * 1001}, "at most 1000 labels"),
        ({"labels": ["red"], "threshold": float("nan")}, "query.threshold must be a finite number"),
        ({"labels": ["red"], "threshold": 7.0}, "query.threshold must be in 0..1"),
    ):
        answer = robot.call(QueryText, "/radseg_mapping/query", **request)
        assert not answer.success and text in answer.message, answer.message


@pytest.mark.slow
def test_lite_finds_the_sofa_of_the_real_recording(robot):
    recording = shared("data/hololens_office")
    there = ["--ros-args", "-r", "__ns:=/lite"]
    settings = ["-p", "encoder:=lite", "-p", "node.backlog:=50"]
    process = Process("-m", "radseg_ros.ros.mapper_node", *there, *settings)
    node = "/lite/radseg_mapping"
    try:
        play(str(recording), "--start", "200", "--count", "12", "--rate", "5", *there)
        wait_for(lambda: robot.integrated(node) == 12, "twelve frames")
        sofa, giraffe = robot.query("sofa", "giraffe", node=node).answers
        assert sofa.found and not giraffe.found
        centre = sofa.objects[0].centre
        assert -3.5 < centre.z < 0.5 and 0.5 < centre.x < 3.5, "where the labelled boxes are"
    finally:
        assert process.stop() == 0, process.text


@pytest.mark.slow
def test_a_request_that_ros_cannot_read_ends_nothing(robot, node):
    """A parameter of a type that does not exist: rclpy raises where nothing of ours is between."""
    client = robot.client(SetParameters, f"{NODE}/set_parameters")
    odd = Parameter(name="query.threshold", value=ParameterValue(type=200))
    for _ in range(3):
        client.call_async(SetParameters.Request(parameters=[odd]))
    wait_for(lambda: "ROS cannot read" in node.text, what="a word about it")
    assert robot.query("red").success and not node.ended
    assert node.text.count("ROS cannot read") == 1 and "Traceback" not in node.text
    robot.node.destroy_client(client)


OTHERS = [case for case in REFUSED if case != "misspelt parameter"]


@pytest.mark.parametrize(
    "case", ["misspelt parameter", *(pytest.param(case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_a_node_that_cannot_work_ends_with_one_clear_line(refused, case):
    code, output = refused[case].result()
    assert code == 1 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("radseg_mapping:")]
    assert REFUSED[case][2] in line


@pytest.mark.slow
def test_a_map_that_was_not_saved_is_told_at_the_end(robot, scene):
    there = ["-r", "__ns:=/unsaved"]
    with color_node({}, *there) as node:
        play(str(scene), "--rate", "20", "--ros-args", *there)
        wait_for(lambda: robot.query("red", node="/unsaved/radseg_mapping").status.voxels > 0)
        assert node.stop(signal.SIGTERM) == 0
    assert re.search(r"map of \d+ voxels is lost: it was not saved", node.text), node.text


@pytest.mark.slow
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
