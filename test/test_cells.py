# SPDX-License-Identifier: Apache-2.0
"""What is drawn of a map: cells, their faces, and the bytes that a browser gets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radseg_ros.datatypes import Cloud
from radseg_ros.view import cells as cells_module
from radseg_ros.view.boxes import box_lines
from radseg_ros.view.cells import CORNERS, NORMALS, Cells, fitting, visible_faces
from radseg_ros.view.glb import before_tone_curve, squares

UP = np.array([0.0, 0.0, 1.0])
ANYWHERE = np.zeros((0, 3))


def cloud_of(index, size=0.1, rgb=(10, 20, 30), hits=1.0, label=-1, score=0.0) -> Cloud:
    index = np.atleast_2d(index)
    n = len(index)
    return Cloud(
        xyz=(index * size).astype(np.float32),
        rgb=np.broadcast_to(np.array(rgb, np.uint8), (n, 3)),
        label=np.broadcast_to(np.array(label, np.int32), (n,)),
        score=np.broadcast_to(np.array(score, np.float32), (n,)),
        hits=np.broadcast_to(np.array(hits, np.float32), (n,)),
    )


def box(*sides: int) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), -1).reshape(-1, 3)


def test_corners_run_counter_clockwise_as_seen_from_where_a_face_looks():
    for corners, normal in zip(CORNERS, NORMALS, strict=True):
        np.testing.assert_allclose(np.cross(*(corners[1:3] - corners[0])), normal, atol=1e-6)
        np.testing.assert_allclose(corners.mean(0), normal / 2)


def test_a_block_has_the_faces_of_its_surface():
    cells = Cells(cloud_of(box(3, 4, 5)), 0.1)
    faces = visible_faces(cells, UP, ANYWHERE)
    assert len(faces) == 2 * (3 * 4 + 4 * 5 + 3 * 5)
    assert 0 < faces.shade.min() and faces.shade.max() <= 1.1


def test_only_faces_that_look_at_the_camera_are_drawn():
    cells = Cells(cloud_of(box(1, 5, 5)), 0.1)  # a wall in the plane x = 0
    faces = visible_faces(cells, UP, np.array([[2.0, 0.2, 0.2]]))
    assert (NORMALS[faces.side] @ (1, 0, 0) >= 0).all()
    assert np.count_nonzero(NORMALS[faces.side] @ (1, 0, 0) == 1) == 25


def test_corners_of_a_room_are_darker():
    floor, wall = box(9, 9, 1), box(1, 9, 9)
    cells = Cells(cloud_of(np.unique(np.concatenate([floor, wall]), axis=0)), 0.1)
    faces = visible_faces(cells, UP, ANYWHERE)
    top = faces.side == 4
    near, far = (faces.shade[top & (cells.index[faces.cell] == (x, 4, 0)).all(1)] for x in (1, 6))
    assert near < far


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.integers(-9, 9)] * 3), min_size=1, max_size=60), st.integers(0, 3))
def test_cells_hold_the_voxels_in_them(index, level):
    index = np.unique(np.array(index), axis=0)
    rng = np.random.default_rng(0)
    hits = rng.integers(1, 9, len(index)).astype(np.float32)
    cloud = cloud_of(index, rgb=rng.integers(0, 256, (len(index), 3)), hits=hits)
    cells = Cells(cloud, 0.1, level)
    assert cells.hits.sum() == hits.sum()
    np.testing.assert_array_equal(cells.index[cells.of], index >> level)
    assert (np.abs(cells.xyz[cells.of] - cloud.xyz) <= cells.size / 2 + 1e-5).all()
    mean = (cells.rgb * cells.hits[:, None]).sum(0) / hits.sum()
    np.testing.assert_allclose(mean, hits @ cloud.rgb / hits.sum(), rtol=1e-5)


def test_a_cell_takes_the_best_answer_of_its_voxels():
    cells = Cells(cloud_of([[0, 0, 0], [1, 0, 0], [2, 0, 0], [8, 8, 8]]), 0.1, level=1)
    answers = cloud_of(
        [[0, 0, 0], [1, 0, 0], [2, 0, 0], [40, 0, 0]], label=[1, 0, 2, 5], score=[0.2, 0.9, 0.4, 1]
    )
    score, label = cells.best(answers)
    by_index = {tuple(i): (s, n) for i, s, n in zip(cells.index, score, label, strict=True)}
    assert by_index[0, 0, 0] == (np.float32(0.9), 0) and by_index[1, 0, 0] == (np.float32(0.4), 2)
    assert by_index[4, 4, 4] == (0, -1)


def test_too_many_faces_become_larger_cells(monkeypatch):
    cloud = cloud_of(box(20, 20, 20))
    monkeypatch.setattr(cells_module, "MOST_FACES", 700)
    cells, faces = fitting(cloud, 0.1, UP, ANYWHERE)
    assert cells.level == 1 and len(faces) == 6 * 10 * 10
    assert cells.size == pytest.approx(0.2)


def test_a_ray_meets_the_nearest_face_that_looks_at_it():
    cells = Cells(cloud_of([[0, 0, 0], [0, 0, 5]]), 0.1)
    faces = visible_faces(cells, UP, ANYWHERE)
    down = faces.hit_by(cells, np.array([0.01, 0.02, 3.0]), np.array([0, 0, -1.0]))
    assert cells.index[faces.cell[down]].tolist() == [0, 0, 5]
    assert faces.hit_by(cells, np.array([1.0, 0, 3.0]), np.array([0, 0, -1.0])) == -1
    assert faces.hit_by(cells, np.array([0, 0, 3.0]), np.array([0, 0, 1.0])) == -1
    from_above = visible_faces(cells, UP, np.array([[0.0, 0.0, 9.0]]))
    up = from_above.hit_by(cells, np.array([0, 0, -3.0]), np.array([0, 0, 1.0]))
    assert up == -1  # through the backs of both


def three_js(light: np.ndarray) -> np.ndarray:
    """The published curve, forwards, and sRGB: 0..255."""
    into = [[0.59719, 0.35458, 0.04823], [0.07600, 0.90834, 0.01566], [0.02840, 0.13383, 0.83777]]
    out_of = [
        [1.60475, -0.53108, -0.07367], [-0.10208, 1.10813, -0.00605], [-0.00327, -0.07276, 1.07602],
    ]  # fmt: skip
    v = (light / 0.6) @ np.array(into).T
    v = (v * (v + 0.0245786) - 0.000090537) / (v * (0.983729 * v + 0.4329510) + 0.238081)
    linear = np.clip(v @ np.array(out_of).T, 0, 1)
    s = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * s


def test_colours_survive_the_tone_curve_of_the_browser():
    steps = np.arange(0, 256, 15)
    rgb = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3).astype(float)
    shown = three_js(before_tone_curve(rgb).astype(np.float64))
    off = np.abs(shown - rgb).max(1)
    muted = (rgb.max(1) - rgb.min(1) <= 60) & (rgb.max(1) <= 240)  # most of what cameras see
    assert off[muted].max() < 12 and (off[muted] < 1).mean() > 0.98
    assert off.max() < 85  # the curve has no bright, pure colours
    red = three_js(before_tone_curve(np.array([[220.0, 20, 20]])).astype(float))[0]
    assert red[0] > 200 and red[1:].max() < 70


def test_squares_are_a_binary_gltf():
    cells = Cells(cloud_of(box(2, 2, 2)), 0.1)
    faces = visible_faces(cells, UP, ANYWHERE)
    data = squares(faces.corners(cells), cells.rgb[faces.cell])
    assert data[:4] == b"glTF" and int.from_bytes(data[8:12], "little") == len(data)
    length = int.from_bytes(data[12:16], "little")
    scene = json.loads(data[20 : 20 + length])
    binary = data[20 + length + 8 :]
    assert scene["buffers"][0]["byteLength"] == len(binary)
    position, color, order = scene["accessors"]
    view = scene["bufferViews"][0]
    points = np.frombuffer(binary[view["byteOffset"] :][: view["byteLength"]], "<f4").reshape(-1, 3)
    np.testing.assert_allclose(points.min(0), position["min"])
    np.testing.assert_allclose(points, faces.corners(cells).reshape(-1, 3))
    assert (len(points), color["count"], order["count"]) == (96, 96, 144)


def test_edges_of_a_box_that_is_turned():
    lines = box_lines((1, 2, 3), (2, 1, 4), yaw=np.pi / 2)
    assert lines.shape == (12, 2, 3)
    ends = lines.reshape(-1, 3)
    np.testing.assert_allclose(ends.min(0), (0.5, 1, 1), atol=1e-9)
    np.testing.assert_allclose(ends.max(0), (1.5, 3, 5), atol=1e-9)
    lengths = np.linalg.norm(lines[:, 0] - lines[:, 1], axis=1)
    assert sorted(np.round(lengths, 9).tolist()) == [1] * 4 + [2] * 4 + [4] * 4
