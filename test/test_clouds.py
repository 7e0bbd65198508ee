# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""When clouds are made: for whoever listens, when something changed, and until they are whole."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import require_ros

require_ros()

from sensor_msgs.msg import PointCloud2

from radseg_ros.answers.floor.grid import Grid
from radseg_ros.answers.packed import POINT, PackedCloud
from radseg_ros.config import GridConfig, NodeConfig, QueryConfig
from radseg_ros.datatypes import Answer, NotReadyError
from radseg_ros.ros.outputs.clouds import Clouds
from radseg_ros.ros.outputs.grids import Grids
from radseg_ros.ros.outputs.latched import LatchedTopic
from radseg_ros.ros.outputs.objects import Objects


class Topics:
    """Stands in for the node: publishers that keep what they are given."""

    def __init__(self) -> None:
        self.listeners, self.sent = 0, {}

    def create_publisher(self, type_: type, name: str, qos: Any) -> Any:
        self.sent[name] = []
        return SimpleNamespace(
            topic_name=name,
            publish=self.sent[name].append,
            get_subscription_count=lambda: self.listeners,
        )

    def clouds(self, name: str) -> list[PointCloud2]:
        return self.sent[f"~/{name}"]


class Live:
    """Stands in for the map; counts how often a cloud is made."""

    def __init__(self) -> None:
        self.version, self.missing, self.loading = 1, 0, False
        self.made: list[tuple[PackedCloud, list[str]]] = []
        self.config = SimpleNamespace(node=NodeConfig(), query=QueryConfig())

    def show(self, cloud: PackedCloud, labels: Sequence[str] = ()) -> np.ndarray:
        if self.loading:
            raise NotReadyError("the encoder is still loading")
        cloud.missing = self.missing
        self.made.append((cloud, list(labels)))
        return np.zeros(self.version, POINT)

    def moment(self) -> tuple[int, str]:
        return 7, "map"


@pytest.fixture
def world() -> tuple[Topics, Live, Clouds]:
    topics, live = Topics(), Live()
    return topics, live, Clouds(topics, live)


def test_nothing_is_made_for_nobody(world):
    topics, live, clouds = world
    for _ in range(3):
        clouds.publish()
        live.version += 1
    assert not live.made and not any(topics.sent.values())


def test_a_cloud_is_made_when_something_changed(world):
    topics, live, clouds = world
    topics.listeners = 1
    for version in (1, 1, 1, 5, 5):
        live.version = version
        clouds.publish()
    assert [cloud.width for cloud in topics.clouds("rgb_cloud")] == [1, 5]
    assert [cloud.width for cloud in topics.clouds("semantic_cloud")] == [1, 5]
    assert topics.clouds("rgb_cloud")[0].header.frame_id == "map"
    for change in ({"cloud_max_points": 9}, {"cloud_radius": 2.0}, {"cloud_min_hits": 3}):
        live.config.node = NodeConfig(**change)
        clouds.publish()
    assert len(topics.clouds("rgb_cloud")) == 5


def test_each_topic_keeps_one_cloud_until_its_labels_change(world):
    topics, live, clouds = world
    topics.listeners = 1
    for labels in ([], ["red"], ["red"], ["red", "blue"]):
        live.config.node = NodeConfig(labels=labels)
        live.version += 1
        clouds.publish()
    plain = [cloud for cloud, labels in live.made[0::2]]
    labelled = [cloud for cloud, labels in live.made[1::2]]
    assert [labels for _, labels in live.made[1::2]] == [[], ["red"], ["red"], ["red", "blue"]]
    assert len({id(cloud) for cloud in plain}) == 1
    assert labelled[1] is labelled[2] and len({id(cloud) for cloud in labelled}) == 3


def test_an_unfinished_cloud_is_published_again_until_it_is_finished(world):
    topics, live, clouds = world
    topics.listeners, live.missing = 1, 100
    for _ in range(4):
        clouds.publish()
    assert len(topics.clouds("semantic_cloud")) == 4
    live.missing = 0
    for _ in range(4):
        clouds.publish()
    assert len(topics.clouds("semantic_cloud")) in (5, 6)


def test_a_cloud_waits_for_the_encoder(world):
    topics, live, clouds = world
    topics.listeners, live.loading = 1, True
    clouds.publish()
    assert not topics.clouds("rgb_cloud")
    live.loading = False
    clouds.publish()
    assert len(topics.clouds("rgb_cloud")) == 1


class Asked:
    """Stands in for a map that is asked; part of its voxels is not ready at first."""

    def __init__(self) -> None:
        self.version, self.covered, self.questions = 1, 0.5, 0
        grid = GridConfig(label="red")
        self.config = SimpleNamespace(
            node=NodeConfig(labels=["red"]), query=QueryConfig(), grid=grid
        )

    def query(self, labels: Sequence[str], time_limit: float) -> Any:
        self.questions += 1
        return SimpleNamespace(covered=self.covered, answers=[Answer("red", 0.1, ())])

    def floor_plan(self) -> Grid:
        self.questions += 1
        return Grid(np.zeros((2, 3), np.int8), (0, 0), 0.05)

    def label_plan(self, label: str) -> tuple[Grid, float]:
        return self.floor_plan(), self.covered

    def moment(self) -> tuple[int, str]:
        return 7, "map"


@pytest.mark.parametrize(("outputs", "topics"), [(Objects, 1), (Grids, 2)])
def test_things_and_floor_plans_are_made_for_listeners_until_they_are_whole(
    outputs, topics, monkeypatch
):
    monkeypatch.setattr("radseg_ros.ros.outputs.latched.time.monotonic", lambda: 0.0)
    node, live = Topics(), Asked()
    made = outputs(node, live)
    made.publish()
    assert not live.questions, "nobody listens"
    node.listeners = 1
    for _ in range(3):
        made.publish()
    assert live.questions == 3 + (topics - 1), "what is not whole is made again"
    live.covered = 1.0
    for _ in range(4):
        made.publish()
    done = live.questions
    made.publish()
    live.version += 1
    made.publish()
    assert live.questions == done + topics


def test_a_topic_rests_after_a_message_that_took_long(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("radseg_ros.ros.outputs.latched.time.monotonic", lambda: now[0])
    node = Topics()
    node.listeners = 1
    topic = LatchedTopic(node, PointCloud2, "slow", rest=4.0)

    def make() -> str:
        now[0] += 2.0
        return "message"

    topic.publish(1, make)
    for key, at, sent in ((2, 103.0, 1), (2, 109.9, 1), (2, 110.0, 2)):
        now[0] = at
        topic.publish(key, make)
        assert len(node.sent["~/slow"]) == sent
