# SPDX-License-Identifier: Apache-2.0
"""Maps and journals whose checksums are honest and whose contents are not: refused in a sentence,
or sound. What has been read can be asked, grown, joined and written again.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from damage import altered, damaged
from hostile import rewritten, taken_apart
from journalled import assert_equal, live_map, observe, place, settle
from small_worlds import make_map, random_frame
from test_correct import AT_ONCE, correct, corrected
from test_correct import done as corrections_end
from waiting import PATIENCE

from radseg_ros.cli.info import main as info
from radseg_ros.config import Config, MapConfig
from radseg_ros.datatypes import FeatureMap, Filter, InputError, MapFileError
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.journal.folder import ABOUT, MOST_BYTES, Journal, JournalWriter
from radseg_ros.journal.record import FILE as RECORD
from radseg_ros.journal.record import Content
from radseg_ros.mapper import Mapper
from radseg_ros.view.saved_map import config_of
from radseg_ros.voxels import map_file, tensor_file
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.map_file import FILE as MAP
from radseg_ros.voxels.map_file import (
    MOST_HITS,
    MOST_VIEWS,
    fingerprint,
    load_map,
    read_geometry,
    read_header,
    save_map,
)
from radseg_ros.voxels.tensor_file import save_tensors
from radseg_ros.voxels.voxel_map import LARGEST, History, VoxelMap

NOTES = {
    "options": {"encoder": "lite", "encoder_options": ["a=1"], "query": {"threshold": 0.3}},
    "camera": {"positions": [[0.0, 1.0, 2.0]], "up": [0.0, 0.0, 1.0], "count": 1, "step": 1},
    "journal": {"id": "x", "record": 3, "removed": 0, "frames": 2, "stale": {}},
    "recording": {"read": 3, "used": 3, "complete": True, "dropped": {"x": 1}, "keyframes": []},
}
PLAIN = MapConfig(voxel_size=0.2, device="cpu")
COLORS = len(ColorEncoder().embed_labels(["red"])[0])


@pytest.fixture(autouse=True)
def colors(monkeypatch):
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def color_map(path: Path, share: int = 1) -> None:
    """A map file of random frames, with vectors as wide as those of :class:`ColorEncoder`."""
    world, rng = make_map(0.2, COLORS, device="cpu"), np.random.default_rng(0)
    for step in range(3):
        world.integrate(*random_frame(rng, stamp_ns=step, channels=COLORS))
    save_map(path, world, notes=NOTES, share=share)


def use(path: Path, again: Path, options: MapConfig = PLAIN) -> None:
    """Whatever one does with a map; nothing that is no number may come of it."""
    config = Config(encoder="colors", short_side=0, map=options)
    mapper = Mapper(config, ColorEncoder())
    world = load_map(path, config=config.map, channels=COLORS)[0]
    mapper.take(world)
    for where in (None, Filter(radius=2.0, max_age=1e6)):
        result = mapper.query(["red", "a grey wall"], where=where)
        assert np.isfinite(result.scores).all()
        assert all(0 <= answer.best_score <= 1 for answer in result.answers)
        assert np.isfinite(result.cloud(1).xyz).all()
    mapper.rgb_cloud()
    world.integrate(*random_frame(np.random.default_rng(1), channels=COLORS))
    world.merge(load_map(path, config=config.map)[0])
    for part in (world.snapshot().features, world.snapshot().xyz, world.snapshot().rgb):
        assert bool(part.isfinite().all())
    save_map(again, world)
    load_map(again)


def tiered_map(path: Path) -> MapConfig:
    """A map file in tiers, of two codecs that have been learnt one after the other; its options."""
    tiers = MapConfig(voxel_size=0.6, device="cpu", hot_voxels=300, cold_share=2)
    world, rng = VoxelMap(COLORS, tiers), np.random.default_rng(0)
    for step in range(9):
        world.integrate(*random_frame(rng, stamp_ns=step, channels=COLORS))
        if step == 6:
            world.table.vectors._begin()
            world.table.vectors._follow_up()
    assert len(world.table.vectors.codecs.all) == 2
    save_map(path, world, notes=NOTES)
    return tiers


def told(path: Path) -> int:
    """What radseg-info ends with; what a file notes may be anything."""
    try:
        header = read_header(path)
        CameraPath.of(header)
        config_of(path, header)
    except MapFileError as error:
        assert "\n" not in str(error)
    return info([str(path)])


def survives(path: Path, options: MapConfig = PLAIN) -> bool:
    """Whether a file is read; if so it is used, by who goes on with these options."""
    refused = 0
    for read in (fingerprint, read_header, read_geometry, load_map):
        try:
            read(path)
        except MapFileError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            refused += 1
    told(path)
    if not refused:
        try:
            use(path, path.with_name("again.radmap"), options)
        except MapFileError as error:  # of another width, or voxel size
            assert "here it is" in str(error)
    return not refused


@pytest.mark.slow
def test_notes_that_lie(tmp_path):
    path = tmp_path / "a.radmap"
    color_map(path)
    header, state = taken_apart(path, MAP)
    for notes in altered(NOTES, 100):
        save_tensors(path, MAP, {**header, "notes": notes}, state)
        told(path)


@pytest.mark.slow
@pytest.mark.parametrize("share", [1, 4])
def test_map_files_that_lie(tmp_path, share):
    path = tmp_path / "a.radmap"
    color_map(path, share)
    whole = path.read_bytes()
    header, state = taken_apart(path, MAP)
    read = sum(survives(path) for _ in rewritten(path, MAP, header, state, 240, seed=share))
    assert 5 < read < 160
    for data in damaged(whole, 60):
        path.write_bytes(data)
        survives(path)


@pytest.mark.slow
def test_map_files_in_tiers_that_lie(tmp_path):
    path = tmp_path / "a.radmap"
    tiers = tiered_map(path)
    header, state = taken_apart(path, MAP)
    read = sum(survives(path, tiers) for _ in rewritten(path, MAP, header, state, 80, seed=3))
    assert 5 < read < 60


def test_a_map_of_single_numbers_is_none(tmp_path):
    path = tmp_path / "a.radmap"
    color_map(path)
    header, state = taken_apart(path, MAP)
    for some in (state, ["key"]):
        save_tensors(path, MAP, header, {**state, **{name: state[name][0] for name in some}})
        for read in (load_map, read_geometry):
            with pytest.raises(MapFileError, match="is damaged: "):
                read(path)


def test_a_disk_that_fails_is_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.radmap"
    color_map(path)

    class Failing(io.FileIO):
        def readinto(self, room):
            if self.tell() > path.stat().st_size // 2:
                raise OSError(errno.EIO, "Input/output error", str(path))
            return super().readinto(room)

    monkeypatch.setattr(tensor_file, "plain_file", lambda path, most: Failing(path))
    for read in (load_map, read_geometry):
        with pytest.raises(MapFileError, match="is damaged"):
            read(path)


@pytest.mark.parametrize("hot", [0, 64])
def test_a_map_that_is_cut_while_it_is_read_is_damaged(tmp_path, monkeypatch, hot):
    """Nothing of it is mapped: that would end the process (SIGBUS)."""
    path = tmp_path / "a.radmap"
    color_map(path)
    understood = map_file._understood

    def cut(*said):
        header = understood(*said)
        os.truncate(path, path.stat().st_size // 2)
        return header

    monkeypatch.setattr(map_file, "_understood", cut)
    with pytest.raises(MapFileError, match="is damaged"):
        load_map(path, config=replace(PLAIN, hot_voxels=hot))


def test_codes_that_stand_for_numbers_beyond_any_map(tmp_path):
    path, axes = tmp_path / "a.radmap", 2048
    color_map(path, 4)
    header, state = taken_apart(path, MAP)
    state["codec0_axes"] = torch.full((axes, COLORS), 4.0)
    state["codec0_book1"] = torch.full((axes // 8, 256, 8), 4.0)
    for share in (2, 4, 8):
        state[f"codec0_book{share}"] = torch.zeros(0, 256, 8 // share)
    state["codes"] = torch.full((len(state["key"]), 3 + axes // 8), 255, dtype=torch.uint8)
    state["codes"][:, 0] = 0
    save_tensors(path, MAP, header, state)
    with pytest.raises(MapFileError, match="stand for impossible vectors"):
        load_map(path)


PLACES = {
    "beyond all numbers": {"shape": [0, 10**30], "data_offsets": [0, 0]},
    "of many axes": {"shape": [1] * 100, "data_offsets": [0, 4]},
    "below nothing": {"shape": [-1], "data_offsets": [0, -4]},
    "before the file": {"shape": [2], "data_offsets": [-8, 0]},
    "on another": {"shape": [1], "data_offsets": [4, 8]},
    "with a gap": {"shape": [1], "data_offsets": [12, 16]},
    "beyond the end": {"shape": [1 << 40], "data_offsets": [8, 8 + (4 << 40)]},
    "of no type": {"dtype": "F7", "shape": [1], "data_offsets": [8, 12]},
    "of parts": {"shape": [0.5, 2], "data_offsets": [8, 12]},
    "without numbers": {"shape": None, "data_offsets": "ab"},
    "of three": {"shape": [1], "data_offsets": [8, 9, 12]},
}


@pytest.mark.parametrize("place", [*PLACES, *range(8)])
def test_tensors_that_lie_where_they_cannot(tmp_path, place):
    """Also headers that hold something else: numbers, lists, nothing."""
    path = tmp_path / "a.radmap"
    color_map(path)
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    header: object = json.loads(data[8:length])
    if place in PLACES:
        header["other"] = {"dtype": "F32", **PLACES[place]}
    else:
        keys = {**header, "__metadata__": place}
        header = [7, None, [], {}, "x", {"key": 7}, {"__metadata__": None}, keys][place]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[length:])
    for read in (load_map, read_geometry, read_header, fingerprint):
        with pytest.raises(MapFileError, match="damaged|not a map file"):
            read(path)


def test_vectors_and_codes_of_them_are_refused(tmp_path):
    path = tmp_path / "a.radmap"
    color_map(path, 4)
    header, state = taken_apart(path, MAP)
    state["vectors"] = torch.zeros(len(state["key"]), COLORS)
    state["codes"] = state["codes"][:1]
    save_tensors(path, MAP, header, state)
    with pytest.raises(MapFileError, match="it has vectors and codes of them"):
        load_map(path)


def test_memory_is_not_kept_free_because_a_file_says_so(tmp_path):
    path = tmp_path / "a.radmap"
    color_map(path)
    header, state = taken_apart(path, MAP)
    options = {**header["map"], "hot_voxels": 10**9, "cold_share": 2}
    save_tensors(path, MAP, {**header, "map": options}, state)
    world = load_map(path)[0]
    assert world.nbytes < 1 << 29 and len(world) == len(state["key"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "old", sorted((Path(__file__).parent / "data" / "maps").glob("*.radmap")), ids=lambda p: p.stem
)
def test_files_of_every_version_that_lie(tmp_path, old):
    header, state = taken_apart(old, MAP)
    path = tmp_path / "a.radmap"
    for _ in rewritten(path, MAP, header, state, 100):
        survives(path)


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), 2**1024], ids=["10^400", "-10^400", "2^1024"]
)
@pytest.mark.parametrize("part", ["camera", "map", "lift"])
def test_whole_numbers_beyond_all_real_ones(tmp_path, part, number):
    path = tmp_path / "a.radmap"
    color_map(path)
    header, state = taken_apart(path, MAP)
    changes = {
        "camera": [number, 0, 0],
        "map": {**header["map"], "voxel_size": number},
        "lift": {**header["lift"], "max_range": number},
    }
    save_tensors(path, MAP, {**header, part: changes[part]}, state)
    for read in (read_header, load_map):
        with pytest.raises(MapFileError, match="is damaged"):
            read(path)


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("hits", MOST_HITS, True),
        ("hits", MOST_HITS + 1, False),
        ("views", MOST_VIEWS, True),
        ("views", MOST_VIEWS + 1, False),
        ("vectors", -LARGEST, True),
        ("vectors", 1.01 * LARGEST, False),
    ],
)
def test_the_largest_numbers_that_a_map_goes_on_with(tmp_path, name, value, good):
    path = tmp_path / "a.radmap"
    color_map(path)
    header, state = taken_apart(path, MAP)
    if name != "vectors":
        state["hits"][0] = max(value, int(state["hits"][0]))
        state["rgb_sum"][0] = 0
    else:
        value *= int(state["hits"][0])
    state[name][0] = value
    save_tensors(path, MAP, header, state)
    if not good:
        with pytest.raises(MapFileError, match=f"impossible {name}"):
            load_map(path)
        return
    world = load_map(path)[0]
    world.merge(load_map(path)[0])
    assert bool(
        (world.table["hits"] >= world.table["views"]).all() & (world.table["views"] > 0).all()
    )
    assert bool(world.snapshot().features.isfinite().all())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_would_spoil_a_voxel_are_refused(dtype):
    world, rng = make_map(0.2, 5, dtype=dtype), np.random.default_rng(0)
    frame, features = random_frame(rng)
    for bad in (1.01 * LARGEST, -1e38, float("inf"), float("nan")):
        data = features.data.clone()
        data[3, 1, 2] = bad
        with pytest.raises(InputError, match="not finite, or beyond"):
            world.integrate(frame, FeatureMap(data))
    assert not len(world)
    world.integrate(frame, FeatureMap(torch.full_like(features.data, LARGEST)))
    assert bool(world.snapshot().features.isfinite().all())


# Journals


def walked(folder: Path) -> JournalWriter:
    """A journal with a record of most kinds."""
    live = live_map(folder)
    observe(live, range(3))
    live.close()
    writer = JournalWriter(folder, Journal(folder).about)
    poses = torch.from_numpy(np.stack([place(5), place(6)]))
    writer.append("moved", Content({"frames": [1, 2]}, {"poses": poses}))
    writer.append("clear_box", {"lowest": [0, 0, 0], "highest": [0.1, 0.1, 0.1]})
    writer.append("merge", {"path": "/none/a.radmap", "fingerprint": "x"})
    writer.close()
    return writer


def goes_on(folder: Path, at_stamps: bool) -> None:
    """A node begins with the journal, corrects it, and goes on."""
    live = live_map(folder, correct__share=1.0)
    try:
        observe(live, [9])
        if at_stamps:
            stamps = [1_000_000_000 + 100_000_000 * step for step in range(12)]
            live.correct(stamps, [place(step + 1) for step in range(12)])
        settle(live, lambda: not live.status().journal.moving)
        world = live.mapper.map
        assert len(world) and bool(world.snapshot().features.isfinite().all())
    finally:
        live.close()


def test_numbers_of_records_leave_room_for_those_to_come(tmp_path):
    writer = walked(tmp_path)
    (tmp_path / "9999999999-reset.safetensors").write_bytes(
        (tmp_path / writer.records[0].name).read_bytes()
    )
    again = JournalWriter(tmp_path, writer.about)
    assert again.records == writer.records
    again.append("wait", {})
    assert again.records == Journal(tmp_path).records
    again.close()
    for lie in ({"record": 10**18}, {"frames": -1}, {"removed": -1}, {"stale": {-5: place(1)}}):
        note = {**History(record=1, stale={3: place(0)}).note(), **lie}
        with pytest.raises(InputError, match="impossible n"):
            History.of(note)
    assert History.of(History(record=1, stale={3: place(0)}).note()).record == 1


def test_a_record_is_read_and_not_mapped(tmp_path):
    """Where a disk fails it is damaged; a process that has it mapped is killed (SIGBUS)."""
    writer = walked(tmp_path)
    frame = next(each for each in writer.records if each.kind == "frame")
    found = writer.content(frame)
    os.truncate(tmp_path / frame.name, 1)
    assert found is not None and bool(found.state["features"].isfinite().all())
    with (tmp_path / frame.name).open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert writer.content(frame) is None


def test_a_journal_that_may_not_be_read_is_told_in_a_sentence(tmp_path, monkeypatch):
    about = walked(tmp_path).about

    def refused(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name, said in (("scandir", "cannot be read"), ("open", "cannot be opened")):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, refused)
            with pytest.raises(MapFileError, match=f"{said}: Permission denied"):
                JournalWriter(tmp_path, about)


def test_a_map_file_that_is_replaced_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """Or the journal would tell of another file than the one that was read."""
    live, path, other = live_map(tmp_path / "journal"), tmp_path / "a.radmap", tmp_path / "b.radmap"
    observe(live, [0])
    live.save(path)
    observe(live, [1])
    live.save(other)
    before, read = len(live.mapper.map), Mapper.read

    def slowly(mapper: Mapper, file: Path):
        found = read(mapper, file)
        shutil.copyfile(other, file)
        return found

    monkeypatch.setattr(Mapper, "read", slowly)
    with pytest.raises(MapFileError, match="was written while it was read"):
        live.load(path)
    assert len(live.mapper.map) == before
    assert not [each for each in live.journal.records if each.kind == "load"]
    assert live.load(path) == before
    assert live.close(PATIENCE)


@pytest.mark.slow
def test_records_that_broke_before_frames_are_moved(tmp_path):
    """Frames are where they were or where they belong, and the account of both is whole."""
    live = live_map(tmp_path, **AT_ONCE)
    observe(live, range(12))
    records = [each for each in live.journal.records if each.kind == "frame"]
    frames = [live.journal.key_frame(record) for record in records]
    for number, record in enumerate(records[::2]):
        path, good = tmp_path / record.name, (tmp_path / record.name).read_bytes()
        path.unlink()
        if number % 3 == 1:
            path.write_bytes(good[: len(good) // 2])
        elif number % 3 == 2:  # only this one tells its stamp
            path.write_bytes(good[:-9] + bytes(9))
    asked = correct(live, range(12))
    corrections_end(live)
    status, world = live.status().journal, live.mapper.map
    assert (asked.moved, status.unmoved, status.lost) == (8, 2, 0) and status.damaged >= 6
    wanted = VoxelMap(world.channels, live.mapper.config.map, device="cpu")
    for step, kept in enumerate(frames):
        T = corrected(step) if step % 2 else place(step)
        wanted.integrate(replace(kept.frame, T_world_camera=T), kept.features, kept.rules)
    assert_equal(world, wanted, stamps=False)
    assert live.close(PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frame", "moved", "clear_box", "merge"])
def test_records_that_lie_cost_themselves(tmp_path, kind):
    written = walked(tmp_path / "whole")
    record = next(each for each in written.records if each.kind == kind)
    path, bad = tmp_path / "whole" / record.name, tmp_path / "bad.safetensors"
    header, state = taken_apart(path, RECORD)
    others = (bad.read_bytes() for _ in rewritten(bad, RECORD, header, state, 24))
    for number, data in enumerate((*others, *damaged(path.read_bytes(), 6))):
        folder = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / record.name).write_bytes(data)
        goes_on(folder, number % 2 == 0)


@pytest.mark.slow
def test_a_journal_that_lies_of_itself_is_refused_or_read(tmp_path):
    walked(tmp_path / "whole")
    good = (tmp_path / "whole" / ABOUT).read_bytes()
    others = (json.dumps(value).encode() for value in altered(json.loads(good), 40))
    refused = 0
    for number, data in enumerate((*others, *damaged(good, 12))):
        folder = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / ABOUT).write_bytes(data)
        try:
            goes_on(folder, False)
        except MapFileError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            refused += 1
    assert 10 < refused < 50
