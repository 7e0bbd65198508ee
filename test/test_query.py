# SPDX-License-Identifier: Apache-2.0
"""Scores and groups of voxels on small worlds with known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from radseg_ros.answers import groups
from radseg_ros.answers.groups import Closeness, connected_groups
from radseg_ros.answers.scores import cosine, relevancy
from radseg_ros.voxels.index import COORDINATE_LIMIT


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


def groups_by_k_d_tree(index: np.ndarray, voxel_size: float, max_gap: float) -> np.ndarray:
    """The slow reference: every pair of near voxels, from their positions."""
    xyz = (index * voxel_size).astype(np.float32).astype(np.float64)
    pairs = cKDTree(xyz).query_pairs(max_gap, output_type="ndarray")
    edges = (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1]))
    graph = coo_matrix(edges, shape=(len(xyz), len(xyz)))
    return connected_components(graph, directed=False)[1]


def partition(group: np.ndarray) -> list[list[int]]:
    return sorted(np.flatnonzero(group == g).tolist() for g in np.unique(group))


GAPS = [0.3, 0.99, 1, 1.2, 2**0.5, 1.42, 3**0.5, 1.75, 2, 2.5, 3, 3.2, 4.5, 6, 7, 11.3, 40, 500]


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 250),
    extent=st.integers(1, 40),
    voxel_size=st.sampled_from([0.02, 0.05, 0.1, 0.25]),
    gap=st.sampled_from(GAPS),
    shift=st.sampled_from([0, -300, 300]),
)
def test_groups_equal_those_of_a_k_d_tree(seed, count, extent, voxel_size, gap, shift):
    rng = np.random.default_rng(seed)
    index = np.unique(rng.integers(-extent, extent + 1, (count, 3)), axis=0)
    index = rng.permutation(index) + shift
    near = Closeness(index, voxel_size, gap * voxel_size)
    assert partition(near.groups()) == partition(
        groups_by_k_d_tree(index, voxel_size, gap * voxel_size)
    )
    some = rng.random(len(index)) < 0.5
    if some.any():
        found = near.only(some).groups()
        assert partition(found) == partition(
            groups_by_k_d_tree(index[some], voxel_size, gap * voxel_size)
        )


def test_groups_across_the_whole_range_of_keys():
    far = COORDINATE_LIMIT - 1
    corners = np.array([[x, y, z] for x in (-far, far) for y in (-far, far) for z in (-far, far)])
    index = np.concatenate([corners, corners - np.sign(corners)])
    assert len(np.unique(connected_groups(index, 0.05, 0.15))) == 8
    assert len(np.unique(connected_groups(index, 0.05, 0.05))) == 16
    assert len(np.unique(connected_groups(index, 0.05, 1e6))) == 1


def test_dense_pieces_that_nearly_touch_are_compared_voxel_by_voxel(monkeypatch):
    block = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), 1)
    for apart in (4, 5, 6):
        index = np.concatenate([block, block + (9 + apart, 0, 0)])
        for at_once in (1 << 20, 50):
            monkeypatch.setattr("radseg_ros.answers.groups.PAIRS_AT_ONCE", at_once)
            found = connected_groups(index, 0.05, 5 * 0.05)
            assert partition(found) == partition(groups_by_k_d_tree(index, 0.05, 5 * 0.05))
            assert len(np.unique(found)) == (1 if apart <= 5 else 2)


DIRECTIONS = [d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("step", DIRECTIONS, ids=str)
def test_what_is_adjacent_is_joined_before_voxels_are_compared(monkeypatch, step):
    """A line of voxels in each of the thirteen directions; comparing them would take long."""
    compared = []

    def counting(cells, a, *rest):
        compared.append(len(a))
        return any_within(cells, a, *rest)

    any_within = groups._any_within
    monkeypatch.setattr(groups, "_any_within", counting)
    length = math.sqrt(np.dot(step, step))
    for reach in (length * 1.01, 1.8, 2.5):
        for start in itertools.product((0, 1), repeat=3):
            index = np.array(start) + np.arange(-6, 7)[:, None] * np.array(step)
            assert not connected_groups(index, 0.05, 0.05 * reach).any()
    assert not any(compared)


def test_the_last_cell_is_a_neighbour_too():
    """It belongs to the largest group, whose cells do not look around: others must find it."""
    wall = [(x, 20, 0) for x in range(9)]
    index = np.array([*wall, (8, 16, 0)])
    assert not connected_groups(index, 0.05, 4.001 * 0.05).any()
    assert connected_groups(index, 0.05, 3.999 * 0.05).tolist() == [0] * 9 + [1]


@pytest.mark.parametrize("at_once", [1 << 20, 50])
def test_the_gap_itself_still_joins(monkeypatch, at_once):
    """Positions that float32 has exactly."""
    monkeypatch.setattr(groups, "PAIRS_AT_ONCE", at_once)
    block = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), 1)
    index = np.concatenate([block, block + (9 + 5, 0, 0)])
    assert not connected_groups(index, 0.25, 5 * 0.25).any()
    assert connected_groups(index, 0.25, np.nextafter(5 * 0.25, 0)).any()
