# SPDX-License-Identifier: Apache-2.0
"""Several robots that make one map: each has its cameras, poses, accounts and turns. They share the
frame of the map, and what goes wrong with one of them costs the others nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from color_encoder import GatedEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from journalled import assert_equal, settle
from plain_messages import Message, image, info, pose, transforms
from test_accounts import GARBAGE, SMALL, Tally, even
from test_bricks_live import everything
from waiting import PATIENCE

from radseg_ros.config import (
    Config,
    CorrectConfig,
    JournalConfig,
    MapConfig,
    NodeConfig,
    PersistenceConfig,
    SyncConfig,
)
from radseg_ros.datatypes import ConfigError, InputError
from radseg_ros.frames.assemble import KINDS, OF_A_CAMERA, SHARED, Assembler, cameras_of, is_of
from radseg_ros.frames.ledger import IMAGES, input_name
from radseg_ros.frames.transforms import KINDS as TRANSFORMS
from radseg_ros.frames.transforms import NotConnected, Transforms
from radseg_ros.journal.folder import Journal
from radseg_ros.journal.record import FRAME
from radseg_ros.journal.replay import poses_of
from radseg_ros.live_map import BUSY, LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.watchdog import InputState, Level, Watchdog

A, B = ROBOTS = ("a", "fleet/b")
ORIGINS = {A: 1.0, B: -2.0}  # m, x of the world of each in the map
MOUNT = 0.5  # m, x of the camera on the base
Event = tuple[str, object, str]  # kind, message, source


def origins(*x: float) -> list[float]:
    made = []
    for each in x:
        T = np.eye(4)
        T[0, 3] = each
        made += T.ravel().tolist()
    return made


def images(ms: int, camera: str, frame: str) -> list[Event]:
    """A pair of random pixels: no two are alike."""
    rng = np.random.default_rng([ms, len(camera)])
    color, depth = image(ms, frame=frame), image(ms, "16UC1", frame)
    color.data = rng.integers(0, 256, 12 * 16 * 3, np.uint8).tobytes()
    depth.data = rng.integers(500, 2500, 12 * 16).astype("<u2").tobytes()
    return [("color", color, camera), ("depth", depth, camera)]


def infos(names: Iterable[str] = ROBOTS) -> list[Event]:
    return [("info", info(), name) for name in names]


def odometry(robot: str, ms: int, frame: str, child: str, offset: float = 0.0) -> Event:
    """The base drives 1 m/s along x."""
    return "pose", pose(ms, offset + ms / 1000, frame, odometry=True, child=child), robot


class Convention(NamedTuple):
    """How robots say where they are."""

    options: dict[str, object]
    static: Callable[[str], list[Event]]
    moving: Callable[[str, int], list[Event]]
    camera: str  # frame of the images, of robot {}

    def feed(self, assembler: Assembler, robot: str, ms: int) -> list:
        shown = images(ms, robot, self.camera.format(robot))
        return feed(assembler, *shown, *self.moving(robot, ms))


def edge(source: str, parent: str, child: str, x: float, ms: int = 0) -> Event:
    return "tf" if ms else "tf_static", transforms((ms, parent, child, x)), source


CONVENTIONS = {
    "tf of each": Convention(
        {},
        lambda r: [edge(r, "base", "camera", MOUNT)],
        lambda r, ms: [
            edge(r, "map", "odom", ORIGINS[r], ms), edge(r, "odom", "base", ms / 1000, ms)
        ],
        "camera",
    ),
    "one tf with prefixes": Convention(
        {},
        lambda r: [edge("", f"{r}/base", f"{r}/camera", MOUNT)],
        lambda r, ms: [
            edge("", "map", f"{r}/odom", ORIGINS[r], ms),
            edge("", f"{r}/odom", f"{r}/base", ms / 1000, ms),
        ],
        "{}/camera",
    ),
    "tf of each, joined by what is shared": Convention(
        {},
        lambda r: [
            edge("", "map", f"{r}/map", ORIGINS[r]), edge(r, f"{r}/map", "odom", 0),
            edge(r, "base", "camera", MOUNT),
        ],
        lambda r, ms: [edge(r, "odom", "base", ms / 1000, ms)],
        "camera",
    ),
    "tf of each, given origins": Convention(
        {"robot_origins": origins(*ORIGINS.values())},
        lambda r: [edge(r, "base", "camera", MOUNT)],
        lambda r, ms: [edge(r, "map", "base", ms / 1000, ms)],
        "camera",
    ),
    "odometry, joined by tf": Convention(
        {},
        lambda r: [
            edge("", "map", f"{r}/odom", ORIGINS[r]), edge("", f"{r}/base", f"{r}/camera", MOUNT)
        ],
        lambda r, ms: [odometry(r, ms, f"{r}/odom", f"{r}/base")],
        "{}/camera",
    ),
    "odometry, given origins": Convention(
        {"robot_origins": origins(*ORIGINS.values())},
        lambda r: [edge(r, "base", "camera", MOUNT)],
        lambda r, ms: [odometry(r, ms, "odom", "base")],
        "camera",
    ),
    "poses in the map": Convention(
        {"map_frame": "world"},
        lambda r: [edge(r, "base", "camera", MOUNT)],
        lambda r, ms: [odometry(r, ms, "world", "base", ORIGINS[r])],
        "camera",
    ),
    "poses of the camera in the map": Convention(
        {"pose_type": "pose"},
        lambda r: [],
        lambda r, ms: [("pose", pose(ms, ORIGINS[r] + MOUNT + ms / 1000), r)],
        "camera",
    ),
}  # fmt: skip
PREFIXED = CONVENTIONS["one tf with prefixes"]
EACH = CONVENTIONS["tf of each"]
GIVEN = CONVENTIONS["odometry, given origins"]


def assembler_of(config: SyncConfig | None = None, **node: object) -> Assembler:
    made = NodeConfig(robots=list(ROBOTS), **node)
    return Assembler(config, made, cameras_of(made))


def feed(assembler: Assembler, *events: Event) -> list:
    return [found for event in events for found in assembler.add(*event)]


def begun(how: Convention, **node: object) -> Assembler:
    assembler = assembler_of(**how.options, **node)
    feed(assembler, *infos(), *(each for robot in ROBOTS for each in how.static(robot)))
    return assembler


def seen(observations: list) -> list[tuple[str, int, float]]:
    """Camera, ms and x of each."""
    return [
        (o.camera, o.match.stamp_ns // 1_000_000, round(o.match.T_world_camera[0, 3], 6))
        for o in observations
    ]


def expected(robot: str, ms: int) -> tuple[str, int, float]:
    return robot, ms, round(ORIGINS[robot] + ms / 1000 + MOUNT, 6)


# Where robots are


@pytest.mark.parametrize("how", CONVENTIONS.values(), ids=CONVENTIONS)
def test_each_robot_is_where_its_own_poses_say(how):
    assembler = begun(how)
    for ms in (100, 200):
        for robot in ROBOTS:
            assert seen(how.feed(assembler, robot, ms)) == [expected(robot, ms)]
    assert assembler.map_frame == how.options.get("map_frame", "map")
    accounts = assembler.accounts()
    assert list(accounts) == [
        *(input_name(kind, robot) for robot in ROBOTS for kind in OF_A_CAMERA),
        *(input_name(kind, robot) for robot in ROBOTS for kind in SHARED),
        *TRANSFORMS,
    ]
    even(accounts)
    assert not assembler.told()
    for name in ("color", "depth"):
        assert all(accounts[f"{robot}/{name}"].received == 2 for robot in ROBOTS)


def test_every_robot_has_the_same_cameras():
    node = NodeConfig(robots=list(ROBOTS), cameras=["front", "rear"])
    cameras = cameras_of(node)
    assert cameras == {robot: (f"{robot}/front", f"{robot}/rear") for robot in ROBOTS}
    assembler = Assembler(None, node, cameras)
    names = [name for names in cameras.values() for name in names]
    mounts = {"front": MOUNT, "rear": -MOUNT}
    static = [edge(robot, "base", camera, x) for robot in ROBOTS for camera, x in mounts.items()]
    found = feed(assembler, *infos(names), *static)
    for robot in ROBOTS:
        shown = [each for camera in mounts for each in images(100, f"{robot}/{camera}", camera)]
        found += feed(assembler, *shown, edge(robot, "map", "base", ORIGINS[robot], 100))
    assert seen(found) == [
        (f"{robot}/{camera}", 100, ORIGINS[robot] + x)
        for robot in ROBOTS
        for camera, x in mounts.items()
    ]
    even(assembler.accounts())


@pytest.mark.parametrize("how", [GIVEN, CONVENTIONS["odometry, joined by tf"]])
def test_a_robot_that_nothing_places_is_named_and_the_others_go_on(how):
    assembler = assembler_of()
    feed(assembler, *infos(), *how.static(A), edge("", "map", "odom", ORIGINS[A]))
    lost = "world" if how is GIVEN else f"{B}/odom"
    for ms in range(100, 1500, 100):
        assert seen(how.feed(assembler, A, ms)) == [expected(A, ms)]
        shown = images(ms, B, how.camera.format(B))
        assert not feed(assembler, *shown, odometry(B, ms, lost, how.camera.format(B)))
    (reason, count), *_ = assembler.told()
    assert reason.startswith(f"{B}: no transform between 'map' and '{lost}': publish it, or set")
    assert "node.robot_origins" in reason and count == 8
    even(assembler.accounts())


def test_poses_of_a_robot_stay_in_one_frame_which_they_name():
    assembler = begun(GIVEN)
    assert seen(GIVEN.feed(assembler, A, 100)) == [expected(A, 100)]
    feed(assembler, odometry(A, 200, "map", "base"), odometry(B, 200, "map", "base"))
    ((reason, count),) = assembler.told()
    assert count == 1 and reason.startswith(f"{A}: pose in another frame than those of this robot")
    assert "'map'" in reason and "'odom'" in reason
    nameless = assembler_of()
    feed(nameless, odometry(B, 100, "", "base"))
    ((reason, _),) = nameless.told()
    assert reason.startswith(f"{B}: pose that does not say its frame (frame_id)")
    assembler.clear("because", forget_frame=True)
    feed(assembler, odometry(A, 300, "map", "base"))
    assert len(assembler.told()) == 1, "after a reset another frame may be the one"
    even(assembler.accounts())


def test_own_transforms_of_a_robot_come_before_those_that_all_share():
    shared = Transforms()
    own = Transforms(shared=shared)
    eye, there = np.eye(4), np.reshape(origins(3.0), (4, 4))
    shared.add("map", "base", 1, eye, static=True)
    assert len(own) == 1 and "base" not in own
    own.add("map", "base", 1, there, static=True)
    assert own.lookup("map", "base", 5)[0, 3] == 3.0 and "base" in own
    assert shared.lookup("map", "base", 5)[0, 3] == 0.0
    own.add("x", "y", 1, eye, static=True)
    shared.add("y", "x", 1, eye, static=True)  # a circle, but in none of the two
    assert np.array_equal(own.lookup("x", "y", 5), eye)
    with pytest.raises(NotConnected):
        own.lookup("map", "y", 5)


def test_places_are_asked_for_in_frames_of_a_robot():
    for how in (EACH, PREFIXED, CONVENTIONS["tf of each, given origins"]):
        assembler = begun(how)
        for robot in ROBOTS:
            how.feed(assembler, robot, 2000)
        for robot in ROBOTS:
            T, moment_ns = assembler.placed(f"{robot}/base")
            assert T[0, 3] == pytest.approx(-ORIGINS[robot] - 2.0) and moment_ns == 2_000_000_000
        with pytest.raises(InputError, match="no transform joins"):
            assembler.placed("nowhere/base")


def test_robots_whose_cameras_have_one_name_in_one_tf_are_told(caplog):
    with caplog.at_level(logging.WARNING, "radseg_ros"):
        for how in (EACH, GIVEN, PREFIXED):
            assembler = begun(how)
            for robot in ROBOTS:
                how.feed(assembler, robot, 100)
    assert not caplog.records
    assembler = begun(PREFIXED)
    PREFIXED.feed(assembler, A, 100)
    with caplog.at_level(logging.WARNING, "radseg_ros"):
        feed(assembler, *images(100, B, f"{A}/camera"))
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"images of {A} and {B} are all in '{A}/camera'" in line


# Time that runs backwards


@pytest.mark.parametrize("how", CONVENTIONS.values(), ids=CONVENTIONS)
def test_a_robot_whose_clock_jumps_costs_the_others_nothing(how):
    assembler, found = begun(how), []
    for ms in range(10_000, 12_000, 100):
        late = 6_000 if ms in (10_500, 11_000, 11_100) else 0
        found += how.feed(assembler, B, ms - late)
        found += how.feed(assembler, A, ms)
    of_a = [item for item in seen(found) if item[0] == A]
    assert of_a == [expected(A, ms) for ms in range(10_000, 12_000, 100)]
    of_b = [item for item in seen(found) if item[0] == B]
    assert len(of_b) >= 10 and all(item == expected(B, item[1]) for item in of_b)
    assert assembler.jumps and not any(reason.startswith(A) for reason, _ in assembler.told())
    even(assembler.accounts())


@pytest.mark.parametrize("how", [GIVEN, EACH, PREFIXED])
def test_robots_may_have_clocks_that_are_hours_apart(how):
    assembler, hour = begun(how), 3_600_000
    for ms in range(hour, hour + 2000, 100):
        assert seen(how.feed(assembler, A, ms)) == [expected(A, ms)]
        assert seen(how.feed(assembler, B, ms - hour + 100)) == [expected(B, ms - hour + 100)]
    assert not assembler.jumps and not assembler.told()


# Accounts

stamps = st.integers(0, 20).map(lambda i: 25 * i) | st.integers(0, 600)
jumps = st.sampled_from([0, 0, 5_000, 100_000])  # ms
kinds, robots = st.sampled_from(KINDS), st.sampled_from(ROBOTS)
good = st.tuples(st.just("good"), kinds, robots, stamps, jumps)
shared = st.tuples(st.just("shared"), st.sampled_from(TRANSFORMS), robots, stamps, jumps)
frames = st.tuples(st.just("frame"), robots, stamps)
bad = st.tuples(st.just("bad"), kinds, robots, st.sampled_from(sorted(GARBAGE)))
left_out = st.tuples(st.just("left out"), st.sampled_from(IMAGES), robots)
control = st.tuples(st.sampled_from(["clear", "reset", "flush"]))


def good_message(kind: str, ms: int, robot: str) -> Message:
    make = {
        "color": lambda: image(ms, frame="camera"),
        "depth": lambda: image(ms, "16UC1", "camera"),
        "info": info,
        "pose": lambda: pose(ms, 0.0, "odom", odometry=True, child="base"),
        "tf": lambda: transforms((ms, "odom", "base"), (ms, f"{robot}/map", "odom")),
        "tf_static": lambda: transforms((0, "base", "camera"), (0, "map", f"{robot}/map")),
    }
    return make[kind]()


@settings(max_examples=60)
@given(
    st.lists(good | good | shared | frames | frames | bad | left_out | control, max_size=50),
    st.sampled_from(["topic", "tf", "auto"]),
    st.booleans(),
    st.data(),
)
def test_any_sequence_of_two_robots_is_accounted_for(events, source, given_origins, data):
    placed = {"robot_origins": origins(1.0, 2.0)} if given_origins else {}
    tally = Tally(assembler_of(SMALL, pose_source=source, **placed), ROBOTS)
    for event, *rest in events:
        if event in ("good", "shared"):
            kind, robot, ms, jump = rest
            message = good_message(kind, ms + jump, robot)
            tally.send(kind, message, "" if event == "shared" else robot)
        elif event == "frame":
            robot, ms = rest
            for kind in KINDS:
                tally.send(kind, good_message(kind, ms, robot), robot)
        elif event == "bad":
            tally.send(rest[0], GARBAGE[rest[2]], rest[1])
        else:
            tally.meet(event, *rest)
        tally.go_on(data)
    tally.check()


def test_without_robots_nothing_is_named():
    assembler = Assembler()
    assert list(assembler.accounts()) == [*KINDS] and list(assembler.localizers) == [""]
    assert cameras_of(NodeConfig()) == {"": ("",)}


# A live map


def live_map(
    how: Convention | None = None, journal: str = "", bricks: str = "", **node: object
) -> LiveMap:
    """Of both robots, or without ``how`` of none that has a name; ``bricks``: in little memory."""
    names = {} if how is None else {"robots": list(ROBOTS), **how.options}
    made = NodeConfig(**{"backlog": 99, **names, **node})
    kept, correct = JournalConfig(directory=journal), CorrectConfig(share=1.0, body_frame="base")
    config = Config(
        encoder="colors",
        short_side=0,
        node=made,
        journal=kept,
        correct=correct,
        map=MapConfig(max_voxels=300 if bricks else 0),
        persistence=PersistenceConfig(frame_is_persistent=True, disk_directory=bricks),
    )
    live = LiveMap(config)
    live.start(Mapper(config, GatedEncoder()))
    live.resume()
    if how is not None:
        give(live, *infos(), *(each for robot in ROBOTS for each in how.static(robot)))
    return live


def give(live: LiveMap, *events: Event) -> None:
    for event in events:
        live.receive(*event)


def drive(live: LiveMap, how: Convention, robot: str, ms: int) -> None:
    give(live, *images(ms, robot, how.camera.format(robot)), *how.moving(robot, ms))


@pytest.mark.parametrize(
    ("how", "bricks"), [(EACH, ""), (GIVEN, ""), pytest.param(GIVEN, "b", marks=pytest.mark.slow)]
)
def test_two_robots_make_the_map_of_one_recording_after_the_other(how, bricks, tmp_path):
    stamps = range(125, 1625, 125)  # eighths of metres: no pose is rounded
    together = live_map(how, bricks=bricks and str(tmp_path / bricks))
    for ms in stamps:
        for robot in ROBOTS:
            drive(together, how, robot, ms)
            settle(together)
    one = live_map()
    give(one, ("info", info(), ""))
    for robot in ROBOTS:
        for ms in stamps:
            at = pose(ms, expected(robot, ms)[2])
            give(one, ("pose", at, ""), *((k, m, "") for k, m, _ in images(ms, robot, "camera")))
            settle(one)
    assert len(one.mapper.map) > 500
    status = together.status()
    assert bool(bricks) == (status.everywhere > status.voxels)
    assert_equal(everything(together) if bricks else together.mapper.map, one.mapper.map)
    assert {name: each.integrated for name, each in status.cameras.items()} == {A: 12, B: 12}
    assert together.close(PATIENCE) and one.close(PATIENCE)


def test_the_encoder_takes_robots_in_turns():
    live = live_map(GIVEN, backlog=1)
    live.mapper.encoder.open.clear()
    drive(live, GIVEN, A, 100)
    assert live.mapper.encoder.entered.wait(PATIENCE)
    for ms in range(200, 1000, 100):
        drive(live, GIVEN, A, ms)
    drive(live, GIVEN, B, 500)
    live.mapper.encoder.open.set()
    settle(live)
    status = live.status()
    assert {name: each.integrated for name, each in status.cameras.items()} == {A: 2, B: 1}
    assert dict(status.drops) == {f"{A}: {BUSY}": 7}
    even(status.accounts)
    assert live.close(PATIENCE)


def test_garbage_of_one_robot_does_not_stop_the_other():
    live = live_map(GIVEN)
    for i, garbage in enumerate(GARBAGE.values(), 1):
        drive(live, GIVEN, A, 100 * i)
        give(live, *((kind, garbage, B) for kind in KINDS))
    settle(live)
    status = live.status()
    assert status.cameras[A].integrated == len(GARBAGE) and not status.cameras[B].integrated
    assert not any(reason.startswith(f"{A}: ") for reason, _ in status.drops)
    even(status.accounts)
    assert live.close(PATIENCE)


def test_a_robot_that_falls_silent_is_named_while_the_others_go_on():
    live, dog = live_map(GIVEN), Watchdog(5.0)
    names = [input_name(kind, robot) for robot in ROBOTS for kind in (*OF_A_CAMERA, "pose")]

    def state(name: str, received: int) -> InputState:
        return InputState(name.split("/")[-1], f"/{name}", "T", ["T"], received)

    for second in range(6):
        ms = 100 + 1000 * second
        drive(live, GIVEN, A, ms)
        give(live, *images(ms, B, "camera"), odometry(B, 0, "odom", "base"))
        settle(live)
        report = dog.look(second, live.status(), names, state, 0)
        assert (report.level is Level.OK) == (second < 5)
    assert f"camera '{B}': no frame for 5 s: " in report.text
    assert f"/{B}/info: published, but nothing arrives" in report.text
    assert "dropped" in report.text and f"/{A}/" not in report.text
    assert live.close(PATIENCE)


def test_what_is_said_of_a_robot_is_said_of_each_of_its_cameras():
    robots = NodeConfig(robots=["a", "b"], cameras=["front"])
    live, dog = LiveMap(Config(node=robots)), Watchdog(5.0)
    names = list(live.status().accounts)
    live.close(1)
    state = lambda name, received: InputState("pose", f"/{name}", "T", [], received)  # noqa: E731
    reasons = [("a: said", 1), ("a/front: shown", 2), ("b: other", 3), ("tf: b", 4)]
    text = dog._why_still("a/front", dict.fromkeys(names, 0), reasons, state)
    assert "/a/pose" in text and "/a/front/color" in text and "/a/tf" in text
    assert "/b/" not in text and "other" not in text and "/tf," not in text.replace("/a/tf,", "")
    assert "dropped 1 x said" in text and "dropped 2 x shown" in text


def poses_in_journal(folder: Path) -> dict[tuple[str, int], float]:
    """Robot and stamp (ms) of each frame -> x of where it is now."""
    journal = Journal(folder)
    corrected, found = poses_of(journal, journal.records), {}
    for record in (record for record in journal.records if record.kind == FRAME):
        header = journal.header(record)
        T = corrected.get(record.number, np.array(header["pose"]))
        found[header["camera"], header["stamp_ns"] // 10**6] = round(float(T[0, 3]), 6)
    return found


# In which frames trajectories of a robot {} may be: their names, and x of each in the map.
TOLD_IN = {
    "tf of each": {"map": 0.0},
    "one tf with prefixes": {"map": 0.0, "{}/odom": None},
    "tf of each, joined by what is shared": {"map": 0.0, "{}/map": None},
    "tf of each, given origins": {"map": None},
    "odometry, joined by tf": {"map": 0.0, "{}/odom": None},
    "odometry, given origins": {"map": 0.0, "odom": None},
    "poses in the map": {"world": 0.0},
}


QUICK = ("one tf with prefixes", "odometry, given origins")


@pytest.mark.parametrize(
    "how",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TOLD_IN],
)
def test_a_trajectory_moves_the_frames_of_its_robot_alone(how, tmp_path):
    live = live_map(CONVENTIONS[how], str(tmp_path))
    for ms in (100, 200, 300):
        for robot in ROBOTS:
            drive(live, CONVENTIONS[how], robot, ms)
    settle(live, lambda: live.status().integrated == 6)
    before = poses_in_journal(tmp_path)
    for shift, (name, x) in enumerate(TOLD_IN[how].items(), 1):
        path, world = np.tile(np.eye(4), (3, 1, 1)), ORIGINS[B] if x is None else x
        path[:, 0, 3] = [before[B, ms] - MOUNT - world + shift for ms in (100, 200, 300)]
        done = live.correct([10**8, 2 * 10**8, 3 * 10**8], list(path), name.format(B), B)
        assert (done.moved, done.kept, done.outside) == (3, 0, 0)
        settle(live, lambda: not live.status().journal.moving)
        wanted = {key: x + shift * (key[0] == B) for key, x in before.items()}
        assert poses_in_journal(tmp_path) == pytest.approx(wanted)
    with pytest.raises(InputError, match="place in the map is not known: |the map in 'map'"):
        live.correct([10**8], [np.eye(4)], "nowhere", B)
    for robot in ("c", ""):
        with pytest.raises(InputError, match=r"no robot is called '.?'; node\.robots: a, "):
            live.correct([10**8], [np.eye(4)], "map", robot)
    assert live.close(PATIENCE)


@pytest.mark.parametrize("how", [EACH, GIVEN, CONVENTIONS["tf of each, given origins"]])
def test_a_journal_knows_the_robot_of_each_frame(how, tmp_path):
    live = live_map(how, str(tmp_path))
    for robot in ROBOTS:
        drive(live, how, robot, 100)
    settle(live, lambda: live.status().integrated == 2)
    assert live.close(PATIENCE)
    before, live = poses_in_journal(tmp_path), live_map(how, str(tmp_path))
    x, T = ORIGINS[B] + 0.1 + 1, np.eye(4)
    if how.options:  # nobody knows yet whether poses come by transforms, whose map is the robot's
        with pytest.raises(InputError, match="no pose of this robot has come yet"):
            live.correct([10**8], [T], "map", B)
        live.poses_from("tf" if how is not GIVEN else "topic", B)
        x -= ORIGINS[B] * (how is not GIVEN)
    T[0, 3] = x
    assert live.correct([10**8], [T], "map", B).moved == 1
    assert poses_in_journal(tmp_path) == pytest.approx(
        {key: x + (key[0] == B) for key, x in before.items()}
    )
    assert live.close(PATIENCE)


def test_cameras_are_of_the_robot_whose_name_is_in_front():
    assert is_of("a", "a") and is_of("a/front", "a") and is_of("front", "") and is_of("", "")
    assert not is_of("ab", "a") and not is_of("front", "a") and not is_of("b/a", "a")


# Options


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "b", "a"], "each once"),
        ([""], "is no namespace"),
        (["/a"], "is no namespace"),
        (["a/"], "is no namespace"),
        (["2nd"], "is no namespace"),
        (["a b"], "is no namespace"),
        (["x" * 61], "is no namespace"),
        (["a", "b", "a/c"], r"\['a/c'\] is below 'a'"),
        ([f"r{i}" for i in range(9)], "at most 8, got 9"),
    ],
)
def test_names_of_robots_are_checked(names, reason):
    with pytest.raises(ConfigError, match=rf"node\.robots.*{reason}"):
        NodeConfig(robots=names)


def test_a_robot_without_an_origin_is_refused_by_name():
    three = ["a", "b", "c"]
    assert NodeConfig(robots=three, robot_origins=origins(1, 2, 3))
    for count, name in ((16, "b"), (32, "c"), (40, "c"), (5, "a")):
        reason = rf"node\.robot_origins takes 16 numbers .* got {count}: '{name}' has none"
        with pytest.raises(ConfigError, match=reason):
            NodeConfig(robots=three, robot_origins=origins(1, 2, 3)[:count])
    for robots, count in ((three, 64), ([], 16)):
        with pytest.raises(ConfigError, match=rf"node\.robots, got {count}$"):
            NodeConfig(robots=robots, robot_origins=origins(1, 2, 3, 4)[:count])


def test_an_origin_that_is_no_rigid_transform_is_refused_by_the_name_of_its_robot():
    bad = [*origins(1.0), *np.diag([1.0, 1, -1, 1]).ravel().tolist()]
    with pytest.raises(InputError, match=rf"node\.robot_origins of '{B}'"):
        assembler_of(robot_origins=bad)
