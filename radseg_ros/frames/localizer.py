# SPDX-License-Identifier: Apache-2.0
"""Where the camera was: from poses on a topic, from transforms, or from both."""

from __future__ import annotations

import logging

import numpy as np

from ..config import NodeConfig, SyncConfig
from ..datatypes import check_pose
from .drops import Unusable
from .ledger import Ledger
from .transforms import NotConnected, NotYet, Track, Transforms, pose_at, shown

logger = logging.getLogger(__name__)

FIXED_FRAME = "map"  # of transforms, unless somebody knows better (REP 105)
FIXED_FRAME_CURE = "publish it, or set node.map_frame to the fixed frame that there is"
BODY_CURE = "publish it on /tf_static"
OFFSET_CURE = ", or set node.camera_offset to where the camera is on the body"  # of the only one


class Localizer:
    """Poses of cameras by stamp.

    All cameras are placed by the same poses and transforms, each by the frame of its images.

    What poses on the topic are of is their ``child_frame_id``: when that is not the frame of the
    images, transforms tell where the camera is on that body. With ``pose_source`` auto the first
    of topic and transforms that has a pose is taken, and kept.

    Args:
        ledger: counts which poses and transforms are used, and which are superseded.
        several: there are several cameras: which one is where must be said by frames.

    Raises:
        InputError: ``node.camera_offset`` is not a rigid transform.
    """

    def __init__(
        self,
        config: SyncConfig | None = None,
        node: NodeConfig | None = None,
        ledger: Ledger | None = None,
        several: bool = False,
    ) -> None:
        config, node, ledger = config or SyncConfig(), node or NodeConfig(), ledger or Ledger()
        self.source = node.pose_source
        self.map_frame = node.map_frame
        self.transforms = Transforms(config, ledger)
        self._poses = Track("pose", "pose", config, ledger)
        self.body = ""  # what the poses of the topic are of; "" = not known
        self._several = several
        self._body_cure = BODY_CURE if several else BODY_CURE + OFFSET_CURE
        offset = np.reshape(node.camera_offset, (4, 4)) if node.camera_offset else None
        self._T_body_camera = None if offset is None else check_pose(offset, "T_body_camera")

    def decide(self, source: str) -> None:
        """Take the poses from ``source``, topic or tf, unless that is decided already."""
        if self.source != "auto":
            return
        self.source = source
        what = "the pose topic" if source == "topic" else "transforms (/tf, /tf_static)"
        logger.info("poses are those of %s (node.pose_source)", what)

    def add_pose(self, stamp_ns: int, T_world_body: np.ndarray, body: str = "") -> None:
        """Take a pose of the topic, a rigid transform (4, 4).

        Args:
            body: the frame that it is the pose of; empty = that of the images.
        """
        self._poses.add(stamp_ns, T_world_body)
        self.body = body
        self.decide("topic")

    def at(self, stamp_ns: int, frame: str, camera: str = "") -> np.ndarray:
        """T_map_camera, (4, 4), at ``stamp_ns``.

        Args:
            frame: of the images; empty = not known.
            camera: its name, where there are several.

        Raises:
            NotYet: something has to come first.
            Unusable: there will never be a pose; the message says why.
        """
        if self.source == "tf":
            return self._by_transforms(stamp_ns, frame, camera)
        if self.source == "topic" or not self.transforms:
            return self._by_topic(stamp_ns, frame, camera)
        T_map_camera = self._by_transforms(stamp_ns, frame, camera)
        self.decide("tf")
        return T_map_camera

    def mounted(self, frame: str, body: str = "") -> np.ndarray:
        """T_body_camera, (4, 4), as far as it is known now; the same at all times.

        Args:
            frame: of the images; empty = not known, the camera is the body.
            body: empty = what poses of the topic are of, or the camera itself.

        Raises:
            Unusable: no transform joins the two.
        """
        body = body or self.body
        if self._T_body_camera is not None:
            return self._T_body_camera
        if not body or not frame or body == frame:
            return np.eye(4)
        return self.transforms.newest(body, frame)[0]

    def void(self, after_ns: int, camera: str) -> None:
        """The time of ``camera`` went back: what is known of later counts for the others only."""
        self._poses.void(after_ns, camera)
        self.transforms.void(after_ns, camera)

    def forget(self) -> None:
        """Forget all poses and transforms but static ones."""
        self._poses.forget()
        self.transforms.forget()

    @property
    def waiting(self) -> dict[str, int]:
        """How many poses and transforms nothing has used yet."""
        return {"pose": self._poses.waiting, **self.transforms.waiting}

    def _by_topic(self, stamp_ns: int, frame: str, camera: str) -> np.ndarray:
        poses = self._poses.around(stamp_ns, camera)
        if self._several and not (frame and self.body):
            raise Unusable(
                "image or pose that does not say its frame (frame_id, child_frame_id), which "
                "several cameras (node.cameras) need"
            )
        T_body_camera = self._T_body_camera
        if T_body_camera is None and self.body and frame and self.body != frame:
            T_body_camera = self._transform(self.body, frame, stamp_ns, camera, self._body_cure)
        self._poses.use(poses)
        T_map_body = pose_at(poses, stamp_ns)
        return T_map_body if T_body_camera is None else T_map_body @ T_body_camera

    def _by_transforms(self, stamp_ns: int, frame: str, camera: str) -> np.ndarray:
        if not frame:
            raise Unusable("image without a frame id, which transforms (node.pose_source) need")
        fixed = self.map_frame or FIXED_FRAME
        T_map_camera = self._transform(fixed, frame, stamp_ns, camera, FIXED_FRAME_CURE)
        self.map_frame = fixed
        return T_map_camera

    def _transform(
        self, target: str, source: str, stamp_ns: int, camera: str, cure: str
    ) -> np.ndarray:
        try:
            return self.transforms.lookup(target, source, stamp_ns, camera)
        except NotConnected as gap:
            reason = f"no transform between {shown(target)} and {shown(source)}: {cure}"
            raise NotYet(reason, gap.detail) from gap
