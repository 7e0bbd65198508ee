# SPDX-License-Identifier: Apache-2.0
"""Files of others: whatever they hold, they are read, or refused in one sentence; memory is bounded
by their size.
"""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import eval3d_world as world
import numpy as np
import pytest
import torch
from damage import damaged
from recordings import write_folder
from test_eval3d_datasets import SIX, write_ply

from eval3d.truth.ground_truth import from_points
from eval3d.truth.points import read_points
from radseg_ros import reading
from radseg_ros.datatypes import CheckpointError, InputError, RecordingError
from radseg_ros.files import open_image
from radseg_ros.frames.bag import BagRecording
from radseg_ros.frames.folder import open_recording
from radseg_ros.language.cache import read_vectors
from radseg_ros.reading import (
    border,
    read_array,
    read_arrays,
    read_json,
    read_text,
    read_torch,
)

XYZ = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
LABELS = np.arange(40) % 7
SMALL = 30_000_000  # bytes that reading a file of 2 kB may take, with all that Python keeps


def save_old(tensors: dict, path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


TENSORS = {"xyz": torch.from_numpy(XYZ), "labels": torch.from_numpy(LABELS)}
WRITERS = {
    "plain.npz": lambda path: np.savez(path, xyz=XYZ, labels=LABELS),
    "packed.npz": lambda path: np.savez_compressed(path, xyz=XYZ, labels=LABELS),
    "zip.pt": lambda path: torch.save(TENSORS, path),
    "arrays.pth": lambda path: torch.save({"vtx_coords": XYZ, "vtx_labels": LABELS}, path),
    "old.pt": lambda path: save_old(TENSORS, path),
    "ascii.ply": lambda path: write_ply(path, XYZ, LABELS, "ascii"),
    "little.ply": lambda path: write_ply(path, XYZ, LABELS, "binary_little_endian"),
    "big.ply": lambda path: write_ply(path, XYZ, LABELS, "binary_big_endian"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_ground_truth_is_refused_or_read_in_bounded_memory(tmp_path, name):
    WRITERS[name](tmp_path / name)
    path = tmp_path / f"damaged{Path(name).suffix}"
    refused = 0
    tracemalloc.start()
    for data in damaged((tmp_path / name).read_bytes(), 90):
        path.write_bytes(data)
        try:
            assert len(from_points(path, SIX, 0.05))
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 30 and peak < SMALL


def npy(header: str, content: bytes = bytes(24)) -> bytes:
    """An .npy file of any header."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


HEADERS = {
    "shape too large": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3)}",
    "shape too small": "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}",
    "shape negative": "{'descr': '<f8', 'fortran_order': False, 'shape': (-3,)}",
    "product wraps": f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, 8, 3)}}",
    "empty items": f"{{'descr': '<U0', 'fortran_order': False, 'shape': ({10**15},)}}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
    "records": "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,)}",
    "no dictionary": "[1, 2, 3]",
    "nested": "(" * 90,
}


@pytest.mark.parametrize("case", HEADERS)
def test_the_header_of_an_array_is_not_believed(tmp_path, case):
    (tmp_path / "a.npy").write_bytes(npy(HEADERS[case]))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("xyz.npy", npy(HEADERS[case]))
    tracemalloc.start()
    with pytest.raises(InputError, match="not an .npz file of plain arrays"):
        read_arrays(tmp_path / "a.npz")
    assert read_vectors(tmp_path / "a.npy", (3,)) is None
    assert tracemalloc.get_traced_memory()[1] < SMALL
    tracemalloc.stop()
    good = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}")
    (tmp_path / "good.npy").write_bytes(good)
    assert reading.read_array(tmp_path / "good.npy").tolist() == [0, 0, 0]


def test_bombs_are_not_unpacked_and_large_measurements_are(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "FREE_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", xyz=np.zeros((100_000, 3)))
    with pytest.raises(InputError, match="unpacks to 2 MB: refused"):
        read_arrays(tmp_path / "bomb.npz")
    measured = np.random.default_rng(0).normal(size=(100_000, 3))
    np.savez_compressed(tmp_path / "cloud.npz", xyz=measured)
    assert np.array_equal(read_arrays(tmp_path / "cloud.npz")["xyz"], measured)
    with zipfile.ZipFile(tmp_path / "other.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("xyz.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}"))
    with pytest.raises(InputError, match="not an .npz file"):
        read_arrays(tmp_path / "other.npz")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(3_000_000))
    with pytest.raises(InputError, match="unpacks to 2 MB: refused"):
        read_torch(tmp_path / "bomb.pt", "tensors")


def test_one_number_cannot_pose_as_many(tmp_path):
    wide = torch.zeros(1).expand(10**6, 10**6)
    for value in (wide, {"x": [wide]}, ((wide,), {"y": 1})):
        torch.save(value, tmp_path / "wide.pt")
        with pytest.raises(CheckpointError, match="unpacks to 3814697 MB: refused"):
            read_torch(tmp_path / "wide.pt", "tensors", raises=CheckpointError)


PLY = "ply\nformat {kind} 1.0\nelement vertex {count}\nproperty float x\nend_header\n1\n"
PLYS = {
    "more vertices than there are atoms": PLY.format(kind="binary_little_endian", count=10**80),
    "the same in letters": PLY.format(kind="ascii", count=10**80),
    "more than the file holds": PLY.format(kind="ascii", count=100),
    "fewer than none": PLY.format(kind="ascii", count=-1),
    "a number that is none": PLY.format(kind="ascii", count="1e3"),
    "an unknown encoding": PLY.format(kind="binary_middle_endian", count=1),
    "no encoding": "ply\nelement vertex 1\nproperty float x\nend_header\n1\n",
    "no vertices": "ply\nformat ascii 1.0\nelement face 1\nproperty float x\nend_header\n1\n",
    "no elements": "ply\nformat ascii 1.0\nend_header\n1\n",
    "no properties": "ply\nformat ascii 1.0\nelement vertex 1\nend_header\n1\n",
    "lists": "ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n1\n",
    "an unknown type": PLY.format(kind="binary_big_endian", count=1).replace("float", "quad"),
    "words": PLY.format(kind="ascii", count=1).replace("\n1\n", "\none\n"),
    "a header without end": "ply\n" + "comment " * 20_000,
    "one line": "ply" + " " * 100_000,
}


@pytest.mark.parametrize("case", PLYS)
def test_ply_headers_that_cannot_be(tmp_path, case):
    (tmp_path / "a.ply").write_text(PLYS[case])
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a\.ply"):
        read_points(tmp_path / "a.ply")
    assert tracemalloc.get_traced_memory()[1] < SMALL
    tracemalloc.stop()


def test_points_without_a_voxel_are_left_out_and_told(tmp_path):
    xyz = np.array([[0, 0, 0], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, 1e30], [1, 1, 1.0]])
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=[1, 2, 3, 4, 5])
    gt = from_points(tmp_path / "gt.npz", SIX, 0.05)
    assert gt.label.tolist() == [1, 5] and gt.index.tolist() == [[0, 0, 0], [20, 20, 20]]
    assert gt.source == "points of gt.npz (3 left out: not finite, or too far off)"
    np.savez(tmp_path / "gt.npz", xyz=xyz[1:4], labels=[1, 2, 3])
    with pytest.raises(InputError, match=r"0 points \(3 left out"):
        from_points(tmp_path / "gt.npz", SIX, 0.05)


def test_the_farthest_point_that_has_a_voxel(tmp_path):
    """Its index is kept as int32."""
    edge = 2.0**31
    for voxel_size, x in ((1.0, edge - 2), (0.5, edge / 2 - 1), (2.0, 2 * edge - 4)):
        np.savez(tmp_path / "gt.npz", xyz=[[x, 0, 0], [0, -x, 0]], labels=[1, 2])
        gt = from_points(tmp_path / "gt.npz", SIX, voxel_size)
        assert len(gt) == 2 and np.abs(gt.index).max() == 2**31 - 2
        far = edge * voxel_size
        np.savez(tmp_path / "gt.npz", xyz=[[far, 0, 0], [0, 0, -far], [0, 0, 0]], labels=[1, 2, 3])
        assert from_points(tmp_path / "gt.npz", SIX, voxel_size).label.tolist() == [3]


def test_ply_files_that_are_short_or_empty(tmp_path):
    path = tmp_path / "a.ply"
    write_ply(path, XYZ, LABELS, "binary_little_endian")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="599 bytes of vertices, need 600"):
        read_points(path)
    for kind in ("ascii", "binary_big_endian"):
        write_ply(path, XYZ[:0], LABELS[:0], kind)
        xyz, labels = read_points(path)
        assert xyz.shape == (0, 3) and labels.shape == (0,)
    head = "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\n"
    head += "property float z\nend_header\n"
    path.write_text(head.format(30) + "1 2 3\n" * 12)  # 30 x 3 numbers take 180 bytes at least
    with pytest.raises(InputError, match="too short for 30 vertices"):
        read_points(path)
    path.write_text(head.format(20) + "1 2 3\n" * 12)
    with pytest.raises(InputError, match=r"\(12, 3\) numbers of vertices, need \(20, 3\)"):
        read_points(path)
    path.write_text(head.format(12) + "1 2 3\n" * 12)
    with pytest.raises(InputError, match="holds x, y, z, xyz; need one of labels"):
        read_points(path)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.array([1, 2, 255], np.uint8), [1, 2, 255]),
        (np.array([1, 2, 2**64 - 1], np.uint64), [1, 2, 2**53]),
        (np.array([1.0, 2.0, np.nan]), [1, 2, -1]),
        (np.array([1.0, 2.0, -np.inf]), [1, 2, -1]),
        (np.array([1e300, 2.0, -1e300]), [2**53, 2, -(2**53)]),
        (np.array([True, False, True]), [1, 0, 1]),
        (np.array([[1, -100], [2, 3], [4, 5]]), [1, 2, 4]),
        (np.array([1.5, 2.0, 3.0]), None),
        (np.array([1j, 2, 3]), None),
        (np.array(["1", "2", "3"]), None),
        (np.zeros((3, 0)), None),
        (np.zeros((3, 1, 1)), None),
    ],
)
def test_labels_are_whole_numbers_or_refused(tmp_path, labels, found):
    np.savez(tmp_path / "gt.npz", xyz=np.zeros((3, 3)), labels=labels)
    if found is None:
        with pytest.raises(InputError, match="labels"):
            read_points(tmp_path / "gt.npz")
    else:
        assert read_points(tmp_path / "gt.npz")[1].tolist() == found


# Text


def write_texts(folder: Path, encode) -> dict[str, Path]:
    """Every kind of text file that is read, in an encoding."""
    replica = world.write_replica(folder / "replica")
    scannet = world.write_scannet(folder / "scannet")
    nerf = world.write_scannetpp(folder / "scannetpp")
    colmap = world.write_scannetpp(folder / "colmap", layout="colmap")
    recording = world.write_folder(folder / "room", 1)
    (folder / "c.txt").write_text("wall\nbox\n")
    (folder / "c.tsv").write_text("# a comment\n1\twall\n2\tbox\n")
    (folder / "c.json").write_text('["wall", "box"]')
    table = scannet / "scannetv2-labels.combined.tsv"
    table.write_text("id\tnyu40id\n1\t1\n3\t2\n")
    dslr = Path("data/00777c41d4/dslr")
    files = {
        **{name: folder / name for name in ("c.txt", "c.tsv", "c.json")},
        "cam_params.json": replica / "cam_params.json",
        "traj.txt": replica / "office0" / "traj.txt",
        "labels.tsv": table,
        "transforms": nerf / dslr / "nerfstudio" / "transforms_undistorted.json",
        "cameras.txt": colmap / dslr / "colmap" / "cameras.txt",
        "images.txt": colmap / dslr / "colmap" / "images.txt",
        "intrinsics.txt": recording / "intrinsics.txt",
        "pose": recording / "pose" / "000000.txt",
    }
    for path in files.values():
        path.write_bytes(encode(path.read_text()))
    return files


def read_again(folder: Path, name: str) -> object:
    """What the file ``name`` of :func:`write_texts` is read to, by whoever reads it."""
    from test_eval3d_datasets import open_scene

    from eval3d.classes import load_classes
    from eval3d.datasets.scannet import relabeller
    from radseg_ros.segmentation.probabilities import read_classes

    if name.startswith("c."):
        listed = load_classes(folder / name).names
        assert name != "c.txt" or read_classes(folder / name) == [["wall"], ["box"]]
        return listed
    if name == "labels.tsv":
        return relabeller(folder / "scannet", load_classes("nyu40"))(np.arange(5)).tolist()
    scenes = {
        "cam_params.json": ("replica", "replica", "office0"),
        "traj.txt": ("replica", "replica", "office0"),
        "transforms": ("scannetpp", "scannetpp", "00777c41d4"),
        "cameras.txt": ("scannetpp", "colmap", "00777c41d4"),
        "images.txt": ("scannetpp", "colmap", "00777c41d4"),
        "intrinsics.txt": ("folder", "room", "room"),
        "pose": ("folder", "room", "room"),
    }
    dataset, root, scene = scenes[name]
    frames = list(open_scene(dataset, folder / root, scene, SIX, frame_skip=0))
    return [(f.frame.K.tolist(), f.frame.T_world_camera.tolist()) for f in frames]


NAMES = (
    *("c.txt", "c.tsv", "c.json", "cam_params.json", "traj.txt", "labels.tsv", "transforms"),
    *("cameras.txt", "images.txt", "intrinsics.txt", "pose"),
)


def test_a_byte_order_mark_changes_nothing(tmp_path):
    files = write_texts(tmp_path / "plain", str.encode)
    write_texts(tmp_path / "marked", lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert tuple(files) == NAMES
    for name in NAMES:
        plain, marked = (read_again(tmp_path / kind, name) for kind in ("plain", "marked"))
        assert plain and marked == plain, name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_named(tmp_path, encoding):
    write_texts(tmp_path, lambda text: text.encode(encoding))
    for name in NAMES:
        with pytest.raises((InputError, RecordingError), match="UTF-8"):
            read_again(tmp_path, name)


def test_texts_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_TEXT", 100)
    (tmp_path / "latin").write_bytes("Tür\n".encode("latin-1"))
    (tmp_path / "long").write_text("x" * 101)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="latin is not text in UTF-8"):
        read_text(tmp_path / "latin")
    with pytest.raises(InputError, match="long is larger than"):
        read_text(tmp_path / "long", most=100)
    with pytest.raises(RecordingError, match="folder: Is a directory"):
        read_text(tmp_path / "folder", RecordingError)
    with pytest.raises(InputError, match="none: No such file"):
        read_text(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1,\n "b"}', "line 2, column 5"),
        ('{"1": "wall", "1": "box"}', "the key '1' occurs twice"),
        ('{"x": {"y": 1, "y": 2}}', "the key 'y' occurs twice"),
        ("[1]", "does not hold a JSON object"),
        ("", "line 1, column 1"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "more than 64 deep"),
        ('{"a": ' + "[" * 100_000, "damaged"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_json_that_cannot_be_used(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=reason) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(str(tmp_path / "a.json"))


def test_a_border_keeps_what_is_ours_and_says_the_rest():
    def told(error, raises=InputError):
        with pytest.raises(Exception) as caught, border(Path("f"), "a map", raises):  # noqa: B017, PT011
            raise error
        return type(caught.value), str(caught.value)

    assert told(InputError("x")) == (InputError, "x")
    assert told(InputError("x"), RecordingError) == (RecordingError, "x")
    assert told(CheckpointError("x"), RecordingError) == (CheckpointError, "x")
    broken = "f cannot be read: damaged, truncated, or not a map"
    for error in (KeyError("x"), RecursionError(), zipfile.BadZipFile(), RuntimeError("0x7f3a")):
        assert told(error) == (InputError, broken)
    assert told(FileNotFoundError(2, "No such file", "f")) == (InputError, "f: No such file")
    assert told(OSError("odd")) == (InputError, broken)
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: x")):
        assert told(error) == (InputError, "f does not fit into the memory")
    with pytest.raises(KeyboardInterrupt), border(Path("f"), "a map"):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_json_of_data_sets_is_refused_in_one_sentence(tmp_path):
    """Values of other types, and damaged bytes, in the files that describe a scene."""
    from damage import altered
    from test_eval3d_datasets import open_scene

    replica = world.write_replica(tmp_path / "r")
    info = replica / "semantic_info" / "office_0" / "info_semantic.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"classes": [{"id": 1, "name": "backpack"}]}')
    nerf = world.write_scannetpp(tmp_path / "p")
    camera = nerf / "data" / "00777c41d4" / "dslr" / "nerfstudio" / "transforms_undistorted.json"
    cases = (
        (replica / "cam_params.json", "replica", replica, "office0"),
        (info, "replica", replica, "office0"),
        (camera, "scannetpp", nerf, "00777c41d4"),
    )
    from eval3d.classes import load_classes

    for path, dataset, root, scene in cases:
        good = path.read_bytes()
        others = [json.dumps(value).encode() for value in altered(json.loads(good), 40)]
        for data in [*others, *damaged(good, 20)]:
            path.write_bytes(data)
            try:
                opened = open_scene(dataset, root, scene, load_classes("replica101"))
                assert len(list(opened)) + sum(opened.dropped.values()) == len(opened)
            except RecordingError as error:
                assert "\n" not in str(error)
        path.write_bytes(good)


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


READERS = {
    "text.txt": read_text,
    "object.json": read_json,
    "arrays.npz": read_arrays,
    "array.npy": read_array,
    "tensors.pt": lambda path: read_torch(path, "tensors"),
    "image.png": open_image,
    "points.ply": read_points,
    "bag.mcap": BagRecording,
    "bag.db3": BagRecording,
    "recording": open_recording,
    "recording.mcap": open_recording,
}


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("name", READERS)
def test_what_may_never_end_is_not_read(tmp_path, name, make):
    """A pipe to which nobody writes, a device."""
    path = make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        READERS[name](path)
    assert str(caught.value) == f"{path} is neither a file nor a folder"


def test_pipes_in_a_folder_cost_their_frames(tmp_path):
    path = write_folder(tmp_path / "r", list(range(4)))
    for number, kind in enumerate(("color", "depth", "pose")):
        file = sorted((path / kind).iterdir())[number]
        file.unlink()
        pipe(file)
    recording = open_recording(path)
    assert len(list(recording)) == 1
    reasons = {"colour missing": 1, "depth missing": 1, "pose missing": 1}
    assert dict(recording.drops.items()) == reasons
    assert "neither a file nor a folder" in recording.drops.examples["depth missing"]
