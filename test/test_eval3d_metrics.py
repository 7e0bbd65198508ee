# SPDX-License-Identifier: Apache-2.0
"""Labels, neighbours and scores: golden numbers, slow references, laws, and the corners."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from conftest import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st

from eval3d.classes import ClassList
from eval3d.options import EvalConfig, with_options
from eval3d.scoring.metrics import (
    confusion,
    coverage,
    knn_labels,
    labels_from_probabilities,
    predict_labels,
    score,
    score_confusion,
    vote,
)
from eval3d.scoring.score import (
    LabelledMap,
    ignored_labels,
    label_map,
    metrics_dict,
    queried_labels,
    score_scene,
)
from eval3d.truth.ground_truth import GroundTruth
from radseg_ros.datatypes import ConfigError, FeatureMap, Frame, InputError
from radseg_ros.spaces import make_space
from radseg_ros.voxels.voxel_map import VoxelMap

K = np.array([[4.0, 0, 2], [0, 4, 2], [0, 0, 1]])
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def golden():
    with np.load(golden_file("evaluator.npz")) as data:
        return {key: data[key] for key in data.files}


def test_golden_labels(golden):
    assert np.array_equal(predict_labels(golden["map_feat"], golden["text"]), golden["preds"])
    tensors = torch.from_numpy(golden["map_feat"]), torch.from_numpy(golden["text"])
    assert np.array_equal(predict_labels(*tensors), golden["preds"])


@pytest.mark.parametrize("k", [1, 5])
def test_golden_neighbours_and_scores(golden, k):
    aligned = knn_labels(golden["gt_xyz"], golden["map_xyz"], golden["preds"], k)
    assert np.array_equal(aligned, golden[f"k{k}_aligned"])
    found = score(golden["gt"], aligned, 9)
    for name in ("tp", "fp", "fn"):
        assert np.array_equal(getattr(found, name), golden[f"k{k}_{name}"])
    for name in ("iou", "miou", "fmiou", "acc"):
        np.testing.assert_allclose(getattr(found, name), golden[f"k{k}_{name}"], atol=1e-6)


def test_golden_hovsg(golden):
    found = score(golden["gt"], golden["k5_aligned"], 9, "hovsg", golden["hovsg_ignore"])
    for name in ("miou", "fmiou", "macc", "acc"):
        assert getattr(found, name) == pytest.approx(float(golden[f"hovsg_{name}"]), abs=1e-9)


def test_the_order_of_the_voxels_changes_nothing(golden):
    rows, columns = RNG.permutation(len(golden["map_xyz"])), RNG.permutation(len(golden["gt_xyz"]))
    labels = predict_labels(golden["map_feat"][rows], golden["text"])
    assert np.array_equal(labels, golden["preds"][rows])
    aligned = knn_labels(golden["gt_xyz"][columns], golden["map_xyz"][rows], labels)
    assert np.array_equal(aligned, golden["k5_aligned"][columns])


def slow_predict(vectors, text, denoise, threshold):
    unit = [
        v / np.linalg.norm(v) if np.linalg.norm(v) > 0 else None for v in vectors.astype(np.float64)
    ]
    directions = text / np.linalg.norm(text, axis=1, keepdims=True)
    rows = []
    for v in unit:
        logits = None if v is None else 100 * (directions @ v)
        rows.append(
            np.zeros(len(text))
            if v is None
            else np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        )
    prob = np.array(rows)
    prob[:, prob.max(0) < denoise] = 0
    return np.array(
        [int(p.argmax()) + 1 if p.max() >= threshold and p.max() > 0 else 0 for p in prob]
    )


def test_labels_equal_a_slow_reference():
    vectors, text = RNG.normal(size=(300, 6)), RNG.normal(size=(11, 6))
    vectors[::50] = 0
    for denoise, threshold in ((0.5, 0.1), (0.0, 0.0), (0.999, 0.6)):
        assert np.array_equal(
            predict_labels(vectors, text, denoise, threshold),
            slow_predict(vectors, text, denoise, threshold),
        )


def test_corners_of_labels():
    text = np.eye(3)
    assert predict_labels(np.zeros((2, 3)), text).tolist() == [0, 0], "zero vectors predict nothing"
    assert predict_labels(np.array([[np.nan, 0, 1], [0, 0, 9.0]]), text).tolist() == [0, 3]
    assert predict_labels(np.zeros((0, 3)), text).tolist() == []
    assert predict_labels(np.ones((4, 3)), np.zeros((0, 3))).tolist() == [0] * 4, (
        "without classes nothing is predicted"
    )
    assert predict_labels(
        np.array([[0, 1.0, 0]]), text[[1, 1, 0]], denoise_threshold=0
    ).tolist() == [1], "ties: smallest label"
    assert predict_labels(1e-30 * np.eye(3), 1e30 * text).tolist() == [1, 2, 3], (
        "lengths do not matter"
    )
    assert predict_labels(torch.eye(3, dtype=torch.float16), torch.eye(3)).tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="3 channels, text has 4"):
        predict_labels(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match="vectors must be"):
        predict_labels(np.ones(3), text)


def test_denoising_looks_at_the_whole_map_unless_told():
    prob = np.array([[0.9, 0.1, 0.0], [0.2, 0.45, 0.35], [0.1, 0.1, 0.8]])
    assert labels_from_probabilities(prob).tolist() == [1, 3, 3], "class 2 never reaches 0.5"
    assert labels_from_probabilities(prob, denoise_threshold=0).tolist() == [1, 2, 3]
    assert labels_from_probabilities(prob, denoise_chunk=2).tolist() == [1, 1, 3], (
        "class 3 is not known in the first chunk"
    )
    assert labels_from_probabilities(prob, denoise_chunk=100).tolist() == [1, 3, 3]
    assert labels_from_probabilities(prob, prediction_threshold=0.85).tolist() == [1, 0, 0]
    assert labels_from_probabilities(
        prob, denoise_threshold=2.0, prediction_threshold=0.0
    ).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="denoise_chunk"):
        labels_from_probabilities(prob, denoise_chunk=0)


def slow_knn(gt, xyz, labels, k):
    out = []
    for point in gt:
        near = np.argsort(((xyz - point) ** 2).sum(1), kind="stable")[:k]
        votes = Counter(labels[near].tolist())
        out.append(min(label for label, count in votes.items() if count == max(votes.values())))
    return np.array(out)


@pytest.mark.parametrize("k", [1, 2, 5, 8, 500])
def test_neighbours_equal_a_slow_reference(k):
    xyz, gt = RNG.uniform(size=(200, 3)), RNG.uniform(size=(150, 3))  # no two are equally far
    labels = RNG.integers(0, 4, 200)
    assert np.array_equal(knn_labels(gt, xyz, labels, k), slow_knn(gt, xyz, labels, k))


def test_corners_of_neighbours():
    xyz = np.array([[0, 0, 0], [0.05, 0, 0], [1, 1, 1]], np.float32)
    assert knn_labels(xyz, xyz, [3, 1, 2], k=5).tolist() == [1, 1, 1], (
        "fewer than k: all vote, the smallest label wins the tie"
    )
    assert knn_labels(xyz, np.zeros((0, 3)), [], k=5).tolist() == [0, 0, 0], (
        "an empty map predicts nothing"
    )
    assert knn_labels(np.zeros((0, 3)), xyz, [3, 1, 2]).tolist() == []
    assert knn_labels(xyz, xyz, [0, 0, 2], k=3).tolist() == [0, 0, 0], (
        "no prediction counts like a label"
    )
    gt = np.array([[0.01, 0, 0], [0.1, 0, 0], [1, 1, 1]])
    assert knn_labels(gt, xyz, [3, 1, 2], k=0).tolist() == [3, 0, 2], (
        "k = 0: the same voxel or nothing"
    )
    assert knn_labels(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([4]), k=1).tolist() == [4]
    for bad in (
        {"k": -1},
        {"map_labels": [1]},
        {"map_labels": [0.5, 1, 1]},
        {"gt_xyz": np.full((1, 3), np.inf)},
        {"gt_xyz": np.zeros(3)},
    ):
        with pytest.raises(InputError):
            knn_labels(**{"gt_xyz": gt, "map_xyz": xyz, "map_labels": [3, 1, 2], **bad})


def test_equal_voxels_vote_for_k_0():
    xyz = np.array([[0.0, 0, 0], [0.01, 0, 0], [-0.01, 0, 0]])
    assert knn_labels([[0.0, 0, 0]], xyz, [5, 2, 5], k=0).tolist() == [5]
    assert knn_labels([[0.0, 0, 0]], xyz, [5, 2, 7], k=0).tolist() == [2]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_equally_far_neighbours_are_taken_in_one_order(axis, k):
    """Whatever the order of the rows: also of voxels that differ along one axis only."""
    steps = np.arange(-6, 7)
    xyz = np.zeros((len(steps), 3))
    xyz[:, axis] = steps
    labels = np.where(steps < 0, 7 + steps % 3, 3 - steps % 3)
    gt = np.zeros((11, 3))
    gt[:, axis] = np.arange(-5, 6) + 0.5  # halfway between two
    found = knn_labels(gt, xyz, labels, k)
    for _ in range(20):
        order = RNG.permutation(len(xyz))
        assert np.array_equal(knn_labels(gt, xyz[order], labels[order], k), found)


def test_thresholds_are_reached_by_what_equals_them():
    prob = np.array([[0.5, 0.25], [0.125, 0.75]], np.float32)
    assert labels_from_probabilities(prob, 0.5, 0.5).tolist() == [1, 2]
    assert labels_from_probabilities(prob, 0.75, 0.25).tolist() == [2, 2]
    assert labels_from_probabilities(prob, 0.75, 0.26).tolist() == [0, 2]


def test_coverage_ends_at_its_radius():
    voxel = np.zeros((1, 3))
    for x, covered in ((0.0999, 1), (0.1, 1), (0.1001, 0), (0.15, 0), (0.19, 0)):
        assert coverage([[x, 0, 0]], voxel, [1], 0.1) == covered, x


def test_votes_of_no_points():
    index, labels = vote(np.zeros((0, 3), int), np.zeros(0, int))
    assert index.shape == (0, 3) and labels.shape == (0,)


def slow_score(gt, predicted, classes, protocol, ignore):
    """Class by class with sets of rows, as the protocol reads."""
    gt, predicted = np.asarray(gt), np.asarray(predicted)
    scored = [c for c in range(1, classes + 1) if c not in ignore]
    if protocol == "radseg":
        keep = np.isin(gt, scored)
        gt, predicted = gt[keep], predicted[keep]
    ious, weights, recalls, hits = [], [], [], 0
    for c in scored:
        truth, claim = set(np.flatnonzero(gt == c)), set(np.flatnonzero(predicted == c))
        if truth:
            ious.append(len(truth & claim) / len(truth | claim))
            weights.append(len(truth))
            recalls.append(len(truth & claim) / len(truth))
            hits += len(truth & claim)
    if not ious:
        return [np.nan] * 4
    return [np.mean(ious), np.average(ious, weights=weights), np.mean(recalls), hits / sum(weights)]


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["radseg", "hovsg"]))
def test_scores_equal_a_slow_reference(data, protocol):
    size = data.draw(st.integers(0, 40))
    labels = st.lists(st.integers(0, 5), min_size=size, max_size=size)
    gt, predicted, ignore = (
        data.draw(labels),
        data.draw(labels),
        data.draw(st.sets(st.integers(-1, 6))),
    )
    found = score(np.array(gt, int), np.array(predicted, int), 5, protocol, ignore)
    np.testing.assert_allclose(
        list(found.means().values()), slow_score(gt, predicted, 5, protocol, ignore), rtol=1e-12
    )


def test_what_the_protocols_count():
    gt, predicted = [1, 1, 2, 2, 0, 3], [1, 0, 2, 1, 2, 2]
    radseg = score(gt, predicted, 4)
    assert (
        radseg.tp.tolist() == [1, 1, 0, 0]
        and radseg.fp.tolist() == [1, 1, 0, 0]
        and radseg.fn.tolist() == [1, 1, 1, 0]
    )
    np.testing.assert_allclose(radseg.iou, [1 / 3, 1 / 3, 0, np.nan])
    ignoring = score(gt, predicted, 4, ignore=(3,))
    assert ignoring.fp.tolist() == [1, 0, 0, 0] and np.isnan(ignoring.iou[2]), (
        "a voxel of an ignored class does not count"
    )
    hovsg = score(gt, predicted, 4, "hovsg", ignore=(0, 3))
    assert hovsg.fp.tolist() == [1, 2, 0, 0], (
        "predictions on ignored ground truth are false positives"
    )
    assert hovsg.miou == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert np.isnan(score([0, 0], [1, 2], 3).miou), "nothing to score"
    assert score([-1, 1], [-2, 1], 2).acc == 1.0, "negative labels are 0"


def test_scores_refuse_nonsense():
    with pytest.raises(InputError, match="label 5"):
        score([1, 5], [1, 1], 4)
    with pytest.raises(InputError, match="2 ground-truth labels, 1 predictions"):
        score([1, 1], [1], 4)
    with pytest.raises(ConfigError, match="radseg"):
        score([1], [1], 4, "radsegg")


def test_confusion_and_coverage():
    assert confusion([1, 2, 0], [2, 2, 1], 2).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 1]]
    gt, xyz = np.array([[0.0, 0, 0], [1, 0, 0], [0.1, 0, 0]]), np.array([[0.0, 0, 0], [1, 0, 0]])
    assert coverage(gt, xyz, [1, 0], 0.1) == pytest.approx(2 / 3), (
        "a voxel without a prediction covers nothing; the rim counts"
    )
    assert coverage(gt, xyz, [0, 0], 0.1) == 0.0
    assert np.isnan(coverage(np.zeros((0, 3)), xyz, [1, 1], 0.1))


def test_images_are_scored_over_every_class_that_occurs():
    truth = np.array([[1, 1, 2], [2, 3, 0]])
    predicted = np.array([[1, 2, 2], [0, 3, 5]])
    matrix = confusion(truth.ravel(), predicted.ravel(), 5)
    found = score_confusion(matrix, claimed=True)
    np.testing.assert_allclose(found.iou, [1 / 2, 1 / 3, 1, np.nan, np.nan])
    assert found.miou == pytest.approx((1 / 2 + 1 / 3 + 1) / 3), (
        "what nobody labelled is not judged"
    )
    assert found.acc == pytest.approx(3 / 5)
    assert found.macc == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    matrix[2, 4] = 1  # claims class 4, which is nowhere
    found = score_confusion(matrix, claimed=True)
    assert found.iou[3] == 0
    assert found.miou == pytest.approx((1 / 2 + 1 / 4 + 1 + 0) / 4)
    assert score_confusion(matrix).miou == pytest.approx((1 / 2 + 1 / 4 + 1) / 3), "3D: not judged"
    assert found.macc == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)


def test_votes_of_points():
    index = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    voxels, labels = vote(index, np.array([2, 7, 3, 3, 4]))
    assert voxels.tolist() == [[0, 0, 0], [1, 0, 0]] and labels.tolist() == [4, 3], (
        "majority; the lowest label on a tie"
    )


def test_stored_probabilities_are_found_by_the_names_of_their_labels():
    classes, encoder = ClassList("two", ("red", "green"), (1, 2)), ColorEncoder()
    frame = Frame(0, np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32), K, np.eye(4))
    for labels, expected in ((["red", "green"], 2), (["green", "red"], 1)):
        config = with_options(EvalConfig(), {"map.space": "probability", "map.labels": labels})
        voxel_map = VoxelMap(2, config.mapper.map)
        probability = torch.tensor([0.2, 0.8])[:, None, None].expand(2, 4, 4)
        voxel_map.integrate(frame, FeatureMap(probability.contiguous()))
        space = make_space(config.mapper, encoder)
        found = label_map(voxel_map, space, encoder, config, classes)
        assert len(found.label) and set(found.label) == {expected}
    others = ClassList("two", ("red", "blue"), (1, 2))
    with pytest.raises(InputError, match="2 classes, which are not the 2 that are asked for"):
        label_map(voxel_map, space, encoder, config, others)


@pytest.mark.parametrize("protocol", ["radseg", "hovsg"])
def test_a_scene_in_numbers(protocol):
    classes = ClassList(
        "four", ("chair", "table", "lamp", "wall"), (1, 2, 3, 4), frozenset({"wall"})
    )
    config = with_options(EvalConfig(), {"protocol": protocol, "k": 1})
    index = np.array([[i, 0, 0] for i in range(6)])
    gt = GroundTruth(index, np.array([1, 1, 2, 3, 4, 0]), 0.1, "by hand", "")
    labelled = LabelledMap(gt.xyz, np.array([1, 2, 2, 0, 1, 1]), np.zeros((6, 3)), 99, "")
    strict = protocol == "hovsg"  # chairs where nothing is scored are wrong
    assert queried_labels(config, classes) == ((1, 2, 3, 4) if strict else (1, 2, 3))
    doors = ClassList("two", ("cup", "door frame"), (1, 2))
    assert ignored_labels(config, doors) == ((2,) if strict else ())
    found = score_scene(labelled, gt, config, classes)
    numbers = metrics_dict(found, labelled, gt, classes)
    names = ("label", "name", "tp", "fp", "fn", "iou", "recall", "precision", "ceiling_iou")
    assert [tuple(row[name] for name in names) for row in numbers["classes"]] == [
        (1, "chair", 1, 2, 1, 1 / 4, 0.5, 1 / 3, 1.0)
        if strict
        else (1, "chair", 1, 0, 1, 1 / 2, 0.5, 1.0, 1.0),
        (2, "table", 1, 1, 0, 1 / 2, 1.0, 0.5, 1.0),
        (3, "lamp", 0, 0, 1, 0.0, 0.0, None, 1.0),
    ]
    assert numbers["macc"] == 0.5 and numbers["acc"] == 0.5
    assert numbers["gt_voxels"] == numbers["map_voxels"] == 6 and numbers["scored_voxels"] == 4
    assert numbers["map_voxels_without_prediction"] == 1 and numbers["map_bytes"] == 99
    assert (numbers["ground_truth"], found.predicted.tolist()) == ("by hand", [1, 2, 2, 0, 1, 1])
