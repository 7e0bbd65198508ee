# SPDX-License-Identifier: Apache-2.0
"""The services of the node: ~/query, ~/save_map, ~/load_map, ~/reset.

A failure is an answer, never the end of the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from radseg_interfaces.srv import LoadMap, QueryText, SaveMap

from ..answers.export import FORMATS, write_cloud
from ..datatypes import MapFileError, RadsegRosError
from ..live_map import LiveMap
from ..voxels.map_file import SUFFIX
from . import messages
from .paths import confined

logger = logging.getLogger(__name__)


class MapServices:
    """Offers the services of ``live`` on ``node``.

    Queries run beside each other and beside the encoder; changes of the map one by one.
    """

    def __init__(self, node: Node, live: LiveMap) -> None:
        self.live = live
        self.directory = live.config.node.map_directory
        queries, changes = ReentrantCallbackGroup(), MutuallyExclusiveCallbackGroup()
        for type_, name, answer, group in (
            (QueryText, "query", self._query, queries),
            (SaveMap, "save_map", self._save, changes),
            (LoadMap, "load_map", self._load, changes),
            (Trigger, "reset", self._reset, changes),
        ):
            callback = self._guarded(name, answer)
            node.create_service(type_, f"~/{name}", callback, callback_group=group)

    def _guarded(self, name: str, answer: Callable[[Any, Any], None]) -> Callable[[Any, Any], Any]:
        """Success unless ``answer`` raises; then its reason."""

        def callback(request: Any, response: Any) -> Any:
            try:
                response.success = True
                answer(request, response)
            except RadsegRosError as error:
                response.success, response.message = False, str(error)
            except ModuleNotFoundError as error:
                missing = f"this needs the Python package {error.name}, which is not installed"
                response.success, response.message = False, missing
            except Exception as error:
                logger.exception("~/%s failed", name)
                internal = f"internal error: {type(error).__name__}: {error}"
                response.success, response.message = False, internal
            return response

        return callback

    def _query(self, request: QueryText.Request, response: QueryText.Response) -> None:
        response.header = messages.header(*self.live.moment())
        response.status = messages.status_message(self.live.status())
        threshold, most = float(request.threshold) or None, int(request.max_objects) or None
        result = self.live.query(request.labels, request.prompts, threshold, most)
        answers = result.answers
        response.answers = [messages.answer_message(answer) for answer in answers]
        found = [answer.label for answer in answers if answer.found]
        names = f": {', '.join(found)}" if found else ""
        response.message = f"found {len(found)} of {len(answers)}{names}"
        if request.return_cloud:
            points = result.cloud(self.live.config.node.cloud_min_hits)
            response.cloud = messages.cloud_message(points, response.header)

    def _save(self, request: SaveMap.Request, response: SaveMap.Response) -> None:
        path = confined(self.directory, request.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in FORMATS:
            points = self.live.cloud(request.labels)
            write_cloud(path, points)
            response.voxels = len(points)
        else:
            path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
            response.voxels = self.live.save(path)
        response.path, response.bytes = str(path), path.stat().st_size
        response.message = f"saved {response.voxels} voxels"

    def _load(self, request: LoadMap.Request, response: LoadMap.Response) -> None:
        path = confined(self.directory, request.path)
        if not path.exists() and path.suffix != SUFFIX:
            path = path.with_name(path.name + SUFFIX)
        if not path.is_file():
            raise MapFileError(f"there is no file {request.path} below node.map_directory")
        response.voxels = self.live.load(path, request.merge)
        frame_id = self.live.moment()[1]
        response.message = f"the map has {response.voxels} voxels in frame '{frame_id}'"

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> None:
        response.message = f"forgot {self.live.reset()} voxels"
