# SPDX-License-Identifier: Apache-2.0
"""Objects and their boxes on small worlds with known answers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radseg_ros.answers.boxes import straight_box, turned_box
from radseg_ros.answers.groups import connected_groups
from radseg_ros.answers.objects import find_objects
from radseg_ros.answers.plain import answer_dict
from radseg_ros.answers.scores import Presence, best_odds
from radseg_ros.config import QueryConfig
from radseg_ros.datatypes import Answer, MapGeometry, OrientedBox, SemanticObject, Viewpoint
from radseg_ros.voxels.index import COORDINATE_LIMIT

SIZE = 0.05  # m


def world(
    index: np.ndarray | list, first: list | None = None, last: list | None = None
) -> MapGeometry:
    """A map of these voxels; voxel i was hit by i + 1 points of i % 5 + 1 frames."""
    whole = torch.tensor(np.asarray(index, np.int64).reshape(-1, 3))
    number = torch.arange(len(whole))
    stamps = [torch.tensor(s if s is not None else [0] * len(whole)).long() for s in (first, last)]
    xyz = (whole * SIZE).float()
    hits, views = (number + 1).float(), (number % 5 + 1).int()
    return MapGeometry(whole, xyz, torch.zeros_like(xyz), hits, views, *stamps, stamps[1], SIZE)


def find(geometry: MapGeometry, scores, **rules) -> tuple[SemanticObject, ...]:
    config = QueryConfig(**{"threshold": 0.5, **rules})
    return find_objects("thing", geometry, np.asarray(scores, np.float32), config)


def cuboid(*sides: int, at: tuple[int, int, int] | int = 0) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(np.prod(sides)), sides), 1) + at


# ---- boxes ---------------------------------------------------------------------------------------


def test_a_wall_one_voxel_thick_is_as_thick_as_a_voxel():
    wall = cuboid(40, 1, 20, at=(-3, 7, 2))
    (found,) = find(world(wall), np.full(len(wall), 0.9))
    assert found.size == pytest.approx((2.0, 0.05, 1.0))
    assert found.centre == pytest.approx((16.5 * SIZE, 7 * SIZE, 11.5 * SIZE))
    assert found.box.size == pytest.approx((2.0, 0.05, 1.0)) and found.box.yaw == 0
    assert found.box.centre == pytest.approx(found.centre)


def test_a_box_along_y_is_turned_by_a_quarter():
    box = turned_box(cuboid(2, 30, 3), SIZE)
    assert box.size == pytest.approx((1.5, 0.1, 0.15)) and box.yaw == -math.pi / 2


@pytest.mark.parametrize("degrees", [-80, -45, -30, -10, 0, 15, 45, 60, 85])
def test_a_turned_box_is_found_turned(degrees):
    """Voxels of a slab of 3 m x 0.6 m x 0.5 m."""
    turn = math.radians(degrees)
    along, across = (np.array([math.cos(t), math.sin(t)]) for t in (turn, turn + math.pi / 2))
    steps = cuboid(301, 61) * 0.01 - (1.5, 0.3)
    xy = np.unique(np.round((steps @ (along, across) + (4.0, -2.0)) / SIZE).astype(int), axis=0)
    index = np.array([(*place, z) for place in xy for z in range(10)])
    box = turned_box(index, SIZE)
    apart = (box.yaw - turn + math.pi / 2) % math.pi - math.pi / 2
    assert abs(apart) < math.radians(2.5)
    assert box.size == pytest.approx((3.07, 0.67, 0.5), abs=0.07), "up to a voxel's diagonal more"
    assert box.centre == pytest.approx((4.0, -2.0, 4.5 * SIZE), abs=0.03)


def inside(index: np.ndarray, box: OrientedBox, slack: float = 1e-9) -> bool:
    """Whether all corners of all voxels are in a turned box."""
    corners = (index[:, None] + cuboid(2, 2, 2) - 0.5).reshape(-1, 3) * SIZE - box.centre
    cosine, sine = math.cos(box.yaw), math.sin(box.yaw)
    local = corners @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    return bool((np.abs(local) <= np.array(box.size) / 2 + slack).all())


def least_area(index: np.ndarray) -> float:
    """The slow reference: every direction from one corner of a voxel to another, m^2."""
    corners = np.unique((index[:, None, :2] + cuboid(2, 2) - 0.5).reshape(-1, 2), axis=0)
    along = (corners[:, None] - corners[None]).reshape(-1, 2)
    along = along[(along != 0).any(1)]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    length, width = (np.ptp(corners @ axes.T, axis=0) for axes in (along, across))
    return float((length * width).min() * SIZE**2)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 12),
    extent=st.integers(0, 30),
    far=st.sampled_from([0, COORDINATE_LIMIT - 31]),
)
def test_every_voxel_is_inside_and_no_box_is_larger_than_it_must_be(seed, count, extent, far):
    rng = np.random.default_rng(seed)
    index = rng.integers(-extent, extent + 1, (count, 3)) + far
    box, (centre, size) = turned_box(index, SIZE), straight_box(index, SIZE)
    straight = OrientedBox(tuple(centre), tuple(size), 0.0)
    assert all(inside(index, each, slack=1e-9 + 1e-15 * far) for each in (box, straight))
    area = box.size[0] * box.size[1]
    assert area <= size[0] * size[1] * (1 + 1e-9)
    assert area == pytest.approx(least_area(index - far), rel=1e-6)
    assert box.size[0] >= box.size[1] * (1 - 1e-9) and -math.pi / 2 <= box.yaw < math.pi / 2
    assert box.size[2] == pytest.approx(size[2]) and box.centre[2] == pytest.approx(centre[2])
    for axis in range(3):  # the straight box is tight
        assert size[axis] == pytest.approx((np.ptp(index[:, axis]) + 1) * SIZE)


# ---- objects -------------------------------------------------------------------------------------


def test_two_blobs_are_two_objects_best_first():
    near, far = cuboid(3, 1, 1), cuboid(4, 1, 1, at=(40, 20, 0))
    lonely, weak = [[100, 100, 100]], [[20, 0, 0]]
    scores = [0.6, 0.6, 0.6, 0.9, 0.9, 0.9, 0.7, 0.99, 0.1]
    last = [1, 2, 3, 40, 50, 60, 7, 99, 0]
    geometry = world(np.concatenate([near, far, lonely, weak]), [5] * 9, last)
    first, second = find(geometry, scores, min_voxels=3, max_gap=0.08)
    assert first.voxels == 4 and second.voxels == 3 and first.label == "thing"
    assert first.score == first.best_score == pytest.approx(0.9)
    assert first.mean_score == pytest.approx(0.85)
    assert (first.first_seen_ns, first.last_seen_ns) == (5, 60)
    assert (first.hits, first.views) == (4 + 5 + 6 + 7, 5)
    assert first.size == pytest.approx((0.2, 0.05, 0.05))
    for place in (second.centre, second.peak):
        assert place == pytest.approx((0.05, 0, 0))
    weighted = np.average([2.0, 2.05, 2.1, 2.15], weights=[0.9, 0.9, 0.9, 0.7])
    assert first.peak == pytest.approx((weighted, 1, 0))
    assert (first.id, first.missing_since_ns, first.viewpoint) == (0, 0, None)


def test_max_objects_keeps_the_best():
    line = cuboid(5, 1, 1) * 20
    found = find(world(line), [0.6, 0.9, 0.7, 0.95, 0.8], min_voxels=1, max_objects=2)
    assert [o.centre[0] for o in found] == pytest.approx([3.0, 1.0])


def test_an_empty_map_and_one_of_small_groups_have_no_objects():
    assert find(world([]), []) == ()
    assert find(world(cuboid(2, 1, 1)), [0.9, 0.9]) == ()


def test_a_score_that_equals_the_threshold_and_a_group_of_the_least_size_count():
    geometry = world([*cuboid(3, 1, 1), *cuboid(2, 1, 1, at=(60, 0, 0))])
    rules = {"threshold": 0.5, "min_voxels": 3, "max_gap": 0.06}
    (found,) = find(geometry, [0.5, 0.5, 0.5, 0.9, 0.9], **rules)
    assert found.voxels == 3 and found.score == 0.5
    assert find(geometry, [0.5, np.nextafter(np.float32(0.5), 0), 0.5, 0.9, 0.9], **rules) == ()


def test_the_score_is_one_that_a_few_voxels_reach():
    """One noisy voxel says nothing about the thing that it is part of."""
    geometry = world(cuboid(6, 1, 1))
    scores = [0.55, 1.0, 0.6, 0.7, 0.5, 0.65]
    for few, score in ((1, 1.0), (2, 0.7), (3, 0.65), (6, 0.5)):
        (found,) = find(geometry, scores, min_voxels=few)
        assert found.score == pytest.approx(score) and found.best_score == 1.0
    assert find(geometry, scores, min_voxels=7) == ()


def test_equal_objects_are_ranked_by_size_then_by_place():
    places = [(0, 0, 20), (0, 20, 0), (20, 0, 0), (0, 0, 0), (100, 100, 100)]
    parts = [cuboid(3, 1, 1, at=place) for place in places]
    index = np.concatenate([*parts, [[103, 100, 100]], cuboid(3, 1, 1, at=(180, 180, 180))])
    scores = [0.7] * 16 + [0.8] * 3
    found = find(world(index), scores, max_gap=0.06)
    expected = [places[i] for i in (4, 3, 0, 1, 2)]
    assert [tuple(np.round(o.peak)) for o in found] == [
        (9, 9, 9),
        *(tuple(np.round(np.array(place) * SIZE)) for place in expected),
    ]
    assert [o.voxels for o in found] == [3, 4, 3, 3, 3, 3] and found[0].score == pytest.approx(0.8)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), few=st.integers(1, 6))
def test_an_object_has_its_own_voxels_only(seed, few):
    """Against each group looked at on its own."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.unique(rng.integers(0, 14, (120, 3)), axis=0))
    first = rng.integers(1, 1000, len(index))
    last = first + rng.integers(0, 1000, len(index))
    scores = rng.choice([0.0, 0.2, 0.5, 0.7, 0.9], len(index)).astype(np.float32)
    geometry, rules = world(index, first, last), {"min_voxels": few, "max_objects": 100}
    found = find(geometry, scores, **rules)
    chosen = np.flatnonzero(scores >= 0.5)
    group = connected_groups(index[chosen], SIZE, QueryConfig().max_gap)
    groups = [chosen[group == g] for g in np.unique(group)]
    groups = [rows for rows in groups if len(rows) >= few]
    assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)
    assert len(found) == len(groups)
    by_place = {(o.centre, o.peak): o for o in found}
    for rows in groups:
        own = scores[rows].astype(float)
        centre, size = straight_box(index[rows], SIZE)
        peak = SIZE * np.average(index[rows], axis=0, weights=own)
        (each,) = [o for key, o in by_place.items() if np.allclose(key, (centre, peak))]
        assert each.size == pytest.approx(tuple(size)) and each.voxels == len(rows)
        assert each.box == turned_box(index[rows], SIZE)
        assert each.score == np.sort(scores[rows])[-few] and each.best_score == own.max()
        assert each.mean_score == pytest.approx(own.mean())
        assert each.hits == int((rows + 1).sum()) and each.views == int((rows % 5 + 1).max())
        assert (each.first_seen_ns, each.last_seen_ns) == (first[rows].min(), last[rows].max())


def test_scores_of_zero_are_no_division_by_zero():
    (found,) = find(world(cuboid(3, 1, 1)), [0.0, 0.0, 0.0], threshold=0.0)
    assert found.peak == pytest.approx(found.centre) and found.score == 0


def test_what_is_seen_through_noise_is_found_whole_however_probable_it_is():
    rng = np.random.default_rng(3)
    room, thing = cuboid(60, 40, 2), cuboid(12, 9, 2, at=(20, 10, 0))
    own = (room[:, None] == thing).all(2).any(1)
    odds = torch.tensor(rng.normal(np.where(own, 7.0, 0.0)), dtype=torch.float32)[:, None]
    geometry, voxels = world(room), set()
    for probability in (0.52, 0.75, 0.98):
        presence = Presence(torch.tensor([probability]), best_odds(odds), typical=0.0)
        scores = presence.scores(odds)[:, 0].numpy()
        (found,) = find_objects("thing", geometry, scores, QueryConfig())
        assert np.abs(np.subtract(found.centre, (25.5 * SIZE, 14 * SIZE, SIZE / 2))).max() < SIZE
        voxels.add(found.voxels)
        if probability == 0.52:
            narrow = find_objects("thing", geometry, scores, QueryConfig(hysteresis=1.0))
            assert sum(part.voxels for part in narrow) < 0.6 * len(thing)
    assert len(voxels) == 1 and voxels.pop() == pytest.approx(len(thing), rel=0.1)


def test_hysteresis_moves_borders_and_never_makes_an_object():
    line = cuboid(30, 1, 1)  # voxels side by side
    scores = np.full(30, 0.3)
    scores[[2, 12, 22]] = 0.9  # too far apart for a core of three
    assert not find(world(line), scores, hysteresis=0.3, max_gap=0.06)
    scores[[11, 13]] = 0.6
    (found,) = find(world(line), scores, hysteresis=0.3, max_gap=0.06)
    assert (found.voxels, found.score) == (30, pytest.approx(0.6))
    (narrow,) = find(world(line), scores, hysteresis=0.5, max_gap=0.06)  # half of the best
    assert narrow.voxels == 3


# ---- plain values --------------------------------------------------------------------------------


def test_an_answer_is_plain_values():
    place = (1.0, 2.0, 3.0)
    thing = SemanticObject(
        label="cup",
        score=0.5,
        centre=place,
        size=place,
        peak=place,
        box=OrientedBox(place, place, 0.25),
        voxels=7,
        hits=8,
        views=9,
        mean_score=0.4,
        best_score=0.6,
        first_seen_ns=1_500_000_000,
        last_seen_ns=2_500_000_000,
        id=3,
        missing_since_ns=3_500_000_000,
        viewpoint=Viewpoint(place, 0.75),
    )
    plain = answer_dict(Answer("cup", 0.6, (thing,)))
    assert json.loads(json.dumps(plain)) == plain, "lists and numbers only"
    assert plain["found"] is False and plain["label"] == "cup" and plain["best_score"] == 0.6
    (values,) = plain["objects"]
    assert values["box"] == {"centre": [1, 2, 3], "size": [1, 2, 3], "yaw": 0.25}
    assert values["viewpoint"] == {"position": [1, 2, 3], "yaw": 0.75}
    stamps = [values[name] for name in ("first_seen", "last_seen", "missing_since")]
    assert stamps == [1.5, 2.5, 3.5]
    fields = {name.removesuffix("_ns") for name in SemanticObject.__dataclass_fields__}
    assert values.keys() == fields
    assert answer_dict(Answer("cup", 0.0, ()))["objects"] == []
