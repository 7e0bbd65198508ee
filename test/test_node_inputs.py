# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Inputs have an executor of their own: neither they nor the rest of the node wait for another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from conftest import require_ros

require_ros()

from rclpy.clock import Clock as SteadyClock
from rclpy.clock import ClockType
from rclpy.parameter import Parameter
from recordings import SIZE, BagWriter, rgb_of
from robot import NODE, PATIENCE, Robot, color_node, play, wait_for
from rosbags.rosbag2 import StoragePlugin
from rosgraph_msgs.msg import Clock

from radseg_interfaces.srv import SaveMap
from radseg_ros.config import Config, NodeConfig
from radseg_ros.live_map import LiveMap
from radseg_ros.ros import messages
from radseg_ros.ros.faults import Faults
from radseg_ros.ros.inputs import Inputs, RestExecutor


class Stand:
    """A node with inputs and both executors, and the map that they feed."""

    def __init__(self) -> None:
        sim_time = Parameter("use_sim_time", value=True)
        self.node = rclpy.create_node("stand", parameter_overrides=[sim_time])
        self.live = LiveMap(Config(node=NodeConfig(cameras=["front", "rear"])))
        self.inputs = Inputs(self.node, self.live, Faults())
        self.executors = (self.inputs.executor, RestExecutor(2, self.inputs.executor))
        self.executors[1].add_node(self.node)
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._spin, args=(e,)) for e in self.executors]
        for thread in self._threads:
            thread.start()

    def _spin(self, executor) -> None:
        while not self._ending.is_set():
            executor.spin_once()

    def timer(self, period: float, callback: Callable[[], object]) -> None:
        """Of steady time, as the node's: there is no time of a simulation."""
        clock = SteadyClock(clock_type=ClockType.STEADY_TIME)
        self.node.create_timer(period, callback, clock=clock)

    def received(self, name: str) -> int:
        return self.live.status().accounts[name].received

    def close(self) -> None:
        self._ending.set()
        for executor, thread in zip(self.executors, self._threads, strict=True):
            executor.create_task(lambda: None)
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self.node.destroy_node()
        assert self.live.close(PATIENCE)


@pytest.fixture
def stand(robot: Robot) -> Iterator[Stand]:
    made = Stand()
    yield made
    made.close()


def pose() -> dict:
    return {"/pose": messages.pose_message(np.eye(4), messages.header(1, "map"), "base")}


def test_every_callback_belongs_to_one_executor(stand):
    stand.inputs.subscribe()
    stand.timer(100.0, lambda: None)
    node, (inputs, rest) = stand.node, stand.executors
    entities = [*node.subscriptions, *node.waitables, *node.timers, *node.services]
    assert len(entities) > 20
    assert all(inputs.owns(each) == (not rest.can_execute(each)) for each in entities)
    assert all(inputs.owns(each) for each in node.subscriptions)
    assert "/clock" in [each.topic_name for each in node.subscriptions]
    owned = [each for each in entities if inputs.owns(each)]
    events = [event for each in node.subscriptions for event in each.event_handlers]
    assert set(map(id, owned)) == set(map(id, [*node.subscriptions, *events]))


def test_inputs_are_heard_that_are_subscribed_while_the_executor_waits(stand, robot):
    stand.inputs.subscribe()
    head = messages.header(1, "front")
    image = messages.color_message(np.zeros((2, 2, 3), np.uint8), head)
    robot.publish({**pose(), "/front/color/image": image})
    wait_for(lambda: stand.received("pose") == stand.received("front/color") == 1, what="both")
    assert stand.received("rear/color") == 0


def test_time_of_a_simulation_is_heard(stand, robot):
    stand.inputs.subscribe()
    robot.publish({"/clock": Clock(clock=messages.time_message(7))})
    wait_for(lambda: stand.node.get_clock().now().nanoseconds == 7, what="the time")


def test_a_callback_that_takes_long_holds_up_no_input(stand, robot):
    entered, go = threading.Event(), threading.Event()

    def long() -> None:
        entered.set()
        assert go.wait(PATIENCE)

    stand.timer(0.01, long)
    stand.inputs.subscribe()
    assert entered.wait(PATIENCE)
    robot.publish(pose())
    wait_for(lambda: stand.received("pose") == 1, what="the pose")
    assert not go.is_set()
    go.set()


def test_an_input_that_takes_long_holds_up_no_other_callback(stand, robot, monkeypatch):
    entered, go, ticked = threading.Event(), threading.Event(), threading.Event()
    receive = stand.live.receive

    def long(*arguments):
        entered.set()
        assert go.wait(PATIENCE)
        return receive(*arguments)

    monkeypatch.setattr(stand.live, "receive", long)
    stand.inputs.subscribe()
    robot.publish(pose())
    assert entered.wait(PATIENCE)
    stand.timer(0.01, ticked.set)
    assert ticked.wait(PATIENCE) and not go.is_set()
    go.set()
    wait_for(lambda: stand.received("pose") == 1, what="the pose")


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["", "raw"])
def test_compressed_images_are_mapped_and_the_map_is_saved_where_nothing_was_set(
    robot, tmp_path, depth
):
    """A bag as its camera sent it, also with depth that was not compressed."""
    millimetres = np.full(SIZE, 1500, np.uint16)
    with BagWriter(tmp_path / "bag", StoragePlugin.MCAP) as bag:
        for i in range(3):
            ns = (i + 1) * 100_000_000
            bag.info("/camera_info", ns)
            bag.pose("/odom", ns, i / 10, odometry=True)
            bag.compressed("/rgb/compressed", ns, rgb_of(9), "rgb8; png compressed bgr8")
            if depth:
                bag.image("/depth", ns, millimetres, "16UC1")
            else:
                twin = "/depth/compressedDepth"
                bag.compressed(twin, ns, millimetres, "16UC1; compressedDepth png", bytes(12))
    given = {"node.image_transport": "compressed", "node.backlog": 9}
    given |= {"node.depth_image_transport": depth} if depth else {}
    with color_node(given, HOME=str(tmp_path)):
        play(str(tmp_path / "bag"))
        wait_for(lambda: robot.integrated() == 3, what="three frames")
        saved = robot.call(SaveMap, f"{NODE}/save_map", path="office")
        assert saved.success and saved.voxels > 0, saved.message
        assert Path(saved.path) == tmp_path / ".ros" / "radseg_maps" / "office.radmap"
        assert Path(saved.path).stat().st_size == saved.bytes
