# SPDX-License-Identifier: Apache-2.0
"""Which frames are worth encoding: those that show something new, and not too many a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..config import NodeConfig
from ..datatypes import InputError, check_pose

# on purpose: nothing is wrong with the inputs
NEAR = "frame too near to the last key frame (node.keyframe_distance, node.keyframe_angle)"
FAST = "frame sooner after the last one than node.max_rate allows"

# stamp in ns and T_world_camera (4, 4) of a frame -> why it is not wanted; empty = it is
Skip = Callable[[int, np.ndarray], str]


def skip_none(stamp_ns: int, T_world_camera: np.ndarray) -> str:
    """Every frame is wanted."""
    del stamp_ns, T_world_camera
    return ""


class KeyFrames:
    """Remembers the last frame that was used."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The next frame is used, whatever it is."""
        self._pose: np.ndarray | None = None  # T_world_camera (4, 4)
        self._stamp_ns = 0
        self._due_ns = 0  # the rate is kept on average: stamps that jitter lose no frame

    def state(self) -> dict[str, Any]:
        """What is remembered, as JSON."""
        pose = None if self._pose is None else self._pose.tolist()
        return {"pose": pose, "stamp_ns": self._stamp_ns, "due_ns": self._due_ns}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what :meth:`state` gave.

        Raises:
            InputError: it did not give this.
        """
        pose, stamps = state.get("pose"), [state.get("stamp_ns"), state.get("due_ns")]
        if not all(type(stamp) is int for stamp in stamps):
            raise InputError("the last key frame has no stamp")
        self._pose = None if pose is None else check_pose(pose, "the pose of the last key frame")
        self._stamp_ns, self._due_ns = stamps  # type: ignore[assignment]

    def skip(self, stamp_ns: int, T_world_camera: np.ndarray, config: NodeConfig) -> str:
        """Why this frame is not used, ``NEAR`` or ``FAST``; empty = it is, and is the last one now.

        A stamp that goes back, as when a recording starts again, begins anew.
        """
        period = round(1e9 / config.max_rate) if config.max_rate else 0
        if self._pose is not None and stamp_ns >= self._stamp_ns:
            if _near(self._pose, T_world_camera, config):
                return NEAR
            if stamp_ns < min(self._due_ns, self._stamp_ns + period):
                return FAST
        else:
            self._due_ns = stamp_ns
        late = stamp_ns - self._due_ns
        self._due_ns = (self._due_ns if 0 <= late < period else stamp_ns) + period
        self._pose, self._stamp_ns = T_world_camera, stamp_ns
        return ""


def _near(last: np.ndarray, now: np.ndarray, config: NodeConfig) -> bool:
    if np.linalg.norm(now[:3, 3] - last[:3, 3]) >= config.keyframe_distance:
        return False
    cosine = (np.trace(last[:3, :3].T @ now[:3, :3]) - 1) / 2
    return bool(np.degrees(np.arccos(np.clip(cosine, -1, 1))) < config.keyframe_angle)
