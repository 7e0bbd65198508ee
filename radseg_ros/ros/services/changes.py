# SPDX-License-Identifier: Apache-2.0
"""Services that change something: the map, its files, what is shown, whether images are used."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from radseg_interfaces.srv import ClearBox, ForgetObject, LoadMap, SaveMap, SetLabels

from ...answers.export import FORMATS, write_cloud
from ...datatypes import InputError, MapFileError
from ...live_map import LiveMap
from ...voxels.map_file import SUFFIX
from .. import messages
from ..paths import confined, make_folder


class Changes:
    """Each method is a service of ``live``: it fills in a response, or raises why it cannot."""

    def __init__(self, node: Node, live: LiveMap) -> None:
        self.live = live
        self.directory = live.config.node.map_directory
        self._node = node

    def save(self, request: SaveMap.Request, response: SaveMap.Response) -> None:
        """~/save_map."""
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

    def load(self, request: LoadMap.Request, response: LoadMap.Response) -> None:
        """~/load_map."""
        path = confined(self.directory, request.path, SUFFIX, FORMATS)
        if path.suffix.lower() in FORMATS:
            raise MapFileError(f"{path.name} is a cloud to look at: only {SUFFIX} can be loaded")
        if not path.is_file():
            raise MapFileError(f"there is no file {path.name} below node.map_directory")
        response.voxels = self.live.load(path, request.merge)
        frame_id = self.live.moment()[1]
        response.message = f"the map has {response.voxels} voxels in frame '{frame_id}'"

    def confirm(self, request: Trigger.Request, response: Trigger.Response) -> None:
        """~/confirm_map."""
        response.message = f"the map has {self.live.confirm()} voxels"

    def reset(self, request: Trigger.Request, response: Trigger.Response) -> None:
        """~/reset."""
        response.message = f"forgot {self.live.reset()} voxels"

    def clear_box(self, request: ClearBox.Request, response: ClearBox.Response) -> None:
        """~/clear_box."""
        low, high = (messages.tuple_of(corner) for corner in (request.min, request.max))
        response.voxels = self.live.clear_box(low, high)
        response.message = f"forgot {response.voxels} voxels"

    def forget_object(self, request: ForgetObject.Request, response: ForgetObject.Response) -> None:
        """~/forget_object."""
        thing = self.live.forget_object(request.id)
        response.header = messages.header(*self.live.moment())
        response.object = messages.object_message(thing)
        response.message = f"forgot {thing.label} #{thing.id}"

    def set_labels(self, request: SetLabels.Request, response: SetLabels.Response) -> None:
        """~/set_labels."""
        labels = [label.strip() for label in request.labels]
        self.live.check_labels(labels)  # embeds them, so that the cloud need not
        changed = Parameter("node.labels", Parameter.Type.STRING_ARRAY, labels)
        result = self._node.set_parameters_atomically([changed])
        if not result.successful:
            raise InputError(result.reason)
        shown = ", ".join(labels) or "true colours"
        response.message = f"~/semantic_cloud shows {shown}"

    def pause(self, request: Trigger.Request, response: Trigger.Response) -> None:
        """~/pause."""
        self.live.pause()
        response.message = "images are counted and not used until ~/resume"

    def resume(self, request: Trigger.Request, response: Trigger.Response) -> None:
        """~/resume."""
        self.live.pause(False)
        response.message = "images are used"
