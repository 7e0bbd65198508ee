# SPDX-License-Identifier: Apache-2.0
"""Geometry: working resolution, intrinsics, back-projection, where bilinear interpolation reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_worlds import K, frame, pose

from radseg_ros.datatypes import Frame, InputError
from radseg_ros.geometry import (
    DeviceFrame,
    arrays,
    bilinear_cells,
    camera_points,
    frame_on,
    resize_colors,
    resize_frame,
    scale_intrinsics,
    working_size,
    world_points,
)
from radseg_ros.voxels.index import COORDINATE_LIMIT, pack, pack_nearest
from radseg_ros.voxels.tensors import round_half_even


@pytest.mark.parametrize(
    "hw, size", [((680, 1200), (640, 1129)), ((480, 640), (640, 853)), ((1168, 1752), (640, 960))]
)
def test_working_size_keeps_the_aspect(hw, size):
    assert working_size(hw, 640) == size
    assert working_size(hw[::-1], 640) == size[::-1]
    assert working_size(hw, 0) == hw


@pytest.mark.parametrize("hw", [(1, 300), (300, 1), (1, 9), (12, 97), (2, 8192)])
@pytest.mark.parametrize("short_side", [0, 1, 640])
def test_strips_are_refused(hw, short_side):
    with pytest.raises(InputError, match="^image more than 8 times as long as wide$"):
        working_size(hw, short_side)
    with pytest.raises(InputError, match="8 times"):
        resize_frame(frame(np.ones(hw, np.float32)), short_side)


@pytest.mark.parametrize("hw", [(1, 8), (12, 96), (1024, 4096), (1, 1)])
def test_panoramas_are_taken(hw):
    assert working_size(hw, 64) == (64, 64 * hw[1] // hw[0])
    assert working_size(hw, 0) == hw


@pytest.mark.parametrize(
    ("hw", "short_side"), [((600, 800), 8192), ((6000, 6001), 0), ((10, 80), 3000)]
)
def test_the_working_size_is_bounded(hw, short_side):
    with pytest.raises(InputError, match="^image of more than 36 million pixels"):
        working_size(hw, short_side)
    assert working_size((6000, 6000), 0) == (6000, 6000)


def test_a_pixel_sees_the_same_direction_after_resizing():
    scaled = scale_intrinsics(K, (12, 16), (24, 48))
    # Rows are scaled: pixel (u, v) of the small image and (3 u, 2 v) of the large one lie on one
    # ray.
    pixel = np.array([5.0, 7.0, 1.0])
    np.testing.assert_allclose(
        np.linalg.inv(K) @ pixel, np.linalg.inv(scaled) @ (pixel * [3, 2, 1])
    )


def test_resized_frame_has_one_size_and_never_mixes_depth():
    depth = np.where(np.arange(16) < 8, 1.0, 3.0).astype(np.float32) * np.ones((12, 1), np.float32)
    depth[0, 0] = np.nan
    resized = resize_frame(frame(depth, rgb=np.full((24, 32, 3), 77, np.uint8)), 30)
    assert resized.depth.shape == resized.rgb.shape[:2] == (30, 40)
    assert set(np.unique(resized.depth[~np.isnan(resized.depth)])) == {1.0, 3.0}
    assert np.isnan(resized.depth[0, 0])
    assert (resized.rgb == 77).all() and resized.rgb.dtype == np.uint8
    np.testing.assert_allclose(resized.K, K * [[2.5], [2.5], [1]])


def test_float_colors_stay_float_and_in_range():
    rgb = np.random.default_rng(0).random((12, 16, 3)).round().astype(np.float32)
    resized = resize_frame(frame(1.0, rgb=rgb), 31)
    assert resized.rgb.dtype == np.float32 and 0 <= resized.rgb.min() and resized.rgb.max() <= 1


def test_working_size_zero_and_equal_size_change_nothing():
    observed = frame(2.0)
    assert resize_frame(observed, 0) is observed
    assert resize_frame(observed, 12) is observed
    with pytest.raises(InputError):
        resize_frame(observed, -1)


def test_downscaling_averages_color():
    board = np.indices((12, 16)).sum(0) % 2 * 200
    resized = resize_frame(frame(1.0, rgb=np.repeat(board[..., None], 3, 2).astype(np.uint8)), 3)
    assert (
        np.abs(resized.rgb[1:-1, 1:-1].astype(int) - 100).max() < 12
    )  # without antialias it would be 0 or 200


@pytest.mark.parametrize("seed", range(5))
def test_back_projection_is_the_inverse_of_projection(seed):
    rng = np.random.default_rng(seed)
    camera = np.array(
        [[rng.uniform(5, 50), rng.normal(), 8], [0, rng.uniform(5, 50), 6], [0, 0, 1]]
    )
    T, depth = pose(rng), torch.tensor(rng.uniform(0.1, 9, (12, 16)))
    u, v = torch.arange(16), torch.arange(12)
    xyz = torch.stack(world_points(depth, u, v, camera, T), -1).reshape(-1, 3)
    local = camera_points(xyz, T)
    pixels = local @ torch.tensor(camera).T
    np.testing.assert_allclose(local[:, 2], depth.flatten(), rtol=1e-9)
    np.testing.assert_allclose(
        (pixels[:, :2] / pixels[:, 2:]).reshape(12, 16, 2)[..., 0], u.expand(12, 16), atol=1e-8
    )
    np.testing.assert_allclose(
        (pixels[:, :2] / pixels[:, 2:]).reshape(12, 16, 2)[..., 1],
        v[:, None].expand(12, 16),
        atol=1e-8,
    )


def test_unit_of_world_points():
    depth, u, v = torch.ones(2, 3), torch.arange(3), torch.arange(2)
    metres, voxels = (
        torch.stack(world_points(depth, u, v, K, np.eye(4), unit)) for unit in (1.0, 0.05)
    )
    np.testing.assert_allclose(metres * 20, voxels)


@pytest.mark.parametrize(
    "size, cells", [(16, 4), (17, 5), (5, 5), (4, 9), (7, 1), (1, 1), (1, 6), (864, 54)]
)
def test_cells_and_weights_are_those_of_interpolate(size, cells):
    grid = torch.randn(cells, dtype=torch.float64)
    lower, weight = bilinear_cells(torch.arange(size), size, cells)
    ours = grid[lower] * (1 - weight) + grid[(lower + 1).clamp(max=cells - 1)] * weight
    theirs = torch.nn.functional.interpolate(
        grid[None, None, None], (1, size), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(ours, theirs.flatten(), atol=1e-12)
    assert (
        ((weight >= 0) & (weight <= 1)).all()
        and (lower >= 0).all()
        and (lower <= max(cells - 2, 0)).all()
    )


def test_rounding_is_half_to_even():
    values = torch.tensor(
        [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999999999999994, 1e6 + 0.5, -1e6 - 1.5],
        dtype=torch.float64,
    )
    assert torch.equal(round_half_even(values.clone()), torch.round(values))
    many = torch.randn(10_000, dtype=torch.float64) * 1e4
    assert torch.equal(round_half_even(many.clone()), torch.round(many))


def test_read_only_images_are_taken():
    observed = frame(1.0)
    locked = Frame(0, observed.rgb, observed.depth, K, np.eye(4))
    locked.depth.setflags(write=False)
    locked.rgb.setflags(write=False)
    assert resize_frame(locked, 24).depth.shape == (24, 32)


@pytest.mark.parametrize("limit", [2, 1000, COORDINATE_LIMIT - 1])
def test_points_are_packed_as_the_nearest_voxel(limit):
    torch.manual_seed(0)
    points = (torch.rand(3, 5000, dtype=torch.float64) - 0.5) * 2 * limit
    points[:, ::2] = points[:, ::2].floor() + 0.5  # half way
    points[:, :2] = torch.tensor([limit, -limit], dtype=torch.float64)
    assert torch.equal(pack_nearest(list(points.clone())), pack(list(points.round())))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("hw", [(24, 32), (6, 8), (12, 16)])
def test_a_frame_on_a_device_is_the_same_frame(device_for_one, kind, hw):
    rng = np.random.default_rng(0)
    rgb = rng.random((24, 32, 3)).astype(np.float32)
    observed = frame(
        rng.random((12, 16)), rgb=(255 * rgb).astype(kind) if kind is np.uint8 else rgb
    )
    there, here = frame_on(device_for_one, observed, min(hw)), resize_frame(observed, min(hw))
    back = arrays(there)
    assert isinstance(there, DeviceFrame) == (device_for_one.type == "cuda")
    assert (back.stamp_ns, back.rgb.dtype) == (here.stamp_ns, here.rgb.dtype)
    np.testing.assert_array_equal(back.depth, here.depth)
    np.testing.assert_array_equal(back.K, here.K)
    apart = np.abs(back.rgb.astype(float) - here.rgb)
    assert apart.max() <= (1 if kind is np.uint8 else 1e-6)


def test_bytes_may_be_resized_as_numbers():
    """As a GPU does it."""
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    exact = resize_colors(rgb.float() / 255, (10, 13))
    assert (255 * exact - resize_colors(rgb, (10, 13))).abs().max() <= 1.0
