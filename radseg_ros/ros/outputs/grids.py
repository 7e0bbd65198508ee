# SPDX-License-Identifier: Apache-2.0
"""Floor plans for planners: where a robot can drive, and where a label lies."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node

from ...answers.floor.grid import Grid
from .. import messages
from .latched import LatchedTopic

if TYPE_CHECKING:
    from ...live_map import LiveMap

REST = 4.0  # so that floor plans take a fifth of a core at most


class Grids:
    """~/grid and ~/label_grid of ``live``."""

    def __init__(self, node: Node, live: LiveMap) -> None:
        self._live = live
        self._missing = 0  # another number each time as long as voxels are not ready
        self._turns = itertools.count(1)
        self._plan = LatchedTopic(node, OccupancyGrid, "grid", REST)
        self._label = LatchedTopic(node, OccupancyGrid, "label_grid", REST)

    def publish(self) -> None:
        """Publish what has changed."""
        self._each(LatchedTopic.publish)

    def serve_late(self) -> None:
        """Publish once more for whoever came late and gets nothing otherwise."""
        self._each(LatchedTopic.serve_late)

    def _each(self, turn: Callable[[LatchedTopic, object, Callable[[], Any]], None]) -> None:
        live, config = self._live, self._live.config
        shown = (live.version, config.grid)
        turn(self._plan, shown, lambda: self._message(live.floor_plan()))
        if label := config.grid.label:
            key = (shown, config.query, self._missing)
            turn(self._label, key, lambda: self._message(self._label_plan(label)))

    def _label_plan(self, label: str) -> Grid:
        grid, covered = self._live.label_plan(label)
        self._missing = next(self._turns) if covered < 1 else 0
        return grid

    def _message(self, grid: Grid) -> OccupancyGrid:
        head = messages.header(*self._live.moment())
        return messages.grid_message(grid, self._live.config.grid.floor, head)
