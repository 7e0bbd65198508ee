# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Answers as messages and back, in the frame of the map and in others; markers and grids."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import require_ros

require_ros()

from small_worlds import pose as random_pose
from visualization_msgs.msg import Marker

from radseg_interfaces.msg import VoxelFilter
from radseg_ros.answers.cloud import palette
from radseg_ros.answers.floor.grid import Grid
from radseg_ros.datatypes import (
    Answer,
    Filter,
    InputError,
    OrientedBox,
    SemanticObject,
    Viewpoint,
)
from radseg_ros.ros import client, messages
from radseg_ros.ros.client import MapClient, answer_of
from radseg_ros.ros.outputs.objects import marker_array
from radseg_ros.ros.query_client import asked_where, check_question, parser, table

HEAD = messages.header(5, "map")
THING = SemanticObject(
    label="sofa",
    score=0.75,
    centre=(1.0, 2.0, 0.5),
    size=(1.5, 1.25, 1.0),
    peak=(1.0, 2.125, 0.5),
    box=OrientedBox((1.0, 2.0, 0.5), (1.5, 0.5, 1.0), 0.5),
    voxels=40,
    hits=900,
    views=7,
    mean_score=0.625,
    best_score=0.875,
    first_seen_ns=1_000_000_001,
    last_seen_ns=3_000_000_002,
    id=12,
    viewpoint=Viewpoint((3.0, 2.0, 0.0), -3.0),
)
GONE = dataclasses.replace(THING, id=13, missing_since_ns=4_000_000_000, viewpoint=None)


def close(a: SemanticObject, b: SemanticObject) -> None:
    for name, value in dataclasses.asdict(a).items():
        other = dataclasses.asdict(b)[name]
        if isinstance(value, dict):
            for key in value:
                assert value[key] == pytest.approx(other[key]), (name, key)
        else:
            assert value == pytest.approx(other), name


def test_an_answer_comes_back_as_it_was():
    answer = Answer("sofa", 0.875, (THING, GONE))
    message = messages.answer_message(answer)
    back = answer_of(message)
    assert message.found and (back.label, back.best_score, back.found) == ("sofa", 0.875, True)
    for thing, same in zip(answer.objects, back.objects, strict=True):
        close(thing, same)
    assert [each.missing for each in message.objects] == [False, True]
    assert not messages.answer_message(Answer("sofa", 0.1, (GONE,))).found


def corners(T: np.ndarray, size: np.ndarray) -> np.ndarray:
    signs = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]), -1).reshape(8, 3)
    return (signs * size) @ T[:3, :3].T + T[:3, 3]


def matrix(pose) -> np.ndarray:
    q, p = pose.orientation, pose.position
    from scipy.spatial.transform import Rotation

    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = p.x, p.y, p.z
    return T


@pytest.mark.parametrize("seed", range(5))
def test_in_another_frame_everything_is_where_it_was(seed):
    T = random_pose(np.random.default_rng(seed))
    plain, moved = messages.object_message(THING), messages.object_message(THING, T)
    for get in (lambda m: m.box, lambda m: m.viewpoint):
        np.testing.assert_allclose(matrix(get(moved)), T @ matrix(get(plain)), atol=1e-9)
    peak = T @ (*THING.peak, 1.0)
    assert messages.tuple_of(moved.peak) == pytest.approx(tuple(peak[:3]))
    size = np.array(messages.tuple_of(moved.box_size))
    ends = corners(matrix(moved.box), size)
    low, high = ends.min(0), ends.max(0)
    assert messages.tuple_of(moved.centre) == pytest.approx(tuple((low + high) / 2))
    assert messages.tuple_of(moved.size) == pytest.approx(tuple(high - low))


def test_a_filter_crosses_as_it_is():
    where = Filter((-1.0, -math.inf, 0.0), (1.0, 2.0, math.inf), (1.0, 2.0, 3.0), 0.5, 2.5, 3)
    T = np.eye(4)
    back = messages.voxel_filter(messages.filter_message(where), T)
    for field in dataclasses.fields(Filter)[:-1]:
        assert getattr(back, field.name) == getattr(where, field.name), field.name
    assert back.T_filter_world is T
    assert messages.filter_message(None) == VoxelFilter()
    assert messages.voxel_filter(VoxelFilter()) is None


def test_filters_that_cannot_be_are_refused():
    for fields in ({"radius": math.nan}, {"max_age": -1.0}):
        with pytest.raises(InputError):
            messages.voxel_filter(VoxelFilter(**fields))
    turned = VoxelFilter()
    turned.box_min.x = 1.0
    with pytest.raises(InputError, match="lowest corner"):
        messages.voxel_filter(turned)


def asked(*words: str):
    options = parser().parse_args(words)
    check_question(options, parser())
    return asked_where(options)


def test_the_command_line_says_where():
    assert asked("sofa") is None
    near = asked("sofa", "--near", "1", "-2", "0.5", "--radius", "3")
    assert near.centre == (1.0, -2.0, 0.5) and near.radius == 3
    box = asked("sofa", "--box", "0", "0", "0", "1", "2", "3", "--max-age", "60", "--min-hits", "4")
    assert box.highest == (1.0, 2.0, 3.0) and (box.max_age, box.min_hits) == (60, 4)
    with pytest.raises(InputError):
        asked("sofa", "--max-age", "-1")
    for words in ((), ("sofa", "--image", "a.png"), ("sofa", "--radius", "2")):
        with pytest.raises(SystemExit):
            asked(*words)


def test_the_table_says_when_a_thing_was_seen_and_that_it_is_gone():
    from radseg_ros.answers.plain import answer_dict

    answers = [Answer("sofa", 0.875, (THING, GONE)), Answer("cat", 0.25, ())]
    result = {
        "answers": [answer_dict(answer) for answer in answers],
        "stamp": 200.0,
        "voxels": 9,
        "frame_id": "map",
        "frames": {"integrated": 3, "waiting": 0},
        "drops": {},
        "covered": 1.0,
        "pending_voxels": 0,
    }
    head, first, second, third, _ = table(result).splitlines()
    assert head.split() == ["id", "label", "score", "x", "m", "y", "m", "z", "m", "size", "m",
                            "voxels", "last", "seen"]  # fmt: skip
    assert first.split()[:6] == ["12", "sofa", "0.75", "1.00", "2.00", "0.50"]
    assert first.endswith("3 min ago") and second.endswith("missing for 3 min")
    assert "cat" in third and "0.25" in third and "not found" in third
    empty = {**result, "voxels": 0, "answers": [answer_dict(Answer("x" * 500, 0.0, ()))]}
    *rows, last = table(empty).splitlines()
    assert last.startswith("the map is empty") and max(map(len, rows)) < 130


def test_markers_replace_those_before_them():
    things = (THING, GONE, dataclasses.replace(THING, id=0), dataclasses.replace(THING, id=0))
    array = marker_array([Answer("sofa", 0.9, things), Answer("cat", 0.1, ())], palette(2), HEAD)
    first, *rest = array.markers
    assert first.action == Marker.DELETEALL and first.header.frame_id == "map"
    assert {marker.action for marker in rest} == {Marker.ADD}
    keys = [(marker.ns, marker.id) for marker in rest]
    assert len(set(keys)) == len(keys) == 8
    assert {number for _, number in keys} == {12, 13, -1, -2}
    boxes = [marker for marker in rest if marker.ns == "boxes"]
    assert messages.tuple_of(boxes[0].scale) == THING.box.size
    np.testing.assert_allclose(matrix(boxes[0].pose)[:3, 3], THING.box.centre)
    color = (boxes[0].color.r, boxes[0].color.g, boxes[0].color.b)
    assert color == pytest.approx(tuple(palette(1)[0] / 255))
    assert boxes[1].color.a < boxes[0].color.a, "what is missing is faint"
    names = [marker.text for marker in rest if marker.ns == "names"]
    assert names[0] == "sofa #12 0.75" and names[1] == "sofa #13 0.75 missing"
    assert names[2] == "sofa 0.75"
    assert len(marker_array([], palette(0), HEAD).markers) == 1


def test_a_grid_as_a_message():
    data = np.array([[-1, 0, 100], [5, -1, 7]], np.int8)
    message = messages.grid_message(Grid(data, (4, -2), 0.5), 0.25, HEAD)
    assert (message.info.width, message.info.height) == (3, 2)
    assert list(message.data) == data.ravel().tolist()
    assert messages.tuple_of(message.info.origin.position) == (1.75, -1.25, 0.25)
    assert message.info.resolution == 0.5 and message.info.origin.orientation.w == 1.0
    assert len(messages.grid_message(Grid(data[:0, :0], (0, 0), 0.5), 0.0, HEAD).data) == 0


@pytest.mark.parametrize(("tells", "seconds"), [(0, client.ACQUAINTANCE), (1, 30.0)])
def test_a_node_that_tells_its_status_is_waited_for_as_for_an_answer(monkeypatch, tells, seconds):
    now = [100.0]
    monkeypatch.setattr(client.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("rclpy.spin_once", lambda node, timeout_sec: now.append(now.pop() + 0.25))
    asking = MapClient(timeout=30.0)
    asking.node = SimpleNamespace(count_publishers={"/radseg_mapping/status": tells}.get)
    asking._status = SimpleNamespace(topic_name="/radseg_mapping/status")
    asking._meet()
    assert now[0] - 100.0 == pytest.approx(seconds, abs=0.5)
    asking._progress.update(0.5)
    asking._meet()
    assert now[0] - 100.0 == pytest.approx(seconds, abs=0.5), "it is known already"
