# SPDX-License-Identifier: Apache-2.0
"""The live map without ROS: messages in, answers out, and what happens when the map is reset,
loaded, or asked while messages arrive.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from color_encoder import ColorEncoder
from plain_messages import image, info, pair, pose

from radseg_ros.config import Config, LiftConfig, NodeConfig
from radseg_ros.datatypes import ConfigError, InputError, MapFileError, NotReadyError
from radseg_ros.frames.ledger import Account
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper

RESET = "input that waited when the map was reset"
LOADED = "input that waited when a map was loaded in its place"


class GatedEncoder(ColorEncoder):
    """Waits before each image until it is let through, when the gate is closed."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def encode(self, rgb):
        self.entered.set()
        assert self.open.wait(10)
        return super().encode(rgb)


@pytest.fixture
def live():
    config = Config(encoder="colors", short_side=0, node=NodeConfig(backlog=9))
    made = LiveMap(config)
    made.start(Mapper(config, GatedEncoder()))
    made.receive("info", info())
    yield made
    made.mapper.encoder.open.set()
    assert made.close(10)


def feed(live: LiveMap, *events: tuple) -> None:
    for kind, message in events:
        live.receive(kind, message)


def settle(live: LiveMap) -> None:
    """Wait until nothing is being worked on."""
    end = time.monotonic() + 10
    while live.status().waiting:
        assert time.monotonic() < end, "the worker does not end"
        time.sleep(0.002)


def visible_pair(ms: int) -> list:
    """Colour, and depth with returns at 1 m."""
    depth = image(ms, "16UC1")
    depth.data = np.full(12 * 16, 1000, "<u2").tobytes()
    return [("color", image(ms)), ("depth", depth)]


def frames(*ms: int) -> list:
    return [event for at in ms for event in (*visible_pair(at), ("pose", pose(at)))]


def drops(live: LiveMap) -> dict[str, int]:
    return dict(live.status().drops)


def test_messages_become_a_map_that_answers(live):
    assert live.version == 0 and live.moment() == (0, "")
    feed(live, *frames(100, 200))
    settle(live)
    status = live.status()
    assert (status.integrated, status.waiting, status.drops) == (2, 0, [])
    assert status.voxels == len(live.cloud()) > 0 and live.version == 2
    assert live.moment() == (200_000_000, "map")
    assert [answer.label for answer in live.query([" red ", "blue"]).answers] == ["red", "blue"]
    assert live.cloud_labels == ("red", "blue")
    live.query(["a green thing"], prompts=True)
    assert live.cloud_labels == ("red", "blue"), "free text is no label"


def test_nothing_can_be_asked_before_the_encoder_is_there(tmp_path):
    live = LiveMap(Config())
    calls = (
        lambda: live.query(["red"]),
        live.cloud,
        live.reset,
        lambda: live.save(tmp_path / "a.radmap"),
        lambda: live.load(tmp_path / "a.radmap"),
    )
    for call in calls:
        with pytest.raises(NotReadyError, match="still loading"):
            call()
    assert live.status().voxels == 0
    live.close(5)


def test_rules_of_a_question_are_checked(live):
    with pytest.raises(ConfigError, match="query.threshold must be in 0..1"):
        live.query(["red"], threshold=1.5)
    with pytest.raises(InputError, match="at least one label"):
        live.query([])
    assert live.cloud_labels == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (visible_pair(300), [("pose", pose(300))]),
        (visible_pair(300)[:1], [*visible_pair(300)[1:], ("pose", pose(300))]),
        ([("pose", pose(280)), *visible_pair(300)], [("pose", pose(320))]),
    ],
)
def test_nothing_that_came_before_a_reset_completes_a_frame_after_it(live, before, after):
    feed(live, *frames(100))
    settle(live)
    feed(live, *before)
    assert live.reset() > 0
    feed(live, *after)
    settle(live)
    status = live.status()
    assert (status.voxels, status.integrated) == (0, 1)
    assert drops(live)[RESET] >= 1 and live.moment()[0] == 0


def test_a_frame_in_the_encoder_does_not_survive_a_reset(live):
    live.mapper.encoder.open.clear()
    feed(live, *frames(100, 200, 300))
    assert live.mapper.encoder.entered.wait(5)
    live.reset()  # at once, although the encoder is busy
    live.mapper.encoder.open.set()
    settle(live)
    assert live.status().voxels == 0 and drops(live) == {RESET: 3}
    feed(live, *frames(400))
    settle(live)
    assert live.status().voxels > 0 and live.status().integrated == 1


def test_a_reset_forgets_the_frame_that_poses_brought(live):
    feed(live, *frames(100))
    settle(live)
    live.reset()
    feed(live, *visible_pair(200), ("pose", pose(200, frame="odom")))
    settle(live)
    assert live.moment() == (200_000_000, "odom") and live.status().voxels > 0


def test_a_pose_that_is_none_decides_no_frame(live):
    feed(live, ("pose", pose(50, x=float("nan"), frame="garbage")), *frames(100))
    settle(live)
    assert live.moment()[1] == "map" and live.status().integrated == 1


@pytest.mark.parametrize("merge", [False, True])
def test_loading_keeps_out_what_waited_unless_it_merges(live, tmp_path, merge):
    feed(live, *frames(100))
    settle(live)
    saved = live.save(tmp_path / "a.radmap")
    live.mapper.encoder.open.clear()
    live.mapper.encoder.entered.clear()
    feed(live, *frames(200), *visible_pair(300))
    assert live.mapper.encoder.entered.wait(5)
    assert live.load(tmp_path / "a.radmap", merge) == saved
    live.mapper.encoder.open.set()
    feed(live, ("pose", pose(300)))
    settle(live)
    assert live.status().integrated == (3 if merge else 1)
    assert drops(live) == ({} if merge else {LOADED: 2})
    hits = int(live.mapper.map.table["hits"].sum())
    assert hits == (12 * 16) * (4 if merge else 1)


def test_a_map_gets_no_second_frame_while_a_file_is_read(live, tmp_path, monkeypatch):
    feed(live, *frames(100))
    settle(live)
    live.save(tmp_path / "in_map.radmap")
    live.reset()
    read = live.mapper.read

    def slowly(path):
        loaded = read(path)
        feed(live, *visible_pair(200), ("pose", pose(200, frame="odom")))
        settle(live)
        return loaded

    monkeypatch.setattr(live.mapper, "read", slowly)
    with pytest.raises(MapFileError, match="frame_id 'map', here it is 'odom'"):
        live.load(tmp_path / "in_map.radmap")
    assert live.moment() == (200_000_000, "odom") and live.status().integrated == 2


def test_loading_decides_the_frame_where_no_pose_has(live, tmp_path):
    feed(live, *frames(100))
    settle(live)
    live.save(tmp_path / "a.radmap")
    live.reset()
    live.load(tmp_path / "a.radmap")
    feed(live, *visible_pair(200), ("pose", pose(200, frame="odom")))
    settle(live)
    assert live.moment() == (100_000_000, "map")
    assert any("odom" in reason for reason in drops(live))


def test_a_refused_file_changes_nothing(live, tmp_path):
    feed(live, *frames(100), *visible_pair(200))
    settle(live)
    version, voxels = live.version, live.status().voxels
    (tmp_path / "b.radmap").write_bytes(b"no map")
    with pytest.raises(MapFileError):
        live.load(tmp_path / "b.radmap")
    feed(live, ("pose", pose(200)))
    settle(live)
    assert live.version == version + 1 and live.status().voxels == voxels
    assert live.status().integrated == 2 and not live.status().drops


def test_time_that_runs_backwards_is_told_and_joins_nothing(live):
    feed(live, *frames(10_000), *visible_pair(20_000))
    settle(live)
    told = [live.receive(kind, message) for kind, message in frames(1_000, 1_100)]
    settle(live)
    assert sum(told) >= 1
    live.receive("pose", pose(20_000))
    settle(live)
    assert live.status().integrated == 3, "the pair of before the jump is gone"
    assert live.moment()[0] == 1_100_000_000


def test_questions_are_answered_while_the_encoder_works(live):
    feed(live, *frames(100))
    settle(live)
    live.mapper.encoder.open.clear()
    live.mapper.encoder.entered.clear()
    feed(live, *frames(200))
    assert live.mapper.encoder.entered.wait(5)
    assert live.query(["red"]).geometry.hits.sum() == 12 * 16
    assert live.status().waiting == 1


def test_an_unexpected_error_costs_one_frame_and_is_counted(live, monkeypatch):
    encode = live.mapper.encoder.encode
    calls = []

    def once_broken(rgb):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("CUDA went away")
        return encode(rgb)

    monkeypatch.setattr(live.mapper.encoder, "encode", once_broken)
    feed(live, *frames(100, 200))
    settle(live)
    assert live.status().integrated == 1
    assert drops(live) == {"frame lost to an internal error, see the log": 1}


@pytest.mark.parametrize(
    ("options", "metres", "x", "reason"),
    [
        ({}, 0.0, 0.0, "the depth image has no returns"),
        ({"lift": LiftConfig(min_range=3.0)}, 1.0, 0.0, "outside of lift.min_range"),
        ({"lift": LiftConfig(max_range=0.5)}, 1.0, 0.0, "outside of lift.min_range"),
        ({"lift": LiftConfig(clip_min=[50.0, 0.0, 0.0])}, 1.0, 0.0, "outside of lift.clip_min"),
        ({"lift": LiftConfig(border=20)}, 1.0, 0.0, "none is looked at"),
        ({}, 1.0, 5_412_000.0, "too far from the origin of the map frame"),
    ],
)
def test_a_frame_that_adds_nothing_is_dropped_with_the_reason(options, metres, x, reason):
    config = Config(short_side=0, **options)
    live = LiveMap(config)
    live.start(Mapper(config, GatedEncoder()))
    depth = image(100, "16UC1")
    depth.data = np.full(12 * 16, round(1000 * metres), "<u2").tobytes()
    feed(live, ("info", info()), ("color", image(100)), ("depth", depth), ("pose", pose(100, x=x)))
    settle(live)
    status = live.status()
    assert (status.integrated, status.voxels) == (0, 0) and live.moment()[0] == 0
    ((said, count),) = status.drops
    assert count == 1 and reason in said and said.startswith("frame without a usable depth pixel")
    assert status.pixels["used"] == 0
    live.close(5)


def test_what_would_be_lost_is_known(live, tmp_path):
    assert live.unsaved == 0
    feed(live, *frames(100))
    settle(live)
    assert live.unsaved == live.status().voxels > 0
    live.save(tmp_path / "a.radmap")
    assert live.unsaved == 0
    feed(live, *frames(200))
    settle(live)
    assert live.unsaved > 0
    live.load(tmp_path / "a.radmap")
    assert live.unsaved == 0
    live.load(tmp_path / "a.radmap", merge=True)
    assert live.unsaved > 0


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["x"] * 1001, "at most 1000 labels"),
        (["x" * 100_001], "at most 100000 characters"),
        (["red"] * 600, "too many at once"),
    ],
)
def test_questions_are_bounded(live, monkeypatch, texts, reason):
    monkeypatch.setattr("radseg_ros.mapper.MAX_SCORES", 10_000)
    feed(live, *frames(100))
    settle(live)
    with pytest.raises(InputError, match=reason):
        live.query(texts)


def test_a_label_asked_twice_is_answered_twice(live):
    feed(live, *frames(100))
    settle(live)
    first, second = live.query(["red", "red"]).answers
    assert first == second


def test_resets_at_any_moment_leave_only_what_came_after_the_last(live):
    stop = threading.Event()

    def reset() -> None:
        while not stop.is_set():
            live.reset()
            time.sleep(0.001)

    thread = threading.Thread(target=reset)
    thread.start()
    for i in range(60):
        feed(live, *frames(1000 + 10 * i))
    stop.set()
    thread.join()
    settle(live)
    live.reset()
    feed(live, *frames(5000))
    settle(live)
    assert int(live.mapper.map.table["hits"].sum()) == 12 * 16
    status = live.status()
    assert status.integrated + sum(drops(live).values()) >= 61


# What became of everything


def even(live: LiveMap) -> dict[str, Account]:
    """The accounts at this moment, which come out even."""
    accounts = live.status().accounts
    for kind, a in accounts.items():
        parts = (a.used, a.superseded, a.waiting, a.dropped)
        assert min(parts) >= 0 and a.received == sum(parts), (kind, a)
    return accounts


def test_a_frame_is_accounted_for_from_its_images_to_the_map(live):
    live.mapper.encoder.open.clear()
    feed(live, *visible_pair(100))
    assert even(live)["color"] == Account(received=1, used=0, waiting=1, dropped=0)
    feed(live, ("pose", pose(100)))
    assert live.mapper.encoder.entered.wait(5)
    assert even(live)["color"] == Account(received=1, used=0, waiting=1, dropped=0)
    live.mapper.encoder.open.set()
    settle(live)
    for kind in ("color", "depth", "pose", "info"):
        assert even(live)[kind] == Account(received=1, used=1, waiting=0, dropped=0)
    feed(live, *pair(200), ("pose", pose(200)))  # without any return
    settle(live)
    assert even(live)["depth"] == Account(received=2, used=1, waiting=0, dropped=1)


def test_frames_that_the_encoder_has_no_time_for_are_accounted_for():
    config = Config(encoder="colors", short_side=0, node=NodeConfig(backlog=2))
    live = LiveMap(config)
    live.start(Mapper(config, GatedEncoder()))
    live.mapper.encoder.open.clear()
    feed(live, ("info", info()), *frames(0))
    assert live.mapper.encoder.entered.wait(5)
    feed(live, *frames(*range(100, 1000, 100)))
    assert even(live)["color"] == Account(received=10, used=0, waiting=3, dropped=7)
    assert drops(live) == {
        "frame replaced by a newer one while the encoder was busy (node.backlog)": 7
    }
    live.mapper.encoder.open.set()
    settle(live)
    assert even(live)["depth"] == Account(received=10, used=3, waiting=0, dropped=7)
    live.mapper.encoder.open.clear()
    live.mapper.encoder.entered.clear()
    feed(live, *frames(2000), *visible_pair(2100))
    assert live.mapper.encoder.entered.wait(5)
    feed(live, ("pose", pose(2100)))
    assert not live.close(0.01), "one frame is being encoded"
    assert even(live)["color"].waiting == 1, "what waited is not going to be used"
    feed(live, *frames(3000))
    live.mapper.encoder.open.set()
    assert live.close(10)
    settle(live)
    assert even(live)["color"] == Account(received=13, used=4, waiting=0, dropped=9)
    assert drops(live)["frame that came when the map was closed"] == 2


def test_frames_before_the_encoder_are_accounted_for():
    live = LiveMap(Config(node=NodeConfig(backlog=9)))
    feed(live, ("info", info()), *frames(100, 200))
    settle(live)
    assert even(live)["color"] == Account(received=2, used=0, waiting=0, dropped=2)
    assert drops(live) == {"the encoder is still loading, ask again": 2}
    assert live.close(5)


def test_garbage_ends_nothing_and_is_accounted_for(live):
    feed(live, *frames(100))
    for kind in ("color", "depth", "pose", "info"):
        feed(live, (kind, None), (kind, object()), (kind, pose(-5000)))
    damaged = image(300)
    damaged.data = "no bytes"
    feed(live, ("color", damaged), visible_pair(300)[1], ("pose", pose(300)), *frames(400))
    settle(live)
    accounts = even(live)
    assert accounts["color"] == Account(received=6, used=2, waiting=0, dropped=4)
    assert accounts["pose"] == Account(received=6, used=3, waiting=0, dropped=3)
    assert accounts["info"].dropped == 3 and live.status().integrated == 2


def test_at_every_moment_of_a_storm_everything_is_accounted_for(live, tmp_path):
    """Inputs faster than the encoder, resets, loads, failures and questions beside them."""
    feed(live, *frames(0))
    settle(live)
    live.save(tmp_path / "a.radmap")
    encode, calls = live.mapper.encoder.encode, []

    def sometimes(rgb):
        calls.append(1)
        time.sleep(0.002)
        if len(calls) % 7 == 0:
            raise RuntimeError("CUDA went away")
        if len(calls) % 5 == 0:
            raise InputError("an image that the encoder does not like")
        return encode(rgb)

    live.mapper.encoder.encode = sometimes
    stop, failures = threading.Event(), []

    def disturb(action, pause: float) -> None:
        try:
            while not stop.is_set():
                action()
                time.sleep(pause)
        except Exception as error:
            failures.append(error)

    actions = (
        (lambda: even(live), 0.0005),
        (live.reset, 0.02),
        (lambda: live.load(tmp_path / "a.radmap", merge=True), 0.03),
        (lambda: live.query(["red"]), 0.01),
    )
    threads = [threading.Thread(target=disturb, args=action) for action in actions]
    for thread in threads:
        thread.start()
    sent = 0
    for i in range(1, 300):
        events = frames(10 * i)
        feed(live, *(event for n, event in enumerate(events) if (i + n) % 11), ("color", None))
        sent += 1 + sum((i + n) % 11 != 0 for n in (0,))
        time.sleep(0.0005)
    stop.set()
    for thread in threads:
        thread.join()
    settle(live)
    assert not failures
    accounts = even(live)
    assert accounts["color"].received == sent + 1
    assert accounts["color"].used == accounts["depth"].used == live.status().integrated > 0
    assert accounts["color"].dropped > 299, "each None, and what was dropped otherwise"
