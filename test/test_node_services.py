# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Every way to ask a real node, with good and bad requests, and what it shows of its answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, require_ros

require_ros()

from color_encoder import COLORS, ColorEncoder
from geometry_msgs.msg import Point, PointStamped
from nav_msgs.msg import OccupancyGrid
from PIL import Image as Picture
from robot import (
    LATCHED,
    NODE,
    PATIENT,
    Listener,
    Process,
    Robot,
    Sender,
    ask,
    color_node,
    wait_for,
)
from sensor_msgs.msg import Image, PointCloud2
from test_node_steer import points
from visualization_msgs.msg import Marker, MarkerArray

from radseg_interfaces.msg import VoxelFilter
from radseg_interfaces.srv import (
    EncodeText,
    ForgetObject,
    QueryPoint,
    QueryVector,
    SetLabels,
)
from radseg_ros.datatypes import Frame
from radseg_ros.demo.raycast import Box, render
from radseg_ros.ros import messages

pytestmark = pytest.mark.slow  # real nodes
K = np.array([[480.0, 0, 320], [0, 480, 240], [0, 0, 1]])
RED = Box((2.5, 0.0, 0.25), (0.5, 0.5, 0.5), (1.0, 0.0, 0.0))  # stands on the floor
ROOM = Box((1.5, 0.0, 1.0), (5.0, 4.0, 2.0), (1.0, 1.0, 1.0))  # seen from inside
EYES = ((0.0, 0.0, 0.8), (0.3, 0.6, 0.8), (0.3, -0.6, 0.8), (1.0, 0.9, 0.8), (1.0, -0.9, 0.8))
PITCH = math.radians(15)  # down


def looking(eye: tuple[float, float, float]) -> Frame:
    """What a camera sees that looks along x and a little down."""
    c, s = math.cos(PITCH), math.sin(PITCH)
    T = np.eye(4)
    T[:3, :3] = np.array([[0, -s, c], [-1, 0, 0], [0, -c, -s]])
    T[:3, 3] = eye
    rgb, depth, _ = render([ROOM, RED], K, T, (480, 640))
    return Frame(0, rgb, depth, K, T)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def node(robot: Robot, maps: Path) -> Iterator[Process]:
    """A room with a red box in it has been seen from five places."""
    settings = {
        "node.publish_period": 0.2,
        "node.backlog": 20,
        "node.map_directory": str(maps),
        "grid.low": 0.08,
        "lift.depth_edge": 0.1,
        "query.mode": "relevancy",
    }
    with color_node(settings) as node:
        send = Sender(robot)
        for eye in EYES:
            send(looking(eye))
        wait_for(lambda: robot.integrated() == len(EYES), what="the frames")
        yield node


def the_box(response: Any) -> Any:
    assert response.success, response.message
    (answer,) = response.answers
    assert answer.found
    return answer.objects[0]


def near(place: Any, x: float, y: float, z: float, within: float = 0.35) -> bool:
    return math.dist(messages.tuple_of(place), (x, y, z)) < within


def test_an_object_says_all_that_is_known(robot, node):
    thing = the_box(robot.query("red"))
    assert near(thing.centre, 2.4, 0, 0.25) and near(thing.peak, 2.4, 0, 0.25)
    assert 0.5 <= thing.size.y < 1.1 and 0.3 < thing.size.x < 1.1
    assert thing.label == "red" and thing.voxels > 20 and thing.hits > thing.voxels
    assert 1 <= thing.views <= len(EYES) and 0.5 < thing.score <= thing.best_score <= 1
    assert 0 < thing.mean_score <= thing.best_score
    first, last = (stamp.sec + stamp.nanosec / 1e9 for stamp in (thing.first_seen, thing.last_seen))
    assert 0 < first < last and not thing.missing
    assert near(thing.box.position, 2.4, 0, 0.25) and thing.box_size.x >= thing.box_size.y


def test_only_what_is_there_answers(robot, node):
    here = VoxelFilter(centre=Point(x=2.4, z=0.25), radius=0.8)
    assert near(the_box(robot.query("red", where=here)).centre, 2.4, 0, 0.25)
    there = VoxelFilter(centre=Point(x=-0.5), radius=0.5)
    elsewhere = robot.query("red", where=there)
    assert elsewhere.success and not elsewhere.answers[0].found
    left = VoxelFilter(box_min=Point(x=-9.0, y=0.1, z=-9.0), box_max=Point(x=9.0, y=9.0, z=9.0))
    half = robot.query("red", where=left, return_cloud=True)
    assert the_box(half).centre.y > 0.1 and points(half.cloud)["y"].min() >= 0.1
    many = robot.query("red", where=VoxelFilter(min_hits=1_000_000))
    assert many.success and not many.answers[0].found and many.answers[0].best_score == 0


def test_answers_come_in_the_frame_that_is_wanted(robot, node):
    pytest.importorskip("tf2_msgs", reason="transforms need tf2_msgs")
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    transform = TransformStamped(header=messages.header(1, "map"), child_frame_id="base")
    transform.transform.translation.x = 1.0
    quarter = math.sqrt(0.5)
    transform.transform.rotation.z = transform.transform.rotation.w = quarter  # looks along y
    robot.publish({"/tf_static": TFMessage(transforms=[transform])})
    here = VoxelFilter(centre=Point(y=-1.4, z=0.25), radius=0.8)
    answer = wait_for(lambda: (a := robot.query("red", frame_id="base", where=here)).success and a)
    thing = the_box(answer)
    assert answer.header.frame_id == "base" and near(thing.centre, 0, -1.4, 0.25)
    assert thing.size.x > 0.4, "what was along y is along x"
    at = PointStamped(header=messages.header(0, "base"), point=Point(y=-1.3, z=0.25))
    share = robot.call(QueryPoint, f"{NODE}/query_point", point=at, labels=["red", "white"])
    assert share.success and share.labels[0] == "red", share.message


def test_a_viewpoint_faces_the_thing_from_known_floor(robot, node):
    thing = the_box(robot.query("red", viewpoint_distance=1.0))
    assert thing.has_viewpoint
    place, turn = thing.viewpoint.position, thing.viewpoint.orientation
    away = math.dist((place.x, place.y), (thing.centre.x, thing.centre.y))
    assert 0.7 < away < 1.9 and place.z == 0.0
    yaw = 2 * math.atan2(turn.z, turn.w)
    to_it = math.atan2(thing.box.position.y - place.y, thing.box.position.x - place.x)
    assert yaw == pytest.approx(to_it, abs=1e-6)


BAD_QUESTIONS = {
    "no label": ({"labels": []}, "at least one label is needed"),
    "an empty label": ({"labels": [" "]}, "none of them empty"),
    "too many labels": ({"labels": ["red"] * 1001}, "at most 1000 labels at once, got 1001"),
    "a label that is a book": ({"labels": ["red" * 40_000]}, "at most 100000 characters"),
    "an unknown mode": ({"mode": "guess"}, "query.mode: 'guess' is not one of"),
    "a threshold that is none": ({"threshold": 1.5}, "query.threshold must be in 0..1"),
    "a threshold that is no number": ({"threshold": math.nan}, "query.threshold must be"),
    "an empty negative": ({"negatives": [""]}, "none of them empty"),
    "a radius below zero": ({"where": VoxelFilter(radius=-1.0)}, "radius must be"),
    "a radius that is no number": ({"where": VoxelFilter(radius=math.nan)}, "radius must be"),
    "an age below zero": ({"where": VoxelFilter(max_age=-1.0)}, "max_age must be"),
    "a box inside out": ({"where": VoxelFilter(box_min=Point(x=1.0))}, "lowest corner"),
    "a centre nowhere": (
        {"where": VoxelFilter(centre=Point(x=math.nan), radius=1.0)},
        "three finite numbers",
    ),
    "an unknown frame": ({"frame_id": "nowhere"}, "no transform to frame 'nowhere'"),
    "a frame that is no name": ({"frame_id": "a\nb"}, "frame id that is no name"),
    "too near": ({"viewpoint_distance": 0.01}, "a viewpoint is 0.1..20 m from a thing"),
    "a distance that is no number": ({"viewpoint_distance": math.nan}, "a viewpoint is 0.1..20 m"),
    "a time limit below zero": ({"time_limit": -1.0}, "a time limit is in 0..3600 s"),
}


@pytest.mark.parametrize("case", BAD_QUESTIONS)
def test_questions_that_cannot_be_asked_are_refused(robot, node, case):
    fields, reason = BAD_QUESTIONS[case]
    answer = robot.query(*fields.pop("labels", ["red"]), **fields)
    assert not answer.success and reason in answer.message and "\n" not in answer.message
    assert not answer.answers


def image_of(color: tuple[int, int, int], size: tuple[int, int] = (32, 40)) -> Image:
    pixels = np.full((*size, 3), color, np.uint8)
    return messages.color_message(pixels, messages.header(0, ""))


def test_a_picture_finds_what_looks_like_it(robot, node):
    seen = robot.call(
        QueryVector, f"{NODE}/query_vector", image=image_of((255, 0, 0)), label="thing"
    )
    assert seen.answers[0].label == "thing" and near(the_box(seen).centre, 2.4, 0, 0.25)
    unseen = robot.call(QueryVector, f"{NODE}/query_vector", image=image_of((0, 255, 0)))
    assert unseen.success and not unseen.answers[0].found and unseen.answers[0].label == "image"
    here = VoxelFilter(centre=Point(x=-0.5), radius=0.5)
    elsewhere = robot.call(
        QueryVector, f"{NODE}/query_vector", image=image_of((255, 0, 0)), where=here
    )
    assert elsewhere.success and not elsewhere.answers[0].found


def test_encoded_texts_ask_as_the_texts_do(robot, node):
    texts = robot.call(EncodeText, f"{NODE}/encode_text", texts=["red", "blue"])
    assert texts.success and texts.encoder == ColorEncoder.name and texts.width == len(COLORS)
    red = np.reshape(texts.vectors, (2, texts.width))[0]
    by_vector = robot.call(QueryVector, f"{NODE}/query_vector", vector=red.tolist())
    by_text = robot.query("red")
    assert the_box(by_vector).voxels == the_box(by_text).voxels
    assert by_vector.answers[0].best_score == pytest.approx(by_text.answers[0].best_score)


BAD_VECTORS = {
    "nothing": ({}, "8 numbers"),
    "another width": ({"vector": [1.0, 2.0]}, "8 numbers"),
    "no direction": ({"vector": [0.0] * 8}, "finite"),
    "no number": ({"vector": [math.nan] * 8}, "finite"),
    "an unknown encoding": (
        {"image": Image(height=1, width=1, encoding="yuv999", data=[0])},
        "is not supported",
    ),
    "depth": ({"image": Image(height=1, width=1, encoding="32FC1", data=[0] * 4)}, "32FC1"),
    "too short": (
        {"image": Image(height=9, width=9, encoding="rgb8", step=27, data=[0])},
        "colour",
    ),
    "a strip": ({"image": image_of((0, 0, 0), (1, 100))}, "times as long as wide"),
    "an unknown mode": ({"vector": [1.0] * 8, "mode": "guess"}, "query.mode"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_vectors_and_pictures_that_cannot_be_are_refused(robot, node, case):
    fields, reason = BAD_VECTORS[case]
    answer = robot.call(QueryVector, f"{NODE}/query_vector", **fields)
    assert not answer.success and reason in answer.message, answer.message


@pytest.mark.parametrize("texts", [[], [""], ["a walrus"], ["red"] * 1001], ids=len)
def test_texts_that_cannot_be_encoded_are_refused(robot, node, texts):
    answer = robot.call(EncodeText, f"{NODE}/encode_text", texts=texts)
    assert not answer.success and answer.message and not answer.vectors


def here(x: float, y: float, z: float, frame: str = "") -> PointStamped:
    return PointStamped(header=messages.header(0, frame), point=Point(x=x, y=y, z=z))


def test_what_is_at_a_place(robot, node):
    ask = {"point": here(2.25, 0.0, 0.25), "labels": ["white", "red", "blue"]}
    found = robot.call(QueryPoint, f"{NODE}/query_point", **ask)
    assert found.success and found.message.startswith("red ")
    assert found.labels[0] == "red" and sum(found.probabilities) == pytest.approx(1)
    assert [*found.probabilities] == sorted(found.probabilities, reverse=True)
    assert found.voxels > 3 and found.hits >= found.voxels and found.covered == 1
    assert found.color.r > 0.5 > found.color.g and found.last_seen.sec > 0
    top = robot.call(QueryPoint, f"{NODE}/query_point", **ask, max_labels=1)
    assert top.labels == ["red"] and top.probabilities[0] == found.probabilities[0]
    wall = robot.call(
        QueryPoint, f"{NODE}/query_point", **{**ask, "point": here(4.0, 0.0, 1.0, "map")}
    )
    assert wall.labels[0] == "white"


def test_without_labels_a_place_divides_among_those_of_the_node(robot, node):
    nothing = robot.call(QueryPoint, f"{NODE}/query_point", point=here(2.25, 0.0, 0.25))
    assert not nothing.success and "set node.labels" in nothing.message
    assert robot.call(SetLabels, f"{NODE}/set_labels", labels=["white", "red"]).success
    found = robot.call(QueryPoint, f"{NODE}/query_point", point=here(2.25, 0.0, 0.25))
    assert found.success and found.labels == ["red", "white"]
    assert robot.call(SetLabels, f"{NODE}/set_labels", labels=[]).success


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"point": here(50.0, 0, 0)}, "no voxel within 0.15 m"),
        ({"point": here(math.nan, 0, 0)}, "three finite numbers"),
        ({"point": here(2.25, 0, 0.25), "radius": -1.0}, "a radius is in 0..10 m, got -1"),
        ({"point": here(2.25, 0, 0.25), "radius": math.nan}, "a radius is in 0..10 m"),
        ({"point": here(2.25, 0, 0.25), "radius": 11.0}, "a radius is in 0..10 m"),
        ({"point": here(2.25, 0, 0.25, "nowhere")}, "no transform to frame 'nowhere'"),
        ({"point": here(2.25, 0, 0.25), "labels": [""]}, "none of them empty"),
        ({"point": here(2.25, 0, 0.25), "time_limit": -1.0}, "a time limit is in"),
    ],
)
def test_places_that_cannot_be_are_refused(robot, node, fields, reason):
    answer = robot.call(QueryPoint, f"{NODE}/query_point", **{"labels": ["red"], **fields})
    assert not answer.success and reason in answer.message, answer.message


def test_the_last_question_is_shown_to_whoever_wants_it(robot, node):
    heard = Listener(robot, PointCloud2, f"{NODE}/query_cloud", LATCHED)
    assert robot.query("blue").success
    answer = robot.query("red", publish_cloud=True)
    assert answer.success
    wait_for(lambda: heard.got, "the cloud")
    shown = points(heard.got[-1])
    assert len(heard.got) == 1 and heard.got[0].header.frame_id == "map"
    assert (shown["label"] == 0).sum() >= the_box(answer).voxels
    glowing = shown["rgb"][shown["score"] > 0.9]
    assert (glowing >> 16 & 255).mean() > 150
    heard.close()


def test_things_are_marked_and_what_is_gone_goes(robot, node):
    heard = Listener(robot, MarkerArray, f"{NODE}/objects", LATCHED)
    wait_for(lambda: heard.got, "markers")
    assert [m.action for m in heard.got[-1].markers] == [Marker.DELETEALL], "no labels are set"
    assert robot.call(SetLabels, f"{NODE}/set_labels", labels=["white", "red"]).success

    def boxes() -> list[Any]:
        return [m for m in heard.got[-1].markers if m.ns == "boxes"]

    wait_for(boxes, "boxes")
    texts = [m.text for m in heard.got[-1].markers if m.ns == "names"]
    assert len(texts) == len(boxes()) and any(text.startswith("red") for text in texts)
    assert any(near(m.pose.position, 2.4, 0, 0.25) for m in boxes())
    late = Listener(robot, MarkerArray, f"{NODE}/objects")
    wait_for(lambda: late.got, "the last markers, for who does not ask for latched ones")
    late.close()
    assert robot.call(SetLabels, f"{NODE}/set_labels", labels=[]).success
    wait_for(lambda: len(heard.got[-1].markers) == 1, "their end")
    heard.close()


def cell(grid: OccupancyGrid, x: float, y: float) -> int:
    info = grid.info
    column = int((x - info.origin.position.x) / info.resolution)
    row = int((y - info.origin.position.y) / info.resolution)
    assert 0 <= column < info.width and 0 <= row < info.height
    return grid.data[row * info.width + column]


def test_a_floor_plan_for_planners(robot, node):
    heard = Listener(robot, OccupancyGrid, f"{NODE}/grid", LATCHED)
    wait_for(lambda: heard.got, "a floor plan")
    grid = heard.got[-1]
    assert grid.header.frame_id == "map" and grid.info.resolution == pytest.approx(0.05)
    assert cell(grid, 1.9, 0.05) == 0, "floor before the box"
    assert cell(grid, 2.25, 0.05) == 100, "the box"
    assert {*grid.data} <= {-1, 0, 100} and -1 in grid.data
    heard.close()


def test_the_cells_of_a_label(robot, node):
    from test_node_steer import Parameter, SetParameters

    def choose(label: str) -> None:
        parameter = Parameter("grid.label", value=label).to_parameter_msg()
        (done,) = robot.call(
            SetParameters, f"{NODE}/set_parameters", parameters=[parameter]
        ).results
        assert done.successful, done.reason

    heard = Listener(robot, OccupancyGrid, f"{NODE}/label_grid", LATCHED)
    choose("red")
    # what is not ready for questions yet comes in a later one
    wait_for(lambda: heard.got and cell(heard.got[-1], 2.25, 0.05) > 50, "the cells")
    assert cell(heard.got[-1], 1.5, 0.05) == 0
    choose("")
    heard.close()


def client(*words: str) -> tuple[int, str]:
    return ask(*words).result()


def test_the_client_asks_with_a_picture_and_says_where(robot, node, tmp_path):
    crop = tmp_path / "crop.png"
    Picture.fromarray(np.full((40, 32, 3), (255, 0, 0), np.uint8)).save(crop)
    code, text = client("--image", str(crop), "--json", "--viewpoint", "1")
    assert code == 0, text
    (answer,) = json.loads(text)["answers"]
    thing = answer["objects"][0]
    assert answer["label"] == "crop" and math.dist(thing["centre"], (2.4, 0, 0.25)) < 0.35
    assert {"box", "id", "last_seen", "missing_since", "views"} <= thing.keys()
    assert thing["viewpoint"]["position"][2] == 0.0
    code, text = client("red", "--near", "-2", "0", "0", "--radius", "1", "--top", "1")
    assert code == 0 and "not found" in text
    code, text = client("red", "--box", "2", "-1", "0", "3", "1", "1", "--mode", "relevancy")
    assert code == 0 and "last seen" in text and " ago" in text
    for words, reason in (
        (("red", "--node", "mapper", "--timeout", "8"), "there is /radseg_mapping (--node)"),
        (("red", "--mode", "guess"), "query.mode: 'guess'"),
        (("--image", "/nowhere.png"), "no such file"),
        (("red", "--max-age", "-1"), "max_age must be"),
    ):
        code, text = client(*words)
        assert code == 1 and reason in text and "Traceback" not in text, text


def run_example(name: str, *words: str) -> tuple[int, str]:
    return Process(str(ROOT / "examples" / f"{name}.py"), *words).result()


def test_the_example_finds_a_place_to_drive_to(robot, node):
    code, text = run_example("go_to_object", "red", "--print", *PATIENT)
    assert code == 0 and "red: score" in text and "frame_id: map" in text, text
    remapped = ("--ros-args", "-r", "a:=/b")
    code, text = run_example("go_to_object", "blue", "--print", *PATIENT, *remapped)
    assert code == 1 and "there is no blue in the map (best score 0." in text, text


def test_an_agent_asks_through_a_real_client(robot, node, maps):
    if find_spec("mcp") is None:
        pytest.skip("the SDK of MCP is not installed (extra agent)")
    import anyio
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    program = str(ROOT / "examples" / "agent_tools.py")

    async def talk(*words: str) -> dict[str, Any]:
        import os
        import sys

        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        server = StdioServerParameters(
            command=sys.executable,
            args=[program, *PATIENT, *words],
            env={**os.environ, "PYTHONPATH": path},
        )
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            tools = (await session.list_tools()).tools
            told: dict[str, Any] = {"tools": sorted(tool.name for tool in tools)}
            looks = [t.name for t in tools if t.annotations and t.annotations.read_only_hint]
            assert sorted(looks) == ["find", "list_objects", "what_is_here"]
            for name, arguments in (
                ("find", {"name": "red"}),
                ("what_is_here", {"x": 2.25, "y": 0.0, "z": 0.25, "names": ["red", "white"]}),
                ("list_objects", {"names": ["red", "blue"]}),
                ("find", {"name": "a walrus"}),
            ):
                told[f"{name} {arguments.get('name', '')}".strip()] = await session.call_tool(
                    name, arguments
                )
            if "save" in told["tools"]:
                told["saved"] = await session.call_tool("save", {"path": "agent.radmap"})
            return told

    def plain(result: Any) -> dict[str, Any]:
        return json.loads(result.content[0].text)

    told = anyio.run(talk)
    assert told["tools"] == ["find", "list_objects", "what_is_here"], "it can change nothing"
    red = plain(told["find red"])["answers"]["red"]
    assert red["found"] and math.dist(red["things"][0]["place"], (2.4, 0, 0.25)) < 0.35
    assert red["things"][0]["stand_at"]["position"][2] == 0.0
    assert plain(told["what_is_here"])["probabilities"]["red"] > 0.5
    listed = plain(told["list_objects"])["answers"]
    assert listed["red"]["found"] and not listed["blue"]["found"]
    walrus = told["find a walrus"]
    assert "knows only red" in walrus.content[0].text
    told = anyio.run(talk, "--allow-save")
    assert plain(told["saved"])["voxels"] > 0 and (maps / "agent.radmap").is_file()


def test_what_is_not_there_cannot_be_forgotten(robot, node):
    for number in (0, 4_000_000_000):
        answer = robot.call(ForgetObject, f"{NODE}/forget_object", id=number)
        assert not answer.success and answer.message


def test_a_thing_is_forgotten(robot, node):
    """The last test of this node."""
    thing = the_box(robot.query("red"))
    assert thing.id > 0
    answer = robot.call(ForgetObject, f"{NODE}/forget_object", id=thing.id)
    assert answer.success and answer.object.id == thing.id and answer.header.frame_id == "map"
    after = robot.query("red")
    assert all(each.id != thing.id for each in after.answers[0].objects)
