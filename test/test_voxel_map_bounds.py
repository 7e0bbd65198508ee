# SPDX-License-Identifier: Apache-2.0
"""The map is bounded: removing, forgetting, evicting, carving; the index stays right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import assert_same, frame, make_map, pose, random_frame, rows

from radseg_ros.datatypes import FeatureMap
from radseg_ros.voxels.carving import depth_beyond, seen_through, spheres_in_view
from radseg_ros.voxels.index import COORDINATE_LIMIT, VoxelIndex, pack, unpack, valid_keys
from radseg_ros.voxels.voxel_map import VoxelMap

pytestmark = pytest.mark.usefixtures("device")
ONE = FeatureMap(torch.ones(5, 1, 1))


def check(world: VoxelMap) -> None:
    """The invariants of the table: every key is found at its row, hits are positive."""
    key = world.table["key"]
    assert world.table.index.find(key).tolist() == list(range(len(world)))
    assert len(key.unique()) == len(key) and bool((world.table["hits"] > 0).all())


def remove_outside(world: VoxelMap, centre, radius: float) -> int:
    """Remove the voxels farther than ``radius`` metres from ``centre``."""
    xyz = world.geometry().xyz.double()
    return world.table.remove((xyz - torch.tensor(centre, device=xyz.device)).norm(dim=1) > radius)


def explored(frames: int = 6, **options) -> VoxelMap:
    """A map of frames taken along a line, 10 m apart, a second apart."""
    world, rng = make_map(0.2, 5, **options), np.random.default_rng(0)
    for step in range(frames):
        one, features = random_frame(rng, shift=0.0, stamp_ns=step * 10**9)
        one.T_world_camera[0, 3] = 10 * step
        world.integrate(one, features)
        check(world)
    return world


def without(snapshot, gone) -> dict:
    return {
        index: row
        for (index, row), lost in zip(rows(snapshot).items(), gone.tolist(), strict=True)
        if not lost
    }


def test_clearing_a_box_removes_what_is_in_it_and_nothing_else():
    world = explored()
    before = world.snapshot()
    xyz = before.xyz.cpu()
    inside = ((xyz >= torch.tensor([5.0, -9, -9])) & (xyz <= torch.tensor([25.0, 9, 9]))).all(1)
    assert world.clear_box((5, -9, -9), (25, 9, 9)) == int(inside.sum()) > 0
    check(world)
    after, expected = rows(world.snapshot()), without(before, inside)
    assert after.keys() == expected.keys() and all(
        (after[index] == expected[index]).all() for index in expected
    )


def test_clearing_outside_a_radius():
    world = explored()
    before = world.snapshot()
    outside = (before.xyz.cpu() - torch.tensor([20.0, 0, 0])).norm(dim=1) > 7
    assert remove_outside(world, (20, 0, 0), 7) == int(outside.sum()) > 0
    check(world)
    assert rows(world.snapshot()).keys() == without(before, outside).keys()


def test_clearing_everything_and_going_on():
    world = explored()
    remove_outside(world, (0, 0, 0), 0.0)
    assert len(world) == 0
    world.clear()
    fresh, again = explored(2), make_map(0.2, 5)
    again.merge(fresh)
    remove_outside(again, (0, 0, 0), 0.0)
    again.merge(fresh)
    assert_same(again.snapshot(), fresh.snapshot(), 0)


def test_old_voxels_are_forgotten():
    world = explored(6, forget_after=2.5)
    assert world.table["last_seen_ns"].min() == 3 * 10**9
    late = frame(np.nan, stamp_ns=60 * 10**9)
    known = len(world)
    assert world.integrate(late, ONE).forgotten == known and len(world) == 0


@pytest.mark.parametrize("evict", ["least_recent", "farthest"])
def test_a_full_map_gives_up_its_least_useful_voxels(evict):
    free = explored(6)
    most = len(free) * 2 // 3
    world = explored(6, max_voxels=most, evict=evict)
    assert most * 0.9 < len(world) <= most
    kept = rows(world.snapshot())
    full = rows(free.snapshot())
    assert all((kept[index] == full[index]).all() for index in kept)  # what stays is whole
    lost = [index[0] * 0.2 for index in full.keys() - kept.keys()]
    assert (
        max(lost) < min(index[0] for index in kept) * 0.2 + 6
    )  # both rules give up the beginning of the line


def test_recently_seen_voxels_outlive_near_ones():
    world = make_map(0.2, 5, max_voxels=20)
    wall = np.full((1, 16), 2.0, np.float32)
    old_near, new_far = frame(wall, stamp_ns=1), frame(wall * 10, stamp_ns=2)
    world.integrate(old_near, ONE)
    stats = world.integrate(new_far, ONE)
    assert stats.evicted > 0 and (world.table.coordinates()[:, 2] == 100).sum() == 16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("channels", [5, 300])
def test_bytes_are_bounded_while_voxels_come(dtype, channels):
    world = make_map(0.05, channels, dtype=dtype, max_bytes=400_000)
    rng, evicted, most = np.random.default_rng(0), 0, 0
    for step in range(12):
        one, features = random_frame(rng, shift=3.0, channels=channels, stamp_ns=step)
        evicted += world.integrate(one, features).evicted
        assert world.nbytes <= 400_000
        check(world)
        most = max(most, len(world))
    assert evicted > 0 and most > 60


def test_the_reported_bytes_are_those_of_the_tensors():
    world = explored()
    table = world.table
    tensors = [
        *table.vectors.blocks,
        *(column._storage for column in table._columns.values()),
    ]
    tensors += [table.index._bricks, table.index._begins, table.index._table._storage]
    assert world.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)


# ---- carving -------------------------------------------------------------------------------------


def test_a_thing_that_left_is_carved_after_as_many_frames_as_asked():
    world = make_map(0.2, 5, carve_after=3)
    world.integrate(frame(1.0), ONE)
    thing = len(world)
    counts = [world.integrate(frame(4.0, stamp_ns=step), ONE).carved for step in range(4)]
    assert counts[:2] == [0, 0] and 0.5 * thing < sum(counts) <= thing
    check(world)
    # What is left of it is at the rim, where no full 3 x 3 neighbourhood looks through it.
    assert (world.table.coordinates()[:, 2] == 20).sum() >= 16


def test_nothing_is_carved_by_default_nor_within_the_margin_nor_without_depth():
    for options, depth in (
        ({}, 4.0),
        ({"carve_after": 1}, 1.1),
        ({"carve_after": 1}, np.nan),
        ({"carve_after": 1}, np.inf),
    ):
        world = make_map(0.2, 5, **options)
        world.integrate(frame(1.0), ONE)
        known = rows(world.snapshot()).keys()
        stats = world.integrate(frame(np.full((12, 16), depth, np.float32)), ONE)
        assert stats.carved == 0 and known <= rows(world.snapshot()).keys()


def test_a_voxel_that_is_hit_again_starts_from_zero():
    world = make_map(0.2, 5, carve_after=2)
    for depth in (1.0, 4.0, 1.0, 4.0, 1.0):
        assert world.integrate(frame(depth), ONE).carved == 0


def test_looks_past_the_image_and_behind_the_camera_count_for_nothing():
    xyz = torch.tensor([[0.0, 0, 1], [0, 0, -1], [50, 0, 1], [0, 0, 5], [0, 0, 3.9]])
    assert seen_through(xyz, frame(4.0), 0.15).tolist() == [True, False, False, False, False]


@given(seed=st.integers(0, 2**31), side=st.sampled_from([0.0, 0.05, 0.4, 3.0]))
@settings(max_examples=30)
def test_the_nearest_of_nine_pixels_says_how_far_the_view_goes_on(seed, side):
    """Against each point looked at on its own."""
    rng = np.random.default_rng(seed)
    observed, _ = random_frame(rng, shift=0.2)
    height, width = observed.depth.shape
    points = rng.normal(size=(60, 3)) * 2
    found = depth_beyond(torch.tensor(points), observed, side).numpy()
    inverse = np.linalg.inv(observed.T_world_camera)
    for point, beyond in zip(points, found, strict=True):
        x, y, z = inverse[:3, :3] @ point + inverse[:3, 3]
        u, v = (np.round(observed.K[0, 0] * c / z + c0) for c, c0 in ((x, 7.5), (y, 5.5)))
        if z <= 0 or not (0 <= u < width and 0 <= v < height):
            assert np.isnan(beyond)
            continue
        step = max(1, round(observed.K[0, 0] * side / 2 / z))
        depths = [
            observed.depth[int(np.clip(v + dv, 0, height - 1)), int(np.clip(u + du, 0, width - 1))]
            for dv in (-step, 0, step)
            for du in (-step, 0, step)
        ]
        if all(np.isfinite(d) and d > 0 for d in depths):
            assert beyond == pytest.approx(min(depths) - z, abs=1e-6)
        else:
            assert np.isnan(beyond)


@given(st.integers(0, 2**31))
@settings(max_examples=30)
def test_no_sphere_that_reaches_into_the_image_is_missed(seed):
    rng = np.random.default_rng(seed)
    one, _ = random_frame(rng)
    points = torch.tensor(rng.normal(size=(300, 3)) * 3)
    visible = seen_through(points, frame(np.full((12, 16), 1e6), one.T_world_camera), 0.0)
    centres = points + torch.tensor(rng.normal(size=(300, 3))) * 0.1
    near = (centres - points).norm(dim=1) < 0.3
    assert spheres_in_view(centres, 0.3, one)[visible & near].all()


# ---- index ---------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(*[st.integers(-COORDINATE_LIMIT + 1, COORDINATE_LIMIT - 1)] * 3),
        min_size=1,
        max_size=30,
        unique=True,
    )
)
@settings(max_examples=50)
def test_keys_are_reversible_and_ordered(coordinates):
    index = torch.tensor(sorted(coordinates))
    key = pack(index.T.double())
    assert (
        torch.equal(unpack(key), index)
        and bool(valid_keys(key).all())
        and bool((key.diff() > 0).all())
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["assign", "remove", "trim"]), st.integers(0, 2**31)), max_size=12
    )
)
@settings(max_examples=40)
def test_the_index_is_a_dictionary(steps):
    index, reference = VoxelIndex(), {}
    for what, seed in steps:
        rng = np.random.default_rng(seed)
        keys = pack(
            torch.tensor(rng.integers(-20, 20, (40, 3)).T * rng.choice([1, 9000])).double()
        ).unique()
        if what == "trim":
            index.trim()
            continue
        slots = (
            torch.tensor(rng.integers(0, 1000, len(keys)))
            if what == "assign"
            else torch.full_like(keys, -1)
        )
        index.assign(keys, slots)
        reference.update(zip(keys.tolist(), slots.tolist(), strict=True))
        probe = torch.cat([keys, keys + 1, torch.tensor(list(reference))])
        assert index.find(probe).tolist() == [reference.get(key, -1) for key in probe.tolist()]
    index.trim()
    assert index.find(torch.tensor(list(reference), dtype=torch.int64)).tolist() == list(
        reference.values()
    )


def test_bricks_are_eight_voxels_wide_and_hold_all_of_theirs():
    side = torch.arange(-7, 9)  # two bricks: the first key of all begins one
    grid = torch.cartesian_prod(side, side, side)
    index = VoxelIndex()
    index.assign(pack(grid.T), torch.arange(len(grid)))
    corners = torch.cartesian_prod(*[torch.tensor([-7, 1])] * 3)
    assert torch.equal(index.brick_corner, corners)
    for number, corner in enumerate(corners):
        slots = index.slots_in(torch.arange(8) == number)
        mine = ((grid >= corner) & (grid < corner + 8)).all(1).nonzero()[:, 0]
        assert torch.equal(slots.sort().values, mine)
    assert valid_keys(torch.tensor([-1, 0, 2**63 - 1])).tolist() == [False] * 3


def test_a_moving_window_does_not_leak_bricks():
    world, sizes = make_map(0.05, 5), []
    rng = np.random.default_rng(0)
    for step in range(60):
        one, features = random_frame(rng, shift=0.0)
        one.T_world_camera[0, 3] = 5.0 * step
        world.integrate(one, features)
        remove_outside(world, (5.0 * step, 0, 0), 4.0)
        sizes.append(world.table.index.nbytes)
    most = {"cpu": 6, "cuda": 20}[world.device.type] * 10**6  # a GPU's index is trimmed more rarely
    assert len(world) < 500 and sizes[-1] < most
    check(world)


# ---- borders of what is in view ------------------------------------------------------------------


def test_a_point_is_looked_through_where_it_falls_on_a_pixel_and_nowhere_else():
    observed = frame(0.75)
    height, width = observed.depth.shape
    pixels = [(u, v) for v in range(-2, height + 2) for u in range(-2, width + 2)]
    rays = torch.tensor([[u, v, 1.0] for u, v in pixels], dtype=torch.float64)
    points = 0.5 * rays @ torch.tensor(np.linalg.inv(observed.K)).T
    found = seen_through(points, observed, 0.1)
    assert found.tolist() == [0 <= u < width and 0 <= v < height for u, v in pixels]
    assert not seen_through(points, observed, 0.25).any(), "the margin itself is not enough"


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom", "camera"])
def test_a_sphere_beside_the_image_is_not_in_view(side):
    observed, radius = frame(1.0), 0.3
    height, width = observed.depth.shape
    u, v = {  # on the edge of the image: a border pixel is half a pixel wider than its centre
        "left": (-0.5, height / 2),
        "right": (width - 0.5, height / 2),
        "top": (width / 2, -0.5),
        "bottom": (width / 2, height - 0.5),
        "camera": (0, 0),
    }[side]
    x, y, _ = edge = 2.0 * np.linalg.inv(observed.K) @ [u, v, 1]
    outward = {
        "left": (-2, 0, x),
        "right": (2, 0, -x),
        "top": (0, -2, y),
        "bottom": (0, 2, -y),
        "camera": (0, 0, -1),
    }[side]
    outward = np.array(outward) / np.linalg.norm(outward)
    edge = np.zeros(3) if side == "camera" else edge
    centres = torch.tensor(np.array([edge + outward * radius * f for f in (0.99, 1.01)]))
    assert spheres_in_view(centres, radius, observed).tolist() == [True, False]


# ---- borders of what is removed ------------------------------------------------------------------


def test_a_box_holds_what_lies_on_its_border():
    world = make_map(0.25, 5)
    world.integrate(*random_frame(np.random.default_rng(0)))
    for centre in (world.table.coordinates() * 0.25).tolist():
        assert world.clear_box(centre, centre) == 1
    assert len(world) == 0


def test_a_voxel_is_forgotten_when_it_is_older_than_allowed():
    assert explored(6, forget_after=2.0).table["last_seen_ns"].min() == 3 * 10**9
    stats = make_map(0.2, 5).integrate(*random_frame(np.random.default_rng(0)))
    assert (stats.carved, stats.forgotten, stats.evicted) == (0, 0, 0)


def test_a_map_may_take_all_that_it_is_allowed():
    world = explored(6)
    world.table.trim()
    exact, known = world.table.nbytes, len(world)
    assert world.nbytes == exact
    world.config = replace(world.config, max_bytes=exact)
    assert world.integrate(frame(np.nan), ONE).evicted == 0 and len(world) == known
    assert world.room_for(0) and not world.room_for(1)
    world.config = replace(world.config, max_bytes=exact - 1)
    assert 0 < world.integrate(frame(np.nan), ONE).evicted < known / 4
    assert exact / 2 < world.table.nbytes < exact
    world.config = replace(world.config, max_bytes=0)
    assert world.room_for(10**15)
    world.config = replace(world.config, cache_projections=False)
    assert not world.room_for(0)


def test_a_full_map_gives_up_a_part_that_makes_it_rare():
    world = explored(6)
    known = len(world)
    world.config = replace(world.config, max_voxels=known)
    assert world.integrate(frame(np.nan), ONE).evicted == 0
    world.config = replace(world.config, max_voxels=known - 1)
    most = known - 1
    assert world.integrate(frame(np.nan), ONE).evicted == known - (most - most // 16)


@pytest.mark.parametrize("seed", range(4))
def test_looks_are_those_of_every_voxel_whatever_brick_it_is_in(seed):
    """Only bricks in view are looked at: none that is partly in view is missed."""
    rng = np.random.default_rng(seed)
    world = make_map(0.1, 5, carve_after=1000)
    for step in range(6):
        world.integrate(*random_frame(rng, shift=0.3, stamp_ns=step))
    for stamp_ns in range(10, 30):
        looking, known = frame(6.0, pose(rng, 0.3), stamp_ns=stamp_ns), len(world)
        xyz, before = world.table.coordinates() * 0.1, world.table["seen_through"].clone()
        world.integrate(looking, ONE)
        missed = world.table["last_seen_ns"][:known] != stamp_ns
        expected = before + seen_through(xyz, looking, world.config.carve_margin).int()
        assert torch.equal(world.table["seen_through"][:known][missed], expected[missed])
    assert world.table["seen_through"].sum() > 100
