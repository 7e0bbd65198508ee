# SPDX-License-Identifier: Apache-2.0
"""Floor plans for planners: where a robot can drive, and where a label lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node

from ...answers.floor.grid import Grid
from .. import messages
from .latched import LatchedTopic, Outputs, Turn

if TYPE_CHECKING:
    from ...live_map import LiveMap

REST = 4.0  # so that floor plans take a fifth of a core at most


class Grids(Outputs):
    """~/grid and ~/label_grid of ``live``."""

    def __init__(self, node: Node, live: LiveMap) -> None:
        super().__init__()
        self._live = live
        self._unfinished = 0  # see _again
        self._plan = LatchedTopic(node, OccupancyGrid, "grid", REST)
        self._label = LatchedTopic(node, OccupancyGrid, "label_grid", REST)

    def _each(self, turn: Turn) -> None:
        live, config = self._live, self._live.config
        shown = (live.version, config.grid)
        turn(self._plan, shown, lambda: self._message(live.floor_plan()))
        if label := config.grid.label:
            key = (shown, config.query, self._unfinished)
            turn(self._label, key, lambda: self._message(self._label_plan(label)))

    def _label_plan(self, label: str) -> Grid:
        grid, covered = self._live.label_plan(label)
        self._unfinished = self._again(covered < 1)
        return grid

    def _message(self, grid: Grid) -> OccupancyGrid:
        head = messages.header(*self._live.moment())
        return messages.grid_message(grid, self._live.config.grid.floor, head)
