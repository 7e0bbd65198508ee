# SPDX-License-Identifier: Apache-2.0
"""The live map without ROS: messages in, answers out, and what happens when the map is reset,
loaded, or asked while messages arrive.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from color_encoder import GatedEncoder
from journalled import settle
from plain_messages import image, info, pair, pose, transforms
from waiting import PATIENCE

from radseg_ros.answers.floor.grid import FREE, OCCUPIED, UNKNOWN
from radseg_ros.config import (
    Config,
    GridConfig,
    LiftConfig,
    NodeConfig,
    PersistenceConfig,
    with_options,
)
from radseg_ros.datatypes import (
    ConfigError,
    InputError,
    LanguageError,
    MapFileError,
    NotReadyError,
)
from radseg_ros.frames.keyframes import FAST, NEAR
from radseg_ros.frames.ledger import Account
from radseg_ros.live_map import NO_MEMORY, PAUSED, LiveMap
from radseg_ros.mapper import Mapper

RESET = "input that waited when the map was reset"
LOADED = "input that waited when a map was loaded in its place"


@pytest.fixture
def live():
    config = Config(encoder="colors", short_side=0, node=NodeConfig(backlog=9))
    made = LiveMap(config)
    made.start(Mapper(config, GatedEncoder()))
    made.receive("info", info())
    yield made
    made.mapper.encoder.open.set()
    assert made.close(PATIENCE)


def feed(live: LiveMap, *events: tuple) -> None:
    for kind, message in events:
        live.receive(kind, message)


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
    live.close(PATIENCE)


def test_rules_of_a_question_are_checked(live):
    with pytest.raises(ConfigError, match="query.threshold must be in 0..1"):
        live.query(["red"], threshold=1.5)
    with pytest.raises(InputError, match="at least one label"):
        live.query([])


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
    assert live.mapper.encoder.entered.wait(PATIENCE)
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
    assert live.mapper.encoder.entered.wait(PATIENCE)
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
    assert live.mapper.encoder.entered.wait(PATIENCE)
    assert live.query(["red"]).geometry.hits.sum() == 12 * 16
    assert live.status().waiting == 1


def break_once(live, monkeypatch):
    """The encoder fails at the next frame, and at no other."""
    encode, calls = live.mapper.encoder.encode, []

    def once_broken(rgb):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("CUDA went away")
        return encode(rgb)

    monkeypatch.setattr(live.mapper.encoder, "encode", once_broken)


def test_an_unexpected_error_costs_one_frame_and_is_counted(live, monkeypatch):
    break_once(live, monkeypatch)
    feed(live, *frames(100, 200))
    settle(live)
    assert live.status().integrated == 1
    assert drops(live) == {"frame lost to an internal error, see the log": 1}


def test_what_fails_after_a_frame_is_in_the_map_costs_no_frame(live, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("things went away")

    monkeypatch.setattr(live._tracks, "look", broken)
    feed(live, *frames(100, 200))
    settle(live)
    status = live.status()
    assert (status.integrated, status.drops) == (2, []) and live.moment()[0] == 200_000_000
    assert status.accounts["color"] == Account(2, 2, 0, 0)
    assert status.failures == 2 and status.faults == [("following things", 2)]
    assert caplog.text.count("RuntimeError: things went away") == 1


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
    live.close(PATIENCE)


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


def refused(live: LiveMap, action) -> None:
    with pytest.raises(MapFileError):
        action(live)


LOST = {
    "a frame more": (lambda live, path: feed(live, *frames(300)), True),
    "a frame that adds nothing": (
        lambda live, path: feed(live, *pair(300), ("pose", pose(300))),
        True,
    ),
    "a box less": (lambda live, path: live.clear_box((-1, -1, -1), (9, 9, 9)), False),
    "half a box less": (lambda live, path: live.clear_box((-9, -9, -9), (0, 9, 9)), True),
    "a box without a voxel": (lambda live, path: live.clear_box((50, 0, 0), (60, 9, 9)), False),
    "a map that is joined": (lambda live, path: live.load(path, merge=True), True),
    "a map in its place": (lambda live, path: live.load(path), False),
    "a reset": (lambda live, path: live.reset(), False),
    "a question": (lambda live, path: live.query(["red"]), False),
    "a pause": (lambda live, path: live.pause(), False),
    "a file that cannot be read": (
        lambda live, path: refused(live, lambda live: live.load(path.with_name("none.radmap"))),
        False,
    ),
}


@pytest.mark.parametrize("case", LOST)
def test_what_would_be_lost_after_something_else(live, tmp_path, case):
    action, changed = LOST[case]
    feed(live, *frames(100))
    settle(live)
    refused(live, lambda live: live.save(tmp_path / "no" / "a.radmap"))
    assert live.unsaved > 0, "a file that cannot be written saves nothing"
    live.save(tmp_path / "a.radmap")
    action(live, tmp_path / "a.radmap")
    settle(live)
    assert live.unsaved == (live.status().voxels if changed else 0)
    assert (live.autosave(tmp_path / "b.radmap") is None) != changed


def test_a_frame_that_comes_while_the_map_is_saved_would_be_lost(live, tmp_path, monkeypatch):
    feed(live, *frames(100))
    settle(live)
    save = live.mapper.save

    def slowly(*arguments):
        voxels = save(*arguments)
        feed(live, *frames(200))
        settle(live)
        return voxels

    monkeypatch.setattr(live.mapper, "save", slowly)
    live.save(tmp_path / "a.radmap")
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
    assert live.mapper.encoder.entered.wait(PATIENCE)
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
    assert live.mapper.encoder.entered.wait(PATIENCE)
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
    assert live.mapper.encoder.entered.wait(PATIENCE)
    feed(live, ("pose", pose(2100)))
    assert not live.close(0.01), "one frame is being encoded"
    assert even(live)["color"].waiting == 1, "what waited is not going to be used"
    feed(live, *frames(3000))
    live.mapper.encoder.open.set()
    assert live.close(PATIENCE)
    settle(live)
    assert even(live)["color"] == Account(received=13, used=4, waiting=0, dropped=9)
    assert drops(live)["frame that came when the map was closed"] == 2


def test_frames_before_the_encoder_are_accounted_for():
    live = LiveMap(Config(node=NodeConfig(backlog=9)))
    feed(live, ("info", info()), *frames(100, 200))
    settle(live)
    assert even(live)["color"] == Account(received=2, used=0, waiting=0, dropped=2)
    assert drops(live) == {"the encoder is still loading, ask again": 2}
    assert live.close(PATIENCE)


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


# Steering


def test_a_paused_map_counts_its_images_and_loses_no_pose(live):
    feed(live, *frames(100), *visible_pair(200))
    live.pause()
    assert live.status().paused
    feed(live, ("pose", pose(200)), *frames(300, 400))
    settle(live)
    assert live.status().integrated == 2, "what came before the pause is used"
    assert drops(live) == {PAUSED: 4} and even(live)["color"].dropped == 2
    live.pause(False)
    feed(live, *visible_pair(390), ("pose", pose(410)))
    settle(live)
    status = live.status()
    assert status.integrated == 3, "the pose that came during the pause is known"
    assert not status.paused and status.accounts["color"].received == 5


def far_frame(ms: int) -> list:
    """A frame that sees a wall at 3 m."""
    depth = image(ms, "16UC1")
    depth.data = np.full(12 * 16, 3000, "<u2").tobytes()
    return [("color", image(ms)), ("depth", depth), ("pose", pose(ms))]


def things(live: LiveMap) -> dict[int, float]:
    """Ids of what is found -> s since when it is missing; everything answers."""
    (answer,) = live.query(["red"], threshold=0.0).answers
    return {thing.id: thing.missing_since_ns / 1e9 for thing in answer.objects}


def test_things_keep_their_ids_are_missing_and_forgotten(live):
    feed(live, *frames(100))
    settle(live)
    assert things(live) == {1: 0}
    feed(live, *frames(200))
    settle(live)
    assert things(live) == {1: 0}
    feed(live, *far_frame(300), *far_frame(400))
    settle(live)
    assert things(live) == {1: 0.4, 2: 0}, "the wall at 1 m was looked through"
    assert live.forget_object(1).missing_since_ns == 400_000_000
    assert things(live) == {2: 0}
    with pytest.raises(InputError, match="no object has the id 1"):
        live.forget_object(1)
    feed(live, *frames(500))
    settle(live)
    assert things(live) == {2: 0, 3: 0}, "it is there again"


def test_a_cleared_box_and_a_reset_forget_things(live, tmp_path):
    feed(live, *frames(100), *far_frame(200))
    settle(live)
    live.save(tmp_path / "a.radmap")
    assert set(things(live)) == {1, 2}
    infinite = float("inf")
    live.clear_box((-infinite,) * 3, (infinite, infinite, 2.0))
    (kept,) = things(live)
    live.load(tmp_path / "a.radmap", merge=True)
    assert set(things(live)) == {kept}, "what was seen before the box was cleared is old"
    live.load(tmp_path / "a.radmap")
    assert set(things(live)) == {3, 4}
    before = live.query(["red"], threshold=0.0)
    live.reset()
    assert {thing.id for thing in before.answers[0].objects} == {3, 4}
    assert things(live) == {}
    feed(live, *frames(300))
    settle(live)
    assert things(live) == {5: 0}


def test_a_box_is_forgotten_and_comes_back_when_it_is_seen(live):
    feed(live, *frames(100))
    settle(live)
    version, xyz = live.version, live.cloud().xyz
    left = xyz[:, 0] < 0
    assert 0 < left.sum() < len(xyz)
    infinite = float("inf")
    low, high = (-infinite, -infinite, -infinite), (-1e-6, infinite, infinite)
    assert live.clear_box(low, high) == left.sum() and live.version == version + 1
    assert sorted(live.cloud().xyz.tolist()) == sorted(xyz[~left].tolist())
    assert live.clear_box(low, high) == 0 and live.version == version + 1
    feed(live, *frames(200))
    settle(live)
    assert live.status().voxels == len(xyz)
    for bad in ((0.0, 0.0, float("nan")), (0.0, 2.0, 0.0)):
        with pytest.raises(InputError, match="lowest corner"):
            live.clear_box(bad, (1.0, 1.0, 1.0))


def test_options_change_while_frames_arrive(live):
    feed(live, *frames(100))
    settle(live)
    voxels = live.status().voxels
    live.configure(with_options(live.config, {"lift.max_range": 0.5, "query.threshold": 0.9}))
    feed(live, *frames(200))
    settle(live)
    assert live.status().voxels == voxels and live.status().integrated == 1
    assert any("lift.max_range" in reason for reason in drops(live))
    assert live.query(["red"]).rules.threshold == 0.9
    live.configure(with_options(live.config, {"lift.max_range": 0.0, "map.carve_after": 1}))
    live.reset()
    feed(live, *frames(300))
    settle(live)
    assert live.status().voxels == voxels
    far = image(400, "16UC1")
    far.data = np.full(12 * 16, 3000, "<u2").tobytes()
    feed(live, ("color", image(400)), ("depth", far), ("pose", pose(400)))
    settle(live)
    near = live.cloud().xyz[:, 2] < 1.5
    assert near.sum() < voxels / 2, "the wall at 1 m was seen through, but for its rim"


def test_options_that_changed_while_the_encoder_was_loaded_count():
    live = LiveMap(Config(short_side=0))
    mapper = Mapper(live.config, GatedEncoder())
    live.configure(with_options(live.config, {"lift.min_range": 3.0}))
    live.start(mapper)
    feed(live, ("info", info()), *frames(100))
    settle(live)
    assert live.status().voxels == 0
    assert live.close(PATIENCE)


def test_options_that_change_while_a_file_is_read_count(live, tmp_path, monkeypatch):
    feed(live, *frames(100))
    settle(live)
    live.save(tmp_path / "a.radmap")
    read = live.mapper.read

    def slowly(path):
        loaded = read(path)
        live.configure(with_options(live.config, {"map.max_voxels": 7}))
        return loaded

    monkeypatch.setattr(live.mapper, "read", slowly)
    live.load(tmp_path / "a.radmap")
    feed(live, *frames(200))
    settle(live)
    assert live.status().voxels <= 7


def test_background_texts_change_what_counts(live):
    feed(live, *frames(100))  # black images
    settle(live)
    before = live.query(["grey"]).scores.mean()
    live.configure(with_options(live.config, {"query.background": ["red", "green"]}))
    assert live.query(["grey"]).scores.mean() > before, "grey was its own background"


def test_labels_are_checked_before_they_are_shown(live):
    live.check_labels([])
    live.check_labels(["red"])
    with pytest.raises(LanguageError, match="knows only"):
        live.check_labels(["a walrus"])
    with pytest.raises(InputError, match="none of them empty"):
        live.check_labels(["red", " "])


def test_frames_near_to_a_key_frame_are_skipped_and_counted(live):
    live.configure(with_options(live.config, {"node.keyframe_distance": 0.5}))
    for ms, x in ((100, 0.0), (200, 0.4), (300, 0.6), (400, 0.9), (500, 1.2)):
        feed(live, *visible_pair(ms), ("pose", pose(ms, x=x)))
        settle(live)
    status = live.status()
    assert (status.integrated, status.skipped) == (3, 2) and drops(live) == {NEAR: 2}
    assert even(live)["depth"] == Account(received=5, used=3, waiting=0, dropped=2)
    live.reset()
    feed(live, *visible_pair(600), ("pose", pose(600, x=1.2)))
    settle(live)
    assert live.status().integrated == 4, "the empty map shows nothing that is near"


def test_a_key_frame_that_was_lost_is_none(live, monkeypatch):
    live.configure(with_options(live.config, {"node.keyframe_distance": 0.5}))
    break_once(live, monkeypatch)
    for ms in (100, 200):
        feed(live, *frames(ms))
        settle(live)
    assert live.status().integrated == 1 and live.status().failures == 1


def test_a_rate_is_kept(live):
    live.configure(with_options(live.config, {"node.max_rate": 2.0}))
    for ms in range(100, 2100, 100):
        feed(live, *frames(ms))
        settle(live)
    assert live.status().integrated == 4 and drops(live) == {FAST: 16}


@pytest.mark.parametrize(("failures", "integrated"), [(1, 1), (2, 0)])
def test_a_full_gpu_costs_its_cache_then_a_frame(live, monkeypatch, failures, integrated):
    encode, calls, freed = live.mapper.encoder.encode, [], []

    def full(rgb):
        calls.append(len(freed))
        if len(calls) <= failures:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encode(rgb)

    monkeypatch.setattr(live.mapper.encoder, "encode", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))
    feed(live, *frames(100))
    settle(live)
    assert calls == [0, 1], "tried once more, after the cache was freed"
    status = live.status()
    assert (status.integrated, status.failures) == (integrated, 0)
    assert drops(live) == ({} if integrated else {NO_MEMORY: 1})
    feed(live, *frames(200))
    settle(live)
    assert live.status().integrated == integrated + 1


def test_the_status_tells_how_the_work_goes(live, monkeypatch):
    before = live.status()
    assert before.age is None and before.stamp_ns == 0 and before.frame_id == ""
    feed(live, *frames(100, 200))
    settle(live)
    status = live.status()
    assert status.encoder == "test-colors" and 0 <= status.age < 10
    assert (status.stamp_ns, status.frame_id) == (200_000_000, "map")
    assert status.map_bytes == live.mapper.nbytes > 0
    assert {stage: calls for stage, (_, calls) in status.stages.items()} == {
        "resize": 2,
        "lift": 2,
        "encode": 2,
        "fuse": 2,
    }
    assert LiveMap(Config()).status().encoder == "", "it is being loaded"


# A map of an earlier run


def saved_map(live: LiveMap, path: Path, frame: str = "odom") -> int:
    """One frame in ``frame``, written to ``path`` and forgotten."""
    feed(live, *visible_pair(100), ("pose", pose(100, frame=frame)))
    settle(live)
    voxels = live.save(path)
    live.reset()
    return voxels


def test_a_map_of_an_earlier_run_waits_until_it_is_confirmed(live, tmp_path):
    path = tmp_path / "office.radmap"
    old = saved_map(live, path)
    assert live.resume(path) and live.pending == old
    assert live.status().voxels == 0 and len(live.cloud()) == 0
    assert live.query(["red"]).geometry.hits.sum() == 0, "what waits answers nothing"
    assert live.moment() == (0, ""), "nor does it decide the frame"
    elsewhere = pose(200, x=50.0, frame="odom")
    feed(live, *visible_pair(200), ("pose", elsewhere))
    settle(live)
    new = live.status().voxels
    assert 0 < new and live.pending == old
    assert live.confirm() == live.status().voxels == old + new and live.pending == 0
    assert live.query(["red"]).geometry.hits.sum() == 2 * 12 * 16
    assert live.status().integrated == 2 and live.unsaved == old + new
    with pytest.raises(InputError, match="no loaded map waits"):
        live.confirm()


def test_of_two_who_confirm_at_once_one_joins_the_maps(live, tmp_path):
    saved_map(live, tmp_path / "office.radmap")
    live.resume(tmp_path / "office.radmap")
    refused = []

    def confirm() -> None:
        try:
            live.confirm()
        except InputError:
            refused.append(1)

    threads = [threading.Thread(target=confirm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3 and live.query(["red"]).geometry.hits.sum() == 12 * 16


def test_a_map_of_another_frame_cannot_be_confirmed_and_goes_on_waiting(live, tmp_path):
    old = saved_map(live, tmp_path / "office.radmap")
    live.resume(tmp_path / "office.radmap")
    feed(live, *frames(200))
    settle(live)
    voxels = live.status().voxels
    with pytest.raises(MapFileError, match="frame_id 'odom', here it is 'map'"):
        live.confirm()
    assert live.pending == old and live.status().voxels == voxels


def test_a_map_for_which_there_is_no_memory_goes_on_waiting(live, tmp_path, monkeypatch):
    old = saved_map(live, tmp_path / "office.radmap")
    live.resume(tmp_path / "office.radmap")
    feed(live, *visible_pair(200), ("pose", pose(200, x=50.0, frame="odom")))
    settle(live)
    new = live.status().voxels

    def full(*given: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(live.mapper.map.table, "add", full)
        with pytest.raises(MemoryError):
            live.confirm()
    assert (live.pending, live.status().voxels) == (old, new)
    assert live.confirm() == old + new


def test_a_map_whose_frame_is_persistent_is_continued_at_once(live, tmp_path):
    path = tmp_path / "office.radmap"
    old = saved_map(live, path, "map")
    config = dataclasses.replace(
        live.config, persistence=PersistenceConfig(frame_is_persistent=True)
    )
    second = LiveMap(config)
    second.start(Mapper(config, GatedEncoder()))
    assert not second.resume(path) and second.pending == 0
    assert second.status().voxels == old and second.moment() == (100_000_000, "map")
    assert second.unsaved == 0
    second.close(PATIENCE)


@pytest.mark.parametrize("replace", ["reset", "load"])
def test_what_replaces_the_map_replaces_the_one_that_waits(live, tmp_path, replace):
    path = tmp_path / "office.radmap"
    old = saved_map(live, path)
    live.resume(path)
    live.load(path, merge=True)
    assert live.pending == old
    live.reset() if replace == "reset" else live.load(path)
    assert live.pending == 0


def test_a_map_is_saved_by_itself_when_it_has_changed(live, tmp_path):
    path = tmp_path / "office.radmap"
    assert live.autosave(path) is None and not path.exists(), "an empty map replaces nothing"
    feed(live, *frames(100))
    settle(live)
    assert live.autosave(path) == path and path.exists() and live.unsaved == 0
    assert live.autosave(path) is None, "nothing new"


def test_saving_by_itself_keeps_the_file_of_a_map_that_waits(live, tmp_path):
    path = tmp_path / "office.radmap"
    saved_map(live, path)
    before = path.read_bytes()
    live.resume(path)
    feed(live, *visible_pair(200), ("pose", pose(200, x=50.0, frame="odom")))
    settle(live)
    beside = live.autosave(path)
    assert beside == tmp_path / "office-unconfirmed.radmap" and beside.exists()
    assert path.read_bytes() == before
    live.confirm()
    assert live.autosave(path) == path and path.stat().st_size > len(before)


def test_answers_can_be_placed_in_another_frame(live):
    with pytest.raises(InputError, match="the map has no frame yet, so 'base' cannot be reached"):
        live.placed_in("base")
    feed(live, *frames(100))
    settle(live)
    assert live.placed_in() == live.placed_in("map") == (100_000_000, "map", None)
    with pytest.raises(InputError, match="no transform to frame 'base': .*nothing came on /tf"):
        live.placed_in("base")
    live.receive("tf", transforms((150, "map", "base", 2.0)))
    stamp_ns, frame_id, T = live.placed_in("base")
    assert (stamp_ns, frame_id) == (150_000_000, "base") and T[0, 3] == -2
    live.receive("tf_static", transforms((1, "map", "dock", 3.0)))
    assert live.placed_in("dock")[0] == 100_000_000, "it holds at any time"


def test_floor_plans_tell_what_was_looked_across_since_somebody_wants_them(live):
    rules = GridConfig(low=0.01, high=5.0, min_hits=1)
    live.configure(dataclasses.replace(live.config, grid=rules))

    def look(ms: int) -> None:
        """Along x, 10 cm above the floor, at something 1 m away."""
        at = pose(ms)
        at.pose.position.z, turn = 0.1, at.pose.orientation
        turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
        feed(live, *visible_pair(ms), ("pose", at))
        settle(live)

    look(100)
    before = live.floor_plan().data
    assert (before == OCCUPIED).any() and not (before == FREE).any()
    look(200)
    seen = live.floor_plan().data
    assert (seen == FREE).sum() > 15 and (seen == OCCUPIED).sum() == (before == OCCUPIED).sum()
    live.reset()
    assert live.floor_plan().data.size == 0


def test_a_label_has_a_plan(live):
    rules = GridConfig(high=5.0, min_hits=1)
    live.configure(dataclasses.replace(live.config, grid=rules))
    feed(live, *frames(100))
    settle(live)
    grid, covered = live.label_plan("grey")
    assert covered == 1 and set(grid.data.ravel().tolist()) <= {UNKNOWN, 0, *range(50, 101)}
    with pytest.raises(LanguageError):
        live.label_plan("a walrus")


def test_texts_have_vectors(live):
    vectors = live.text_vectors([" red ", "blue"])
    assert vectors.shape == (2, 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    with pytest.raises(InputError):
        live.text_vectors([])


def test_what_pictures_and_vectors_find_is_not_followed(live):
    feed(live, *frames(100))
    settle(live)
    rgb = np.zeros((8, 8, 3), np.uint8)
    by_picture = live.query_image(rgb, "grey", threshold=0.0)
    by_vector = live.query(["grey"], vectors=live.text_vectors(["grey"]), threshold=0.0)
    by_name = live.query(["grey"], threshold=0.0)
    ids = [[t.id for t in r.answers[0].objects] for r in (by_picture, by_vector, by_name)]
    assert ids == [[0], [0], [1]]
