# SPDX-License-Identifier: Apache-2.0
"""The map is exact: golden numbers, the ten-line reference, and the laws that a mean must obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from small_worlds import (
    DictionaryMap,
    assert_equal,
    assert_same,
    frame,
    host,
    make_map,
    pose,
    random_frame,
)

from radseg_ros.config import LiftConfig, MapConfig
from radseg_ros.datatypes import ConfigError, FeatureMap, Frame, InputError
from radseg_ros.voxels.voxel_map import VoxelMap

pytestmark = pytest.mark.usefixtures("device")


def observed(seed: int, **options):
    return random_frame(np.random.default_rng(seed), **options)


def mapped(observations, **options) -> VoxelMap:
    world = make_map(0.2, 5, **options)
    for one in observations:
        world.integrate(*one)
    return world


@pytest.fixture(scope="module")
def golden():
    return np.load(golden_file("voxel_map.npz"))


def golden_frames(golden):
    for i in range(len(golden["depth"])):
        yield (
            Frame(
                i,
                golden["rgb"][i].transpose(1, 2, 0),
                golden["depth"][i],
                golden["K"],
                golden["pose"][i],
            ),
            FeatureMap(torch.tensor(golden["feat"][i])),
        )


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_golden_map(golden, order):
    world = make_map(float(golden["voxel_size"]), 24)
    for one in list(golden_frames(golden))[order]:
        world.integrate(*one)
    snapshot = world.snapshot()
    row = {tuple(index): i for i, index in enumerate(snapshot.index.tolist())}
    assert row.keys() == {tuple(index) for index in golden["voxel_index"].tolist()}
    rows = [row[tuple(index)] for index in golden["voxel_index"].tolist()]
    hits, features, colors = (
        host(values)[rows] for values in (snapshot.hits, snapshot.features, snapshot.rgb)
    )
    np.testing.assert_array_equal(hits, golden["voxel_hits"])
    np.testing.assert_allclose(features, golden["voxel_feat"], atol=1e-5)
    np.testing.assert_allclose(colors, golden["voxel_rgb"], atol=1e-6)
    centres = host(snapshot.index) * float(golden["voxel_size"])
    np.testing.assert_allclose(host(snapshot.xyz), centres, atol=1e-6)


finite_or_not = st.floats(0.25, 4.0, width=32) | st.sampled_from(
    np.float32([0.0, -1.0, np.nan, np.inf, -np.inf, 1e-30, 1e6, 3e38]).tolist()
)
shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))


@st.composite
def observations(draw):
    """A frame with any depth from a random pose, maybe far away, and its features."""
    hw, feature_hw, seed = draw(shapes), draw(shapes), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    depth = draw(arrays.arrays(np.float32, hw, elements=finite_or_not))
    T = pose(rng, shift=draw(st.sampled_from([0.0, 1.0, 1000.0, 1e5, 1e7])))
    camera = np.array(
        [
            [rng.uniform(1, 9), rng.normal(), rng.normal()],
            [0, rng.uniform(1, 9), rng.normal()],
            [0, 0, 1],
        ]
    )
    rgb = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
    rgb = rgb if draw(st.booleans()) else (rgb / 255).astype(np.float32)
    return frame(depth, T, rgb, camera=camera), FeatureMap(
        torch.tensor(rng.normal(size=(3, *feature_hw)), dtype=torch.float32)
    )


@settings(max_examples=60)
@given(st.lists(observations(), max_size=3), st.sampled_from([0.05, 0.31, 2.0]))
def test_any_frames_make_the_map_of_the_reference(frames, voxel_size):
    world, reference = make_map(voxel_size, 3), DictionaryMap(voxel_size)
    dropped = points = 0
    for one in frames:
        stats = world.integrate(*one)
        assert stats.points + sum(stats.dropped.values()) == one[0].depth.size
        reference.integrate(*one)
        dropped, points = dropped + stats.dropped["out_of_range"], points + stats.points
    limit = 2**20 - 1
    reached = {index: row for index, row in reference.sums.items() if max(map(abs, index)) < limit}
    assert dropped == round(
        sum(row[0] for row in reference.sums.values()) - sum(row[0] for row in reached.values())
    )
    assert points == round(sum(row[0] for row in reached.values()))
    reference.sums = reached
    assert_equal(world.snapshot(), reference)


def test_frame_order_does_not_matter():
    frames = [observed(seed, stamp_ns=seed) for seed in range(5)]
    a, b = mapped(frames), mapped(frames[::-1])
    assert_same(a.snapshot(), b.snapshot())
    by_key = [world.table["key"].argsort() for world in (a, b)]
    for name in ("first_seen_ns", "last_seen_ns", "hits", "views"):
        assert torch.equal(
            *(world.table[name][order] for world, order in zip((a, b), by_key, strict=True))
        )
    assert a.last_stamp_ns == b.last_stamp_ns == 4


def test_two_halves_are_one_batch():
    (whole, features) = observed(3)
    halves = []
    for rows in (slice(0, 5), slice(5, 12)):
        depth = np.zeros_like(whole.depth)
        depth[rows] = whole.depth[rows]
        halves.append((Frame(0, whole.rgb, depth, whole.K, whole.T_world_camera), features))
    assert_same(mapped([(whole, features)]).snapshot(), mapped(halves).snapshot())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_merging_maps_is_mapping_all_frames(dtype):
    frames = [observed(seed, stamp_ns=seed) for seed in range(6)]
    merged, other, whole = (mapped(part, dtype=dtype) for part in (frames[:3], frames[3:], frames))
    new = merged.merge(other)
    assert len(merged) == len(whole) and new == len(whole) - len(mapped(frames[:3]))
    assert_same(merged.snapshot(), whole.snapshot(), 1e-5 if dtype == "float32" else 1e-2)
    assert merged.last_stamp_ns == 5 and merged.table["first_seen_ns"].min() == 0


def test_merging_into_an_empty_map_and_an_empty_map():
    world = mapped([observed(0)])
    empty = make_map(0.2, 5)
    assert world.merge(empty) == 0 and empty.merge(world) == len(world)
    assert_same(world.snapshot(), empty.snapshot())


@pytest.mark.parametrize(
    "other", [make_map(0.1, 5), make_map(0.2, 4), make_map(0.2, 5, space="language")]
)
def test_maps_that_mean_other_things_are_not_merged(other):
    with pytest.raises(InputError):
        mapped([observed(0)]).merge(other)


def test_a_map_is_not_merged_with_itself():
    world = mapped([observed(0)])
    with pytest.raises(InputError):
        world.merge(world)


def test_float16_is_off_by_no_more_than_its_bound():
    rng = np.random.default_rng(0)
    frames = 40
    exact, half = make_map(0.2, 5), make_map(0.2, 5, dtype="float16")
    for _ in range(frames):
        one = random_frame(rng, shift=0.05)
        exact.integrate(*one)
        half.integrate(*one)
    a, b = exact.snapshot(), half.snapshot()
    assert (
        torch.equal(a.index, b.index) and torch.equal(a.hits, b.hits) and torch.equal(a.rgb, b.rgb)
    )
    largest = 6.0  # no mean of these normal deviates is larger
    assert exact.snapshot().features.abs().max() < largest
    error = (a.features - b.features).abs().max()
    assert 0 < error <= frames * 2**-11 * largest
    assert half.table.vectors.nbytes * 2 == exact.table.vectors.nbytes


def test_float16_saturates_instead_of_overflowing():
    world = make_map(0.2, 5, dtype="float16")
    world.integrate(frame(2.0), FeatureMap(torch.full((5, 1, 1), 1e6)))
    assert (world.snapshot().features == 65504).all()


def test_one_more_point_counts_even_after_many():
    world = make_map(0.2, 5)
    world.integrate(*observed(0))
    world.table["hits"].fill_(2**24)  # where float32 stops counting
    world.integrate(*observed(0))
    assert (world.table["hits"] > 2**24).all()


def test_statistics():
    world = make_map(0.2, 5)
    first, again = (world.integrate(*observed(0, stamp_ns=stamp)) for stamp in (7, 9))
    assert (
        first.voxels == first.new_voxels == len(world)
        and again.new_voxels == 0
        and again.voxels == first.voxels
    )
    assert first.points == again.points and first.points + sum(first.dropped.values()) == 12 * 16
    assert (world.table["first_seen_ns"] == 7).all() and (world.table["last_seen_ns"] == 9).all()


def test_an_empty_frame_changes_nothing_but_the_clock():
    world = mapped([observed(0, stamp_ns=5)])
    before = world.snapshot()
    stats = world.integrate(frame(np.nan, stamp_ns=8), observed(0)[1])
    assert stats.points == stats.voxels == 0 and world.last_stamp_ns == 8
    assert_same(before, world.snapshot())


def test_an_empty_map_answers():
    world = make_map(0.05, 5)
    snapshot = world.snapshot()
    assert len(snapshot) == len(world.geometry()) == 0 and snapshot.features.shape == (0, 5)
    assert list(world.means()) == []
    assert world.clear_box((0, 0, 0), (1, 1, 1)) == 0


def test_snapshots_are_copies():
    world = mapped([observed(0)])
    snapshot = world.snapshot()
    kept = [
        host(getattr(snapshot, name)).copy()
        for name in ("index", "rgb", "features", "hits", "last_seen_ns")
    ]
    world.integrate(*observed(0, stamp_ns=3))
    world.clear_box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
    for name, values in zip(
        ("index", "rgb", "features", "hits", "last_seen_ns"), kept, strict=True
    ):
        np.testing.assert_array_equal(host(getattr(snapshot, name)), values)


def test_geometry_is_the_snapshot_without_vectors():
    world = mapped([observed(0)])
    geometry, snapshot = world.geometry(), world.snapshot()
    assert len(geometry) == len(world) and not hasattr(geometry, "features")
    for name in ("index", "xyz", "rgb", "hits", "views", "first_seen_ns", "last_seen_ns"):
        assert torch.equal(getattr(geometry, name), getattr(snapshot, name))


def test_features_that_do_not_fit_are_refused_and_leave_the_map_alone():
    world = mapped([observed(0)])
    before = world.snapshot()
    bad = torch.zeros(5, 3, 4)
    bad[2, 1, 1] = torch.nan
    for features in (torch.zeros(4, 3, 4), bad, torch.full((5, 3, 4), torch.inf)):
        with pytest.raises(InputError):
            world.integrate(observed(1)[0], FeatureMap(features))
    assert_same(before, world.snapshot(), 0)


def test_half_precision_and_gradients_of_the_encoder_do_not_matter():
    one, features = observed(0)
    exact = mapped([(one, features)])
    assert_same(
        mapped([(one, FeatureMap(features.data.clone().requires_grad_()))]).snapshot(),
        exact.snapshot(),
    )
    assert_same(
        mapped([(one, FeatureMap(features.data.half()))]).snapshot(), exact.snapshot(), 2e-3
    )
    with torch.inference_mode():
        world = mapped([(one, features)])
    world.integrate(*observed(1))  # what was made in inference mode can still be written to
    assert not world.snapshot().features.is_inference()


def test_options_are_those_of_the_configuration():
    config = MapConfig(voxel_size=0.1, dtype="float16", max_voxels=7, device="cpu")
    world = VoxelMap(4, config, LiftConfig(border=1))
    assert world.config == config and world.lift.border == 1 and world.channels == 4
    for wrong in ({"dtype": "int8"}, {"voxel_size": -1.0}, {"device": "abacus"}):
        with pytest.raises(ConfigError):
            make_map(**wrong) if "device" not in wrong else VoxelMap(4, MapConfig(**wrong))
    with pytest.raises(InputError):
        make_map(0.1, 0)


def test_growing_over_many_blocks_keeps_every_row(monkeypatch):
    from radseg_ros.voxels import table as voxel_table

    expected = mapped([observed(seed, shift=5.0) for seed in range(8)]).snapshot()
    monkeypatch.setattr(voxel_table, "_BLOCK_ROWS", {"cpu": 32, "cuda": 32})
    world = mapped([observed(seed, shift=5.0) for seed in range(8)])
    assert len(world.table.vectors.blocks) > 20
    assert_same(world.snapshot(), expected)
