# SPDX-License-Identifier: Apache-2.0
"""What lies in a folder of images: which files belong together, and what their numbers mean."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from recordings import SIZE, K, rgb_of, write_folder

from eval3d.classes import ClassList
from eval3d.datasets import open_scene
from eval3d.options import EvalConfig, with_options
from radseg_ros.datatypes import InputError, RecordingError
from radseg_ros.files import rgb_pixels
from radseg_ros.frames.disk import FrameReader, in_natural_order, list_files, read_intrinsics
from radseg_ros.frames.drops import Unusable
from radseg_ros.frames.folder import FolderRecording, open_recording
from radseg_ros.segmentation.probabilities import read_rgb

WALL = ClassList("wall", ("wall",), (1,))


def renamed(path, names):
    """The recording at ``path`` with its frames called ``names``, in order."""
    for part in ("color", "depth", "pose"):
        for old, name in zip(sorted((path / part).iterdir()), names, strict=True):
            old.rename(old.with_name(f"new {name}{old.suffix}"))
        for file in (path / part).iterdir():
            file.rename(file.with_name(file.name.removeprefix("new ")))
    return path


def both_readers(path, **options):
    """(name, frame) as the player and the demo read a folder, and as the evaluator does."""
    config = with_options(EvalConfig(root=str(path)), options)
    recording = open_recording(path, node=config.mapper.node)
    assert isinstance(recording, FolderRecording)
    played = [(recording.names[i], frame) for i, frame in recording.frames()]
    scene = open_scene(config, "x", WALL)
    scored = [(item.name, item.frame) for item in scene]
    assert dict(recording.drops.items()) == scene.dropped
    return played, scored


ORDERS = {
    "numbers": ["1", "2", "9", "10", "11"],
    "stamps": ["99.900000", "100.000000", "102.175304", "103.175304"],
    "words": ["left_1", "left_2", "left_10", "right_1"],
    "zeros": ["0008", "009", "10", "000011"],
    "two numbers": ["a1_b2", "a1_b10", "a2_b1", "a10_b1"],
}


@pytest.mark.parametrize("names", ORDERS.values(), ids=ORDERS)
def test_every_reader_sees_the_same_frames_in_natural_order(tmp_path, names):
    path = renamed(write_folder(tmp_path / "r", list(range(len(names)))), names)
    for found in both_readers(path):
        assert [name for name, _ in found] == names
        assert [frame.T_world_camera[0, 3] for _, frame in found] == [
            i / 10 for i in range(len(names))
        ]
        assert [frame.stamp_ns for _, frame in found] == [i * 10**8 for i in range(len(names))]
        assert [frame.rgb[0, 0, 0] for _, frame in found] == [10 * i for i in range(len(names))]


@given(st.lists(st.from_regex(r"[a-b]{0,2}[0-9]{1,3}[.]?[0-9]{0,2}", fullmatch=True), unique=True))
def test_natural_order_is_an_order(names):
    ordered = in_natural_order(names)
    assert sorted(ordered) == sorted(names)
    assert in_natural_order(reversed(names)) == ordered == in_natural_order(ordered)
    plain = [int(name) for name in ordered if name.isdecimal()]
    assert plain == sorted(plain)


def test_what_is_not_ours_is_ignored(tmp_path):
    path = write_folder(tmp_path / "r", [3, 4])
    for name in ("._000003.png", ".DS_Store", "Thumbs.db", "notes.txt", "000003.png.bak"):
        (path / "color" / name).write_bytes(b"x")
        (path / "depth" / name).write_bytes(b"x")
    (path / "color" / "thumbnails.png").mkdir()
    for found in both_readers(path):
        assert [name for name, _ in found] == ["000003", "000004"]


def test_what_lacks_a_part_is_counted(tmp_path):
    path = write_folder(tmp_path / "r", [0, 1, 2, 3])
    (path / "color" / "000000.png").unlink()
    (path / "depth" / "000001.png").unlink()
    (path / "pose" / "000002.txt").unlink()
    recording = FolderRecording(path)
    assert len(list(recording)) == 1
    assert dict(recording.drops.items()) == dict.fromkeys(
        ("colour missing", "depth missing", "pose missing"), 1
    )
    both_readers(path)


def test_a_missing_file_is_told_as_the_system_tells_it(tmp_path):
    for name, reason in (("none.png", "No such file or directory"), ("a\0.png", "no such name")):
        with pytest.raises(Unusable, match=f"depth missing: .*: {reason}"):
            FrameReader(K).depth(tmp_path / name)


def test_one_name_twice_is_refused(tmp_path):
    path = write_folder(tmp_path / "r", [0, 1])
    Image.fromarray(rgb_of(0)).save(path / "color" / "000001.JPG")
    for open_it in (FolderRecording, lambda p: open_scene(EvalConfig(root=str(p)), "x", WALL)):
        with pytest.raises(RecordingError, match="holds 000001.JPG and 000001.png: which one?"):
            open_it(path)


def test_a_prefix_tells_kinds_apart(tmp_path):
    for name in ("frame10.jpg", "frame9.jpg", "depth9.png", "frame.txt"):
        (tmp_path / name).touch()
    assert list(list_files(tmp_path, (".jpg", ".png"), "frame")) == ["9", "10"]
    assert list_files(tmp_path / "nowhere", (".jpg",)) == {}


def test_65535_is_no_return_and_the_scale_is_an_option(tmp_path):
    path = write_folder(tmp_path / "r", [0])
    units = np.full(SIZE, 10_000, np.uint16)
    units[:, ::4] = 65535
    Image.fromarray(units).save(path / "depth" / "000000.png")
    expected = np.where(units == 65535, 0, 2.0)
    for found in both_readers(path, **{"node.depth_scale": 0.0002}):
        np.testing.assert_allclose(found[0][1].depth, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "pixels",
    [np.ones(SIZE, np.uint8), np.ones(SIZE, bool), np.ones((*SIZE, 3), np.uint8)],
    ids=["8 bit", "1 bit", "colour"],
)
def test_depth_of_another_type_is_refused(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "d.png")
    with pytest.raises(Unusable) as caught:
        FrameReader(K).depth(tmp_path / "d.png")
    assert caught.value.reason == "depth of wrong type"


@pytest.mark.parametrize("kind", ["<u2", "<i4"])  # newer and older Pillow
def test_grey_of_16_bit_is_colour_that_is_not_clipped(tmp_path, kind):
    grey = np.linspace(0, 65535, SIZE[0] * SIZE[1]).astype(kind).reshape(SIZE)
    expected = np.repeat(np.rint(grey / 257)[..., None], 3, axis=2)
    np.testing.assert_array_equal(rgb_pixels(Image.fromarray(grey)), expected)
    Image.fromarray(grey.astype("<u2")).save(tmp_path / "c.png")
    np.testing.assert_array_equal(FrameReader(K).color(tmp_path / "c.png", SIZE), expected)
    np.testing.assert_array_equal(read_rgb(tmp_path / "c.png"), expected)


def test_colour_may_be_larger_than_depth_but_not_of_another_view(tmp_path):
    path = write_folder(tmp_path / "r", [0, 1])
    Image.fromarray(rgb_of(0)).resize((SIZE[1] * 2, SIZE[0] * 2)).save(
        path / "color" / "000000.png"
    )
    Image.fromarray(rgb_of(1)).resize((SIZE[1], SIZE[1] + 2)).save(path / "color" / "000001.png")
    for found in both_readers(path):
        ((name, frame),) = found
        assert name == "000000" and frame.rgb.shape == (2 * SIZE[0], 2 * SIZE[1], 3)
    with pytest.raises(Unusable, match="colour of wrong size: 000001: 16x18, need 16x12"):
        FolderRecording(path).frame(1)


def test_depth_of_another_size_does_not_fit_the_camera(tmp_path):
    path = write_folder(tmp_path / "r", [0, 1])
    shutil.copy(path / "color" / "000000.png", path / "color" / "000001.png")
    Image.fromarray(np.ones((6, 8), np.uint16)).save(path / "depth" / "000001.png")
    for found in both_readers(path):
        assert [name for name, _ in found] == ["000000"]


def test_camera_matrices(tmp_path):
    file = tmp_path / "intrinsics.txt"
    wide = np.eye(4)
    wide[:3, :3] = K
    for matrix in (K, wide):
        np.savetxt(file, matrix, header="fx 0 cx")
        np.testing.assert_array_equal(read_intrinsics(file), K)
    for text in (
        "",
        "1 2 3",
        "a b c",
        "0 0 0 0 0 0 0 0 1",
        "9 0 0 0 0 0 0 0 1",
        "0 0 0 0 9 0 0 0 1",
        "1 0 0 0 1 0 0 0 nan",
        "\xff\xfe",
    ):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(RecordingError, match="intrinsics.txt"):
            read_intrinsics(file)


@pytest.mark.parametrize("value, kind", [(65_536, "<i4"), (-1, "<i4"), (0.5, "<f4")])
def test_what_no_image_of_colour_holds_is_refused(value, kind):
    with pytest.raises(InputError, match="more than 16 bit"):
        rgb_pixels(Image.fromarray(np.full(SIZE, value, kind)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_colour_of_any_other_kind_is_rgb(mode):
    picture = Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode)
    assert (rgb_pixels(picture) >= 253).all() and rgb_pixels(picture).shape == (3, 4, 3)


@pytest.mark.parametrize("part", ["color", "depth", "pose"])
def test_a_part_of_other_files_is_refused_with_those_that_are_read(tmp_path, part):
    path = write_folder(tmp_path / "r", list(range(3)))
    for file in (path / part).iterdir():
        file.rename(file.with_suffix(".tiff"))
    suffixes = {"color": ".jpg, .jpeg, .png", "depth": ".png", "pose": ".txt"}[part]
    with pytest.raises(RecordingError, match=f"{part} holds no files of {suffixes}$"):
        open_recording(path)
