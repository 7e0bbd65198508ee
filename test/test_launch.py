# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs launch is imported after the check that it is there)
"""Launch files, where ROS's launch is installed, with a program in place of the node that writes
down what it was started with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytest.importorskip("launch_ros", reason="ROS's launch_ros is not installed")

from launch.actions import GroupAction, IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter

from launch import LaunchContext, LaunchDescription, LaunchService
from radseg_ros.ros.transport import profile_variable

FOLDER = Path(__file__).parents[1] / "launch"
PROGRAM = f"""#!{sys.executable}
import json, pathlib, sys
words = sys.argv[1:]
files = [pathlib.Path(w).read_text() for w in words if pathlib.Path(w).is_file()]
pathlib.Path(__file__).with_name("started.json").write_text(json.dumps([words, files]))
"""

Launch = Callable[..., tuple[int, list[str], dict]]


@pytest.fixture
def launch(tmp_path, monkeypatch) -> Launch:
    """Run a launch file; its code, and the words and parameters that the node got."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package, name in (("rviz2", "rviz2"), ("radseg_ros", "radseg_mapping")):
        program = tmp_path / "lib" / package / name
        program.parent.mkdir(parents=True)
        (index / package).touch()
        program.write_text(PROGRAM)
        program.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}:{os.environ['AMENT_PREFIX_PATH']}")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.delenv(profile_variable(), raising=False)

    def run(name: str, *before: object, **arguments: str) -> tuple[int, list[str], dict]:
        source = PythonLaunchDescriptionSource(str(FOLDER / f"{name}.launch.py"))
        include = IncludeLaunchDescription(source, launch_arguments=arguments.items())
        service = LaunchService(noninteractive=True)
        service.include_launch_description(LaunchDescription([GroupAction([*before, include])]))
        code = service.run()
        started = program.with_name("started.json")
        words, files = json.loads(started.read_text()) if started.exists() else ([], [])
        parameters: dict = {}
        for text in files:
            plain = text.replace("!!python/tuple", "")  # which rcl does not mind
            for of_node in yaml.safe_load(plain).values():
                parameters |= of_node["ros__parameters"]
        return code, words, parameters

    return run


@pytest.mark.parametrize("name", ["mapping", "realsense", "zed", "gazebo", "rtabmap"])
def test_every_argument_is_described_once(name):
    source = PythonLaunchDescriptionSource(str(FOLDER / f"{name}.launch.py"))
    arguments = source.get_launch_description(LaunchContext()).get_launch_arguments()
    names = [argument.name for argument in arguments]
    assert len(names) == len(set(names)) and {"encoder", "params_file", "use_sim_time"} <= {*names}
    assert all(a.description and a.description != "no description given" for a in arguments)


def test_what_is_not_given_does_not_reach_the_node(launch):
    code, words, parameters = launch("mapping")
    assert code == 0 and parameters == {}
    assert words == ["--ros-args", "-r", "__node:=radseg_mapping"] or "__ns:=/" in words, words


def test_what_is_given_reaches_the_node_as_what_it_is(launch, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("/**: {ros__parameters: {encoder: radseg, short_side: 320}}")
    code, words, parameters = launch(
        "mapping", params_file=str(own), encoder="lite", map_directory="12", use_sim_time="True",
        frame_is_persistent="true", camera_offset="[1.0, 0.5]", color="/rgb", log_level="debug",
        node_name="mapper",
    )  # fmt: skip
    assert code == 0 and parameters == {
        "short_side": 320,
        "encoder": "lite",
        "node.map_directory": "12",
        "use_sim_time": True,
        "map.frame_is_persistent": True,
        "node.camera_offset": [1.0, 0.5],
    }
    line = " ".join(words)
    assert "-r color/image:=/rgb " in line and "color/image/compressed:=/rgb/compressed" in line
    assert "--log-level debug" in line and "__node:=mapper" in line


def test_rviz_shows_what_the_node_publishes(launch, tmp_path):
    code, words, _ = launch("mapping", rviz="true", node_name="mapper", map_frame="odom")
    assert code == 0 and "__node:=mapper" in words
    words, _ = json.loads((tmp_path / "lib" / "rviz2" / "started.json").read_text())
    assert Path(words[words.index("-d") + 1]).name == "mapping.rviz"
    assert words[words.index("-f") + 1] == "odom"
    for topic in ("rgb_cloud", "semantic_cloud", "query_cloud", "objects", "grid", "label_grid"):
        assert f"{topic}:=mapper/{topic}" in words


def test_namespaces_and_parameters_around_it_count(launch):
    around = (PushRosNamespace("robot1"), SetParameter("use_sim_time", True))
    code, words, _ = launch("mapping", *around, namespace="front")
    assert code == 0 and "__ns:=/robot1/front" in words
    assert "use_sim_time:=True" in words


def test_transforms_of_a_robot_in_a_namespace_are_those_of_nav2(launch, tmp_path):
    code, words, _ = launch("realsense", namespace="tb1", tf="tf", rviz="true")
    pairs = {"/tf:=tf", "/tf_static:=tf_static"}
    assert code == 0 and pairs <= {*words}
    shown, _ = json.loads((tmp_path / "lib" / "rviz2" / "started.json").read_text())
    assert pairs <= {*shown}


def test_topics_of_several_cameras_are_below_each(launch):
    code, words, parameters = launch(
        "mapping", cameras="[front, rig/rear]", color="color/image_raw", pose="/odometry"
    )
    assert code == 0 and parameters == {"node.cameras": ["front", "rig/rear"]}
    line = " ".join(words)
    for camera in ("front", "rig/rear"):
        assert f"{camera}/color/image:={camera}/color/image_raw" in line
        assert f"{camera}/color/image/compressed:={camera}/color/image_raw/compressed" in line
    assert "pose:=/odometry" in words and "depth/image" not in line


def test_topics_of_several_robots_are_below_each(launch):
    code, words, parameters = launch(
        "mapping", robots="[a, fleet/b]", cameras="front", depth="depth/image_raw", pose="odom",
        trajectory="slam/path", journal="/tmp/journal", body_frame="base_link",
        robot_origins=str(2 * [float(i % 5 == 0) for i in range(16)]),
    )  # fmt: skip
    assert code == 0 and parameters["node.robots"] == ["a", "fleet/b"]
    assert len(parameters["node.robot_origins"]) == 32
    for robot in ("a", "fleet/b"):
        assert f"{robot}/front/depth/image:={robot}/front/depth/image_raw" in words
        assert f"{robot}/pose:={robot}/odom" in words
        assert f"{robot}/trajectory:={robot}/slam/path" in words
    assert parameters["journal.directory"] == "/tmp/journal"
    assert parameters["correct.body_frame"] == "base_link"


def test_a_trajectory_comes_from_whatever_optimises_it(launch):
    code, words, parameters = launch("rtabmap", trajectory="/graph/path", journal="~/journal")
    assert code == 0 and "trajectory:=/graph/path" in words
    assert parameters["journal.directory"] == "~/journal"


@pytest.mark.parametrize(
    ("name", "color", "more"),
    [
        ("realsense", "/camera/camera/color/image_raw", ""),
        ("zed", "/zed/zed_node/rgb/color/rect/image", "pose:=/zed/zed_node/odom"),
        ("gazebo", "/rgbd_camera/image", ""),
        ("rtabmap", "/camera/camera/color/image_raw", "pose:=/rtabmap/odom"),
    ],
)
def test_a_camera_brings_its_topics(launch, name, color, more):
    code, words, parameters = launch(name)
    assert code == 0 and f"color/image:={color}" in words and more in " ".join(words)
    assert parameters.get("use_sim_time", False) == (name == "gazebo")
    _, words, _ = launch(name, camera="/front", depth="/other")
    assert any(word.startswith("color/image:=/front/") for word in words)
    assert "depth/image:=/other" in words


OTHER = """
import json, pathlib
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

def note(context):
    told = dict(context.launch_configurations)
    seen = ("PROFILES_FILE", "TO_ALL")
    told |= {n: v for n, v in context.environment.items() if n.endswith(seen)}
    pathlib.Path(__file__).with_name("started.json").write_text(json.dumps(told))

def generate_launch_description():
    own = DeclareLaunchArgument("log_level", default_value="info")
    return LaunchDescription([own, OpaqueFunction(function=note)])
"""


def test_a_driver_and_rtabmap_are_started_with_what_the_node_needs(launch, tmp_path):
    """Launch files of the names of theirs, which write down what they were given."""
    files = {}
    for package, name in (("realsense2_camera", "rs_launch"), ("rtabmap_launch", "rtabmap.launch")):
        (tmp_path / "share" / "ament_index" / "resource_index" / "packages" / package).touch()
        files[package] = tmp_path / "share" / package / "launch" / f"{name}.py"
        files[package].parent.mkdir(parents=True)
        files[package].write_text(OTHER)

    def started(package: str) -> dict[str, str]:
        note = files[package].with_name("started.json")
        return json.loads(note.read_text()) if note.exists() else {}

    code, words, _ = launch("rtabmap")
    assert code == 0 and not any(map(started, files))
    around = (PushRosNamespace("robot1"), SetEnvironmentVariable("TO_ALL", "1"))
    code, words, parameters = launch(
        "rtabmap", *around, driver="true", slam="true", camera="/cams/front", log_level="debug",
        frame_id="front_link", namespace="sub", encoder="lite", use_sim_time="true",
    )  # fmt: skip
    assert code == 0 and "color/image:=/cams/front/color/image_raw" in words
    assert parameters == {"encoder": "lite", "use_sim_time": True} and "__ns:=/robot1/sub" in words
    camera, slam = map(started, files)
    assert camera.pop("TO_ALL") == slam["TO_ALL"] == "1"
    assert Path(camera.pop(profile_variable())).name == "fastdds.xml"
    assert profile_variable() not in slam
    assert camera == {
        "camera_namespace": "cams", "camera_name": "front", "align_depth.enable": "true",
        "enable_sync": "true", "log_level": "info",
    }, "its own default, and nothing of ours"  # fmt: skip
    assert slam["frame_id"] == "front_link" and slam["approx_sync"] == "false"
    assert slam["rgb_topic"] == "/cams/front/color/image_raw" and "namespace" not in slam
    assert slam["depth_topic"] == "/cams/front/aligned_depth_to_color/image_raw"
    assert slam["use_sim_time"] == "true", "a recording is played to all or to none"


def test_a_driver_that_is_not_installed_is_named(launch, caplog):
    code, _, _ = launch("realsense", driver="true")
    assert code == 1 and "package 'realsense2_camera' not found" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"params_file": "/nowhere/x.yaml"}, "there is no file /nowhere/x.yaml"),
        ({"cameras": "a,b", "depth": "/depth"}, "depth:=/depth is of one camera"),
        ({"robots": "a,b", "depth": "/depth"}, "depth:=/depth is of one camera"),
        ({"robots": "a,b", "cameras": "c", "pose": "/odom"}, "pose:=/odom is of one robot"),
        ({"robots": "a,b", "trajectory": "/path"}, "trajectory:=/path is of one robot"),
        ({"use_sim_time": "maybe"}, "use_sim_time:=maybe is neither true nor false"),
        ({"respawn": "often"}, "respawn:=often is neither true nor false"),
        ({"pose_type": "twist"}, "twist"),
    ],
)
def test_wrong_arguments_are_refused_by_name(launch, caplog, arguments, reason):
    code, words, _ = launch("mapping", **arguments)
    assert code == 1 and not words and reason in caplog.text
