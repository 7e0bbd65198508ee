# SPDX-License-Identifier: Apache-2.0
"""The room of the gallery is mapped twice; between the passes somebody moves things."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder

from radseg_ros.answers.tracks import Tracks
from radseg_ros.config import Config, MapConfig, QueryConfig
from radseg_ros.datatypes import Frame, SemanticObject
from radseg_ros.demo import gallery
from radseg_ros.demo.raycast import Box, Solid, render
from radseg_ros.geometry import scale_intrinsics
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.carving import depth_beyond

pytestmark = pytest.mark.slow

SIZE = tuple(side // 4 for side in gallery.SIZE)
S = 1_000_000_000
SIDES = (0.5, 0.5, 0.5)  # m, of the things
RED, BLUE = (2.0, 1.3, 0.27), (-1.9, -1.5, 0.27)
GREEN, GREEN_LATER = (1.9, -1.4, 0.27), (2.8, 0.1, 0.27)
SHADES = {"red": (0.95, 0.05, 0.05), "green": (0.05, 0.9, 0.05), "blue": (0.05, 0.05, 0.95)}


def thing(name: str, at: tuple[float, float, float]) -> Box:
    return Box(at, SIDES, SHADES[name])


class Robot:
    """Maps what it sees, and follows what it was asked for."""

    def __init__(self, carve_after: int) -> None:
        rules = QueryConfig(threshold=0.6)
        config = Config(short_side=0, map=MapConfig(carve_after=carve_after), query=rules)
        self.mapper, self.tracks = Mapper(config, ColorEncoder()), Tracks()
        self.rng = np.random.default_rng(0)
        self.now = 0

    def drive(self, solids: list[Solid], poses: list[np.ndarray]) -> None:
        K = scale_intrinsics(gallery.K, gallery.SIZE, SIZE)
        for T in poses:
            self.now += 1
            rgb, depth, facing = render(solids, K, T, SIZE)
            metres = (gallery.sense(depth, facing, self.rng) / 1000).astype(np.float32)
            frame = Frame(self.now * S, rgb, metres, K, gallery.drift(T, self.rng))
            self.mapper.integrate(frame)
            beyond, now_ns = partial(self.beyond, frame), self.mapper.map.clock.now_ns
            self.tracks.look(frame, beyond, MapConfig().carve_margin, now_ns)

    def beyond(self, frame: Frame, xyz: np.ndarray) -> np.ndarray:
        return depth_beyond(torch.from_numpy(xyz), frame, self.mapper.map.voxel_size).numpy()

    def ask(self, name: str) -> tuple[list[SemanticObject], list[SemanticObject]]:
        """What is there, and what is missing; crumbs left out."""
        result = self.mapper.query([name])
        things = self.tracks.follow(name, result.geometry, result.scores[:, 0], result.rules)
        things = [each for each in things if each.voxels > 40]
        there = [each for each in things if not each.missing_since_ns]
        return there, [each for each in things if each.missing_since_ns]


@pytest.mark.parametrize("carve_after", [0, 3])
@pytest.mark.parametrize("asked_between", [False, True])
def test_what_was_taken_away_is_missing_and_what_was_moved_is_where_it_is(
    carve_after, asked_between
):
    robot, room = Robot(carve_after), gallery.furniture()
    first = [*room, thing("red", RED), thing("green", GREEN), thing("blue", BLUE)]
    around = gallery.trajectory(40)[:24]
    robot.drive(first, around)
    ids = {}
    for name, place in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        (found,), missing = robot.ask(name)
        ids[name] = found.id
        assert not missing and np.linalg.norm(np.subtract(found.centre, place)) < 0.25
    robot.drive(first, around)
    for name, id in ids.items():
        (found,), missing = robot.ask(name)
        assert found.id == id and not missing and found.viewpoint is not None

    last = robot.now
    later = [*room, thing("green", GREEN_LATER)]  # red and blue are taken away
    ahead = [T for T in around if T[0, 2] > 0.3]  # none looks to where blue was
    assert len(ahead) < 13
    for T in ahead:
        robot.drive(later, [T])
        if asked_between:
            for name in ids:
                robot.ask(name)

    there, (red,) = robot.ask("red")
    assert not there and red.id == ids["red"]
    assert last * S < red.missing_since_ns <= robot.now * S
    (blue,), missing = robot.ask("blue")
    assert blue.id == ids["blue"] and not missing, "nobody has looked"
    (green,), missing = robot.ask("green")
    assert np.linalg.norm(np.subtract(green.centre, GREEN_LATER)) < 0.25
    assert green.id == ids["green"] and not missing, "whoever asks in between"
    robot.drive(later, around)
    assert not robot.ask("blue")[0], "now somebody has"
    assert len(robot.ask("green")[0]) == 1 and not robot.ask("red")[0]
