# SPDX-License-Identifier: Apache-2.0
"""Where the camera was, as map files keep it: who looks at a map needs it, who maps does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reading import MISFITS
from .map_file import MapHeader

LONGEST = 4096  # positions
MOST_LEANING = np.cos(np.radians(20))  # of what the images call up, where z is up


class CameraPath:
    """Where the camera was, evenly thinned, and which way was up: note "camera" of a map file.

    Not thread safe.
    """

    def __init__(self) -> None:
        self.positions: list[list[float]] = []  # m, in the frame of the map
        self.up = np.zeros(3)  # sum of the unit vectors that pointed up in the images
        self.frames, self._step = 0, 1  # in the map; of every so many one is kept

    def add(self, T_world_camera: np.ndarray) -> None:
        """The camera of a frame that is in the map."""
        if self.frames % self._step == 0:
            self.positions.append([round(x, 3) for x in T_world_camera[:3, 3].tolist()])
        self.frames += 1
        self.up -= T_world_camera[:3, 1]
        self._thin()

    def joined(self, other: CameraPath) -> CameraPath:
        """The way of this camera, and then that of another in the same frame."""
        both = CameraPath()
        both.positions, both.up = [*self.positions, *other.positions], self.up + other.up
        both.frames, both._step = self.frames + other.frames, max(self._step, other._step)
        both._thin()
        return both

    def moved(self, T_target_source: np.ndarray) -> CameraPath:
        """The way in another frame, (4, 4) rigid."""
        there = CameraPath()
        R, t = T_target_source[:3, :3], T_target_source[:3, 3]
        positions = np.array(self.positions, np.float64).reshape(-1, 3) @ R.T + t
        there.positions, there.up = positions.round(3).tolist(), R @ self.up
        there.frames, there._step = self.frames, self._step
        return there

    @property
    def z_up(self) -> bool:
        """Whether z points up, as far as the cameras tell: they are held upright on average."""
        return bool(self.up[2] > MOST_LEANING * np.linalg.norm(self.up))

    def _thin(self) -> None:
        while len(self.positions) > LONGEST:
            self.positions, self._step = self.positions[::2], 2 * self._step

    def note(self) -> dict[str, Any]:
        """All of it, as JSON."""
        thinned = {"count": self.frames, "step": self._step}
        return {"positions": list(self.positions), "up": self.up.tolist(), **thinned}

    @classmethod
    def of(cls, header: MapHeader) -> CameraPath:
        """That of a map file; empty where it does not tell."""
        path, note = cls(), header.notes.get("camera") or {}
        try:
            positions = np.array(note["positions"], np.float64).reshape(-1, 3)
            up = np.array(note["up"], np.float64).reshape(3)
            count, step = int(note["count"]), int(note["step"])
        except MISFITS:
            return path
        if np.isfinite(positions).all() and np.isfinite(up).all() and min(count, step) > 0:
            path.positions, path.up, path.frames, path._step = positions.tolist(), up, count, step
            path._thin()
        return path
