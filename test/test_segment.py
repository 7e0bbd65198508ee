# SPDX-License-Identifier: Apache-2.0
"""Segmentation of pictures of two colours, whose answer is known, from the functions up to the
commands.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval3d.datasets.labelled_images import truth_image
from radseg_ros.cli import eval2d
from radseg_ros.cli import segment as segment_cli
from radseg_ros.datatypes import FeatureMap, InputError
from radseg_ros.segmentation.maps import Segmentation, denoise, label_map, merge_synonyms
from radseg_ros.segmentation.probabilities import (
    Segmenter,
    probabilities,
    probability_map,
    read_classes,
    read_rgb,
)
from radseg_ros.segmentation.settings import SETTINGS

COLORS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "crimson": (1, 0, 0),
    "lime": (0, 1, 0),
}


class Colors:
    """An encoder whose language is colours: one patch per 4 x 4 pixels."""

    name, channels, language_channels, logit_scale, background = "colours", 3, 3, 20.0, ("grey",)
    checkpoint_hash, language, sam, device = "", "", None, torch.device("cpu")

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def encode(self, rgb):
        self.seen.append(rgb.shape[:2])
        rgb = rgb / 255 if rgb.dtype == np.uint8 else rgb
        return FeatureMap(
            torch.nn.functional.avg_pool2d(
                torch.from_numpy(np.asarray(rgb, np.float32)).permute(2, 0, 1), 4
            )
        )

    def project(self, vectors):
        return vectors

    def embed_labels(self, labels):
        return torch.tensor([COLORS[label] for label in labels], dtype=torch.float32)

    embed_prompts = embed_labels

    def embed_meanings(self, texts, prompts=False):
        return self.embed_labels(texts)

    def at_hand(self, labels):
        return []


def two_colors(height=32, width=48) -> np.ndarray:
    """Red on the left two thirds, green on the right."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width * 2 // 3, 0] = 255
    rgb[:, width * 2 // 3 :, 1] = 255
    return rgb


@pytest.fixture
def colors(monkeypatch) -> Colors:
    encoder = Colors()
    monkeypatch.setattr(
        "radseg_ros.encoders.protocol.ENCODERS", {"radseg": lambda options: encoder}
    )
    return encoder


def test_probabilities_of_two_colors():
    encoder = Colors()
    maps = probabilities(encoder, two_colors(), encoder.embed_labels(["red", "green", "blue"]))
    assert maps.shape == (3, 32, 48)
    assert maps[0, :, :28].min() > 0.99 and maps[1, :, 36:].min() > 0.99
    assert (maps[2] == 0).all()  # nowhere as probable as 0.5
    kept = probabilities(
        encoder,
        two_colors(),
        encoder.embed_labels(["red", "green", "blue"]),
        denoise_threshold=0.0,
    )
    torch.testing.assert_close(kept.sum(0), torch.ones(32, 48))
    labels = label_map(maps)
    assert (labels[:, :28] == 1).all() and (labels[:, 36:] == 2).all()
    patches = probability_map(
        encoder, two_colors(), encoder.embed_labels(["red", "green", "blue"])
    ).data
    assert patches.shape == (3, 8, 12) and (patches[2] == 0).all()


def test_result_of_another_size():
    encoder = Colors()
    vectors = encoder.embed_labels(["red", "green"])
    assert probabilities(encoder, two_colors(), vectors, size=(50, 60)).shape == (2, 50, 60)
    segmenter = Segmenter(encoder, [["red"], ["green"]], short_side=16)
    segmentation = segmenter(two_colors())
    assert segmentation.probabilities.shape == (2, 32, 48) and encoder.seen[-1] == (16, 24)


@pytest.mark.parametrize("vectors", [torch.zeros(0, 3), torch.zeros(3), torch.zeros(2, 4)])
def test_vectors_that_do_not_fit(vectors):
    with pytest.raises(InputError, match=r"\(Q, 3\)"):
        probabilities(Colors(), two_colors(), vectors)


def test_a_class_is_as_probable_as_its_best_name():
    maps = torch.tensor([0.1, 0.6, 0.3]).view(3, 1, 1).expand(3, 2, 2)
    merged = merge_synonyms(maps, [["a", "b"], ["c"]])
    torch.testing.assert_close(merged[:, 0, 0], torch.tensor([0.6, 0.3]))
    assert denoise(merged.clone(), 0.5)[:, 0, 0].tolist() == [pytest.approx(0.6), 0]


def test_no_label_where_nothing_is_left_or_sure_enough():
    maps = torch.tensor([[[0.0, 0.4, 0.2]], [[0.0, 0.3, 0.7]]])
    assert label_map(maps).tolist() == [[0, 1, 2]]
    assert Segmentation.of(maps).labels().tolist() == [[0, 1, 2]]
    assert Segmentation.of(maps).labels(0.5).tolist() == [[0, 0, 2]]


def test_class_files(tmp_path):
    (tmp_path / "c.txt").write_text("sofa, couch ,\n\n chair\n")
    assert read_classes(tmp_path / "c.txt") == [["sofa", "couch"], ["chair"]]
    (tmp_path / "c.txt").write_text("\n , \n")
    for name in ("c.txt", "absent.txt"):
        with pytest.raises(InputError, match=name):
            read_classes(tmp_path / name)


def test_images_are_upright_rgb(tmp_path):
    grey = Image.new("L", (6, 4), 128)
    grey.save(tmp_path / "grey.png")
    assert read_rgb(tmp_path / "grey.png").shape == (4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    grey.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg").shape == (6, 4, 3)
    (tmp_path / "cut.png").write_bytes((tmp_path / "grey.png").read_bytes()[:50])
    with pytest.raises(InputError, match="cut.png"):
        read_rgb(tmp_path / "cut.png")


def test_radseg_segment(tmp_path, colors, capsys):
    Image.fromarray(two_colors(120, 180)).save(tmp_path / "picture.png")
    arguments = [
        str(tmp_path / "picture.png"),
        "--labels",
        "red, green,blue",
        "--out",
        str(tmp_path / "out"),
    ]
    assert segment_cli.main([*arguments, "--short-side", "32", "--save-probabilities"]) == 0
    labels = np.array(Image.open(tmp_path / "out" / "picture_labels.png"))
    assert (
        labels.shape == (120, 180) and (labels[:, :110] == 1).all() and (labels[:, 130:] == 2).all()
    )
    overlay = np.array(Image.open(tmp_path / "out" / "picture_overlay.png"))
    assert overlay.shape[0] == 120 and overlay.shape[1] > 180  # the legend stands beside the image
    assert (overlay[:, 180:] != 255).any() and not (overlay[60, 50] == overlay[60, 150]).all()
    with np.load(tmp_path / "out" / "picture_probabilities.npz") as content:
        assert content["probabilities"].shape == (3, 120, 180) and content["labels"].tolist() == [
            "red",
            "green",
            "blue",
        ]
    assert colors.seen == [(32, 48)]


def test_radseg_segment_with_classes_and_images_of_one_name(tmp_path, colors, capsys):
    (tmp_path / "c.txt").write_text("red, crimson\nlime, green\n")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(two_colors()).save(tmp_path / folder / "x.png")
    images = [str(tmp_path / folder / "x.png") for folder in ("a", "b")]
    assert (
        segment_cli.main(
            [*images, "--classes", str(tmp_path / "c.txt"), "--out", str(tmp_path / "out")]
        )
        == 0
    )
    assert sorted(p.name for p in (tmp_path / "out").glob("*labels*")) == [
        "a_x_labels.png",
        "b_x_labels.png",
    ]
    assert (
        segment_cli.main([images[0], images[0], "--labels", "red", "--out", str(tmp_path / "out")])
        == 1
    )
    assert "two images would be written as a_x" in capsys.readouterr().err
    assert (
        segment_cli.main(
            [str(tmp_path / "none.png"), "--labels", "red", "--out", str(tmp_path / "out")]
        )
        == 1
    )
    assert "none.png" in capsys.readouterr().err


def test_nothing_is_loaded_for_images_that_are_not_there(tmp_path, capsys):
    weights = ["--labels", "red", "--out", str(tmp_path / "out"), "--checkpoint", "nowhere.pth"]
    for name, why in ((tmp_path / "none.png", "none.png: no such file"), (tmp_path, "is a folder")):
        assert segment_cli.main([str(name), *weights]) == 1
        assert why in capsys.readouterr().err


def damaged_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes()
    Image.fromarray(two_colors()).save(path, "JPEG", exif=data[:14] + b"\xff" * 40)


UNUSABLE = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "no image": (lambda path: path.write_text("nope"), "cannot be read"),
    "cut": (lambda path: path.write_bytes(image_bytes()[:-30]), "cannot be read"),
    "a folder": (lambda path: path.mkdir(), "cannot be read"),
    "a strip": (lambda path: save_zeros(path, 3, 320), "times as long as wide"),
    "a tower": (lambda path: save_zeros(path, 320, 3), "times as long as wide"),
    "one row": (lambda path: save_zeros(path, 1, 50), "times as long as wide"),
    "too large": (lambda path: save_zeros(path, 200, 200), "million pixels"),
    "too large for its labels": (lambda path: save_zeros(path, 100, 120), "name 4 at most"),
}


def image_bytes() -> bytes:
    file = io.BytesIO()
    Image.fromarray(two_colors()).save(file, "PNG")
    return file.getvalue()


def save_zeros(path: Path, height: int, width: int) -> None:
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, "PNG")


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_image_that_cannot_be_used_costs_itself(tmp_path, colors, capsys, monkeypatch, case):
    monkeypatch.setattr("radseg_ros.files.MAX_PIXELS", 30_000)
    monkeypatch.setattr("radseg_ros.segmentation.probabilities.MAX_MAPS", 50_000)
    spoil, reason = UNUSABLE[case]
    images = [tmp_path / name for name in ("a.png", "bad.png", "c.png")]
    for path in (images[0], images[2]):
        path.write_bytes(image_bytes())
    spoil(images[1])
    out = tmp_path / "out"
    labels = "red,green,blue,lime,crimson"
    arguments = [*map(str, images), "--labels", labels, "--short-side", "32", "--out", str(out)]
    assert segment_cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert "2 of 3 images" in captured.out
    assert captured.err.startswith("radseg-segment: ") and captured.err.count("\n") == 1
    assert str(images[1]) in captured.err and reason in captured.err
    assert sorted(p.name for p in out.iterdir()) == [
        f"{stem}_{kind}.png" for stem in "ac" for kind in ("labels", "overlay")
    ]


def test_a_damaged_exif_tag_costs_at_most_its_image(tmp_path, colors):
    damaged_exif(tmp_path / "a.jpg")
    arguments = [str(tmp_path / "a.jpg"), "--labels", "red", "--out", str(tmp_path / "out")]
    assert segment_cli.main(arguments) in (0, 1)


def test_any_error_of_one_image_leaves_the_others(tmp_path, colors, capsys, monkeypatch):
    encode = colors.encode

    def failing(rgb):
        if rgb.max() == 0:
            raise MemoryError
        return encode(rgb)

    monkeypatch.setattr(colors, "encode", failing)
    save_zeros(tmp_path / "a.png", 30, 40)
    (tmp_path / "b.png").write_bytes(image_bytes())
    images = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert segment_cli.main([*images, "--labels", "red", "--out", str(tmp_path / "out")]) == 1
    assert f"{images[0]}: out of memory" in capsys.readouterr().err
    assert (tmp_path / "out" / "b_labels.png").exists()


LABELS = {
    "none": ([" , "], "at least one label"),
    "one twice": (["red,green,red"], "2 classes are called 'red'"),
    "one in capitals": (["red,Red"], "2 classes are called 'red'"),
    "too many": ([",".join(f"thing {i}" for i in range(10_001))], "at most 10000 labels"),
    "too long": (["red," + "x" * 100_001], "a label takes at most 100000 characters"),
    "other bytes": ([os.fsdecode(b"red,gr\xfcn")], "is not UTF-8"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_looked_for(tmp_path, colors, capsys, case):
    (words,), reason = LABELS[case]
    (tmp_path / "a.png").write_bytes(image_bytes())
    arguments = [str(tmp_path / "a.png"), "--labels", words, "--out", str(tmp_path / "out")]
    assert segment_cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and not colors.seen
    with pytest.raises(InputError, match=reason):
        Segmenter(colors, [[name] for name in words.split(",")] if words.strip(" ,") else [])


def test_labels_of_many_lines_and_long_labels_fit_the_legend(tmp_path, colors, monkeypatch):
    monkeypatch.setattr(colors, "embed_labels", lambda names: torch.eye(3)[: len(names)])
    (tmp_path / "a.png").write_bytes(image_bytes())
    out = tmp_path / "out"
    labels = "a\nb\tc," + "x" * 50_000
    assert segment_cli.main([str(tmp_path / "a.png"), "--labels", labels, "--out", str(out)]) == 0
    assert Image.open(out / "a_overlay.png").width < 1000


def test_images_of_any_name_are_segmented(tmp_path, colors, capsys):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.png"))
    path.write_bytes(image_bytes())
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xff"))
    assert segment_cli.main([str(path), "--labels", "red", "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 2 and "1 of 1 images" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/out"])
def test_a_place_for_results_that_is_none(tmp_path, colors, capsys, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "a.png").write_bytes(image_bytes())
    arguments = [str(tmp_path / "a.png"), "--labels", "red", "--out", str(tmp_path / place)]
    assert segment_cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert place.split("/")[0] in error and error.count("\n") == 1 and not colors.seen


@pytest.mark.parametrize(
    "words",
    [
        *(["--short-side", "-5"], ["--short-side", "1000000000"], ["--set", "no.such=1"]),
        *(["--threshold", "nan"], ["--threshold", "2"], ["--denoise", "-inf"], ["--denoise", "x"]),
    ],
    ids=" ".join,
)
def test_numbers_that_cannot_be(tmp_path, colors, capsys, words):
    (tmp_path / "a.png").write_bytes(image_bytes())
    arguments = [str(tmp_path / "a.png"), "--labels", "red", "--out", str(tmp_path / "out")]
    try:
        status = segment_cli.main([*arguments, *words])
    except SystemExit as stop:  # argparse's way
        status = stop.code
    error = capsys.readouterr().err
    assert status in (1, 2) and "Traceback" not in error and not colors.seen
    assert words[0].lstrip("-").replace("-", "_") in error.replace("-", "_") or "no.such" in error


CLASS_FILES = {
    "c.tsv": ("1\twall\n", r"is a \.txt file"),
    "c.json": ('["wall"]', r"is a \.txt file"),
    "c.csv": ("wall,floor\n", r"is a \.txt file"),
    "twice.txt": ("wall, side\nfloor\nWall\n", "2 classes are called 'wall'"),
    "utf16.txt": ("wall\n".encode("utf-16"), "not text in UTF-8"),
    "latin.txt": ("T\xfcr\n".encode("latin-1"), "not text in UTF-8"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text in UTF-8"),
    "empty.txt": ("", "names no class"),
    "long.txt": ("x" * 100_001, "at most 100000 characters"),
}


@pytest.mark.parametrize("name", CLASS_FILES)
def test_class_files_that_cannot_be(tmp_path, name):
    content, reason = CLASS_FILES[name]
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        read_classes(tmp_path / name)
    assert name in str(caught.value)


def test_class_files_with_a_mark_and_synonyms_of_two_classes(tmp_path):
    text = "sofa, couch\r\nbed, couch\r\nfloor  lamp\r\n"
    (tmp_path / "c.txt").write_bytes(text.encode("utf-8-sig"))
    assert read_classes(tmp_path / "c.txt") == [["sofa", "couch"], ["bed", "couch"], ["floor lamp"]]


def test_the_legend_takes_any_number_of_labels():
    titles = [f"label {i}" for i in range(60)]
    labels = (np.arange(64 * 64).reshape(64, 64) % 61).astype(np.int64)
    picture = segment_cli.overlay(np.zeros((64, 64, 3), np.uint8), labels, titles)
    assert picture.height == 64 and picture.width > 64 + 5 * 60
    assert segment_cli.overlay(np.zeros((64, 64, 3), np.uint8), 0 * labels, titles).size == (64, 64)


def test_label_values(tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(tmp_path / "l.png")
    assert truth_image(tmp_path / "l.png", 3, 1).tolist() == [[0, 1, 2, 0]]
    assert truth_image(tmp_path / "l.png", 3, 0).tolist() == [[1, 2, 3, 0]]
    with pytest.raises(InputError, match="value 2, but there are 1 classes"):
        truth_image(tmp_path / "l.png", 1, 1)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match="one channel"):
        truth_image(tmp_path / "rgb.png", 3, 1)


def small_set(
    root: Path, image_ending: str, label_ending: str, first_label: int, split: str = ""
) -> None:
    """Three pictures of two colours.

    The truth of the last one calls everything green, and has a void corner.
    """
    for i in range(3):
        image, label = (
            root / "images" / split / f"p{i}{image_ending}",
            root / "labels" / split / f"p{i}{label_ending}",
        )
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(two_colors(48, 96)).save(image)
        truth = np.where(two_colors(48, 96)[..., 0] > 0, 0, 1) if i < 2 else np.ones((48, 96))
        truth = (truth + first_label).astype(np.uint8)
        truth[:8, :8] = 255
        Image.fromarray(truth).save(label)
    (root / "classes.txt").write_text("red, crimson\ngreen\nblue\n")


@pytest.mark.parametrize(
    ("settings", "image_ending", "label_ending", "first_label", "split"),
    [
        ("voc-mid", ".png", ".png", 1, ""),
        ("cityscapes-low", "_leftImg8bit.png", "_gtFine_labelTrainIds.png", 0, "val/town"),
        ("stuff-low", ".png", "_labelTrainIds.png", 0, "val"),
    ],
)
def test_miou_over_folders(
    tmp_path, colors, capsys, settings, image_ending, label_ending, first_label, split
):
    small_set(tmp_path, image_ending, label_ending, first_label, split)
    if settings.startswith("cityscapes"):  # its other exports lie beside
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(
            tmp_path / "labels" / split / "p0_gtFine_color.png"
        )
    folders = [
        str(tmp_path / "images"),
        str(tmp_path / "labels"),
        "--classes",
        str(tmp_path / "classes.txt"),
    ]
    assert (
        eval2d.main([*folders, "--settings", settings, "--json", str(tmp_path / "out.json")]) == 0
    )
    result = json.loads((tmp_path / "out.json").read_text())
    pixels = 48 * 96 - 64
    red, green, wrong = 2 * (48 * 64 - 64), 2 * 48 * 32 + 48 * 32, 48 * 64 - 64
    assert result["iou"]["red"] == pytest.approx(red / (red + wrong), abs=0.02)
    assert result["iou"]["green"] == pytest.approx(green / (green + wrong), abs=0.02)
    assert result["iou"]["blue"] is None
    assert result["miou"] == pytest.approx((result["iou"]["red"] + result["iou"]["green"]) / 2)
    assert result["accuracy"] == pytest.approx(1 - wrong / (3 * pixels), abs=0.02)
    assert min(colors.seen[0]) == SETTINGS[settings][0] and result["images"] == 3
    assert "mIoU" in capsys.readouterr().out


def test_background_gets_what_is_not_sure(tmp_path, colors):
    small_set(tmp_path, ".png", ".png", 0)
    (tmp_path / "classes.txt").write_text(
        "blue\ngreen\n"
    )  # blue stands for background: red looks like neither
    folders = [
        str(tmp_path / "images"),
        str(tmp_path / "labels"),
        "--classes",
        str(tmp_path / "classes.txt"),
    ]
    options = [
        "--first-label",
        "0",
        "--short-side",
        "0",
        "--limit",
        "2",
        "--json",
        str(tmp_path / "out.json"),
    ]
    assert eval2d.main([*folders, *options, "--background", "--threshold", "0.7"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["miou"] > 0.9


def test_folders_that_do_not_match(tmp_path, colors, capsys):
    small_set(tmp_path, ".png", ".png", 1)
    folders = [
        str(tmp_path / "images"),
        str(tmp_path / "labels"),
        "--classes",
        str(tmp_path / "classes.txt"),
    ]
    (tmp_path / "void").mkdir()
    for path in (tmp_path / "labels").iterdir():
        Image.fromarray(np.full((48, 96), 255, np.uint8)).save(tmp_path / "void" / path.name)
    assert eval2d.main([folders[0], str(tmp_path / "void"), *folders[2:]]) == 1
    assert "no labelled pixel" in capsys.readouterr().err
    (tmp_path / "images" / "more").mkdir()
    twin = (tmp_path / "images" / "p2.png").rename(tmp_path / "images" / "more" / "p2.png")
    Image.open(twin).save(tmp_path / "images" / "p2.jpg")
    assert eval2d.main(folders) == 1
    assert "which one is the image of" in capsys.readouterr().err
    (tmp_path / "images" / "p1.png").unlink()
    assert eval2d.main(folders) == 1
    assert "no image for 1 of 3 label images, e.g. p1.png" in capsys.readouterr().err
    assert eval2d.main([str(tmp_path / "nowhere"), *folders[1:]]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err


SPOILED = {
    "a cut label": (lambda p: p.write_bytes(p.read_bytes()[:60]), "label image cannot be read"),
    "a label in colours": (lambda p: save_zeros(p, 48, 96), "one channel of class numbers"),
    "a JPEG as label": (
        lambda p: Image.fromarray(np.zeros((48, 96), np.uint8)).save(p, "JPEG"),
        "a JPEG does not keep class numbers exact",
    ),
    "a class too many": (
        lambda p: Image.fromarray(np.full((48, 96), 9, np.uint8)).save(p),
        "there are 3 classes",
    ),
    "no image": (lambda p: p.write_text("x"), "cannot be read"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_number_over_fewer_images_is_none(tmp_path, colors, capsys, case):
    """An evaluation stops at the first image that it cannot score, and names it."""
    spoil, reason = SPOILED[case]
    small_set(tmp_path, ".png", ".png", 1)
    spoil(tmp_path / ("images" if case == "no image" else "labels") / "p1.png")
    folders = [str(tmp_path / "images"), str(tmp_path / "labels")]
    arguments = [*folders, "--classes", str(tmp_path / "classes.txt")]
    assert eval2d.main(arguments) == 1
    captured = capsys.readouterr()
    assert reason in captured.err and "p1.png" in captured.err and captured.out == ""
    assert captured.err.strip().splitlines()[-1].startswith("radseg-eval2d: ")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--json", "{root}"], "is a folder: name a file"),
        (["--json", "{root}/classes.txt/x.json"], "lies below a file"),
        (["--limit", "-3"], "is not a whole number above 0"),
        (["--limit", "0"], "is not a whole number above 0"),
        (["--threshold", "7"], "is not a number in 0..1"),
        (["--short-side", "-1"], "short_side must be in 0..8192"),
    ],
)
def test_options_of_an_evaluation_that_cannot_be(tmp_path, colors, capsys, words, reason):
    small_set(tmp_path, ".png", ".png", 1)
    given = [word.replace("{root}", str(tmp_path)) for word in words]
    folders = [str(tmp_path / "images"), str(tmp_path / "labels")]
    try:
        status = eval2d.main([*folders, "--classes", str(tmp_path / "classes.txt"), *given])
    except SystemExit as stop:  # argparse's way
        status = stop.code
    assert status in (1, 2) and reason in capsys.readouterr().err and not colors.seen


def test_settings_of_table_a1():
    some = [SETTINGS[name] for name in ("voc-mid", "ade-mid", "cityscapes-high")]
    assert some == [(336, 336, 112), (576, 336, 224), (1344, 336, 336)]
    assert len(SETTINGS) == 15 and all(
        short % 16 == crop % 16 == stride % 16 == 0 for short, crop, stride in SETTINGS.values()
    )


@pytest.mark.slow
def test_radseg_segment_with_lite(tmp_path):
    """A photograph, and an encoder that pip brings: the cat is where the cat is."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("sentence_transformers")
    Image.fromarray(data.chelsea()).save(tmp_path / "cat.png")
    arguments = [
        str(tmp_path / "cat.png"),
        "--encoder",
        "lite",
        "--labels",
        "cat,espresso",
        "--out",
        str(tmp_path),
    ]
    assert segment_cli.main([*arguments, "--short-side", "0"]) == 0
    labels = np.array(Image.open(tmp_path / "cat_labels.png"))
    assert labels.shape == data.chelsea().shape[:2] and (labels[100:200, 150:300] == 1).mean() > 0.8
