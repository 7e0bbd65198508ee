# SPDX-License-Identifier: Apache-2.0
"""Commands for map files: what a file is, joined maps, clouds, and answers as those of the node."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from small_worlds import assert_same, random_frame

from radseg_ros.cli import export, info, merge, query
from radseg_ros.config import Config, with_options
from radseg_ros.datatypes import Frame
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.mapper import Mapper
from radseg_ros.view.saved_map import config_of, open_map
from radseg_ros.voxels.map_file import load_map, read_geometry, read_header, save_map
from radseg_ros.voxels.tensor_file import Kind

K = np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])
RED, GREEN, GREY = (220, 20, 20), (20, 220, 20), (128, 128, 128)


@pytest.fixture(autouse=True)
def colors(monkeypatch):
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())


def wall(left: tuple[int, int, int], right: tuple[int, int, int], x: float = 0.0) -> Frame:
    """A wall at 2 m, seen from (x, 0, 0): grey, with a coloured square in either half."""
    rgb = np.full((48, 64, 3), GREY, np.uint8)
    rgb[16:32, 8:24], rgb[16:32, 40:56] = left, right
    T = np.eye(4)
    T[0, 3] = x
    return Frame(1_000_000_000, rgb, np.full((48, 64), 2.0, np.float32), K, T)


def write_map(path: Path, *frames: Frame, frame_id: str = "map", **options) -> Mapper:
    config = with_options(Config(), {"encoder": "colors", "short_side": 0, **options})
    mapper = Mapper(config, ColorEncoder())
    for frame in frames:
        mapper.integrate(frame)
    mapper.save(path, frame_id)
    return mapper


@pytest.fixture
def office(tmp_path) -> Path:
    write_map(tmp_path / "office.radmap", wall(RED, GREEN))
    return tmp_path / "office.radmap"


def run(command, *words: object) -> int:
    return command.main([*map(str, words)])


def test_a_file_says_what_it_is(office, capsys):
    assert run(info, office, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    voxels, header = load_map(office)[0], read_header(office)
    xyz = voxels.geometry().xyz.numpy()
    assert (found["voxels"], found["channels"]) == (len(voxels), 8)
    assert found["encoder"] == "test-colors" and found["frame_id"] == "map"
    np.testing.assert_allclose(found["lowest"], xyz.min(0) - 0.025, atol=1e-6)
    np.testing.assert_allclose(found["highest"], xyz.max(0) + 0.025, atol=1e-6)
    assert found["stamps"] == [1.0, 1.0] and found["points"] == 48 * 64
    assert found["options"]["encoder"] == "colors" and found["options"]["short_side"] == 0
    assert header.channels == 8 and header.last_stamp_ns == 1_000_000_000


def test_shares_of_storeys():
    height = np.array([-0.5, 0.1, 2.9, 3.0, 3.5, 7.0, 8.0, 8.9])
    found = {(s["from"], s["to"]): s["share"] for s in info.storeys(height, 3.0)}
    assert found == {(-3, 0): 1 / 8, (0, 3): 2 / 8, (3, 6): 2 / 8, (6, 9): 3 / 8}


def test_the_page_of_a_file_names_everything(office, capsys):
    assert run(info, office) == 0
    told = capsys.readouterr().out
    for word in ("voxels", "extent", "along z", "encoder   test-colors", "frame     map", "MB"):
        assert word in told


def test_geometry_is_read_without_the_vectors(tmp_path):
    rng = np.random.default_rng(0)
    mapper = write_map(tmp_path / "m.radmap", wall(RED, GREEN))
    for _ in range(3):
        frame, features = random_frame(rng, channels=8)
        mapper.map.integrate(frame, features)
    save_map(tmp_path / "m.radmap", mapper.map)
    geometry, _ = read_geometry(tmp_path / "m.radmap")
    whole = mapper.map.geometry()
    for name in ("index", "xyz", "rgb", "hits", "first_seen_ns", "last_seen_ns"):
        assert torch.equal(getattr(geometry, name), getattr(whole, name)), name


def test_options_come_back_from_a_file(tmp_path):
    options = {"query.threshold": 0.3, "lift.max_range": 4.0, "map.voxel_size": 0.1}
    write_map(tmp_path / "m.radmap", wall(RED, GREEN), **options)
    config = config_of(tmp_path / "m.radmap", read_header(tmp_path / "m.radmap"))
    assert config.query.threshold == 0.3 and config.lift.max_range == 4.0
    assert config.map.voxel_size == 0.1 and config.encoder == "colors"


def test_a_file_of_unknown_options_is_read(office):
    """Of a later version, say: what is not known is left out."""
    loaded, identity = load_map(office)
    notes = read_header(office).notes
    notes["options"]["query"]["later"] = 1
    notes["options"]["later"] = {"a": 1}
    save_map(office, loaded, identity, notes)
    assert config_of(office, read_header(office)).encoder == "colors"


def test_a_cloud_of_arrays(office, tmp_path, capsys):
    assert run(export, office, "-o", tmp_path / "cloud.npz") == 0
    told = np.load(tmp_path / "cloud.npz")
    geometry, _ = read_geometry(office)
    np.testing.assert_array_equal(told["xyz"], geometry.xyz.numpy())
    assert told["rgb"].dtype == np.uint8 and (told["label"] == -1).all()
    assert f"{len(geometry)} points" in capsys.readouterr().out
    assert run(export, office, "-o", tmp_path / "labels.npz", "--labels", "red, green") == 0
    labels = np.load(tmp_path / "labels.npz")["label"]
    assert {0, 1} <= set(labels.tolist())


def test_joined_maps_are_the_map_of_all_frames(tmp_path, capsys):
    left, right = wall(RED, GREEN), wall(GREEN, RED, 0.5)
    both = write_map(tmp_path / "both.radmap", left, right)
    write_map(tmp_path / "a.radmap", left)
    write_map(tmp_path / "b.radmap", right)
    out = tmp_path / "joined.radmap"
    assert run(merge, tmp_path / "a.radmap", tmp_path / "b.radmap", "-o", out) == 0
    assert_same(load_map(out)[0].snapshot(), both.map.snapshot(), 1e-5)
    assert read_header(out).identity == both.identity("map")
    assert f"{len(both.map)} voxels" in capsys.readouterr().out


def test_a_map_in_a_share_of_its_size(office, tmp_path, capsys):
    out = tmp_path / "small.radmap"
    assert run(export, office, "-o", out, "--share", "2") == 0
    assert "MB instead of" in capsys.readouterr().out
    assert read_header(out).notes == read_header(office).notes
    assert run(query, "--map", out, "--json", "red", "blue") == 0
    red, blue = json.loads(capsys.readouterr().out)["answers"]
    assert red["found"] and not blue["found"]
    assert run(export, office, "-o", office) == 1
    assert "is the map itself" in capsys.readouterr().err


def test_what_cannot_be_joined(tmp_path, capsys):
    write_map(tmp_path / "a.radmap", wall(RED, GREEN))
    write_map(tmp_path / "odom.radmap", wall(RED, GREEN), frame_id="odom")
    write_map(tmp_path / "large.radmap", wall(RED, GREEN), **{"map.voxel_size": 0.1})
    (tmp_path / "link.radmap").symlink_to("a.radmap")
    for other, told in (
        ("a", "is named twice: its points would count twice"),
        ("link", "is named twice: its points would count twice"),
        ("odom", "was made with frame_id 'odom', here it is 'map'"),
        ("large", "maps of different voxel_size cannot be merged: 0.05 and 0.1"),
        ("none", "there is no map file"),
    ):
        words = (tmp_path / "a.radmap", tmp_path / f"{other}.radmap", "-o", tmp_path / "o.radmap")
        assert run(merge, *words) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and told in error
    assert not (tmp_path / "o.radmap").exists()


NO_MAPS = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("kind", NO_MAPS)
@pytest.mark.parametrize("command", [info, export, merge, query])
def test_what_is_no_file_is_no_map(tmp_path, capsys, command, kind):
    path, good = tmp_path / "a.radmap", write_map(tmp_path / "b.radmap", wall(RED, GREEN))
    NO_MAPS[kind](path)
    words = {
        info: [path],
        export: [path, "-o", tmp_path / "o.npz"],
        merge: [tmp_path / "b.radmap", path, "-o", tmp_path / "o.radmap"],
        query: ["--map", path, "red"],
    }
    assert len(good.map) and run(command, *words[command]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"there is no map file {path}" in error


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("file/o", "lies below a file"),
        ("/proc/o", "no file can be written to /proc"),
        ("there", "there"),
        ("x" * 300, "File name too long"),
        ("o.txt", "o.txt"),
    ],
)
@pytest.mark.parametrize(("command", "suffix"), [(merge, ".radmap"), (export, ".npz")])
def test_places_where_no_file_can_be(tmp_path, capsys, command, suffix, place, told):
    write_map(tmp_path / "a.radmap", wall(RED, GREEN))
    (tmp_path / "file").write_text("x")
    (tmp_path / f"there{suffix}").mkdir()
    out = tmp_path / (place if place.endswith(".txt") else place + suffix)
    before = sorted(tmp_path.iterdir())
    assert run(command, *[tmp_path / "a.radmap"] * (2 if command is merge else 1), "-o", out) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_asked_as_its_mapper_would_be(office, capsys):
    assert run(query, "--map", office, "--json", "red", "green", "blue") == 0
    told = json.loads(capsys.readouterr().out)
    with open_map(office) as live:
        result = live.query(["red", "green", "blue"])
        expected = query.plain(live, result.answers, result.covered, read_header(office))
    assert told == json.loads(json.dumps(expected))
    red, green, blue = told["answers"]
    assert red["found"] and green["found"] and not blue["found"] and blue["objects"] == []
    assert red["objects"][0]["centre"][0] < 0 < green["objects"][0]["centre"][0]
    assert told["frame_id"] == "map" and told["stamp"] == 1.0


def test_the_table_of_a_file(office, capsys):
    assert run(query, "--map", office, "red", "blue") == 0
    told = capsys.readouterr().out
    assert "red" in told and "not found" in told and "in frame 'map'" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--map", "{tmp}/none.radmap", "red"], "there is no map file"),
        (["--map", "{tmp}/text.radmap", "red"], "is damaged, incomplete, or not a map"),
        (["--map", "{office}", "sofa"], "the test encoder knows only"),
        (["--map", "{office}", "red", "--set", "query.treshold=1"], "did you mean query.threshold"),
        (["--map", "{office}", "red", "--picture", "{tmp}/a.txt"], "writes a .png"),
    ],
)
def test_wrong_questions_are_one_line(office, tmp_path, capsys, words, told):
    (tmp_path / "text.radmap").write_text("hello")
    assert run(query, *(word.format(tmp=tmp_path, office=office) for word in words)) == 1
    error = capsys.readouterr().err
    assert error.startswith("radseg-query: ") and error.count("\n") == 1 and told in error


def test_a_map_of_another_encoder_is_one_line(office, capsys, monkeypatch):
    class Other(ColorEncoder):
        name = "other-colors"

    monkeypatch.setitem(ENCODERS, "other", lambda options: Other())
    assert run(query, "--map", office, "red", "--encoder", "other") == 1
    told = "was made with encoder 'test-colors', here it is 'other-colors'"
    assert told in capsys.readouterr().err


def test_a_map_of_another_version_is_one_line(tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        later = Kind("radmap", "map file", 99)
        patch.setattr("radseg_ros.voxels.map_file.FILE", later)
        write_map(tmp_path / "later.radmap", wall(RED, GREEN))
    assert run(info, tmp_path / "later.radmap") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is a map file of version 99" in error


@pytest.mark.slow
def test_a_picture_shows_where(office, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra [demo] is not installed")
    from PIL import Image

    out = tmp_path / "where.png"
    assert run(query, "--map", office, "red", "--picture", out, "--set", "query.min_voxels=1") == 0
    picture = np.asarray(Image.open(out)).astype(int)
    assert picture.shape[2] == 3 and picture.std() > 5
