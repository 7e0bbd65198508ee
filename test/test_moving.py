# SPDX-License-Identifier: Apache-2.0
"""A map in another frame: every hit arrives, in the voxel in which the centre of its voxel lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import assert_same, make_map, pose, random_frame

from radseg_ros.datatypes import InputError
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.joining.moving import moved
from radseg_ros.voxels.voxel_map import VoxelMap


def world(seed: int = 0, frames: int = 3, **options) -> VoxelMap:
    made = make_map(0.2, 5, **options)
    for stamp in range(frames):
        made.integrate(*random_frame(np.random.default_rng(seed + stamp), stamp_ns=stamp))
    return made


def shift(x: float, y: float, z: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def slowly_moved(voxels: VoxelMap, T: np.ndarray) -> dict[tuple[int, ...], dict[str, np.ndarray]]:
    """One voxel at a time, sums in float64."""
    found: dict[tuple[int, ...], dict[str, np.ndarray]] = {}
    sums = voxels.table.sums(torch.arange(len(voxels))).double().numpy()
    for row, index in enumerate(voxels.table.coordinates().numpy()):
        centre = T[:3, :3] @ (index * 0.2) + T[:3, 3]
        key = tuple(np.floor(centre / 0.2 + 0.5 + 1e-6).astype(int).tolist())
        one = {name: voxels.table[name][row].numpy() for name in ("hits", "views", "rgb_sum")}
        one["vectors"] = sums[row]
        there = found.setdefault(key, {name: 0 * value for name, value in one.items()})
        for name, value in one.items():
            there[name] = there[name] + value
        for name, better in (("first_seen_ns", min), ("last_seen_ns", max)):
            stamp = int(voxels.table[name][row])
            there[name] = better(there.get(name, stamp), stamp)
    return found


@settings(max_examples=6)
@given(st.integers(0, 2**31), st.sampled_from(["float32", "float16"]))
def test_any_move_is_that_of_the_reference(seed, dtype):
    voxels, T = world(seed, frames=2, dtype=dtype), pose(np.random.default_rng(seed), 10.0)
    there, expected = moved(voxels, T), slowly_moved(voxels, T)
    assert int(there.table["hits"].sum()) == int(voxels.table["hits"].sum())
    keys = [tuple(index) for index in there.table.coordinates().tolist()]
    assert sorted(keys) == sorted(expected)
    sums = there.table.sums(torch.arange(len(there))).numpy()
    for row, key in enumerate(keys):
        for name in ("hits", "views", "first_seen_ns", "last_seen_ns"):
            assert int(there.table[name][row]) == int(expected[key][name]), name
        np.testing.assert_allclose(there.table["rgb_sum"][row], expected[key]["rgb_sum"])
        hits = int(expected[key]["hits"])
        tolerance = 1e-4 if dtype == "float32" else 5e-3 * hits
        np.testing.assert_allclose(sums[row], expected[key]["vectors"], atol=tolerance)
    assert there.last_stamp_ns == voxels.last_stamp_ns


def test_whole_voxels_and_quarter_turns_change_nothing_but_the_place():
    voxels = world()
    turn = np.array([[0.0, -1, 0, 0.4], [1, 0, 0, -0.6], [0, 0, 1, 2.0], [0, 0, 0, 1]])
    assert_same(moved(voxels, np.eye(4)).snapshot(), voxels.snapshot())
    there = moved(voxels, turn)
    assert len(there) == len(voxels)
    assert_same(moved(there, np.linalg.inv(turn)).snapshot(), voxels.snapshot())


def test_half_a_voxel_brings_no_two_together():
    voxels = world()
    assert len(moved(voxels, shift(0.1, 0.1, -0.1))) == len(voxels)


def test_a_moved_map_goes_on():
    voxels, T = world(frames=2), shift(2.0, 0, 0)
    there = moved(voxels, T)
    np.testing.assert_allclose(there.camera, np.add(voxels.camera, (2.0, 0, 0)))
    frame, features = random_frame(np.random.default_rng(9), stamp_ns=9)
    assert there.integrate(frame, features).points > 0 and there.last_stamp_ns == 9
    assert there.merge(voxels) > 0


def test_an_empty_map_can_be_moved():
    assert len(moved(make_map(), shift(1, 2, 3))) == 0


@pytest.mark.parametrize("T", [np.diag([2.0, 1, 1, 1]), shift(np.nan, 0, 0), shift(1e7, 0, 0)])
def test_moves_that_no_map_survives_are_refused(T):
    with pytest.raises(InputError, match="move"):
        moved(world(), T)


def test_the_way_of_the_camera_moves_along():
    way, T = CameraPath(), pose(np.random.default_rng(3))
    assert not way.z_up and not way.moved(T).positions
    looks_ahead = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    for x in range(3):
        way.add(shift(x, 0, 1) @ looks_ahead)
    assert way.z_up and way.moved(shift(1, 0, 0)).z_up
    there = way.moved(T)
    assert there.frames == 3
    np.testing.assert_allclose(there.positions[2], (T @ (2, 0, 1, 1))[:3], atol=1e-3)
    np.testing.assert_allclose(there.up, T[:3, :3] @ way.up)
    tipped = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert not way.moved(tipped).z_up
