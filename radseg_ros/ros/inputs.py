# SPDX-License-Identifier: Apache-2.0
"""What the node listens to: its topics into the live map, and why one of them is silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ..config import Config
from ..datatypes import ConfigError
from ..frames.assemble import OF_A_CAMERA, SHARED
from ..frames.ledger import IMAGES, input_name
from ..frames.transforms import KINDS as TRANSFORMS
from ..watchdog import InputState
from .faults import Faults

if TYPE_CHECKING:
    from ..live_map import LiveMap

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # poses on a topic do without
    TFMessage = None

POSE_TYPES = {
    "odometry": Odometry,
    "pose": PoseStamped,
    "pose_with_covariance": PoseWithCovarianceStamped,
}
IMAGE_TOPICS = {
    "depth": {
        "raw": (Image, "depth/image"),
        "compressed": (CompressedImage, "depth/image/compressedDepth"),
    },
    "color": {
        "raw": (Image, "color/image"),
        "compressed": (CompressedImage, "color/image/compressed"),
    },
}
SMALL_QUEUE = 200  # poses and transforms are small and may come at 200 Hz
NO_TF2_MSGS = "the ROS package tf2_msgs is not installed (apt: ros-$ROS_DISTRO-tf2-msgs)"
JUMP_PERIOD = 5.0  # s between two warnings that time ran backwards


@dataclass(frozen=True, slots=True)
class Input:
    """One topic that the node listens to."""

    kind: str
    source: str  # camera; or robot, for poses and transforms; empty: of all, or of the only one
    type: type
    topic: str  # before remapping


def inputs_of(config: Config, robots: Mapping[str, Sequence[str]]) -> dict[str, Input]:
    """Name (``input_name``) -> what is listened to, in the order of subscribing.

    Args:
        robots: robot -> its cameras (``cameras_of``).

    Raises:
        ConfigError: poses are to come from tf, whose messages are not installed.
    """
    if TFMessage is None and config.node.pose_source == "tf":
        raise ConfigError(f"node.pose_source is tf, but {NO_TF2_MSGS}")
    color = config.node.image_transport
    depth = config.node.depth_image_transport or color
    transforms = {kind: (TFMessage, kind) for kind in TRANSFORMS if TFMessage is not None}
    of_kinds = {
        "info": (CameraInfo, "depth/camera_info"),
        "pose": (POSE_TYPES[config.node.pose_type], "pose"),
        **transforms,
        "depth": IMAGE_TOPICS["depth"][depth],
        "color": IMAGE_TOPICS["color"][color],
    }
    cameras = [camera for names in robots.values() for camera in names]
    return {
        input_name(kind, source): Input(kind, source, type_, _topic(kind, topic, source))
        for kind, (type_, topic) in of_kinds.items()
        for source in (cameras if kind in OF_A_CAMERA else _sources(kind, robots))
    }


def _sources(kind: str, robots: Mapping[str, object]) -> list[str]:
    """Robots, and in front of them, of transforms, what they share."""
    return list(dict.fromkeys([*(("",) if kind in TRANSFORMS else ()), *robots]))


def _topic(kind: str, name: str, source: str) -> str:
    return f"/{name}" if kind in TRANSFORMS and not source else input_name(name, source)


class InputExecutor(SingleThreadedExecutor):
    """Takes the messages of a node in one thread, while another executor runs the rest of it.

    Before each message an executor of rclpy makes a list of everything that its nodes wait for, and
    one with several threads does so twice and hands the message over. Odometry and transforms may
    come 400 times a second. What subscriptions tell of themselves (QoS events) belongs here as
    well: Fast DDS wakes whoever waits for that with every message.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.group = ReentrantCallbackGroup()  # one thread needs no lock
        self._node = node

    def owns(self, entity: Any) -> bool:
        """Whether its callback is run here."""
        return entity.callback_group is self.group

    def can_execute(self, entity: Any) -> bool:
        """See rclpy: this one looks at nothing else."""
        return self.owns(entity) and super().can_execute(entity)

    def get_nodes(self) -> list[Node]:
        """See rclpy: a node that is added belongs to one executor as a whole, so it is not."""
        return [self._node]


class RestExecutor(MultiThreadedExecutor):
    """Runs everything of its nodes but what ``inputs`` runs."""

    def __init__(self, threads: int, inputs: InputExecutor) -> None:
        super().__init__(threads)
        self._inputs = inputs

    def can_execute(self, entity: Any) -> bool:
        """See rclpy."""
        return not self._inputs.owns(entity) and super().can_execute(entity)


class Inputs:
    """Subscriptions of ``node`` that feed ``live``."""

    def __init__(self, node: Node, live: LiveMap, faults: Faults) -> None:
        self._node, self._live, self._faults = node, live, faults
        self._inputs = inputs_of(live.config, live.robots)
        self._subscriptions: dict[str, Any] = {}  # by name of input
        self.executor = InputExecutor(node)
        # /clock, with use_sim_time, comes up to 1000 times a second; nobody spins yet
        for clock in node.subscriptions:
            entities: list[Any] = [clock, *clock.event_handlers]
            for entity in entities:
                entity.callback_group = self.executor.group

    @property
    def topics(self) -> dict[str, str]:
        """Name of each input that frames need -> its topic, after remapping.

        Empty before :meth:`subscribe`. Poses are needed, or transforms in their place.
        """
        return {
            name: each.topic_name
            for name, each in self._subscriptions.items()
            if self._is_needed(self._inputs[name], each.topic_name)
        }

    def _is_needed(self, source: Input, topic: str) -> bool:
        by_tf = {robot for robot in self._live.robots if self._live.pose_source(robot) == "tf"}
        if source.kind == "pose":
            return source.source not in by_tf
        if source.kind == "tf":  # a robot may do with the transforms that all share
            own = source.source in by_tf and self._node.count_publishers(topic) > 0
            return own if source.source else bool(by_tf)
        return source.kind != "tf_static"

    def subscribe(self) -> None:
        """Begin to listen."""
        queue = self._live.config.sync.queue
        for name, each in self._inputs.items():
            # Best effort, volatile: matches every publisher. Whoever needs reliable delivery
            # overrides it by qos_overrides.
            # Static transforms were said once, before we came.
            small, latched = each.kind in SHARED, each.kind == "tf_static"
            qos = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=max(queue, SMALL_QUEUE if small else 1),
                reliability=ReliabilityPolicy.RELIABLE
                if latched
                else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL
                if latched
                else DurabilityPolicy.VOLATILE,
            )
            self._subscriptions[name] = self._node.create_subscription(
                each.type,
                each.topic,
                self._faults.guarded(f"receiving {each.topic}", partial(self._receive, name)),
                qos,
                callback_group=self.executor.group,
                event_callbacks=self._events(each),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        self.executor.wake()  # the node knows of the other one only
        if TFMessage is None:
            self._node.get_logger().info(f"no transforms: {NO_TF2_MSGS}")

    def state(self, name: str, received: int) -> InputState:
        """What is known about one input, for the watchdog."""
        source, topic = self._inputs[name], self._subscriptions[name].topic_name
        publishers = [info.topic_type for info in self._node.get_publishers_info_by_topic(topic)]
        full_name = f"{source.type.__module__.split('.')[0]}/msg/{source.type.__name__}"
        others = () if publishers else self._published(full_name)
        return InputState(source.kind, topic, full_name, publishers, received, others)

    def _published(self, type_name: str) -> list[str]:
        """Topics of a type that somebody publishes and that are no inputs of this node."""
        own = {each.topic_name for each in self._subscriptions.values()}
        return [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if type_name in types and topic not in own and self._node.count_publishers(topic)
        ]

    def _look_for_poses(self) -> None:
        """Where the source of poses is open: who remaps their topic or publishes on it means it."""
        for robot in self._live.robots:
            if self._live.pose_source(robot) != "auto":
                continue
            name = input_name("pose", robot)
            topic = self._subscriptions[name].topic_name
            remapped = topic != self._node.resolve_topic_name(name, only_expand=True)
            if remapped or self._node.count_publishers(topic):
                self._live.poses_from("topic", robot)

    def _receive(self, name: str, message: Any) -> None:
        source = self._inputs[name]
        if source.kind == "depth":
            self._look_for_poses()
        if self._live.receive(source.kind, message, source.source):
            topic = self._subscriptions[name].topic_name
            self._node.get_logger().warning(
                f"time ran backwards on {topic} (a recording that starts again?): waiting inputs "
                "were dropped, the map is kept",
                throttle_duration_sec=JUMP_PERIOD,
            )

    def _events(self, source: Input) -> SubscriptionEventCallbacks:
        topic = self._node.resolve_topic_name(source.topic)

        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self._node.get_logger().warning(
                f"a publisher of {topic} offers incompatible QoS ({policy}); none of its messages "
                "arrive"
            )

        def lost(event: Any) -> None:
            cure = "large images need the shared-memory profile config/fastdds.xml"
            reason = f"message of {topic} lost on the way ({cure})"
            self._live.drops.add(reason, event.total_count_change)

        guard = partial(self._faults.guarded, f"an event of {topic}")
        # only images get lost, and each event that is waited for makes every message dearer
        return SubscriptionEventCallbacks(
            incompatible_qos=guard(incompatible),
            message_lost=guard(lost) if source.kind in IMAGES else None,
        )
