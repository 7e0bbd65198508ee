# SPDX-License-Identifier: Apache-2.0
"""Average precision, presence and places: known answers, and slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval3d.scoring.presence import (
    Place,
    auroc,
    best_matthews,
    box_around,
    error_of,
    localisation,
    matthews,
    presence,
)
from eval3d.scoring.retrieval import (
    OVERLAPS,
    average_precision,
    make_instances,
    nearest_rows,
    overlaps,
    precisions,
    top_shares,
    true_ranks,
)
from radseg_ros.datatypes import Answer, OrientedBox, SemanticObject

# Average precision


def plain_ap(objects, things, void, least, threshold):
    """As the benchmark's program goes about it: sets, lists, and its differences of recall.

    Args:
        objects: of (set of voxels, score), best first.
        things: sets of voxels.
        void: the voxels without a class.
    """

    def iou(a, b):
        return len(a & b) / len(a | b)

    objects = [each for each in objects if len(each[0]) >= least]
    large = [thing for thing in things if len(thing) >= least]
    small = [thing for thing in things if len(thing) < least]
    if not large:
        return math.nan
    judged, used, missed = [], set(), 0  # judged: score, and whether it is right
    for thing in large:
        best = None
        for i, (own, score) in enumerate(objects):
            if i in used or not iou(own, thing) > threshold:
                continue
            if best is None:
                best = score
                used.add(i)
            else:
                judged.append((min(best, score), False))
                best = max(best, score)
        if best is None:
            missed += 1
        else:
            judged.append((best, True))
    for own, score in objects:
        if not any(iou(own, thing) > threshold for thing in things):
            aside = len(own & void) + sum(len(own & thing) for thing in small)
            if aside / len(own) <= threshold:
                judged.append((score, False))
    if not judged:
        return 0.0
    precision, recall = [], []
    for level in sorted({score for score, _ in judged}):
        right = sum(true for score, true in judged if score >= level)
        wrong = sum(not true for score, true in judged if score >= level)
        below = sum(true for score, true in judged if score < level)
        precision.append(right / (right + wrong))
        recall.append(right / (right + below + missed) if right + below + missed else 0.0)
    precision.append(1.0)
    recall.append(0.0)
    padded = np.array([recall[0], *recall, 0.0])
    return float(np.dot(precision, np.convolve(padded, [-0.5, 0, 0.5], "valid")))


def world(owner, scores, number, label_of_thing, known=None, label=1, least=1):
    """Overlaps of one question, from what each voxel is of."""
    owner, number = np.array(owner), np.array(number)
    labels = np.array([0, *label_of_thing])[number]
    known = labels > 0 if known is None else np.array(known)
    return overlaps(owner, scores, make_instances(number, labels), label, known, least)


def test_what_is_found_whole_is_found():
    of = world([1, 1, 2, 2, 0], [0.9, 0.8], [1, 1, 2, 2, 3], [1, 1, 2])
    assert precisions(of) == {"ap": 1.0, "ap50": 1.0, "ap25": 1.0}
    assert of.iou.tolist() == [[1, 0], [0, 1]]


def test_one_of_two_is_half_and_a_better_wrong_one_costs_more():
    assert average_precision(world([1, 1, 0, 0], [0.9], [1, 1, 2, 2], [1, 1]), 0.5) == 0.5
    # the wrong one first: precision 0, then 1/2 at recall 1
    of = world([2, 2, 1, 1], [0.9, 0.8], [1, 1, 2, 2], [1, 2])
    assert average_precision(of, 0.5) == 0.25
    # the wrong one last: it costs nothing that was reached before
    of = world([1, 1, 2, 2], [0.9, 0.8], [1, 1, 2, 2], [1, 2])
    assert average_precision(of, 0.5) == 1.0


def test_an_iou_of_the_threshold_is_not_above_it():
    of = world([1, 0], [0.9], [1, 1], [1])
    assert of.iou.tolist() == [[0.5]]
    assert average_precision(of, 0.5) == 0.0 and average_precision(of, 0.49) == 1.0


def test_of_two_objects_of_one_thing_the_worse_is_wrong():
    of = world([1, 1, 2, 2], [0.8, 0.9], [1, 1, 1, 1], [1])
    # recall 1 with precision 1, then the other one lowers it: 1 at the higher score
    assert average_precision(of, 0.4) == 1.0
    assert average_precision(world([1, 1, 2, 2], [0.9, 0.9], [1] * 4, [1]), 0.4) == 0.75


def test_what_is_mostly_unlabelled_or_in_small_things_is_not_wrong():
    number, things = [1, 1, 0, 0, 2, 3, 3], [1, 1, 2]
    stray = [1, 1, 2, 2, 0, 0, 0]  # on voxels without a class
    assert average_precision(world(stray, [0.8, 0.9], number, things, least=2), 0.5) == 1.0
    other = [1, 1, 0, 0, 0, 2, 2]  # on a thing of another class
    assert average_precision(world(other, [0.8, 0.9], number, things, least=2), 0.5) == 0.25
    small = [1, 1, 0, 2, 2, 0, 0]  # half in a thing that is too small, half without a class
    assert average_precision(world(small, [0.8, 0.9], number, things, least=2), 0.5) == 1.0
    tiny = [1, 1, 0, 0, 0, 2, 0]  # the object itself is too small
    assert average_precision(world(tiny, [0.8, 0.9], number, things, least=2), 0.5) == 1.0


def test_without_a_thing_there_is_no_precision_and_without_an_object_none_is_reached():
    assert math.isnan(average_precision(world([1, 1], [0.9], [1, 1], [2]), 0.5))
    assert average_precision(world([0, 0], [], [1, 1], [1]), 0.5) == 0.0


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.25, 0.5, 0.75]), st.integers(1, 4))
def test_average_precision_is_that_of_sets(seed, threshold, least):
    rng = np.random.default_rng(seed)
    number = np.sort(rng.integers(0, 5, 40))
    owner = np.where(rng.random(40) < 0.7, number, rng.integers(0, 5, 40))
    label_of_thing = rng.integers(1, 3, 4)
    scores = np.sort(rng.integers(1, 5, 4))[::-1] / 4
    labels = np.array([0, *label_of_thing])[number]
    labels[rng.random(40) < 0.1] = 0
    instances = make_instances(number, labels)
    of = overlaps(owner, scores.tolist(), instances, 1, labels > 0, least)
    objects = [(set(np.flatnonzero(owner == i + 1)), scores[i]) for i in range(4)]
    things = [
        set(np.flatnonzero(instances.number == i + 1)) for i in np.flatnonzero(instances.label == 1)
    ]
    void = set(np.flatnonzero(labels == 0))
    expected = plain_ap([each for each in objects if each[0]], things, void, least, threshold)
    np.testing.assert_allclose(average_precision(of, threshold), expected, atol=1e-12)


def test_the_thresholds_are_those_of_the_benchmark():
    np.testing.assert_allclose(OVERLAPS, np.arange(0.5, 0.95, 0.05))


def test_a_thing_has_the_label_of_most_of_its_voxels():
    number = np.array([7, 7, 7, 7, 3, 3, 9, 9, 0, -1])
    label = np.array([2, 2, 1, 0, 4, 1, 0, 0, 1, 1])
    found = make_instances(number, label)
    assert found.number.tolist() == [2, 2, 2, 2, 1, 1, 0, 0, 0, 0]  # 9 has no label: it is none
    assert found.label.tolist() == [1, 2] and found.voxels.tolist() == [2, 4]
    nothing = make_instances(np.zeros(3, int), np.ones(3, int))
    assert not len(nothing.label) and not nothing.number.any()


# Ranks


def test_ranks_are_places_in_a_sorted_list():
    rng = np.random.default_rng(0)
    fits = rng.integers(0, 4, (50, 6)).astype(np.float32)  # with ties
    column, rows = rng.integers(0, 6, 50), rng.permutation(50)
    rows[:5] = -1
    ranks = true_ranks(lambda some: fits[some], rows, column)
    for rank, row, right in zip(ranks, rows, column, strict=True):
        order = sorted(range(6), key=lambda name: (-fits[row, name], name))
        assert rank == order.index(right) if row >= 0 else rank > 6


def test_top_shares_are_of_each_thing():
    instances = make_instances(np.array([1, 1, 1, 1, 2, 2, 0]), np.array([1, 1, 1, 1, 2, 2, 1]))
    shares = top_shares(np.array([0, 0, 3, 99, 7, 0, 0]), instances)
    assert {name: share.tolist() for name, share in shares.items()} == {
        "top1": [0.5, 0.5],
        "top5": [0.75, 0.5],
        "top10": [0.75, 1.0],
    }


def test_the_nearest_voxel_does_not_depend_on_the_order_of_the_map():
    rng = np.random.default_rng(1)
    gt = rng.integers(0, 6, (60, 3)) * 0.1 + 0.05  # many are equally far
    own = np.unique(rng.integers(0, 6, (80, 3)), axis=0) * 0.1
    rows, order = nearest_rows(gt, own, 0.09), rng.permutation(len(own))
    again = nearest_rows(gt, own[order], 0.09)
    assert (rows >= 0).any() and (rows < 0).any()
    assert np.array_equal(own[rows[rows >= 0]], own[order][again[rows >= 0]])
    distance = np.linalg.norm(gt[:, None] - own, axis=2).min(1)
    assert np.array_equal(rows < 0, distance > 0.09)
    assert nearest_rows(gt, own[:0], 1.0).tolist() == [-1] * 60


# Presence


def thing(label="cup", centre=(0.0, 0.0, 0.0), size=(0.2, 0.2, 0.2), score=0.9):
    return SemanticObject(
        label=label, score=score, centre=centre, size=size, peak=centre,
        box=OrientedBox(centre, size, 0.0), voxels=8, hits=8, views=1, mean_score=score,
        best_score=score, first_seen_ns=0, last_seen_ns=0,
    )  # fmt: skip


def answer(label, score, *objects):
    return Answer(label, score, objects)


SCORES = st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=1, max_size=12)


@given(SCORES, SCORES)
def test_auroc_is_the_share_of_pairs_in_order(present, absent):
    pairs = [(p > a) + (p == a) / 2 for p in present for a in absent]
    assert auroc(np.array(present), np.array(absent)) == pytest.approx(np.mean(pairs))


@given(SCORES, SCORES, st.integers(0, 8))
def test_matthews_is_the_correlation_of_found_and_there(present, absent, level):
    found = np.array([*present, *absent]) >= level / 8
    there = np.array([True] * len(present) + [False] * len(absent))
    value = matthews(*np.split(found, [len(present)]))
    expected = np.corrcoef(found, there)[0, 1] if 0 < found.mean() < 1 else 0.0
    assert value == pytest.approx(expected)
    assert best_matthews(np.array(present), np.array(absent)) >= value - 1e-12


def test_presence_counts_what_is_found():
    there = [answer("a", 0.9, thing()), answer("b", 0.6, thing()), answer("c", 0.2)]
    away = [answer("d", 0.7, thing()), answer("e", 0.1)]
    found = presence(there, away)
    assert found == {
        "present": 3, "absent": 2, "false_finds": 1, "recall": 2 / 3, "precision": 2 / 3,
        "auroc": 4 / 6, "matthews": pytest.approx(1 / 6), "matthews_best": found["matthews_best"],
    }  # fmt: skip
    assert found["matthews_best"] == pytest.approx(
        best_matthews(*map(np.array, ([0.9, 0.6, 0.2], [0.7, 0.1])))
    )
    nothing = presence([], away)
    assert nothing["recall"] is nothing["auroc"] is nothing["matthews"] is None
    assert presence(there, [])["recall"] == 2 / 3 and presence(there, [])["auroc"] is None
    assert presence([], [])["precision"] is None


# Places


def test_the_error_is_from_the_centre_to_the_box_of_the_nearest_thing():
    box, far = Place((0, 0, 0), (1, 1, 1)), Place((9, 9, 9), (9, 9, 9))
    assert error_of(thing(centre=(0.5, 0.5, 0.5)), [box]) == 0
    assert error_of(thing(centre=(4, 5, 1)), [far, box]) == pytest.approx(5)  # 3 and 4 beyond
    assert error_of(thing(centre=(9, 9, 8)), [far, box]) == pytest.approx(1)
    assert error_of(thing(), []) == math.inf


def test_of_a_part_the_error_is_from_its_centre_to_the_box_of_the_object():
    part = Place((3, 0, 0), (4, 0, 0), part=True)
    floor = thing(centre=(0, 0, 0), size=(8, 8, 0.1))  # its own centre is not in the part
    assert error_of(floor, [part]) == 0
    assert error_of(thing(centre=(0, 0, 0), size=(1, 1, 1)), [part]) == pytest.approx(3.0)


def test_localisation_counts_the_best_objects_of_known_places():
    places = {"a": [Place((0, 0, 0), (1, 1, 1))], "b": [Place((5, 0, 0), (5, 0, 0))], "d": []}
    near, far = thing(centre=(0.5, 0.5, 1.2)), thing(centre=(0.5, 0.5, 3))
    answers = [
        answer("a", 0.9, near, far),
        answer("b", 0.1),  # not found
        answer("c", 0.9, far),  # not known where
        answer("d", 0.9, far),
    ]
    assert localisation(answers, places, near=0.25) == {
        "known": 2, "accuracy": 0.5, "error": pytest.approx(0.2), "objects": 2, "at_place": 0.5,
    }  # fmt: skip
    assert localisation([], places, 0.25)["accuracy"] is None


def test_a_box_leaves_the_rim_out():
    xyz = np.concatenate([np.zeros((98, 3)), np.full((2, 3), 9.0)])
    place = box_around(xyz)
    assert place.lowest == (0, 0, 0) and max(place.highest) < 1 and not place.part
    assert box_around(np.ones((1, 3)), part=True) == Place((1, 1, 1), (1, 1, 1), part=True)
