# SPDX-License-Identifier: Apache-2.0
"""Bags as they come from robots: cut, damaged, without metadata. What is whole is used, what is not
is counted, and whatever cannot be read at all is refused with the cure.
"""

from __future__ import annotations

import builtins
import random
import re
import shutil
import sqlite3
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from recordings import SIZE, BagWriter, rgb_of, write_bag, write_tf_bag
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from radseg_ros.datatypes import RadsegRosError, RecordingError
from radseg_ros.frames import bag as bag_module
from radseg_ros.frames.bag import MISSING, BagRecording
from radseg_ros.frames.folder import open_recording
from radseg_ros.ros.player import bag_timeline

PLUGINS = (StoragePlugin.SQLITE3, StoragePlugin.MCAP)
TOPICS = {"color": "/color", "depth": "/depth", "info": "/camera_info", "pose": "/pose"}
LARGE = (600, 800)  # of a colour image: the writer ends a chunk behind each


def write(
    path: Path,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    frames: int = 6,
    damage=None,
    color: tuple[int, int] = SIZE,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """Frames at 10 Hz from t = 1 s. ``damage`` takes kind, frame and bytes of every message."""
    with BagWriter(path, plugin, compression=compression) as bag:
        kinds = {topic: kind for kind, topic in TOPICS.items()}
        for i in range(frames):
            if damage is not None:
                bag.damage = lambda topic, data, i=i: damage(kinds[topic], i, data)
            ns = 1_000_000_000 + i * 100_000_000
            bag.pose(TOPICS["pose"], ns, i / 10)
            bag.info(TOPICS["info"], ns)
            bag.image(TOPICS["depth"], ns, np.full(SIZE, 1000 + i, np.uint16), "16UC1")
            bag.image(TOPICS["color"], ns, np.full((*color, 3), 10 * i, np.uint8), "rgb8")
    return path


def storage(path: Path) -> Path:
    (file,) = (file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
    return file


def read(recording) -> list[int]:
    """Numbers of the frames that can be used; every message is accounted for."""
    numbers = [round(frame.T_world_camera[0, 3] * 10) for frame in recording]
    for kind, account in recording.assembler.accounts().items():
        assert account.received == recording.read[kind]
        parts = (account.used, account.superseded, account.waiting, account.dropped)
        assert account.received == sum(parts), (kind, account)
    lost = sum(max(0, recording.expected[k] - recording.read[k]) for k in TOPICS)
    assert recording.drops[MISSING] == lost
    return numbers


CUTS = {
    "cut": lambda data: data[: len(data) // 2],
    "cut in its header": lambda data: data[:10],
    "nearly empty": lambda data: data[:3],
    "too long": lambda data: data + bytes(64),
    "of another encapsulation": lambda data: b"\7\7" + data[2:],
    "a name that never ends": lambda data: data[:12] + b"\xff\xff\xff\x7f" + data[16:],
    "a name that is no text": lambda data: data[:16] + b"\xff\xfe" + data[18:],
}


@pytest.mark.slow
@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
@pytest.mark.parametrize("kind", TOPICS)
@pytest.mark.parametrize("how", CUTS)
def test_one_damaged_message_costs_that_message(tmp_path, plugin, kind, how):
    def damage(of: str, i: int, data: bytes) -> bytes:
        return CUTS[how](data) if (of, i) == (kind, 3) else data

    recording = open_recording(write(tmp_path / "bag", plugin, damage=damage))
    numbers = read(recording)
    keeps_its_frame = kind in ("info", "pose")  # others take their place
    assert numbers == [0, 1, 2, *([3] if keeps_its_frame else []), 4, 5]
    assert recording.assembler.accounts()[kind].dropped == 1
    said = {"color": "colour", "info": "camera info"}.get(kind, kind)
    assert recording.drops[f"{said} message damaged"] == 1
    # an image whose header is whole takes its partner with it: one frame, one reason
    alone = kind in ("color", "depth") and how in ("cut in its header", "nearly empty")
    assert recording.drops.total == (2 if alone else 1)


def test_damaged_messages_are_not_played(tmp_path):
    def damage(of: str, i: int, data: bytes) -> bytes:
        return data[:40] if i in (0, 2) and of in ("color", "pose") else data

    recording = open_recording(write(tmp_path / "bag", damage=damage))
    played = list(bag_timeline(recording))
    assert len(played) == 4 * 6 - 4 and all(len(data) > 40 for _, _, data in played)
    assert dict(recording.drops.items()) == {
        "colour message damaged": 2,
        "pose message damaged": 2,
    }
    assert len(list(bag_timeline(recording))) == 20 and recording.drops.total == 4


def chunks(file: Path) -> list[tuple[int, int]]:
    """Offset and length of the contents of each chunk of an .mcap file."""
    data, at, found = file.read_bytes(), 8, []
    while at < len(data) - 8:
        opcode, length = data[at], struct.unpack_from("<Q", data, at + 1)[0]
        if opcode == 6:
            (name,) = struct.unpack_from("<I", data, at + 9 + 28)
            start = at + 9 + 28 + 4 + name + 8
            found.append((start, at + 9 + length - start))
        at += 9 + length
    return found


def overwrite(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    "damaged", [[0], [2], [5], [1, 3], [2, 3], [0, 1, 2, 3, 4, 5]], ids=lambda d: str(d)
)
def test_a_damaged_chunk_costs_that_chunk(tmp_path, damaged, compressed):
    mode = CompressionMode.STORAGE if compressed else CompressionMode.NONE
    path = write(tmp_path / "bag", color=LARGE, compression=mode)
    places = chunks(storage(path))
    assert len(places) == 6, "one frame in each chunk"
    for number in damaged:
        overwrite(storage(path), places[number][0], b"\xff" * min(64, places[number][1]))
    for at in (path, storage(path)):
        recording = BagRecording(at)
        assert recording.expected == dict.fromkeys(TOPICS, 6) and len(recording) == 6
        whole = [i for i in range(6) if i not in damaged]
        assert read(recording) == whole
        assert recording.drops.total == recording.drops[MISSING] == 4 * len(damaged)
        played = list(bag_timeline(recording))
        assert len(played) == 4 * len(whole) and recording.drops[MISSING] == 4 * len(damaged)
    if len(damaged) < 6:
        assert recording.drops.examples[MISSING].startswith(f"color: {len(whole)} of 6, depth:")


def test_a_message_that_cannot_be_unpacked_costs_what_was_recorded_with_it(tmp_path):
    path = write(tmp_path / "bag", StoragePlugin.SQLITE3, compression=CompressionMode.MESSAGE)
    with sqlite3.connect(storage(path)) as database:
        database.execute("UPDATE messages SET data = x'00112233' WHERE id = 4 * 3 + 1")
    recording = open_recording(path)
    numbers = read(recording)
    assert numbers == [0, 1, 2, 4, 5] and recording.drops[MISSING] == 4


def test_after_too_many_gaps_the_rest_is_given_up_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(bag_module, "MOST_GAPS", 2)
    path = write(tmp_path / "bag", color=LARGE)
    for number in (1, 3):
        overwrite(storage(path), chunks(storage(path))[number][0], b"\xff" * 64)
    recording = open_recording(path)
    assert read(recording) == [0, 2] and recording.drops[MISSING] == 16


# What the bag counts


class LongGap:
    """An hour that cannot be read from its first second to its last; patient for 100 looks."""

    start_time, end_time = 0, 3600 * 10**9
    bad = range(10**9, end_time - 10**9)

    def __init__(self) -> None:
        self.looks = 0

    def messages(self, connections: list, start: int) -> Iterator[tuple]:
        self.looks += 1
        if self.bad.start <= start < self.bad.stop and self.looks < 100:
            raise ValueError("damaged")
        yield (None, start, b"")


def test_a_long_gap_is_crossed_in_few_looks():
    end = bag_module._end_of_gap(LongGap(), [], LongGap.bad.start)
    assert 0 <= end - LongGap.bad.stop <= bag_module.SHORTEST_GAP


class Gap:
    """A message each ``apart`` ns; those of a stretch cannot be read, nor what is before them."""

    start_time = 10**9

    def __init__(self, count: int, apart: int, bad: range) -> None:
        self.times = [self.start_time + apart * i for i in range(count)]
        self.bad = {self.times[i] for i in bad}
        self.end_time = self.times[-1] + 1 if count else self.start_time

    def messages(self, connections: list, start: int | None) -> Iterator[tuple]:
        for time_ns in self.times:
            if start is None or time_ns >= start:
                if time_ns in self.bad:
                    raise ValueError("damaged")
                yield None, time_ns, b""


@pytest.mark.parametrize("apart", [1, 3])
@pytest.mark.parametrize("first", [0, 1, 2, 7])
def test_a_gap_costs_what_is_in_it_to_the_nanosecond(monkeypatch, apart, first):
    monkeypatch.setattr(bag_module, "SHORTEST_GAP", 1)
    for length in range(20):
        for after in (0, 1, 5):
            reader = Gap(first + length + after, apart, range(first, first + length))
            found = [time_ns for _, time_ns, _ in bag_module._readable(reader, [], Path("bag"))]
            assert found == [time_ns for time_ns in reader.times if time_ns not in reader.bad]


def counted(path: Path, **changes: int) -> None:
    """Let metadata.yaml count other numbers of messages."""
    metadata = path / "metadata.yaml"
    text = metadata.read_text()
    for kind, count in changes.items():
        pattern = rf"(message_count: )\d+(\n\s+topic_metadata:\n\s+name: {TOPICS[kind]}\n)"
        text, found = re.subn(pattern, rf"\g<1>{count}\g<2>", text)
        assert found == 1
    metadata.write_text(text)


def test_messages_that_only_the_metadata_knows_are_missing(tmp_path, caplog):
    path = write(tmp_path / "bag")
    counted(path, color=9, pose=7)
    recording = open_recording(path)
    assert len(recording) == 6 and recording.expected["color"] == 9
    assert read(recording) == [0, 1, 2, 3, 4, 5]
    assert dict(recording.drops.items()) == {MISSING: 4}
    assert recording.drops.examples[MISSING] == "color: 6 of 9, pose: 6 of 7"
    assert "mcap recover, ros2 bag reindex" in caplog.text


def test_more_than_is_counted_is_not_less(tmp_path):
    path = write(tmp_path / "bag")
    counted(path, color=2, depth=0)
    recording = open_recording(path)
    assert len(recording) == 0 and len(read(recording)) == 6 and not recording.drops.total


def test_rows_that_were_lost_are_missing(tmp_path):
    path = write(tmp_path / "bag", StoragePlugin.SQLITE3)
    with sqlite3.connect(storage(path)) as database:
        database.execute("DELETE FROM messages WHERE id > 4 * 2")
    recording = open_recording(path)
    assert read(recording) == [0, 1] and recording.drops[MISSING] == 16
    (tmp_path / "bag" / "metadata.yaml").rename(tmp_path / "metadata.yaml")
    assert read(open_recording(storage(path))) == [0, 1], "the file alone counts what it holds"


def test_statistics_of_an_mcap_file_alone(tmp_path):
    file = storage(write(tmp_path / "bag", color=LARGE))
    overwrite(file, chunks(file)[4][0], bytes(200))
    recording = open_recording(file)
    assert read(recording) == [0, 1, 2, 3, 5] and recording.drops[MISSING] == 4


def test_who_stops_early_is_told_of_nothing(tmp_path):
    path = write(tmp_path / "bag")
    counted(path, color=9)
    recording = open_recording(path)
    next(iter(recording))
    assert not recording.drops.total


# What cannot be read at all


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_a_killed_recorder_leaves_no_metadata(tmp_path, plugin):
    path = write(tmp_path / "bag", plugin)
    (path / "metadata.yaml").unlink()
    with pytest.raises(RecordingError) as caught:
        open_recording(path)
    assert f"`ros2 bag reindex {path}`" in str(caught.value)
    assert f"give the file {storage(path)}" in str(caught.value)
    assert read(open_recording(storage(path))) == [0, 1, 2, 3, 4, 5]


def test_a_log_beside_a_database_is_told(tmp_path, caplog):
    path = write(tmp_path / "bag", StoragePlugin.SQLITE3)
    log = storage(path).with_name(f"{storage(path).name}-wal")
    for content, told in ((b"", 0), (b"rows", 1)):
        log.write_bytes(content)
        for at in (path, storage(path)):
            caplog.clear()
            BagRecording(at)
            assert caplog.text.count("PRAGMA wal_checkpoint") == told


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


UNREADABLE = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "one byte": lambda file: file.write_bytes(file.read_bytes()[:1]),
    "something else": lambda file: file.write_bytes(b"\x89PNG" + bytes(5000)),
    "its beginning twice": lambda file: file.write_bytes(file.read_bytes()[:3000] * 2),
}


def test_of_several_files_the_first_is_the_example_of_the_cure(tmp_path):
    path = write(tmp_path / "bag", StoragePlugin.MCAP)
    later = path / "z.mcap"
    shutil.copy(storage(path), later)
    (path / "metadata.yaml").write_text("none")
    with pytest.raises(RecordingError, match="bag.mcap") as caught:
        open_recording(path)
    assert str(later) not in str(caught.value)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
@pytest.mark.parametrize("how", UNREADABLE)
def test_a_file_that_cannot_be_read_is_refused_with_its_cure(tmp_path, plugin, how):
    path = write(tmp_path / "bag", plugin)
    file = storage(path)
    UNREADABLE[how](file)
    recover = {".mcap": f"mcap recover {file}", ".db3": f"sqlite3 {file} .recover"}[file.suffix]
    for at, cures in ((file, [recover]), (path, [recover, "ros2 bag reindex"])):
        with pytest.raises(RecordingError) as caught:
            open_recording(at)
        text = str(caught.value)
        assert text.startswith(f"{at} cannot be read as a bag (") and "\n" not in text
        assert all(cure in text for cure in cures) and len(text) < 1000


def test_the_library_that_reads_bags_may_be_missing(tmp_path, monkeypatch):
    path = write(tmp_path / "bag")
    libraries = ("backports.zstd", "zstandard", "lz4.frame", "apsw", "ruamel.yaml")
    real, imported = builtins.__import__, set()

    def told(name, space=None, local=None, parts=(), level=0):
        imported.update([name, *(f"{name}.{part}" for part in parts or ())])
        return real(name, space, local, parts, level)

    def forget(patch) -> None:
        for module in [m for m in sys.modules if m.split(".")[0] in ("rosbags", "backports")]:
            patch.delitem(sys.modules, module)

    with monkeypatch.context() as patch:
        forget(patch)
        patch.setattr(builtins, "__import__", told)
        BagRecording(path)
    used = [name for name in ("rosbags.highlevel", *libraries) if name in imported]
    assert len(used) > 2
    for name in used:
        with monkeypatch.context() as patch:
            forget(patch)
            patch.setitem(sys.modules, name, None)
            with pytest.raises(RecordingError, match=r"pip install 'radseg_ros\[recordings\]'"):
                BagRecording(path)


YAML = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "other keys": "rosbag2_bagfile_information: {version: 9}\n",
    "a newer version": "rosbag2_bagfile_information: {version: 10}\n",
    "no yaml": "a: [1, 2\n b: }\n",
    "deep": "a: " + "[" * sys.getrecursionlimit(),
    "binary": "\0\1\2",
}


@pytest.mark.parametrize("how", YAML)
def test_metadata_that_is_none_is_refused(tmp_path, how):
    path = write(tmp_path / "bag")
    (path / "metadata.yaml").write_text(YAML[how])
    with pytest.raises(RecordingError, match="ros2 bag reindex") as caught:
        open_recording(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("storage_identifier: mcap", "storage_identifier: tape"),
        ("bag.mcap", "other.mcap"),
        ("message_count: 6", "message_count: many"),
        ("message_count: 6", "message_count: [6]"),
        ("serialization_format: cdr", "serialization_format: json"),
        ("nanoseconds: ", "nanoseconds: x"),
        ("compression_mode: ''", "compression_mode: file\n  compression_format: zip"),
    ],
)
def test_impossible_entries_of_the_metadata_are_refused(tmp_path, old, new):
    path = write(tmp_path / "bag")
    text = (path / "metadata.yaml").read_text()
    assert old in text
    (path / "metadata.yaml").write_text(text.replace(old, new))
    with pytest.raises(RecordingError, match="cannot be read as a bag"):
        open_recording(path)


def test_a_missing_part_and_a_folder_of_nothing(tmp_path):
    path = write(tmp_path / "bag")
    storage(path).unlink()
    with pytest.raises(RecordingError, match="files are missing.*ros2 bag reindex"):
        open_recording(path)
    with pytest.raises(RecordingError, match="no metadata.yaml, no .mcap, no .db3"):
        BagRecording(shutil.copytree(tmp_path, tmp_path.with_name("other")))
    (tmp_path / "bag.zip").write_bytes(b"x")
    with pytest.raises(RecordingError, match="a bag is a folder with metadata.yaml, or a .mcap"):
        open_recording(tmp_path / "bag.zip")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(RecordingError, match="rosbag reindex"):
        open_recording(tmp_path / "old.bag")


@pytest.mark.slow
def test_whatever_is_wrong_with_a_bag_it_is_used_counted_or_refused(tmp_path):
    """Truncation, flipped and overwritten bytes, anywhere: nothing is lost in silence."""
    generator = random.Random(7)
    bases = [
        write(tmp_path / f"{plugin.name}{mode.name}", plugin, compression=mode)
        for plugin in PLUGINS
        for mode in (CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE)
    ]
    refused = 0
    for _ in range(150):
        path = tmp_path / "bag"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(generator.choice(bases), path)
        file = generator.choice(sorted(path.iterdir()))
        data = bytearray(file.read_bytes())
        for _ in range(generator.choice([1, 4, 50])):
            at = generator.randrange(len(data))
            part = generator.randbytes(generator.randrange(1, 40))
            data[at : at + len(part)] = part[: len(data) - at]
        file.write_bytes(data[: generator.choice([len(data)] * 3 + [len(data) // 2])])
        try:
            recording = open_recording(path)
            used = len(read(recording))
        except RadsegRosError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert used == 6 or recording.drops.total
    assert 20 < refused < 150


def test_a_whole_bag_has_nothing_to_tell(tmp_path, caplog):
    recording = open_recording(write_bag(tmp_path / "bag"))
    assert len(list(recording)) == 5 and not recording.drops.total and not caplog.text


def write_with_extra(path: Path, plugin: StoragePlugin) -> Path:
    """A bag with a topic besides that no map needs."""
    with BagWriter(path, plugin) as bag:
        bag.image("/color/image", 0, rgb_of(1), "rgb8")
        bag.image("/depth/image", 0, np.full(SIZE, 1000, np.uint16), "16UC1")
        bag.info("/depth/camera_info", 0)
        bag.pose("/pose", 0, 0.0)
        bag.write("/other", bag.message("std_msgs/msg/String", data="x"), 1)
    return path


def define(path: Path, kind: str, encoding: str, definition: str) -> Path:
    """How a bag in SQLite says that a type of messages is defined."""
    with closing(sqlite3.connect(storage(path))) as base, base:
        changed = base.execute(
            "UPDATE message_definitions SET encoding = ?, encoded_message_definition = ? "
            "WHERE topic_type = ?",
            (encoding, definition, kind),
        )
        assert changed.rowcount == 1
    return path


@pytest.mark.parametrize("kind", ["std_msgs/msg/String", "sensor_msgs/msg/Image"])
@pytest.mark.parametrize("encoding", ["ros2msg", "ros2idl"])
def test_a_definition_that_cannot_be_parsed_costs_nothing(tmp_path, kind, encoding):
    """Nobody asks what other messages are, and those of a map are known without the bag."""
    bag = write_with_extra(tmp_path / "bag", StoragePlugin.SQLITE3)
    (frame,) = BagRecording(define(bag, kind, encoding, "%% no definition {"))
    assert (frame.depth == 1).all()


def test_types_that_are_defined_in_idl_are_read_by_it(tmp_path):
    struct = "module tf2_msgs { module msg { struct TFMessage { string transforms; }; }; };"
    rule = "=" * 80 + "\nIDL: tf2_msgs/msg/TFMessage\n"
    bag = define(write_tf_bag(tmp_path / "bag"), "tf2_msgs/msg/TFMessage", "ros2idl", rule + struct)
    recording = BagRecording(bag)
    assert not list(recording), "the bag says that its transforms are texts"
    assert "transform" in str(recording.drops)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_type_that_a_recorder_could_not_define_is_told_with_a_cure(tmp_path, plugin):
    bag = write_with_extra(tmp_path / "bag", plugin)
    if plugin is StoragePlugin.MCAP:
        file = storage(bag)
        name, old, new = b"std_msgs/msg/String\x07\0\0\0", b"ros2msg", b"unknown"
        file.write_bytes(file.read_bytes().replace(name + old, name + new))
        cure = r"`mcap filter \S+bag.mcap -o NEW.mcap -n TOPIC`"
    else:
        define(bag, "std_msgs/msg/String", "unknown", "")
        cure = r"`sqlite3 (\S+) \"(DELETE FROM message_definitions WHERE encoding = 'unknown')\"`"
    with pytest.raises(RecordingError, match=f"defines a type .* as 'unknown'.*{cure}") as caught:
        BagRecording(bag)
    if plugin is StoragePlugin.SQLITE3:
        file, statement = re.search(cure, str(caught.value)).groups()
        with closing(sqlite3.connect(file)) as base, base:
            base.execute(statement)
        assert len(list(BagRecording(bag))) == 1, "as it was told"
