# SPDX-License-Identifier: Apache-2.0
"""Clouds that follow the map: always what a new one would be, made again only where it changed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import frame, make_map, random_frame
from test_map_view import TEXTS, Head, grown, scorer, wide_map

from radseg_ros.answers.cloud import rgb_cloud, semantic_cloud
from radseg_ros.answers.packed import POINT, PackedCloud, pack, thinning_order
from radseg_ros.config import Config, MapConfig, NodeConfig
from radseg_ros.datatypes import Cloud, InputError
from radseg_ros.live_map import RENEWAL, LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.index import pack as key_of
from radseg_ros.voxels.view import OUTLINE_ROWS, STEP_ROWS, MapView
from radseg_ros.voxels.voxel_map import VoxelMap

THRESHOLD = 0.1


def follow(view: MapView, world: VoxelMap, cloud: PackedCloud, labels: bool) -> np.ndarray:
    assert view.catch_up(world, threading.Lock()) == 0
    scored = (scorer, len(TEXTS)) if labels else (lambda vectors: vectors[:, :0], 0)
    cloud.update(view.changes(cloud.step, world.voxel_size, *scored), THRESHOLD)
    return cloud.points()


def in_order(points: np.ndarray) -> np.ndarray:
    return np.sort(points, order=["x", "y", "z"])


@pytest.mark.parametrize("labels", [True, False])
def test_it_is_what_a_new_cloud_would_be(labels):
    """Frames come, parts of the map go, and voxels move to other rows."""
    world, head = make_map(0.2, 5), Head()
    view, cloud = MapView(head, 3) if labels else MapView(), PackedCloud()
    assert len(cloud.points()) == 0
    for step in range(12):
        grown(world, step)
        if step == 7:
            world.clear()
        if step % 3:
            continue
        found = follow(view, world, cloud, labels)
        scores = scorer(head(world.snapshot().features)).numpy()
        geometry = world.geometry()
        new = semantic_cloud(geometry, scores, THRESHOLD) if labels else rgb_cloud(geometry)
        found, expected = in_order(found), in_order(pack(new))
        for name in POINT.names:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6, err_msg=name)
    assert len(found) > 0


def test_only_what_changed_is_scored_again():
    world, view, cloud, scored = make_map(0.2, 5), MapView(Head(), 3), PackedCloud(), []

    def shown() -> int:
        scored.clear()
        view.catch_up(world, threading.Lock())
        counting = lambda vectors: scored.append(len(vectors)) or scorer(vectors)  # noqa: E731
        cloud.update(view.changes(cloud.step, 0.2, counting, len(TEXTS)), THRESHOLD)
        return sum(scored)

    grown(world, 0)
    assert shown() == len(world) and shown() == 0
    stats = world.integrate(*random_frame(np.random.default_rng(9)))
    assert shown() == stats.voxels < len(world)


def test_rows_of_which_nothing_is_known_yet_are_not_shown():
    world, view, cloud = wide_map(), MapView(Head(), 3), PackedCloud()
    missing = view.catch_up(world, threading.Lock(), deadline=0.0)
    cloud.update(view.changes(cloud.step, 0.05, scorer, len(TEXTS)), THRESHOLD)
    assert len(cloud.points()) == len(world) - missing == STEP_ROWS
    assert len(follow(view, world, cloud, labels=True)) == len(world)
    view.clear()
    cloud.update(view.changes(cloud.step, 0.05, scorer, len(TEXTS)), THRESHOLD)
    assert len(cloud.points()) == 0
    assert len(follow(view, world, cloud, labels=True)) == len(world)


def test_the_points_are_not_copied_where_all_are_shown():
    world, view, cloud = wide_map(), MapView(), PackedCloud()
    points = follow(view, world, cloud, labels=False)
    assert np.shares_memory(points, follow(view, world, cloud, labels=False))
    assert len(points) == len(world) < OUTLINE_ROWS


# ---- which points --------------------------------------------------------------------------------


def of_voxels(index: np.ndarray, hits: np.ndarray | float = 1.0) -> PackedCloud:
    """A cloud of voxels of 1 m."""
    world = make_map(1.0, 1)
    slots, order = world.table.claim(key_of(torch.as_tensor(index).T.double()))
    points = torch.as_tensor(np.broadcast_to(hits, len(index)).copy()).long()[order]
    rows = {"hits": points, "rgb_sum": torch.zeros(len(slots), 3, dtype=torch.float64)}
    rows |= {n: torch.zeros_like(slots) for n in ("first_seen_ns", "last_seen_ns", "seen_at")}
    rows["views"] = torch.ones_like(slots, dtype=torch.int32)
    world.table.add(slots, rows, lambda a, b: torch.zeros(b - a, 1))
    cloud = PackedCloud()
    follow(MapView(), world, cloud, labels=False)
    return cloud


def places(points: np.ndarray) -> set[tuple[float, float, float]]:
    return {tuple(row) for row in np.stack([points["x"], points["y"], points["z"]], 1).tolist()}


def grid(*sides: int) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(np.prod(sides)), sides), 1)


@pytest.mark.parametrize("sides", [(100, 100, 1), (1, 100, 100), (100, 1, 100), (30, 30, 30)])
def test_a_thinned_cloud_is_even(sides):
    index = grid(*sides)
    kept = of_voxels(index).points(most=len(index) // 10)
    assert 0.99 * (len(index) // 10) <= len(kept) <= len(index) // 10
    number = np.stack([kept["x"], kept["y"], kept["z"]], 1).astype(int)
    cells, voxels = np.unique(index // 10, axis=0, return_counts=True)  # ten voxels wide
    found, share = np.unique(number // 10, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, cells, "no cell is empty")
    assert 0.5 < (share / voxels * 10).min() and (share / voxels * 10).max() < 1.5


def test_thinning_takes_the_same_voxels_first():
    index = np.random.default_rng(0).permutation(grid(30, 30, 3))
    cloud, part = of_voxels(index), of_voxels(index[:2000])
    few, more = places(cloud.points(most=300)), places(cloud.points(most=900))
    assert few < more and len(places(cloud.points(most=10_000))) == len(index)
    assert places(cloud.points(most=900)) == more, "again"
    rest = places(part.points(most=300))
    assert few & {tuple(map(float, row)) for row in index[:2000]} <= rest, (
        "in a smaller map as well"
    )


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.integers(-(2**19), 2**19)] * 3), max_size=40, unique=True))
def test_the_order_depends_on_the_voxel_alone(index):
    whole = thinning_order(np.array(index, np.int64).reshape(-1, 3))
    alone = [thinning_order(np.array([each], np.int64))[0] for each in index]
    assert whole.tolist() == alone and whole.dtype == np.uint32


def test_radius_and_hits_come_before_thinning():
    index = grid(50, 50, 1)
    hits = 1 + (index[:, 0] % 2)
    cloud = of_voxels(index, hits)
    near = places(cloud.points(radius=5.0, centre=(10.0, 10.0, 0.0)))
    distance = np.linalg.norm(index - (10, 10, 0), axis=1)
    assert near == {tuple(map(float, row)) for row in index[distance <= 5]}
    often = places(cloud.points(min_hits=2, radius=5.0, centre=(10.0, 10.0, 0.0)))
    assert often == {place for place in near if place[0] % 2}
    few = places(cloud.points(min_hits=2, most=10, radius=5.0, centre=(10.0, 10.0, 0.0)))
    assert few < often and 0 < len(few) <= 10
    assert len(cloud.points(min_hits=3)) == 0


# ---- through the mapper --------------------------------------------------------------------------

RED = np.full((12, 16, 3), (255, 0, 0), np.uint8)


def mapper(node: NodeConfig | None = None, **options) -> Mapper:
    config = Config(short_side=0, map=MapConfig(**options), node=node or NodeConfig())
    made = Mapper(config, ColorEncoder())
    for step in range(3):
        made.integrate(frame(1.0 + step, rgb=RED, stamp_ns=step))
    return made


@pytest.mark.parametrize("options", [{}, {"cache_projections": False}, {"max_bytes": 120_000}])
@pytest.mark.parametrize("labels", [(), ("red", "blue")])
def test_clouds_are_those_of_a_question_whatever_is_kept(options, labels):
    made, cloud = mapper(**options), PackedCloud()
    for step in range(3, 6):
        made.integrate(frame(1.0 + step, rgb=RED, stamp_ns=step))
        cloud.update(made.changes(cloud.step, labels), made.config.query.threshold)
        expected: Cloud = made.query(labels).cloud() if labels else made.rgb_cloud()
        assert cloud.missing == 0 and len(expected) == len(made.map) > 0
        np.testing.assert_array_equal(in_order(cloud.points()), in_order(pack(expected)))
    kept = made.view.nbytes + made.outline.nbytes
    assert cloud.step > 0 if kept else cloud.step == -1, "without a copy, all of it each time"
    assert made.nbytes == made.map.nbytes + kept <= options.get("max_bytes", 10**9)
    assert (kept > 0) == made.config.map.cache_projections or "max_bytes" in options


def test_a_live_cloud_shows_what_is_ready_and_says_that_more_will_come(monkeypatch):
    monkeypatch.setattr("radseg_ros.live_map.CLOUD_TIME", 0.0)
    made, cloud = mapper(voxel_size=0.05), PackedCloud()
    wide = np.full((120, 120), 2.0, np.float32)
    made.integrate(
        frame(wide, rgb=np.zeros((120, 120, 3), np.uint8), camera=np.diag([40.0, 40, 1]))
    )
    live = LiveMap(made.config)
    live.start(made)
    live._closing.set()  # nothing is made ahead
    sizes = []
    while not sizes or cloud.missing:
        sizes.append(len(live.show(cloud, ["red"])))
    assert sizes[0] == STEP_ROWS and sizes == sorted(sizes) and sizes[-1] == len(made.map)
    live.close()


def test_a_live_cloud_keeps_to_the_bounds_of_the_options():
    node = NodeConfig(cloud_max_points=50, cloud_radius=2.0)
    made, cloud = mapper(node, voxel_size=0.05), PackedCloud()
    made.integrate(frame(1.0, np.diag([1.0, 1, 1, 1]) + 0.0, rgb=RED))
    live = LiveMap(made.config)
    live.start(made)
    points = live.show(cloud)
    assert 0 < len(points) <= 50 < len(made.map)
    xyz = np.stack([points["x"], points["y"], points["z"]], 1) - made.map.camera
    assert np.linalg.norm(xyz, axis=1).max() <= 2.0
    live.close()


@pytest.mark.parametrize("limit", [-1.0, float("nan"), 3601.0, float("inf")])
def test_a_time_limit_has_bounds(limit):
    made = mapper()
    for ask in (lambda: made.query(["red"], time_limit=limit), lambda: made.changes(-1, (), limit)):
        with pytest.raises(InputError, match="a time limit is in 0..3600 s"):
            ask()


@pytest.mark.parametrize("keep", [True, False])
def test_a_question_with_a_time_limit_says_what_it_is_made_of(keep):
    made = mapper(voxel_size=0.05, cache_projections=keep)
    wide = np.full((120, 120), 2.0, np.float32)
    made.integrate(
        frame(wide, rgb=np.zeros((120, 120, 3), np.uint8), camera=np.diag([40.0, 40, 1]))
    )
    result = made.query(["red"], time_limit=0.0)
    assert result.covered == pytest.approx(STEP_ROWS / len(made.map)) and result.covered < 1
    assert len(result.geometry) == STEP_ROWS
    assert made.query(["red"]).covered == 1


def test_more_labels_than_there_is_memory_for_are_refused(monkeypatch):
    made = mapper()
    monkeypatch.setattr("radseg_ros.mapper.MAX_SCORES", 2 * len(made.map))
    assert made.changes(-1, ("red", "blue")).scores.shape == (len(made.map), 2)
    with pytest.raises(InputError, match="too many at once: ask for 2 at a time"):
        made.changes(-1, ("red", "blue", "green"))


def test_a_running_robot_renews_for_a_while_and_everybody_else_all_of_it(monkeypatch):
    made, renewals = mapper(), []
    follow_map = made.view.catch_up

    def watched(source, lock, deadline, renew):
        renewals.append(renew)
        return follow_map(source, lock, deadline, renew)

    monkeypatch.setattr(made.view, "catch_up", watched)
    live = LiveMap(made.config)
    live.start(made)
    live.close()  # nothing is made ahead
    renewals.clear()
    made.query(["red"])
    live.query(["red"])
    assert renewals == [float("inf"), RENEWAL]
