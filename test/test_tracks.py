# SPDX-License-Identifier: Apache-2.0
"""Things are followed: ids, missing, moved and forgotten ones, on small worlds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radseg_ros.answers import tracks as module
from radseg_ros.answers.tracks import LOOKS, Tracks
from radseg_ros.config import QueryConfig
from radseg_ros.datatypes import Frame, InputError, MapGeometry, SemanticObject
from radseg_ros.voxels.clock import MapClock

SIZE = 0.05  # m
S = 1_000_000_000
RULES = QueryConfig(threshold=0.5, hysteresis=1.0, max_objects=10)
THERE, GONE, HIDDEN, UNSEEN = 0.0, 1.0, -1.0, math.nan  # m that a frame sees beyond


def crate(x: float, y: float = 0.0, z: float = 0.0, sides: tuple[int, int, int] = (6, 6, 6)):
    """Voxels of a hollow box whose lowest corner is there (m)."""
    index = np.stack(np.unravel_index(np.arange(np.prod(sides)), sides), 1)
    shell = ((index == 0) | (index == np.array(sides) - 1)).any(1)
    return index[shell] + np.round(np.array((x, y, z)) / SIZE).astype(int)


class World:
    """A map of things that score 0.9, and what follows them."""

    def __init__(self) -> None:
        self.tracks = Tracks()
        self.clock = MapClock()
        # voxel -> first and last stamp in s, score, time of the clock in ns
        self.rows: dict[tuple, tuple] = {}

    def show(self, voxels: np.ndarray, at: float, score: float = 0.9) -> None:
        """A frame hits these voxels."""
        self.clock = self.clock.at(round(at * S))
        for voxel in map(tuple, voxels.tolist()):
            first, last, *_ = self.rows.get(voxel, (at, at))
            self.rows[voxel] = (min(first, at), max(last, at), score, self.clock.now_ns)

    def show_floor(self, x: float, y: float, at: float) -> None:
        """A frame hits the floor around a place."""
        self.show(crate(x - 0.3, y - 0.3, -SIZE, sides=(18, 18, 1)), at, score=0.1)

    def carve(self, voxels: np.ndarray) -> None:
        for voxel in map(tuple, voxels.tolist()):
            self.rows.pop(voxel, None)

    def look(self, at: float, *beyond: float) -> None:
        """A frame sees so far beyond the things; the numbers are repeated in turn."""
        image = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.float32)
        pose = np.eye(4)
        pose[:3, 3] = (0, 0, at)
        frame = Frame(round(at * S), *image, np.eye(3), pose)
        self.clock = self.clock.at(frame.stamp_ns)
        now_ns = self.clock.now_ns
        self.tracks.look(frame, lambda xyz: np.resize(np.array(beyond), len(xyz)), 0.15, now_ns)

    def ask(
        self, label: str = "crate", rules: QueryConfig = RULES, **options
    ) -> list[SemanticObject]:
        whole = torch.tensor(list(self.rows)).long().reshape(-1, 3)
        values = torch.tensor(list(self.rows.values()), dtype=torch.float64).reshape(-1, 4)
        first, last = (values[:, :2] * S).long().unbind(1)
        seen_at = values[:, 3].long()
        scores = values[:, 2].float().numpy()
        xyz = (whole * SIZE).float()
        ones = torch.ones(len(whole))
        geometry = MapGeometry(whole, xyz, xyz, ones, ones.int(), first, last, seen_at, SIZE)
        return list(self.tracks.follow(label, geometry, scores, rules, **options))


def ids(things: list[SemanticObject]) -> list[int]:
    return [thing.id for thing in things]


def missing(things: list[SemanticObject]) -> dict[int, float]:
    """Id -> s since when."""
    return {thing.id: thing.missing_since_ns / S for thing in things if thing.missing_since_ns}


@pytest.fixture
def world() -> World:
    return World()


# ---- the same thing ------------------------------------------------------------------------------


def test_a_thing_keeps_its_id_while_the_map_grows(world):
    world.show(crate(1.0)[:60], at=1)
    (first,) = world.ask()
    assert first.id == 1 and first.label == "crate"
    world.show(crate(1.0), at=2)
    world.show(crate(3.0, sides=(9, 9, 9)), at=2)
    (again, other) = sorted(world.ask(), key=lambda thing: thing.id)
    assert (again.id, other.id) == (1, 2) and again.voxels > first.voxels
    assert again.first_seen_ns == S and again.last_seen_ns == 2 * S
    assert ids(world.ask()) == ids(world.ask()) == [2, 1], "the larger one first"


def test_ids_belong_to_texts(world):
    world.show(crate(1.0), at=1)
    assert [ids(world.ask(text)) for text in ("crate", "box", "crate")] == [[1], [2], [1]]


def test_another_map_has_other_ids(world):
    world.show(crate(1.0), at=1)
    before = world.tracks
    assert ids(world.ask()) == [1]
    world.tracks = before.anew()
    assert ids(world.ask()) == [2]
    world.tracks = before
    assert ids(world.ask()) == [1]


def test_pieces_that_grow_together_are_one_thing(world):
    wall = crate(0.0, sides=(60, 2, 10))
    world.show(wall[wall[:, 0] < 35], at=1)
    world.show(wall[wall[:, 0] > 40], at=1)
    assert ids(world.ask()) == [1, 2]
    world.show(wall, at=2)
    assert ids(world.ask()) == [1], "the id of the larger piece"
    with pytest.raises(InputError, match="no object has the id 2"):
        world.tracks.forget(2)


def test_who_asks_for_the_best_only_ends_no_other_thing(world):
    world.show(crate(0.0, sides=(30, 30, 2)), at=1)
    world.show(crate(0.0, sides=(2, 30, 30)), at=1)
    inside = crate(0.8, 0.8, 0.6)
    world.show(inside, at=1)
    assert ids(world.ask()) == [1, 2]
    assert ids(world.ask(rules=replace(RULES, max_objects=1))) == [1]
    assert ids(world.ask()) == [1, 2]
    world.carve(inside)
    assert ids(world.ask()) == [1]
    world.show(inside, at=2)
    assert ids(world.ask()) == [1, 3], "it was part of the other one, as far as anybody knew"


def test_part_of_the_map_teaches_nothing(world):
    assert world.ask(whole=False) == []
    world.show(crate(1.0), at=1)
    (thing,) = world.ask(whole=False)
    assert thing.id == 0
    (whole,) = world.ask()
    world.show(crate(1.0, sides=(9, 6, 6)), at=2)
    world.show(crate(3.0), at=2)
    part, new = sorted(world.ask(whole=False), key=lambda thing: thing.centre)
    assert (part.id, new.id) == (1, 0) and part.voxels > whole.voxels
    for at in (3, 4):
        world.look(at, GONE)
    part, new = sorted(world.ask(whole=False), key=lambda thing: -thing.id)
    assert missing([part, new]) == {1: 4}, "what frames have shown holds for a part as well"


# ---- missing -------------------------------------------------------------------------------------


def test_what_is_looked_through_again_and_again_is_missing(world):
    world.show(crate(1.0), at=1)
    world.show(crate(3.0), at=1)
    assert ids(world.ask()) == [1, 2]
    for look in range(LOOKS - 1):
        world.look(2 + look, GONE)
    assert not missing(world.ask())
    world.look(9, GONE)
    assert missing(world.ask()) == {1: 9, 2: 9}
    world.look(10, GONE)
    assert missing(world.ask()) == {1: 9, 2: 9}, "since when stays"


@pytest.mark.parametrize(
    "sight",
    [
        (UNSEEN,),
        (HIDDEN,),
        (THERE,),
        (GONE, UNSEEN, UNSEEN),
        (GONE, HIDDEN, HIDDEN),
        (GONE, THERE),
        (GONE, GONE, THERE, THERE),
        (GONE, 0.15, -0.15),
        (GONE, UNSEEN, UNSEEN, THERE),
    ],
    ids=str,
)
def test_what_is_hidden_out_of_view_or_there_is_not_missing(world, sight):
    world.show(crate(1.0), at=1)
    world.ask()
    for at in range(2, 20):
        world.look(at, *sight)
    (thing,) = world.ask()
    assert not thing.missing_since_ns


def test_of_a_few_voxels_nothing_is_known(world):
    for x, count in ((0.0, module.LEAST - 1), (2.0, module.LEAST)):
        world.show(crate(x)[:count], at=1)
    world.ask()
    for at in range(2, 2 + LOOKS):
        world.look(at, GONE)
    (large, small) = sorted(world.ask(), key=lambda thing: -thing.voxels)
    assert large.missing_since_ns and not small.missing_since_ns


@pytest.mark.parametrize("sight", [(GONE,), (GONE, GONE, GONE, THERE), (GONE, GONE, UNSEEN)])
def test_most_of_what_a_frame_shows_decides(world, sight):
    world.show(crate(1.0), at=1)
    world.ask()
    for at in range(2, 2 + LOOKS):
        world.look(at, *sight)
    assert missing(world.ask()) == {1: 1 + LOOKS}


def test_one_frame_that_shows_it_makes_good_for_those_that_did_not(world):
    world.show(crate(1.0), at=1)
    world.ask()
    for at in range(2, 30, LOOKS):
        for look in range(LOOKS - 1):
            world.look(at + look, GONE)
        world.look(at + LOOKS - 1, THERE)
    assert not missing(world.ask())


def test_what_is_missing_is_told_when_the_map_has_lost_it(world):
    world.show(crate(1.0), at=1)
    (before,) = world.ask()
    world.look(2, GONE)
    world.carve(crate(1.0))
    assert world.ask() == [], "nothing is known yet"
    world.look(3, GONE)
    (thing,) = world.ask()
    assert (thing.id, thing.missing_since_ns) == (1, 3 * S)
    assert thing.centre == before.centre and thing.voxels == before.voxels


def test_carving_bit_by_bit_hides_nothing(world):
    whole = crate(1.0)
    world.show(whole, at=1)
    (before,) = world.ask()
    world.look(2, GONE)
    world.carve(whole[:-20])
    assert ids(world.ask()) == [1]
    assert len(next(iter(world.tracks._tracks.values())).samples) == module.SAMPLES
    world.look(3, GONE)
    assert missing(world.ask()) == {1: 3}
    assert before.voxels == len(whole)


def test_what_comes_back_is_there_again(world):
    world.show(crate(1.0), at=1)
    world.ask()
    for at in (2, 3):
        world.look(at, GONE)
    few = crate(1.0)[:40]
    world.show(few, at=4)
    assert missing(world.ask()) == {1: 3}, "the floor may have hit some of its voxels"
    world.show(crate(1.0), at=5)
    (thing,) = world.ask()
    assert thing.id == 1 and not thing.missing_since_ns
    for at in (6, 7):
        world.look(at, GONE)
    assert missing(world.ask()) == {1: 7}


def test_missing_things_take_no_place_among_those_that_are_there(world):
    for x in range(12):
        world.show(crate(float(x), sides=(6, 6, 6 + x)), at=1)
    assert len(world.ask()) == RULES.max_objects
    for at in (2, 3):
        world.look(at, GONE)
    found = world.ask()
    assert [bool(thing.missing_since_ns) for thing in found] == [False] * 2 + [True] * 10


# ---- moved ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("found_first", [False, True])
def test_a_moved_thing_is_found_at_its_new_place_only(world, found_first):
    world.show_floor(4.0, 0.0, at=1)
    world.show(crate(1.0), at=1)
    (before,) = world.ask()
    if found_first:  # and only then somebody looks where it was
        world.show(crate(4.0), at=2)
        assert sorted(ids(world.ask())) == [1, 2]
    for at in (3, 4):
        world.look(at, *[GONE] * module.SAMPLES, *[THERE] * module.SAMPLES * found_first)
    world.show(crate(4.0), at=5)
    world.show(crate(1.0)[:30], at=5)  # the floor where it stood
    for _ in range(2):
        (thing,) = world.ask()
        assert thing.id == before.id == 1 and not thing.missing_since_ns
        assert thing.centre[0] == pytest.approx(before.centre[0] + 3)
    world.look(6, THERE)
    (thing,) = world.ask()
    assert thing.viewpoint is not None
    for at in (7, 8):
        world.look(at, GONE)
    assert missing(world.ask()) == {1: 8}, "it can move again"


@pytest.mark.parametrize(
    "why", ["larger", "before", "two came", "two went", "not looked through", "unknown place"]
)
def test_what_is_not_sure_is_two_things(world, why):
    if why != "unknown place":
        world.show_floor(4.0, 0.0, at=1)
        world.show_floor(4.0, 3.0, at=1)
    old = [crate(1.0), crate(1.0, y=3.0)] if why == "two went" else [crate(1.0)]
    for each in old:
        world.show(each, at=1)
    assert len(world.ask()) == len(old)
    world.look(4, THERE)
    new = [crate(4.0, sides=(12, 6, 6) if why == "larger" else (6, 6, 6))]
    new += [crate(4.0, y=3.0)] if why == "two came" else []
    for each in new:
        world.show(each, at=3 if why == "before" else 7)
    for at in (5, 6):
        world.look(at, UNSEEN if why == "not looked through" else GONE)
    found = world.ask()
    assert len(found) == len(old) + len(new)
    there = [thing for thing in found if thing.centre[0] > 3]
    assert all(thing.id > len(old) for thing in there), "new ids"
    gone = 0 if why == "not looked through" else len(old)
    assert len(missing(found)) == gone and world.ask() == found


# ---- corrected -----------------------------------------------------------------------------------


def shifts(**by: float) -> dict[int, np.ndarray]:
    """Frames of these seconds (s1 ...) were so many metres further along y, and turned a little."""
    found = {}
    for name, y in by.items():
        T = np.eye(4)
        T[:2, :2] = [[math.cos(0.1), -math.sin(0.1)], [math.sin(0.1), math.cos(0.1)]]
        T[1, 3] = y
        found[int(name[1:]) * S] = T
    return found


def test_a_thing_goes_with_the_last_frame_that_shows_it(world):
    world.show(crate(1.0), at=1)
    world.show(crate(4.0), at=2)
    one, other = world.ask()
    world.look(3, *[THERE] * module.SAMPLES, *[UNSEEN] * module.SAMPLES)
    world.look(4, UNSEEN)
    seen = world.ask()[0].viewpoint
    assert seen is not None
    world.rows.clear()  # frames move, and so do voxels
    world.tracks.move(shifts(s1=9.0, s3=2.0, s4=7.0))
    T = shifts(s3=2.0)[3 * S]
    there = T @ (*one.centre, 1)
    world.show(crate(*(there[:3] - 0.125)), at=3)
    world.show(crate(4.0), at=2)
    found = {thing.id: thing for thing in world.ask()}
    assert sorted(found) == [1, 2], "what nobody moved stays"
    assert found[1].centre == pytest.approx(tuple(there[:3]), abs=SIZE)
    assert found[2].centre == other.centre
    place = T @ (*seen.position, 1)
    assert found[1].viewpoint.position == pytest.approx(tuple(place[:3]))
    world.look(5, *[GONE] * module.SAMPLES, *[THERE] * module.SAMPLES)
    world.look(6, *[GONE] * module.SAMPLES, *[THERE] * module.SAMPLES)
    assert missing(world.ask()) == {1: 6}


@pytest.mark.parametrize("along", [True, False])
def test_what_was_looked_through_elsewhere_is_not_missing(world, along):
    world.show(crate(1.0), at=1)
    (before,) = world.ask()
    for at in (2, 3):
        world.look(at, GONE)
    assert missing(world.ask()) == {1: 3}
    by = shifts(s1=1.0, s3=1.0) if along else shifts(s1=1.0)
    world.tracks.move(by)
    world.rows.clear()
    (thing,) = world.ask() if along else [before]
    assert missing([thing]) == ({1: 3} if along else {})
    if not along:
        assert world.ask() == [], "it is not told as missing"
        there = by[S] @ (*before.centre, 1)
        world.show(crate(*(there[:3] - 0.125)), at=1)
        assert ids(world.ask()) == [1]


def test_a_forgotten_thing_stays_away_where_it_is_now_known_to_have_been(world):
    world.show(crate(1.0), at=1)
    (thing,) = world.ask()
    world.tracks.forget(thing.id)
    assert world.ask() == []
    world.tracks.clear_box((8, 8, 8), (9, 9, 9))
    by = shifts(s1=1.0)
    world.tracks.move(by)
    centre = by[S] @ (*thing.centre, 1)
    lowest = [(each.lowest + each.highest) / 2 for each in world.tracks._graves]
    np.testing.assert_allclose(lowest, [centre[:3], (8.5, 8.5, 8.5)], atol=1e-6)


# ---- forgotten -----------------------------------------------------------------------------------


def test_a_forgotten_thing_stays_away_until_newer_frames_show_it(world):
    world.show(crate(1.0), at=1)
    world.show(crate(3.0, sides=(9, 9, 9)), at=1)
    other, thing = world.ask()
    world.look(2, THERE)
    assert world.tracks.forget(thing.id).centre == thing.centre
    assert ids(world.ask()) == [other.id]
    world.show(crate(1.0)[:20], at=3)
    assert ids(world.ask()) == [other.id], "too little to be it"
    assert len(world.ask("box")) == 2, "it is forgotten as a crate"
    world.show(crate(1.0)[:80], at=4)
    _, again = world.ask()
    assert again.voxels == thing.voxels and again.id > thing.id
    with pytest.raises(InputError, match=f"no object has the id {thing.id}"):
        world.tracks.forget(thing.id)


def test_a_missing_thing_can_be_forgotten(world):
    world.show(crate(1.0), at=1)
    world.ask()
    for at in (2, 3):
        world.look(at, GONE)
    assert world.tracks.forget(1).missing_since_ns == 3 * S
    assert world.ask() == []


def test_a_cleared_box_forgets_its_things_and_what_was_seen_in_it(world):
    for x in (1.0, 3.0):
        world.show(crate(x), at=1)
    assert ids(world.ask()) == [1, 2]
    world.look(2, THERE)
    world.tracks.clear_box((-math.inf,) * 3, (2.0, math.inf, math.inf))
    assert ids(world.ask()) == [2]
    world.show(crate(1.0)[:10], at=2)
    assert ids(world.ask()) == [2], "a map that is added later is not newer"
    world.show(crate(1.0)[:10], at=3)
    found = {thing.id: thing.voxels for thing in world.ask()}
    assert found == {2: len(crate(3.0)), 3: 10}


FAR = 2_000_000_000  # s
JUMPS = {
    "set back": (-95, []),
    "set back by an hour": (-3700, []),
    "a day ahead": (86_400, []),
    "one far stamp": (0, [FAR]),
    "one far stamp of a thing": (0, [FAR, "there"]),
    "one early stamp": (0, [5]),
    "there and back": (0, [FAR, 5, FAR]),
}


@pytest.mark.parametrize("case", JUMPS)
def test_what_is_known_of_things_survives_a_jump_of_the_clock(world, case):
    """One is forgotten, one is missing, one is gone after the jump."""
    by, between = JUMPS[case]
    for x in (1.0, 3.0, 5.0):
        world.show(crate(x), at=10_000)
    assert ids(world.ask()) == [1, 2, 3]
    world.look(10_001, THERE)
    world.tracks.forget(1)
    sight = [*[GONE] * module.SAMPLES, *[THERE] * module.SAMPLES]
    for at in (10_002, 10_003):
        world.look(at, *sight)
    assert missing(world.ask()) == {2: 10_003} and len(world.ask()) == 2
    for at in between:
        if at == "there":
            world.show(crate(5.0), FAR)
        else:
            world.look(at, UNSEEN)
    for at in (10_004, 10_005):
        world.look(at + by, UNSEEN)
    assert missing(world.ask()) == {2: 10_003} and len(world.ask()) == 2
    for at in (10_006, 10_007):
        world.look(at + by, GONE)
    assert missing(world.ask()) == {2: 10_003, 3: 10_007 + by} and len(world.ask()) == 2
    for x in (1.0, 3.0, 5.0):
        world.show(crate(x), at=10_008 + by)
    found = world.ask()
    assert len(found) == 3 and not missing(found), "newer frames show them"


def test_a_late_frame_ends_nothing(world):
    world.show(crate(1.0), at=100)
    world.ask()
    for at in (102, 103, 102.5):
        world.look(at, GONE)
    assert missing(world.ask()) == {1: 103}


# ---- bounds --------------------------------------------------------------------------------------


def test_so_many_things_are_followed_and_no_more(world, monkeypatch):
    monkeypatch.setattr(module, "MAX_TRACKS", 5)
    world.show(crate(0.0), at=1)
    for number in range(9):
        assert ids(world.ask(str(number))) == [number + 1]
    assert sorted(world.tracks._tracks) == [5, 6, 7, 8, 9]
    assert ids(world.ask("4")) == [5] and ids(world.ask("3")) == [10]
    assert sorted(world.tracks._tracks) == [5, 7, 8, 9, 10], "the one that was asked for is kept"


def test_noise_displaces_no_thing(world, monkeypatch):
    monkeypatch.setattr(module, "MAX_TRACKS", 5)
    world.show(crate(0.0), at=1)
    world.show(crate(2.0), at=1)
    assert ids(world.ask()) == [1, 2]
    for x in range(4, 12):
        world.show(crate(float(x))[: module.LEAST - 1], at=1)
    assert len(world.ask()) == 10 and len(world.tracks._tracks) == 5
    world.ask("other")
    assert ids(world.ask())[:2] == [1, 2]


def test_so_many_graves_are_kept_and_no_more(world, monkeypatch):
    monkeypatch.setattr(module, "MAX_GRAVES", 3)
    for x in range(5):
        world.show(crate(2.0 * x), at=1)
    for id in ids(world.ask()):
        world.tracks.forget(id)
    assert len(world.tracks._graves) == 3 and len(world.ask()) == 2


def test_a_viewpoint_is_where_most_of_it_was_seen_from(world):
    world.show(crate(1.0), at=1)
    (thing,) = world.ask()
    assert thing.viewpoint is None
    for at, sight in ((2, (THERE, UNSEEN)), (3, (THERE,)), (4, (THERE, THERE, UNSEEN))):
        world.look(at, *sight)
    (thing,) = world.ask()
    assert thing.viewpoint.position == (0, 0, 3)
    assert thing.viewpoint.yaw == pytest.approx(math.atan2(thing.centre[1], thing.centre[0]))


@pytest.mark.slow
@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_whatever_happens_ids_are_distinct_and_everything_found_has_one(seed):
    rng = np.random.default_rng(seed)
    world, known = World(), set()
    for at in range(1, 25):
        what = rng.choice(["show", "show", "carve", "look", "forget", "clear"])
        place = rng.integers(0, 4, 2) * 0.4
        voxels = crate(*place, sides=tuple(rng.integers(2, 7, 3)))
        if what == "show":
            world.show(voxels, at)
        elif what == "carve":
            world.carve(voxels)
        elif what == "look":
            world.look(at, *rng.choice([THERE, GONE, UNSEEN, HIDDEN], rng.integers(1, 4)))
        elif what == "forget" and known:
            gone = int(rng.choice(sorted(known)))
            if gone in world.tracks._tracks:
                world.tracks.forget(gone)
                assert gone not in ids(world.ask())
        elif what == "clear":
            world.tracks.clear_box((*(place - 0.2), -9), (*(place + 0.2), 9))
        found = world.ask()
        known |= set(ids(found))
        assert len(set(ids(found))) == len(found) and min(ids(found), default=1) >= 1
        flags = [bool(thing.missing_since_ns) for thing in found]
        assert flags == sorted(flags), "missing ones last"
        assert world.ask() == found, "asking changes nothing"
