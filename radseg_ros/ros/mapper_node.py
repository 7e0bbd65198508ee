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
from typing import Any

import rclpy
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from ..config import Option, to_dict
from ..datatypes import CheckpointError, ConfigError, RadsegRosError
from ..device import let_threads_sleep
from ..encoders.protocol import make_encoder
from . import health, params
from .clouds import LATE_PERIOD, Clouds
from .faults import Faults
from .inputs import Inputs
from .node_log import NodeLogHandler
from .transport import use_image_profile

logger = logging.getLogger(__name__)

NODE_NAME = "radseg_mapping"
INT64_MAX, FLOAT_MAX = 2**63 - 1, sys.float_info.max
# inputs, clouds, health, events; encoder and services have threads of their own
THREADS = 4
# s; rclpy's executor frees what a running callback still needs: let short ones end first
SETTLE_TIME = 0.1
JOIN_TIMEOUT = 30.0  # s that the encoder gets to finish its last frame


class MapperNode(Node):
    """Maps what it sees and answers queries.

    The encoder is loaded in the background; inputs are subscribed once it is there.

    Raises:
        ConfigError: a parameter is unknown or has an impossible value.
        InputError: node.camera_offset is not a rigid transform.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        config = params.declare(self, _descriptor)
        # These load torch, which takes seconds: a misspelt parameter is told before that.
        from ..live_map import LiveMap
        from .services import MapServices

        self.live = LiveMap(config)
        self.faults = Faults()
        self.error: Exception | None = None  # why the node cannot go on
        self.inputs = Inputs(self, self.live, self.faults)
        self.clouds = Clouds(self, self.live)
        self.map_services = MapServices(self, self.live, self.faults)
        self.health = health.Health(self, self.live, self.inputs, self.faults)
        self._setting = threading.Lock()
        group = MutuallyExclusiveCallbackGroup()
        self._publishing = self._every(
            config.node.publish_period, "publishing clouds", self.clouds.publish, group
        )
        self._every(LATE_PERIOD, "serving late subscribers", self.clouds.serve_late, group)
        self._every(health.PERIOD, "looking at the node's health", self.health.tick)
        threading.Thread(target=self._load, name="loading", daemon=True).start()

    def close(self) -> None:
        """Let the current frame finish, then free everything."""
        self.map_services.close()
        if not self.live.close(JOIN_TIMEOUT):
            self.get_logger().warning(f"the last frame was not finished within {JOIN_TIMEOUT:g} s")
        if voxels := self.live.unsaved:
            self.get_logger().warning(
                f"the map of {voxels} voxels is lost: it was not saved (~/save_map)"
            )
        self.destroy_node()

    # Parameters: rclpy answers a change of a read-only one without a reason, and Humble does not
    # tell when a change has been made. Both are had by standing before and behind it.

    def set_parameters_atomically(
        self, parameter_list: list[Parameter[Any]]
    ) -> SetParametersResult:
        """Change all of them, or none and say why."""
        with self._setting:
            try:
                values = {parameter.name: parameter.value for parameter in parameter_list}
                config = params.changed(self.live.config, values)
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
            result = super().set_parameters_atomically(parameter_list)
            if result.successful:
                self.live.configure(config)
                self._set_period(self._publishing, config.node.publish_period)
            return result

    def set_parameters(self, parameter_list: list[Parameter[Any]]) -> list[SetParametersResult]:
        """Change one after the other."""
        return [self.set_parameters_atomically([each]) for each in parameter_list]

    def _set_period(self, timer: Timer, period: float) -> None:
        period_ns = round(1e9 * period)
        if timer.timer_period_ns != period_ns:
            timer.timer_period_ns = period_ns
            timer.reset()  # what is left of the old period may be long

    # Start

    def _every(
        self,
        period: float,
        name: str,
        callback: Callable[[], None],
        group: CallbackGroup | None = None,
    ) -> Timer:
        """Steady time: with use_sim_time and no /clock the watchdog must still speak."""
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        guarded = self.faults.guarded(name, callback)
        return self.create_timer(period, guarded, group or MutuallyExclusiveCallbackGroup(), clock)

    def _load(self) -> None:
        config = self.live.config
        name = config.encoder
        self.get_logger().info(f"loading encoder '{name}'")
        try:
            options = to_dict(config).get(name, {})
            encoder = make_encoder(name, **options)
            from ..mapper import Mapper

            self.live.start(Mapper(config, encoder))
            self.inputs.subscribe()
        except Exception as error:
            if not isinstance(error, RadsegRosError):
                logger.exception("the encoder cannot be loaded")
            self.error = error
            return
        topics = ", ".join(self.inputs.topics.values())
        self.get_logger().info(f"ready: encoder '{encoder.name}', listening to {topics}")


def _descriptor(option: Option) -> ParameterDescriptor:
    # Types are checked by Config, more leniently (1 for 1.0) and with better words than by rclpy.
    described = ParameterDescriptor(
        description=option.doc, read_only=bool(option.fixed), dynamic_typing=True
    )
    constraints = [f"one of {', '.join(option.choices)}"] if option.choices else []
    if option.fixed:
        constraints.append(f"cannot change while the node runs: {option.fixed}")
    described.additional_constraints = "; ".join(constraints)
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
    if not isinstance(error, (RadsegRosError, ParameterException)):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, CheckpointError) and "encoder:=lite" not in text:
        text += " (the small encoder that needs no weights: start with encoder:=lite)"
    return " ".join(text.split())


def main(args: Sequence[str] | None = None) -> int:
    """Entry point.

    Returns:
        0 after a normal end; 1, with one line on stderr, when the node cannot do its work.
    """
    use_image_profile()
    let_threads_sleep()
    node: MapperNode | None = None
    error: Exception | None = None
    try:
        rclpy.init(args=None if args is None else list(args))
        node = MapperNode()
    except KeyboardInterrupt:
        pass
    except (RadsegRosError, ParameterException, RuntimeError, ValueError, OSError) as problem:
        error = problem  # the last four: what rclpy says of its own arguments and files
    if node is not None:
        error = _spin(node)
    rclpy.try_shutdown()
    if error is not None:
        print(f"{NODE_NAME}: {_explain(error)}", file=sys.stderr)
    return int(error is not None)


def _spin(node: MapperNode) -> Exception | None:
    """Run the node until it is told to end, or cannot go on: then that is returned."""
    core = logging.getLogger("radseg_ros")
    core.setLevel(logging.INFO)
    core.addHandler(NodeLogHandler(node))
    executor = MultiThreadedExecutor(THREADS)
    executor.add_node(node)
    try:
        while rclpy.ok() and node.error is None:
            executor.spin_once(timeout_sec=0.5)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # ros2 launch sends a second one while the last frame is being finished
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        executor.remove_node(node)
        time.sleep(SETTLE_TIME)
        executor.shutdown(JOIN_TIMEOUT)
        node.close()
    return node.error


if __name__ == "__main__":
    sys.exit(main())
