# SPDX-License-Identifier: Apache-2.0
"""Corrected poses: the map becomes what it would have been with them from the beginning."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from journalled import assert_equal, close, live_map, observe, place, settle
from scipy.spatial.transform import Rotation
from small_worlds import assert_same, frame, make_map, pose, random_frame
from waiting import PATIENCE

from radseg_ros.config import MapConfig
from radseg_ros.datatypes import FeatureMap, InputError
from radseg_ros.frames.transforms import interpolate_pose
from radseg_ros.journal.correct import Corrector, nearest
from radseg_ros.journal.folder import Journal
from radseg_ros.journal.replay import poses_of, replay
from radseg_ros.journal.trajectory import Trajectory, moved
from radseg_ros.live_map import LiveMap
from radseg_ros.voxels import voxel_map
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.voxel_map import VoxelMap

AT_ONCE = {"correct__share": 1.0, "correct__min_shift": 0.0, "correct__min_angle": 0.0}
SECOND = 1_000_000_000


def stamp_of(step: int) -> int:
    return SECOND + 100_000_000 * step


def corrected(step: int, by: float = 0.3) -> np.ndarray:
    """Where frame ``step`` was in truth: a drift that grows."""
    T = place(step)
    turn = by * step / 10
    drift = np.eye(4)
    drift[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    drift[:3, 3] = by * step / 5, 0.02 * step, 0
    return drift @ T


def correct(live: LiveMap, steps: range, by: float = 0.3):
    return live.correct([stamp_of(s) for s in steps], [corrected(s, by) for s in steps])


def done(live: LiveMap) -> None:
    settle(live, lambda: not live.status().journal.moving)


def from_scratch(folder: Path, live: LiveMap, poses: dict[int, np.ndarray] | None = None):
    """The map of the frames and whatever else is in the journal, with the poses as they are now."""
    journal = Journal(folder)
    records = journal.story().main
    world = VoxelMap(journal.about.channels, live.mapper.config.map, device="cpu")
    known = poses_of(journal, records) if poses is None else poses
    list(replay(journal, records, world, CameraPath(), known))
    return world


# A trajectory


def random_trajectory(rng: np.random.Generator, count: int = 6):
    stamps = np.sort(rng.choice(10**9, count, replace=False)).tolist()
    return stamps, [pose(rng) for _ in stamps]


def test_poses_are_interpolated_as_those_of_frames_are():
    rng = np.random.default_rng(0)
    stamps, poses = random_trajectory(rng)
    order = rng.permutation(len(stamps))
    path = Trajectory([stamps[i] for i in order], [poses[i] for i in order], max_gap=10)
    asked = np.array([*stamps, *rng.integers(stamps[0], stamps[-1], 50)])
    found, known = path.at(asked)
    assert known.all()
    for stamp, T in zip(asked.tolist(), found, strict=True):
        after = int(np.searchsorted(stamps, stamp))
        if stamp in stamps:
            np.testing.assert_array_equal(T, poses[stamps.index(stamp)])
            continue
        share = (stamp - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
        wanted = interpolate_pose(poses[after - 1], poses[after], share)
        np.testing.assert_allclose(T, wanted, atol=1e-9)


def test_nothing_is_extrapolated_nor_guessed_over_gaps():
    poses = [np.eye(4)] * 4
    path = Trajectory([0, SECOND, 5 * SECOND, 6 * SECOND], poses, max_gap=1.5)
    asked = np.array([-1, 0, 1, SECOND, SECOND + 1, 5 * SECOND - 1, 5 * SECOND, 6 * SECOND + 1])
    known = path.at(asked)[1].tolist()
    assert known == [False, True, True, True, False, False, True, False]
    alone = Trajectory([7], [np.eye(4)], 1.0)
    assert alone.at(np.array([6, 7, 8]))[1].tolist() == [False, True, False]
    assert alone.at(np.zeros(0, np.int64))[1].shape == (0,)


def test_between_nodes_of_a_graph_the_body_moved_as_odometry_saw_it():
    """A body on a winding way whose odometry drifts, and a graph with a node a second."""

    def way(seconds: np.ndarray, drift: float) -> np.ndarray:
        T = np.tile(np.eye(4), (len(seconds), 1, 1))
        turn = Rotation.from_euler("zx", np.stack([2 * seconds, 0.2 * np.sin(seconds)], 1))
        tilt = Rotation.from_rotvec(np.outer(drift * seconds, [0, 0, 0.02]))
        T[:, :3, :3] = (tilt * turn).as_matrix()
        place = np.stack([np.sin(2 * seconds), np.cos(3 * seconds), seconds], 1) / 4
        T[:, :3, 3] = place + np.outer(drift * seconds, [0.06, -0.03, 0.02])
        return T

    rng = np.random.default_rng(0)
    frames = np.sort(rng.choice(20 * SECOND, 200, replace=False))
    nodes = np.arange(0, 21 * SECOND, SECOND)
    path = Trajectory(nodes.tolist(), way(nodes / SECOND, 0.0), max_gap=1.5)
    order = rng.permutation(len(frames))  # frames of several cameras need no order
    frames = np.append(frames[order], nodes[3])
    truth, odometry = (way(frames / SECOND, drift) for drift in (0.0, 1.0))
    found, known = path.at(frames, odometry)
    straight, same = path.at(frames)
    np.testing.assert_array_equal(known, same)
    assert known.all()
    np.testing.assert_array_equal(found[-1], path.at(nodes[3:4])[0][0])

    def errors(T: np.ndarray) -> tuple[float, float]:
        turn = Rotation.from_matrix(T[:, :3, :3].transpose(0, 2, 1) @ truth[:, :3, :3])
        return np.abs((T - truth)[:, :3, 3]).mean(), turn.magnitude().mean()

    (place, turn), (place_straight, turn_straight) = errors(found), errors(straight)
    assert place < 0.3 * place_straight and turn < 0.3 * turn_straight
    assert place < 0.3 * errors(odometry)[0]


def test_where_believed_poses_jump_the_body_moved_straight():
    """As in TF: with a loop closure between two nodes all is right at once."""
    path = Trajectory(np.arange(5) * SECOND, np.tile(np.eye(4), (5, 1, 1)), max_gap=30.0)
    frames = np.arange(0, 4 * SECOND + 1, SECOND // 4)
    believed = np.tile(np.eye(4), (len(frames), 1, 1))
    believed[frames < 2.5 * SECOND, 0, 3] = 0.5
    found, known = path.at(frames, believed)
    assert known.all()
    np.testing.assert_allclose(found, np.tile(np.eye(4), (len(frames), 1, 1)), atol=1e-12)


def test_a_body_that_stood_still_had_no_node_and_is_corrected_all_the_same():
    """rtabmap adds nodes only while the body moves: here none between 1 s and 21 s."""
    nodes = np.array([0, SECOND, 21 * SECOND, 22 * SECOND])
    drifted = np.tile(np.eye(4), (len(nodes), 1, 1))
    drifted[:, 0, 3] = [0.0, 1.0, 1.0, 2.0]  # as odometry has it
    corrected = drifted.copy()
    corrected[:, 1, 3] = 0.5
    frames = np.arange(0, 22 * SECOND + 1, SECOND // 2)
    seconds = frames / SECOND
    believed = np.tile(np.eye(4), (len(frames), 1, 1))
    believed[:, 0, 3] = np.clip(seconds, 0, 1) + np.clip(seconds - 21, 0, 1)
    wanted = believed.copy()
    wanted[:, 1, 3] = 0.5
    found, known = Trajectory(nodes.tolist(), corrected, max_gap=30.0).at(frames, believed)
    assert known.all()
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    for max_gap, told in ((10.0, believed), (30.0, None)):  # too long, or nobody saw it stand
        known = Trajectory(nodes.tolist(), corrected, max_gap).at(frames, told)[1]
        assert not known[(seconds > 1) & (seconds < 21)].any() and known[seconds <= 1].all()


def test_where_frames_cannot_tell_how_the_body_moved_it_moved_straight():
    path = Trajectory([0, SECOND, 2 * SECOND], [np.eye(4)] * 3, max_gap=1.5)
    asked = np.array([SECOND // 2])  # one frame: of the nodes around it nothing was believed
    wrong = np.tile(np.eye(4), (1, 1, 1))
    wrong[0, 0, 3] = 3.0
    np.testing.assert_array_equal(path.at(asked, wrong)[0], path.at(asked)[0])
    assert path.at(asked[:0], wrong[:0])[1].shape == (0,)


@pytest.mark.parametrize(
    ("stamps", "poses", "said"),
    [
        ([], [], "at least one pose"),
        ([1, 2], [np.eye(4)], "a stamp for each"),
        ([1], [np.full((4, 4), np.nan)], "not finite"),
        ([1], [np.diag([1, 1, -1, 1.0])], "not a rigid transform"),
    ],
)
def test_a_trajectory_of_something_else_is_refused(stamps, poses, said):
    with pytest.raises(InputError, match=said):
        Trajectory(stamps, poses, 1.0)


def test_who_moved_is_told_by_place_and_by_angle():
    before = np.tile(np.eye(4), (3, 1, 1))
    after = before.copy()
    after[0, 0, 3] = 0.1
    after[1, :2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    assert moved(before, after, 0.05, 10).tolist() == [True, False, False]
    assert moved(before, after, 0.5, 5).tolist() == [False, True, False]
    assert not moved(before[:0], after[:0], 0, 0).any()


def test_the_newest_frame_of_the_nearest_metre_comes_first():
    places = {1: 0.9, 2: 0.1, 3: 1.5, 4: 0.7, 5: 9.0}
    stale = {}
    for number, x in places.items():
        stale[number] = np.eye(4)
        stale[number][0, 3] = x
    order = []
    while stale:
        order.append(nearest(stale, (0.0, 0.0, 0.0)))
        del stale[order[-1]]
    assert order == [4, 2, 1, 3, 5]


# A map from which frames are taken


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_moved_frame_is_as_if_it_had_never_been_elsewhere(seed):
    rng = np.random.default_rng(seed)
    frames = [random_frame(rng, stamp_ns=i, shift=0.3) for i in range(6)]
    elsewhere = [pose(rng, 0.3) for _ in frames]
    world, wanted = make_map(), make_map()
    for i, (observed, features) in enumerate(frames):
        world.integrate(observed, features)
        if i % 2:
            observed = dataclasses.replace(observed, T_world_camera=elsewhere[i])
        wanted.integrate(observed, features)
    for i in (5, 1, 3):
        observed, features = frames[i]
        there = dataclasses.replace(observed, T_world_camera=elsewhere[i])
        before, after = (world.lifted(each, features) for each in (observed, there))
        list(world.move(before, after, features, observed.stamp_ns))
    assert_equal(world, wanted, stamps=False)
    assert world.is_sum and world.history.removed == 0
    ages = world.table["first_seen_ns"] <= world.table["last_seen_ns"]
    assert bool(ages.all())


def test_a_copy_waits_until_a_moving_frame_is_in_one_place():
    rng = np.random.default_rng(0)
    (one, features), (other, _) = random_frame(rng), random_frame(rng)
    world, lock = make_map(), threading.Lock()
    world.integrate(one, features)
    steps = world.move(world.lifted(one, features), world.lifted(other, features), features, 0)
    next(steps)
    copies = []
    copying = threading.Thread(target=lambda: copies.append(world.frozen(lock)))
    copying.start()
    copying.join(0.05)
    assert copying.is_alive()
    with lock:
        list(steps)
    copying.join(PATIENCE)
    wanted = make_map()
    wanted.integrate(other, features)
    assert_same(copies[0].snapshot(), wanted.snapshot())


def test_voxels_that_have_lost_nearly_all_points_are_known():
    wall, features = frame(1.0), FeatureMap(torch.ones(5, 3, 4))
    T = np.eye(4)
    T[0, 3] = 50.0
    away, world = frame(1.0, T), make_map(9.0)
    single = frame(np.where(np.arange(192).reshape(12, 16) == 100, 1.0, 0.0))
    for observed in (wall, wall, single):
        world.integrate(observed, features)
    before, after = (world.lifted(each, features) for each in (wall, away))
    list(world.move(before, after, features, 0))
    assert world.worn == 0, "192 of 385 points have gone"
    list(world.move(before, after, features, 0))
    assert world.worn == 0, "384 of 385, which is not yet so many"
    for _ in range(33):  # more than are kept apart
        world.integrate(wall, features)
        list(world.move(before, after, features, 0))
    assert world.worn == 1
    world.integrate(wall, features)
    assert world.worn == 0, "it has many points again"
    world.clear()
    assert world.worn == 0


def test_a_map_of_worn_voxels_is_made_anew_in_the_end(tmp_path):
    live = live_map(tmp_path, **AT_ONCE, map__voxel_size=20.0)
    places = {step: place(0) for step in range(3)}
    observe(live, range(3), places=places)
    before, kept = live.mapper.map, places[0] @ np.eye(4)
    away = kept.copy()
    away[0, 3] += 500.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voxel_map, "WORN", 1.5)
        live.correct([stamp_of(s) for s in range(3)], [kept, away, away])
        done(live)
    assert live.mapper.map is not before
    assert_equal(live.mapper.map, from_scratch(tmp_path, live))
    close(live)


def test_a_frame_that_is_not_there_cannot_be_taken_out():
    rng = np.random.default_rng(0)
    (one, features), (other, _) = random_frame(rng), random_frame(rng)
    world = make_map()
    world.integrate(one, features)
    before = world.snapshot()
    elsewhere = world.lifted(other, features)
    with pytest.raises(InputError, match="does not hold this frame"):
        list(world.move(elsewhere, world.lifted(one, features), features, 0))
    assert_same(world.snapshot(), before)


@pytest.mark.parametrize("failing", ["add", "subtract", "remove_slots"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_move_that_fails_at_any_step_leaves_the_map_as_it_was(monkeypatch, failing, call):
    monkeypatch.setattr(voxel_map, "COPY_BYTES", 1)  # as few voxels in a step as can be
    rng = np.random.default_rng(0)
    (one, features), (other, _) = random_frame(rng), random_frame(rng)
    world = make_map()
    for each in (one, frame(1.0), other):
        world.integrate(each, features)
    before, real = world.snapshot(), getattr(world.table, failing)
    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) == call:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(world.table, failing, fail)
    steps = world.move(world.lifted(one, features), world.lifted(other, features), features, 0)
    done = []
    with pytest.raises(MemoryError):
        done += steps
    assert_same(world.snapshot(), before)
    assert len(done) >= call - 1
    list(world.move(world.lifted(one, features), world.lifted(other, features), features, 0))
    wanted = make_map()
    for each in (other, frame(1.0), other):
        wanted.integrate(each, features)
    assert_equal(world, wanted, stamps=False)


def test_no_step_of_a_move_touches_many_voxels(monkeypatch):
    monkeypatch.setattr(voxel_map, "COPY_BYTES", 1)
    rng = np.random.default_rng(0)
    (one, features), (other, _) = random_frame(rng), random_frame(rng)
    world = make_map(0.05)
    world.integrate(one, features)
    before, after = (world.lifted(each, features) for each in (one, other))
    hits, longest = world.table["hits"].sum(), 0
    for _ in world.move(before, after, features, 0):
        now = world.table["hits"].sum()
        longest, hits = max(longest, abs(int(now - hits))), now
    assert 0 < longest <= 64 * int(max(before.hits.max(), after.hits.max())) < int(hits)


# A live map

MADE_ANEW = [
    {"map__carve_after": 1},
    {"map__forget_after": 0.3},
    {"map__max_voxels": 700},
    {"map__dtype": "float16"},
    {"map__hot_voxels": 400, "map__cold_share": 4},
]


@pytest.mark.parametrize(
    "options",
    [{}, MADE_ANEW[0], *(pytest.param(each, marks=pytest.mark.slow) for each in MADE_ANEW[1:])],
    ids=lambda o: "".join(o) or "sum",
)
def test_a_corrected_map_is_the_one_of_corrected_poses(tmp_path, options):
    live = live_map(tmp_path, **AT_ONCE, **options)
    observe(live, range(8))
    before = live.mapper.map
    told = correct(live, range(8))
    assert (told.moved, told.kept, told.outside, told.gone) == (7, 1, 0, 0)
    done(live)
    assert live.status().journal.unmoved == 0
    wanted = from_scratch(tmp_path, live)
    coded = "map__hot_voxels" in options
    assert coded != live.mapper.map.table.vectors.exact or "map__dtype" in options
    assert_equal(live.mapper.map, wanted, stamps=bool(options), coded=coded)
    assert (live.mapper.map is before) == (not options), "a sum is changed, others are made anew"
    poses = live._camera.note()["positions"]
    assert poses == [corrected(step)[:3, 3].round(3).tolist() for step in range(8)]
    observe(live, [8])
    close(live)
    again = live_map(tmp_path, **options)
    assert_equal(again.mapper.map, live.mapper.map, stamps=bool(options), coded=coded)
    close(again)


@pytest.mark.slow  # starts a map
def test_a_map_that_is_coded_while_its_last_frame_moves_is_made_anew(tmp_path, monkeypatch):
    live = live_map(tmp_path, **AT_ONCE, map__hot_voxels=400, map__cold_share=4)
    observe(live, range(2))
    before, real, moves = live.mapper.map, VoxelMap.move, []
    assert before.is_sum

    def move(world, *words):
        moves.append(world)
        steps = real(world, *words)
        yield next(steps)
        vectors = world.table.vectors
        vectors._follow_up()
        vectors._make_room(400)
        yield from steps

    monkeypatch.setattr(VoxelMap, "move", move)
    assert correct(live, range(2), by=3).moved == 1
    done(live)
    assert moves == [before] and not before.is_sum and live.mapper.map is not before
    assert live.status().journal.unmoved == 0
    assert_equal(live.mapper.map, from_scratch(tmp_path, live), stamps=False, coded=True)
    close(live)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"map__carve_after": 1}, marks=pytest.mark.slow)],
    ids=["sum", "anew"],
)
def test_floor_plans_follow_corrected_poses(tmp_path, options):
    given = {**AT_ONCE, **options, "grid__low": 0.01, "grid__high": 5.0}
    live, wanted = live_map(tmp_path / "one", **given), live_map(tmp_path / "other", **given)
    observe(live, [0])  # before anybody wants a floor plan
    for each in (live, wanted):
        each.floor_plan()
    observe(live, range(1, 5))
    observe(wanted, range(1, 5), places={step: corrected(step) for step in range(1, 5)})

    def cells(of: LiveMap) -> set:
        assert of._looked is not None
        return {*map(tuple, of._looked.cells().tolist())}

    assert cells(live) != cells(wanted)
    correct(live, range(5), by=-0.1)
    correct(live, range(5))  # the first one may not be done
    done(live)
    assert cells(live) == cells(wanted) != set()
    for each in (live, wanted):
        close(each)


def test_known_things_follow_corrected_poses_and_nothing_is_learnt_meanwhile(tmp_path, monkeypatch):
    live = live_map(tmp_path, **AT_ONCE, map__voxel_size=0.3)
    step, go_on = Corrector._step, threading.Event()
    monkeypatch.setattr(Corrector, "_step", lambda self: go_on.wait(PATIENCE) and step(self))
    observe(live, range(2))
    asked = {"threshold": 0.1, "max_gap": 1.0}
    assert live.query(["grey"], **asked).answers[0].objects[0].id == 1
    before = {id: track.thing.centre for id, track in live._tracks._tracks.items()}
    told = live.correct([stamp_of(s) for s in range(2)], [raised(place(s)) for s in range(2)])
    assert told.moved == 2 and live.status().journal.moving
    for id, track in live._tracks._tracks.items():
        assert track.thing.centre == pytest.approx((*before[id][:2], before[id][2] + 100))
    things = live.query(["grey"], **asked).answers[0].objects
    assert things and not any(thing.id for thing in things), "there, and new to us"
    assert live._tracks._tracks.keys() == before.keys()
    go_on.set()
    close(live)


def raised(T: np.ndarray) -> np.ndarray:
    T = T.copy()
    T[2, 3] += 100
    return T


@pytest.mark.slow  # seconds
@pytest.mark.parametrize("options", [{}, {"map__carve_after": 1}], ids=["sum", "anew"])
def test_mapping_and_questions_go_on_meanwhile(tmp_path, options):
    live = live_map(tmp_path, **AT_ONCE, **options)
    observe(live, range(6))
    correct(live, range(6))
    for step in range(6, 12):
        observe(live, [step])
        assert live.query(["red"]).covered > 0.9, "rows move"
        if step == 8:
            correct(live, range(9), by=-0.2)  # the first one may not be done
    done(live)
    wanted = from_scratch(tmp_path, live)
    assert_equal(live.mapper.map, wanted, stamps=bool(options))
    records = live.journal.story().main
    poses, frames = poses_of(live.journal, records), [r for r in records if r.kind == "frame"]
    for step, record in enumerate(frames[1:9], 1):
        np.testing.assert_allclose(poses[record.number], corrected(step, -0.2), atol=1e-12)
    assert not poses.keys() - {record.number for record in frames[1:9]}
    close(live)


@pytest.mark.slow  # seconds
@pytest.mark.parametrize("with_file", [True, False])
@pytest.mark.parametrize("options", [{}, {"map__carve_after": 1}], ids=["sum", "anew"])
def test_a_node_that_was_killed_meanwhile_goes_on_correcting(tmp_path, options, with_file):
    live = live_map(tmp_path / "journal", correct__share=0.01, **options)
    observe(live, range(8))
    correct(live, range(8))
    live.save(tmp_path / "a.radmap")  # most frames are not moved yet
    observe(live, [8])
    close(live)
    file = tmp_path / "a.radmap" if with_file else None
    again = live_map(tmp_path / "journal", load=file, **AT_ONCE, **options)
    assert bool(again.status().journal.moving) <= with_file
    done(again)
    assert_equal(again.mapper.map, from_scratch(tmp_path / "journal", again), stamps=False)
    close(again)


@pytest.mark.slow  # starts several maps
def test_a_map_that_was_saved_before_is_corrected_when_it_is_loaded(tmp_path):
    live = live_map(tmp_path / "journal", **AT_ONCE)
    observe(live, range(4))
    live.save(tmp_path / "a.radmap")
    correct(live, range(4))
    done(live)
    close(live)
    again = live_map(tmp_path / "journal", load=tmp_path / "a.radmap", **AT_ONCE)
    done(again)
    assert_equal(again.mapper.map, live.mapper.map, stamps=False)
    close(again)


@pytest.mark.slow  # starts several maps
def test_after_a_box_was_cleared_the_map_is_made_anew(tmp_path):
    live = live_map(tmp_path, **AT_ONCE)
    observe(live, range(4))
    assert live.clear_box((-9, -9, -9), (0.5, 9, 9)) > 0
    observe(live, range(4, 6))
    correct(live, range(6))
    done(live)
    assert_equal(live.mapper.map, from_scratch(tmp_path, live))
    close(live)


def test_frames_that_hardly_moved_or_lie_outside_stay(tmp_path):
    live = live_map(tmp_path, **{**AT_ONCE, "correct__min_shift": 0.1, "correct__min_angle": 10})
    observe(live, range(6))
    before = live.mapper.map.snapshot()
    told = correct(live, range(1, 5), by=0.01)
    assert (told.moved, told.kept, told.outside) == (0, 4, 2)
    done(live)
    assert_same(live.mapper.map.snapshot(), before)
    assert not [r for r in live.journal.records if r.kind == "moved"]
    close(live)


@pytest.mark.slow  # starts several maps
@pytest.mark.parametrize("options", [{}, MADE_ANEW[0]], ids=["sum", "anew"])
def test_a_reset_ends_a_correction(tmp_path, options):
    live = live_map(tmp_path, **{**AT_ONCE, "correct__share": 0.5}, **options)
    observe(live, range(6))
    correct(live, range(6))
    live.reset()
    assert not live.mapper.map.history.stale
    observe(live, [9])
    done(live)
    wanted = live_map(tmp_path / "wanted")
    observe(wanted, [9])
    assert_equal(live.mapper.map, wanted.mapper.map)
    for each in (live, wanted):
        close(each)


@pytest.mark.slow  # starts several maps
@pytest.mark.parametrize("options", [{}, MADE_ANEW[0]], ids=["sum", "anew"])
def test_a_confirmed_map_is_corrected_as_a_whole(tmp_path, options):
    aside = {**AT_ONCE, **options, "map__frame_is_persistent": False}
    live = live_map(tmp_path, **aside)
    observe(live, range(3))
    correct(live, range(3), by=0.1)
    done(live)
    close(live)
    live = live_map(tmp_path, **aside)
    observe(live, range(3, 6))
    told = correct(live, range(6), by=0.2)
    assert told.moved == 3, "what waits may be in another frame"
    live.confirm()  # at whatever moment of that correction
    told = correct(live, range(6), by=-0.3)
    assert told.moved == 5
    done(live)
    assert_equal(live.mapper.map, from_scratch(tmp_path, live), stamps=False)
    poses = list(poses_of(live.journal, live.journal.story().main).values())
    assert len(poses) == 5
    wanted = sorted(corrected(s, -0.3)[0, 3] for s in range(1, 6))
    np.testing.assert_allclose(sorted(T[0, 3] for T in poses), wanted, atol=1e-9)
    close(live)


@pytest.mark.slow  # seconds
def test_frames_on_top_of_a_file_are_corrected_as_long_as_it_is_there(tmp_path):
    base = live_map(tmp_path / "base")
    observe(base, [20, 21])
    base.save(tmp_path / "base.radmap")
    close(base)
    live = live_map(tmp_path / "journal", load=tmp_path / "base.radmap", **AT_ONCE)
    observe(live, range(4))
    live.clear_box((-9, -9, -9), (0.2, 9, 9))  # now it must be made anew
    for step in range(2):
        correct(live, range(4), by=0.2 + step)
        done(live)
        hits = int(live.mapper.map.table["hits"].sum())
        if not step:
            places = {20: place(20), 21: place(21)} | {s: corrected(s, 0.2) for s in range(4)}
            wanted = live_map(tmp_path / "wanted")
            observe(wanted, [20, 21, 0, 1, 2, 3], places=places)
            wanted.clear_box((-9, -9, -9), (0.2, 9, 9))
            assert_equal(live.mapper.map, wanted.mapper.map)
            close(wanted)
            (tmp_path / "base.radmap").unlink()
            before = hits
    assert hits == before and live.status().journal.unmoved == 3
    close(live)


@pytest.mark.slow  # starts several maps
@pytest.mark.parametrize("carve", [0, 1])
def test_frames_that_have_left_the_journal_stay_where_they_are(tmp_path, carve):
    first = live_map(tmp_path, **AT_ONCE)
    observe(first, range(6))
    size = first.status().journal.nbytes // 6
    close(first)
    options = {**AT_ONCE, "journal__max_bytes": 6 * size, "map__carve_after": carve}
    live = live_map(tmp_path, **options)
    observe(live, range(6, 9))
    if carve:
        with pytest.raises(InputError, match="frames are not in the journal any more"):
            correct(live, range(9))
    else:
        told = correct(live, range(9))
        assert told.gone >= 3 and told.moved == 9 - told.gone
        done(live)
        wanted = live_map("", map__voxel_size=live.mapper.map.voxel_size)
        hits = live.mapper.map.table["hits"].sum()
        assert int(hits) == 9 * 12 * 16
        close(wanted)
    close(live)


@pytest.mark.slow  # starts several maps
def test_a_frame_that_cannot_be_read_stays_and_is_counted(tmp_path):
    live = live_map(tmp_path, **AT_ONCE)
    observe(live, range(4))
    file = sorted(tmp_path.glob("*-frame.safetensors"))[2]
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    correct(live, range(4))
    done(live)
    status = live.status().journal
    assert (status.unmoved, status.damaged) == (1, 1)
    poses = {s: corrected(s) for s in (0, 1, 3)} | {2: place(2)}
    wanted = live_map(tmp_path / "wanted")
    observe(wanted, range(4), places=poses)
    assert_equal(live.mapper.map, wanted.mapper.map, stamps=False)
    for each in (live, wanted):
        close(each)


def test_corrections_need_a_journal_and_the_frame_of_the_map(tmp_path):
    live = live_map("")
    with pytest.raises(InputError, match="need a journal"):
        correct(live, range(2))
    close(live)
    live = live_map(tmp_path)
    observe(live, [0])
    with pytest.raises(InputError, match="is in frame 'odom', the map in 'map'"):
        live.correct([1], [np.eye(4)], "odom")
    close(live)


def test_a_trajectory_of_a_body_moves_its_camera(tmp_path):
    mount = np.eye(4)
    mount[:3, 3] = 0.1, 0.2, 0.3
    live = live_map(tmp_path, **AT_ONCE, node__camera_offset=mount.flatten().tolist())
    observe(live, range(3), places={s: place(s) for s in range(3)})
    live.correct([stamp_of(s) for s in range(3)], [corrected(s) for s in range(3)])
    done(live)
    poses = poses_of(live.journal, live.journal.story().main)
    wanted = [corrected(s) @ mount for s in (1, 2)]
    np.testing.assert_allclose(list(poses.values()), wanted, atol=1e-9)
    close(live)


def test_options_of_a_map_decide_what_can_be_taken_out_of_it():
    assert VoxelMap(3, MapConfig(device="cpu")).is_sum
    for options in MADE_ANEW:
        if "map__hot_voxels" in options:
            continue  # not before there are codes
        rules = {name.removeprefix("map__"): value for name, value in options.items()}
        world = VoxelMap(3, MapConfig(device="cpu", **rules))
        if "max_voxels" in rules:
            world.history.removed = 1
        assert not world.is_sum


# What goes wrong while frames are moved


def test_a_map_that_is_no_sum_any_more_keeps_nobody_waiting(tmp_path, monkeypatch):
    live = live_map(tmp_path, **AT_ONCE)
    observe(live, range(3))
    move, ending, go_on = VoxelMap.move, threading.Event(), threading.Event()

    def no_sum_at_the_end(self, *given):
        yield from move(self, *given)
        if not ending.is_set():
            self.history.removed += 1  # as when voxels of it were evicted meanwhile
            ending.set()
            assert go_on.wait(PATIENCE)

    monkeypatch.setattr(VoxelMap, "move", no_sum_at_the_end)
    correct(live, range(3))
    assert ending.wait(PATIENCE)
    with live._turn:  # as a frame has it, which wants the map next
        go_on.set()
        here = live.mapper.lock.acquire(timeout=PATIENCE / 3)
        assert here, "who moves frames has the map and waits"
        live.mapper.lock.release()
    done(live)
    close(live)


@pytest.mark.parametrize("where", ["lifted", "move"])
@pytest.mark.parametrize("times", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_who_moves_frames_survives_what_nobody_expected(tmp_path, monkeypatch, where, times):
    monkeypatch.setattr("radseg_ros.journal.correct.RETRY", 0.01)
    live = live_map(tmp_path, **AT_ONCE)
    observe(live, range(4))
    original, failures = getattr(VoxelMap, where), []

    def full(self, *given):
        if threading.current_thread().name == "correcting" and len(failures) < times:
            failures.append(1)
            raise MemoryError
        return original(self, *given)

    monkeypatch.setattr(VoxelMap, where, full)
    assert correct(live, range(4)).moved and not live.status().journal.unmoved
    done(live)
    assert len(failures) == times
    correct(live, range(4), by=0.2)
    done(live)
    assert not live.status().journal.unmoved
    assert_equal(live.mapper.map, from_scratch(tmp_path, live), stamps=False)
    close(live)
