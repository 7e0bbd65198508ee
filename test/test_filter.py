# SPDX-License-Identifier: Apache-2.0
"""Which voxels may answer, against one voxel at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import frame, pose
from test_map_clock import JUMPS

from radseg_ros.answers.filter import chosen, mask
from radseg_ros.config import Config, MapConfig, QueryConfig
from radseg_ros.datatypes import Filter, InputError, MapGeometry
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.view import rows_near

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def mapper() -> Mapper:
    """Four walls, red and blue by turns, a second between two frames."""
    made = Mapper(
        Config(short_side=0, map=MapConfig(voxel_size=0.2), query=QueryConfig(max_gap=0.5)),
        ColorEncoder(),
    )
    rng = np.random.default_rng(3)
    for i in range(4):
        rgb = np.zeros((12, 16, 3), np.uint8)
        rgb[..., 2 * (i % 2)] = 255
        made.integrate(frame(1.5, pose(rng), rgb, stamp_ns=(10 + i) * SECOND))
    return made


def by_hand(geometry: MapGeometry, where: Filter, newest_ns: int) -> list[bool]:
    T = np.eye(4) if where.T_filter_world is None else where.T_filter_world
    keep = []
    for xyz, hits, seen in zip(
        geometry.xyz.double().numpy(),
        geometry.hits.tolist(),
        geometry.last_seen_ns.tolist(),
        strict=True,
    ):
        x = T[:3, :3] @ xyz + T[:3, 3]
        inside = all(a <= v <= b for a, v, b in zip(where.lowest, x, where.highest, strict=True))
        near = not where.radius or math.dist(x, where.centre) <= where.radius
        young = not where.max_age or (newest_ns - seen) / 1e9 <= where.max_age
        keep.append(inside and near and young and hits >= where.min_hits)
    return keep


LENGTHS = st.floats(-2, 2)
PLACES = st.tuples(LENGTHS, LENGTHS, LENGTHS)


@settings(max_examples=60)
@given(
    a=PLACES,
    b=PLACES,
    centre=PLACES,
    radius=st.sampled_from([0.0, 0.5, 2.0]),
    max_age=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    min_hits=st.integers(1, 4),
    turned=st.integers(0, 3),
)
def test_a_voxel_answers_if_it_fulfils_all(mapper, a, b, centre, radius, max_age, min_hits, turned):
    where = Filter(
        tuple(map(min, a, b)),
        tuple(map(max, a, b)),
        centre,
        radius,
        max_age,
        min_hits,
        pose(np.random.default_rng(turned)) if turned else None,
    )
    geometry = mapper.map.geometry()
    allowed = mask(geometry, where, 13 * SECOND)
    assert allowed.tolist() == by_hand(geometry, where, 13 * SECOND)
    count, rows = int(allowed.sum()), allowed.nonzero()[:, 0].tolist()

    def near(most: int) -> torch.Tensor | None:
        return rows_near(mapper.map, where, lambda some: mask(some, where, 13 * SECOND), most)

    assert sorted(near(len(geometry)).tolist()) == rows
    for most in (count - 1, count):
        found = near(most)
        assert found is None or (most == count and sorted(found.tolist()) == rows)


def test_the_rows_that_stay_keep_their_scores(mapper):
    geometry = mapper.map.geometry()
    scores = torch.arange(2 * len(geometry), dtype=torch.float32).reshape(-1, 2)
    where = Filter(lowest=(0.0, -9.0, -9.0))
    kept, left = chosen(geometry, scores, where, 0)
    rows = (geometry.xyz[:, 0] >= 0).nonzero()[:, 0]
    assert 0 < len(kept) < len(geometry) and kept.voxel_size == 0.2
    assert torch.equal(kept.index, geometry.index[rows]) and torch.equal(left, scores[rows])


def test_a_question_is_answered_by_those_alone(mapper):
    everywhere = mapper.query(["red"])
    young = mapper.query(["red"], where=Filter(max_age=0.5))
    assert not young.answers[0].found, "the last wall is blue"
    assert everywhere.answers[0].found and young.covered == everywhere.covered == 1
    assert set(young.geometry.last_seen_ns.tolist()) == {13 * SECOND}
    nowhere = mapper.query(["red"], where=Filter(centre=(90.0, 0, 0), radius=1.0))
    assert len(nowhere.geometry) == 0 and nowhere.answers[0].best_score == 0
    assert len(nowhere.cloud()) == 0 and nowhere.distribution.tolist() == [0.0]


@pytest.mark.parametrize("stamps", JUMPS.values(), ids=JUMPS)
def test_ages_are_those_of_the_map_whatever_its_stamps_do(stamps):
    """What the last frame shows is new, what was seen first is not."""
    config = Config(short_side=0, map=MapConfig(voxel_size=0.2))
    made, rgb = Mapper(config, ColorEncoder()), np.full((12, 16, 3), (255, 0, 0), np.uint8)
    for i, stamp in enumerate(stamps):
        T = np.eye(4)
        T[0, 3] = 10.0 * i
        made.integrate(frame(2.0, T, rgb, stamp_ns=round(stamp * SECOND)))
        young = made.query(["red"], where=Filter(max_age=0.5))
        x = young.geometry.xyz[:, 0]
        assert len(x) and float(x.max()) > 10.0 * i - 5, f"frame {i} is too old"
    assert float(x.min()) > 5, "the first frames are old"


def test_what_voxels_divide_among(mapper):
    result = mapper.query(["red", "blue"])
    share = result.distribution
    assert share.sum() == pytest.approx(1)
    hits = result.geometry.hits.numpy().astype(float)
    expected = (hits[:, None] * result.scores).sum(0)
    np.testing.assert_allclose(share, expected / expected.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"lowest": (1.0, 0, 0), "highest": (0.0, 1, 1)}, "lowest corner to its highest"),
        ({"lowest": (math.nan, 0, 0)}, "lowest corner to its highest"),
        ({"centre": (math.inf, 0, 0), "radius": 1.0}, "three finite numbers"),
        ({"radius": -1.0}, "radius must be a finite number >= 0, got -1"),
        ({"radius": math.nan}, "radius must be a finite number"),
        ({"max_age": math.inf}, "max_age must be a finite number"),
        ({"min_hits": 0}, "min_hits must be >= 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(fields, reason):
    with pytest.raises(InputError, match=reason):
        Filter(**fields)
