# SPDX-License-Identifier: Apache-2.0
"""The node `radseg_mapping`: topics in, clouds and answers out.

Everything that can be tested without ROS is elsewhere.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import rclpy
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from ..config import Option, to_dict
from ..datatypes import (
    CheckpointError,
    Cloud,
    ConfigError,
    InputError,
    LanguageError,
    RadsegRosError,
)
from ..device import let_threads_sleep
from ..encoders.protocol import make_encoder
from ..frames.assemble import Assembler, Observation
from ..watchdog import InputState, Watchdog
from ..worker import LatestWorker
from . import messages, params
from .node_log import NodeLogHandler
from .services import MapServices
from .transport import use_image_profile

if TYPE_CHECKING:
    from ..mapper import Mapper

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

logger = logging.getLogger(__name__)

NODE_NAME = "radseg_mapping"
INT64_MAX, FLOAT_MAX = 2**63 - 1, sys.float_info.max
WATCH_PERIOD = 5.0  # s
# inputs, clouds, watchdog, map files and two queries at a time; the encoder has a thread of its own
THREADS = 6
POSE_QUEUE = 200  # poses are small and may come at 200 Hz
SETTLE_TIME = (
    0.1  # s; rclpy's executor frees what a running callback still needs: let short ones end first
)
JOIN_TIMEOUT = 30.0  # s that the encoder gets to finish its last frame
CLOUDS = ("semantic_cloud", "rgb_cloud")
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


class MapperNode(Node):
    """Maps what it sees and answers queries. The encoder is loaded in the background.

    Inputs are subscribed once it is there.

    Raises:
        ConfigError: a parameter is unknown or has an impossible value.
        InputError: node.camera_offset is not a rigid transform.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        self.config = params.declare(self, _descriptor)
        self.assembler = Assembler(self.config.sync, self.config.node)
        self.mapper: Mapper | None = None
        self.error: Exception | None = None  # why the node cannot go on
        self.integrated = 0
        self.stamp_ns = 0  # of the last frame in the map
        self.version = 0  # grows whenever the map changes
        self.query_labels: tuple[str, ...] = ()  # of the last query
        self._jumps = 0
        self._watchdog = Watchdog(WATCH_PERIOD)
        self._published: dict[str, object] = {}
        self._types = self._input_types()
        self.inputs: dict[str, Any] = {}  # kind -> subscription
        self.worker: LatestWorker[Observation] = LatestWorker(
            self._integrate, self.config.node.backlog, "mapping"
        )
        self._clouds = {
            name: self.create_publisher(PointCloud2, f"~/{name}", LATCHED) for name in CLOUDS
        }
        self.services_offered = MapServices(self)
        self._every(self.config.node.publish_period, self._publish_clouds)
        threading.Thread(target=self._load, name="loading", daemon=True).start()

    def close(self) -> None:
        """Let the current frame finish, then free everything."""
        if not self.worker.close(JOIN_TIMEOUT):
            self.get_logger().warning(f"the last frame was not finished within {JOIN_TIMEOUT:g} s")
        self.destroy_node()

    def drops(self) -> list[tuple[str, int]]:
        """(reason, count) of everything that was received and not used."""
        busy = [
            (
                "frame replaced by a newer one while the encoder was busy (node.backlog)",
                self.worker.dropped,
            )
        ]
        failed = [("frame lost to an internal error, see the log", self.worker.failed)]
        return [
            (reason, count)
            for reason, count in [*self.assembler.drops.items(), *busy, *failed]
            if count
        ]

    # Start

    def _every(self, period: float, callback: Callable[[], None]) -> None:
        """Steady time: with use_sim_time and no /clock the watchdog must still speak."""
        self.create_timer(
            period,
            callback,
            MutuallyExclusiveCallbackGroup(),
            Clock(clock_type=ClockType.STEADY_TIME),
        )

    def _load(self) -> None:
        name = self.config.encoder
        self.get_logger().info(f"loading encoder '{name}'")
        try:
            options = to_dict(getattr(self.config, name)) if hasattr(self.config, name) else {}
            encoder = make_encoder(name, **options)
            from ..mapper import (
                Mapper,
            )  # torch takes seconds to import; a misspelt parameter is reported before that

            self.mapper = Mapper(self.config, encoder)
            self._subscribe()
        except Exception as error:
            if not isinstance(error, RadsegRosError):
                logger.exception("the encoder cannot be loaded")
            self.error = error
            return
        topics = ", ".join(subscription.topic_name for subscription in self.inputs.values())
        self.get_logger().info(f"ready: encoder '{encoder.name}', listening to {topics}")

    def _input_types(self) -> dict[str, tuple[type, str]]:
        raw = self.config.node.image_transport == "raw"
        image = Image if raw else CompressedImage
        return {
            "info": (CameraInfo, "depth/camera_info"),
            "pose": (Odometry if self.config.node.pose_type == "odometry" else PoseStamped, "pose"),
            "depth": (image, "depth/image" if raw else "depth/image/compressedDepth"),
            "color": (image, "color/image" if raw else "color/image/compressed"),
        }

    def _subscribe(self) -> None:
        group = MutuallyExclusiveCallbackGroup()  # the assembler is for one thread
        for kind, (type_, topic) in self._types.items():
            # Best effort, volatile: matches every publisher. Whoever needs reliable delivery
            # overrides it by qos_overrides.
            qos = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=max(self.config.sync.queue, POSE_QUEUE if kind == "pose" else 1),
                reliability=ReliabilityPolicy.BEST_EFFORT,
            )
            self.inputs[kind] = self.create_subscription(
                type_,
                topic,
                self._receiver(kind),
                qos,
                callback_group=group,
                event_callbacks=self._events(self.resolve_topic_name(topic)),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        self._every(WATCH_PERIOD, self._watch)

    def _events(self, topic: str) -> SubscriptionEventCallbacks:
        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            self.get_logger().warning(
                f"a publisher of {topic} offers incompatible QoS ({policy}); none of its messages "
                "arrive"
            )

        def lost(event: Any) -> None:
            cure = "large images need the shared-memory profile config/fastdds.xml"
            reason = f"message of {topic} lost on the way ({cure})"
            self.assembler.drops.add(reason, event.total_count_change)

        return SubscriptionEventCallbacks(incompatible_qos=incompatible, message_lost=lost)

    # Frames

    def _receiver(self, kind: str) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            for observation in self.assembler.add(kind, message):
                self.worker.submit(observation)
            if self.assembler.sync.jumps != self._jumps:
                self._jumps = self.assembler.sync.jumps
                self.get_logger().warning(
                    f"time ran backwards on {self.inputs[kind].topic_name} (a recording that "
                    "starts again?): "
                    "waiting inputs were dropped, the map is kept",
                    throttle_duration_sec=WATCH_PERIOD,
                )

        return receive

    def _integrate(self, observation: Observation) -> None:
        """In the worker thread."""
        assert self.mapper is not None, "inputs are subscribed after the encoder is loaded"
        try:
            self.mapper.integrate(observation.frame())
            self.stamp_ns = observation.match.stamp_ns
        except InputError as error:
            self.assembler.drops.add(str(error))
            return
        self.integrated += 1
        self.version += 1

    # Out

    def header(self) -> Any:
        """Frame of the map, stamp of its last frame."""
        return messages.header(self.stamp_ns, self.assembler.map_frame)

    def _publish_clouds(self) -> None:
        """Publish what changed and is listened to.

        A late subscriber is served at the next turn or by the latch.
        """
        mapper = self.mapper
        if mapper is None:
            return
        min_hits = self.config.node.cloud_min_hits
        labels = tuple(self.config.node.labels) or self.query_labels
        self._publish("rgb_cloud", self.version, lambda: mapper.rgb_cloud(min_hits))
        if labels:
            self._publish(
                "semantic_cloud",
                (self.version, labels),
                lambda: mapper.semantic_cloud(labels, min_hits),
            )

    def _publish(self, name: str, key: object, make: Callable[[], Cloud]) -> None:
        publisher = self._clouds[name]
        if self._published.get(name) == key or not publisher.get_subscription_count():
            return
        self._published[name] = key
        try:
            publisher.publish(messages.cloud_message(make(), self.header()))
        except (LanguageError, ConfigError) as error:
            self.get_logger().error(f"no {name}: {error}", throttle_duration_sec=60.0)

    # Watchdog

    def _watch(self) -> None:
        """Every few seconds one line: progress, or why there is none."""
        received = {kind: self.assembler.received[kind] for kind in self.inputs}
        busy = self.worker.pending > 0
        progress, complaint = self._watchdog.look(
            self.integrated, busy, received, dict(self.drops()), self._state
        )
        if progress and self.mapper is not None:
            self.get_logger().info(f"{progress}; {len(self.mapper.map)} voxels")
        if complaint:
            self.get_logger().warning(complaint)

    def _state(self, kind: str, received: int) -> InputState:
        topic = self.inputs[kind].topic_name
        publishers = [info.topic_type for info in self.get_publishers_info_by_topic(topic)]
        type_ = self._types[kind][0]
        return InputState(
            kind,
            topic,
            f"{type_.__module__.split('.')[0]}/msg/{type_.__name__}",
            publishers,
            received,
        )


def _descriptor(option: Option) -> ParameterDescriptor:
    # Types are checked by Config, more leniently (1 for 1.0) and with better words than by rclpy.
    described = ParameterDescriptor(description=option.doc, read_only=True, dynamic_typing=True)
    if option.choices:
        described.additional_constraints = f"one of {', '.join(option.choices)}"
    low, high = option.low, option.high
    if option.kind is int and (low is not None or high is not None):
        bounds = [-INT64_MAX if low is None else int(low), INT64_MAX if high is None else int(high)]
        described.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1])]
    elif option.kind is float and (low is not None or high is not None):
        limits = [-FLOAT_MAX if low is None else low, FLOAT_MAX if high is None else high]
        described.floating_point_range = [
            FloatingPointRange(from_value=float(limits[0]), to_value=float(limits[1]))
        ]
    return described


def _explain(error: Exception) -> str:
    text = str(error) or repr(error)
    if not isinstance(error, RadsegRosError):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, CheckpointError) and "encoder:=lite" not in text:
        text += " (the small encoder that needs no weights: start with encoder:=lite)"
    return " ".join(text.split())


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns 0 after a normal end and 1, with one line on stderr, when the node
    cannot do its work.
    """
    use_image_profile()
    let_threads_sleep()
    rclpy.init(args=None if args is None else list(args))
    node = executor = error = None
    try:
        node = MapperNode()
        core = logging.getLogger("radseg_ros")
        core.setLevel(logging.INFO)
        core.addHandler(NodeLogHandler(node))
        executor = MultiThreadedExecutor(THREADS)
        executor.add_node(node)
        while rclpy.ok() and node.error is None:
            executor.spin_once(timeout_sec=0.5)
        error = node.error
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RadsegRosError as problem:
        error = problem
    finally:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # ros2 launch sends a second one while the last frame is being finished
        if executor is not None and node is not None:
            executor.remove_node(node)
            time.sleep(SETTLE_TIME)
            executor.shutdown(JOIN_TIMEOUT)
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    if error is not None:
        print(f"{NODE_NAME}: {_explain(error)}", file=sys.stderr)
    return int(error is not None)


if __name__ == "__main__":
    sys.exit(main())
