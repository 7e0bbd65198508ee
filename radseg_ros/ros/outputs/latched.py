# SPDX-License-Identifier: Apache-2.0
"""Topics whose last message counts, for early and late subscribers."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from ...datatypes import NotReadyError, RadsegRosError

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
Turn = Callable[["LatchedTopic", object, Callable[[], Any]], None]
LATE_PERIOD = 0.5  # s between two looks for subscribers whom the latch does not serve


class LatchedTopic:
    """Publishes what changed and is listened to.

    A late subscriber is served by the latch; one that does not ask for latched messages, which is
    the default of ROS, by publishing once more.

    Args:
        rest: s without a new message for each second that the last one took to make.
    """

    def __init__(self, node: Node, type_: type, name: str, rest: float = 0.0) -> None:
        self._node, self._name, self._rest = node, name, rest
        self._rested = 0.0  # s, time.monotonic() from which on messages may be made
        self._publisher: Any = node.create_publisher(type_, f"~/{name}", LATCHED)
        self._published: object = None  # what the last message was made of
        self._seen: set[bytes] = set()  # subscribers without a latch at the last look
        self._served: set[bytes] = set()

    def publish(self, key: object, make: Callable[[], Any]) -> None:
        """Publish, unless the last message was made of an equal ``key`` or nobody listens."""
        if time.monotonic() < self._rested:
            return
        if key != self._published and self._publisher.get_subscription_count():
            self._publish(key, make)

    def serve_late(self, key: object, make: Callable[[], Any]) -> None:
        """Publish once more for subscribers without a latch that came since the last time."""
        infos = self._node.get_subscriptions_info_by_topic(self._publisher.topic_name)
        now = {bytes(info.endpoint_gid) for info in infos if not _latches(info.qos_profile)}
        known, self._seen = now & self._seen, now  # for a while: they know the publisher as well
        if known - self._served:
            self._publish(key, make)
        self._served = known

    def _publish(self, key: object, make: Callable[[], Any]) -> None:
        begun = time.monotonic()
        try:
            self._publisher.publish(make())
        except NotReadyError:
            return
        except RadsegRosError as error:
            self._node.get_logger().error(f"no ~/{self._name}: {error}", throttle_duration_sec=60.0)
        now = time.monotonic()
        self._published, self._rested = key, now + self._rest * (now - begun)


class Outputs(ABC):
    """Topics that are looked after together."""

    def __init__(self) -> None:
        self._turns = itertools.count(1)

    def publish(self) -> None:
        """Publish what has changed."""
        self._each(LatchedTopic.publish)

    def serve_late(self) -> None:
        """Publish once more for whoever came late and gets nothing otherwise."""
        self._each(LatchedTopic.serve_late)

    @abstractmethod
    def _each(self, turn: Turn) -> None:
        """Give each topic its turn, with what its message is made of and how."""

    def _again(self, unfinished: bool) -> int:
        """For a key: another number each time as long as something is not finished."""
        return next(self._turns) if unfinished else 0


def _latches(qos: QoSProfile) -> bool:
    """Whether a subscriber gets the last message although it came after it."""
    latched = (DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE)
    return (qos.durability, qos.reliability) == latched
