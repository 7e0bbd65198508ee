# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Two real nodes in two namespaces, watched and steered over the real transport."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from conftest import require_ros

require_ros()

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from robot import (
    LATCHED,
    Listener,
    Process,
    Reports,
    Robot,
    Sender,
    color_nodes,
    repeated,
    values,
    wait_for,
)
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger
from test_robot_docs import table

from radseg_interfaces.msg import LabelLegend, MapStatus
from radseg_interfaces.srv import ClearBox, SetLabels
from radseg_ros.ros import messages

pytestmark = pytest.mark.slow  # waits for what nodes say once a second
ONE, TWO = "/one/radseg_mapping", "/two/radseg_mapping"


@pytest.fixture(scope="module")
def nodes(robot: Robot) -> Iterator[list[Process]]:
    settings = {"node.publish_period": 0.2, "node.backlog": 20}
    with color_nodes(settings, "one", "two") as nodes:
        yield [*nodes.values()]


def status(robot: Robot, node: str) -> MapStatus:
    """Now; one that comes by itself may have been made before."""
    return robot.query("red", node=node).status


def set_parameters(robot: Robot, together: bool = False, **values: Any) -> list[tuple[bool, str]]:
    """What node one says to new values; ``lift__min_range`` is lift.min_range."""
    parameters: list[ParameterMessage] = [
        Parameter(name.replace("__", "."), value=value).to_parameter_msg()
        for name, value in values.items()
    ]
    if together:
        type_, name = SetParametersAtomically, "set_parameters_atomically"
        results = [robot.call(type_, f"{ONE}/{name}", parameters=parameters).result]
    else:
        results = robot.call(SetParameters, f"{ONE}/set_parameters", parameters=parameters).results
    return [(result.successful, result.reason) for result in results]


def test_diagnostics_name_the_input_that_is_missing(robot, nodes):
    """The first test: nothing has been published yet."""
    report = robot.diagnosed(lambda s: s.level != DiagnosticStatus.OK, ONE)
    assert report.level == DiagnosticStatus.WARN
    assert "/one/depth/image, /one/color/image: no publisher" in report.message
    send = Sender(robot, "/one")
    silent = "no frame for 5 s: /one/depth/image: no publisher"
    with repeated(lambda: send(without="depth/image")):
        report = robot.diagnosed(lambda s: silent in s.message, ONE)
    told = values(report)
    assert report.level == DiagnosticStatus.WARN and told["encoder"] == "test-colors"
    assert float(told["/one/color/image (Hz)"]) > 0 and told["/one/depth/image (Hz)"] == "0.0"
    assert told["last frame (s ago)"] == "never"


def test_the_status_ticks(robot, nodes):
    heard = Listener(robot, MapStatus, f"{ONE}/status", QoSProfile(depth=1))
    wait_for(lambda: len(heard.got) >= 3, "three")
    heard.close()
    assert heard.got[-1].encoder == "test-colors" and heard.got[-1].last_frame_age == -1
    latched = Listener(robot, MapStatus, f"{TWO}/status", LATCHED)
    wait_for(lambda: latched.got, "the last one")
    latched.close()


def test_two_namespaces_mix_nothing(robot, nodes):
    one, two, reports = Sender(robot, "/one"), Sender(robot, "/two"), Reports(robot, TWO)
    for _ in range(3):
        one(color={"encoding": "yuv999"})
        two()
    wait_for(lambda: status(robot, TWO).frames_integrated == 3, what="the frames of the second")
    first = wait_for(
        lambda: (s := status(robot, ONE)).drops and any("yuv999" in d.reason for d in s.drops) and s
    )
    second = status(robot, TWO)
    assert first.frames_integrated == first.voxels == 0 and not second.drops
    assert second.voxels > 0 and second.map_bytes > 0 and second.header.frame_id == "map"
    assert robot.query("red", node=TWO).status.voxels == second.voxels
    assert robot.query("red", node=ONE).status.voxels == 0
    report = reports.first(lambda s: "3 frames" in s.message and "encode (ms)" in values(s))
    reports.close()
    assert report.level == DiagnosticStatus.OK
    assert not any("dropped" in key for key in values(report))
    robot.diagnosed(lambda s: any("yuv999" in key for key in values(s)), ONE)


def test_parameters_change_or_say_why_not(robot, nodes):
    assert set_parameters(robot, query__threshold=0.7) == [(True, "")]
    (refused,) = set_parameters(robot, query__threshold=2.0)
    assert refused == (False, "query.threshold must be in 0..1, got 2.0")
    read = robot.call(GetParameters, f"{ONE}/get_parameters", names=["query.threshold"])
    assert read.values[0].double_value == 0.7
    (fixed,) = set_parameters(robot, map__voxel_size=0.1)
    assert not fixed[0] and "cannot change while the node runs: the map is made" in fixed[1]
    again = {"map__voxel_size": 0.05, "encoder": "colors", "node__max_rate": 0.0}
    assert set_parameters(robot, **again) == 3 * [(True, "")], "as ros2 param load says it"
    (misspelt,) = set_parameters(robot, query__treshold=0.5)
    assert not misspelt[0] and "did you mean query.threshold?" in misspelt[1]
    names = ["query.threshold", "map.voxel_size"]
    described = robot.call(DescribeParameters, f"{ONE}/describe_parameters", names=names)
    live, made = described.descriptors
    (bounds,) = live.floating_point_range
    assert (bounds.from_value, bounds.to_value, live.read_only) == (0.0, 1.0, False)
    assert made.read_only and "the map is made with it" in made.additional_constraints


def test_several_parameters_change_together_or_not_at_all(robot, nodes):
    (refused,) = set_parameters(robot, True, node__max_rate=5.0, query__threshold=-1.0)
    assert not refused[0] and "query.threshold must be" in refused[1]
    read = robot.call(GetParameters, f"{ONE}/get_parameters", names=["node.max_rate"])
    assert read.values[0].double_value == 0.0, "nothing of it"
    assert set_parameters(robot, True, lift__min_range=1.0, lift__max_range=1.2) == [(True, "")]
    Sender(robot, "/one")()
    out_of_range = "lift.min_range to lift.max_range"
    wait_for(lambda: any(out_of_range in drop.reason for drop in status(robot, ONE).drops))
    assert set_parameters(robot, True, lift__min_range=0.0, lift__max_range=0.0)[0][0]


def test_a_pause_counts_images_and_ends(robot, nodes):
    send, before = Sender(robot, "/two"), status(robot, TWO)
    assert robot.call(Trigger, f"{TWO}/pause").success
    send()
    paused = wait_for(lambda: (s := status(robot, TWO)).inputs_dropped and s)
    assert paused.paused and "paused" in paused.drops[0].reason
    report = robot.diagnosed(lambda s: s.message.startswith("paused"), TWO)
    assert report.level == DiagnosticStatus.OK
    assert robot.call(Trigger, f"{TWO}/resume").success
    send()
    wait_for(lambda: status(robot, TWO).frames_integrated == before.frames_integrated + 1)


def points(cloud: PointCloud2) -> np.ndarray:
    return np.frombuffer(cloud.data, messages.POINT)


def test_labels_are_set_for_everybody_and_have_a_legend(robot, nodes):
    clouds = Listener(robot, PointCloud2, f"{TWO}/semantic_cloud", LATCHED)
    legends = Listener(robot, LabelLegend, f"{TWO}/legend", LATCHED)
    wait_for(lambda: clouds.got and legends.got, what="a cloud without labels")
    assert legends.got[-1].labels == [] and (points(clouds.got[-1])["label"] == -1).all()
    assert robot.call(SetLabels, f"{TWO}/set_labels", labels=["red", "white"]).success
    wait_for(lambda: (points(clouds.got[-1])["label"] == 1).any(), what="the wall is white")
    wait_for(lambda: legends.got[-1].labels == ["red", "white"], what="the legend")
    white = legends.got[-1].colors[1]
    red, green, blue = (round(255 * value) for value in (white.r, white.g, white.b))
    shown = points(clouds.got[-1])
    assert set(shown["rgb"][shown["label"] == 1]) == {red << 16 | green << 8 | blue}
    read = robot.call(GetParameters, f"{TWO}/get_parameters", names=["node.labels"])
    assert read.values[0].string_array_value == ["red", "white"]
    answer = robot.call(SetLabels, f"{TWO}/set_labels", labels=["a walrus"])
    assert not answer.success and "knows only red" in answer.message
    assert robot.query("blue", "green", node=TWO).success
    time.sleep(0.5)  # more than two periods
    assert points(clouds.got[-1]).tobytes() == shown.tobytes(), "nothing of a question"
    assert legends.got[-1].labels == ["red", "white"]
    clouds.close()
    legends.close()


@pytest.mark.parametrize(
    "qos", [QoSProfile(depth=1), qos_profile_sensor_data], ids=["volatile", "best effort"]
)
def test_who_comes_late_gets_the_last_messages(robot, nodes, qos):
    """Without asking for latched messages, and long after the last frame."""
    types = {"rgb_cloud": PointCloud2, "semantic_cloud": PointCloud2, "legend": LabelLegend}
    late = [Listener(robot, type_, f"{TWO}/{name}", qos) for name, type_ in types.items()]
    wait_for(lambda: all(each.got for each in late), "the last messages")
    counts = [len(each.got) for each in late]
    time.sleep(1.2)  # more than two looks for newcomers
    again = [len(each.got) - count for each, count in zip(late, counts, strict=True)]
    assert max(again) <= 1
    for each in late:
        each.close()


def test_a_box_is_cleared(robot, nodes):
    voxels = status(robot, TWO).voxels
    infinite = float("inf")
    left = {
        "min": Point(x=-infinite, y=-infinite, z=-infinite),
        "max": Point(x=-0.01, y=infinite, z=infinite),
    }
    answer = robot.call(ClearBox, f"{TWO}/clear_box", **left)
    assert answer.success and 0 < answer.voxels < voxels, answer.message
    wait_for(lambda: status(robot, TWO).voxels == voxels - answer.voxels)
    answer = robot.call(ClearBox, f"{TWO}/clear_box", min=Point(x=1.0), max=Point())
    assert not answer.success and "lowest corner" in answer.message


def test_topics_and_services_are_those_of_the_page(robot, nodes):
    def written(head: str) -> dict[str, list[str]]:
        return {name.replace("~", ONE): [type_] for name, type_, _ in table(head)}

    def by_node(kind: str) -> dict[str, list[str]]:
        found = getattr(robot.node, f"get_{kind}_names_and_types_by_node")("radseg_mapping", "/one")
        own = {name: types for name, types in found if "parameter" not in name}
        return {n: t for n, t in own.items() if not n.endswith(("/rosout", "_description"))}

    assert by_node("publisher") == written("gives")
    takes = {n if n[0] == "/" else f"/one/{n}": types for n, types in written("takes").items()}
    if find_spec("tf2_msgs") is None:  # the node does without, and says so
        takes = {name: types for name, types in takes.items() if not name.startswith("/tf")}
    assert by_node("subscriber") == takes
    assert by_node("service") == written("service")
