# SPDX-License-Identifier: Apache-2.0
"""The lines that say why nothing happens; drop counts; file names that come over the network."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from radseg_ros.config import Config
from radseg_ros.datatypes import InputError
from radseg_ros.frames import drops as drops_module
from radseg_ros.frames.drops import DropCounts, Unusable
from radseg_ros.frames.ledger import Account
from radseg_ros.live_map import LiveMap
from radseg_ros.ros.paths import confined, share_file
from radseg_ros.ros.transport import image_transport, own_domain, profile_variable, sized_profile
from radseg_ros.watchdog import InputState, Level, Report, Watchdog, why_no_frames

ODOMETRY, POSE = "nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped"


def test_every_silent_input_is_explained():
    line = why_no_frames(
        [
            InputState("color", "/color/image", "sensor_msgs/msg/Image", [], 0),
            InputState(
                "depth", "/depth/image", "sensor_msgs/msg/Image", ["sensor_msgs/msg/Image"], 0
            ),
            InputState(
                "info",
                "/depth/camera_info",
                "sensor_msgs/msg/CameraInfo",
                ["sensor_msgs/msg/CameraInfo"],
                50,
            ),
            InputState("pose", "/pose", ODOMETRY, [POSE], 0),
        ],
        [("colour image without a depth image within 0.02 s", 7)],
        5.0,
    )
    assert line.startswith("no frame for 5 s: ")
    assert "/color/image: no publisher" in line
    assert "/depth/image: published, but nothing arrives" in line and "fastdds.xml" in line
    assert f"/pose: published as {POSE}, expected {ODOMETRY} (set node.pose_type)" in line
    assert "camera_info" not in line and "dropped 7 x colour image without" in line


def test_a_sender_that_waits_loses_no_images():
    def silent(*received: int) -> str:
        kinds = zip(("color", "info", "pose"), received, strict=True)
        return why_no_frames([InputState(k, f"/{k}", "T", ["T"], n) for k, n in kinds], [], 5.0)

    waits = "published, but nothing arrives (is the sender paused, or still waiting for somebody?)"
    assert silent(0, 0, 0) == f"no frame for 5 s: /color, /info, /pose: {waits}"
    assert silent(0, 0, 9) == f"no frame for 5 s: /color, /info: {waits}"
    assert "/color: published, but nothing arrives (images are lost" in silent(0, 9, 0)
    assert silent(0, 9, 0).endswith(f"/pose: {waits}")
    assert silent(9, 0, 9) == f"no frame for 5 s: /info: {waits}"


def test_what_may_be_meant_by_a_topic_that_nobody_publishes_is_named():
    camera = "/camera/camera"
    images = [
        f"{camera}/aligned_depth_to_color/image_raw", f"{camera}/color/image_raw",
        f"{camera}/depth/image_rect_raw", f"{camera}/infra1/image_rect_raw",
        f"{camera}/infra2/image_rect_raw",
    ]  # fmt: skip
    inputs = [
        InputState(kind, f"/{kind}", "T", [], 0, others)
        for kind, others in (("depth", images), ("color", images), ("pose", ["/odom"]), ("tf", []))
    ]
    assert why_no_frames(inputs, [], 5.0) == (
        f"no frame for 5 s: /depth: no publisher (remap to {images[0]}, {images[2]} or "
        f"{images[1]}?); /color: no publisher (remap to {images[1]}, {images[3]} or {images[4]}?); "
        "/pose: no publisher (remap to /odom?); /tf: no publisher, and none of its type on "
        "any topic (is odometry or SLAM running?)"
    )


def heard(messages: int) -> dict[str, Account]:
    return {"color": Account(messages, 0, 0, messages)}


class Clock:
    """A watchdog that is asked every second what a map with these counters is doing."""

    def __init__(self) -> None:
        self.dog = Watchdog(5.0)
        self.now = 100.0
        self.status = dataclasses.replace(LiveMap(Config()).status(), encoder="lite")
        self.kinds = ("color",)
        self.publishers = ["T"]

    def look(self, seconds: int = 1, faults: int = 0, **changes: object) -> Report:
        """The last of ``seconds`` looks, the counters having changed before the first."""
        self.status = dataclasses.replace(self.status, **changes)
        for _ in range(seconds):
            self.now += 1.0
            report = self.dog.look(self.now, self.status, self.kinds, self._state, faults)
        return report

    def _state(self, kind: str, received: int) -> InputState:
        return InputState(kind, f"/{kind}", "T", self.publishers, received)

    def news(self, report: Report) -> str:
        return self.dog.news(self.now, report, self.status.integrated)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_silence_is_a_warning_after_a_period_and_progress_ends_it(clock):
    clock.publishers = []
    first = clock.look(5)
    assert (first.level, first.text) == (Level.OK, "waiting for frames")
    silent = clock.look()
    assert silent.level is Level.WARN
    assert silent.text.startswith("no frame for 5 s: /color: no publisher, and none of its type")
    report = clock.look(integrated=3, accounts=heard(10), drops=[("a", 2), ("b", 4)])
    assert report.level is Level.OK
    assert report.text == "3 frames (+3), 6 inputs dropped, most: b; 0 voxels"
    assert report.rates == {"color": 2.0}
    clock.publishers = ["T"]
    assert clock.look(4).level is Level.OK, "a frame came within the last 5 s"
    ended = clock.look(2)
    assert ended.level is Level.WARN and "/color: published, but nothing arrives" in ended.text
    assert ended.rates == {"color": 0.0}


def test_what_was_dropped_in_the_period_is_the_reason(clock):
    clock.look(6, drops=[("old", 7)])
    report = clock.look(3, accounts=heard(3), drops=[("old", 7), ("new", 1)])
    assert report.text == "no frame for 5 s: dropped 1 x new"


def test_a_frame_in_the_encoder_and_frames_left_out_on_purpose_are_no_silence(clock):
    clock.look(6)
    assert clock.look(9, waiting=1).level is Level.OK
    assert clock.look(9, waiting=0).level is Level.WARN
    assert clock.look(skipped=4).level is Level.OK, "the robot stands at a key frame"


def test_loading_is_stale_and_the_period_begins_when_inputs_are_heard(clock):
    loading = clock.look(20, encoder="")
    assert (loading.level, loading.text) == (Level.STALE, "loading the encoder")
    clock.kinds = ()
    assert clock.look(encoder="lite").level is Level.STALE, "not subscribed yet"
    clock.kinds = ("color",)
    assert clock.look(5).level is Level.OK
    assert clock.look().level is Level.WARN


def test_a_pause_is_no_silence_nor_is_the_time_after_it(clock):
    clock.look(9)
    paused = clock.look(9, paused=True, drops=[("paused", 90)])
    assert paused.level is Level.OK and "~/resume" in paused.text
    assert clock.look(5, paused=False).text == "waiting for frames"
    assert clock.look(1).level is Level.WARN


def test_errors_that_nobody_expected_are_errors_for_a_period(clock):
    clock.look(6)
    assert clock.look(integrated=2, failures=1).level is Level.ERROR
    both = clock.look(faults=3)
    assert both.level is Level.ERROR and both.text.startswith("4 internal errors, see the log; 2 f")
    clock.look(5, faults=3, integrated=3)
    assert clock.look(faults=3, integrated=4).level is Level.OK


def test_latency_is_the_mean_of_the_period(clock):
    clock.look(1, stages={"encode": (100.0, 10)})
    report = clock.look(1, stages={"encode": (101.0, 14), "fuse": (0.5, 1), "score": (0.0, 0)})
    assert report.latencies == {"encode": 0.25, "fuse": 0.5}
    assert clock.look(7).latencies == {}


def test_the_log_is_told_of_changes_at_once_and_else_once_in_a_period(clock):
    clock.publishers = []
    assert [clock.news(clock.look()) for _ in range(5)] == [""] * 5, "nothing has happened yet"
    told = [clock.news(clock.look()) for _ in range(11)]
    assert [i for i, line in enumerate(told) if line] == [0, 5, 10] and told[0] == told[5]
    lines = [clock.news(clock.look(integrated=n)) for n in range(1, 12)]
    assert [i for i, line in enumerate(lines) if line] == [0, 5, 10]
    assert lines[5].startswith("6 frames (+5)")
    ended = [clock.news(clock.look()) for _ in range(20)]
    assert sum("no frame for 5 s" in line for line in ended) == 1
    paused = [clock.news(clock.look(paused=True)) for _ in range(20)]
    assert paused[0].startswith("paused") and not any(paused[1:])


def test_drops_are_logged_once_and_counted_always(caplog):
    drops = DropCounts()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            drops.add("empty image")
        drops.add("nothing", 0)
    assert drops["empty image"] == drops.total == 3 and list(drops) == ["empty image"]
    assert len(caplog.records) == 1 and "empty image" in caplog.text
    assert str(drops) == "3 x empty image" and str(DropCounts()) == "none"


def test_a_sender_of_nonsense_does_not_fill_the_memory():
    drops = DropCounts()
    for i in range(10 * drops_module.MAX_REASONS):
        drops.add(f"image is {i} bytes")
    assert (
        len(drops.items()) == drops_module.MAX_REASONS + 1
        and drops.total == 10 * drops_module.MAX_REASONS
    )


def test_a_reason_keeps_one_example_and_both_are_bounded(caplog):
    drops = DropCounts()
    drops.add_error(Unusable("image damaged", "12 bytes\nERROR forged"), 2)
    drops.add_error(Unusable("image damaged", "13 bytes"))
    drops.add_error(InputError("no pose"), 3)
    drops.add("x" * 1000, example="y" * 1000)
    assert dict(drops.items()) == {"image damaged": 3, "no pose": 3, "x" * 297 + "...": 1}
    assert drops.examples["image damaged"] == "12 bytes ERROR forged"
    told = dict(drops.told())
    assert told["image damaged (e.g. 12 bytes ERROR forged)"] == told["no pose"] == 3
    assert all(len(text) < 620 for text in told)
    assert [record.getMessage().count("\n") for record in caplog.records] == [0, 0, 0]
    assert str(Unusable("alone")) == "alone" and str(Unusable("a", "b")) == "a: b"


def test_an_error_that_nobody_expected_is_a_drop_with_a_trace(caplog):
    drops = DropCounts()
    for _ in range(2):
        drops.add_error(RuntimeError("memory at 0x7f"), 2)
    assert dict(drops.items()) == {"frame lost to an internal error, see the log": 4}
    assert sum(record.exc_info is not None for record in caplog.records) == 1


def test_drops_from_many_threads_are_all_counted():
    drops = DropCounts()
    threads = [
        threading.Thread(target=lambda: [drops.add("x") for _ in range(2000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drops["x"] == 8000


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a/..", "x/", "a\0b", "link/x", "out"],
)
def test_a_path_cannot_leave_its_folder(tmp_path, name):
    maps, outside = tmp_path / "maps", tmp_path / "outside"
    maps.mkdir(), outside.mkdir()
    (maps / "link").symlink_to(outside)
    (maps / "out").symlink_to(outside / "file")
    with pytest.raises(InputError, match=r"node\.map_directory"):
        confined(str(maps), name)


def test_a_path_inside_its_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert confined(str(tmp_path), "office.radmap") == tmp_path.resolve() / "office.radmap"
    assert confined(str(tmp_path), "a/b..c") == tmp_path.resolve() / "a" / "b..c"
    assert confined(str(tmp_path), "link/x") == tmp_path.resolve() / "real" / "x"
    with pytest.raises(InputError, match="started with an empty node.map_directory"):
        confined("", "x")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("evil", "leaves node.map_directory through a symbolic link"),  # evil.radmap is the link
        ("x" * 5000, "too long"),
        ("/".join("abcdefghij" * 4), "too long"),
        ("round/and/round", "cannot be followed"),
        ("file.ply/inner", "file.ply is a file, not a folder"),
        ("file.ply/a/b/c", "file.ply is a file, not a folder"),
        ("a\nb", "must name a file"),
    ],
)
def test_names_that_lead_nowhere_get_one_sentence(tmp_path, name, reason):
    maps = tmp_path / "maps"
    maps.mkdir()
    (tmp_path / "secret.radmap").write_text("x")
    (maps / "evil.radmap").symlink_to(tmp_path / "secret.radmap")
    (maps / "round").symlink_to(maps / "round")
    (maps / "file.ply").write_text("x")
    with pytest.raises(InputError, match=reason) as error:
        confined(str(maps), name, ".radmap", (".ply", ".pcd"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_suffix_is_added_where_there_is_none(tmp_path):
    def name(text: str) -> str:
        return confined(str(tmp_path), text, ".radmap", (".ply", ".pcd")).name

    assert [name(text) for text in ("a", "a.radmap", "a.ply", "a.PLY", "a.v2", "a.RADMAP")] == [
        "a.radmap",
        "a.radmap",
        "a.ply",
        "a.PLY",
        "a.v2.radmap",
        "a.RADMAP",
    ]


def test_a_failure_is_counted_and_its_trace_told_once_for_each_kind(caplog):
    drops = DropCounts()

    def fail(value: object) -> None:
        try:
            len(value)
        except TypeError as error:
            drops.add_failure("frame lost", error)

    for i in range(50):
        fail(i)
    assert drops["frame lost"] == drops.failures == 50
    assert sum(record.exc_info is not None for record in caplog.records) == 1
    try:
        raise ValueError("another kind")
    except ValueError as error:
        drops.add_failure("frame lost", error)
    assert sum(record.exc_info is not None for record in caplog.records) == 2


def test_the_image_profile_is_used_unless_the_user_chose_one(monkeypatch):
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    for distro, variable in (
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ):
        monkeypatch.setenv("ROS_DISTRO", distro)
        with image_transport():
            profile = Path(os.environ[variable])
            assert "<segment_size>" in profile.read_text()
        assert variable not in os.environ and not profile.exists()
    monkeypatch.setenv(profile_variable(), "mine.xml")
    with image_transport():
        assert os.environ[profile_variable()] == "mine.xml"
    assert os.environ[profile_variable()] == "mine.xml"
    monkeypatch.delenv(profile_variable())
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    with image_transport():
        assert profile_variable() not in os.environ
    assert share_file("config/nowhere.xml") is None


def test_a_domain_belongs_to_one_process_and_what_it_starts(monkeypatch):
    domains = []
    with ExitStack() as held:
        for _ in range(3):
            monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
            held.enter_context(own_domain())
            domains.append(int(os.environ["ROS_DOMAIN_ID"]))
    assert len(set(domains)) == 3 and all(1 <= domain <= 101 for domain in domains)
    for _ in range(120):  # more than there are: each is free again
        with own_domain():
            assert "ROS_DOMAIN_ID" in os.environ
        assert "ROS_DOMAIN_ID" not in os.environ
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    with own_domain():
        assert os.environ["ROS_DOMAIN_ID"] == "7", "whoever has chosen one keeps it"
    assert os.environ["ROS_DOMAIN_ID"] == "7"


@pytest.mark.parametrize(
    ("free_mb", "segment_mb", "message_mb", "warned", "taken"),
    [
        (24_000, 32, 16, False, True),
        (64, 16, 8, False, True),  # Docker's default, and what the next processes find
        (46, 11.5, 5.75, False, True),
        (16, 4, 2, False, True),
        (12, 4, 2, True, True),
        (5, 4, 2, True, False),  # else the next process would find no room
        (0, 4, 2, True, False),
    ],
)
def test_shared_memory_is_taken_by_what_is_left(
    monkeypatch, free_mb, segment_mb, message_mb, warned, taken
):
    state = SimpleNamespace(f_bavail=free_mb * 256, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: state)
    shipped = share_file("config/fastdds.xml").read_text()
    text, warning = sized_profile(shipped, Path("/dev/shm"))
    sizes = [int(n) / 2**20 for n in re.findall(r"<(?:segment_s|maxMessageS)ize>(\d+)<", text)]
    assert sizes == [segment_mb, message_mb]
    assert bool(warning) == warned
    used = re.search("<userTransports>(.*)</userTransports>", text, re.DOTALL)[1].split()
    assert used == [
        *(["<transport_id>images_shared_memory</transport_id>"] if taken else []),
        "<transport_id>network</transport_id>",
    ]
    if warned:
        assert f"{free_mb}.0 MB are free in /dev/shm" in warning and "--shm-size=1g" in warning


def test_a_machine_without_dev_shm_keeps_the_profile(tmp_path):
    shipped = share_file("config/fastdds.xml").read_text()
    assert sized_profile(shipped, tmp_path / "nowhere") == (shipped, "")
