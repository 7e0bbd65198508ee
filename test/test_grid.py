# SPDX-License-Identifier: Apache-2.0
"""Floor plans and viewpoints of small rooms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from small_worlds import frame

from radseg_ros.answers.floor import grid as grid_module
from radseg_ros.answers.floor.grid import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    Grid,
    LookedThrough,
    label_grid,
    occupancy_grid,
)
from radseg_ros.answers.floor.viewpoint import Viewpoints
from radseg_ros.config import Config, GridConfig
from radseg_ros.datatypes import ConfigError, InputError, MapGeometry, OrientedBox
from radseg_ros.voxels.view import geometry_of

CELL = 0.1
FINE = np.array([[50.0, 0, 39.5], [0, 50, 29.5], [0, 0, 1]])
RULES = GridConfig(floor=0.0, low=0.15, high=1.0, min_hits=1, clearance=0.2)
FORWARD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # looks along x


def world(*blocks: tuple, hits: float = 5.0) -> MapGeometry:
    """Voxels of 0.1 m; a block is (x, x', y, y', z, z') in voxels, ends left out."""
    index = np.concatenate(
        [np.mgrid[x:x2, y:y2, z:z2].reshape(3, -1).T for x, x2, y, y2, z, z2 in blocks]
    )
    rows = torch.tensor(np.unique(index, axis=0))
    empty, count = geometry_of({}, CELL), len(rows)
    columns = {
        name: torch.zeros(count, *value.shape[1:], dtype=value.dtype)
        for name in MapGeometry.__dataclass_fields__
        if isinstance(value := getattr(empty, name), torch.Tensor)
    }
    columns |= {"index": rows, "xyz": (rows * CELL).float(), "hits": torch.full((count,), hits)}
    return MapGeometry(**columns, voxel_size=CELL)


FLOOR = (0, 40, 0, 40, 0, 1)  # 4 m x 4 m
WALL = (39, 40, 0, 40, 0, 20)
LAMP = (20, 22, 20, 22, 15, 18)  # hangs above the robot
THING = (20, 22, 20, 22, 1, 4)


def cell(grid: Grid, x: int, y: int) -> int:
    return int(grid.data[y - grid.first[1], x - grid.first[0]])


def test_floor_is_free_and_what_is_as_high_as_the_robot_occupied():
    grid = occupancy_grid(world(FLOOR, WALL, LAMP, THING, (50, 51, 5, 6, 5, 6)), RULES)
    assert grid.data.shape == (40, 51) and grid.resolution == CELL
    assert grid.origin == pytest.approx((-0.05, -0.05))
    assert cell(grid, 5, 5) == FREE and cell(grid, 39, 3) == OCCUPIED
    assert cell(grid, 20, 21) == OCCUPIED, "the thing, not the lamp"
    assert cell(grid, 50, 5) == OCCUPIED and cell(grid, 45, 5) == UNKNOWN
    without = occupancy_grid(world(FLOOR, LAMP), RULES)
    assert (without.data == FREE).all()


def test_heights_are_counted_from_the_floor():
    lifted = (0, 3, 0, 3, 30, 31)
    assert (occupancy_grid(world(lifted), RULES).data.size, RULES.floor) == (0, 0.0)
    upstairs = GridConfig(floor=3.0, min_hits=1)
    assert (occupancy_grid(world(lifted), upstairs).data == FREE).all()


def test_voxels_of_few_points_count_neither_way():
    assert occupancy_grid(world(FLOOR, THING, hits=2.0), GridConfig(min_hits=3)).data.size == 0


def test_a_map_as_wide_as_the_world_is_cut_around_the_robot(monkeypatch):
    monkeypatch.setattr(grid_module, "MOST_SIDE", 20)
    far = world(FLOOR, (900_000, 900_001, 0, 1, 0, 1))
    grid = occupancy_grid(far, RULES, around=(2.0, 2.0, 0.5))
    assert grid.data.shape == (20, 20) and (grid.data == FREE).all() and grid.first == (10, 10)
    away = occupancy_grid(far, RULES, around=(-70.0, 0.0))
    assert away.data.size == 0


def test_an_empty_map_has_an_empty_plan():
    nothing = geometry_of({}, CELL)
    assert occupancy_grid(nothing, RULES).data.shape == (0, 0)
    assert label_grid(nothing, np.zeros(0), 0.5, RULES).data.shape == (0, 0)


def test_a_label_marks_the_cells_below_it():
    geometry = world(FLOOR, (10, 12, 10, 12, 0, 3), LAMP)
    index = geometry.index.numpy()
    carpet = (index[:, :2] >= 10).all(1) & (index[:, :2] < 12).all(1)
    scores = np.where(carpet, 0.6 + 0.1 * index[:, 2], 0.2)
    scores[(index[:, 2] >= 15)] = 1.0
    grid = label_grid(geometry, scores, 0.5, RULES)
    assert cell(grid, 10, 11) == 80, "the best of the column"
    assert cell(grid, 5, 5) == 0 and cell(grid, 20, 20) == 0, "the lamp is above the robot"
    assert (grid.data > 0).sum() == 4


def looks(depth: float, x: float = 0.0, z: float = 0.3) -> LookedThrough:
    """What one look along x at a wall shows."""
    T = FORWARD.copy()
    T[:3, 3] = x, 0.0, z
    seen = LookedThrough(CELL)
    assert len(seen.cells()) == 0
    seen.add(frame(np.full((60, 80), depth), T, camera=FINE), RULES)
    return seen


def test_what_is_looked_across_is_free():
    cells = looks(3.0).cells()
    x = cells[:, 0]
    assert {*range(1, 27)} <= {*x[cells[:, 1] == 0].tolist()}
    assert x.max() <= 28, "where the rays end stays out"
    far = cells[x > 15]
    assert np.abs(far[:, 1]).max() > 8, "the image is wide"
    angle = np.abs(np.arctan2(cells[x > 5][:, 1], cells[x > 5][:, 0]))
    assert angle.max() <= math.atan(45 / 50), "and no wider"
    assert len(looks(3.0, z=2.5).cells()) == 0, "far above the floor nothing is proved"
    over = looks(3.0, z=1.5).cells()[:, 0]
    assert over.min() > 16, "nor where rays pass above what may stand there"
    assert len(looks(0.0).cells()) == len(looks(np.nan).cells()) == 0, "no return proves nothing"
    assert looks(1e30).cells()[:, 0].max() <= 100, "10 m are enough"


def test_obstacles_stay_where_rays_passed_beside_them():
    seen = looks(3.0).cells()
    grid = occupancy_grid(world((10, 11, 0, 1, 3, 5), (2, 3, 0, 1, 0, 1)), RULES, seen)
    assert cell(grid, 10, 0) == OCCUPIED and cell(grid, 15, 0) == FREE
    assert cell(grid, 10, 20) == UNKNOWN


def test_looks_from_several_places_add_up():
    seen = looks(3.0)
    before = len(seen.cells())
    T = FORWARD.copy()
    T[:3, 3] = 500.0, 0.0, 0.3  # beyond what is covered
    seen.add(frame(3.0, T), RULES)
    assert len(seen.cells()) == before > 0
    T[:3, 3] = 5.0, 0.0, 0.3
    seen.add(frame(3.0, T), RULES)
    assert seen.cells()[:, 0].max() > 70


@pytest.mark.parametrize("live", [False, True])
def test_a_frame_that_was_elsewhere_is_as_if_it_had_been_there(live):
    rng, rules = np.random.default_rng(0), [RULES, dataclasses.replace(RULES, low=0.25)]

    def somewhere(number: int):
        T = FORWARD.copy()
        T[:3, 3] = *rng.uniform(-1, 1, 2), 0.3
        return frame(np.full((60, 80), 1.0 + number), T, camera=FINE)

    before, after = ([somewhere(number) for number in range(3)] for _ in range(2))
    seen, wanted = LookedThrough(CELL), LookedThrough(CELL)
    seen.add(before[0], RULES)  # it has no number
    for number, looks_by in ((1, rules[live]), (2, RULES)):
        seen.add(before[number], looks_by, number)
    seen.move(1, before[1], after[1])
    for each, looks_by in ((before[0], RULES), (after[1], rules[live]), (before[2], RULES)):
        wanted.add(each, looks_by)

    def cells(of: LookedThrough) -> set:
        return {*map(tuple, of.cells().tolist())}

    assert cells(seen) == cells(wanted) and 1 in seen and 0 not in seen and 3 not in seen
    seen.move(1, after[1], before[1])
    assert cells(seen) != cells(wanted)


def test_of_so_many_frames_the_numbers_are_known_and_no_more(monkeypatch):
    monkeypatch.setattr(grid_module, "MOST_FRAMES", 2)
    seen = LookedThrough(CELL)
    for number in (1, 2, 3):
        seen.add(frame(1.0, FORWARD), RULES, number)
    assert [number in seen for number in (1, 2, 3)] == [False, True, True]


BOX = OrientedBox((2.05, 2.05, 0.2), (0.2, 0.2, 0.3), 0.0)  # of THING


def facing(geometry: MapGeometry, camera=(0.5, 2.0, 0.8), distance=1.0, box=BOX):
    grid = occupancy_grid(geometry, RULES)
    return Viewpoints(geometry, grid, RULES, camera, distance).facing(box)


def test_the_robot_stands_on_its_side_and_faces_the_thing():
    seen = facing(world(FLOOR, THING))
    x, y, z = seen.position
    assert math.hypot(x - 2.05, y - 2.05) == pytest.approx(1.1, abs=0.35) and z == 0.0
    assert x < 1.2 and abs(y - 2.0) < 0.3, "where the robot comes from"
    assert seen.yaw == pytest.approx(math.atan2(2.05 - y, 2.05 - x))
    other = facing(world(FLOOR, THING), camera=(2.0, 3.9, 0.8))
    assert other.position[1] > 2.9 and other.yaw == pytest.approx(-math.pi / 2, abs=0.3)


def test_nothing_stands_in_between():
    wall = (15, 16, 0, 40, 0, 15)
    seen = facing(world(FLOOR, THING, wall))
    assert seen.position[0] > 1.6, "beyond the wall"
    low = facing(world(FLOOR, THING, (15, 16, 0, 40, 0, 2)))
    assert low.position[0] < 1.3, "what is low can be looked over"
    around = [(15, 16, 15, 27, 0, 15), (26, 27, 15, 27, 0, 15)]
    around += [(15, 27, 15, 16, 0, 15), (15, 27, 26, 27, 0, 15)]
    assert facing(world(FLOOR, THING, *around)) is None


def test_unknown_floor_is_no_place_to_stand():
    assert facing(world(THING)) is None
    assert facing(world((0, 40, 0, 5, 0, 1), THING)) is None, "floor, but too far away"
    strip = facing(world((0, 40, 8, 11, 0, 1), THING))
    assert 0.75 < strip.position[1] < 1.05


def test_it_keeps_away_from_obstacles():
    geometry = world(FLOOR, THING, (9, 10, 0, 40, 3, 4))
    assert abs(facing(geometry).position[0] - 0.9) > RULES.clearance


def test_a_long_thing_is_looked_at_from_beside_it():
    box = OrientedBox((2.05, 2.05, 0.2), (2.0, 0.2, 0.3), math.pi / 2)
    geometry = world(FLOOR, (20, 22, 10, 31, 1, 4))
    x, y, _ = facing(geometry, box=box, distance=0.8).position
    assert 0.95 < x < 1.35, "0.8 m from its side, not from its middle"


def test_a_distance_that_is_none_is_refused():
    for distance in (0.0, 0.05, 21.0, -1.0, math.nan):
        with pytest.raises(InputError, match="a viewpoint is 0.1..20 m from a thing"):
            facing(world(FLOOR), distance=distance)


def test_heights_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="grid.low must be below grid.high"):
        GridConfig(low=2.0)
    assert Config().grid == GridConfig()
