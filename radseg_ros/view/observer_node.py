# SPDX-License-Identifier: Apache-2.0
"""A ROS node that watches a mapping node from outside, for the demo and for the page: how far the
map is, its clouds and its answers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from radseg_interfaces.msg import LabelLegend, MapStatus
from radseg_interfaces.srv import QueryPoint, QueryText, SaveMap

from ..frames.decode import pose_matrix
from ..frames.drops import Unusable
from ..ros import messages

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
POSES = QoSProfile(depth=500, reliability=ReliabilityPolicy.RELIABLE)
MOST_POSES = 4096  # that are kept: odometry may come 200 times a second, all day


class Observer:
    """Listens to the poses and to the latched cloud of true colours; calls services.

    Use it as a context.
    """

    def __init__(self, pose_type: str = "odometry", node: str = "radseg_mapping") -> None:
        rclpy.init()
        self.node = rclpy.create_node("radseg_observer")
        self.optical = False  # whether the poses are of a camera's optical frame
        # stamp in ns -> (4, 4), as received; of more than MOST_POSES one of every few
        self.poses: dict[int, np.ndarray] = {}
        self._poses_came, self._pose_step = 0, 1
        self.cloud: PointCloud2 | None = None  # the newest
        self.clouds = 0  # that have come
        self.labels: list[str] = []  # that the node colours its map by
        self.frames_waiting = 0  # that the node has, and not yet in its map
        self.node.create_subscription(
            Odometry if pose_type == "odometry" else PoseStamped, "pose", self._pose, POSES
        )
        self.node.create_subscription(PointCloud2, f"/{node}/rgb_cloud", self._cloud, LATCHED)
        self.node.create_subscription(LabelLegend, f"/{node}/legend", self._legend, LATCHED)
        self.node.create_subscription(MapStatus, f"/{node}/status", self._status, LATCHED)
        self._query: Any = self.node.create_client(QueryText, f"/{node}/query")
        self._point: Any = self.node.create_client(QueryPoint, f"/{node}/query_point")
        self._save: Any = self.node.create_client(SaveMap, f"/{node}/save_map")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        rclpy.try_shutdown()
        self._thread.join(5)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except rclpy.executors.ExternalShutdownException:
            pass

    def _pose(self, message: Odometry | PoseStamped) -> None:
        pose = message.pose.pose if isinstance(message, Odometry) else message.pose
        with suppress(Unusable):  # the node counts those that are none
            T = pose_matrix(pose)
            self.optical = "optical" in getattr(message, "child_frame_id", "")
            self._poses_came += 1
            if self._poses_came % self._pose_step == 0:
                self.poses[_nanoseconds(message.header.stamp)] = T
        if len(self.poses) > MOST_POSES:  # whoever reads the old ones goes on with them
            self.poses = dict(list(self.poses.items())[::2])
            self._pose_step *= 2

    def _cloud(self, message: PointCloud2) -> None:
        self.cloud, self.clouds = message, self.clouds + 1

    def _legend(self, message: LabelLegend) -> None:
        self.labels = list(message.labels)

    def _status(self, message: MapStatus) -> None:
        self.frames_waiting = message.frames_waiting

    @property
    def frames_in_map(self) -> int:
        """How many of the frames whose pose was seen are not newer than the newest cloud."""
        if self.cloud is None:
            return 0
        newest = _nanoseconds(self.cloud.header.stamp)
        return sum(stamp <= newest for stamp in list(self.poses))

    def points(self) -> np.ndarray:
        """The newest cloud as a structured array with x y z rgb label score hits.

        Rgb is 0x00RRGGBB.
        """
        return np.zeros(0, messages.POINT) if self.cloud is None else points_of(self.cloud)

    def scores(self, label: str, timeout: float) -> np.ndarray:
        """The cloud of a query for ``label``, as :meth:`points`.

        Raises:
            TimeoutError, RuntimeError: as :meth:`ask`.
        """
        return points_of(self.ask(timeout, labels=[label]).cloud)

    def ask(self, timeout: float, **request: Any) -> Any:
        """The response of ~/query, with its cloud.

        Args:
            request: fields of the request.

        Raises:
            TimeoutError: no answer in time.
            RuntimeError: the node says no.
        """
        return _call(self._query, QueryText.Request(return_cloud=True, **request), timeout)

    def here(
        self, timeout: float, place: Sequence[float], radius: float, labels: Sequence[str]
    ) -> Any:
        """The response of ~/query_point: what is within ``radius`` of a place, m.

        Raises:
            TimeoutError, RuntimeError: as :meth:`ask`.
        """
        request = QueryPoint.Request(radius=float(radius), labels=list(labels))
        request.point.point = Point(**dict(zip("xyz", map(float, place), strict=True)))
        return _call(self._point, request, timeout)

    def save(self, path: str, timeout: float) -> None:
        """Let the node write its map to a file below its node.map_directory.

        Raises:
            TimeoutError, RuntimeError: as :meth:`ask`.
        """
        _call(self._save, SaveMap.Request(path=path), timeout)


def _call(client: Any, request: Any, timeout: float) -> Any:
    """The response of a service, while another thread spins.

    Raises:
        TimeoutError: no answer in time.
        RuntimeError: the node says no.
    """
    name, done = client.srv_name, threading.Event()
    if not client.wait_for_service(timeout):
        raise TimeoutError(f"no service {name} within {timeout:g} s")
    future = client.call_async(request)
    future.add_done_callback(lambda _: done.set())
    if not done.wait(timeout):
        raise TimeoutError(f"{name} did not answer within {timeout:g} s")
    response: Any = future.result()
    if not response.success:
        raise RuntimeError(f"{name}: {response.message}")
    return response


def points_of(cloud: PointCloud2) -> np.ndarray:
    """A cloud of the mapping node as a structured array; see :meth:`Observer.points`."""
    return np.frombuffer(bytes(cloud.data), messages.POINT)


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec
