# SPDX-License-Identifier: Apache-2.0
"""Which way is up in a map, and turning it so that z is."""

from __future__ import annotations

import numpy as np


def upright(rotations: np.ndarray) -> np.ndarray:
    """World -> z up, (3, 3), for cameras (N, 3, 3) that are held upright on average.

    Exact when up is a world axis.
    """
    return rotation_to(nearest_axis(-rotations[:, :, 1].mean(0)))


def nearest_axis(up: np.ndarray) -> np.ndarray:
    """The world axis that is nearly (3,) ``up``, or else ``up`` itself, of unit length."""
    up = up / np.linalg.norm(up)
    axis = np.abs(up).argmax()
    if abs(up[axis]) <= np.cos(np.radians(20)):
        return up
    return np.eye(3)[axis] * np.sign(up[axis])


def rotation_to(up: np.ndarray) -> np.ndarray:
    """World -> z up, (3, 3), for a unit vector (3,)."""
    side = np.eye(3)[(np.abs(up).argmax() + 1) % 3]
    x = side - up * (side @ up)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(up, x), up])
