# SPDX-License-Identifier: Apache-2.0
"""radseg-map makes the map of the node, whatever interrupts it, and says what it did not use."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from color_desk import FRAME_SECONDS
from color_encoder import ColorEncoder
from eval3d_world import write_replica
from PIL import Image
from recordings import HUMBLE, SIZE, StoragePlugin, write_bag, write_folder, write_tf_bag
from small_worlds import assert_same
from waiting import PATIENCE

from eval3d.classes import load_classes
from eval3d.datasets import open_scene
from eval3d.options import EvalConfig
from radseg_ros.cli.map import main
from radseg_ros.cli.mapping.recorded import map_recording
from radseg_ros.config import Config, with_options
from radseg_ros.datatypes import ConfigError, MapFileError, RecordingError
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.frames.bag import BagRecording
from radseg_ros.frames.folder import open_recording
from radseg_ros.frames.keyframes import NEAR
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.map_file import load_map, read_header

HERE = Path(__file__).parent
COLORS = {"encoder": "colors", "short_side": 0}
READING = {"rate": 10.0, "topics": {}, "dataset": "", "root": ""}


@pytest.fixture(autouse=True)
def colors(monkeypatch):
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())


def mapped(
    recording: Path,
    out: Path,
    stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
    **given: Any,
) -> dict[str, Any]:
    task = {"out": str(out), "given": COLORS | given, "reading": READING, "resume": resume}
    return map_recording(str(recording), task, stop=stop)


def snapshot(path: Path):
    return load_map(path)[0].snapshot()


def after(frames: int) -> Callable[[], bool]:
    """Whether so many frames were looked at."""
    asked = itertools.count(1)
    return lambda: next(asked) >= frames


def flawed_folder(path: Path) -> Path:
    """Nine frames, 10 cm apart; of two a file is missing, and one sees nothing."""
    write_folder(path, list(range(9)))
    (path / "depth" / "000002.png").unlink()
    (path / "pose" / "000006.txt").write_text("not a pose")
    Image.fromarray(np.zeros(SIZE, np.uint16)).save(path / "depth" / "000004.png")
    return path


@pytest.mark.parametrize(
    ("plugin", "distance"),
    [
        (StoragePlugin.SQLITE3, 0.15),
        pytest.param(StoragePlugin.SQLITE3, 0.0, marks=pytest.mark.slow),
        pytest.param(StoragePlugin.MCAP, 0.0, marks=pytest.mark.slow),
        pytest.param(StoragePlugin.MCAP, 0.15, marks=pytest.mark.slow),
    ],
)
def test_the_map_of_a_bag_is_that_of_the_node(tmp_path, plugin, distance):
    bag = write_bag(tmp_path / "bag", plugin)
    given = {"node.keyframe_distance": distance, "node.backlog": 100}
    config = with_options(Config(), COLORS | given)
    live = LiveMap(config)
    live.start(Mapper(config, ColorEncoder()))
    for message in BagRecording(bag).raw_messages():
        live.receive(message.kind, HUMBLE.deserialize_cdr(message.data, message.type))
    while live.status().waiting:
        time.sleep(0.01)
    status = live.status()
    live.close()
    # the last pair still waits for a pose behind it, which a recording that has ended cannot bring
    assert status.integrated == (2 if distance else 4)
    out = tmp_path / "map.radmap"
    outcome = mapped(bag, out, stop=after(status.integrated), **given)
    assert outcome["used"] == status.integrated
    assert_same(snapshot(out), live.mapper.map.snapshot(), 1e-4)
    assert read_header(out).identity.frame_id == status.frame_id == "map"
    outcome = mapped(bag, out, resume=True)
    assert outcome["used"] == (3 if distance else 5) and outcome["complete"]
    assert outcome["dropped"] == ({NEAR: 2} if distance else {})


def test_the_map_of_a_folder_is_that_of_its_frames(tmp_path):
    folder = write_folder(tmp_path / "rec", [1, 2, 5])
    mapper = Mapper(with_options(Config(), COLORS), ColorEncoder())
    for frame in open_recording(folder):
        mapper.integrate(frame)
    outcome = mapped(folder, tmp_path / "map.radmap")
    assert (outcome["used"], outcome["frames"], outcome["complete"]) == (3, 3, True)
    assert_same(snapshot(tmp_path / "map.radmap"), mapper.map.snapshot(), 1e-6)
    camera = CameraPath.of(read_header(tmp_path / "map.radmap"))
    np.testing.assert_allclose(camera.positions, [[0.1, 0, 0], [0.2, 0, 0], [0.5, 0, 0]])
    np.testing.assert_allclose(camera.up, [0, -3, 0])  # of optical axes without a turn


@pytest.mark.slow
def test_a_map_that_goes_to_the_disk_is_the_same_and_told_as_a_whole(tmp_path):
    folder, whole = write_folder(tmp_path / "rec", list(range(5))), tmp_path / "whole.radmap"
    told = mapped(folder, whole)
    bound = {"map.max_voxels": told["voxels"] // 3, "map.disk_directory": str(tmp_path / "disk")}
    for name in ("one.radmap", "other.radmap"):  # in one process, and in one folder
        outcome = mapped(folder, tmp_path / name, **bound)
        assert outcome["voxels"] == told["voxels"] == len(snapshot(tmp_path / name).hits)
        assert_same(snapshot(tmp_path / name), snapshot(whole), 1e-4)
    again = mapped(folder, tmp_path / "other.radmap", resume=True)
    assert again["complete"] and again["voxels"] == told["voxels"]


@pytest.mark.parametrize(
    ("kind", "distance"),
    [("folder", 0.15)]
    + [
        pytest.param(kind, distance, marks=pytest.mark.slow)
        for kind in ("bag", "transforms", "folder")
        for distance in (0.0, 0.15)
    ],
)
def test_who_resumes_gets_the_same_map_and_the_same_account(tmp_path, kind, distance):
    write = {"folder": flawed_folder, "bag": write_bag, "transforms": write_tf_bag}[kind]
    recording, given = write(tmp_path / "rec"), {"node.keyframe_distance": distance}
    whole = mapped(recording, tmp_path / "whole.radmap", **given)
    for frames in range(1, whole["used"] + 1):
        out = tmp_path / f"{frames}.radmap"
        first = mapped(recording, out, stop=after(frames), **given)
        assert first["used"] <= frames and (frames == whole["used"] or not first["complete"])
        second = mapped(recording, out, resume=True)
        for what in ("used", "dropped", "complete", "voxels"):
            assert second[what] == whole[what], what
        assert_same(snapshot(out), snapshot(tmp_path / "whole.radmap"), 1e-6)
        ours, theirs = (read_header(p).notes for p in (out, tmp_path / "whole.radmap"))
        assert ours["camera"] == theirs["camera"]


def test_what_is_complete_is_not_mapped_again(tmp_path):
    recording, out = write_folder(tmp_path / "rec", [0, 1]), tmp_path / "map.radmap"
    mapped(recording, out)
    before = out.read_bytes()
    assert mapped(recording, out, resume=True)["complete"] and out.read_bytes() == before


def test_a_map_is_continued_only_as_it_was_begun(tmp_path):
    recording, out = write_folder(tmp_path / "rec", [0, 1, 2]), tmp_path / "map.radmap"
    mapped(recording, out, stop=after(1))
    with pytest.raises(ConfigError, match=r"was begun with lift.max_range 0.0, here it is 5.0"):
        mapped(recording, out, resume=True, **{"lift.max_range": 5.0})
    other = write_folder(tmp_path / "other", [0, 1, 2])
    with pytest.raises(MapFileError, match="is of another recording: name 'rec', here it is"):
        mapped(other, out, resume=True)
    made = Mapper(with_options(Config(), COLORS), ColorEncoder())
    made.save(tmp_path / "node.radmap")
    with pytest.raises(MapFileError, match="does not tell which frames are in it"):
        mapped(recording, tmp_path / "node.radmap", resume=True)


def test_a_recording_without_a_usable_frame_makes_no_map(tmp_path):
    recording = write_folder(tmp_path / "rec", [0, 1])
    for name in ("000000.png", "000001.png"):
        Image.fromarray(np.zeros(SIZE, np.uint16)).save(recording / "depth" / name)
    with pytest.raises(RecordingError, match=r"no frame can be used \(2 x frame without a usable"):
        mapped(recording, tmp_path / "map.radmap")
    assert not (tmp_path / "map.radmap").exists()


def command(*arguments: object) -> int:
    """radseg-map with the test encoder."""
    return main([*map(str, arguments), "--encoder", "colors", "--set", "short_side=0"])


def test_the_command_tells_what_it_made(tmp_path, capsys):
    out = tmp_path / "made" / "map.radmap"
    assert command(flawed_folder(tmp_path / "rec"), "-o", out) == 0
    told = capsys.readouterr().out
    assert f"{out}: " in told and "voxels from 6 of 9 frames" in told and "not used: 3" in told
    assert "1 x depth missing (e.g. 000002: " in told and "1 x frame without a usable depth" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{rec}", "-o", "{tmp}/map.ply"], "the file of a map ends with .radmap"),
        (["{tmp}/none", "-o", "{tmp}/map.radmap"], "none does not exist"),
        (["{rec}", "-o", "{tmp}/there.radmap"], "is there already: --resume continues it"),
        (["{rec}", "{rec}/", "-o", "{tmp}/maps"], "two recordings would be written to"),
        (
            ["{rec}", "-o", "{tmp}/m.radmap", "--set", "map.voxel_sise=1"],
            "did you mean map.voxel_s",
        ),
        (["{rec}", "-o", "{tmp}/m.radmap", "--set", "map.voxel_size=0"], "must be in 0.0001.."),
        (["{tmp}/there.radmap", "-o", "{tmp}/m.radmap"], "cannot be read as a bag"),
        (["{rec}", "-o", "{tmp}/there.radmap", "--resume"], "is damaged, incomplete, or not a map"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, arguments, told):
    recording = write_folder(tmp_path / "rec", [0])
    (tmp_path / "there.radmap").write_bytes(b"no map")
    words = [word.format(rec=recording, tmp=tmp_path) for word in arguments]
    assert command(*words) == 1
    error = capsys.readouterr().err
    assert error.startswith("radseg-map: ") and error.count("\n") == 1 and told in error


def test_several_recordings_become_maps_in_a_folder(tmp_path, capsys):
    good = [write_folder(tmp_path / name, [0, 1]) for name in ("a", "b")]
    bad = tmp_path / "bad"
    bad.mkdir()
    assert command(good[0], bad, good[1], "-o", tmp_path / "maps") == 1
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["a.radmap", "b.radmap"]
    assert capsys.readouterr().err.count("\n") == 1
    assert_same(snapshot(tmp_path / "maps" / "a.radmap"), snapshot(tmp_path / "maps" / "b.radmap"))


def start(*arguments: object, seconds: float = 0.2) -> subprocess.Popen:
    """radseg-map in a process of its own, with an encoder that takes its time."""
    words = [*map(str, arguments), "--encoder", "colors", "--set", "short_side=0"]
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, FRAME_SECONDS: str(seconds)}
    program = [sys.executable, str(HERE / "color_desk.py"), "map"]
    return subprocess.Popen([*program, *words], env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_what_is_there_and_says_so(tmp_path, number):
    recording, out = write_folder(tmp_path / "rec", list(range(60))), tmp_path / "map.radmap"
    process = start(recording, "-o", out, "--set", "map.autosave_period=0.0001")
    while not out.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "ending after the frame in hand" in told and "--resume goes on" in told
    notes = read_header(out).notes["recording"]
    assert 0 < notes["used"] < 60 and not notes["complete"]


@pytest.mark.slow
def test_kills_leave_a_whole_file_from_which_the_same_map_comes(tmp_path):
    # 40 s of frames, so that each run is killed in the midst of them
    recording, out = write_folder(tmp_path / "rec", list(range(200))), tmp_path / "map.radmap"
    mapped(recording, tmp_path / "whole.radmap")
    chance, sizes = random.Random(1), []
    for _ in range(4):
        process = start(recording, "-o", out, "--resume", "--set", "map.autosave_period=0.00001")
        before = out.stat().st_mtime_ns if out.exists() else 0
        while not (out.exists() and out.stat().st_mtime_ns > before):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=PATIENCE)
        load_map(out)
        sizes.append(read_header(out).notes["recording"]["used"])
    assert sizes == sorted(sizes) and sizes[0] > 0
    assert start(recording, "-o", out, "--resume", seconds=0).wait(PATIENCE) == 0
    assert_same(snapshot(out), snapshot(tmp_path / "whole.radmap"), 1e-6)
    assert not [p for p in tmp_path.iterdir() if ".part" in p.name]


@pytest.mark.slow
@pytest.mark.parametrize("where", [["--jobs", "2"], ["--cluster", "local:2"]])
def test_maps_that_are_made_elsewhere_are_the_same(tmp_path, where, capfd):
    if "--cluster" in where:
        pytest.importorskip("distributed", reason="the extra [cluster] is not installed")
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [lite] is not installed")
    names = [write_folder(tmp_path / name, [0, 1]) for name in ("a", "b")]
    options = ["--encoder", "lite", "--set", "short_side=0"]
    assert main([*map(str, names), "-o", str(tmp_path / "here"), *options]) == 0
    assert main([*map(str, names), "-o", str(tmp_path / "there"), *options, *where]) == 0
    for name in ("a.radmap", "b.radmap"):
        here, there = (tmp_path / place / name for place in ("here", "there"))
        assert_same(snapshot(here), snapshot(there), 1e-4)
        assert json.dumps(read_header(here).notes) == json.dumps(read_header(there).notes)


def test_a_scene_of_a_data_set_is_that_of_the_evaluator(tmp_path):
    root = tmp_path / "Replica"
    write_replica(root)
    config = with_options(Config(), COLORS)
    mapper = Mapper(config, ColorEncoder())
    scene = open_scene(
        EvalConfig(dataset="replica", root=str(root), mapper=config),
        "office0",
        load_classes("replica101"),
    )
    for item in scene:
        mapper.integrate(item.frame)
    out = tmp_path / "office0.radmap"
    words = (root, "--dataset", "replica", "--scenes", "office0", "-o", out)
    assert command(*words) == 0
    assert_same(snapshot(out), mapper.map.snapshot(), 1e-6)
    assert read_header(out).notes["recording"]["name"] == "office0"
