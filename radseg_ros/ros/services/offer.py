# SPDX-License-Identifier: Apache-2.0
"""How services are offered: threads, waiting, time limits, and what a failure answers.

A failure is an answer, never the end of the node. Requests are worked on by threads of their own,
so that slow ones hold up neither inputs nor timers; when too many wait, more are refused at once.
What needs no time (~/pause) waits for none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future as FutureOf
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_srvs.srv import Trigger

from radseg_interfaces.srv import (
    ClearBox,
    CorrectPoses,
    EncodeText,
    ForgetObject,
    LoadMap,
    QueryPoint,
    QueryText,
    QueryVector,
    SaveMap,
    SetLabels,
)

from ...command import sentence
from ...datatypes import RadsegRosError
from ...device import give_way
from ...frames.ledger import input_name
from ...live_map import LiveMap
from ..faults import Faults
from .changes import Changes
from .corrections import Corrections
from .questions import Questions, Show

WAITING = 64  # requests that may wait for their answer; more are told to come again
QUEUE = 1000  # requests that the middleware keeps until they are looked at: ROS's 10 lose bursts
# Threads: questions run beside each other, and those that may not take long wait for none that may;
# changes of the map are made one by one.
QUERIES, SHORT, CHANGES = 2, 2, 1
NO_TIME = 1e-3  # s, what is left of a time limit at least: 0 is no limit


Answer = Callable[[Any, Any], None]


class MapServices:
    """Offers the services of ``live`` on ``node``.

    Args:
        show: takes what a question is to show on ~/query_cloud.
    """

    def __init__(self, node: Node, live: LiveMap, faults: Faults, show: Show) -> None:
        self.faults = faults
        self._node = node
        self._waiting = 0
        self._lock = threading.Lock()
        queries = ThreadPoolExecutor(QUERIES, "query", give_way)
        self._short = ThreadPoolExecutor(SHORT, "short query", give_way)
        changes = ThreadPoolExecutor(CHANGES, "map", give_way)
        self._pools = (queries, self._short, changes)
        group = ReentrantCallbackGroup()
        ask, change = Questions(live, show), Changes(node, live)
        correct = Corrections(node, live, faults, self.change).correct
        offered: Iterable[tuple[type, str, Answer, ThreadPoolExecutor | None]] = (
            (QueryText, "query", ask.text, queries),
            (QueryVector, "query_vector", ask.vector, queries),
            (QueryPoint, "query_point", ask.point, queries),
            (EncodeText, "encode_text", ask.encode, queries),
            (SetLabels, "set_labels", change.set_labels, self._short),
            (SaveMap, "save_map", change.save, changes),
            (LoadMap, "load_map", change.load, changes),
            (ClearBox, "clear_box", change.clear_box, changes),
            (ForgetObject, "forget_object", change.forget_object, changes),
            *(
                (CorrectPoses, input_name("correct", robot), partial(correct, robot), changes)
                for robot in live.robots
            ),
            (Trigger, "confirm_map", change.confirm, changes),
            (Trigger, "reset", change.reset, changes),
            (Trigger, "pause", change.pause, None),
            (Trigger, "resume", change.resume, None),
        )
        for type_, name, answer, pool in offered:
            callback = self._in_pool(name, answer, pool) if pool else self._at_once(name, answer)
            qos = QoSProfile(depth=QUEUE)
            node.create_service(type_, f"~/{name}", callback, qos_profile=qos, callback_group=group)

    def change(self, work: Callable[[], None]) -> FutureOf[None]:
        """Let the thread that changes the map do ``work`` when it is its turn."""
        return self._pools[-1].submit(work)

    def close(self) -> None:
        """Take no more requests; what waits is not begun, a change that runs is finished."""
        *queries, changes = self._pools
        for pool in queries:
            pool.shutdown(wait=False, cancel_futures=True)
        changes.shutdown(wait=True, cancel_futures=True)

    def _at_once(self, name: str, answer: Answer) -> Any:
        """A service callback that answers in the executor's thread."""

        def callback(request: Any, response: Any) -> Any:
            self._answer(name, answer, request, response)
            return response

        return callback

    def _in_pool(self, name: str, answer: Answer, pool: ThreadPoolExecutor) -> Any:
        """A service callback that lets a thread of ``pool`` answer.

        A request with a time limit has threads of its own, and what it waits for them counts.
        """

        async def callback(request: Any, response: Any) -> Any:
            limit, arrived = getattr(request, "time_limit", 0.0), time.monotonic()
            with self._lock:
                if self._waiting >= WAITING:
                    response.success = False
                    response.message = f"busy: {WAITING} requests are waiting, ask again"
                    return response
                self._waiting += 1
            executor: Any = self._node.executor
            done: Future = Future(executor=executor)

            def work() -> None:
                try:
                    if limit > 0:
                        request.time_limit = max(NO_TIME, limit - (time.monotonic() - arrived))
                    self._answer(name, answer, request, response)
                finally:
                    with self._lock:
                        self._waiting -= 1
                    done.set_result(response)
                    executor.wake()  # else the answer leaves with the next message or timer

            try:
                (self._short if limit else pool).submit(work)
            except RuntimeError:  # the node is closing
                response.success, response.message = False, "the node is closing"
                return response
            return await done

        return callback

    def _answer(self, name: str, answer: Answer, request: Any, response: Any) -> None:
        """Success unless ``answer`` raises; then its reason."""
        try:
            response.success = True
            answer(request, response)
        except RadsegRosError as error:
            response.success, response.message = False, sentence(error)
        except ModuleNotFoundError as error:
            missing = f"this needs the Python package {error.name}, which is not installed"
            response.success, response.message = False, missing
        except Exception as error:
            self.faults.add_failure(f"~/{name} failed", error)
            internal = f"internal error ({type(error).__name__}), see the node's log"
            response.success, response.message = False, internal
