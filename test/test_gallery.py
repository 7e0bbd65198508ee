# SPDX-License-Identifier: Apache-2.0
"""The generated room: rays meet surfaces where geometry says, and the recording agrees with its own
truth.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import require_package

from radseg_ros.datatypes import check_pose
from radseg_ros.demo import gallery
from radseg_ros.demo.raycast import Box, Cylinder, render
from radseg_ros.frames.folder import open_recording

require_package("skimage", reason="the photographs of scikit-image are not installed")
require_package("sklearn", reason="the photographs of scikit-learn are not installed")

SIZE = (48, 64)
K = np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])
HALF = tuple(side // 2 for side in gallery.SIZE)
AHEAD = gallery.look((0, 0, 0), heading=0, tilt=0)  # along x


def test_a_wall_ahead_has_one_depth():
    _, depth, facing = render([Box((2.5, 0, 0), (1, 9, 9))], K, AHEAD, SIZE)
    np.testing.assert_allclose(depth, 2.0, rtol=1e-6)
    assert facing[24, 32] == pytest.approx(1, abs=1e-3) and facing[0, 0] < 0.9


def test_a_room_is_seen_from_inside():
    _, depth, _ = render([Box((0, 0, 0), (6, 4, 2))], K, AHEAD, SIZE)
    assert depth[24, 32] == pytest.approx(3.0)
    assert depth[0, 32] == pytest.approx(1.0 / (23.5 / 50))  # the ceiling, 1 m above


def test_the_nearer_thing_hides_the_farther():
    red, blue = Box((2, 0, 0), (0.2, 0.5, 0.5), (1, 0, 0)), Box((4, 0, 0), (0.2, 3, 3), (0, 0, 1))
    for solids in ([red, blue], [blue, red]):
        rgb, depth, _ = render(solids, K, AHEAD, SIZE)
        assert rgb[24, 32].argmax() == 0 and depth[24, 32] == pytest.approx(1.9)
        assert rgb[24, 46].argmax() == 2 and depth[24, 46] == pytest.approx(3.9)


def test_a_cylinder_bulges_towards_the_camera():
    _, depth, _ = render([Cylinder((2, 0, 0), 0.5, 4.0, (1, 1, 1))], K, AHEAD, SIZE)
    x = (np.arange(64) - 31.5) / 50  # a ray (1, -x): |2 - t, t x| = 0.5
    root = 16 - 4 * (1 + x**2) * 3.75
    expected = np.where(root >= 0, (4 - np.sqrt(np.maximum(root, 0))) / (2 * (1 + x**2)), 0)
    np.testing.assert_allclose(depth[24], expected, atol=1e-5)


@pytest.mark.parametrize("side", ["+x", "-x", "+y", "-y"])
def test_pictures_are_upright_and_not_mirrored(side):
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20, :20], picture[:20, 20:], picture[20:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    sign, axis = (1 if side[0] == "+" else -1), "xy".index(side[1])
    centre = np.zeros(3)
    centre[axis] = 2.0 * sign
    inward = ("-" if sign > 0 else "+") + side[1]
    size = np.full(3, 1.0)
    size[axis] = 0.1
    heading = {"+x": 0, "+y": np.pi / 2, "-x": np.pi, "-y": -np.pi / 2}[side]
    box = Box(tuple(centre), tuple(size), pictures={inward: picture})
    rgb, _, _ = render([box], K, gallery.look((0, 0, 0), heading, 0), SIZE)
    assert rgb[18, 26].argmax() == 0 and rgb[18, 37].argmax() == 1 and rgb[29, 26].argmax() == 2
    assert rgb[29, 37].max() == 0


def test_trajectory_stays_in_the_room_and_is_rigid():
    poses = gallery.trajectory()
    assert len(poses) == gallery.FRAMES >= 60
    for T in poses:
        check_pose(T)
        assert (np.abs(T[:2, 3]) < np.divide(gallery.ROOM[:2], 2) - 0.5).all()


def test_the_sensor_is_noisy_has_holes_and_a_range():
    rng = np.random.default_rng(0)
    depth = np.full((200, 300), 2.0, np.float32)
    depth[:, 150:] = 3.0
    depth[:50] = 5.0
    seen = gallery.sense(depth, np.ones_like(depth), rng)
    assert seen.dtype == np.uint16
    assert (seen[:50] == 0).all()  # out of range
    flat = seen[60:, :140]
    assert 0.001 < (flat == 0).mean() < 0.01
    assert 3 < flat[flat > 0].std() < 9  # mm, at 2 m
    assert (seen[60:, 150:152] == 0).all()  # the shadow beside the edge


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Half as wide and high as the real one."""
    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "SIZE", HALF)
        patch.setattr(gallery, "K", gallery.K * [[0.5], [0.5], [1]])
        truth = gallery.generate(folder, frames=12)
    return open_recording(folder), truth


def test_the_recording_is_complete_and_made_only_once(recording):
    frames, truth = recording
    assert (
        len(frames) == 12
        and gallery.is_complete(frames.path, 12)
        and not gallery.is_complete(frames.path, 13)
    )
    assert len(truth["objects"]) >= 5 and truth["absent"]


def test_every_exhibit_is_seen_where_the_truth_says(recording):
    """Project each true centre into the frames: somewhere the measured depth agrees with it."""
    frames, truth = recording
    nearest = dict.fromkeys(truth["objects"], np.inf)
    for frame in frames:
        for label, centre in truth["objects"].items():
            p = np.linalg.inv(frame.T_world_camera) @ [*centre, 1]
            if p[2] < 0.3:
                continue
            u, v = np.rint((frame.K @ p[:3] / p[2])[:2]).astype(int)
            if 0 <= u < HALF[1] and 0 <= v < HALF[0] and frame.depth[v, u] > 0:
                nearest[label] = min(nearest[label], abs(frame.depth[v, u] - p[2]))
    thickest = max(exhibit.thickness for exhibit in gallery.EXHIBITS) / 2
    assert all(error < thickest + 0.1 for error in nearest.values()), nearest


def test_frames_differ_and_hold_color(recording):
    frames, _ = recording
    images = [frame.rgb for frame in frames]
    assert all(image.shape == (*HALF, 3) and image.std() > 10 for image in images)
    assert np.abs(images[0].astype(int) - images[6]).mean() > 5
