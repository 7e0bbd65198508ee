# SPDX-License-Identifier: Apache-2.0
"""The services of the node: questions, changes of the map, and what steers it.

A failure is an answer, never the end of the node. Requests are worked on by threads of their own,
so that slow ones hold up neither inputs nor timers; when too many wait, more are refused at once.
What needs no time (~/pause) waits for none.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future as FutureOf
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.task import Future
from std_srvs.srv import Trigger

from radseg_interfaces.srv import ClearBox, LoadMap, QueryText, SaveMap, SetLabels

from ..answers.export import FORMATS, write_cloud
from ..answers.packed import pack
from ..command import sentence
from ..datatypes import InputError, MapFileError, RadsegRosError
from ..live_map import LiveMap
from ..voxels.map_file import SUFFIX
from . import messages
from .faults import Faults
from .paths import confined, make_folder

WAITING = 64  # requests that may wait for their answer; more are told to come again
QUEUE = 1000  # requests that the middleware keeps until they are looked at: ROS's 10 lose bursts
# Threads: questions run beside each other, and those that may not take long wait for none that may;
# changes of the map are made one by one.
QUERIES, SHORT, CHANGES = 2, 2, 1
NO_TIME = 1e-3  # s, what is left of a time limit at least: 0 is no limit

NICENESS = 5  # of these threads: frames get three times their share of a core that both want

Answer = Callable[[Any, Any], None]


def give_way() -> None:
    """Let other threads go before this one, where the system has priorities of threads (Linux)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class MapServices:
    """Offers the services of ``live`` on ``node``."""

    def __init__(self, node: Node, live: LiveMap, faults: Faults) -> None:
        self.live, self.faults = live, faults
        self.directory = live.config.node.map_directory
        self._node = node
        self._waiting = 0
        self._lock = threading.Lock()
        queries = ThreadPoolExecutor(QUERIES, "query", give_way)
        self._short = ThreadPoolExecutor(SHORT, "short query", give_way)
        changes = ThreadPoolExecutor(CHANGES, "map", give_way)
        self._pools = (queries, self._short, changes)
        group = ReentrantCallbackGroup()
        for type_, name, answer, pool in (
            (QueryText, "query", self._query, queries),
            (SetLabels, "set_labels", self._set_labels, self._short),
            (SaveMap, "save_map", self._save, changes),
            (LoadMap, "load_map", self._load, changes),
            (ClearBox, "clear_box", self._clear_box, changes),
            (Trigger, "confirm_map", self._confirm, changes),
            (Trigger, "reset", self._reset, changes),
            (Trigger, "pause", self._pause, None),
            (Trigger, "resume", self._resume, None),
        ):
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

    def _query(self, request: QueryText.Request, response: QueryText.Response) -> None:
        response.header = messages.header(*self.live.moment())
        response.status = messages.status_message(self.live.status())
        threshold, most = float(request.threshold) or None, int(request.max_objects) or None
        limit = float(request.time_limit) or None
        result = self.live.query(request.labels, request.prompts, threshold, most, limit)
        answers = result.answers
        response.answers = [messages.answer_message(answer) for answer in answers]
        found = [answer.label for answer in answers if answer.found]
        names = f": {', '.join(found)}" if found else ""
        response.message = f"found {len(found)} of {len(answers)}{names}"
        response.covered = result.covered
        if result.covered < 1:
            ready = int(100 * result.covered)
            response.message += f"; within the time limit {ready} % of the map was ready"
        if waiting := self.live.pending:
            response.message += f"; a loaded map of {waiting} voxels waits for ~/confirm_map"
        if request.return_cloud:
            points = pack(result.cloud(self.live.config.node.cloud_min_hits))
            response.cloud = messages.cloud_message(points, response.header)

    def _save(self, request: SaveMap.Request, response: SaveMap.Response) -> None:
        path = confined(self.directory, request.path, SUFFIX, FORMATS)
        make_folder(path.parent)
        if path.suffix.lower() in FORMATS:
            points = self.live.cloud(request.labels)
            write_cloud(path, points)
            response.voxels = len(points)
        else:
            response.voxels = self.live.save(path)
        response.path, response.bytes = str(path), path.stat().st_size
        response.message = f"saved {response.voxels} voxels"

    def _load(self, request: LoadMap.Request, response: LoadMap.Response) -> None:
        path = confined(self.directory, request.path, SUFFIX, FORMATS)
        if path.suffix.lower() in FORMATS:
            raise MapFileError(f"{path.name} is a cloud to look at: only {SUFFIX} can be loaded")
        if not path.is_file():
            raise MapFileError(f"there is no file {path.name} below node.map_directory")
        response.voxels = self.live.load(path, request.merge)
        frame_id = self.live.moment()[1]
        response.message = f"the map has {response.voxels} voxels in frame '{frame_id}'"

    def _confirm(self, request: Trigger.Request, response: Trigger.Response) -> None:
        response.message = f"the map has {self.live.confirm()} voxels"

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> None:
        response.message = f"forgot {self.live.reset()} voxels"

    def _clear_box(self, request: ClearBox.Request, response: ClearBox.Response) -> None:
        low, high = ((corner.x, corner.y, corner.z) for corner in (request.min, request.max))
        response.voxels = self.live.clear_box(low, high)
        response.message = f"forgot {response.voxels} voxels"

    def _set_labels(self, request: SetLabels.Request, response: SetLabels.Response) -> None:
        labels = [label.strip() for label in request.labels]
        self.live.check_labels(labels)  # embeds them, so that the cloud need not
        changed = Parameter("node.labels", Parameter.Type.STRING_ARRAY, labels)
        result = self._node.set_parameters_atomically([changed])
        if not result.successful:
            raise InputError(result.reason)
        shown = ", ".join(labels) or "true colours"
        response.message = f"~/semantic_cloud shows {shown}"

    def _pause(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self.live.pause()
        response.message = "images are counted and not used until ~/resume"

    def _resume(self, request: Trigger.Request, response: Trigger.Response) -> None:
        self.live.pause(False)
        response.message = "images are used"
