# SPDX-License-Identifier: Apache-2.0
"""Loop closures of rtabmap or slam_toolbox, for the map: a path of their pose graph, with stamps.

    python examples/pose_graph_path.py rtabmap          # --ros-args -r trajectory:=/a/trajectory
    python examples/pose_graph_path.py slam_toolbox

The mapping node moves its frames where a path on `trajectory` says, and needs the stamp of each
pose for that. Neither program publishes such a path by itself: rtabmap's mapPath has one stamp for
all poses. But both tell the number and the stamp of each new node of their graph, and publish the
graph, with the numbers, whenever it has changed. This joins the two. Start it before them: nodes
that came earlier have no stamp.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.executors import ExternalShutdownException
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Header

from radseg_ros.command import run_command
from radseg_ros.datatypes import RadsegRosError

PERIOD = 5.0  # s between two paths
QUEUE = 100  # a new node must not be missed


@dataclass(frozen=True)
class Source:
    """Where a program tells of its graph."""

    package: str  # of its messages
    node: tuple[str, str]  # topic and type: a new node
    graph: tuple[str, str]  # topic and type: all nodes, where they are now
    new: Callable[[Any], tuple[int, Any]]  # message -> number and stamp
    poses: Callable[[Any], Iterable[tuple[int, Any]]]  # message -> number and pose of each


SOURCES = {
    "rtabmap": Source(
        "rtabmap_msgs",
        ("/rtabmap/info", "Info"),
        ("/rtabmap/mapGraph", "MapGraph"),
        lambda info: (info.ref_id, info.header.stamp),
        lambda graph: zip(graph.poses_id, graph.poses, strict=False),
    ),
    "slam_toolbox": Source(
        "slam_toolbox",
        ("/slam_toolbox/new_node_event", "NewNodeEvent"),
        ("/slam_toolbox/pose_graph", "PoseGraph"),
        lambda event: (event.new_node_id, event.stamp),
        lambda graph: ((node.node_id, node.pose) for node in graph.nodes),
    ),
}


class PoseGraph:
    """Joins the stamps of nodes with where they are."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stamps: dict[int, Any] = {}  # by number of node
        self._newest: Any = None  # graph
        self._changed = False  # since the last path

    def add(self, message: Any) -> None:
        """Take the stamp of a new node. A number that comes again is of a graph begun anew."""
        number, stamp = self._source.new(message)
        self._stamps[number] = stamp
        self._changed = True

    def update(self, message: Any) -> None:
        """Take the graph as it is now."""
        self._newest, self._changed = message, True

    def path(self) -> Path | None:
        """Where the nodes are whose stamps are known; None if nothing is new since the last."""
        graph, changed, self._changed = self._newest, self._changed, False
        if graph is None or not changed:
            return None
        path = Path(header=graph.header)
        for number, pose in self._source.poses(graph):
            if (stamp := self._stamps.get(number)) is not None:
                header = Header(stamp=stamp, frame_id=graph.header.frame_id)
                path.poses.append(PoseStamped(header=header, pose=pose))
        return path if len(path.poses) > 1 else None


def run(name: str, period: float, ros_args: list[str]) -> int:
    """Listen and publish until Ctrl-C.

    Raises:
        RadsegRosError: the messages of that program are not installed.
    """
    source = SOURCES[name]
    try:
        types = importlib.import_module(f"{source.package}.msg")
    except ModuleNotFoundError as error:
        raise RadsegRosError(f"the ROS package {source.package} is not installed") from error
    rclpy.init(args=ros_args)
    node, graph = rclpy.create_node("pose_graph_path"), PoseGraph(source)
    publisher = node.create_publisher(Path, "trajectory", 1)

    def publish() -> None:
        if path := graph.path():
            publisher.publish(path)

    for (topic, type_), callback in ((source.node, graph.add), (source.graph, graph.update)):
        node.create_subscription(getattr(types, type_), topic, callback, QUEUE)
    node.create_timer(period, publish)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    rclpy.try_shutdown()
    return 0


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", choices=SOURCES)
    parser.add_argument(
        "--period", type=float, default=PERIOD, help="s between two paths (default: %(default)s)"
    )
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])
    return run_command("pose_graph_path", lambda: run(options.source, options.period, sys.argv))


if __name__ == "__main__":
    sys.exit(main())
