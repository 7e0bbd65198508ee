# SPDX-License-Identifier: Apache-2.0
"""Scores and objects on small worlds with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radseg_ros.answers.objects import connected_groups, cosine, find_objects, relevancy
from radseg_ros.config import QueryConfig
from radseg_ros.datatypes import MapGeometry


def geometry(xyz: list, last_seen: list | None = None) -> MapGeometry:
    points = torch.tensor(xyz, dtype=torch.float32).reshape(-1, 3)
    n = len(points)
    stamps = torch.tensor(last_seen if last_seen is not None else [0] * n, dtype=torch.int64)
    index = torch.round(points / 0.05).long()
    return MapGeometry(index, points, torch.zeros(n, 3), torch.ones(n), stamps, stamps)


def test_cosine_of_orthogonal_and_zero_vectors():
    result = cosine(
        torch.tensor([[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    )
    torch.testing.assert_close(
        result, torch.tensor([[1.0, 0.0], [0.0, 0.0], [math.sqrt(0.5), math.sqrt(0.5)]])
    )


def test_relevancy_is_one_half_at_a_tie_and_counts_the_strongest_background():
    score = relevancy(torch.tensor([[0.3, 0.2]]), torch.tensor([[0.1, 0.3]]), scale=100.0)
    assert score[0, 0] == pytest.approx(0.5)
    assert score[0, 1] == pytest.approx(1 / (1 + math.exp(10.0)))


def test_score_of_a_text_does_not_depend_on_the_other_texts():
    similarity, background = torch.rand(7, 3), torch.rand(7, 4)
    alone = relevancy(similarity[:, 1:2], background, 100.0)
    torch.testing.assert_close(relevancy(similarity, background, 100.0)[:, 1:2], alone)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=25, unique=True),
    st.sampled_from([1.1, 1.8, 3.2]),
)
def test_groups_equal_flood_fill(points, gap):
    xyz = np.array(points, float)
    group = connected_groups(xyz, gap)
    seen, expected = set(), []
    for start in range(len(xyz)):
        if start in seen:
            continue
        stack, members = [start], set()
        while stack:
            i = stack.pop()
            if i not in members:
                members.add(i)
                stack += [j for j in range(len(xyz)) if np.linalg.norm(xyz[i] - xyz[j]) <= gap]
        seen |= members
        expected.append(members)
    found = [set(np.flatnonzero(group == g).tolist()) for g in np.unique(group)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_two_blobs_are_two_objects_best_first():
    near = [[0.0, 0, 0], [0.05, 0, 0], [0.1, 0, 0]]
    far = [[2.0, 1, 0], [2.05, 1, 0], [2.1, 1, 0], [2.15, 1, 0]]
    lonely, weak = [[5.0, 5, 5]], [[1.0, 0, 0]] * 3
    scores = np.array([0.6, 0.6, 0.6, 0.9, 0.9, 0.9, 0.7, 0.99, 0.1, 0.1, 0.1])
    stamps = [1, 2, 3, 40, 50, 60, 7, 99, 0, 0, 0]
    first, second = find_objects(
        geometry(near + far + lonely + weak, stamps),
        scores,
        QueryConfig(min_voxels=3, max_gap=0.08),
    )
    assert first.voxels == 4 and second.voxels == 3
    assert first.score == pytest.approx(0.9) and first.last_seen_ns == 60
    assert first.size == pytest.approx((0.15, 0, 0), abs=1e-6)
    assert second.centre == pytest.approx((0.05, 0, 0), abs=1e-6)
    expected_x = np.average([2.0, 2.05, 2.1, 2.15], weights=[0.9, 0.9, 0.9, 0.7])
    assert first.centre[0] == pytest.approx(expected_x, abs=1e-6)


def test_max_objects_keeps_the_best():
    points = [[x, 0, 0] for x in range(5)]
    found = find_objects(
        geometry(points),
        np.array([0.6, 0.9, 0.7, 0.95, 0.8]),
        QueryConfig(min_voxels=1, max_objects=2),
    )
    assert [o.centre[0] for o in found] == pytest.approx([3.0, 1.0])


def test_empty_map_finds_nothing():
    assert find_objects(geometry([]), np.zeros(0), QueryConfig()) == ()
