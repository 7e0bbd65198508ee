# SPDX-License-Identifier: Apache-2.0
"""The lift: sparse weights equal to interpolating every pixel, and every reason to drop one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_worlds import (
    DictionaryMap,
    K,
    frame,
    here,
    index_of,
    pose,
    random_frame,
    weights_of,
)

from radseg_ros.config import LiftConfig
from radseg_ros.datatypes import FeatureMap, InputError
from radseg_ros.voxels.index import COORDINATE_LIMIT
from radseg_ros.voxels.lifting import runs as pixel_runs
from radseg_ros.voxels.lifting.by_sorting import SortingLift
from radseg_ros.voxels.lifting.lift import lift as by_runs


def by_sorting(frame, feature_hw, voxel_size, config, device):
    return SortingLift(voxel_size, device)(frame, feature_hw, config)


WAYS = {"runs": by_runs, "sorting": by_sorting}
way_under_test = "runs"


@pytest.fixture(autouse=True, params=WAYS)
def way(request, monkeypatch, device):
    """Every test is of both ways, that of processors and that of GPUs, on each device."""
    monkeypatch.setitem(globals(), "way_under_test", request.param)
    return request.param


def lift(frame, feature_hw, voxel_size, config=None):
    """By the way and on the device under test, copied to the host."""
    lifted = WAYS[way_under_test](frame, feature_hw, voxel_size, config, here())
    names = ("key", "hits", "rgb_sum", "row_start", "patch", "weight")
    return replace(lifted, **{name: getattr(lifted, name).cpu() for name in names})


def total(lifted, features: FeatureMap) -> dict[tuple[int, ...], np.ndarray]:
    """Voxel -> hits, colour sums, feature sums."""
    patches = features.data.reshape(features.channels, -1).T.contiguous()
    values = torch.cat(
        [lifted.hits[:, None].double(), lifted.rgb_sum, lifted.feature_sums(patches).double()], 1
    )
    return {
        tuple(index): row.numpy()
        for index, row in zip(index_of(lifted).tolist(), values, strict=True)
    }


def test_a_wall_has_one_depth():
    lifted = lift(frame(2.0), (3, 4), 0.05)
    assert (index_of(lifted)[:, 2] == 40).all()
    assert int(lifted.hits.sum()) == 12 * 16
    assert lifted.dropped == {"no_return": 0, "out_of_range": 0}


@pytest.mark.parametrize("feature_hw", [(3, 4), (1, 1), (1, 4), (3, 1), (12, 16), (24, 20), (5, 7)])
@pytest.mark.parametrize("voxel_size", [0.05, 0.7])
def test_sums_are_those_of_interpolating_every_pixel(feature_hw, voxel_size):
    rng = np.random.default_rng(sum(feature_hw))
    observed, features = random_frame(rng, feature_hw=feature_hw)
    reference = DictionaryMap(voxel_size)
    reference.integrate(observed, features)
    found = total(lift(observed, feature_hw, voxel_size), features)
    assert found.keys() - reference.doubtful == reference.sums.keys() - reference.doubtful
    for index in found.keys() - reference.doubtful:
        np.testing.assert_allclose(found[index], reference.sums[index], atol=2e-5)


def test_weights_are_a_sparse_matrix_whose_rows_sum_to_the_hits():
    observed, features = random_frame(np.random.default_rng(1))
    lifted = lift(observed, (3, 4), 0.3)
    dense = weights_of(lifted)
    np.testing.assert_allclose(dense.sum(1), lifted.hits, rtol=1e-6)
    patches = features.data.reshape(5, -1).T.contiguous()
    np.testing.assert_allclose(dense @ patches, lifted.feature_sums(patches), atol=1e-5)
    np.testing.assert_allclose(
        lifted.feature_sums(patches)[2:5], lifted.feature_sums(patches, 2, 5)
    )
    assert lifted.feature_sums(patches, 3, 3).shape == (0, 5)


def test_another_order_of_the_voxels():
    observed, features = random_frame(np.random.default_rng(2))
    lifted = lift(observed, (3, 4), 0.3)
    order = torch.randperm(len(lifted.key), generator=torch.Generator().manual_seed(0))
    again = lifted.reordered(order)
    before, after = total(lifted, features), total(again, features)
    assert torch.equal(again.key, lifted.key[order]) and before.keys() == after.keys()
    for index, row in before.items():
        np.testing.assert_allclose(row, after[index], atol=1e-6)


@pytest.mark.parametrize("band", [1, 16, 40, 10_000])
def test_bands_do_not_change_the_result(band, monkeypatch):
    observed, features = random_frame(np.random.default_rng(3))
    expected = total(lift(observed, (3, 4), 0.2), features)
    monkeypatch.setattr(pixel_runs, "BAND_PIXELS", band)
    found = total(lift(observed, (3, 4), 0.2), features)
    assert found.keys() == expected.keys()
    for index, row in expected.items():
        np.testing.assert_allclose(found[index], row, atol=1e-5)


def test_color_of_another_size_is_interpolated_at_the_depth_pixels():
    rng = np.random.default_rng(4)
    rgb = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    lifted = lift(frame(2.0, rgb=rgb), (3, 4), 10.0)  # one voxel
    planes = torch.tensor(rgb).permute(2, 0, 1)[None].double() / 255
    expected = torch.nn.functional.interpolate(
        planes, (12, 16), mode="bilinear", align_corners=False
    ).sum((0, 2, 3))
    np.testing.assert_allclose(lifted.rgb_sum.sum(0), expected, rtol=1e-5)


def test_float_and_byte_colors_mean_the_same():
    rgb = np.random.default_rng(5).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    a, b = (
        lift(frame(2.0, rgb=image), (1, 1), 0.1).rgb_sum
        for image in (rgb, (rgb / 255).astype(np.float32))
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_no_return_is_dropped_and_counted():
    depth = np.full((12, 16), 2.0, np.float32)
    depth.flat[:5] = [0, -1, np.nan, np.inf, -np.inf]
    lifted = lift(frame(depth), (3, 4), 0.05)
    assert int(lifted.hits.sum()) == 12 * 16 - 5 and lifted.dropped["no_return"] == 5


def test_range_keeps_its_limits():
    depth = np.tile(np.linspace(0.5, 2.0, 16, dtype=np.float32), (12, 1))
    lifted = lift(
        frame(depth),
        (3, 4),
        0.05,
        LiftConfig(min_range=float(depth[0, 3]), max_range=float(depth[0, 9])),
    )
    assert int(lifted.hits.sum()) == 12 * 7 and lifted.dropped["range"] == 12 * 9


def test_stride_and_border_choose_pixels_but_not_geometry():
    depth = np.random.default_rng(6).uniform(1, 2, (12, 16)).astype(np.float32)
    masked = np.zeros_like(depth)
    masked[2:-2:3, 2:-2:3] = depth[2:-2:3, 2:-2:3]
    features = FeatureMap(torch.randn(5, 3, 4))
    chosen = total(lift(frame(depth), (3, 4), 0.05, LiftConfig(pixel_stride=3, border=2)), features)
    expected = total(lift(frame(masked), (3, 4), 0.05), features)
    assert chosen.keys() == expected.keys()
    for index, row in expected.items():
        np.testing.assert_allclose(chosen[index], row, atol=1e-6)


def test_flying_pixels_are_dropped_on_both_sides_of_a_jump():
    depth = np.full((12, 16), 2.0, np.float32)
    depth[:, 8:] = 2.1  # 5 %
    depth[0, 0] = 0  # a hole is no jump
    assert lift(frame(depth), (3, 4), 0.05, LiftConfig(depth_edge=0.06)).dropped["depth_edge"] == 0
    lifted = lift(frame(depth), (3, 4), 0.05, LiftConfig(depth_edge=0.04))
    assert lifted.dropped == {"no_return": 1, "depth_edge": 24, "out_of_range": 0}
    assert int(lifted.hits.sum()) == 12 * 16 - 1 - 24


def test_clip_box():
    observed = frame(2.0, np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    config = LiftConfig(clip_min=[5.0, -100.0, 0.0], clip_max=[100.0, 100.0, 2.0])
    lifted = lift(observed, (3, 4), 0.05, config)
    assert lifted.dropped["clip"] == 12 * 8 and (index_of(lifted)[:, 0] >= 100).all()
    assert int(lifted.hits.sum()) == 12 * 8


@pytest.mark.parametrize("far", [1e5, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_points_beyond_the_keys_are_dropped_and_counted_never_wrapped(far, sign):
    T = np.diag([sign, sign, 1.0, 1.0])
    depth = np.full((12, 16), 2.0, np.float32)
    depth[3, 5] = depth[7, 15] = far
    lifted = lift(frame(depth, T), (3, 4), 0.05)
    assert lifted.dropped["out_of_range"] == 2 and int(lifted.hits.sum()) == 12 * 16 - 2
    assert (index_of(lifted)[:, 2] == 40).all()


def test_a_camera_beyond_the_keys_sees_nothing():
    T = np.eye(4)
    T[0, 3] = 1e9
    lifted = lift(frame(2.0, T), (3, 4), 0.05)
    assert len(lifted.key) == 0 and lifted.dropped["out_of_range"] == 12 * 16


@pytest.mark.parametrize("centre", [0.0, 52_000.0, -52_000.0])
def test_coordinates_are_exact_far_from_the_origin(centre):
    T = np.eye(4)
    T[:3, 3] = [centre, -centre, 0]
    near, moved = lift(frame(2.0), (3, 4), 0.05), lift(frame(2.0, T), (3, 4), 0.05)
    shift = torch.tensor([round(centre / 0.05), round(-centre / 0.05), 0])
    assert torch.equal(index_of(near) + shift, index_of(moved)) and torch.equal(
        near.hits, moved.hits
    )


@pytest.mark.parametrize(
    "config", [LiftConfig(border=6), LiftConfig(border=100), LiftConfig(max_range=0.1)]
)
def test_nothing_left_is_no_error(config):
    lifted = lift(frame(2.0), (3, 4), 0.05, config)
    assert len(lifted.key) == 0 and lifted.feature_sums(torch.zeros(12, 5)).shape == (0, 5)


def test_one_pixel():
    lifted = lift(frame([[2.0]], camera=np.eye(3)), (1, 1), 0.05)
    assert index_of(lifted).tolist() == [[0, 0, 40]] and lifted.hits.tolist() == [1]


def test_half_way_points_go_to_the_even_voxel():
    camera = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    depth = np.ones((1, 6), np.float32)  # x = 0 .. 5 m in voxels of 2 m: 0, .5, 1, 1.5, 2, 2.5
    lifted = lift(frame(depth, camera=camera), (1, 1), 2.0)
    assert index_of(lifted)[:, 0].tolist() == [0, 1, 2] and lifted.hits.tolist() == [2, 1, 3]


def test_nonsense_is_refused():
    for feature_hw, voxel_size in (((0, 4), 0.05), ((3, 4), 0.0), ((3, 4), float("nan"))):
        with pytest.raises(InputError):
            lift(frame(2.0), feature_hw, voxel_size)


def test_skewed_intrinsics_are_honoured():
    camera = K.copy()
    camera[0, 1] = 3.0
    rng = np.random.default_rng(8)
    observed = frame(rng.uniform(1, 2, (12, 16)), pose(rng), camera=camera)
    features = FeatureMap(torch.ones(1, 1, 1))
    reference = DictionaryMap(0.2)
    reference.integrate(observed, features)
    assert (
        total(lift(observed, (1, 1), 0.2), features).keys() - reference.doubtful
        == reference.sums.keys() - reference.doubtful
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_last_voxel_that_a_key_can_express_is_kept(axis, sign):
    for coordinate in range(COORDINATE_LIMIT - 2, COORDINATE_LIMIT + 3):
        T = np.eye(4)
        T[axis, 3] = sign * coordinate - (axis == 2)
        lifted = lift(frame([[1.0]], T, camera=np.eye(3)), (1, 1), 1.0)
        if coordinate < COORDINATE_LIMIT:
            assert (
                index_of(lifted)[0, axis] == sign * coordinate
                and not lifted.dropped["out_of_range"]
            )
        else:
            assert len(lifted.key) == 0 and lifted.dropped["out_of_range"] == 1


def test_a_wall_within_a_metre_is_as_good_as_a_far_one():
    depth = np.full((12, 16), 0.25, np.float32)
    depth[:, 8:] = 0.5
    lifted = lift(frame(depth), (3, 4), 0.05)
    assert int(lifted.hits.sum()) == 12 * 16 and lifted.dropped["no_return"] == 0
    ranged = lift(frame(depth), (3, 4), 0.05, LiftConfig(min_range=0.3))
    assert ranged.dropped["range"] == 12 * 8
    edged = lift(frame(depth), (3, 4), 0.05, LiftConfig(depth_edge=0.5))
    assert edged.dropped["depth_edge"] == 12 * 2
    just = lift(frame(depth), (3, 4), 0.05, LiftConfig(depth_edge=1.0))
    assert just.dropped["depth_edge"] == 0, "a jump by the fraction itself is none"


@pytest.mark.parametrize("name", ["clip_min", "clip_max"])
def test_a_box_may_be_open_on_one_side(name):
    lifted = lift(frame(2.0), (3, 4), 0.05, LiftConfig(**{name: [0.0, -100.0, -100.0]}))
    if name == "clip_max":
        assert len(lifted.key) == 0 and lifted.dropped["clip"] == 12 * 16
    else:
        assert lifted.dropped["clip"] == 12 * 8 and (index_of(lifted)[:, 0] >= 0).all()
