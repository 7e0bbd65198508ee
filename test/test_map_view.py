# SPDX-License-Identifier: Apache-2.0
"""What questions read: never stale, made once, within a difference, and in nobody's way."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from small_worlds import frame, make_map, random_frame, rows
from torch.nn.functional import normalize
from waiting import PATIENCE

from radseg_ros.datatypes import FeatureMap, MapGeometry
from radseg_ros.voxels.storage import ScaledBytes
from radseg_ros.voxels.view import LEAST_ROWS, NARROW, STEP_ROWS, MapView, scored_directly, spread
from radseg_ros.voxels.voxel_map import VoxelMap

pytestmark = pytest.mark.usefixtures("device")
TEXTS = normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.fixture(autouse=True)
def steps(monkeypatch):
    """As many rows on any device, which the tests count."""
    monkeypatch.setattr("radseg_ros.voxels.view.ON_GPU", 1)


class Head:
    """A linear head that counts the vectors that it is given."""

    def __init__(self) -> None:
        self.matrix = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        self.rows = 0

    def __call__(self, means: torch.Tensor) -> torch.Tensor:
        self.rows += len(means)
        return normalize(means @ self.matrix.to(means.device), dim=1)


def scorer(vectors: torch.Tensor) -> torch.Tensor:
    return vectors @ TEXTS.T.to(vectors.device)


def ask(view: MapView, world: VoxelMap, question=None) -> tuple[MapGeometry, torch.Tensor]:
    assert view.catch_up(world, threading.Lock()) == 0
    return view.scored(world.voxel_size, scorer, len(TEXTS), question)


def grown(world: VoxelMap, step: int) -> None:
    """One more frame; now and then a part of the map goes."""
    world.integrate(*random_frame(np.random.default_rng(step), stamp_ns=step))
    if step % 3 == 1:
        world.clear_box((-1, -1, -1), (0.5, 1, 1))


def wide_map(voxels_wide: int = 120) -> VoxelMap:
    """More voxels than are copied in one step."""
    world = make_map(0.05, 5)
    depth = np.full((voxels_wide, voxels_wide), 2.0, np.float32)
    camera = np.diag([40.0, 40.0, 1.0])
    world.integrate(frame(depth, camera=camera), FeatureMap(torch.randn(5, 30, 30)))
    assert len(world) > 2 * STEP_ROWS
    return world


@pytest.mark.parametrize("narrow, tolerance", [(NARROW, 1e-6), (0, 0.02)])
def test_answers_are_those_of_the_map_as_it_is(monkeypatch, narrow, tolerance):
    monkeypatch.setattr("radseg_ros.voxels.view.NARROW", narrow)
    world, head = make_map(0.2, 5), Head()
    view = MapView(head, 3)
    for step in range(9):
        grown(world, step)
        if step % 2:
            geometry, scores = ask(view, world, "the same question")
            expected = scorer(head(world.snapshot().features))
            assert_same_geometry(geometry, world.geometry())
            torch.testing.assert_close(scores, expected, atol=tolerance, rtol=0)


def assert_same_geometry(one: MapGeometry, other: MapGeometry) -> None:
    for name in ("index", "xyz", "rgb", "hits", "views", "first_seen_ns", "last_seen_ns"):
        a, b = (getattr(side, name).cpu() for side in (one, other))
        torch.testing.assert_close(a, b)


def test_only_what_changed_is_made_again():
    world, head = make_map(0.2, 5), Head()
    for step in range(3):
        grown(world, step)
    view = MapView(head, 3)
    ask(view, world)
    assert head.rows == len(world)
    head.rows = 0
    ask(view, world)
    assert head.rows == 0
    stats = world.integrate(*random_frame(np.random.default_rng(9)))
    ask(view, world)
    assert head.rows == stats.voxels < len(world)


def test_another_map_is_another_map_even_with_the_same_voxels():
    one, other = make_map(0.2, 5), make_map(0.2, 5)
    one.integrate(frame(2.0), FeatureMap(torch.ones(5, 1, 1)))
    other.integrate(frame(2.0), FeatureMap(-torch.ones(5, 1, 1)))
    view = MapView(Head(), 3, exact=True)
    _, scores = ask(view, one, "question")
    _, others = ask(view, other, "question")
    torch.testing.assert_close(others, -scores)


def test_without_a_copy_the_answers_are_the_same():
    world, head = wide_map(), Head()
    geometry, scores = scored_directly(world, threading.Lock(), head, scorer, len(TEXTS))
    assert_same_geometry(geometry, world.geometry())
    torch.testing.assert_close(scores, scorer(head(world.snapshot().features)))


def test_an_empty_map_answers():
    world, view = make_map(0.2, 5), MapView(Head(), 3)
    for geometry, scores in (
        ask(view, world),
        scored_directly(world, threading.Lock(), Head(), scorer, 4),
    ):
        assert len(geometry) == 0 and scores.shape == (0, 4)
    grown(world, 0)
    ask(view, world)
    world.clear()
    geometry, scores = ask(view, world, "again")
    assert len(geometry) == 0 and scores.shape == (0, 4)


def test_a_zero_vector_stays_zero():
    world, view = make_map(0.2, 5), MapView(Head(), 3)
    world.integrate(frame(1.0), FeatureMap(torch.zeros(5, 1, 1)))
    assert (ask(view, world)[1] == 0).all()


def test_a_question_with_a_time_limit_answers_from_what_is_there():
    world, view = wide_map(), MapView(Head(), 3)
    missing = view.catch_up(world, threading.Lock(), deadline=time.monotonic())
    geometry, scores = view.scored(world.voxel_size, scorer, len(TEXTS))
    assert len(geometry) == len(scores) == len(world) - missing == STEP_ROWS
    assert view.share(world) == pytest.approx(STEP_ROWS / len(world))
    everything = rows(world.snapshot()).keys()
    assert {tuple(index) for index in geometry.index.tolist()} <= everything


def test_working_ahead_takes_the_newest_first():
    world, head = wide_map(), Head()
    world.integrate(frame(1.0, stamp_ns=9), FeatureMap(torch.ones(5, 1, 1)))
    newest = int((world.table["changed"] == world.table["changed"].max()).sum())
    view = MapView(head, 3)
    missing = view.catch_up(world, threading.Lock(), ahead=newest)
    assert head.rows == newest and missing == len(world) - newest
    geometry, _ = view.scored(world.voxel_size, scorer, len(TEXTS))
    assert (geometry.last_seen_ns == 9).all() and len(geometry) == newest


def test_a_voxel_that_changes_while_its_vector_is_made_stays_old():
    world, head = make_map(0.2, 5), Head()
    world.integrate(frame(2.0), FeatureMap(torch.ones(5, 1, 1)))

    def meanwhile(means):
        if head.rows == 0:
            world.integrate(frame(2.0), FeatureMap(torch.full((5, 1, 1), -3.0)))
        return head(means)

    view = MapView(meanwhile, 3, exact=True)
    ask(view, world)
    _, scores = ask(view, world)
    torch.testing.assert_close(scores, scorer(Head()(world.snapshot().features)))


def half(world: VoxelMap, stamp_ns: int) -> int:
    """A frame that hits the left half of the wide map; how many voxels."""
    depth = np.full((120, 120), 2.0, np.float32)
    depth[:, 60:] = 0
    observed = frame(depth, camera=np.diag([40.0, 40.0, 1.0]), stamp_ns=stamp_ns)
    return world.integrate(observed, FeatureMap(torch.randn(5, 30, 30))).voxels


def test_frames_that_change_half_of_the_map_do_not_hold_up_a_question():
    """The head is slow: while it makes vectors of one step, a frame comes."""
    world, head, stamps = wide_map(), Head(), iter(range(1, 1000))

    def slow(means):
        if frames_come:
            half(world, next(stamps))
        return head(means)

    view, frames_come = MapView(slow, 3, exact=True), True
    ask(view, world)
    assert head.rows == len(world), "a first question makes each vector once"
    head.rows, frames_come = 0, False
    ask(view, world)
    frames_come = True
    changed = half(world, next(stamps))
    asked, head.rows = world.geometry(), 0
    geometry, scores = ask(view, world)
    assert head.rows == changed < len(world), "of what was old when the question came"
    assert (geometry.last_seen_ns >= asked.last_seen_ns).all(), "as it was then, or newer"
    frames_come = False
    assert not torch.equal(ask(view, world)[1], scores), "and the next question gets the rest"
    torch.testing.assert_close(ask(view, world)[1], scorer(head(world.snapshot().features)))


def test_voxels_that_move_in_the_table_while_a_question_is_answered_are_in_the_answer():
    world, head = wide_map(), Head()

    def slow(means):
        if not head.rows:
            world.clear_box((-9, -9, -9), (9, 0.0, 9))  # the last ones move into the holes
        return head(means)

    before = len(world)
    geometry, scores = ask(MapView(slow, 3, exact=True), world)
    assert len(world) < before
    assert_same_geometry(geometry, world.geometry())
    torch.testing.assert_close(scores, scorer(head(world.snapshot().features)))


def test_callers_share_what_is_made_and_one_with_a_deadline_waits_for_nobody():
    world, head, entered, go_on = wide_map(), Head(), threading.Event(), threading.Event()

    def held(means):
        entered.set()
        assert go_on.wait(PATIENCE)
        return head(means)

    view, lock = MapView(held, 3), threading.Lock()
    left: list[int] = []
    callers = [
        threading.Thread(target=lambda: left.append(view.catch_up(world, lock))) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    assert entered.wait(PATIENCE)
    assert view.catch_up(world, lock, deadline=time.monotonic() + 0.01) == len(world)
    assert view.share(world) == 0 and len(view.scored(0.05, scorer, 4)[0]) == 0
    go_on.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert left == [0] * 4
    assert len(world) <= head.rows <= len(world) + 3 * STEP_ROWS, "together, not each for itself"


def test_a_step_is_no_longer_than_the_time_that_is_left(monkeypatch):
    world, head, sizes, now = wide_map(), Head(), [], [0.0]
    monkeypatch.setattr("radseg_ros.voxels.view.time.monotonic", lambda: now[0])

    def slow(means):
        sizes.append(len(means))
        now[0] += len(means) / 1024
        return head(means)

    view = MapView(slow, 3)
    assert view.catch_up(world, threading.Lock(), deadline=3.0) == len(world) - 3072
    assert sizes == [STEP_ROWS, 3072 - STEP_ROWS], "of a pace it learns of with the first"


def test_what_is_given_up_while_vectors_are_made_is_left_to_the_next_question():
    world, head = wide_map(), Head()

    def given_up(means):
        if not head.rows:
            view.clear()
        return head(means)

    view = MapView(given_up, 3, exact=True)
    life = view.life
    assert view.catch_up(world, threading.Lock()) == len(world) - STEP_ROWS
    assert head.rows == STEP_ROWS and view.life != life, "its memory is wanted for something else"
    assert view.nbytes == 0 and not len(view.scored(world.voxel_size, scorer, len(TEXTS))[0])
    geometry, _ = ask(view, world)
    assert_same_geometry(geometry, world.geometry())


def test_old_vectors_are_renewed_for_a_while_and_voxels_without_one_are_waited_for():
    world, head = wide_map(), Head()
    view = MapView(head, 3)
    ask(view, world)
    changed = half(world, 1)
    stats = world.integrate(frame(1.0, stamp_ns=2), FeatureMap(torch.ones(5, 1, 1)))
    head.rows = 0
    left = view.catch_up(world, threading.Lock(), renew=0.0)
    assert left == 0 and stats.new_voxels < head.rows <= 2 * STEP_ROWS < changed
    geometry, _ = view.scored(world.voxel_size, scorer, len(TEXTS))
    assert len(geometry) == len(world)
    everything = rows(world.snapshot()).keys()
    assert {tuple(index) for index in geometry.index.tolist()} == everything
    ask(view, world)
    assert head.rows >= changed, "the next one, with more time, gets the rest"


def test_the_time_for_renewing_begins_when_new_voxels_have_their_vectors(monkeypatch):
    world, head, now = wide_map(), Head(), [0.0]
    monkeypatch.setattr("radseg_ros.voxels.view.time.monotonic", lambda: now[0])
    world.clear()
    half(world, 0)

    def slow(means):
        now[0] += len(means) / 1024
        return head(means)

    view = MapView(slow, 3)
    ask(view, world)
    depth = np.full((120, 120), 2.0, np.float32)
    observed = frame(depth, camera=np.diag([40.0, 40.0, 1.0]), stamp_ns=1)
    new = world.integrate(observed, FeatureMap(torch.randn(5, 30, 30))).new_voxels
    head.rows = 0
    view.catch_up(world, threading.Lock(), renew=1.0)
    steps = -(-new // STEP_ROWS)
    assert head.rows == (steps + 1) * STEP_ROWS < len(world), "one step more than for what is new"


def test_a_question_does_not_wait_for_voxels_that_come_after_it():
    world, head, shifts = wide_map(), Head(), iter(range(1, 100))

    def slow(means):
        T = np.eye(4)
        T[2, 3] = next(shifts)
        world.integrate(frame(2.0, T), FeatureMap(torch.ones(5, 1, 1)))
        return head(means)

    before = len(world)
    view = MapView(slow, 3)
    assert view.catch_up(world, threading.Lock()) == 0
    assert head.rows == before < len(world)
    assert len(view.scored(world.voxel_size, scorer, len(TEXTS))[0]) == before


class Announced:
    """A lock that says when it was let go."""

    def __init__(self) -> None:
        self.lock, self.free = threading.Lock(), threading.Event()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.lock.release()
        self.free.set()


def test_what_was_copied_before_a_question_came_and_is_being_made_is_not_new_enough_for_it():
    world, head, entered, go_on = wide_map(), Head(), threading.Event(), threading.Event()

    def held(means):
        entered.set()
        assert go_on.wait(PATIENCE)
        return head(means)

    view, planned = MapView(held, 3), Announced()
    first = threading.Thread(target=lambda: view.catch_up(world, threading.Lock()))
    first.start()
    assert entered.wait(PATIENCE)
    half(world, 5)
    asked = world.geometry()
    second = threading.Thread(target=lambda: view.catch_up(world, planned))
    second.start()
    assert planned.free.wait(PATIENCE)
    go_on.set()
    for caller in (first, second):
        caller.join(PATIENCE)
    geometry, _ = view.scored(world.voxel_size, scorer, len(TEXTS))
    assert_same_geometry(geometry, asked)


def test_never_copied_voxels_come_before_old_ones():
    world, head = wide_map(), Head()
    view = MapView(head, 3)
    ask(view, world)
    half(world, 1)
    stats = world.integrate(frame(1.0, stamp_ns=2), FeatureMap(torch.ones(5, 1, 1)))
    view.catch_up(world, threading.Lock(), deadline=0.0)  # one short step
    geometry, _ = view.scored(world.voxel_size, scorer, len(TEXTS))
    assert (geometry.last_seen_ns == 2).sum() == LEAST_ROWS <= stats.new_voxels


def test_the_lock_is_free_while_vectors_are_made():
    world, lock = wide_map(), threading.Lock()

    def transform(means):
        assert not lock.locked()
        return means[:, :3]

    view = MapView(transform, 3)
    assert view.catch_up(world, lock) == 0


def test_questions_and_frames_at_once_end_with_the_right_answers():
    world, lock, head = make_map(0.2, 5), threading.Lock(), Head()
    view, errors = MapView(head, 3, exact=True), []

    def asking():
        try:
            for _ in range(15):
                view.catch_up(world, lock)
                geometry, scores = view.scored(world.voxel_size, scorer, len(TEXTS), "q")
                assert len(geometry) == len(scores)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(30):
        with lock:
            grown(world, step)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not errors
    geometry, scores = ask(view, world, "q")
    assert_same_geometry(geometry, world.geometry())
    torch.testing.assert_close(scores, scorer(head(world.snapshot().features)))


# ---- a copy at one moment ------------------------------------------------------------------------


class FramesBetween:
    """A lock; whenever it is let go, frames come, a number of times."""

    def __init__(self, world: VoxelMap, times: int) -> None:
        self.world, self.times, self.moments = world, times, {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        if self.times:
            self.times -= 1
            grown(self.world, len(self.moments) + 1)
            self.moments[self.world.last_stamp_ns] = rows(self.world.snapshot())


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3, 20])
def test_a_frozen_copy_is_the_map_at_one_moment_while_frames_come(monkeypatch, times):
    world = wide_map()
    monkeypatch.setattr("radseg_ros.voxels.voxel_map.COPY_BYTES", 1500 * 4 * 5)
    lock = FramesBetween(world, times)
    copy = world.frozen(lock)
    assert lock.times < times, "no frame came while copying"
    found, expected = rows(copy.snapshot()), lock.moments[copy.last_stamp_ns]
    assert found.keys() == expected.keys()
    for index, row in expected.items():
        np.testing.assert_array_equal(found[index], row)


def test_a_frozen_copy_ends_however_fast_frames_come(monkeypatch):
    world, steps = wide_map(), []
    monkeypatch.setattr("radseg_ros.voxels.voxel_map.COPY_BYTES", 1500 * 4 * 5)
    monkeypatch.setattr("radseg_ros.voxels.voxel_map.PAUSE", 0.0)
    whole = frame(np.full((120, 120), 2.0, np.float32), camera=np.diag([40.0, 40.0, 1.0]))

    class Changed:
        """A lock; before anybody has it, a frame has changed every voxel."""

        def __enter__(self) -> None:
            steps.append(world.integrate(whole, FeatureMap(torch.ones(5, 30, 30))).voxels)
            assert len(steps) < 50, "the copy does not end"

        def __exit__(self, *error: object) -> None:
            pass

    copy = world.frozen(Changed())
    assert min(steps) == len(world), "all of it, each time"
    kept, there = copy.table.state(), world.table.state()
    assert kept.keys() == there.keys() and all(torch.equal(kept[n], there[n]) for n in there)


# ---- bytes with a scale --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 33, 768, 1152])
def test_scaled_bytes_are_near(width):
    torch.manual_seed(0)
    vectors = normalize(torch.randn(500, width), dim=1)
    store = ScaledBytes(width, torch.device("cpu"), 64)
    store.resize(500)
    order = torch.randperm(500)
    store.write(order, vectors[order])
    again = store.rows(torch.arange(500))
    cosine = (normalize(again, dim=1) * vectors).sum(1)
    assert again.shape == vectors.shape and (1 - cosine).max() < 1e-3
    texts = normalize(torch.randn(20, width), dim=1)
    assert (again @ texts.T - vectors @ texts.T).abs().max() < (1e-3 if width >= NARROW else 1e-2)
    assert store.nbytes < 500 * (width + 32) * 1.3


def test_scaled_bytes_of_odd_numbers_stay_finite():
    store = ScaledBytes(4, torch.device("cpu"), 64)
    store.resize(3)
    odd = torch.tensor([[0.0, 0, 0, 0], [1e-12, 0, 0, 0], [6e4, -6e4, 1, 0]])
    store.write(torch.arange(3), odd)
    again = store.rows(torch.arange(3))
    assert again.isfinite().all() and (again[0] == 0).all()
    torch.testing.assert_close(again[2], odd[2], atol=6e4 / 200, rtol=0)


# ---- what is kept, and how much at a time --------------------------------------------------------


def test_an_empty_answer_has_no_row_anywhere():
    world = make_map(0.2, 5)
    geometry, _ = ask(MapView(Head(), 3), world)
    assert_same_geometry(geometry, world.geometry())


def test_scores_of_the_last_questions_are_kept_and_of_earlier_ones_not():
    world, view, scored = make_map(0.2, 5), MapView(Head(), 3), []
    grown(world, 0)

    def counting(vectors):
        scored.append(len(vectors))
        return scorer(vectors)

    def rows_scored(question) -> int:
        scored.clear()
        view.catch_up(world, threading.Lock())
        view.scored(world.voxel_size, counting, len(TEXTS), question)
        return sum(scored)

    everything = len(world)
    assert [rows_scored(q) for q in "aabbab"] == [everything, 0, everything, 0, 0, 0]
    assert [rows_scored(q) for q in "cb"] == [everything, 0], "b was asked later than a"
    assert rows_scored("a") == everything
    assert [rows_scored(None), rows_scored(None)] == [everything] * 2
    stats = world.integrate(*random_frame(np.random.default_rng(1)))
    assert rows_scored("a") == stats.voxels and rows_scored("b") == stats.voxels
    view.clear()
    assert view.nbytes == 0 and rows_scored("a") == len(world)


@pytest.mark.parametrize("room", [0, -1])
def test_scores_too_many_to_keep_are_made_again(monkeypatch, room):
    world, view, calls = make_map(0.2, 5), MapView(Head(), 3), []
    grown(world, 0)
    monkeypatch.setattr("radseg_ros.voxels.view.KEPT_SCORES_MOST", 4 * len(world) + room)
    ask(view, world, "q")
    view.scored(0.2, lambda vectors: calls.append(len(vectors)) or scorer(vectors), 4, "q")
    assert sum(calls) == (len(world) if room else 0)


def test_answers_that_are_given_away_do_not_change_those_that_are_kept():
    world, view = make_map(0.2, 5), MapView(Head(), 3)
    grown(world, 0)
    _, scores = ask(view, world, "q")
    before = scores.clone()
    scores.zero_()
    assert torch.equal(ask(view, world, "q")[1], before)


@pytest.mark.parametrize(("channels", "rows_at_once"), [(5, 2048), (2048, 1024), (40_000, 64)])
def test_a_step_copies_so_many_rows_that_the_lock_is_short(channels, rows_at_once):
    world, sizes = make_map(0.05, channels), []
    side = {5: 120, 2048: 64, 40_000: 16}[channels]
    depth = np.full((side, side), 2.0, np.float32)
    observed = frame(depth, camera=np.diag([20.0, 20.0, 1.0]))
    world.integrate(observed, FeatureMap(torch.ones(channels, 1, 1)))

    def transform(means):
        sizes.append(len(means))
        return means[:, :3]

    MapView(transform, 3).catch_up(world, threading.Lock())
    assert len(world) > rows_at_once == max(sizes) and sum(sizes) == len(world)
    sizes.clear()
    scored_directly(world, threading.Lock(), transform, scorer, len(TEXTS))
    assert max(sizes) == rows_at_once and sum(sizes) == len(world)


@pytest.mark.parametrize("width", [3, 600])
@pytest.mark.parametrize("exact", [True, False])
def test_the_memory_that_a_view_will_take_is_known_before(width, exact):
    world = wide_map()
    view = MapView(lambda means: means[:, :1].expand(-1, width), width, exact)
    assert view.nbytes == 0 and view.share(world) == 0
    view.catch_up(world, threading.Lock())
    assert view.share(world) == 1 and view.share(make_map(0.2, 5)) == 1
    assert view.nbytes <= view.nbytes_for(len(world), world.device) <= 1.35 * view.nbytes
    assert view.nbytes_for(0, world.device) == 0


def test_a_sample_is_spread_over_all_rows():
    assert spread(10, 4).tolist() == [0, 2, 5, 7]
    assert spread(4, 4).tolist() == spread(4, 9).tolist() == [0, 1, 2, 3]
    assert spread(0, 4).tolist() == []
