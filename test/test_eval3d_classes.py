# SPDX-License-Identifier: Apache-2.0
"""Class lists and label images: read as they are meant, or refused with the reason."""

from __future__ import annotations

import json

import eval3d_world as world
import numpy as np
import pytest
from damage import altered, damaged
from PIL import Image
from test_eval3d_datasets import SIX, open_scene

from eval3d.classes import MAX_CLASSES, ClassList, load_classes
from radseg_ros.datatypes import InputError, RecordingError

LISTS = {
    "names.txt": "wall\nbox\n",
    "table.tsv": "# id\tname\n1\twall\n2\tbox\t-\n",
    "meta.json": '{"classes": {"0": "none", "1": "wall", "2": "box"}}',
    "info.json": '{"classes": [{"id": 2, "name": "box"}, {"id": 1, "name": "wall"}]}',
    "list.json": '["wall", "box"]',
    "CAPITALS.TXT": "wall\nbox\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lists_of_every_kind(tmp_path, name, encoding):
    (tmp_path / name).write_bytes(LISTS[name].replace("\n", "\r\n").encode(encoding))
    found = load_classes(tmp_path / name)
    assert found.names == ("wall", "box") and found.ids == (1, 2)
    assert found.ignored == ({"box"} if name == "table.tsv" else set())
    assert found.labels_of(np.array([-7, 0, 1, 2, 3, 10**12])).tolist() == [0, 0, 1, 2, 0, 0]


REFUSED = {
    "one name twice": ("a.txt", "wall\nbox\nwall\n", "the name 'wall' occurs 2 times"),
    "twice but for capitals": ("a.txt", "Wall\nwall\n", "the name 'wall' occurs 2 times"),
    "twice in a table": ("a.tsv", "1\twall\n2\twall\n", "the name 'wall' occurs 2 times"),
    "one id twice": ("a.tsv", "1\twall\n1\tbox\n", "the id 1 occurs 2 times"),
    "one key twice": ("a.json", '{"1": "wall", "1": "box"}', "the key '1' occurs twice"),
    "one id as two keys": ("a.json", '{"1": "wall", "01": "box"}', "the id 1 occurs 2 times"),
    "an id of another type": ("a.json", '[{"id": 1.5, "name": "wall"}]', "whole number"),
    "an id that is true": ("a.json", '[{"id": true, "name": "wall"}]', "whole number"),
    "a name that is a list": ("a.json", '{"1": ["wall"]}', "a whole number and a name"),
    "a name that is a number": ("a.json", "[1, 2]", "a whole number and a name"),
    "a number": ("a.json", "7", "neither a list nor ids and names"),
    "null": ("a.json", "null", "neither a list nor ids and names"),
    "no name": ("a.tsv", "1\t\n", "names must have 1 to 1000 characters"),
    "no id": ("a.tsv", "\twall\n", "is not an id and a name"),
    "one column": ("a.tsv", "1 wall\n", "is not an id and a name"),
    "an id below 0": ("a.tsv", "-1\twall\n", "is not an id and a name"),
    "an id beyond images": ("a.tsv", f"{10**12}\twall\n", "ids must lie in 0..1048575"),
    "a name without end": ("a.txt", "x" * 1001, "names must have 1 to 1000 characters"),
    "too many": ("a.txt", "".join(f"{i}\n" for i in range(MAX_CLASSES + 1)), "1 to 4096 classes"),
    "none": ("a.txt", "\n \n", "1 to 4096 classes"),
    "none in JSON": ("a.json", "[]", "1 to 4096 classes"),
    "only the id of none": ("a.json", '{"0": "none"}', "1 to 4096 classes"),
    "another suffix": ("a.csv", "1,wall\n", "have the suffix .tsv, .json, .txt"),
    "no suffix": ("classes", "wall\n", "have the suffix .tsv, .json, .txt"),
    "a picture": ("a.png", "x", "have the suffix .tsv, .json, .txt"),
    "a byte that is no text": ("a.txt", b"T\xfcr\n", "not text in UTF-8"),
    "UTF-16": ("a.txt", "wall\n".encode("utf-16"), "not text in UTF-8"),
    "UTF-16 without a mark": ("a.txt", "wall\n".encode("utf-16-le"), "not text in UTF-8"),
    "a word": ("a.json", '"cat"', "neither a list nor ids and names"),
    "classes that are a word": ("a.json", '{"classes": "cat"}', "neither a list nor ids and names"),
    "a table by another name": ("a.txt", "1\twall\n2\tbox\n", "holds numbers before its names"),
    "a CSV by another name": ("a.txt", "1,wall\n2,box\n", "holds numbers before its names"),
    "tabs": ("a.txt", "wall\tred\nbox\tblue\n", r"'wall\\tred' holds what cannot be seen"),
    "two marks": ("a.txt", "\ufeff\ufeffwall\n", r"'\\ufeffwall' holds what cannot be seen"),
    "letters of no width": ("a.txt", "wall\nwall\u200b\n", "holds what cannot be seen"),
    "written backwards": ("a.json", '["wall", "\u202ellaw"]', "holds what cannot be seen"),
    "colours of a terminal": ("a.tsv", "1\t\x1b[31mwall\n", "holds what cannot be seen"),
    "half a letter": ("a.json", '["wall", "\\ud800"]', "holds what cannot be seen"),
    "one name in two ways": ("a.txt", "T\u00fcr\nTu\u0308r\n", "occurs 2 times"),
    "one name in two widths": ("a.txt", "wall\n\uff57all\n", "the name 'wall' occurs 2 times"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_lists_that_are_refused(tmp_path, case):
    name, content, reason = REFUSED[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=reason) as caught:
        load_classes(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["", ".", "x" * 5000, "nul\0byte", "/dev/zero", "replica51"])
def test_names_of_lists_that_cannot_be(name):
    with pytest.raises(InputError):
        load_classes(name)


@pytest.mark.parametrize("name", LISTS)
def test_damaged_lists_are_read_or_refused(tmp_path, name):
    path = tmp_path / name
    others = list(damaged(LISTS[name].encode(), 60))
    if name.endswith(".json"):
        others += [json.dumps(value).encode() for value in altered(json.loads(LISTS[name]), 60)]
    for data in others:
        path.write_bytes(data)
        try:
            found = load_classes(path)
            assert found.labels_of(np.arange(-2, 300)).max(initial=0) <= len(found)
        except InputError as error:
            assert "\n" not in str(error)


# Label images


def write_label(path, ids, kind):
    """A label image of (h, w) uint8 ids in a format of PNG."""
    image = Image.fromarray(ids)
    if kind == "palette":
        image = Image.fromarray(ids, "L").convert("P")
        image.putdata(ids.ravel().tolist())
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 759)
    elif kind == "16 bit":
        image = Image.fromarray(ids.astype(np.uint16))
    elif kind in ("RGB", "RGBA", "LA"):
        image = image.convert(kind)
    image.save(path, "JPEG" if kind == "JPEG" else "PNG")


@pytest.mark.parametrize("kind", ["grey", "palette", "16 bit"])
def test_ids_are_read_from_label_images_of_one_channel(tmp_path, kind):
    root = world.write_folder(tmp_path, 1)
    path = root / "label" / "000000.png"
    ids = np.asarray(Image.open(path)).copy()
    write_label(path, ids, kind)
    (frame,) = open_scene("folder", root, "x", SIX)
    assert np.array_equal(frame.label, ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("RGB", "label in colours, not ids"),
        ("RGBA", "label in colours, not ids"),
        ("LA", "label in colours, not ids"),
        ("JPEG", "label of wrong type"),
    ],
)
def test_label_images_that_hold_no_ids_are_named(tmp_path, capsys, kind, reason):
    from eval3d.cli import main

    root = world.write_folder(tmp_path / "room", 2)
    for path in (root / "label").iterdir():
        write_label(path, np.asarray(Image.open(path)), kind)
    scene = open_scene("folder", root, "room", SIX)
    assert [frame.label for frame in scene] == [None, None] and scene.notes == {reason: 2}
    arguments = ["run", "--root", str(root), "--encoder", "oracle", "--no-pictures"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"2 x {reason}" in error and "no voxel has a label" in error


# Trajectories


@pytest.mark.parametrize("layout", ["replica", "nerf"])
def test_images_beyond_the_trajectory_have_no_pose(tmp_path, layout):
    if layout == "replica":
        root = world.write_replica(tmp_path)
        path = root / "office0" / "traj.txt"
    else:
        root = world.write_semantic_nerf(tmp_path)
        path = root / "office_0" / "Sequence_1" / "traj_w_c.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    scene = open_scene("replica", root, "office0", SIX, frame_skip=0)
    assert len(list(scene)) == len(lines) - 1 and scene.dropped == {"pose missing": 1}
    assert "trajectory ends before" in scene.examples["pose missing"]
    path.write_text("\n".join([*lines, *lines]))
    scene = open_scene("replica", root, "office0", SIX, frame_skip=0)
    assert len(list(scene)) == len(lines) and sum(scene.dropped.values()) == len(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3", "holds 3 numbers"),
        ("", "holds 0 numbers"),
        ("one two", "no number"),
        ("\0\0\0", "not text in UTF-8"),
    ],
)
def test_trajectories_that_are_none(tmp_path, text, reason):
    root = world.write_replica(tmp_path)
    (root / "office0" / "traj.txt").write_text(text)
    with pytest.raises(RecordingError, match=reason):
        open_scene("replica", root, "office0", SIX)


CAMERAS = {
    "a scale of 0": {"scale": 0},
    "no scale": {"scale": None},
    "a scale below 0": {"scale": -1},
    "an endless scale": {"scale": float("inf")},
    "a focal length of 0": {"fx": 0},
    "a focal length that is no number": {"fy": float("nan")},
    "a word": {"cx": "middle"},
    "a list": {"w": [64]},
}


@pytest.mark.parametrize("case", CAMERAS)
def test_cameras_that_cannot_be(tmp_path, case):
    root = world.write_replica(tmp_path)
    path = root / "cam_params.json"
    camera = json.loads(path.read_text())["camera"]
    path.write_text(json.dumps({"camera": {**camera, **CAMERAS[case]}}))
    with pytest.raises(RecordingError):
        open_scene("replica", root, "office0", SIX)


def test_an_image_that_is_listed_twice_is_refused(tmp_path):
    root = world.write_scannetpp(tmp_path / "nerf")
    dslr = root / "data" / "00777c41d4" / "dslr"
    path = dslr / "nerfstudio" / "transforms_undistorted.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "frames": [*data["frames"], data["frames"][0]]}))
    with pytest.raises(RecordingError, match="one image twice"):
        open_scene("scannetpp", root, "00777c41d4", SIX)
    other = {**data["frames"][0], "file_path": "more/DSC00000.png"}
    path.write_text(json.dumps({**data, "frames": [*data["frames"], other]}))
    with pytest.raises(RecordingError, match="2 images are called DSC00000"):
        open_scene("scannetpp", root, "00777c41d4", SIX)
    root = world.write_scannetpp(tmp_path / "colmap", layout="colmap")
    path = root / "data" / "00777c41d4" / "dslr" / "colmap" / "images.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines[1:3]]))
    with pytest.raises(RecordingError, match="one image twice"):
        open_scene("scannetpp", root, "00777c41d4", SIX)


@pytest.mark.parametrize(
    "rows", ["", "id\tname\n1\tx\n", "id\tnyu40id\n-5\t1\n", f"id\tnyu40id\n{10**12}\t1\n"]
)
def test_tables_of_labels_that_cannot_be(tmp_path, rows):
    root = world.write_scannet(tmp_path)
    (root / "scannetv2-labels.combined.tsv").write_text(rows)
    with pytest.raises(RecordingError, match=r"combined\.tsv"):
        open_scene("scannet", root, "scene0011_00", load_classes("nyu40"))


def test_shipped_lists_pass_their_own_rules():
    for name in ("replica101", "nyu40", "scannet20", "scannet200", "scannetpp100"):
        assert isinstance(load_classes(name), ClassList)
