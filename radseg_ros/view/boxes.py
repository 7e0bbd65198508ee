# SPDX-License-Identifier: Apache-2.0
"""Lines of the page: boxes around things, and the way of the camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# corners of a unit cube in binary, and the pairs that an edge joins
_CORNERS = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)]) - 0.5
_EDGES = np.array([(a, a | 1 << bit) for a in range(8) for bit in range(3) if not a >> bit & 1])
SMALLEST = 0.02  # m; a box of one voxel is to be seen


def box_lines(centre: Sequence[float], size: Sequence[float], yaw: float = 0.0) -> np.ndarray:
    """The edges of a box that is turned about z by ``yaw`` (rad): (12, 2, 3) m."""
    corners = _CORNERS * np.maximum(size, SMALLEST)
    c, s = np.cos(yaw), np.sin(yaw)
    turned = corners @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return (turned + centre)[_EDGES]


def thing_lines(thing: dict[str, Any]) -> np.ndarray:
    """The edges of the smallest box around a thing of an answer: (12, 2, 3) m."""
    box = thing.get("box") or thing
    return box_lines(box["centre"], box["size"], box.get("yaw", 0.0))


def path_lines(positions: np.ndarray) -> np.ndarray:
    """(P, 3) m -> (P - 1, 2, 3)."""
    return np.stack([positions[:-1], positions[1:]], 1)
