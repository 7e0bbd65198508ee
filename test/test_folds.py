# SPDX-License-Identifier: Apache-2.0
"""Sheets that meet at corners are taken apart, and nothing else is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radseg_ros.answers.folds import sheets

SIZE = 0.05  # m


def wall(
    start: tuple[float, float], end: tuple[float, float], turn: float = 0.0, high: float = 0.6
):
    """Voxels of an upright sheet between two places of the floor (m), all turned by ``turn``."""
    ends = np.array([start, end]) @ [
        [math.cos(turn), math.sin(turn)],
        [-math.sin(turn), math.cos(turn)],
    ]
    steps = np.linspace(0, 1, round(4 * np.linalg.norm(ends[1] - ends[0]) / SIZE))[:, None]
    xy = np.unique(np.round((ends[0] + steps * (ends[1] - ends[0])) / SIZE).astype(int), axis=0)
    return np.array([(x, y, z) for x, y in xy for z in range(round(high / SIZE))])


def together(*parts: np.ndarray) -> np.ndarray:
    return np.unique(np.concatenate(parts), axis=0)


BAY = ((0, 0), (0, 2.2)), ((0, 2.2), (7, 2.2)), ((7, 2.2), (7, 0))
ROOM = ((0, 0), (8, 0)), ((8, 0), (8, 5)), ((8, 5), (0, 5)), ((0, 5), (0, 0))
ROOMS = *ROOM, ((3, 0), (3, 5))  # with a wall between
STRAIGHT = (((0, 0), (6, 0)),)


@pytest.mark.parametrize("turn", [0.0, 0.3, math.pi / 4, 2.0])
@pytest.mark.parametrize("plan", [BAY, ROOM, ROOMS, STRAIGHT])
def test_walls_are_taken_apart_at_corners(plan, turn):
    walls = [wall(*ends, turn) for ends in plan]
    index = np.random.default_rng(0).permutation(together(*walls))
    parts = sheets(index, SIZE) or [np.arange(len(index))]
    assert len(parts) == len(plan)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(index)))
    for each in walls:  # all but its corners are in one part
        middle = np.sort(np.linalg.norm(each[:, :2] - each[:, :2].mean(0), axis=1))
        inner = np.linalg.norm(each[:, :2] - each[:, :2].mean(0), axis=1) < 0.7 * middle[-1]
        own = {tuple(voxel) for voxel in each[inner].tolist()}
        share = [len(own & {tuple(v) for v in index[part].tolist()}) / len(own) for part in parts]
        assert max(share) == 1 or plan is ROOMS and max(share) > 0.9


def cuboid(*sides: int, at: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(np.prod(sides)), sides), 1) + at


@pytest.mark.parametrize(
    "index",
    [
        cuboid(1, 1, 1),
        cuboid(60, 60, 1),  # a floor
        together(wall((0, 0), (0, 0.8)), wall((0, 0.8), (0.8, 0.8))),  # a small shelf
        together(cuboid(50, 18, 12), cuboid(18, 50, 12)),  # a sofa around a corner
        together(*(wall(*ends, high=SIZE) for ends in ROOM)),  # tape on the floor
        together(cuboid(40, 14, 30), cuboid(30, 30, 1, at=(0, 14, 29))),
        np.unique(np.random.default_rng(1).integers(0, 60, (3000, 3)), axis=0),
        np.unique(
            np.random.default_rng(1).integers(0, 4000, (3000, 3)), axis=0
        ),  # too large to draw
    ],
    ids=["voxel", "floor", "shelf", "sofa", "tape", "desk", "cloud", "large cloud"],
)
def test_other_things_stay_whole(index):
    assert sheets(index, SIZE) == []


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_every_voxel_is_in_one_part(seed):
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 8, (rng.integers(2, 6), 2))
    walls = [wall(a, b, high=0.6) for a, b in zip(places, places[1:], strict=False)]
    index = together(*walls) + rng.integers(-9, 9, 3)
    parts = sheets(index, SIZE) or [np.arange(len(index))]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(index)))
    assert all(len(rows) for rows in parts)
