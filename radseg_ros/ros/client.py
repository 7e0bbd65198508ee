# SPDX-License-Identifier: Apache-2.0
"""A program's connection to a running mapping node: services are called, answers become plain.

ROS is imported when a connection is made, so that what only reads a command line need not wait.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any, TextIO

from ..answers.plain import answer_dict
from ..datatypes import Answer, OrientedBox, RadsegRosError, SemanticObject, Viewpoint

NODE = "/radseg_mapping"
POLL = 0.2  # s between two looks whether there is anything to show
NOBODY = "is the node running, and on the same ROS_DOMAIN_ID?"
ACQUAINTANCE = 2.0  # s that a node without ~/status is given to learn where its answer goes


class NoAnswer(RadsegRosError):
    """The node does not answer, or says no; the text says why."""


class Progress:
    """How much of the map is ready for questions: a bar, if ``stream`` is a terminal."""

    DELAY = 1.0  # s; who gets an answer sooner sees no bar
    WIDTH = 40  # characters

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = self.moved_at = time.monotonic()  # s; moved: the share has become larger
        self.known = False  # whether a share has come
        self._most = self._share = 0.0
        self._drawn = False

    def begin(self) -> None:
        """Something is waited for from now on."""
        self._begun = self.moved_at = time.monotonic()

    def update(self, share: float) -> None:
        """Take a new share, 0..1."""
        if share > self._most:
            self.moved_at = time.monotonic()
        self.known, self._most, self._share = True, max(share, self._most), share

    def draw(self) -> None:
        """Show the bar, once there is something to wait for."""
        late = time.monotonic() - self._begun > self.DELAY
        if self._stream.isatty() and late and self.known:
            bar = ("#" * int(self._share * self.WIDTH)).ljust(self.WIDTH)
            self._stream.write(f"\r[{bar}] {int(100 * self._share):3d} % of the map is ready")
            self._stream.flush()
            self._drawn = True

    def clear(self) -> None:
        """Take the bar away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False


class MapClient:
    """Calls the services of a mapping node, one at a time. Use it as a context.

    Args:
        node: its name, with its namespace.
        timeout: s to wait for the node, and for an answer while the map does not become readier
            for it.
    """

    def __init__(self, node: str = NODE, timeout: float = 10.0) -> None:
        self._name, self._timeout = node.rstrip("/"), timeout
        self._progress = Progress(sys.stderr)
        self._clients: dict[str, Any] = {}
        self.node: Any = None
        self._status: Any = None  # subscription of ~/status

    def __enter__(self) -> MapClient:
        import rclpy

        rclpy.init()
        self.node = rclpy.create_node("radseg_query")
        return self

    def __exit__(self, *_: object) -> None:
        import rclpy

        self.node.destroy_node()
        rclpy.try_shutdown()
        self.node, self._status, self._clients = None, None, {}

    def call(self, type_: Any, service: str, **request: Any) -> Any:
        """The answer of ``~/service`` to a request with these fields.

        Raises:
            NoAnswer: no node, no answer in time, or a refusal.
        """
        import rclpy

        client, progress = self._client(type_, service), self._progress
        future = client.call_async(type_.Request(**request))
        patience = self._timeout + request.get("time_limit", 0.0)
        progress.begin()
        try:
            while not future.done() and time.monotonic() < progress.moved_at + patience:
                rclpy.spin_until_future_complete(self.node, future, timeout_sec=min(POLL, patience))
                progress.draw()
        finally:
            progress.clear()
        if not future.done():
            client.remove_pending_request(future)
            raise NoAnswer(f"{client.srv_name} did not answer within {self._timeout:g} s")
        response: Any = future.result()
        if not response.success:
            raise NoAnswer(response.message)
        return response

    def _client(self, type_: Any, service: str) -> Any:
        """Of a service that is there and knows where its answers go."""
        if service in self._clients:
            return self._clients[service]
        try:
            client: Any = self.node.create_client(type_, f"{self._name}/{service}")
            self._listen()
        except ValueError as error:
            raise NoAnswer(f"node {self._name}: {' '.join(str(error).split())}") from error
        if not client.wait_for_service(self._timeout):
            self.node.destroy_client(client)
            others = self._others(type_, service)
            cure = f"there is {' or '.join(others)} (--node)" if others else NOBODY
            raise NoAnswer(f"no service {client.srv_name} after {self._timeout:g} s; {cure}")
        self._meet()
        return self._clients.setdefault(service, client)

    def _others(self, type_: Any, service: str) -> list[str]:
        """Names of the nodes that offer a service of this type and name."""
        name = f"{type_.__module__.split('.')[0]}/srv/{type_.__name__}"
        offered = self.node.get_service_names_and_types()
        end = f"/{service}"
        return [s.removesuffix(end) for s, types in offered if name in types and s.endswith(end)]

    def _listen(self) -> None:
        """Hear ~/status, by a subscription that is younger than every client."""
        from rclpy.qos import DurabilityPolicy, QoSProfile

        from radseg_interfaces.msg import MapStatus

        if self._status is not None:
            self.node.destroy_subscription(self._status)
        self._progress.known = False
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._status = self.node.create_subscription(
            MapStatus,
            f"{self._name}/status",
            lambda status: self._progress.update(status.answerable),
            latched,
        )

    def _meet(self) -> None:
        """Wait until the node knows of every client: an answer before that is lost.

        It learns of a client first and of the subscription then: when a status comes, both are
        known.
        """
        import rclpy

        begun, topic = time.monotonic(), self._status.topic_name
        while not self._progress.known:
            tells = self.node.count_publishers(topic)
            patience = self._timeout if tells else min(ACQUAINTANCE, self._timeout)
            if time.monotonic() > begun + patience:
                return
            rclpy.spin_once(self.node, timeout_sec=POLL)


def answer_of(message: Any) -> Answer:
    """radseg_interfaces/LabelAnswer -> Answer, in the frame of the message."""
    things = tuple(_object_of(each) for each in message.objects)
    return Answer(message.label, message.best_score, things)


def as_dict(response: Any) -> dict[str, Any]:
    """Response of QueryText or QueryVector -> plain values; places are [x, y, z] in metres."""
    status = response.status
    return {
        "frame_id": response.header.frame_id,
        "stamp": _ns(response.header.stamp) / 1e9,
        "voxels": status.voxels,
        "pending_voxels": status.pending_voxels,
        "covered": response.covered,
        "frames": {"integrated": status.frames_integrated, "waiting": status.frames_waiting},
        "drops": {drop.reason: drop.count for drop in status.drops},
        "answers": [answer_dict(answer_of(answer)) for answer in response.answers],
    }


def _object_of(message: Any) -> SemanticObject:
    seen_from = Viewpoint(_xyz(message.viewpoint.position), _yaw(message.viewpoint.orientation))
    box = message.box
    return SemanticObject(
        label=message.label,
        score=message.score,
        centre=_xyz(message.centre),
        size=_xyz(message.size),
        peak=_xyz(message.peak),
        box=OrientedBox(_xyz(box.position), _xyz(message.box_size), _yaw(box.orientation)),
        voxels=message.voxels,
        hits=message.hits,
        views=message.views,
        mean_score=message.mean_score,
        best_score=message.best_score,
        first_seen_ns=_ns(message.first_seen),
        last_seen_ns=_ns(message.last_seen),
        id=message.id,
        missing_since_ns=_ns(message.missing_since),
        viewpoint=seen_from if message.has_viewpoint else None,
    )


def _xyz(place: Any) -> tuple[float, float, float]:
    return place.x, place.y, place.z


def _yaw(q: Any) -> float:
    """Angle (rad) of the x axis of a rotation, about z."""
    return math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y**2 + q.z**2))


def _ns(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec
