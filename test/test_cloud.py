# SPDX-License-Identifier: Apache-2.0
"""Colours and labels of clouds."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from radseg_ros.answers.cloud import GOLDEN_RATIO, palette, rgb_cloud, semantic_cloud
from radseg_ros.datatypes import Cloud, InputError, MapGeometry


@pytest.fixture
def geometry() -> MapGeometry:
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    rgb = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0.5]])
    stamps = torch.zeros(3, dtype=torch.int64)
    hits, views = torch.tensor([1.0, 5.0, 9.0]), torch.ones(3, dtype=torch.int32)
    return MapGeometry(xyz.long(), xyz, rgb, hits, views, stamps, stamps, 0.05)


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


def test_hues_are_far_apart_and_shades_tell_the_turns_apart():
    for i, color in enumerate(palette(30)):
        hue, saturation, value = colorsys.rgb_to_hsv(*color / 255)
        apart = (hue - 0.02 - i * GOLDEN_RATIO) % 1
        assert min(apart, 1 - apart) < 0.01
        assert saturation == pytest.approx((0.85, 0.6)[i // 7 % 2], abs=0.01)
        assert value == pytest.approx((0.95, 0.75)[i // 14 % 2], abs=0.01)


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
    assert palette(1).tolist() == [[242, 61, 36]]
