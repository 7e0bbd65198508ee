# SPDX-License-Identifier: Apache-2.0
"""The journal: what was fused is there again, whatever ended the node, and nothing counts twice."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from journalled import assert_equal, close, live_map, observe, place
from killing import killed
from small_worlds import frame, pose

from radseg_ros.cli.map import main
from radseg_ros.cli.merge import merge
from radseg_ros.config import LiftConfig, MapConfig
from radseg_ros.datatypes import FeatureMap, InputError, MapFileError
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.journal import folder as folder_module
from radseg_ros.journal.folder import Journal
from radseg_ros.journal.record import FRAME, VERSION, Content, KeyFrame, Record, pack, unpack
from radseg_ros.journal.replay import poses_of, replay
from radseg_ros.journal.story import tell
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.map_file import load_map, read_header
from radseg_ros.voxels.voxel_map import VoxelMap


@pytest.fixture(autouse=True)
def colors(monkeypatch):
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())


MILLIMETRES = np.multiply(np.full((12, 16), 1500, np.uint16), np.float32(0.001), dtype=np.float32)


def key_frame(depth: np.ndarray = MILLIMETRES, **changes) -> KeyFrame:
    rng = np.random.default_rng(0)
    rgb = np.repeat(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8), 4, 0).repeat(4, 1)
    observed = frame(depth, pose(rng), rgb, stamp_ns=123_456_789_012_345)
    features = FeatureMap(torch.tensor(rng.normal(size=(5, 3, 4)), dtype=torch.float32))
    return replace(KeyFrame(observed, features, LiftConfig(), "rear", "map", "optical"), **changes)


def from_scratch(journal: Journal, **options) -> VoxelMap:
    """The map of all that the journal tells, one record after the other."""
    story = journal.story()
    config = MapConfig(device="cpu", **options)
    world = VoxelMap(journal.about.channels, config)
    list(replay(journal, story.main, world, CameraPath(), poses_of(journal, story.main)))
    return world


# A record


@pytest.mark.parametrize("unit", [0.001, 0.0002, 1.0])
@pytest.mark.parametrize("kind", ["units", "metres", "far"])
def test_what_a_record_keeps_of_a_frame(kind, unit):
    rng = np.random.default_rng(1)
    depth = rng.integers(0, 60_000, (12, 16)).astype(np.float32)
    depth = np.multiply(depth, np.float32(unit), dtype=np.float32)
    depth = depth if kind == "units" else rng.uniform(0.2, 9, (12, 16)).astype(np.float32)
    depth = depth * 1e6 if kind == "far" else depth
    holes = np.array([0, -1, np.nan, np.inf, -np.inf], np.float32)
    depth[0, :5] = holes
    given_ = key_frame(depth)
    content = pack(given_, unit)
    found = unpack(content)
    wanted = depth.copy()
    wanted[0, :5] = 0
    np.testing.assert_array_equal(found.frame.depth, wanted)
    assert content.state["depth"].ndim == (1 if kind == "units" else 2)
    for name in ("stamp_ns", "K", "T_world_camera"):
        np.testing.assert_array_equal(getattr(found.frame, name), getattr(given_.frame, name))
    named = ("camera", "frame_id", "optical_frame", "rules")
    assert all(getattr(found, name) == getattr(given_, name) for name in named)
    assert torch.equal(found.features.data, given_.features.data.half())
    apart = np.abs(found.frame.rgb.astype(int) - given_.frame.rgb)
    assert apart.mean() < 4, "a JPEG of 16 colours in 4 x 4 px"


@pytest.mark.parametrize(
    "change",
    [
        lambda header, state: header.pop("K"),
        lambda header, state: header.update(pose=[[1.0]]),
        lambda header, state: header.update(pose=np.full((4, 4), np.nan).tolist()),
        lambda header, state: header.update(stamp_ns=1.5),
        lambda header, state: header.update(stamp_ns=-1),
        lambda header, state: header.update(camera=3),
        lambda header, state: header.update(lift={"max_range": "far"}),
        lambda header, state: header.update(depth_unit=None),
        lambda header, state: state.pop("features"),
        lambda header, state: state.update(features=torch.zeros(3)),
        lambda header, state: state.update(features=torch.zeros(5, 3, 4)),
        lambda header, state: state.update(color=state["color"][:40]),
        lambda header, state: state.update(depth=state["depth"][:40]),
        lambda header, state: state.update(depth=state["color"]),
        lambda header, state: state.update(color=state["depth"]),
    ],
)
def test_a_record_of_something_else_is_refused(change):
    content = pack(key_frame(), 0.001)
    header, state = dict(content.header), dict(content.state)
    change(header, state)
    with pytest.raises(InputError):
        unpack(Content(header, state))


# The story

WORDS = {"f": FRAME, "c": "clear_box", "l": "load", "m": "merge", "r": "reset", "w": "wait"} | {
    "j": "confirm", "g": "resume", "M": "moved"
}  # fmt: skip


@pytest.mark.parametrize(
    ("records", "main", "aside", "waits"),
    [
        ("", "", "", False),
        ("ff", "12", "", False),
        ("frf", "3", "", False),
        ("flfc", "234", "", False),
        ("fwf", "1", "3", True),
        ("fwfjf", "135", "", False),
        ("fwfwf", "1", "5", True),
        ("fwfgf", "15", "", False),
        ("fwfrf", "5", "", False),
        ("fwflf", "45", "", False),
        ("fwMmjM", "1346", "", False),
    ],
)
def test_which_records_make_the_map(records, main, aside, waits):
    story = tell(Record(i, WORDS[word], 1) for i, word in enumerate(records, 1))
    numbers = ["".join(str(r.number) for r in part) for part in (story.main, story.aside)]
    assert (*numbers, story.waits) == (main, aside, waits)


# Restarts

STEPS = st.lists(
    st.sampled_from(["frame", "frame", "frame", "save", "clear", "reset", "load", "merge", "kill"]),
    max_size=9,
)


@pytest.mark.slow  # seconds
@settings(max_examples=25)
@given(STEPS, st.booleans())
def test_whatever_happens_a_restart_has_the_map_that_was_there(tmp_path_factory, steps, with_file):
    folder = tmp_path_factory.mktemp("journal")
    autosave, other = folder / "auto.radmap", None
    live = live_map(folder / "journal")
    for number, step in enumerate([*steps, "kill"]):
        if step == "frame":
            observe(live, [number])
        elif step == "save":
            live.save(autosave)
            other = folder / f"other-{number}.radmap"
            shutil.copy(autosave, other)
        elif step == "clear":
            live.clear_box((-9, -9, -9), (0.5, 9, 9))
        elif step == "reset":
            live.reset()
        elif step in ("load", "merge") and other is not None:
            live.load(other, merge=step == "merge")
        elif step == "kill":
            before = live.mapper.map
            close(live)
            load = autosave if with_file and autosave.exists() else None
            live = live_map(folder / "journal", load=load)
            assert_equal(live.mapper.map, before)
            assert live.mapper.map.history.record <= live.journal.next
    close(live)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"hot_voxels": 400, "cold_share": 4}, marks=pytest.mark.slow)],
    ids=["full", "tiers"],
)
def test_a_map_after_a_restart_is_that_of_the_journalled_frames(tmp_path, options):
    named = {f"map__{name}": value for name, value in options.items()}
    live = live_map(tmp_path / "journal", **named)
    observe(live, range(6))
    close(live)
    assert live.mapper.map.table.vectors.exact != bool(options)
    made = from_scratch(Journal(tmp_path / "journal"), **options)
    assert_equal(live.mapper.map, made, coded=bool(options))
    assert live.status().journal.frames == 6
    again = live_map(tmp_path / "journal", **named)
    assert_equal(again.mapper.map, live.mapper.map, coded=bool(options))
    close(again)


@pytest.mark.slow  # starts several maps
@pytest.mark.parametrize("kept", range(4))
def test_a_process_that_dies_while_it_writes_loses_that_frame(tmp_path, kept):
    folder = tmp_path / "journal"
    live = live_map(folder)
    observe(live, range(4))
    close(live)
    *_, last = files = sorted(folder.glob("*-frame.safetensors"))
    for late in files[kept:-1]:
        late.unlink()
    part = folder / f".{last.name}.99999999-0.part.safetensors"  # as files.whole_file calls it
    part.write_bytes(last.read_bytes()[:1000])
    last.unlink()
    if kept == 3:
        kept_files = files[:3]
    else:
        kept_files = files[:kept]
    again = live_map(folder)
    assert not part.exists() and again.status().journal.frames == len(kept_files)
    wanted = live_map(tmp_path / "other")
    observe(wanted, range(kept))
    assert_equal(again.mapper.map, wanted.mapper.map)
    observe(again, [9])
    observe(wanted, [9])
    assert_equal(again.mapper.map, wanted.mapper.map)
    for each in (again, wanted):
        close(each)


@pytest.mark.slow  # starts several maps
def test_a_damaged_record_costs_itself_and_is_counted(tmp_path, caplog):
    folder = tmp_path / "journal"
    live = live_map(folder)
    observe(live, range(5))
    close(live)
    files = sorted(folder.glob("*-frame.safetensors"))
    data = bytearray(files[1].read_bytes())
    data[-3] ^= 1
    files[1].write_bytes(data)
    files[3].write_bytes(files[3].read_bytes()[:-5])
    again = live_map(folder)
    wanted = live_map(tmp_path / "other")
    observe(wanted, [0, 2, 4])
    assert_equal(again.mapper.map, wanted.mapper.map)
    assert again.status().journal.damaged == 2
    assert sum("is left out" in each.message for each in caplog.records) == 1
    assert any("checksums" in reason for reason in again.journal.damaged)
    for each in (again, wanted):
        close(each)


@pytest.mark.parametrize("name", ["number", "kind", "journal"])
def test_a_record_in_the_place_of_another_is_counted(tmp_path, name):
    """Its checksums are right, and what it tells is not what happened then."""
    live, other = live_map(tmp_path / "here"), live_map(tmp_path / "other")
    for each in (live, other):
        observe(each, range(2))
        assert each.close(5)
    first, second = (each for each in live.journal.records if each.kind == FRAME)
    taken = {"number": second, "kind": first._replace(kind="moved"), "journal": first}[name]
    source = tmp_path / ("other" if name == "journal" else "here") / first.name
    shutil.copyfile(source, tmp_path / "here" / taken.name)
    journal = Journal(tmp_path / "here")
    assert journal.header(taken) is None and journal.content(taken) is None
    said = f"N-{taken.kind}.safetensors is the copy of a record of another {name}"
    assert dict(journal.damaged) == {said: 2}


def test_two_processes_do_not_write_one_journal(tmp_path):
    live = live_map(tmp_path)
    with pytest.raises(MapFileError, match="in use by another process"):
        live_map(tmp_path)
    close(live)
    close(live_map(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"map__space": "probability", "map__labels": ["red"]}, "labels"),
        ({"map__space": "language"}, "space backbone, here it is language"),
    ],
)
def test_frames_of_another_kind_are_not_added_to_a_journal(tmp_path, changes, said):
    close(live_map(tmp_path))
    with pytest.raises(MapFileError, match=said):
        live_map(tmp_path, **changes)


def test_a_journal_of_a_later_version_is_refused(tmp_path):
    close(live_map(tmp_path))
    about = tmp_path / "journal.json"
    about.write_text(about.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(MapFileError, match="of version 2, this program reads versions up to 1"):
        live_map(tmp_path)


@pytest.mark.slow  # starts several maps
def test_a_map_file_that_the_journal_does_not_know_is_right(tmp_path, caplog):
    file = tmp_path / "office.radmap"
    first = live_map(tmp_path / "first")
    observe(first, [0, 1])
    first.save(file)
    second = live_map(tmp_path / "second")
    observe(second, [2, 3])
    for each in (first, second):
        close(each)
    again = live_map(tmp_path / "second", load=file)
    assert "2 frames of that are not in the map" in caplog.text
    assert_equal(again.mapper.map, first.mapper.map)
    observe(again, [4])
    before = again.mapper.map
    close(again)
    for load in (file, None):  # the journal names it
        again = live_map(tmp_path / "second", load=load)
        assert_equal(again.mapper.map, before)
        close(again)
    file.unlink()
    again = live_map(tmp_path / "second")
    assert "is gone or has changed" in caplog.text and len(again.mapper.map) > 0
    close(again)


def test_a_reset_after_the_file_was_saved_is_right(tmp_path):
    live = live_map(tmp_path / "journal")
    observe(live, [0, 1])
    live.save(tmp_path / "a.radmap")
    live.reset()
    observe(live, [2])
    before = live.mapper.map
    close(live)
    again = live_map(tmp_path / "journal", load=tmp_path / "a.radmap")
    assert_equal(again.mapper.map, before)
    close(again)


# A frame that may be another one


def test_a_map_of_the_journal_waits_unless_its_frame_is_persistent(tmp_path):
    aside = {"map__frame_is_persistent": False}
    live = live_map(tmp_path, **aside)
    observe(live, [0, 1])
    close(live)
    second = live_map(tmp_path, **aside)
    assert second.pending == len(live.mapper.map) and len(second.mapper.map) == 0
    observe(second, [2])
    close(second)
    third = live_map(tmp_path, **aside)
    assert third.pending == second.pending and len(third.mapper.map) == 0
    observe(third, [3])
    third.confirm()
    before = third.mapper.map
    close(third)
    wanted = live_map(tmp_path / "wanted")
    observe(wanted, [0, 1, 3])
    assert_equal(before, wanted.mapper.map)
    close(wanted)
    fourth = live_map(tmp_path)
    assert_equal(fourth.mapper.map, before)
    assert fourth.moment()[1] == "map"
    close(fourth)


@pytest.mark.slow  # starts several maps
def test_a_run_that_nobody_has_confirmed_can_be_made_a_map(tmp_path):
    journal = tmp_path / "journal"
    for steps in ([0, 1], [2]):
        live = live_map(journal, map__frame_is_persistent=False)
        observe(live, steps)
        close(live)
    out = tmp_path / "a.radmap"
    assert main(["--journal", str(journal), "--unconfirmed", "-o", str(out)]) == 0
    assert_equal(load_map(out)[0], live.mapper.map)


# Bounds, and disks


def test_a_bound_lets_the_oldest_frames_go_and_what_no_map_needs_before(tmp_path):
    live = live_map(tmp_path)
    observe(live, range(3))
    size = live.status().journal.nbytes // 3
    close(live)
    live = live_map(tmp_path, journal__max_bytes=7 * size + 9000)
    observe(live, range(3, 6))
    live.reset()
    observe(live, range(10, 14))
    records = live.journal.records
    assert live.journal.nbytes <= live.config.journal.max_bytes
    assert sum(record.nbytes for record in records) == live.journal.nbytes
    kept = live.journal.story()
    assert kept.frames() == 4, "those before the reset went first"
    observe(live, range(14, 20))
    assert live.journal.nbytes <= live.config.journal.max_bytes
    stamps = [live.journal.header(r)["stamp_ns"] for r in live.journal.story().main]
    assert stamps == sorted(stamps) and stamps[-1] == 2_900_000_000, "the newest are there"
    on_disk = {path.name for path in tmp_path.glob("*.safetensors")}
    assert on_disk == {record.name for record in live.journal.records}
    close(live)


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_never_stops_mapping(tmp_path, monkeypatch, caplog, failure):
    live = live_map(tmp_path)
    observe(live, [0])
    save = folder_module.save_tensors

    def fail(*_: object) -> None:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(folder_module, "save_tensors", fail)
    observe(live, [1, 2])
    live.clear_box((-9, -9, -9), (0.3, 9, 9))
    observe(live, [3])
    status = live.status()
    assert (status.integrated, status.journal.lost, status.drops) == (4, 3, [])
    told = [each for each in caplog.records if "cannot be written" in each.message]
    assert len(told) == 1 and os.strerror(failure) in told[0].message
    monkeypatch.setattr(folder_module, "save_tensors", save)
    observe(live, [4])
    close(live)
    wanted = live_map(tmp_path / "other")
    observe(wanted, [0])
    wanted.clear_box((-9, -9, -9), (0.3, 9, 9))
    observe(wanted, [4])
    again = live_map(tmp_path)
    assert_equal(again.mapper.map, wanted.mapper.map)
    for each in (again, wanted):
        close(each)


def test_a_frame_larger_than_the_bound_is_counted(tmp_path):
    live = live_map(tmp_path, journal__max_bytes=100)
    observe(live, [0])
    assert live.status().journal.lost == 1 and live.status().integrated == 1
    close(live)


def test_a_journal_that_cannot_be_begun_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="no journal can be begun"):
        live_map(tmp_path / "file")


def test_a_joined_map_is_not_of_the_journal_of_its_first(tmp_path):
    files = [tmp_path / "a.radmap", tmp_path / "b.radmap"]
    for step, file in enumerate(files):
        live = live_map(tmp_path / file.stem)
        observe(live, [step])
        live.save(file)
        close(live)
        assert read_header(file).notes["journal"]["frames"] == 1
    merge(files, tmp_path / "joined.radmap")
    assert "journal" not in read_header(tmp_path / "joined.radmap").notes


# With other options


def test_a_map_is_made_with_other_options_and_without_the_encoder(tmp_path, monkeypatch, capsys):
    journal, out = tmp_path / "journal", tmp_path / "a.radmap"
    live = live_map(journal)
    observe(live, range(5))
    close(live)
    monkeypatch.setitem(ENCODERS, "colors", lambda options: pytest.fail("an encoder was made"))
    options = ["--set", "map.voxel_size=0.2", "--set", "lift.max_range=1.5"]
    assert main(["--journal", str(journal), "-o", str(out), *options]) == 0
    assert "5 of 5 frames" in capsys.readouterr().out
    wanted = live_map(tmp_path / "other", ColorEncoder(), map__voxel_size=0.2, lift__max_range=1.5)
    observe(wanted, range(5))
    close(wanted)
    found, identity = load_map(out)
    assert_equal(found, wanted.mapper.map)
    assert identity.frame_id == "map" and identity.encoder == "test-colors"
    camera = read_header(out).notes["camera"]
    assert camera["count"] == 5 and camera["positions"][3] == place(3)[:3, 3].round(3).tolist()


@pytest.mark.slow  # starts several maps
def test_another_space_takes_the_language_head_alone(tmp_path):
    journal, out = tmp_path / "journal", tmp_path / "a.radmap"
    live = live_map(journal)
    observe(live, range(3))
    close(live)
    labels = ["red", "blue"]
    options = ["--set", "map.space=probability", "--set", "map.labels=red,blue"]
    assert main(["--journal", str(journal), "-o", str(out), *options]) == 0
    found, identity = load_map(out)
    assert identity.labels == ("red", "blue") and found.channels == 2
    wanted = live_map(tmp_path / "other", map__space="probability", map__labels=labels)
    observe(wanted, range(3))
    close(wanted)
    torch.testing.assert_close(
        found.snapshot().features, wanted.mapper.map.snapshot().features, atol=2e-3, rtol=0
    )
    again = ["--journal", str(tmp_path / "other"), "-o", str(tmp_path / "b.radmap")]
    assert main([*again, "--set", "map.space=backbone"]) == 1, "it cannot be had from that"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--journal", "{tmp}/none", "-o", "{tmp}/a.radmap"], "there is no journal in"),
        (["--journal", "{tmp}", "rec", "-o", "{tmp}/a.radmap"], "goes without recordings"),
        (["--journal", "{tmp}", "-o", "{tmp}/a.ply"], "ends with .radmap"),
        (["-o", "{tmp}/a.radmap"], "name a recording, or a journal"),
    ],
)
def test_commands_that_cannot_be_done_say_why(tmp_path, capsys, arguments, said):
    assert main([text.format(tmp=tmp_path) for text in arguments]) == 1
    assert said in capsys.readouterr().err


VERSIONS = sorted((Path(__file__).parent / "data" / "journals").glob("v*/"))


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_journals_of_earlier_versions_are_read(folder):
    snapshot = from_scratch(Journal(folder), voxel_size=0.2).snapshot()
    with np.load(folder.with_suffix(".npz")) as content:
        order = np.lexsort(snapshot.index.numpy().T)
        for name in ("index", "hits", "views"):
            assert np.array_equal(getattr(snapshot, name).numpy()[order], content[name])
        features = snapshot.features.numpy()[order]
        np.testing.assert_allclose(features, content["features"], atol=1e-4)
        rgb = snapshot.rgb.numpy()[order]
        np.testing.assert_allclose(rgb, content["rgb"], atol=0.03)  # decoders of JPEG round


def test_there_is_a_journal_of_every_version():
    assert [folder.name for folder in VERSIONS] == [f"v{i}" for i in range(1, VERSION + 1)]


@pytest.mark.slow  # processes
@pytest.mark.parametrize(
    ("hot", "bound"), [(0, 0), (400, 0), (0, 500)], ids=["full", "tiers", "bricks"]
)
def test_killed_at_random_moments_it_loses_at_most_the_frame_in_hand(tmp_path, hot, bound):
    found = killed(tmp_path, rounds=10, seed=0, hot=hot, bound=bound)
    assert found.kills == 10 and found.frames > 10
    assert found.in_hand <= found.kills, "each time at most one was written and not told"
    assert bool(found.bricks) == bool(bound)


def test_without_a_journal_nothing_is_written(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    live = live_map("", map__voxel_size=0.1)
    observe(live, [0])
    live.save(tmp_path / "a.radmap")
    close(live)
    assert live.journal is None and live.status().journal is None
    assert "journal" not in read_header(tmp_path / "a.radmap").notes
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a.radmap"]
