# SPDX-License-Identifier: Apache-2.0
"""Colours and labels of clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radseg_ros.answers.cloud import (
    COLORS,
    heat_cloud,
    label_colors,
    palette,
    rgb_cloud,
    semantic_cloud,
)
from radseg_ros.datatypes import Cloud, InputError, MapGeometry


@pytest.fixture
def geometry() -> MapGeometry:
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    rgb = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0.5]])
    stamps = torch.zeros(3, dtype=torch.int64)
    hits, views = torch.tensor([1.0, 5.0, 9.0]), torch.ones(3, dtype=torch.int32)
    return MapGeometry(xyz.long(), xyz, rgb, hits, views, stamps, stamps, stamps, 0.05)


def test_true_colors_are_rgb_and_rounded(geometry):
    cloud = rgb_cloud(geometry)
    assert cloud.rgb.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 128]]
    assert cloud.label.tolist() == [-1, -1, -1]


def test_best_label_wins_and_weak_voxels_keep_a_dark_color(geometry):
    scores = np.array([[0.2, 0.9], [0.8, 0.7], [0.1, 0.3]], np.float32)
    cloud = semantic_cloud(geometry, scores, threshold=0.5)
    assert cloud.label.tolist() == [1, 0, -1]
    assert cloud.score == pytest.approx([0.9, 0.8, 0.3])
    assert (cloud.rgb[0] == palette(2)[1]).all() and (cloud.rgb[1] == palette(2)[0]).all()
    assert cloud.rgb[2].tolist() == [0, 0, round(128 * 0.35)]


def test_min_hits_filters_every_field(geometry):
    cloud = rgb_cloud(geometry, min_hits=5)
    assert (
        cloud.hits.tolist() == [5, 9]
        and len(cloud.xyz) == len(cloud.rgb) == len(cloud.label) == len(cloud.score) == 2
    )


def test_no_labels_and_empty_map(geometry):
    assert semantic_cloud(geometry, np.zeros((3, 0), np.float32), 0.5).label.tolist() == [
        -1,
        -1,
        -1,
    ]
    names = list(MapGeometry.__dataclass_fields__)[:-1]
    tensors = [getattr(geometry, name)[:0] for name in names]
    empty = MapGeometry(*tensors, 0.05)
    assert len(semantic_cloud(empty, np.zeros((0, 2), np.float32), 0.5)) == 0


def test_palette_is_distinct_and_stable():
    colors = palette(40)
    assert len({tuple(c) for c in colors.tolist()}) == 40
    assert (palette(10) == colors[:10]).all()


def test_fields_of_different_length_are_refused():
    with pytest.raises(InputError, match="differ in length"):
        Cloud(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(1), np.zeros(2), np.zeros(2))


def test_a_score_that_equals_the_threshold_is_a_label(geometry):
    scores = np.array([[0.5], [np.nextafter(np.float32(0.5), np.float32(0))], [1.0]], np.float32)
    assert semantic_cloud(geometry, scores, 0.5).label.tolist() == [0, -1, 0]


def test_of_equal_scores_the_first_label_counts(geometry):
    assert semantic_cloud(geometry, np.full((3, 2), 0.7, np.float32), 0.5).label.tolist() == [0] * 3


def test_a_cloud_of_questions_keeps_hits_and_places(geometry):
    cloud = semantic_cloud(geometry, np.ones((3, 1), np.float32), 0.5, min_hits=6)
    assert cloud.xyz.tolist() == [[2, 0, 0]] and cloud.hits.tolist() == [9]
    assert cloud.rgb.tolist() == palette(1).tolist() and cloud.score.tolist() == [1]


def test_no_labels_have_no_colors():
    assert palette(0).shape == (0, 3)
    assert palette(1).tolist() == [[0xE6, 0x9F, 0x00]]


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", 2009: matrices of severity 1, for linear RGB.
EYES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
}  # fmt: skip


def lab(rgb: np.ndarray, eye: str) -> np.ndarray:
    """(N, 3) uint8 sRGB -> (N, 3) CIELAB (D65) of what that eye sees."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = (linear @ EYES[eye].T).clip(0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = seen @ to_xyz.T / (0.95047, 1.0, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


def nearest(colors: np.ndarray, eye: str) -> float:
    """The least distance between any two; 2.3 is what can just be noticed."""
    seen = lab(colors, eye)
    apart = np.linalg.norm(seen[:, None] - seen, axis=2)
    return float(apart[~np.eye(len(seen), dtype=bool)].min())


@pytest.mark.parametrize("eye", EYES)
def test_colors_can_be_told_apart_without_red_or_green(eye):
    assert nearest(palette(len(COLORS)), eye) > 16


def test_many_labels_still_have_colors_of_their_own():
    assert len({tuple(color) for color in palette(60).tolist()}) == 60
    assert palette(1000).shape == (1000, 3)


def test_a_label_has_one_color_in_every_output():
    shown, colors = ["sofa", "cat"], palette(4)
    found = label_colors(["cat", "cup", "sofa", "cup", "door"], shown)
    assert found.tolist() == colors[[1, 2, 0, 2, 3]].tolist()
    assert label_colors(["cat"], []).tolist() == colors[:1].tolist()
    assert label_colors([], shown).shape == (0, 3)
    assert label_colors(["sofa"], ["sofa", "sofa"]).tolist() == colors[:1].tolist()


def test_heat_glows_where_the_score_is_high(geometry):
    scores = np.array([[0.9, 0.1], [0.1, 0.2], [0.1, 0.6]], np.float32)
    cloud = heat_cloud(geometry, scores, threshold=0.5, min_hits=5)
    assert cloud.score == pytest.approx([0.2, 0.6]) and cloud.label.tolist() == [-1, 1]
    cold, warm = cloud.rgb.astype(int)
    assert np.ptp(cold) == 0 and np.ptp(warm) > 30
    assert len(heat_cloud(geometry, np.zeros((3, 0)), 0.5)) == 3
