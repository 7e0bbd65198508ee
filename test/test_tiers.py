# SPDX-License-Identifier: Apache-2.0
"""Maps of two tiers: what was seen lately in full, the rest in codes."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import assert_same, make_map, random_frame, rows
from waiting import PATIENCE

from radseg_ros.config import MapConfig
from radseg_ros.datatypes import ConfigError
from radseg_ros.voxels import voxel_map
from radseg_ros.voxels.coding import tiered
from radseg_ros.voxels.coding.tiered import TieredVectors
from radseg_ros.voxels.joining.moving import moved
from radseg_ros.voxels.map_file import load_map, read_geometry, save_map
from radseg_ros.voxels.view import MapView, ProductScorer, scored_from_codes
from radseg_ros.voxels.voxel_map import VoxelMap

CPU = torch.device("cpu")
WIDTH, HOT = 16, 24
KINDS = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))


def near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether vectors are those that were put in, as far as codes can tell."""
    return bool((torch.cosine_similarity(found, wanted) > 0.99).all()) and bool(
        ((found.norm(dim=1) / wanted.norm(dim=1)).log2().abs() < 0.5).all()
    )


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**31))
def test_tiers_are_one_array_of_sums(seed):
    rng = np.random.default_rng(seed)
    tiers = TieredVectors(WIDTH, CPU, 8, HOT, 4)
    kind = np.arange(HOT) % len(KINDS)  # of each voxel; all are known when a codec is learnt
    hits = np.ones(HOT, np.int64)
    tiers.resize(HOT)
    ones, none = torch.ones(HOT, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    tiers.add(torch.arange(HOT), ones * 0, ones, lambda a, b: KINDS[torch.from_numpy(kind[a:b])])
    tiers.add(none, none, none, lambda a, b: KINDS[:0])

    def check() -> None:
        order = torch.from_numpy(rng.permutation(len(hits)))
        counts = torch.from_numpy(hits)
        wanted = KINDS[torch.from_numpy(kind)]
        assert near(tiers.means(order, counts[order]), wanted[order])
        assert near(tiers.sums(order, counts[order]), wanted[order] * counts[order, None])
        assert near(tiers.all_means(counts), wanted)
        again = TieredVectors(WIDTH, CPU, 8, HOT, 4)
        again.resize(len(hits))
        again.load(tiers.state(), counts)
        assert near(again.all_means(counts), wanted)
        hot = tiers._row.data.long()
        slots = (hot >= 0).nonzero()[:, 0]
        assert torch.equal(tiers._slot[hot[slots]].long(), slots), "each row knows its voxel"
        assert int((tiers._slot >= 0).sum()) == len(slots) <= HOT

    for _ in range(10):
        what = rng.choice(["grow", "add", "take back", "take away", "shrink", "move"])
        some = np.sort(rng.permutation(len(hits))[: rng.integers(0, len(hits) + 1)])
        if what == "grow":
            length = len(hits) + int(rng.integers(1, HOT))
            some = np.arange(len(hits), length)
            tiers.resize(length)
            kind = np.concatenate([kind, rng.integers(0, len(KINDS), len(some))])
            hits = np.concatenate([hits, np.zeros(len(some), np.int64)])
        if what in ("grow", "add", "take back", "take away"):
            added = torch.from_numpy(rng.integers(1, 4, len(some)))
            mean = KINDS[torch.from_numpy(kind[some])]
            give = lambda a, b, m=mean, n=added: m[a:b] * n[a:b, None]  # noqa: E731
            before = torch.from_numpy(hits[some])
            if what == "take back" and len(some):
                with pytest.raises(MemoryError):
                    tiers.add(
                        torch.from_numpy(some), before, added, partial(until, give, len(some))
                    )
                continue
            tiers.add(torch.from_numpy(some), before, added, give)
            if what == "take away":
                less = lambda a, b, give=give: -give(a, b)  # noqa: E731
                tiers.add(torch.from_numpy(some), before + added, -added, less)
            else:
                hits[some] += added.numpy()
        elif what == "shrink":
            length = int(rng.integers(0, len(hits) + 1))
            tiers.resize(length)
            kind, hits = kind[:length], hits[:length]
        elif what == "move":
            source, target = np.array_split(rng.permutation(some)[: len(some) // 2 * 2], 2)
            source, target = np.sort(source), np.sort(target)
            tiers.moving(torch.from_numpy(source), torch.from_numpy(target))()
            kind[target], hits[target] = kind[source], hits[source]
            keep = np.setdiff1d(np.arange(len(hits)), source)  # they go, as in VoxelTable.remove
            tail = keep[keep >= len(keep)]
            holes = np.setdiff1d(np.arange(len(keep)), keep)
            tiers.moving(torch.from_numpy(tail), torch.from_numpy(holes))()
            kind[holes], hits[holes] = kind[tail], hits[tail]
            tiers.resize(len(keep))
            kind, hits = kind[: len(keep)], hits[: len(keep)]
        assert len(tiers) == len(hits)
        check()


@pytest.mark.slow
def test_learning_goes_on_where_things_look_different():
    tiers = TieredVectors(64, CPU, 64, 512, 16)
    random = torch.Generator().manual_seed(5)
    shown = []
    for _ in range(6):
        things = torch.randn(12, 64, generator=random) * 3
        for _ in range(20):
            which = torch.randint(12, (40,), generator=random)
            shown.append(things[which] + torch.randn(40, 64, generator=random) / 10)
            slots = len(tiers) + torch.arange(40)
            tiers.resize(len(tiers) + 40)
            one = torch.ones(40, dtype=torch.int64)
            for before in range(2):
                tiers.add(slots, one * before, one, lambda a, b: shown[-1][a:b])
    means = torch.cat(shown)
    assert 2 < len(tiers.codecs.all) < 12
    found = tiers.all_means(torch.ones(len(means)))
    assert torch.cosine_similarity(found, means).mean() > 0.97, "with the first codec it is 0.6"


def walk(seed: int = 0, steps: int = 12, channels: int = 24):
    """Frames of a world whose vectors are of a few kinds."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(3).normal(size=(5, channels)).astype(np.float32)
    for step in range(steps):
        frame, features = random_frame(rng, stamp_ns=step, channels=channels)
        which = torch.from_numpy(kinds[rng.integers(0, 5, features.data.shape[1:])])
        features.data.mul_(0.2).add_(which.permute(2, 0, 1))
        yield frame, features


def mapped(hot: int, seed: int = 0, steps: int = 12, **options) -> VoxelMap:
    world = make_map(0.2, 24, hot_voxels=hot, cold_share=4, **options)
    for frame, features in walk(seed, steps):
        world.integrate(frame, features)
    return world


def alike(found: VoxelMap, wanted: VoxelMap) -> None:
    """The same voxels, and vectors as near as codes of 1/4 are."""
    left, right = rows(found.snapshot()), rows(wanted.snapshot())
    assert left.keys() == right.keys() and len(left) > 100
    a = np.stack([left[key] for key in right])
    b = np.stack(list(right.values()))
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-5)
    near = torch.cosine_similarity(torch.from_numpy(a[:, 4:]), torch.from_numpy(b[:, 4:]))
    assert near.mean() > 0.95 and near.min() > 0.5


HALF = 600


@pytest.mark.slow
def test_codes_answer_without_being_decoded():
    world, lock = mapped(HALF), threading.Lock()
    wanted = torch.nn.functional.normalize(torch.randn(7, 24), dim=1)
    scorer = ProductScorer(wanted, torch.clone)
    geometry, found = scored_from_codes(world, lock, scorer, 7)
    size = world.table.vectors.all_means(world.table["hits"])
    expected = torch.nn.functional.normalize(size, dim=1) @ wanted.T
    near = (found - expected).abs()
    assert near.mean() < 0.01 and near.max() < 0.3, "a code is a little shorter than its vector"
    hot = world.table.vectors._row.data >= 0
    torch.testing.assert_close(found[hot], expected[hot], atol=1e-5, rtol=0)
    known = world.geometry()
    assert geometry.index.equal(known.index) and geometry.rgb.equal(known.rgb)
    some, _ = scored_from_codes(world, lock, scorer, 7, deadline=0.0)
    assert 0 < len(some) <= len(known), "what there was time for"
    assert not len(scored_from_codes(make_map(0.2, 24, hot_voxels=9), lock, scorer, 7)[0])


def test_a_map_in_tiers_is_nearly_the_map_and_takes_less():
    tiers, whole = mapped(HALF), mapped(0)
    assert not tiers.table.vectors.exact and len(whole) > 2 * HALF
    alike(tiers, whole)
    hot = (tiers.table.vectors._row.data >= 0).nonzero()[:, 0]
    assert 0 < len(hot) <= HALF
    newest = tiers.table["last_seen_ns"].max()
    seen = (tiers.table["last_seen_ns"] == newest).nonzero()[:, 0]
    assert bool(torch.isin(seen, hot).all()), "what the last frame saw is in full"


def test_a_small_map_is_exact_and_can_be_corrected():
    tiers, whole = mapped(10_000), mapped(0)
    assert_same(tiers.snapshot(), whole.snapshot())
    assert tiers.is_sum and not mapped(HALF).is_sum


@pytest.mark.slow
def test_one_recording_makes_one_map():
    a, b = mapped(HALF), mapped(HALF)
    assert a.table.state()["codes"].equal(b.table.state()["codes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"carve_after": 1}, {"max_voxels": 700}, {"forget_after": 5e-9}],
    ids=lambda options: next(iter(options)),
)
def test_what_goes_from_a_map_goes_from_both_tiers(options):
    tiers, whole = mapped(300, **options), mapped(0, **options)
    assert not tiers.table.vectors.exact
    alike(tiers, whole)
    assert tiers.clear_box((-1, -1, -1), (0, 1, 1)) == whole.clear_box((-1, -1, -1), (0, 1, 1)) > 0
    alike(tiers, whole)


@pytest.mark.slow
def test_bounds_leave_half_to_what_is_cold():
    world = mapped(100_000, max_bytes=200_000)
    assert world.nbytes <= 200_000 and len(world) > 100
    assert len(world.table.vectors._slot) == 200_000 // (2 * 24 * 4)


@pytest.mark.slow
@pytest.mark.parametrize("hot", [HALF, 10_000])
def test_files_keep_codes(tmp_path, hot):
    world, path = mapped(hot), tmp_path / "a.radmap"
    save_map(path, world)
    loaded, _ = load_map(path)
    alike(loaded, world)
    full, _ = load_map(path, config=MapConfig(voxel_size=0.2))
    alike(full, world)
    assert read_geometry(path)[0].hits.sum() == world.table["hits"].sum()
    for frame, features in walk(seed=1, steps=2):
        for other in (loaded, full, world):
            other.integrate(frame, features)
    alike(loaded, full)
    alike(world, full)
    save_map(path, full)
    alike(load_map(path, config=world.config)[0], full)
    save_map(path, world, share=4)
    alike(load_map(path)[0], world)


@pytest.mark.slow
@pytest.mark.parametrize("mine", [0, HALF])
@pytest.mark.parametrize("theirs", [0, HALF])
def test_maps_merge_and_move_whatever_their_tiers(mine, theirs):
    whole, other = mapped(0), mapped(0, seed=1)
    whole.merge(other)
    joined = mapped(mine)
    joined.merge(mapped(theirs, seed=1))
    alike(joined, whole)
    shift = np.eye(4)
    shift[:3, 3] = 0.4
    alike(moved(joined, shift), moved(whole, shift))


@pytest.mark.slow
@pytest.mark.parametrize("hot", [HALF, 10_000])
def test_a_frozen_copy_is_the_map(hot, monkeypatch):
    world, lock = mapped(hot, steps=6), threading.Lock()
    frames, real = walk(seed=1, steps=8), type(world.table).follow

    def follow(copy, other, most):
        left = real(copy, other, most)
        for frame in itertools.islice(frames, 1):  # mapping goes on between two steps
            world.integrate(*frame)
            left = sys.maxsize
        return left

    monkeypatch.setattr(type(world.table), "follow", follow)
    monkeypatch.setattr(voxel_map, "COPY_BYTES", 1)
    alike(world.frozen(lock), world)


def test_a_failure_leaves_the_map_as_it_was(monkeypatch):
    world = mapped(HALF)
    before, frame = world.snapshot(), list(walk(seed=2, steps=1))[0]

    add = world.table.vectors.add

    def fail(slots, before, added, sums):
        add(slots, before, added, partial(until, sums, len(slots)))

    monkeypatch.setattr(world.table.vectors, "add", fail)
    with pytest.raises(MemoryError):
        world.integrate(*frame)
    left, right = rows(world.snapshot()), rows(before)
    assert left.keys() == right.keys()
    a, b = (np.stack([side[key][4:] for key in right]) for side in (left, right))
    near = torch.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b))
    assert near.mean() > 0.99 and near.min() > 0.6


def until(sums, end, start, stop):
    """Sums of all rows but the last ones, for which there is no memory."""
    if stop == end:
        raise MemoryError
    return sums(start, stop)


@pytest.mark.slow
def test_a_lesson_that_fails_is_learnt_when_it_is_needed(monkeypatch):
    real, calls = tiered.VectorCodec.learn, []

    def learn(*words):
        calls.append(words)
        if len(calls) == 1:
            raise MemoryError
        return real(*words)

    monkeypatch.setattr(tiered.VectorCodec, "learn", learn)
    alike(mapped(HALF), mapped(0))
    assert len(calls) > 1


@pytest.mark.slow
def test_a_robot_waits_for_no_codec(monkeypatch):
    """Those that are being learnt are never ready, until all is seen."""
    may_end, real = threading.Event(), tiered.VectorCodec.learn

    def learn(*words, haste=False):
        assert haste or may_end.wait(PATIENCE)
        return real(*words, haste=haste)

    monkeypatch.setattr(tiered.VectorCodec, "learn", learn)
    world, frames = make_map(0.2, 24, hot_voxels=HALF, cold_share=4), walk(steps=14)
    for frame, features in itertools.islice(frames, 12):
        world.integrate(frame, features, patient=False)
    vectors = world.table.vectors
    assert len(vectors.codecs.all) == 1 and len(world) > 2 * HALF
    alike(world, mapped(0))
    may_end.set()
    vectors._lesson._thread.join()
    for frame, features in frames:
        world.integrate(frame, features, patient=False)
    assert len(vectors.codecs.all) == 2
    alike(world, mapped(0, steps=14))


def test_what_is_coded_ahead_and_hit_again_is_exact():
    tiers, count = TieredVectors(WIDTH, CPU, 8, HOT, 4), HOT * 3 // 4
    slots, one = torch.arange(count), torch.ones(count, dtype=torch.int64)
    some = KINDS[slots % len(KINDS)] + torch.randn(count, WIDTH, generator=torch.Generator()) / 9
    tiers.resize(count)
    tiers.add(slots, one * 0, one, lambda a, b: some[a:b])
    tiers._follow_up()
    tiers._code(slots)
    assert bool(tiers._coded.any()) and not tiers.exact
    assert torch.equal(tiers.means(slots, one), some), "rows stay as they are"
    tiers.add(slots, one, one, lambda a, b: 3 * some[a:b])
    torch.testing.assert_close(tiers.means(slots, one), 2 * some)
    assert not bool(tiers._coded.any())
    state = tiers.state()["codes"]
    assert near(tiers.codecs.decode(state), 2 * some), "the code of before is not said"


def test_vectors_without_a_direction_can_be_coded():
    tiers, nothing = TieredVectors(WIDTH, CPU, 8, 4, 4), torch.zeros(12, WIDTH)
    for patient in (True, False):
        tiers.patient = patient
        for first in range(0, 12, 2):
            slots, one = torch.arange(first, first + 2), torch.ones(2, dtype=torch.int64)
            tiers.resize(max(len(tiers), first + 2))
            tiers.add(slots, one * 0, one, lambda a, b: nothing[a:b])
    assert torch.equal(tiers.means(torch.arange(12)), nothing)


def test_what_cannot_be_in_tiers_is_refused():
    with pytest.raises(ConfigError, match="1/16"):
        make_map(0.2, 5, hot_voxels=100)
    with pytest.raises(ConfigError, match="float32"):
        MapConfig(hot_voxels=100, dtype="float16")
    with pytest.raises(ConfigError, match="probabilities"):
        MapConfig(hot_voxels=100, space="probability", labels=["a"])
    with pytest.raises(ConfigError, match="no room"):
        make_map(0.2, 24, hot_voxels=100, max_bytes=100)


@pytest.mark.slow
def test_questions_keep_codes_of_a_map_in_codes():
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(1)))[0]
    head = lambda means: torch.nn.functional.normalize(means @ turn, dim=1)  # noqa: E731
    view, world, lock = (
        MapView(head, 24, code_bytes=24),
        mapped(2 * HALF, steps=4),
        threading.Lock(),
    )
    scorer = ProductScorer(torch.nn.functional.normalize(torch.randn(7, 24), dim=1), torch.clone)

    def near() -> torch.Tensor:
        wanted = scorer(head(world.snapshot().features))
        return (view.scored(0.2, scorer, 7)[1] - wanted).abs()

    assert world.table.vectors.exact and not view.catch_up(world, lock)
    assert near().max() < 2e-3, "as bytes: nothing is in codes yet"
    for frame, features in walk(seed=1):
        world.integrate(frame, features)
    assert not world.table.vectors.exact
    assert not view.catch_up(world, lock, deadline=time.monotonic() + PATIENCE)
    assert near().mean() < 2e-3, "a codec is not learnt while somebody waits"
    before = view.nbytes
    assert view.catch_up(world, lock, ahead=1) == 0
    world.clear_box((-1, -1, -1), (0, 1, 1))
    view.catch_up(world, lock)
    assert view.nbytes < before and 0 < near().mean() < 0.02
    changes = view.changes(-1, 0.2, scorer, 7)
    assert changes.scores.equal(view.scored(0.2, scorer, 7)[1])
    assert view.sample(50).shape == (50, 24)
    view.clear()
    assert not view.catch_up(world, lock) and 0 < near().mean() < 0.02, "codes at once"
