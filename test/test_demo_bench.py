# SPDX-License-Identifier: Apache-2.0
"""The benchmark on a real recording counts what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from radseg_ros.datatypes import Frame

spec = importlib.util.spec_from_file_location(
    "real_recording", Path(__file__).parents[1] / "bench" / "real_recording.py"
)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


@pytest.mark.parametrize("levels", [3, 1000])  # with and without ties
def test_average_precision_is_the_usual_one(levels):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    scores, truth = rng.integers(0, levels, 300) / levels, rng.random(300) < 0.2
    assert bench.average_precision(scores, truth) == pytest.approx(
        metrics.average_precision_score(truth, scores)
    )


def test_average_precision_by_hand():
    falling, first_and_third = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert bench.average_precision(falling, first_and_third) == pytest.approx((1 + 2 / 3) / 2)
    assert bench.average_precision(np.ones(4), first_and_third) == pytest.approx(
        0.5
    )  # all equal: chance


def test_voxels_in_a_box_are_those_behind_its_pixels():
    depth = np.full((40, 60), 1.0, np.float32)
    depth[20:] = np.nan
    K = np.array([[20.0, 0, 29.5], [0, 20, 19.5], [0, 0, 1]])
    frame = Frame(0, np.zeros((40, 60, 3), np.uint8), depth, K, np.eye(4))
    index = bench.voxels_in_box(frame, [30, 10, 40, 30], short_side=0, voxel_size=0.1)
    u, v = np.meshgrid(np.arange(30, 40), np.arange(10, 20))
    points = np.stack([(u - 29.5) / 20, (v - 19.5) / 20, np.ones(u.shape)], -1).reshape(-1, 3)
    expected = np.unique(np.rint((points / 0.1).astype(np.float32)).astype(int), axis=0)
    assert sorted(map(tuple, index.tolist())) == sorted(map(tuple, expected.tolist()))
    assert (
        len(bench.voxels_in_box(frame, [30, 22, 40, 30], short_side=0, voxel_size=0.1)) == 0
    )  # no depth there
    world = np.array([[9, 9, 9], *expected[:2].tolist(), [-1, 0, 0]])
    assert bench.rows_of(world, index).tolist() == [1, 2]
