# SPDX-License-Identifier: Apache-2.0
"""Ages of voxels under stamps that jump, and a map that survives any failure while it is fused."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from small_worlds import frame, make_map, pose, random_frame, rows

from radseg_ros.voxels.clock import LARGE_STEP_NS, MapClock
from radseg_ros.voxels.map_file import load_map, save_map
from radseg_ros.voxels.voxel_map import VoxelMap

SECOND = 10**9
FAR = (2**31 - 10) * SECOND  # the last that a message can say
JUMPS = {
    "set back": [0, 1, 2, 3, -50, -49, -48, -47],
    "looped bag": [100, 101, 102, 100, 101, 102, 100, 101],
    "one far-future stamp": [0, 1, FAR / SECOND, 2, 3, 4, 5, 6],
    "starts in the future": [FAR / SECOND, 0, 1, 2, 3, 4, 5, 6],
    "one stamp of zero": [100, 101, 0, 102, 103, 104, 105, 106],
    "two clocks by turns": [0, 1000, 1, 1001, 2, 1002, 3, 1003],
    "set back twice": [100, 101, 50, 51, 52, 0, 1, 2],
    "set right at last": [0, 1, 1.7e9, 1.7e9 + 1, 1.7e9 + 2, 1.7e9 + 3, 1.7e9 + 4, 1.7e9 + 5],
    "a frame every two hours": [7200 * i for i in range(8)],
}


def read(stamps: list[float]) -> list[float]:
    """The clock, in s after the first, after each of ``stamps`` (s)."""
    clock, times = MapClock(), []
    for stamp in stamps:
        clock = clock.at(round(stamp * SECOND))
        times.append(clock.now_ns)
    return [(time - times[0]) / SECOND for time in times]


def test_the_clock_adds_up_steps_and_ignores_steps_back():
    assert read([5, 6, 8, 8, 9]) == [0, 1, 3, 3, 4]
    assert read([5, 6, -100, -99, -97]) == [0, 1, 1, 2, 4]


def test_frames_of_a_camera_that_comes_late_age_nothing():
    assert read([5, 6, 5.5, 7, 6.5, 8, 7]) == [0, 1, 1, 2, 2, 3, 3]
    assert read([5, 6, 4.9, 5.9]) == [0, 1, 1, 2], "more than a second is no delay"


def test_a_large_step_counts_when_it_is_confirmed():
    large = LARGE_STEP_NS / SECOND * 2
    assert read([0, 1, 1 + large, 2 + large]) == [0, 1, 1, 2 + large]
    assert read([0, 1, 1 + large, 2, 3]) == [0, 1, 1, 1, 2]
    assert read([0, large, 2 * large, 3 * large]) == [0, 0, large, 2 * large]  # one step behind


def walk(world: VoxelMap, stamps: list[float]) -> list:
    """A robot that sees a new stretch of wall in every frame; what each frame did."""
    stats = []
    for i, stamp in enumerate(stamps):
        T = np.eye(4)
        T[0, 3] = 10.0 * i
        made = random_frame(np.random.default_rng(i), stamp_ns=round(stamp * SECOND))[1]
        stats.append(world.integrate(frame(2.0, T, stamp_ns=round(stamp * SECOND)), made))
    return stats


@pytest.mark.slow
@pytest.mark.parametrize("stamps", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize(
    "bounds",
    [
        {"forget_after": 2.5},
        {"max_voxels": 200},
        {"max_bytes": 40_000},
        {"max_voxels": 200, "evict": "farthest"},
        {"forget_after": 2.5, "max_voxels": 200},
    ],
    ids=str,
)
def test_new_frames_stay_whatever_their_stamps_do(stamps, bounds):
    world = make_map(0.2, 5, **bounds)
    for i, stats in enumerate(walk(world, stamps)):
        assert stats.voxels == stats.new_voxels > 0
        seen = world.geometry().xyz[:, 0]
        if i:
            assert float(seen.max()) > 10.0 * i - 5, f"frame {i} was given up at once"
    order = world.geometry().xyz[:, 0]
    assert float(order.min()) > 5, "the first frames are the ones to go"


def test_without_jumps_voxels_are_forgotten_by_their_stamps(tmp_path):
    world = make_map(0.2, 5, forget_after=2.5)
    walk(world, [0, 1, 2, 3, 4])
    assert set(world.table["last_seen_ns"].tolist()) == {2 * SECOND, 3 * SECOND, 4 * SECOND}
    save_map(tmp_path / "a.radmap", world)
    again, _ = load_map(tmp_path / "a.radmap")
    for each in (world, again):
        each.integrate(
            frame(np.nan, stamp_ns=5 * SECOND), random_frame(np.random.default_rng(0))[1]
        )
    assert rows(again.snapshot()).keys() == rows(world.snapshot()).keys()
    assert again.table["last_seen_ns"].min() == 3 * SECOND


@pytest.mark.parametrize("stamps", JUMPS.values(), ids=JUMPS)
def test_a_map_that_was_saved_after_a_jump_is_not_forgotten_when_it_is_loaded(tmp_path, stamps):
    world = make_map(0.2, 5, forget_after=30.0)
    walk(world, stamps)
    save_map(tmp_path / "a.radmap", world)
    again, _ = load_map(tmp_path / "a.radmap")
    for each in (world, again):
        walk_on = frame(np.nan, stamp_ns=round((stamps[-1] + 1) * SECOND))
        each.integrate(walk_on, random_frame(np.random.default_rng(0))[1])
    assert rows(world.snapshot()).keys() <= rows(again.snapshot()).keys()


class Failure(MemoryError):
    """What the tests throw into an integration."""


def state(world: VoxelMap) -> dict[str, torch.Tensor]:
    """Everything that a map holds, in the order of its keys."""
    saved = world.table.state()
    order = saved["key"].argsort()
    return {name: values[order] for name, values in saved.items()}


def assert_equal_states(a: dict, b: dict) -> None:
    for name, values in a.items():
        if name == "vectors":
            torch.testing.assert_close(values, b[name], atol=1e-4, rtol=1e-5)
        else:
            assert torch.equal(values, b[name]), name


def check_index(world: VoxelMap) -> None:
    """Every voxel is found under its key, and nothing else is."""
    key = world.table["key"]
    assert torch.equal(world.table.index.find(key), torch.arange(len(world)))
    everything = world.table.index.slots_in(
        torch.ones(len(world.table.index.brick_corner), dtype=torch.bool)
    )
    assert torch.equal(everything.sort().values, torch.arange(len(world)))


STEPS = [
    "radseg_ros.voxels.storage.allocate",
    "radseg_ros.voxels.storage.VectorBlocks.resize",
    "radseg_ros.voxels.storage.VectorBlocks._pieces",
    "radseg_ros.voxels.storage.Column._reallocate",
    "radseg_ros.voxels.storage.Column.resize",
    "radseg_ros.voxels.index.VoxelIndex.places",
    "radseg_ros.voxels.index.VoxelIndex._add_bricks",
    "radseg_ros.voxels.lifting.lift.LiftedFrame.feature_sums",
    "radseg_ros.voxels.lifting.lift.LiftedFrame.reordered",
    "radseg_ros.voxels.table.take",
    "radseg_ros.voxels.voxel_map.lift",
    "torch.sort",
    "torch.arange",
    "torch.stack",
    "torch.unique",
    "torch.where",
    "torch.Tensor.int",
]


def fail_everywhere(monkeypatch, step: str, known: VoxelMap, action) -> int:
    """Let the n-th call of ``step`` inside ``action`` fail, for every n: the map is afterwards as
    it was before, or as ``action`` makes it, and it goes on; return the number of calls.
    """
    module, _, name = step.rpartition(".")
    done = copy.deepcopy(known)
    action(done)
    before, after = state(known), state(done)
    for n in itertools.count():
        world, calls, whole = copy.deepcopy(known), itertools.count(), _resolve(step)

        def failing(*args, n=n, calls=calls, whole=whole, **kwargs):
            if next(calls) == n:
                raise Failure(step)
            return whole(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(_resolve(module), name, failing)
            try:
                action(world)
                failed = False
            except Failure:
                failed = True
        check_index(world)
        as_before = failed and len(world) == len(known)
        assert_equal_states(before if as_before else after, state(world))
        if failed:
            action(world)
            check_index(world)
            assert_equal_states(after, state(world))
        if next(calls) <= n:
            assert n > 0 or not failed
            return n
        assert n < 400, "the step never ends"
    raise AssertionError


def map_of_small_blocks(monkeypatch, seed: int = 1, **options) -> VoxelMap:
    monkeypatch.setattr("radseg_ros.voxels.table._BLOCK_ROWS", {"cpu": 64})
    rng, world = np.random.default_rng(seed), make_map(0.2, 5, **options)
    for i in range(3):
        world.integrate(*random_frame(rng, shift=0.3, stamp_ns=i))
    return world


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_inside_an_integration_leaves_the_map_before_or_after_it(
    monkeypatch, step, dtype
):
    known = map_of_small_blocks(monkeypatch, dtype=dtype)
    late = random_frame(np.random.default_rng(2), shift=0.3, stamp_ns=9)
    calls = fail_everywhere(monkeypatch, step, known, lambda world: world.integrate(*late))
    assert calls > 0, "the step is one of an integration"


@pytest.mark.slow
@pytest.mark.parametrize("step", [step for step in STEPS if ".lift." not in step])
def test_a_failure_inside_a_merge_leaves_the_map_before_or_after_it(monkeypatch, step):
    known = map_of_small_blocks(monkeypatch)
    other = map_of_small_blocks(monkeypatch, seed=2)
    fail_everywhere(monkeypatch, step, known, lambda world: world.merge(other))


REMOVAL = [
    "radseg_ros.voxels.storage.allocate",
    "radseg_ros.voxels.storage.Column._reallocate",
    "radseg_ros.voxels.storage.VectorBlocks._pieces",
    "radseg_ros.voxels.index.VoxelIndex.locate",
    "radseg_ros.voxels.table.take",
    "torch.arange",
    "torch.empty",
    "torch.full_like",
    "torch.searchsorted",
    "torch.Tensor.int",
    "torch.Tensor.nonzero",
]


@pytest.mark.parametrize("least", [64, 1])
@pytest.mark.parametrize("step", REMOVAL)
def test_a_failure_inside_a_removal_leaves_the_map_before_or_after_it(monkeypatch, step, least):
    """Whatever takes memory may fail; what takes none, as cutting a column, cannot."""
    known = map_of_small_blocks(monkeypatch)
    monkeypatch.setattr("radseg_ros.voxels.table._BLOCK_ROWS", {"cpu": least})  # of a trimmed index
    box = ((-9, -9, -9), (0.1, 9, 9))
    fail_everywhere(monkeypatch, step, known, lambda world: world.clear_box(*box))


def _resolve(path: str) -> object:
    import importlib

    parts = path.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            found = getattr(found, part)
        return found
    raise LookupError(path)


def test_what_bounds_the_map_may_fail_and_is_made_up_for(monkeypatch, caplog):
    world = make_map(0.2, 5, max_voxels=60)
    rng = np.random.default_rng(0)
    with monkeypatch.context() as patch:
        patch.setattr(type(world.table), "remove", lambda *_: (_ for _ in ()).throw(MemoryError()))
        stats = world.integrate(*random_frame(rng))
    assert stats.evicted == 0 and len(world) == stats.voxels > 60
    assert "brought within its bounds" in caplog.text
    world.integrate(frame(2.0, pose(rng)), random_frame(rng)[1])
    assert len(world) <= 60
    check_index(world)
