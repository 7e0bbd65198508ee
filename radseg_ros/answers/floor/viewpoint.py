# SPDX-License-Identifier: Apache-2.0
"""Where a robot can stand and look at a thing: on known floor, with nothing in between."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.ndimage import distance_transform_edt

from ...config import GridConfig
from ...datatypes import Answer, InputError, MapGeometry, MapOutline, OrientedBox, Viewpoint
from .grid import FREE, OCCUPIED, Grid

NEAREST, FARTHEST = 0.1, 20.0  # m from a thing
TOLERANCE = 0.25  # share of the distance
AT_ONCE = 256  # places whose line of sight is looked at together


class Viewpoints:
    """Looks for places from which things can be seen.

    Args:
        geometry: the map.
        grid: its floor plan.
        camera: m, world; where the robot's camera is: its height is the eyes' height, and of
            several places the one nearest to it is taken.
        distance: m from the box of a thing.

    Raises:
        InputError: the distance is not in 0.1..20 m.
    """

    def __init__(
        self,
        geometry: MapGeometry | MapOutline,
        grid: Grid,
        rules: GridConfig,
        camera: tuple[float, float, float],
        distance: float,
    ) -> None:
        if not NEAREST <= distance <= FARTHEST:  # also NaN
            raise InputError(
                f"a viewpoint is {NEAREST:g}..{FARTHEST:g} m from a thing, got {distance:g}"
            )
        self._distance = distance
        self._grid, self._rules, self._camera = grid, rules, np.asarray(camera)
        self._size = geometry.voxel_size
        index = geometry.index.cpu().numpy()[geometry.hits.cpu().numpy() >= rules.min_hits]
        self._low = index.min(0, initial=0)
        self._sides = index.max(0, initial=0) - self._low + 1
        self._solid = np.sort(self._keys(index))

    def added(self, answer: Answer) -> Answer:
        """The answer with a viewpoint for each thing of which one is known."""
        things = (dataclasses.replace(t, viewpoint=self.facing(t.box)) for t in answer.objects)
        return dataclasses.replace(answer, objects=tuple(things))

    def facing(self, box: OrientedBox) -> Viewpoint | None:
        """The place to stand and face a box; None = there is none that is known."""
        places = self._places(box)
        order = np.argsort(np.square(places - self._camera[:2]).sum(1), kind="stable")
        for start in range(0, len(order), AT_ONCE):
            some = places[order[start : start + AT_ONCE]]
            for x, y in some[self._seen_from(some, box)][:1]:
                yaw = np.arctan2(box.centre[1] - y, box.centre[0] - x)
                return Viewpoint((float(x), float(y), self._rules.floor), float(yaw))
        return None

    def _places(self, box: OrientedBox) -> np.ndarray:
        """(N, 2) free cells, m, at the distance from the box and far enough from obstacles."""
        size, clearance = self._grid.resolution, self._rules.clearance
        distance = self._distance
        reach = distance * (1 + TOLERANCE) + np.hypot(*box.size[:2]) / 2 + clearance
        first = np.asarray(self._grid.first)
        low, high = (
            np.rint((np.asarray(box.centre[:2]) + side * reach) / size).astype(np.int64) - first
            for side in (-1, 1)
        )
        height, width = self._grid.data.shape
        x0, y0 = np.clip(low, 0, (width, height))
        x1, y1 = np.clip(high + 1, 0, (width, height))
        data = self._grid.data[y0:y1, x0:x1]
        if not data.size:
            return np.zeros((0, 2))
        free, occupied = data == FREE, data == OCCUPIED
        if occupied.any():
            free &= distance_transform_edt(~occupied) * size > clearance
        y, x = np.nonzero(free)
        places = (np.stack([x + x0, y + y0], 1) + first) * size
        apart = np.abs(_outside(places, box) - distance)
        return places[apart <= TOLERANCE * distance]

    def _seen_from(self, places: np.ndarray, box: OrientedBox) -> np.ndarray:
        """(N,) whether no voxel is between the eyes above each place and the middle of the box."""
        eyes = np.column_stack([places, np.full(len(places), self._camera[2])])
        way = np.asarray(box.centre) - eyes
        steps = int(np.ceil(np.linalg.norm(way, axis=1).max() / self._size)) + 1
        points = eyes[:, None] + np.linspace(0, 1, steps)[:, None] * way[:, None]  # (N, S, 3)
        margin = 1.5 * self._size  # the thing itself, and what it stands on
        beside = _outside(points[..., :2], box) > margin
        above = np.abs(points[..., 2] - box.centre[2]) > box.size[2] / 2 + margin
        index = np.rint(points / self._size).astype(np.int64)
        return ~((beside | above) & self._holds(index)).any(1)

    def _holds(self, index: np.ndarray) -> np.ndarray:
        """Whether there is a voxel: (..., 3) -> (...)."""
        if not len(self._solid):
            return np.zeros(index.shape[:-1], bool)
        key = self._keys(index)
        at = np.minimum(np.searchsorted(self._solid, key), len(self._solid) - 1)
        inside = ((index >= self._low) & (index < self._low + self._sides)).all(-1)
        return inside & (self._solid[at] == key)

    def _keys(self, index: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(index - self._low, -1, 0)
        return (x * self._sides[1] + y) * self._sides[2] + z


def _outside(places: np.ndarray, box: OrientedBox) -> np.ndarray:
    """(..., 2) -> (...) m from the outline of a box on the floor; 0 inside."""
    c, s = np.cos(box.yaw), np.sin(box.yaw)
    local = (places - np.asarray(box.centre[:2])) @ np.array([[c, -s], [s, c]])
    beyond = np.maximum(np.abs(local) - np.asarray(box.size[:2]) / 2, 0)
    return np.hypot(beyond[..., 0], beyond[..., 1])
