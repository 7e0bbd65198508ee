# SPDX-License-Identifier: Apache-2.0
"""Corrected poses: the topic `trajectory`, of whatever optimises them, and ~/correct.

Several robots have one of each, below their names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from nav_msgs.msg import Path
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from radseg_interfaces.srv import CorrectPoses

from ...datatypes import InputError, RadsegRosError
from ...frames import decode
from ...frames.ledger import input_name
from ...journal.correct import Correction
from ...live_map import LiveMap
from ..faults import Faults

MAX_POSES = 200_000  # in a path: a pose a second for two days
TOPIC = "trajectory"


class Corrections:
    """Takes paths for ``live``, which needs a journal.

    Args:
        aside: lets a thread that may wait for the disk do some work.
    """

    def __init__(
        self, node: Node, live: LiveMap, faults: Faults, aside: Callable[[Callable[[], None]], Any]
    ) -> None:
        self.live, self._node = live, node
        self._aside = aside
        self._newest: dict[str, Path] = {}  # by robot
        self._lock = threading.Lock()
        for robot in live.robots:
            self._listen(robot, faults)

    def _listen(self, robot: str, faults: Faults) -> None:
        topic = input_name(TOPIC, robot)
        use = faults.guarded(f"correcting by {topic}", partial(self._use_newest, robot))
        self._node.create_subscription(
            Path,
            topic,
            faults.guarded(f"receiving {topic}", partial(self._receive, robot, use)),
            QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE),
            callback_group=MutuallyExclusiveCallbackGroup(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def correct(
        self, robot: str, request: CorrectPoses.Request, response: CorrectPoses.Response
    ) -> None:
        """~/correct, of one robot."""
        done = self._correct(robot, request.path)
        response.moved, response.kept, response.outside = done.moved, done.kept, done.outside
        response.message = told(done)

    def _receive(self, robot: str, use: Callable[[], None], path: Path) -> None:
        """A newer path says all that an older one said."""
        with self._lock:
            waiting = robot in self._newest
            self._newest[robot] = path
        if not waiting:
            self._aside(use)

    def _use_newest(self, robot: str) -> None:
        with self._lock:
            path = self._newest.pop(robot)
        try:
            done = self._correct(robot, path)
        except RadsegRosError as error:
            self.live.drops.add(
                "trajectory that cannot be used (correct.*, journal.*)", example=str(error)
            )
            return
        if done.moved:
            self._node.get_logger().info(f"{input_name(TOPIC, robot)}: {told(done)}")

    def _correct(self, robot: str, path: Path) -> Correction:
        if not 0 < len(path.poses) <= MAX_POSES:
            raise InputError(f"a path has 1 to {MAX_POSES} poses, got {len(path.poses)}")
        with decode.reading("trajectory"):
            frame_id = decode.frame_id(path.header.frame_id)
            stamps = [decode.stamp_to_ns(each.header.stamp) for each in path.poses]
            poses = [decode.pose_matrix(each.pose) for each in path.poses]
        if not all(stamps):
            raise InputError("a pose of the path has no stamp (it is zero)")
        if len(stamps) > 1 and len(set(stamps)) == 1:
            raise InputError(
                f"the {len(stamps)} poses of the path have one stamp: nothing tells which frames "
                "they are of (rtabmap's mapPath: see examples/pose_graph_path.py)"
            )
        return self.live.correct(stamps, poses, frame_id, robot)


def told(done: Correction) -> str:
    """What a correction does, in one sentence."""
    stay = {"lie outside of the path": done.outside, "are not in the journal any more": done.gone}
    others = "".join(f"; {count} {why}" for why, count in stay.items() if count)
    return f"{done.moved} frames are moved, {done.kept} are where they belong{others}"
