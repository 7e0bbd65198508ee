# SPDX-License-Identifier: Apache-2.0
"""The node: topics in, clouds and answers out. Everything that can be tested without ROS is
elsewhere.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from ..command import sentence
from ..config import Option
from ..datatypes import ConfigError, RadsegRosError, brief
from ..encoders.protocol import encoder_options, make_encoder
from . import health, params
from .faults import Faults
from .inputs import Inputs
from .outputs.clouds import Clouds
from .outputs.grids import Grids
from .outputs.latched import LATE_PERIOD
from .outputs.objects import Objects
from .paths import confined, make_folder

logger = logging.getLogger(__name__)

NODE_NAME = "radseg_mapping"
INT64_MAX, FLOAT_MAX = 2**63 - 1, sys.float_info.max
FRAME_TIMEOUT = 60.0  # s that the encoder gets to finish its last frame
POLL = 0.05  # s


class MapperNode(Node):
    """Maps what it sees and answers queries.

    The encoder is loaded in the background; inputs are subscribed once it is there.

    Raises:
        ConfigError: a parameter is unknown or has an impossible value.
        InputError: node.camera_offset is not a rigid transform, or map.load or map.autosave is no
            file below node.map_directory.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(NODE_NAME, **options)
        config = params.declare(self, _descriptor)
        # These load torch, which takes seconds: a misspelt parameter is told before that.
        from ..live_map import LiveMap
        from ..voxels.map_file import SUFFIX
        from .services.offer import MapServices

        self.live = LiveMap(config)
        self.faults = Faults()
        self.error: Exception | None = None  # why the node cannot go on
        folder, persistence = config.node.map_directory, config.persistence
        self._load_path, self._autosave_path = (
            confined(folder, name, SUFFIX) if name else None
            for name in (persistence.load, persistence.autosave)
        )
        if self._autosave_path is not None:
            make_folder(self._autosave_path.parent)
        self._saving: Future[None] | None = None
        self.inputs = Inputs(self, self.live, self.faults)
        self.clouds = Clouds(self, self.live)
        self.objects, self.grids = Objects(self, self.live), Grids(self, self.live)
        self.map_services = MapServices(self, self.live, self.faults, self.clouds.show)
        self.health = health.Health(self, self.live, self.inputs, self.faults)
        self._setting = threading.Lock()
        self._publishing = [*self._publish(self.clouds), *self._publish(self.objects, self.grids)]
        self._every(health.PERIOD, "looking at the node's health", self.health.tick)
        threading.Thread(target=self._load, name="loading", daemon=True).start()

    def close(self, hurry: Callable[[], bool]) -> None:
        """Let the frame in hand and a running save finish, keep the map, free everything.

        Args:
            hurry: whether the frame is to be given up; asked again and again.
        """
        log = self.get_logger()
        end = time.monotonic() + FRAME_TIMEOUT
        if not self.live.close(POLL):
            log.info("ending after the frame in hand; a second signal gives it up")
        while not self.live.close(POLL):
            if hurry() or time.monotonic() > end:
                log.warning("the frame in hand was given up")
                break
        self.map_services.close()
        try:
            self._autosave()
        except RadsegRosError as error:
            self.error = self.error or error
        journal = self.live.journal
        if (journal is None or journal.lost) and (voxels := self.live.unsaved):
            cure = "~/save_map, map.autosave, journal.directory"
            log.warning(f"the map of {voxels} voxels is lost: it was not saved ({cure})")
        self.live.discard()
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
                return SetParametersResult(successful=False, reason=sentence(error))
            may_change = [each for each in parameter_list if not params.is_fixed(each.name)]
            result = super().set_parameters_atomically(may_change)
            if result.successful:
                self.live.configure(config)
                for timer in self._publishing:
                    self._set_period(timer, config.node.publish_period)
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

    def _publish(self, *outputs: Clouds | Objects | Grids) -> list[Timer]:
        """Publish in one thread what others need not wait for."""
        group, period = MutuallyExclusiveCallbackGroup(), self.live.config.node.publish_period
        timers = []
        for each in outputs:
            name = type(each).__name__.lower()
            self._every(LATE_PERIOD, f"late subscribers of {name}", each.serve_late, group)
            timers.append(self._every(period, f"publishing {name}", each.publish, group))
        return timers

    def _load(self) -> None:
        config = self.live.config
        name = config.encoder
        self.get_logger().info(f"loading encoder '{name}'")
        try:
            encoder = make_encoder(name, **encoder_options(config, name))
            from ..mapper import Mapper

            self.live.start(Mapper(config, encoder))
            self._resume()
            self._subscribe()
            minutes = config.persistence.autosave_period
            if minutes and self._autosave_path is not None:
                self._every(60.0 * minutes, "saving the map", self._autosave_aside)
        except Exception as error:
            if not isinstance(error, RadsegRosError):
                logger.exception("the encoder cannot be loaded")
            self.error = error
            return
        topics = ", ".join(self.inputs.topics.values())
        self.get_logger().info(f"ready: encoder '{encoder.name}', listening to {topics}")

    def _subscribe(self) -> None:
        """Listen to the inputs.

        Raises:
            ConfigError: an override of their QoS cannot be.
        """
        given = [name for name in self._parameter_overrides if name.startswith("qos_overrides.")]
        try:
            self.inputs.subscribe()
        except Exception as error:  # of rclpy, another one for each mistake
            if not given:
                raise
            reason = f"{', '.join(given)} cannot be used: {brief(error, 200)}"
            raise ConfigError(reason) from error
        if unused := [name for name in given if not self.has_parameter(name)]:
            self.get_logger().warning(
                f"{', '.join(unused)}: no input has such a policy; those that can be overridden "
                "are qos_overrides./TOPIC.subscription.history, depth and reliability"
            )

    # Maps that outlive a run

    def _resume(self) -> None:
        """Begin with the map of map.load, of the journal, or of both."""
        load, autosave, log = self._load_path, self._autosave_path, self.get_logger()
        if autosave is not None and autosave != load and autosave.exists():
            log.warning(f"{autosave.name} will be replaced; map.load would continue it")
        if load is not None and load == autosave and not load.exists():
            load = None
        waits = self.live.resume(load)
        name = "the map of the journal" if load is None else load.name
        if waits:
            log.warning(
                f"{name}, {self.live.pending} voxels, waits: call ~/confirm_map if its frame "
                "has the origin that it had then (map.frame_is_persistent: always)"
            )
        elif (voxels := self.live.status().voxels) or load is not None:
            log.info(f"going on with {name}, {voxels} voxels")

    def _autosave(self) -> None:
        """Write the map to map.autosave if it has changed."""
        if self._autosave_path is None:
            return
        if path := self.live.autosave(self._autosave_path):
            self.get_logger().info(f"saved {path}")

    def _autosave_aside(self) -> None:
        """In the thread that changes maps, so that no callback waits for the disk."""
        if self._saving is None or self._saving.done():
            work = self.faults.guarded("saving the map", self._autosave)
            self._saving = self.map_services.change(work)


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
