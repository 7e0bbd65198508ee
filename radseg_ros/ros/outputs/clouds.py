# SPDX-License-Identifier: Apache-2.0
"""Clouds of the map: in true colours, in the colours of labels, and as the last question saw it."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from radseg_interfaces.msg import LabelLegend

from ...answers.packed import PackedCloud
from .. import messages
from .latched import LatchedTopic, Outputs, Turn

if TYPE_CHECKING:
    from ...live_map import LiveMap


class Clouds(Outputs):
    """The topics of ``live``."""

    def __init__(self, node: Node, live: LiveMap) -> None:
        super().__init__()
        self._live = live
        self._plain, self._labelled = PackedCloud(), PackedCloud()
        self._labelled_by: object = None
        self._asked: tuple[int, np.ndarray, Header] | None = None  # the last question
        self._memory = array.array("B")  # of the last message: it has left when the next is made
        self._rgb = LatchedTopic(node, PointCloud2, "rgb_cloud")
        self._semantic = LatchedTopic(node, PointCloud2, "semantic_cloud")
        self._query = LatchedTopic(node, PointCloud2, "query_cloud")
        self._legend = LatchedTopic(node, LabelLegend, "legend")

    def show(self, points: np.ndarray, head: Header) -> None:
        """Have ``points`` (of ``POINT``) published as the cloud of the last question."""
        self._asked = next(self._turns), points, head

    def _each(self, turn: Turn) -> None:
        config = self._live.config
        node, labels, version = config.node, config.node.labels, self._live.version
        shown = (version, node.cloud_min_hits, node.cloud_max_points, node.cloud_radius)
        turn(
            self._rgb,
            (shown, self._again(self._plain.missing > 0)),
            lambda: self._cloud(self._plain),
        )
        labelled_by = (labels, config.query)
        if labelled_by != self._labelled_by:
            self._labelled, self._labelled_by = PackedCloud(), labelled_by
        key = (shown, labelled_by, self._again(self._labelled.missing > 0))
        turn(self._semantic, key, lambda: self._cloud(self._labelled, labels))
        turn(self._legend, labels, lambda: messages.legend_message(labels))
        if self._asked is not None:
            number, points, head = self._asked
            turn(self._query, number, lambda: messages.cloud_message(points, head, self._memory))

    def _cloud(self, cloud: PackedCloud, labels: Sequence[str] = ()) -> PointCloud2:
        points = self._live.show(cloud, labels)
        head = messages.header(*self._live.moment())
        return messages.cloud_message(points, head, self._memory)
