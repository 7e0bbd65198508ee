# SPDX-License-Identifier: Apache-2.0
"""Several cameras that make one map: each has its own images, accounts and turns; poses and
transforms are shared, and what goes wrong with one camera costs the others nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from color_encoder import GatedEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from journalled import settle
from plain_messages import Message, image, info, pose, transforms
from test_accounts import GARBAGE, SMALL, Tally, even
from test_worker import Gate
from test_worker import settle as worked_off
from waiting import PATIENCE

from radseg_ros.config import Config, NodeConfig, SyncConfig
from radseg_ros.datatypes import ConfigError
from radseg_ros.frames.assemble import KINDS, OF_A_CAMERA, SHARED, Assembler
from radseg_ros.frames.keyframes import NEAR
from radseg_ros.frames.ledger import IMAGES, input_name
from radseg_ros.live_map import BUSY, CLOSED, PAUSED, LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.watchdog import InputState, Level, Watchdog
from radseg_ros.worker import LatestWorker

FRONT, REAR = CAMERAS = ("front", "rear")
PLACES = {FRONT: 0.5, REAR: -0.5}  # m, x of each camera on the base
EXTRINSICS = (
    "tf_static",
    transforms(*((0, "base", camera, x) for camera, x in PLACES.items())),
    "",
)
INFOS = [("info", info(), camera) for camera in CAMERAS]
Event = tuple[str, object, str]  # kind, message, camera


def images(ms: int, camera: str, metres: float = 1.0) -> list[Event]:
    """A pair of one camera, in the frame that is called like it."""
    depth = image(ms, "16UC1", camera)
    depth.data = np.full(12 * 16, 1000 * metres, "<u2").tobytes()
    return [("color", image(ms, frame=camera), camera), ("depth", depth, camera)]


def odometry(ms: int, x: float | None = None) -> Event:
    """The base drives 1 m/s along x."""
    return "pose", pose(ms, ms / 1000 if x is None else x, odometry=True, child="base"), ""


def assembler_of(config: SyncConfig | None = None, **node: object) -> Assembler:
    return Assembler(config, NodeConfig(cameras=list(CAMERAS), **node), {"": CAMERAS})


def feed(assembler: Assembler, *events: Event) -> list:
    return [found for event in events for found in assembler.add(*event)]


def seen(observations: list) -> list[tuple[str, int, float]]:
    """Camera, ms and x of each."""
    return [
        (o.camera, o.match.stamp_ns // 1_000_000, round(o.match.T_world_camera[0, 3], 6))
        for o in observations
    ]


# Poses and transforms are shared


@pytest.mark.parametrize("source", ["topic", "tf"])
def test_each_camera_is_placed_by_the_frame_of_its_images(source):
    assembler = assembler_of(pose_source=source)
    moving = ("tf", transforms((100, "map", "base", 0.1)), "")
    at = odometry(100) if source == "topic" else moving
    found = feed(assembler, *INFOS, EXTRINSICS, *images(100, FRONT), *images(100, REAR), at)
    assert seen(found) == [(FRONT, 100, 0.6), (REAR, 100, -0.4)]
    accounts = assembler.accounts()
    assert list(accounts) == [input_name(k, c) for c in CAMERAS for k in OF_A_CAMERA] + [*SHARED]
    assert accounts["tf_static"].received == accounts["tf_static"].used == 2
    kind = "pose" if source == "topic" else "tf"
    assert accounts[kind].received == accounts[kind].used == 1, "for both, and counted once"
    even(accounts)


def test_a_camera_info_is_of_its_camera():
    assembler = assembler_of()
    events = [EXTRINSICS, *images(100, FRONT), *images(100, REAR), odometry(100)]
    assert not feed(assembler, *events)
    assert seen(feed(assembler, INFOS[1])) == [(REAR, 100, -0.4)]
    assembler.clear("because")
    assert assembler.told() == [("front: because", 1)]
    accounts = assembler.accounts()
    assert (accounts["front/info"].received, accounts["rear/info"].used) == (0, 1)


def test_images_of_one_camera_are_no_partners_of_the_others():
    assembler = assembler_of()
    color, depth = images(100, FRONT)[0], images(100, REAR)[1]
    assert not feed(assembler, *INFOS, EXTRINSICS, odometry(100), color, depth)
    assembler.flush()
    assert dict(assembler.told()) == {
        "front: colour image without a depth image within 0.02 s": 1,
        "rear: depth image without a colour image within 0.02 s": 1,
    }


@pytest.mark.parametrize("lacks", ["frame_id", "child_frame_id"])
def test_who_does_not_say_its_frame_is_placed_nowhere(lacks):
    assembler = assembler_of(pose_source="topic")
    body = "" if lacks == "child_frame_id" else "base"
    shown = [*images(100, FRONT), *images(100, REAR)]
    for _, message, camera in shown:
        if lacks == "frame_id" and camera == REAR:
            message.header.frame_id = ""
    at = ("pose", pose(100, 0.1, odometry=True, child=body), "")
    found = seen(feed(assembler, *INFOS, EXTRINSICS, at, *shown))
    assert found == ([(FRONT, 100, 0.6)] if body else [])
    assert all("does not say its frame" in reason for reason, _ in assembler.told())
    assert sum(count for _, count in assembler.told()) == 2 - len(found)


def test_cameras_that_say_the_same_frame_are_told(caplog):
    assembler = assembler_of()
    same = [(kind, message, REAR) for kind, message, _ in images(100, FRONT)]
    with caplog.at_level(logging.WARNING, "radseg_ros"):
        feed(assembler, *INFOS, EXTRINSICS, odometry(100), *images(100, FRONT), *same)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "front and rear are all in 'front'" in line and "camera_name" in line


def test_a_missing_transform_names_its_camera_and_no_cure_that_is_refused():
    assembler = assembler_of()
    alone = ("tf_static", transforms((0, "base", FRONT, 0.5)), "")
    found = feed(
        assembler, *INFOS, alone, odometry(100), *images(100, FRONT), *images(100, REAR),
        *images(900, REAR),
    )  # fmt: skip
    assert seen(found) == [(FRONT, 100, 0.6)]
    ((reason, _),) = assembler.told()
    assert reason.startswith("rear: no transform between 'base' and 'rear'")
    assert "camera_offset" not in reason


# Time that runs backwards


def test_a_camera_whose_stamps_go_back_costs_the_others_nothing():
    assembler = assembler_of()
    feed(assembler, *INFOS, EXTRINSICS)
    found = []
    for ms in range(10_000, 12_000, 100):
        late = 6_000 if ms in (10_500, 11_000, 11_100) else 0  # a wrong clock, on and off
        found += feed(assembler, *images(ms, FRONT), *images(ms - late, REAR), odometry(ms))
    front = [item for item in seen(found) if item[0] == FRONT]
    assert front == [(FRONT, ms, ms / 1000 + 0.5) for ms in range(10_000, 12_000, 100)]
    rear = [item for item in seen(found) if item[0] == REAR]
    assert len(rear) >= 10, "it goes on when its clock is right again"
    assert all(x == pytest.approx(ms / 1000 - 0.5) for _, ms, x in rear)
    assert not any(reason.startswith("front") for reason, _ in assembler.told())
    even(assembler.accounts())


def test_poses_of_before_do_not_place_images_of_after():
    """A simulation is set back: one camera says so before the poses do."""
    assembler = assembler_of()
    feed(assembler, *INFOS, EXTRINSICS)
    for ms in range(1000, 8000, 100):
        feed(assembler, *images(ms, FRONT), *images(ms, REAR), odometry(ms))
    assert not feed(assembler, *images(2050, REAR)), "the poses around it are of before"
    assert not feed(assembler, *images(2050, FRONT))
    assert not feed(assembler, odometry(2000, 50.0))
    found = seen(feed(assembler, odometry(2100, 50.1)))
    assert found == [(FRONT, 2050, 50.55), (REAR, 2050, 49.55)]
    even(assembler.accounts())


@pytest.mark.parametrize("first", ["pose", "images"])
@pytest.mark.parametrize("source", ["topic", "tf"])
def test_a_recording_that_starts_again_is_used_again_by_every_camera(first, source):
    assembler = assembler_of(pose_source=source)
    feed(assembler, *INFOS, EXTRINSICS)
    turns = []
    for _ in range(3):
        found = []
        for ms in range(100, 5000, 100):
            moving = ("tf", transforms((ms, "map", "base", ms / 1000)), "")
            at = [odometry(ms) if source == "topic" else moving]
            shown = [*images(ms, FRONT), *images(ms, REAR)]
            found += feed(assembler, *(at + shown if first == "pose" else shown + at))
        turns.append(Counter(camera for camera, _, _ in seen(found)))
    assert turns[0] == {FRONT: 49, REAR: 49}
    assert all(turn[camera] >= 48 for turn in turns for camera in CAMERAS), turns
    assert assembler.jumps >= 4
    even(assembler.accounts())


# Accounts

stamps = st.integers(0, 20).map(lambda i: 25 * i) | st.integers(0, 600)
jumps = st.sampled_from([0, 0, 5_000, 100_000])  # ms
kinds, cameras = st.sampled_from(KINDS), st.sampled_from(CAMERAS)
good = st.tuples(st.just("good"), kinds, cameras, stamps, jumps)
frames = st.tuples(st.just("frame"), stamps)
bad = st.tuples(st.just("bad"), kinds, cameras, st.sampled_from(sorted(GARBAGE)))
left_out = st.tuples(st.just("left out"), st.sampled_from(IMAGES), cameras)
control = st.tuples(st.sampled_from(["clear", "reset", "flush"]))


def good_message(kind: str, ms: int, camera: str) -> Message:
    make = {
        "color": lambda: image(ms, frame=camera),
        "depth": lambda: image(ms, "16UC1", camera),
        "info": info,
        "pose": lambda: odometry(ms)[1],
        "tf": lambda: transforms((ms, "map", "base")),
        "tf_static": lambda: transforms((0, "base", camera)),
    }
    return make[kind]()


@settings(max_examples=150)
@given(
    st.lists(good | good | frames | frames | bad | left_out | control, max_size=50),
    st.sampled_from(["topic", "tf", "auto"]),
    st.data(),
)
def test_any_sequence_of_two_cameras_is_accounted_for(events, source, data):
    tally = Tally(assembler_of(SMALL, pose_source=source), CAMERAS)

    def send(kind: str, message: object, camera: str) -> None:
        tally.send(kind, message, "" if kind in SHARED else camera)

    for event, *rest in events:
        if event == "good":
            kind, camera, ms, jump = rest
            send(kind, good_message(kind, ms + jump, camera), camera)
        elif event == "frame":
            for kind in ("tf", "pose"):
                send(kind, good_message(kind, rest[0], ""), "")
            for kind, camera in ((k, c) for c in CAMERAS for k in ("tf_static", *OF_A_CAMERA)):
                send(kind, good_message(kind, rest[0], camera), camera)
        elif event == "bad":
            send(rest[0], GARBAGE[rest[2]], rest[1])
        else:
            tally.meet(event, *rest)
        tally.go_on(data)
    tally.check()


# Turns


def test_a_fast_source_does_not_starve_a_slow_one():
    gate = Gate()
    worker: LatestWorker = LatestWorker(gate)
    worker.submit((FRONT, -1), FRONT)
    assert gate.started.acquire(timeout=PATIENCE)
    for i in range(8):
        for item in range(10 * i, 10 * i + 10):
            worker.submit((FRONT, item), FRONT)
        worker.submit((REAR, i), REAR)
        gate.go.release()
        assert gate.started.acquire(timeout=PATIENCE)
    gate.go.release(9)
    worked_off(worker)
    sources = [source for source, _ in gate.seen]
    assert all(a != b for a, b in zip(sources, sources[1:], strict=False)), "they take turns"
    assert all(item % 10 == 9 for source, item in gate.seen if source == FRONT), "the newest"
    assert worker.done + worker.dropped == 89 and len(gate.seen) >= 10
    worker.close(PATIENCE)


def test_sources_take_turns_and_each_keeps_its_newest():
    gate = Gate()
    worker: LatestWorker = LatestWorker(gate, capacity=2)
    worker.submit("first", FRONT)
    assert gate.started.acquire(timeout=PATIENCE)
    lost = [worker.submit(f"{source}{i}", source) for source in CAMERAS for i in range(4)]
    assert lost == [0, 0, 1, 1] * 2 and worker.pending == 5
    gate.go.release()
    assert gate.started.acquire(timeout=PATIENCE)
    assert worker.clear() == {FRONT: 2, REAR: 1}
    worker.submit("last", FRONT)
    gate.go.release(2)
    worked_off(worker)
    assert gate.seen == ["first", "rear2", "last"]
    worker.close(PATIENCE)


# A live map


@pytest.fixture
def live() -> Iterator[LiveMap]:
    made = live_map()
    yield made
    made.mapper.encoder.open.set()
    assert made.close(PATIENCE)


def live_map(**node: object) -> LiveMap:
    made = NodeConfig(cameras=list(CAMERAS), **{"backlog": 9, **node})
    config = Config(encoder="colors", short_side=0, node=made)
    live = LiveMap(config)
    live.start(Mapper(config, GatedEncoder()))
    give(live, *INFOS, EXTRINSICS)
    return live


def give(live: LiveMap, *events: Event) -> None:
    for event in events:
        live.receive(*event)


def both(ms: int) -> list[Event]:
    return [*images(ms, FRONT), *images(ms, REAR), odometry(ms)]


def test_two_cameras_make_one_map(live):
    give(live, *images(100, FRONT), odometry(100))
    settle(live)
    one = live.status().voxels
    give(live, *images(200, REAR), odometry(200))
    settle(live)
    status = live.status()
    assert status.voxels > one and status.integrated == 2
    x = live.cloud().xyz[:, 0]
    assert x.min() < 0.2 - 0.5 < 0.1 + 0.5 < x.max(), "each where it is on the base"
    assert {c: s.integrated for c, s in status.cameras.items()} == {FRONT: 1, REAR: 1}


def test_what_becomes_of_frames_is_known_of_each_camera(live):
    live.mapper.encoder.open.clear()
    give(live, *both(100))
    assert live.mapper.encoder.entered.wait(PATIENCE)
    give(live, *images(200, REAR)[:1], *both(300))
    status = live.status()
    assert {c: s.waiting for c, s in status.cameras.items()} == {FRONT: 2, REAR: 2}
    live.pause()
    give(live, *images(400, REAR))
    live.pause(False)
    live.reset()
    live.mapper.encoder.open.set()
    settle(live)
    status = live.status()
    assert dict(status.drops) == {
        "front: input that waited when the map was reset": 2,
        "rear: input that waited when the map was reset": 2,
        "rear: colour image without a depth image within 0.02 s": 1,
        f"rear: {PAUSED}": 2,
    }
    even(status.accounts)


def test_the_backlog_is_of_each_camera():
    live = live_map(backlog=1)
    live.mapper.encoder.open.clear()
    give(live, *images(100, FRONT), odometry(100))
    assert live.mapper.encoder.entered.wait(PATIENCE)
    for ms in range(200, 1000, 100):
        give(live, *images(ms, FRONT), odometry(ms))
    give(live, *images(500, REAR))
    live.mapper.encoder.open.set()
    settle(live)
    status = live.status()
    assert {c: s.integrated for c, s in status.cameras.items()} == {FRONT: 2, REAR: 1}
    assert dict(status.drops) == {f"front: {BUSY}": 7}
    even(status.accounts)
    assert live.close(PATIENCE)


def test_key_frames_are_of_each_camera():
    live = live_map(keyframe_distance=0.35)
    for ms in range(0, 1000, 100):  # 10 cm each
        give(live, *both(ms))
    settle(live)
    status = live.status()
    assert {c: s.integrated for c, s in status.cameras.items()} == {FRONT: 3, REAR: 3}
    assert {c: s.skipped for c, s in status.cameras.items()} == {FRONT: 7, REAR: 7}
    assert dict(status.drops) == {f"{camera}: {NEAR}": 7 for camera in CAMERAS}
    even(status.accounts)
    assert live.close(PATIENCE)


def test_frames_that_come_when_the_map_is_closed_are_counted():
    live = live_map()
    live.mapper.encoder.open.clear()
    give(live, *images(100, FRONT), odometry(100))
    assert live.mapper.encoder.entered.wait(PATIENCE)
    give(live, *images(100, REAR), *both(200))
    assert not live.close(0.01)
    give(live, *both(300))
    live.mapper.encoder.open.set()
    assert live.close(PATIENCE)
    settle(live)
    status = live.status()
    assert status.integrated == 1
    assert sum(n for reason, n in status.drops if reason.endswith(CLOSED)) == 5
    even(status.accounts)


@pytest.mark.slow
def test_two_cameras_while_the_map_is_reset_paused_loaded_and_asked(tmp_path):
    live, stop, failures = live_map(backlog=1), threading.Event(), []
    give(live, *both(1))
    settle(live)
    live.save(tmp_path / "a.radmap")

    def steadily(action, pause: float) -> None:
        while not stop.is_set():
            try:
                action()
            except Exception as error:
                failures.append(error)
                return
            time.sleep(pause)

    def send(camera: str, count: int, pause: float) -> None:
        for i in range(count):
            give(live, *images(10 * i + 10, camera)[: 2 - (i % 11 == 0)])
            if camera == FRONT:
                give(live, odometry(10 * i + 10))
            time.sleep(pause)

    actions = (
        (lambda: even(live.status().accounts), 0.001),
        (live.reset, 0.05),
        (lambda: live.load(tmp_path / "a.radmap", merge=True), 0.07),
        (lambda: live.query(["red"]), 0.02),
        (lambda: (live.pause(), live.pause(False)), 0.03),
    )
    disturbing = [threading.Thread(target=steadily, args=action) for action in actions]
    sending = [
        threading.Thread(target=send, args=(FRONT, 600, 0.001)),
        threading.Thread(target=send, args=(REAR, 60, 0.01)),
    ]
    for thread in disturbing + sending:
        thread.start()
    for thread in sending:
        thread.join()
    stop.set()
    for thread in disturbing:
        thread.join()
    settle(live)
    assert not failures
    status = live.status()
    accounts = status.accounts
    even(accounts)
    assert [accounts[f"{c}/color"].received for c in CAMERAS] == [601, 61]
    for camera in CAMERAS:
        assert accounts[f"{camera}/color"].used == status.cameras[camera].integrated > 0
    assert live.close(PATIENCE)


# The watchdog


def test_a_camera_that_is_silent_is_named_while_the_others_go_on(live):
    dog, topics = Watchdog(5.0), [input_name(k, c) for c in CAMERAS for k in OF_A_CAMERA]

    def state(name: str, received: int) -> InputState:
        publishers = [] if name == "rear/depth" else ["T"]
        return InputState(name.split("/")[-1], f"/{name}", "T", publishers, received)

    for second in range(6):
        ms = 100 + 1000 * second
        unstamped = image(0)
        unstamped.header.stamp.nanosec = 0
        rear = [images(ms, REAR)[0], ("color", unstamped, REAR)]
        give(live, *images(ms, FRONT), *rear, odometry(ms))
        settle(live)
        report = dog.look(second, live.status(), [*topics, "pose"], state, 0)
        assert (report.level is Level.OK) == (second < 5)
    assert "6 frames (+5)" in report.text
    assert "camera 'rear': no frame for 5 s: " in report.text
    assert (
        "/rear/depth: no publisher, and none of its type" in report.text
        and "/front" not in report.text
    )
    assert "; dropped 5 x colour message without a stamp" in report.text, "of which camera is said"
    give(live, *images(7000, REAR), odometry(7000))
    settle(live)
    assert dog.look(6, live.status(), topics, state, 0).level is Level.OK


# Options


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["front", "rear", "front"], "each once"),
        ([""], "is no namespace"),
        (["/front"], "is no namespace"),
        (["front/"], "is no namespace"),
        (["2nd"], "is no namespace"),
        (["vorn\n"], "is no namespace"),
        (["hinten links"], "is no namespace"),
        (["ä"], "is no namespace"),
        (["x" * 61], "is no namespace"),
        ([f"c{i}" for i in range(9)], "at most 8, got 9"),
    ],
)
def test_names_of_cameras_are_checked(names, reason):
    with pytest.raises(ConfigError, match=rf"node\.cameras.*{reason}"):
        NodeConfig(cameras=names)


@pytest.mark.parametrize("names", [["front"], ["front", "rig/rear_2", "_x"]])
def test_names_of_cameras_are_namespaces(names):
    assert NodeConfig(cameras=names).cameras == names


def test_what_is_of_one_camera_only_is_refused_for_several():
    eye = np.eye(4).ravel().tolist()
    assert NodeConfig(cameras=["front"], camera_offset=eye, pose_type="pose")
    with pytest.raises(ConfigError, match=r"node\.camera_offset is the place of one camera"):
        NodeConfig(cameras=list(CAMERAS), camera_offset=eye)
    for type_ in ("pose", "pose_with_covariance"):
        with pytest.raises(ConfigError, match=rf"node\.pose_type {type_} does not say of what"):
            NodeConfig(cameras=list(CAMERAS), pose_type=type_)
        assert NodeConfig(cameras=list(CAMERAS), pose_type=type_, pose_source="tf")
