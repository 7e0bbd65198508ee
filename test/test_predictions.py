# SPDX-License-Identifier: Apache-2.0
"""What other programs predicted is scored as what it is, or refused with the file and the cure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from damage import damaged
from PIL import Image
from test_segment import Colors, small_set, two_colors

from eval3d.classes import ClassList
from eval3d.options import EvalConfig, with_options
from eval3d.predictions.images import PredictedImages
from eval3d.predictions.maps import read_predicted_map
from radseg_ros.cli import eval2d
from radseg_ros.cli import segment as segment_cli
from radseg_ros.datatypes import InputError
from radseg_ros.encoders.protocol import ENCODERS

CLASSES = ClassList("three", ("wall", "floor", "chair"), (1, 2, 3), frozenset({"floor"}))
XYZ = np.arange(12, dtype=np.float32).reshape(4, 3)
# rows of a map: wall, chair, chair, nothing
CHANCE = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0, 0.4, 0.6], [0, 0, 0]], np.float32)
TEXT = np.eye(3, 5, dtype=np.float32)
VECTORS = np.array([[2, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0.1, 3, 0, 0], [0] * 5], np.float16)


def map_of(tmp_path, **arrays):
    np.savez(tmp_path / "map.npz", xyz=XYZ, **arrays)
    return read_predicted_map(EvalConfig(), tmp_path / "map.npz", CLASSES)


MAPS = {
    "labels": {"labels": np.array([1, 3, 3, 0])},
    "labels with none below 0": {"labels": np.array([1.0, 3, 3, -1])},
    "labels by name": {"labels": np.array([2, 1, 1, 0]), "names": ["chair", "wall"]},
    "probabilities of all classes": {"probabilities": CHANCE},
    "probabilities without the ignored": {"probabilities": CHANCE[:, [0, 2]]},
    "probabilities by name": {
        "probabilities": CHANCE[:, ::-1], "names": ["chair", "floor", "wall"],
    },
    "half precision": {"probabilities": CHANCE.astype(np.float16)},
    "features": {"features": VECTORS, "text": TEXT},
    "features by their first name": {"vectors": VECTORS, "text": TEXT[[0, 2]]},
    "features by name": {
        "features": VECTORS, "text": TEXT[::-1], "names": ["chair", "floor", "wall"],
    },
    "features with a scale": {"features": VECTORS, "text": TEXT, "logit_scale": 40.0},
}  # fmt: skip


@pytest.mark.parametrize("case", MAPS)
def test_a_map_in_arrays_has_the_labels_that_it_says(tmp_path, case):
    found, kind = map_of(tmp_path, **MAPS[case])
    assert found.label.tolist() == [1, 3, 3, 0] and kind in (*MAPS[case], "features")
    assert (found.xyz == XYZ).all() and found.rgb.shape == XYZ.shape


def test_the_rules_of_our_maps_hold_for_others(tmp_path):
    """A class that is nowhere as probable as 0.5 is removed; a best value below 0.1 is none."""
    chance = np.array([[0.45, 0.0, 0.05], [0.4, 0.0, 0.9], [0.3, 0.0, 0.05], [0.2, 0, 0]])
    found, _ = map_of(tmp_path, probabilities=chance)
    assert found.label.tolist() == [0, 3, 0, 0]
    loose = with_options(EvalConfig(), {"denoise_threshold": 0.0, "prediction_threshold": 0.25})
    found, _ = read_predicted_map(loose, tmp_path / "map.npz", CLASSES)
    assert found.label.tolist() == [1, 3, 1, 0]


def test_a_scale_makes_probabilities_flatter(tmp_path):
    near = np.array([[1, 0, 0.9, 0, 0]] * 4, np.float32)  # 0.74 to wall, 0.67 to chair
    sure = with_options(EvalConfig(), {"prediction_threshold": 0.9})
    for more, label in (({}, 1), ({"logit_scale": 40.0}, 1), ({"logit_scale": 1.0}, 0)):
        np.savez(tmp_path / "map.npz", xyz=XYZ, features=near, text=TEXT, **more)
        found, _ = read_predicted_map(sure, tmp_path / "map.npz", CLASSES)
        assert found.label.tolist() == [label] * 4, more


REFUSED_MAPS = {
    "nothing": ({}, "holds xyz; need labels, or probabilities, or features with text"),
    "two kinds": (MAPS["labels"] | MAPS["probabilities by name"], "need labels, or"),
    "no text": ({"features": VECTORS}, "features with text"),
    "too many labels": ({"labels": np.array([1, 2, 4, 0])}, "holds the label 4, there are 3"),
    "halves": ({"labels": np.array([1, 2, 1.5, 0])}, "whole numbers"),
    "texts": ({"labels": np.array(list("abcd"))}, "labels must be finite numbers"),
    "other lengths": ({"labels": np.array([1, 2])}, "4 positions do not fit 2 labels"),
    "an unknown name": (
        {"labels": np.array([1, 1, 1, 1]), "names": ["unicorn"]}, "'unicorn', which no class",
    ),
    "a label beyond the names": (
        {"labels": np.array([1, 2, 1, 1]), "names": ["wall"]}, "there are 1 names of the file",
    ),
    "a name that lacks": (
        {"probabilities": CHANCE[:, :2], "names": ["wall", "floor"]}, "names lacks 'chair'",
    ),
    "a name twice": (
        {"probabilities": CHANCE, "names": ["wall", "wall", "chair"]}, "has one twice",
    ),
    "names that do not fit": ({"probabilities": CHANCE, "names": ["wall"]}, "1 entries for 3"),
    "another number of classes": (
        {"probabilities": CHANCE[:, :1]}, "is of 1 classes, the class list asks for 2 or 3",
    ),
    "logits": ({"probabilities": 9 * CHANCE}, "reach from 0 to 8.1, not from 0 to 1"),
    "not finite": ({"probabilities": CHANCE * np.nan}, "must be finite numbers"),
    "text of another width": ({"features": VECTORS, "text": TEXT[:, :3]}, "text must be finite"),
    "a scale of 0": (MAPS["features"] | {"logit_scale": 0.0}, "logit_scale must be above 0"),
    "a vector of scales": (MAPS["features"] | {"logit_scale": [1.0]}, "logit_scale must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_MAPS)
def test_a_map_that_cannot_be_scored_is_refused(tmp_path, case):
    arrays, reason = REFUSED_MAPS[case]
    with pytest.raises(InputError, match=reason.replace("(", r"\(")) as caught:
        map_of(tmp_path, **arrays)
    assert "map.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_positions_are_checked(tmp_path):
    np.savez(tmp_path / "map.npz", labels=np.array([1]))
    with pytest.raises(InputError, match="has no array xyz"):
        read_predicted_map(EvalConfig(), tmp_path / "map.npz", CLASSES)
    wrong = ((XYZ[:, :2], "xyz must be"), (XYZ * 1e10, "m off"), (XYZ * np.nan, "finite"))
    for xyz, reason in wrong:
        np.savez(tmp_path / "map.npz", xyz=xyz, labels=np.array([1, 1, 1, 1]))
        with pytest.raises(InputError, match=reason):
            read_predicted_map(EvalConfig(), tmp_path / "map.npz", CLASSES)


# Images

SIZE = (48, 96)
TRUE = np.where(two_colors(*SIZE)[..., 0] > 0, 1, 2)  # red, green


def score(root, *more):
    """What radseg-eval2d says of the predictions in ``root/predicted``."""
    small_set(root, ".png", ".png", 1)
    words = ["--classes", str(root / "classes.txt"), "--json", str(root / "out.json")]
    folders = [str(root / "predicted"), str(root / "labels")]
    status = eval2d.main([*folders, *words, "--predicted", *more])
    return json.loads((root / "out.json").read_text()) if status == 0 else None


def predict(root, write, images=3):
    (root / "predicted").mkdir(exist_ok=True)
    for i in range(images):
        write(root / "predicted" / f"p{i}")


def chance(labels):
    return np.stack([labels == label for label in (1, 2, 3)]).astype(np.float32)


WRITERS = {
    "labels": lambda path: np.savez(path, labels=TRUE.astype(np.uint8)),
    "a PNG": lambda path: Image.fromarray(TRUE.astype(np.uint8)).save(f"{path}_labels.png"),
    "labels by name": lambda path: np.savez(path, labels=TRUE, names=["crimson", "green"]),
    "probabilities": lambda path: np.savez(path, probabilities=chance(TRUE)),
    "probabilities of all names": lambda path: np.savez(
        path, probabilities=chance(TRUE)[[0, 0, 1, 2]] / [[[2.0]], [[1]], [[1]], [[1]]]
    ),
    "features": lambda path: np.savez(path, features=chance(TRUE), text=np.eye(3)),
    "features by name": lambda path: np.savez(
        path, features=chance(TRUE), text=np.eye(3)[::-1], names=["blue", "green", "red"]
    ),
}


@pytest.mark.parametrize("case", WRITERS)
def test_predictions_of_images_have_the_known_score(tmp_path, case):
    predict(tmp_path, WRITERS[case])
    found = score(tmp_path)
    pixels, wrong = 48 * 96 - 64, int((TRUE == 1).sum()) - 64
    assert found["accuracy"] == pytest.approx(1 - wrong / (3 * pixels), abs=1e-12)
    assert found["iou"]["blue"] is None and found["images"] == 3
    said = found["protocol"]
    assert said["encoder"].startswith("another program's") and "SHA-256" in said["weights"]


def test_coarse_maps_are_enlarged_as_ours_are(tmp_path, monkeypatch):
    """The features of an encoder, written to files, score as the encoder itself."""
    encoder = Colors()
    small_set(tmp_path, ".png", ".png", 1)
    text = encoder.embed_labels(["red", "crimson", "green", "blue"]).numpy()

    def write(path):
        rgb = np.asarray(Image.open(tmp_path / "images" / f"{path.name}.png"))
        np.savez(path, features=encoder.encode(rgb).data.numpy())

    predict(tmp_path, write)
    np.savez(tmp_path / "predicted" / "text.npz", text=text, logit_scale=encoder.logit_scale)
    found = score(tmp_path)
    monkeypatch.setitem(ENCODERS, "radseg", lambda options: encoder)
    words = ["--classes", str(tmp_path / "classes.txt"), "--short-side", "0"]
    folders = [str(tmp_path / "images"), str(tmp_path / "labels")]
    assert eval2d.main([*folders, *words, "--json", str(tmp_path / "own.json")]) == 0
    images = [str(path) for path in sorted((tmp_path / "images").iterdir())]
    out = tmp_path / "segmented"
    assert segment_cli.main([*images, *words, "--out", str(out), "--save-probabilities"]) == 0
    ours = json.loads((tmp_path / "own.json").read_text())
    assert found["iou"] == ours["iou"] and found["miou"] == ours["miou"]
    # what radseg-segment writes can be scored as it is
    (tmp_path / "predicted").rename(tmp_path / "features")
    out.rename(tmp_path / "predicted")
    assert score(tmp_path)["iou"] == ours["iou"]


def test_label_maps_may_begin_at_0(tmp_path):
    predict(tmp_path, lambda path: np.savez(path, labels=(TRUE - 1).astype(np.uint8)))
    assert score(tmp_path)["miou"] < 0.5
    assert score(tmp_path, "--first-predicted-label", "0")["accuracy"] > 0.7


REFUSED_IMAGES = {
    "another size": (
        lambda path: np.savez(path, labels=TRUE.T), "for an image of (48, 96): write them at",
    ),
    "a label too many": (
        lambda path: np.savez(path, labels=TRUE + 2), "holds the label 4, there are 3 classes",
    ),
    "logits": (lambda path: np.savez(path, probabilities=9 * chance(TRUE)), "softmax of logits"),
    "one channel": (lambda path: np.savez(path, probabilities=TRUE[None] / 2), "is of 1 classes"),
    "no maps": (lambda path: np.savez(path, probabilities=TRUE / 2), "of shape (N, N, N)"),
    "empty maps": (
        lambda path: np.savez(path, probabilities=np.zeros((3, 0, 4))), "of shape (3, 0, 4)",
    ),
    "damaged": (lambda path: path.with_suffix(".npz").write_bytes(b"PK no"), "cannot be read"),
    "a PNG in colours": (
        lambda path: Image.fromarray(two_colors(*SIZE)).save(f"{path}.png"), "one channel of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_IMAGES)
def test_a_segmentation_that_cannot_be_scored_is_refused(tmp_path, capsys, case):
    write, reason = REFUSED_IMAGES[case]
    predict(tmp_path, write)
    assert score(tmp_path) is None
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("radseg-eval2d: ") and reason in error and "p0" in error


def test_an_image_without_prediction_is_named(tmp_path, capsys):
    predict(tmp_path, WRITERS["labels"], images=2)
    assert score(tmp_path) is None
    assert "no image for 1 of 3 label images, e.g. p2.png" in capsys.readouterr().err


def test_large_maps_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("eval3d.predictions.images.MAX_MAPS", 1000)
    np.savez(tmp_path / "p.npz", probabilities=np.zeros((3, 4, 4), np.float32))
    with pytest.raises(InputError, match="probabilities of shape"):
        PredictedImages(tmp_path, [["a"], ["b"], ["c"]])(tmp_path / "p.npz", (30, 40))


def test_damaged_and_odd_files_are_refused_or_scored(tmp_path):
    path, classes = tmp_path / "p.npz", [["red", "crimson"], ["green"], ["blue"]]
    odd = [np.zeros(0), np.array("x"), np.array(["a", "b"]), TRUE * 1j, TRUE - 9, TRUE[None], 1.5]
    odd += [np.full(SIZE, np.uint64(2**64 - 1)), np.zeros((0, 4, 4)), np.eye(3) * np.nan]
    kinds = {
        "labels": {"labels": TRUE, "names": np.array(["red", "green", "blue"])},
        "probabilities": {"probabilities": chance(TRUE), "names": np.array(["red"])},
        "features": {"features": chance(TRUE), "text": np.eye(3), "logit_scale": np.array(9.0)},
    }
    scored = refused = 0
    for arrays in kinds.values():
        np.savez(path, **arrays)
        files = list(damaged(path.read_bytes(), 40))
        for name in arrays:
            for other in odd:
                np.savez(path, **{**arrays, name: other})
                files.append(path.read_bytes())
        for data in files:
            path.write_bytes(data)
            try:
                found = PredictedImages(tmp_path, classes)(path, SIZE)
                assert found.shape == SIZE and found.min() >= 0 and found.max() <= 3
                scored += 1
            except InputError as error:
                assert "p.npz" in str(error) and "\n" not in str(error)
                refused += 1
    assert scored > 5 and refused > 100
