# SPDX-License-Identifier: Apache-2.0
"""Where the camera was: from poses on a topic, from transforms, or from both."""

from __future__ import annotations

import logging

import numpy as np

from ..config import NodeConfig, SyncConfig
from ..datatypes import InputError, check_pose
from .drops import Unusable
from .ledger import Ledger
from .transforms import NotConnected, NotYet, Track, Transforms, pose_at, shown

logger = logging.getLogger(__name__)

FIXED_FRAME = "map"  # of transforms, unless somebody knows better (REP 105)
FIXED_FRAME_CURE = "publish it, or set node.map_frame to the fixed frame that there is"
WORLD_CURE = "publish it, or set node.robot_origins"
BODY_CURE = "publish it on /tf_static"
OFFSET_CURE = ", or set node.camera_offset to where the camera is on the body"  # of the only one


class Localizer:
    """Poses of the cameras of one robot by stamp.

    All its cameras are placed by the same poses and transforms, each by the frame of its images.

    What poses on the topic are of is their ``child_frame_id``: when that is not the frame of the
    images, transforms tell where the camera is on that body. With ``pose_source`` auto the first
    of topic and transforms that has a pose is taken, and kept.

    Poses of the topic are in the frame of the map. Of one of several robots they are in a frame of
    its own, the world of the robot: ``T_map_world``, or transforms, tell where in the map that is.

    Args:
        ledger: counts which poses are used, and which are superseded.
        several: there are several cameras: which one is where must be said by frames.
        robot: its name, where there are several.
        transforms: None = of its own, with the same ledger.
        T_map_world: (4, 4), of one of several robots: its world in the map. What transforms call
            the frame of the map is then the world of this robot.

    Raises:
        InputError: ``node.camera_offset`` is not a rigid transform.
    """

    def __init__(
        self,
        config: SyncConfig | None = None,
        node: NodeConfig | None = None,
        ledger: Ledger | None = None,
        several: bool = False,
        robot: str = "",
        transforms: Transforms | None = None,
        T_map_world: np.ndarray | None = None,
    ) -> None:
        config, node, ledger = config or SyncConfig(), node or NodeConfig(), ledger or Ledger()
        self.source = node.pose_source
        self.transforms = Transforms(config, ledger) if transforms is None else transforms
        self.ledger = ledger
        self._poses = Track("pose", "pose", config, ledger)
        self.body = ""  # what the poses of the topic are of; "" = not known
        self._robot, self._several = robot, several
        # worlds of several robots differ, so none of them can be that of the map
        self._first_frame = node.map_frame or (FIXED_FRAME if robot else "")
        self.map_frame = self._first_frame
        self._world = ""  # what the poses of one of several robots are in; "" = not known
        self._T_map_world = T_map_world
        self._body_cure = BODY_CURE if several else BODY_CURE + OFFSET_CURE
        offset = np.reshape(node.camera_offset, (4, 4)) if node.camera_offset else None
        self._T_body_camera = None if offset is None else check_pose(offset, "T_body_camera")

    def decide(self, source: str) -> None:
        """Take the poses from ``source``, topic or tf, unless that is decided already."""
        if self.source != "auto":
            return
        self.source = source
        what = "the pose topic" if source == "topic" else "transforms (/tf, /tf_static)"
        whose = f"{self._robot}: " if self._robot else ""
        logger.info("%sposes are those of %s (node.pose_source)", whose, what)

    def check_frame(self, frame: str) -> None:
        """Poses of the topic are all in one frame; empty = one does not say in which.

        Raises:
            Unusable: this one is in another.
        """
        if not self._robot:
            if frame and self.map_frame and frame != self.map_frame:
                raise Unusable(
                    "pose in another frame than the map",
                    f"pose in frame '{frame}', but the map is in '{self.map_frame}' (parameter "
                    "node.map_frame)",
                )
        elif not frame and self._T_map_world is None:
            raise Unusable(
                "pose that does not say its frame (frame_id), which several robots (node.robots) "
                "need"
            )
        elif self._world and frame != self._world:
            raise Unusable(
                "pose in another frame than those of this robot before it",
                f"pose in frame {shown(frame)}, those before in {shown(self._world)}",
            )

    def settle(self, frame: str) -> None:
        """A pose in ``frame`` can be used: the first one decides for those behind it."""
        if self._robot:
            self._world = self._world or frame
        else:
            self.map_frame = self.map_frame or frame

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
            body: empty = what poses of the topic are of, or the camera itself. Of one of several
                robots it may do without the name in front.

        Raises:
            Unusable: no transform joins the two.
        """
        body = body or self.body
        if self._T_body_camera is not None:
            return self._T_body_camera
        if not body or not frame or body == frame:
            return np.eye(4)
        try:
            return self.transforms.newest(body, frame)[0]
        except NotConnected:
            if not self._robot:
                raise
            return self.transforms.newest(f"{self._robot}/{body}", frame)[0]

    def world(self, frame: str) -> np.ndarray:
        """T_map_frame, (4, 4), of what a trajectory is in, as far as it is known now.

        Args:
            frame: empty = that of the map.

        Raises:
            InputError: it is another than that of the map, or it is not known yet which is the
                robot's own.
            Unusable: of one of several robots, no transform joins the two.
        """
        if self._T_map_world is not None and frame:
            if self.source == "auto":
                raise InputError("no pose of this robot has come yet, which says in what frame")
            if frame == (self.map_frame if self.source == "tf" else self._world):
                return self._T_map_world
        if not frame or not self.map_frame or frame == self.map_frame:
            return np.eye(4)
        if self._robot and self._T_map_world is None:
            return self.transforms.newest(self.map_frame, frame)[0]
        raise InputError(
            f"the trajectory is in frame {shown(frame)}, the map in {shown(self.map_frame)}"
        )

    def placed(self, frame: str) -> tuple[np.ndarray, int]:
        """T_frame_map, (4, 4), at the last moment at which it is known, and that (ns; 0 = always).

        Args:
            frame: of one of several robots it may begin with its name, also where its transforms
                do without: ``a/base_link``.

        Raises:
            Unusable: no transform joins the two.
        """
        below = frame.removeprefix(f"{self._robot}/") if self._robot else frame
        name = below if below in self.transforms else frame
        T, moment_ns = self.transforms.newest(name, self.map_frame)
        return (T if self._T_map_world is None else T @ np.linalg.inv(self._T_map_world)), moment_ns

    def tree(self, frame: str) -> str:
        """Of which robot's transforms a frame is; empty = of those that all share."""
        return "" if self.source == "tf" and frame not in self.transforms else self._robot

    def void(self, after_ns: int, camera: str) -> None:
        """The time of ``camera`` went back: what is known of later counts for the others only."""
        self._poses.void(after_ns, camera)
        self.transforms.void(after_ns, camera)

    def forget(self) -> None:
        """Forget all poses and transforms but static ones, and the frame that poses brought."""
        self._poses.forget()
        self.transforms.forget()
        self.map_frame, self._world = self._first_frame, ""

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
        T_map_world = self._place(stamp_ns, camera) if self._robot else None
        self._poses.use(poses)
        T_map_body = pose_at(poses, stamp_ns)
        if T_map_world is not None:
            T_map_body = T_map_world @ T_map_body
        return T_map_body if T_body_camera is None else T_map_body @ T_body_camera

    def _place(self, stamp_ns: int, camera: str) -> np.ndarray | None:
        """T_map_world, (4, 4), of what poses of the topic are in; None = that is the map."""
        if self._T_map_world is not None or self._world == self.map_frame:
            return self._T_map_world
        return self._transform(self.map_frame, self._world, stamp_ns, camera, WORLD_CURE)

    def _by_transforms(self, stamp_ns: int, frame: str, camera: str) -> np.ndarray:
        if not frame:
            raise Unusable("image without a frame id, which transforms (node.pose_source) need")
        fixed = self.map_frame or FIXED_FRAME
        given = self._T_map_world
        cure = WORLD_CURE if self._robot and given is None else FIXED_FRAME_CURE
        T_map_camera = self._transform(fixed, frame, stamp_ns, camera, cure)
        self.map_frame = fixed
        return T_map_camera if given is None else given @ T_map_camera

    def _transform(
        self, target: str, source: str, stamp_ns: int, camera: str, cure: str
    ) -> np.ndarray:
        try:
            return self.transforms.lookup(target, source, stamp_ns, camera)
        except NotConnected as gap:
            reason = f"no transform between {shown(target)} and {shown(source)}: {cure}"
            raise NotYet(reason, gap.detail) from gap
