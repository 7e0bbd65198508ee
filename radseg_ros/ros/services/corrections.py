# SPDX-License-Identifier: Apache-2.0
"""Corrected poses: the topic `trajectory`, of whatever optimises them, and ~/correct."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from nav_msgs.msg import Path
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from radseg_interfaces.srv import CorrectPoses

from ...datatypes import InputError, RadsegRosError
from ...frames import decode
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
        self._newest: Path | None = None
        self._lock = threading.Lock()
        self._use = faults.guarded(f"correcting by {TOPIC}", self._use_newest)
        node.create_subscription(
            Path,
            TOPIC,
            faults.guarded(f"receiving {TOPIC}", self._receive),
            QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE),
            callback_group=MutuallyExclusiveCallbackGroup(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def correct(self, request: CorrectPoses.Request, response: CorrectPoses.Response) -> None:
        """~/correct."""
        done = self._correct(request.path)
        response.moved, response.kept, response.outside = done.moved, done.kept, done.outside
        response.message = told(done)

    def _receive(self, path: Path) -> None:
        """A newer path says all that an older one said."""
        with self._lock:
            waiting, self._newest = self._newest is not None, path
        if not waiting:
            self._aside(self._use)

    def _use_newest(self) -> None:
        with self._lock:
            path, self._newest = self._newest, None
        if path is None:
            return
        try:
            done = self._correct(path)
        except RadsegRosError as error:
            self.live.drops.add(
                "trajectory that cannot be used (correct.*, journal.*)", example=str(error)
            )
            return
        if done.moved:
            self._node.get_logger().info(f"{TOPIC}: {told(done)}")

    def _correct(self, path: Path) -> Correction:
        if not 0 < len(path.poses) <= MAX_POSES:
            raise InputError(f"a path has 1 to {MAX_POSES} poses, got {len(path.poses)}")
        with decode.reading("trajectory"):
            frame_id = decode.frame_id(path.header.frame_id)
            stamps = [decode.stamp_to_ns(each.header.stamp) for each in path.poses]
            poses = [decode.pose_matrix(each.pose) for each in path.poses]
        if not all(stamps):
            raise InputError("a pose of the path has no stamp (it is zero)")
        return self.live.correct(stamps, poses, frame_id)


def told(done: Correction) -> str:
    """What a correction does, in one sentence."""
    stay = {"lie outside of the path": done.outside, "are not in the journal any more": done.gone}
    others = "".join(f"; {count} {why}" for why, count in stay.items() if count)
    return f"{done.moved} frames are moved, {done.kept} are where they belong{others}"
