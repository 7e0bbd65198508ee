# SPDX-License-Identifier: Apache-2.0
"""What messages say about themselves beside their data.

Frame ids, sizes and calibrations can contradict each other while every frame still decodes: the
map is then wrong, and nobody is told. Each contradiction is told once, with its cure.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..config import NodeConfig
from .decode import camera_frame, camera_matrix, plain_frame_id
from .transforms import shown

logger = logging.getLogger(__name__)


class Evidence:
    """Compares what messages say.

    Args:
        node: with camera_offset the poses are said to be those of a body, with rectify images are
            said to be distorted.
        camera: that the messages are of, named in front of what is told; empty = the only one.
        frames: camera -> tree and frame of its images, shared by the evidence of all cameras.
    """

    def __init__(
        self,
        node: NodeConfig | None = None,
        camera: str = "",
        frames: dict[str, tuple[str, str]] | None = None,
    ) -> None:
        node = node or NodeConfig()
        self._has_offset, self._rectifies = bool(node.camera_offset), node.rectify
        self._camera = camera
        self._frames = {} if frames is None else frames
        self._prefix = f"{camera}: " if camera else ""
        self._told: set[str] = set()

    def frame(self, color: Any, depth: Any, info: Any, body: str = "", tree: str = "") -> None:
        """Look at messages that make up one frame.

        Args:
            body: what the poses are of.
            tree: of transforms in which the camera is; frames of two trees may have one name.
        """
        self._registered(*(plain_frame_id(image.header.frame_id) for image in (color, depth)))
        self._of_the_camera(camera_frame(color, depth), body)
        self._of_this_camera_only(camera_frame(color, depth), tree)
        self._calibration(info, _size(depth))

    def _registered(self, color: str, depth: str) -> None:
        if color and depth and color != depth:
            self._tell(
                "views",
                f"colour images are in frame {shown(color)}, depth images in {shown(depth)}: "
                "both must show the same view, use depth that is registered (aligned) to colour",
            )

    def _of_the_camera(self, camera: str, body: str) -> None:
        if camera and body == camera and self._has_offset:
            self._tell(
                "offset",
                f"node.camera_offset is set, but the poses are those of {shown(camera)}, in which "
                "the images are: leave it empty",
            )

    def _of_this_camera_only(self, frame: str, tree: str) -> None:
        self._frames[self._camera] = (tree, frame)
        same = [name for name, of in self._frames.items() if frame and of == (tree, frame)]
        if len(same) > 1:
            said = " and ".join(same)
            self._tell(
                "frame",
                f"images of {said} are all in {shown(frame)}, which puts the cameras in "
                "one place: give each driver names of its own (RealSense: camera_name)",
            )

    def _calibration(self, info: Any, image: tuple[int, int] | None) -> None:
        K, size = camera_matrix(info)
        if not self._rectifies and any(np.ravel(getattr(info, "d", getattr(info, "D", ())))):
            self._tell(
                "distortion",
                "camera info has lens distortion: images are taken as rectified; if these are not, "
                "set node.rectify, or feed rectified ones (image_proc makes them)",
            )
        known = size if 0 not in size else image
        if known and not (0 <= K[0, 2] < known[1] and 0 <= K[1, 2] < known[0]):
            self._tell(
                "principal point",
                f"camera info puts the principal point ({K[0, 2]:.6g}, {K[1, 2]:.6g}) outside of "
                f"its image ({known[1]}x{known[0]}): is it of this camera and resolution?",
            )
        if image and 0 not in size and size != image:
            self._tell(
                "resolution",
                f"camera info is of {size[1]}x{size[0]} images, depth images have "
                f"{image[1]}x{image[0]}: the intrinsics are scaled, or refused if the shape "
                "differs; feed the camera info of the depth images",
            )

    def _tell(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning("%s%s (told once)", self._prefix, text)


def _size(image: Any) -> tuple[int, int] | None:
    """(h, w) of a raw image; a compressed one tells it only when it is decoded."""
    if hasattr(image, "height"):
        return int(image.height), int(image.width)
    return None
