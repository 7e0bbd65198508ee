# SPDX-License-Identifier: Apache-2.0
"""ROS parameters are the configuration: nothing is declared twice, nothing misspelt is accepted."""

from __future__ import annotations

import array
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from radseg_ros.config import Config, from_dict, options_of
from radseg_ros.datatypes import ConfigError
from radseg_ros.ros.params import changed, config_from_overrides, declare, to_yaml
from radseg_ros.ros.player import TOPICS

MAPPING = Path(__file__).parents[1] / "config" / "mapping.yaml"


def test_the_shipped_file_is_what_the_generator_writes():
    assert MAPPING.read_text() == to_yaml(), (
        "run: python -m radseg_ros.ros.params > config/mapping.yaml"
    )


def test_the_shipped_file_holds_every_option_and_equals_the_defaults():
    values = yaml.safe_load(MAPPING.read_text())["/**"]["ros__parameters"]
    assert from_dict(Config, values) == Config()
    leaves = {
        f"{g}.{n}" if isinstance(v, dict) else g
        for g, v in values.items()
        for n in (v if isinstance(v, dict) else [g])
    }
    assert leaves == set(options_of(Config))


def test_launch_file_player_and_node_speak_of_the_same_topics():
    launch = (MAPPING.parents[1] / "launch" / "mapping.launch.py").read_text()
    node = (MAPPING.parents[1] / "radseg_ros" / "ros" / "inputs.py").read_text()
    for topic in TOPICS.values():
        assert f'"{topic}"' in launch and f'"{topic}"' in node, topic


def test_every_option_has_its_meaning_right_above_it():
    lines = [line.strip() for line in MAPPING.read_text().splitlines()]
    for parameter in options_of(Config).values():
        assert parameter.doc
        leaf = parameter.name.split(".")[-1] + ":"
        assert any(
            line.startswith(leaf) and lines[i - 1].startswith("# ") for i, line in enumerate(lines)
        ), parameter.name


def test_dotted_names_become_groups():
    overrides = {
        "encoder": "lite",
        "lift.max_range": 4,
        "query.background": ("wall", "floor"),
        "lift.clip_min": None,
    }
    config = config_from_overrides(overrides)
    assert (
        config.encoder == "lite"
        and config.query.background == ["wall", "floor"]
        and config.lift.clip_min == []
    )
    assert config.lift.max_range == 4.0 and isinstance(config.lift.max_range, float)


def test_parameters_of_ros_itself_are_let_through():
    overrides = {
        "use_sim_time": True,
        "qos_overrides./color/image.subscription.reliability": "reliable",
    }
    assert config_from_overrides(overrides) == Config()


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            {"lift.max_rnage": 4.0},
            r"unknown option lift\.max_rnage; did you mean lift\.max_range\?",
        ),
        ({"encodr": "lite"}, "did you mean encoder"),
        (
            {"lyft.max_range": 4.0},
            r"unknown option lyft\.max_range; did you mean lift\.max_range\?",
        ),
        ({"encoder.name": "lite"}, "encoder"),
        ({"lift": 4}, "lift is a group"),
        ({"encoder": "lite", "encoder.name": 1}, "encoder is an option, not a group"),
        ({"short_side": "big"}, "short_side takes int, got 'big'"),
        ({"lift.max_range": True}, "lift.max_range takes float"),
        ({"query.threshold": 1.5}, "query.threshold must be in 0..1"),
        ({"short_side": None}, "short_side has no value"),
        ({"use_sim_timer": True}, "unknown option use_sim_timer"),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides, text):
    with pytest.raises(ConfigError, match=text):
        config_from_overrides(overrides)


class RecordingNode:
    """Stands for an rclpy node."""

    def __init__(self, **overrides: object) -> None:
        self._parameter_overrides = {
            name.replace("__", "."): SimpleNamespace(value=value)
            for name, value in overrides.items()
        }
        self.declared: dict[str, object] = {}

    def declare_parameter(
        self, name: str, value: object, descriptor: object, ignore_override: bool
    ) -> None:
        assert name not in self.declared and ignore_override
        self.declared[name] = (value, descriptor)


def test_declare_declares_every_leaf_with_the_value_that_counts():
    node = RecordingNode(map__voxel_size=0.1)
    config = declare(node, describe=lambda parameter: parameter.doc)
    assert config.map.voxel_size == 0.1
    assert list(node.declared) == list(options_of(Config))
    assert node.declared["map.voxel_size"][0] == 0.1 and node.declared["map.voxel_size"][1]
    assert node.declared["radseg.refine_iou"][0] == 0.9


@pytest.mark.parametrize(
    ("name", "delivered", "value"),
    [
        ("radseg.scga", False, "off"),
        ("radseg.scga", True, "always"),
        ("radseg.refine", True, "sam"),
        ("radseg.refine", False, "off"),
        ("radseg.scra", "off", False),
        ("radseg.scra", "Yes", True),
        ("lift.clip_min", array.array("d", [0, 0, 1]), [0.0, 0.0, 1.0]),
        ("node.labels", ("sofa", "mug"), ["sofa", "mug"]),
        ("node.labels", None, []),
    ],
)
def test_what_yaml_and_rclpy_deliver_is_understood(name, delivered, value):
    config = config_from_overrides({name: delivered})
    group, leaf = name.split(".")
    assert getattr(getattr(config, group), leaf) == value


@pytest.mark.slow
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", [o.name for o in options_of(Config).values() if o.kind in (float, list[float])]
)
def test_no_number_may_be_infinite_or_none_at_all(name, bad):
    kind = options_of(Config)[name].kind
    with pytest.raises(ConfigError, match=f"{name} must be a finite number"):
        config_from_overrides({name: bad if kind is float else [bad] * 3})


def test_parameters_change_together_or_not_at_all():
    config = config_from_overrides({"lift.min_range": 1.0, "lift.max_range": 4.0})
    with pytest.raises(ConfigError, match="lift.max_range must exceed lift.min_range"):
        changed(config, {"lift.min_range": 5.0})
    farther = changed(config, {"lift.min_range": 5.0, "lift.max_range": 9.0, "use_sim_time": True})
    assert (farther.lift.min_range, farther.lift.max_range) == (5.0, 9.0)
    labels = changed(farther, {"node.labels": ["sofa"]})
    assert labels.lift == farther.lift and labels.node.labels == ["sofa"]
    assert changed(labels, {"node.labels": array.array("d")}).node.labels == []
    same = {"map.voxel_size": 0.05, "encoder": "radseg", "lite.sizes": array.array("d", [192, 320])}
    loaded = changed(labels, {**same, "node.cameras": [], "query.threshold": 0.7})
    assert loaded.query.threshold == 0.7, "what is fixed may be said again: ros2 param load"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"query.threshold": 2.0}, r"query\.threshold must be in 0\.\.1, got 2\.0"),
        ({"query.threshold": "much"}, "query.threshold takes float"),
        ({"map.voxel_size": 0.1}, "map.voxel_size cannot change while the node runs: the map is"),
        ({"encoder": "lite"}, "encoder cannot change while the node runs: encoder and map"),
        ({"radseg.refine_iou": 0.5}, "cannot change while the node runs: the encoder is loaded"),
        ({"query.threshold": 0.1, "short_side": 64}, "short_side cannot change"),
        ({"query.treshold": 0.5}, "did you mean query.threshold"),
        ({"node.labels": ["sofa", " "]}, "node.labels: none may be empty"),
        ({"node.labels": None}, "node.labels cannot be removed"),
        ({"node.cameras": None}, "node.cameras cannot change"),
    ],
)
def test_a_change_that_cannot_be_says_why(values, text):
    with pytest.raises(ConfigError, match=text):
        changed(Config(), values)


def test_what_may_change_while_the_node_runs():
    live = {option.name for option in options_of(Config).values() if not option.fixed}
    groups = {name.split(".")[0] for name in live}
    assert groups == {"query", "grid", "lift", "map", "node", "correct"}
    assert {o for o in options_of(Config) if o.startswith(("query.", "lift."))} <= live
    assert {"map.carve_after", "node.labels", "node.publish_period", "node.max_rate"} <= live
    assert not live & {"map.voxel_size", "map.max_bytes", "node.camera_offset", "node.backlog"}
    assert "# * smaller groups" in to_yaml() and "# m\n      voxel_size" in to_yaml()


def test_a_misspelt_parameter_stops_the_declaration():
    with pytest.raises(ConfigError, match="did you mean map.voxel_size"):
        declare(RecordingNode(map__voxelsize=0.1), describe=str)
