# SPDX-License-Identifier: Apache-2.0
"""What tests of real nodes share: child processes, and a ROS node of the test's own. Needs ROS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from recordings import K
from sensor_msgs.msg import PointCloud2
from waiting import PATIENCE, wait_for

from radseg_interfaces.msg import MapStatus
from radseg_interfaces.srv import QueryText
from radseg_ros.datatypes import Frame
from radseg_ros.ros import messages
from radseg_ros.ros.player import POLL, wait_until_known
from radseg_ros.ros.transport import image_transport, own_domain

HERE = Path(__file__).parent
NODE = "/radseg_mapping"
COLOR_NODE = str(HERE / "color_node.py")
STATIC = QoSProfile(
    depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


PROCESS = 12  # first bytes of the id of whatever publishes or subscribes: of its process
PATIENT = ("--timeout", f"{PATIENCE:g}")  # of programs that ask
CLIENT = ("-m", "radseg_ros.ros.query_client", *PATIENT)
NAMELESS = "_NODE_NAME_UNKNOWN_"  # of rmw: a subscription is known, and not yet whose it is


class Process:
    """A child process whose output is kept, and which never outlives the test."""

    def __init__(self, *command: str, cwd: Path | None = None, **environment: str) -> None:
        self.lines: list[str] = []
        path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        # who crashes says where
        env = {**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-u", *command],
            cwd=cwd,
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

    def said(self, *texts: str) -> list[str]:
        """Its lines that have all of these, once there is one: what it says, and what it publishes
        then, come on different ways.
        """

        def found() -> list[str]:
            return [line for line in self.lines if all(text in line for text in texts)]

        wait_for(lambda: found() or self.ended, f"a line with {texts}")
        if self.ended:
            self._reader.join(PATIENCE)
        assert (lines := found()), f"it ended without a line with {texts}: {self.text}"
        return lines

    def result(self, timeout: float = PATIENCE) -> tuple[int, str]:
        code = self.process.wait(timeout)
        self._reader.join(PATIENCE)
        return code, self.text

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def interrupt(self, with_signal: signal.Signals = signal.SIGINT) -> None:
        """Ask it to end."""
        if not self.ended:
            self.process.send_signal(with_signal)

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> int:
        """End it; its code."""
        self.interrupt(with_signal)
        return self.end()

    def end(self) -> int:
        """Wait for its end, which it was asked for; its code."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self.result()[0]


def play(*arguments: str) -> str:
    """Let the player play to its end; what it printed."""
    patient = ("--wait-timeout", f"{PATIENCE:g}")
    code, text = Process("-m", "radseg_ros.ros.player", *patient, *arguments).result()
    assert code == 0, text
    return text


def ask(*words: str) -> Process:
    """`radseg-query`, which waits as long as the tests do unless its words say otherwise."""
    return Process(*CLIENT, *words)


@contextmanager
def color_node(
    settings: Mapping[str, Any], *ros_args: str, **environment: str
) -> Iterator[Process]:
    """The mapping node with the test encoder, ready to map; it must end cleanly."""
    process = start(settings, *ros_args, **environment)
    try:
        process.said("ready")
        yield process
    finally:
        code = process.stop()
    assert code == 0 and "Traceback" not in process.text, process.text


@contextmanager
def color_nodes(settings: Mapping[str, Any], *names: str) -> Iterator[dict[str, Process]]:
    """One in each namespace, started and ended together: loading takes their time."""
    nodes = {name: start(settings, "-r", f"__ns:=/{name}") for name in names}
    try:
        for node in nodes.values():
            node.said("ready")
        yield nodes
    finally:
        for node in nodes.values():
            node.interrupt()
        codes = {name: node.end() for name, node in nodes.items()}
    texts = "".join(node.text for node in nodes.values())
    assert not any(codes.values()) and "Traceback" not in texts, (codes, texts)


def start(settings: Mapping[str, Any], *ros_args: str, **environment: str) -> Process:
    """The mapping node with the test encoder."""
    chosen = {"encoder": "colors", "short_side": 0, **settings}
    parameters = [word for name, value in chosen.items() for word in ("-p", f"{name}:={value}")]
    return Process(COLOR_NODE, "--ros-args", *parameters, *ros_args, **environment)


class Robot:
    """This process's own ROS node: sends messages, calls services, listens to clouds."""

    def __init__(self, name: str = "test_robot") -> None:
        self.node = rclpy.create_node(name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._closed = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        infos = self.node.get_publishers_info_by_topic("/parameter_events")
        (own,) = (info for info in infos if info.node_name == name)
        self._process = bytes(own.endpoint_gid)[:PROCESS]  # whose nodes know of us at once
        self._met: set[tuple[str, bytes]] = set()  # subscriptions, of which topic, that hear us

    def _spin(self) -> None:
        while not self._closed:
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        self.node.destroy_node()

    def call(self, type_: Any, name: str, timeout: float = PATIENCE, **request: Any) -> Any:
        if name not in self._clients:
            self._clients[name] = self.client(type_, name, timeout)
        client = self._clients[name]
        assert client.wait_for_service(timeout), f"no service {name}"
        future = client.call_async(type_.Request(**request))
        wait_for(future.done, f"answer of {name}", timeout)
        return future.result()

    def client(
        self, type_: Any, name: str, timeout: float = PATIENCE, qos: QoSProfile | None = None
    ) -> Any:
        """A client that its server knows."""
        client = self.node.create_client(type_, name, qos_profile=qos or QoSProfile(depth=10))
        assert client.wait_for_service(timeout), f"no service {name}"
        self.introduce(name)
        return client

    def forget_servers(self) -> None:
        """Of a node that was killed: to its end it seems to be there, and the next is another."""
        for client in self._clients.values():
            self.node.destroy_client(client)
        self._clients.clear()

    def introduce(self, service: str) -> None:
        """Wait until the server knows where answers go; until then they are lost.

        It learns of a client first and of a subscription then: a status shows that it knows both.
        """
        parts = service.split("/")
        topics = ["/".join([*parts[:end], "status"]) for end in range(len(parts) - 1, 1, -1)]
        told = wait_for(
            lambda: [topic for topic in topics if self.node.count_publishers(topic)],
            f"a status beside {service}",
        )
        heard = Listener(self, MapStatus, told[0], LATCHED)
        wait_for(lambda: heard.got, told[0])
        heard.close()

    def query(self, *labels: str, node: str = NODE, **request: Any) -> Any:
        return self.call(QueryText, f"{node}/query", labels=list(labels), **request)

    def publish(self, sent: dict[str, Any]) -> None:
        """Messages by topic; each waits for a subscriber, and until all of them can hear it."""
        for topic in sent.keys() - self._publishers.keys():
            reliable = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
            qos = STATIC if topic.endswith("/tf_static") else reliable
            self._publishers[topic] = self.node.create_publisher(type(sent[topic]), topic, qos)
        found = [wait_for(partial(self._subscribers, t), f"subscriber of {t}") for t in sent]
        new = {key: name for each in found for key, name in each.items() if key not in self._met}
        others = {name for (_, gid), name in new.items() if gid[:PROCESS] != self._process}
        wait_until_known(self.node, others, lambda: time.sleep(POLL), PATIENCE, PATIENCE)
        self._met |= new.keys()
        for topic, message in sent.items():
            self._publishers[topic].publish(message)

    def _subscribers(self, topic: str) -> dict[tuple[str, bytes], str]:
        """Of a topic: the full name of the node of each; nothing while one has no name yet."""
        infos = self.node.get_subscriptions_info_by_topic(topic)
        if any(info.node_name == NAMELESS for info in infos):
            return {}
        return {
            (topic, bytes(info.endpoint_gid)): f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for info in infos
        }

    def latest(self, topic: str) -> PointCloud2:
        """The latched message, received by a subscriber that comes late."""
        received: list = []
        subscription = self.node.create_subscription(PointCloud2, topic, received.append, LATCHED)
        wait_for(lambda: received, what=topic)
        self.node.destroy_subscription(subscription)
        return received[-1]

    def integrated(self, node: str = NODE) -> int:
        """Frames that are in the map."""
        return self.query("red", node=node).status.frames_integrated

    def settle(self, stamp: Any, node: str = NODE) -> None:
        """Wait until the frame of that stamp, the last one sent, is in the map: what was sent
        before it is there as well, or is dropped.
        """
        wait_for(
            lambda: self.query("red", node=node).status.header.stamp == stamp, f"frame of {stamp}"
        )

    def diagnosed(
        self, condition: Callable[[DiagnosticStatus], Any], node: str = NODE
    ) -> DiagnosticStatus:
        """The first report of a node, of those that come from now on, that fulfils a condition."""
        reports = Reports(self, node)
        found = reports.first(condition)
        reports.close()
        return found


class Listener:
    """Keeps what comes on a topic."""

    def __init__(self, robot: Robot, type_: type, topic: str, qos: QoSProfile | int = 10) -> None:
        self.got: list[Any] = []
        self._robot = robot
        self._subscription = robot.node.create_subscription(type_, topic, self.got.append, qos)

    def close(self) -> None:
        self._robot.node.destroy_subscription(self._subscription)


class Reports(Listener):
    """Keeps what a node says of itself."""

    def __init__(self, robot: Robot, node: str = NODE) -> None:
        super().__init__(robot, DiagnosticArray, "/diagnostics", 100)
        self._name = f"{node[1:]}: map"

    def first(self, condition: Callable[[DiagnosticStatus], Any]) -> DiagnosticStatus:
        """The first report, so far or to come, that fulfils a condition."""

        def fulfilled() -> list[DiagnosticStatus]:
            reports = [status for message in list(self.got) for status in message.status]
            return [s for s in reports if s.name == self._name and condition(s)]

        return wait_for(fulfilled, f"a report of {self._name}")[0]


def values(report: DiagnosticStatus) -> dict[str, str]:
    """What a report tells besides its sentence."""
    return {each.key: each.value for each in report.values}


@contextmanager
def repeated(act: Callable[[], Any]) -> Iterator[None]:
    """Do something again and again, in a thread of its own, while the block waits for its effect;
    what it raises is raised at the end.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            act()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            yield
        finally:
            ended.set()
    running.result()


WALL = Frame(
    0, np.full((12, 16, 3), 200, np.uint8), np.full((12, 16), 1.5, np.float32), K, np.eye(4)
)


FRAME_NS = 1_000_000_000 // 30


class Sender:
    """A camera of 30 Hz whose frames have whatever is wrong with them."""

    def __init__(self, robot: Robot, namespace: str = "") -> None:
        self.robot, self.namespace = robot, namespace
        self.stamp: Any = None  # of the last frame

    def __call__(self, frame: Frame = WALL, without: str = "", **changes: dict[str, Any]) -> None:
        """``color={"header.frame_id": "x"}`` changes a field of the colour image.

        Args:
            frame: what it sees: a grey wall at 1.5 m from the origin of the map; stamped with the
                time of sending if its stamp is 0.
            without: the topic on which nothing is sent.
        """
        time.sleep(FRAME_NS / 1e9)
        stamp_ns = frame.stamp_ns or time.time_ns()
        self.stamp = messages.time_message(stamp_ns)
        camera, world = (messages.header(stamp_ns, frame_id) for frame_id in ("camera", "map"))
        sent = {
            "depth/camera_info": messages.info_message(frame.K, frame.depth.shape, camera),
            "color/image": messages.color_message(frame.rgb, camera),
            "depth/image": messages.depth_message(frame.depth, camera),
            "pose": messages.pose_message(frame.T_world_camera, world, "camera"),
        }
        for kind, fields in changes.items():
            (topic,) = (topic for topic in sent if topic.startswith(kind) and "info" not in topic)
            for path, value in fields.items():
                *parts, leaf = path.split(".")
                setattr(reduce(getattr, parts, sent[topic]), leaf, value)
        sent.pop(without, None)
        self.robot.publish({f"{self.namespace}/{topic}": sent[topic] for topic in sent})


@contextmanager
def running_robot() -> Iterator[Robot]:
    """ROS in this process, in a domain of its own."""
    with own_domain():
        rclpy.init()
        with image_transport():
            robot = Robot()
        try:
            yield robot
        finally:
            robot.close()
            rclpy.shutdown()
