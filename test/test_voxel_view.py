# SPDX-License-Identifier: Apache-2.0
"""The renderer of voxels: what is nearest is seen, sizes are bounded, up is up."""

from __future__ import annotations

import numpy as np
import pytest

from eval3d.report.pictures import WHITE, DollsHouse, upright
from eval3d.report.voxel_view import LARGEST_CUBE, OVERSAMPLING, View, VoxelScene, _blur

VOXEL = 0.1
RED, GREEN = (220.0, 30.0, 30.0), (30.0, 180.0, 30.0)


def scene(xyz, **fields):
    return VoxelScene(np.array(xyz, float), VOXEL, np.eye(3), **fields)


def test_the_nearest_voxel_is_seen():
    below_and_above = scene([[0, 0, 0], [0, 0, 0.5]])
    for elevation, owner in ((90, 1), (-90, 0)):
        view = View(below_and_above, 0, elevation, 100, 100)
        assert set(np.unique(view.owner)) == {-1, owner}
        image = np.asarray(view.paint(np.array([RED, GREEN])))
        x, y = view.pixel((0, 0, 0))
        assert (image[round(y), round(x)].argmax() == 1) == (owner == 1)


def test_faces_are_told_apart():
    corners = np.stack(np.meshgrid(*[np.arange(8) * VOXEL] * 3, indexing="ij"), -1).reshape(-1, 3)
    view = View(scene(corners), 40, 35, 200, 200)
    image = np.asarray(view.paint(np.tile(GREEN, (512, 1)))).astype(int)
    top, front, side = (
        image[round(y), round(x), 1]
        for x, y in map(view.pixel, [(0.35, 0.35, 0.75), (0.75, 0.35, 0.35), (0.35, 0.75, 0.35)])
    )
    assert top > 0.95 * GREEN[1] and top > front + 9 > side + 18


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_scene_of_few_voxels_makes_a_small_picture(count):
    view = View(scene(np.arange(3 * count).reshape(count, 3) * VOXEL), 30, 40)
    assert view.scale * VOXEL <= LARGEST_CUBE
    assert (view.owner >= 0).any() == bool(count)
    image = view.paint(np.tile(RED, (count, 1)))
    assert 0 < image.width <= 1200 and 0 < image.height <= 1000
    assert image.size == (view.size[1] // OVERSAMPLING, view.size[0] // OVERSAMPLING)


@pytest.mark.slow
def test_without_normals_a_wall_has_no_back():
    wall = [[0, y * VOXEL, z * VOXEL] for y in range(9) for z in range(9)]
    towards = scene(wall, normals=np.tile([1.0, 0, 0], (81, 1)))
    assert (View(towards, 0, 20).owner >= 0).any()
    assert not (View(towards, 180, 20).owner >= 0).any()
    for azimuth in (0, 180):
        assert (View(scene(wall), azimuth, 20).owner >= 0).any()


@pytest.mark.parametrize("up", ["x", "y", "z", "-x", "-y", "-z"])
def test_up_is_up_and_nothing_is_mirrored(up):
    rotation = upright(up)
    axis = np.eye(3)["xyz".index(up[-1])] * (-1 if up.startswith("-") else 1)
    np.testing.assert_array_equal(rotation @ axis, (0, 0, 1))
    assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.slow
def test_one_looks_into_a_room_from_above():
    """A floor, and a ceiling that is left out."""
    x, y = (axis.ravel() * VOXEL for axis in np.mgrid[:20, :20])
    floor, ceiling = (np.stack([x, y, np.full(400, z)], 1) for z in (0.0, 2.5))
    colors = np.repeat([RED, GREEN], 400, axis=0) / 255
    image = DollsHouse(np.concatenate([floor, ceiling]), VOXEL).paint(colors).astype(int)
    drawn = image[(image != WHITE).any(2)]
    assert len(drawn) > 10_000 and (drawn[:, 0] >= drawn[:, 1]).all()
    assert DollsHouse(np.zeros((0, 3)), VOXEL).paint(np.zeros((0, 3))).min() == 255


def test_the_blur_is_nearly_gaussian():
    from scipy.ndimage import gaussian_filter

    image = np.zeros((200, 220), bool)
    image[50:130, 70:90] = True
    for sigma in (5.0, 13.0):
        expected = gaussian_filter(image.astype(np.float64), sigma)
        assert np.abs(_blur(image, sigma) - expected).max() < 0.08 * expected.max()
