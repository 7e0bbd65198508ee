# SPDX-License-Identifier: Apache-2.0
"""What the node publishes of the map: clouds in true colours and in the colours of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from ..datatypes import NotReadyError, RadsegRosError
from . import messages

if TYPE_CHECKING:
    from ..live_map import LiveMap

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
CLOUDS = ("semantic_cloud", "rgb_cloud")


class Clouds:
    """Publishes what changed and is listened to.

    A late subscriber is served at the next turn or by the latch.
    """

    def __init__(self, node: Node, live: LiveMap) -> None:
        self._node, self._live = node, live
        self._published: dict[str, object] = {}  # by cloud: what the last one was made of
        self._publishers = {
            name: node.create_publisher(PointCloud2, f"~/{name}", LATCHED) for name in CLOUDS
        }

    def publish(self) -> None:
        """Publish both clouds, as far as there is need."""
        version, labels = self._live.version, self._live.cloud_labels
        self._publish("rgb_cloud", version)
        if labels:
            self._publish("semantic_cloud", (version, labels), labels)

    def _publish(self, name: str, key: object, labels: Sequence[str] = ()) -> None:
        publisher = self._publishers[name]
        if self._published.get(name) == key or not publisher.get_subscription_count():
            return
        try:
            cloud = self._live.cloud(labels)
        except NotReadyError:
            return
        except RadsegRosError as error:
            self._node.get_logger().error(f"no {name}: {error}", throttle_duration_sec=60.0)
        else:
            header = messages.header(*self._live.moment())
            publisher.publish(messages.cloud_message(cloud, header))
        self._published[name] = key
