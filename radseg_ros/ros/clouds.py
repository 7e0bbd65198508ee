# SPDX-License-Identifier: Apache-2.0
"""What the node publishes of the map: clouds in true colours and in the colours of labels."""

from __future__ import annotations

import array
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from radseg_interfaces.msg import LabelLegend

from ..answers.packed import PackedCloud
from ..datatypes import NotReadyError, RadsegRosError
from . import messages

if TYPE_CHECKING:
    from ..live_map import LiveMap

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LATE_PERIOD = 0.5  # s between two looks for subscribers whom the latch does not serve


class LatchedTopic:
    """Publishes what changed and is listened to.

    A late subscriber is served by the latch; one that does not ask for latched messages, which is
    the default of ROS, by publishing once more.
    """

    def __init__(self, node: Node, type_: type, name: str) -> None:
        self._node, self._name = node, name
        self._publisher: Any = node.create_publisher(type_, f"~/{name}", LATCHED)
        self._published: object = None  # what the last message was made of
        self._seen: set[bytes] = set()  # subscribers without a latch at the last look
        self._served: set[bytes] = set()

    def publish(self, key: object, make: Callable[[], Any]) -> None:
        """Publish, unless the last message was made of an equal ``key`` or nobody listens."""
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
        try:
            self._publisher.publish(make())
        except NotReadyError:
            return
        except RadsegRosError as error:
            self._node.get_logger().error(f"no ~/{self._name}: {error}", throttle_duration_sec=60.0)
        self._published = key


class Clouds:
    """The topics of ``live``."""

    def __init__(self, node: Node, live: LiveMap) -> None:
        self._live = live
        self._plain, self._labelled = PackedCloud(), PackedCloud()
        self._labelled_by: object = None
        self._memory = array.array("B")  # of the last message: it has left when the next is made
        self._turns = itertools.count(1)
        self._rgb = LatchedTopic(node, PointCloud2, "rgb_cloud")
        self._semantic = LatchedTopic(node, PointCloud2, "semantic_cloud")
        self._legend = LatchedTopic(node, LabelLegend, "legend")

    def publish(self) -> None:
        """Publish what has changed."""
        self._each(LatchedTopic.publish)

    def serve_late(self) -> None:
        """Publish once more for whoever came late and gets nothing otherwise."""
        self._each(LatchedTopic.serve_late)

    def _each(self, turn: Callable[[LatchedTopic, object, Callable[[], Any]], None]) -> None:
        config = self._live.config
        node, labels, version = config.node, config.node.labels, self._live.version
        shown = (version, node.cloud_min_hits, node.cloud_max_points, node.cloud_radius)
        turn(self._rgb, (shown, self._again(self._plain)), lambda: self._cloud(self._plain))
        labelled_by = (labels, config.query)
        if labelled_by != self._labelled_by:
            self._labelled, self._labelled_by = PackedCloud(), labelled_by
        key = (shown, labelled_by, self._again(self._labelled))
        turn(self._semantic, key, lambda: self._cloud(self._labelled, labels))
        turn(self._legend, labels, lambda: messages.legend_message(labels))

    def _again(self, cloud: PackedCloud) -> int:
        """Another number each time as long as a cloud is not finished."""
        return next(self._turns) if cloud.missing else 0

    def _cloud(self, cloud: PackedCloud, labels: Sequence[str] = ()) -> PointCloud2:
        points = self._live.show(cloud, labels)
        head = messages.header(*self._live.moment())
        return messages.cloud_message(points, head, self._memory)


def _latches(qos: QoSProfile) -> bool:
    """Whether a subscriber gets the last message although it came after it."""
    latched = (DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE)
    return (qos.durability, qos.reliability) == latched
