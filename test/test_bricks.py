# SPDX-License-Identifier: Apache-2.0
"""Maps that are larger than memory: their coldest bricks on the disk, as if they were not."""

from __future__ import annotations

import errno
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_worlds import assert_same, frame, random_frame
from test_tiers import HALF
from test_tiers import walk as frames_of_kinds

from radseg_ros.config import MapConfig
from radseg_ros.datatypes import FeatureMap, Filter, InputError, MapFileError
from radseg_ros.voxels.bricks import bricks as bricks_module
from radseg_ros.voxels.bricks import cubes
from radseg_ros.voxels.bricks import keeper as keeper_module
from radseg_ros.voxels.bricks import shelf as shelf_module
from radseg_ros.voxels.bricks.asking import asked_everywhere
from radseg_ros.voxels.bricks.bricks import Bricks
from radseg_ros.voxels.bricks.keeper import Keeper, in_memory
from radseg_ros.voxels.bricks.saving import save_whole
from radseg_ros.voxels.bricks.shelf import Shelf
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.map_file import MapIdentity, load_map
from radseg_ros.voxels.table import VoxelTable
from radseg_ros.voxels.view import scored_directly
from radseg_ros.voxels.voxel_map import VoxelMap

CHANNELS, VOXEL = 5, 0.2
OUT_AND_BACK = [*range(6), *range(5, -1, -1)]
COLUMNS = ("hits", "views", "rgb_sum", "first_seen_ns", "last_seen_ns", "seen_at")


def slow(value):
    """A case that costs more than it is likely to find."""
    return pytest.param(value, marks=pytest.mark.slow)


def on_disk(folder: Path, channels: int = CHANNELS, **options) -> VoxelMap:
    """A map whose coldest bricks go to ``folder``."""
    config = MapConfig(voxel_size=VOXEL, **options)
    return VoxelMap(channels, config, device="cpu", beyond=Bricks(Shelf(folder)))


def in_memory_alone(channels: int = CHANNELS, **options) -> VoxelMap:
    return VoxelMap(channels, MapConfig(voxel_size=VOXEL, **options), device="cpu")


def walk(world: VoxelMap, steps, begun: int = 0) -> int:
    """Add frames taken along a line, 6 m and a second apart; return the voxels that were lost."""
    lost = 0
    for number, step in enumerate(steps, begun):
        rng, stamp_ns = np.random.default_rng(step), number * 10**9
        one, features = random_frame(rng, channels=world.channels, shift=0.0, stamp_ns=stamp_ns)
        one.T_world_camera[0, 3] = 6 * step
        lost += world.integrate(one, features).evicted
    return lost


def everything(world: VoxelMap) -> VoxelMap:
    """A copy of the map without bounds, with all that is on the disk in memory."""
    whole = VoxelMap(world.channels, MapConfig(voxel_size=VOXEL), device="cpu")
    whole.clock = world.clock
    every = torch.arange(len(world))
    parts = [world.part(world.table.copied(every), in_full=True), *world.beyond.parts(world)]
    for part in parts:
        whole.rejoin(part)
    return whole


def assert_equal(world: VoxelMap, whole: VoxelMap, tolerance: float = 1e-5) -> None:
    """The map, with what is on the disk, is the one that has always been in memory."""
    together = everything(world)
    mine, theirs = (each.table["key"].argsort() for each in (together, whole))
    assert torch.equal(together.table["key"][mine], whole.table["key"][theirs])
    for name in COLUMNS:
        assert torch.equal(together.table[name][mine], whole.table[name][theirs]), name
    found, wanted = together.table.means(mine), whole.table.means(theirs)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    assert world.history.removed == whole.history.removed


# ---- without a thread ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, slow({"dtype": "float16"}), slow({"evict": "farthest"})])
def test_nothing_is_lost_on_a_walk_out_and_back(tmp_path, options):
    whole = in_memory_alone(**options)
    walk(whole, OUT_AND_BACK)
    most = len(whole) // 3
    world = on_disk(tmp_path, max_voxels=most, **options)
    assert walk(world, OUT_AND_BACK) == 0
    assert len(world) <= most < world.beyond.voxels
    assert_equal(world, whole, 2e-3 if "dtype" in options else 1e-5)
    assert world.is_sum == whole.is_sum


@pytest.mark.slow
def test_bytes_are_bounded_as_well(tmp_path):
    whole, world = in_memory_alone(300), on_disk(tmp_path, 300, max_bytes=700_000)
    for step in range(8):
        assert walk(world, [step], step) == walk(whole, [step], step) == 0
        assert world.nbytes <= 700_000
    assert_equal(world, whole)


def test_the_coldest_bricks_go_and_what_is_seen_now_stays(tmp_path):
    world = on_disk(tmp_path, max_voxels=500)
    walk(world, range(8))
    camera = int(world.table["last_seen_ns"].max())
    newest = world.table["key"][world.table["last_seen_ns"] == camera]
    assert set(cubes.brick_of(newest).tolist()) - world.beyond.on_disk.keys()
    gone = max(brick.newest for brick in world.beyond.on_disk.values())
    stays = cubes.coldest(*world.beyond.places(world))
    assert all(newest >= gone - 10**9 for _, newest in stays)


def test_carving_goes_on_where_it_was(tmp_path):
    options = {"carve_after": 3, "carve_margin": 0.1}
    whole, world = in_memory_alone(**options), on_disk(tmp_path, **options)
    for each in (whole, world):
        walk(each, [0, 1])
        each.table["seen_through"][::2] = 2
    assert world.beyond.take(world, len(world)) == len(whole)
    assert not len(world)
    together = everything(world)
    mine, theirs = (each.table["key"].argsort() for each in (together, whole))
    looks = whole.table["seen_through"][theirs]
    assert torch.equal(together.table["seen_through"][mine], looks) and bool(looks.any())


def test_what_memory_knows_of_a_brick_is_where_its_voxels_are(tmp_path):
    whole, world = in_memory_alone(), on_disk(tmp_path)
    for each in (whole, world):
        walk(each, range(3))
        each.table["hits"][:5] = torch.tensor([1, 65534, 65535, 65536, 2**52])
    world.beyond.take(world, len(world))
    found = {}
    for number, brick in world.beyond.on_disk.items():
        index, hits = cubes.outlined(number, brick.outline)
        found |= dict(zip(map(tuple, index.tolist()), hits.tolist(), strict=True))
    hits = whole.table["hits"].clamp(max=65535).tolist()
    assert found == dict(zip(map(tuple, whole.table.coordinates().tolist()), hits, strict=True))


# ---- what changes the map as a whole -------------------------------------------------------------


def full(folder: Path, **options) -> tuple[VoxelMap, VoxelMap]:
    """A map in memory, and the same with most of it on the disk."""
    whole, world = in_memory_alone(**options), on_disk(folder, max_voxels=400, **options)
    for each in (whole, world):
        walk(each, OUT_AND_BACK)
    return whole, world


def test_boxes_are_cleared_on_the_disk_as_well(tmp_path):
    whole, world = full(tmp_path)
    files = len(list(tmp_path.glob("*.radbrick")))
    box = ((3.3, -9, -9), (17.7, 9, 0.7))
    keys = {tuple(index) for index in everything(world).table.coordinates().tolist()}
    assert 0 < whole.clear_box(*box) <= world.clear_box(*box)
    world.history.removed = whole.history.removed  # voxels in both places count twice
    assert_equal(world, whole)
    assert len(keys) > len(whole)
    assert len(list(tmp_path.glob("*.radbrick"))) == len(world.beyond.on_disk) < files


@pytest.mark.slow
def test_what_is_old_is_forgotten_on_the_disk_as_well(tmp_path):
    kept, (whole, world) = in_memory_alone(), full(tmp_path, forget_after=3.5)
    walk(kept, OUT_AND_BACK)
    found, wanted = by_voxel(ask(world)), by_voxel(ask(whole))
    assert found.keys() == wanted.keys() and 0 < len(wanted) < len(kept)
    again = [index for index in wanted if found[index][0] > wanted[index][0]]
    assert len(again) < len(wanted) / 4, "hit again while it was on the disk: it keeps its points"
    for index in wanted.keys() - set(again):
        assert found[index] == pytest.approx(wanted[index], abs=1e-5)
    old = [brick for brick in world.beyond.on_disk.values() if brick.newest < 7.5e9]
    keys = cubes.brick_of(world.table["key"]).tolist()
    assert all(number in keys for number, brick in world.beyond.on_disk.items() if brick in old)


def test_a_reset_forgets_the_disk(tmp_path):
    _, world = full(tmp_path)
    world.clear()
    assert not len(world) and not world.beyond.voxels and not list(tmp_path.glob("*.radbrick"))


def test_a_map_that_nobody_has_gives_its_files_back(tmp_path):
    shelf = Shelf(tmp_path)
    world = VoxelMap(CHANNELS, MapConfig(voxel_size=VOXEL, max_voxels=400), beyond=Bricks(shelf))
    walk(world, OUT_AND_BACK)
    with shelf.kept():
        frozen = world.frozen(threading.Lock())
        world.clear()
        del world
        assert len(list(tmp_path.glob("*.radbrick"))) == len(frozen.beyond.on_disk) > 0
    assert not list(tmp_path.glob("*.radbrick"))


@pytest.mark.slow
def test_maps_merge_with_all_that_they_have(tmp_path):
    whole, world = full(tmp_path / "a")
    other = on_disk(tmp_path / "b", max_voxels=400)
    walk(other, range(4, 12))
    shift = in_memory_alone()
    walk(shift, range(4, 12))
    new = whole.merge(shift)
    assert world.merge(other) >= new > 0
    assert len(world) <= 400
    assert_equal(world, whole)


@pytest.mark.parametrize("fails", ["read", "write", "add"])
def test_a_merge_that_fails_changes_nothing_and_can_be_asked_again(tmp_path, monkeypatch, fails):
    shelf = Shelf(tmp_path)
    config = MapConfig(voxel_size=VOXEL, max_voxels=300)
    world, other = (VoxelMap(CHANNELS, config, beyond=Bricks(shelf)) for _ in range(2))
    walk(world, range(4))
    walk(other, range(2, 6))
    assert world.beyond.on_disk.keys() & other.beyond.on_disk.keys(), "bricks of both"
    alone, together = everything(world), everything(world)
    together.merge(everything(other))
    where = {"read": Shelf, "write": Shelf, "add": VoxelTable}[fails]
    original, calls = getattr(where, fails), []

    def failing(*args):
        calls.append(1)
        if len(calls) == (1 if fails == "add" else 3):
            if fails == "write":
                return None  # a disk without room
            raise MemoryError
        return original(*args)

    files = sorted(path.name for path in tmp_path.iterdir())
    with monkeypatch.context() as broken:
        broken.setattr(where, fails, failing)
        with pytest.raises((MemoryError, MapFileError)):
            world.merge(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert_equal(world, alone)
    world.merge(other)
    assert len(world) <= 300
    assert_equal(world, together)


@pytest.mark.parametrize("options", [{}, slow({"dtype": "float16"})])
def test_a_file_has_the_whole_map(tmp_path, options):
    whole, world = full(tmp_path / "bricks", **options)
    path = tmp_path / "whole.radmap"
    with world.beyond.shelf.kept():
        frozen = world.frozen(threading.Lock())
        walk(world, [20, 21, 22], 50)  # goes on while it is written
        assert save_whole(path, frozen, MapIdentity(), {}) == len(whole)
    loaded, _ = load_map(path)
    assert_same(loaded.snapshot(), whole.snapshot(), 2e-3 if options else 1e-5)
    assert not list((tmp_path / "bricks").glob("tmp*"))
    bounded = MapConfig(voxel_size=VOXEL, max_voxels=400, **options)
    again, _ = load_map(path, config=bounded, beyond=Bricks(world.beyond.shelf))
    assert len(again) <= 400
    assert_same(everything(again).snapshot(), whole.snapshot(), 2e-3 if options else 1e-5)


# ---- questions -----------------------------------------------------------------------------------


def ask(world: VoxelMap, **options):
    """Scores of everything for two directions."""
    lock = threading.Lock()
    vectors = torch.eye(world.channels)[:2]

    def directly(part: VoxelMap):
        return scored_directly(part, lock, torch.clone, lambda rows: rows @ vectors.T, 2)

    return asked_everywhere(world, lock, lambda: directly(world), directly, **options)


def by_voxel(found) -> dict:
    columns = [found.geometry.hits, found.geometry.seen_at_ns, *found.scores.T]
    values = torch.stack([each.double() for each in columns], 1).tolist()
    indices = map(tuple, found.geometry.index.tolist())
    return dict(zip(indices, values, strict=True))


def test_a_question_sees_the_disk_and_each_voxel_once(tmp_path):
    whole, world = full(tmp_path)
    both = set(cubes.brick_of(world.table["key"]).tolist()) & world.beyond.on_disk.keys()
    assert both, "some bricks have points in memory and on the disk"
    before = dict(world.beyond.on_disk)
    found, wanted = ask(world), ask(whole)
    assert len(found.geometry) == len(wanted.geometry) == len(world) + found.others
    mine, theirs = by_voxel(found), by_voxel(wanted)
    assert mine.keys() == theirs.keys()
    for index, row in mine.items():
        assert row == pytest.approx(theirs[index], abs=1e-5)
    assert world.beyond.on_disk == before, "what is read stays where it is"


@pytest.mark.parametrize(
    "where",
    [
        Filter(lowest=(2, -1, -1), highest=(7, 1, 1)),
        Filter(centre=(20, 0, 0), radius=3),
        Filter(lowest=(0, -1, 1), highest=(1, 1, 2), T_filter_world=np.eye(4)[[1, 2, 0, 3]]),
    ],
)
def test_a_question_about_a_place_reads_what_may_be_there(tmp_path, where, monkeypatch):
    whole, world = full(tmp_path)
    read = []
    whole_read = Shelf.read

    def reading(shelf: Shelf, brick):
        read.append(brick)
        return whole_read(shelf, brick)

    monkeypatch.setattr(Shelf, "read", reading)
    found = ask(world, where=where)
    assert 0 < len(read) < len(world.beyond.on_disk)
    mine, theirs = (
        {index: row for index, row in by_voxel(each).items() if inside(where, index)}
        for each in (found, ask(whole))
    )
    assert mine.keys() == theirs.keys() and mine
    for index, row in mine.items():
        assert row == pytest.approx(theirs[index], abs=1e-5)


def inside(where: Filter, index: tuple[int, ...]) -> bool:
    place = np.array(index) * VOXEL
    if where.T_filter_world is not None:
        place = where.T_filter_world[:3, :3] @ place
    if where.radius and np.linalg.norm(place - where.centre) > where.radius:
        return False
    return bool((place >= where.lowest).all() and (place <= where.highest).all())


def test_a_question_without_time_says_what_is_missing(tmp_path):
    _, world = full(tmp_path)
    found = ask(world, deadline=0.0)
    assert len(found.geometry) == len(world) and found.others == world.beyond.voxels


@pytest.mark.parametrize("when", ["goes", "comes"])
def test_a_brick_that_moves_during_a_question_is_asked_once(tmp_path, when):
    whole, world = full(tmp_path)
    lock, bricks = threading.Lock(), world.beyond

    def memory():
        if when == "goes":
            bricks.take(world, len(world))
        found = directly(world)
        if when == "comes":
            for brick in list(bricks.on_disk):
                bricks.back(world, brick)
        return found

    def directly(part: VoxelMap):
        return scored_directly(part, lock, torch.clone, lambda rows: rows[:, :2], 2)

    mine = by_voxel(asked_everywhere(world, lock, memory, directly))
    theirs = by_voxel(ask(whole))
    assert mine.keys() == theirs.keys()
    for index, row in mine.items():
        assert row == pytest.approx(theirs[index], abs=1e-5)


# ---- what goes wrong -----------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(content[: len(content) // 2])
    elif how == "another":
        path.write_bytes(content[:8] + b" " * (len(content) - 8))
    else:
        content[-3] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", [slow("missing"), slow("short"), "flipped", slow("another")])
def test_a_damaged_brick_costs_itself_alone_and_is_counted(tmp_path, how, caplog):
    whole, world = full(tmp_path)
    bricks = world.beyond
    here = set(cubes.brick_of(world.table["key"]).tolist())
    number, brick = next(each for each in bricks.on_disk.items() if each[0] not in here)
    damage(brick.path, how)
    found = ask(world)
    assert bricks.shelf.damaged.total() == brick.voxels
    assert len(found.geometry) == len(whole) - brick.voxels
    assert str(brick.path) in caplog.text and len(caplog.records) == 1
    for each in list(bricks.on_disk):
        bricks.back(world, each)
    assert len(world) == len(whole) - brick.voxels
    assert world.history.removed == brick.voxels and not world.is_sum
    assert number not in bricks.on_disk


def fill_disk(monkeypatch) -> None:
    def no_room(path, *_):
        path.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(shelf_module, "write_tensors", no_room)


def test_a_full_disk_evicts_as_without_bricks(tmp_path, monkeypatch, caplog):
    world = on_disk(tmp_path, max_voxels=400)
    fill_disk(monkeypatch)
    lost = walk(world, OUT_AND_BACK)
    assert lost == world.history.removed > 0 and len(world) <= 400
    assert world.beyond.shelf.failed > 1 and not list(tmp_path.glob("*.radbrick"))
    assert len(caplog.records) == 1 and "no space left" in caplog.text


def test_a_box_that_is_cleared_on_a_full_disk_leaves_the_map_within_its_bound(
    tmp_path, monkeypatch
):
    _, world = full(tmp_path)
    fill_disk(monkeypatch)
    before = len(world.beyond.on_disk)
    assert 0 < world.clear_box((-99, 0.1, -99), (99, 0.3, 99)) < 200
    assert len(world.beyond.on_disk) < before and len(world) <= 400


def test_a_folder_belongs_to_one_and_begins_empty(tmp_path):
    (tmp_path / "00000007.radbrick").write_bytes(b"of a process that was killed")
    (tmp_path / "precious.txt").write_bytes(b"of the user")
    shelf = Shelf(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(MapFileError, match="in use by another process"):
        Shelf(tmp_path)
    shelf.close()
    Shelf(tmp_path).close()
    with pytest.raises(InputError, match="is not a folder"):
        Shelf(tmp_path / "precious.txt")


# ---- beside the frames ---------------------------------------------------------------------------


class Host(SimpleNamespace):
    """A map and its lock."""

    def __init__(self, world: VoxelMap, kept: int = 0) -> None:
        super().__init__(map=world, lock=threading.Lock(), kept_for=lambda voxels: kept * voxels)


@pytest.fixture
def keeper(monkeypatch):
    """Makes a keeper that does nothing by itself."""
    monkeypatch.setattr(Keeper, "_run", lambda keeper: None)
    return Keeper


def settle(keeper: Keeper) -> int:
    """Let a keeper do what is to be done; return the steps that it took."""
    steps = 0
    while keeper.step():
        steps += 1
        assert steps < 1000
    return steps


def test_beside_a_keeper_no_frame_waits_for_the_disk(tmp_path, keeper, monkeypatch):
    whole = in_memory_alone()
    for number, step in enumerate(OUT_AND_BACK):
        walk(whole, [step], 20 * number)
    most = len(whole) // 2
    world = on_disk(tmp_path, max_voxels=most)
    kept = keeper(Host(world))
    monkeypatch.setattr(keeper_module, "HIGH", 0.6)  # a frame is a third of what there is room for
    monkeypatch.setattr(keeper_module, "LOW", 0.5)
    monkeypatch.setattr(Bricks, "take", lambda *_: pytest.fail("a frame waits"))
    came, old = [], Bricks.came
    monkeypatch.setattr(Bricks, "came", lambda *of: (came.append(of[2]), old(*of)))
    for number, step in enumerate(OUT_AND_BACK):
        assert walk(world, [step], 20 * number) == 0
        settle(kept)
        assert len(world) <= 0.6 * most
    assert came, "bricks come back when they are seen"
    assert_equal(world, whole)


def test_room_is_left_for_what_questions_keep(tmp_path, keeper):
    world = on_disk(tmp_path, max_bytes=10**6)
    walk(world, range(4))
    fits, too_much = (int((share * 10**6 - world.nbytes) / len(world)) for share in (0.9, 1.2))
    assert settle(keeper(Host(world, fits))) == 0
    assert settle(keeper(Host(world, too_much)))
    assert world.beyond.on_disk and too_much * len(world) + world.nbytes < 10**6


def test_where_voxels_are_carved_all_in_view_comes_back(tmp_path, keeper):
    for carve_after in (0, 2):
        world = on_disk(tmp_path / str(carve_after), carve_after=carve_after)
        world.integrate(frame(1.0), FeatureMap(torch.ones(CHANNELS, 1, 1)))
        world.integrate(frame(8.0), FeatureMap(torch.ones(CHANNELS, 1, 1)))
        world.beyond.take(world, len(world))
        near, far = (int(cubes.brick_of(pack(torch.tensor([[0], [0], [z]])))[0]) for z in (5, 40))
        assert {near, far} <= world.beyond.on_disk.keys()
        world.integrate(frame(8.0), FeatureMap(torch.ones(CHANNELS, 1, 1)))
        settle(keeper(Host(world)))
        assert far not in world.beyond.on_disk
        assert (near in world.beyond.on_disk) == (carve_after == 0)


def test_what_is_seen_comes_back_and_stays(tmp_path, keeper):
    world = on_disk(tmp_path)
    walk(world, range(3))
    taken = world.beyond.take(world, len(world))
    assert taken and not len(world)
    kept = keeper(Host(world))
    walk(world, [1], 99)
    seen = set(cubes.brick_of(world.table["key"]).tolist())
    settle(kept)
    assert not seen & world.beyond.on_disk.keys()
    assert settle(kept) == 0


@pytest.mark.slow
def test_two_places_that_do_not_fit_together_do_not_take_turns(tmp_path, keeper):
    whole = in_memory_alone()
    turns = [0, 5] * 10
    walk(whole, turns)
    world = on_disk(tmp_path, max_voxels=len(whole) * 2 // 3)
    kept = keeper(Host(world))
    for number, step in enumerate(turns):
        assert walk(world, [step], number) == 0
        settle(kept)
        assert settle(kept) == 0, "nothing goes that was seen a moment ago, to make room"
    assert_equal(world, whole)


def test_a_brick_that_changes_while_it_is_written_stays(tmp_path):
    world = on_disk(tmp_path)
    walk(world, [0])
    bricks = world.beyond
    brick = cubes.coldest(*bricks.places(world))[0][0]
    for change in ("hit", "look", "gone"):
        leaving = bricks.leaving(world, brick)
        written = bricks.shelf.write(leaving.state)
        slots = cubes.slots_of(world.table.index, brick)
        if change == "hit":
            walk(world, [0], 1)
        elif change == "look":
            world.table["seen_through"][slots] += 1
        else:
            world.table.remove_slots(slots[:1])
        assert not bricks.left(world, leaving, written) and not bricks.on_disk
        assert not list(tmp_path.glob("*.radbrick"))


@pytest.mark.slow
def test_frames_of_a_correction_are_in_memory_while_they_move(tmp_path, keeper):
    whole, world = full(tmp_path)
    host, key = Host(world), whole.table["key"]
    with in_memory(host, world, key):
        assert not world.beyond.on_disk
        assert len(world) == len(whole)
        assert world.beyond.take(world, 100) == 100 and not world.beyond.on_disk
        assert walk(world, [0], 90) == walk(whole, [0], 90) == 0 and len(world) > 400
        assert not settle(keeper(host)) or not world.beyond.on_disk
    assert len(world) <= 400, "what was too much even without the others has gone"
    assert world.beyond.take(world, 100) >= 100
    assert_equal(world, whole)


def in_bricks(world: VoxelMap, bricks: list[int]) -> int:
    """Voxels in memory."""
    return sum(len(cubes.slots_of(world.table.index, brick)) for brick in bricks)


def noting(monkeypatch, look) -> list[int]:
    """What ``look`` finds whenever a brick has come back."""
    found, old = [], Bricks.came
    monkeypatch.setattr(Bricks, "came", lambda *of: (old(*of), found.append(look())))
    return found


def test_what_a_correction_needs_comes_in_place_of_others(tmp_path, monkeypatch):
    most = 600
    world = on_disk(tmp_path, max_voxels=most)
    walk(world, range(6))
    some = max(world.beyond.on_disk.values(), key=lambda brick: brick.voxels)
    key = world.beyond.shelf.read(some)["key"]
    found = noting(monkeypatch, lambda: len(world))
    with in_memory(Host(world), world, key):
        held = in_bricks(world, torch.unique(cubes.brick_of(key)).tolist())
        assert held == some.voxels and len(world) + len(key) <= most
    assert found and max(found) <= most and len(world) <= most


@pytest.mark.parametrize("meanwhile", ["hit", slow("reset"), slow("full")])
def test_who_makes_room_does_not_wait_for_it(tmp_path, monkeypatch, meanwhile):
    """Bricks may be hit whenever they are written, or be of a map that is there no more."""
    world = on_disk(tmp_path, max_voxels=600)
    walk(world, range(6))
    host, written = Host(world), Shelf.write
    key = world.beyond.shelf.read(next(iter(world.beyond.on_disk.values())))["key"]

    def write(shelf: Shelf, state):
        if meanwhile == "hit":
            world.table["seen_through"].add_(1)
        elif meanwhile == "reset":
            host.map = world.another()
        return None if meanwhile == "full" else written(shelf, state)

    monkeypatch.setattr(Shelf, "write", write)
    before, hits = len(world.beyond.on_disk), int(everything(world).table["hits"].sum())
    with in_memory(host, world, key):
        assert bool((world.table.index.find(key) >= 0).all())
    assert len(world.beyond.on_disk) == before - 1
    assert int(everything(world).table["hits"].sum()) == hits, "nothing is lost by it"


def test_what_was_seen_waits_until_there_is_room_for_all_of_it(tmp_path, keeper, monkeypatch):
    world = on_disk(tmp_path)
    walk(world, range(6))
    monkeypatch.setattr(bricks_module, "RESTED_NS", 0)
    monkeypatch.setattr(keeper_module, "RANKED_APART", 0)
    world.clock = world.clock.at(10**12)
    bricks, ranked = world.beyond, cubes.coldest(*world.beyond.places(world))
    ranked = [brick for brick, _ in ranked]
    largest = max(ranked, key=lambda brick: in_bricks(world, [brick]))
    coldest = next(brick for brick in ranked if brick != largest)
    world.table.remove_slots(cubes.slots_of(world.table.index, coldest)[1:].sort().values)
    leaving = bricks.leaving(world, largest)
    assert bricks.left(world, leaving, bricks.shelf.write(leaving.state))
    bound = len(world) * 16 // 15 + 1  # nothing has to go
    assert len(world) - 1 + bricks.voxels > bound, "and one is not enough"
    world.config = replace(world.config, max_voxels=bound)
    bricks.wanted[largest] = None
    found = noting(monkeypatch, lambda: len(world))
    settle(keeper(Host(world)))
    assert largest not in bricks.on_disk and found and max(found) <= bound


# ---- in tiers ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_codes_go_to_the_disk_and_back_as_they_are(tmp_path):
    config = MapConfig(voxel_size=0.2, hot_voxels=HALF, cold_share=4, max_voxels=10**6)
    world = VoxelMap(24, config, device="cpu", beyond=Bricks(Shelf(tmp_path)))
    for one, features in frames_of_kinds():
        world.integrate(one, features)
    tiers, bricks = world.table.vectors, world.beyond
    assert not tiers.exact
    cold = tiers.taken(torch.arange(len(world))).hot.logical_not()
    keys, means = world.table["key"][cold], world.table.means(cold.nonzero()[:, 0])
    hits = int(world.table["hits"].sum())
    answers = by_voxel(ask(world))
    whole = everything(world)

    assert bricks.take(world, len(world)) == len(whole) and not len(world)
    assert bricks.nbytes < len(whole) * 230 + len(bricks.on_disk) * 3000, "codes, not vectors"
    assert by_voxel(ask(world)).keys() == answers.keys()
    codecs = tiers.codecs
    for brick in list(bricks.on_disk):
        bricks.back(world, brick)
    assert tiers.codecs is codecs and bool((tiers.taken(torch.arange(len(world))).hot == 0).all())
    assert int(world.table["hits"].sum()) == hits
    assert torch.equal(world.table.means(world.table.index.find(keys)), means)


@pytest.mark.slow
def test_a_map_in_tiers_is_nearly_the_same_with_bricks(tmp_path):
    options = {"voxel_size": 0.2, "hot_voxels": HALF, "cold_share": 4}
    whole = VoxelMap(24, MapConfig(**options), device="cpu")
    bounded = MapConfig(**options, max_voxels=900)
    world = VoxelMap(24, bounded, device="cpu", beyond=Bricks(Shelf(tmp_path)))
    for one, features in frames_of_kinds():
        whole.integrate(one, features)
        assert world.integrate(one, features).evicted == 0
    path = tmp_path / "whole.radmap"
    assert save_whole(path, world, MapIdentity(), {}) == len(whole)
    for together in (everything(world), load_map(path)[0]):
        mine, theirs = (each.table["key"].argsort() for each in (together, whole))
        for name in ("key", "hits", "views"):
            assert torch.equal(together.table[name][mine], whole.table[name][theirs])
        near = torch.cosine_similarity(together.table.means(mine), whole.table.means(theirs))
        assert near.mean() > 0.95 and near.min() > 0.5


@pytest.mark.slow
def test_maps_in_tiers_merge_with_all_that_they_have(tmp_path):
    shelf = Shelf(tmp_path)
    options = {"voxel_size": 0.2, "hot_voxels": HALF, "cold_share": 4}
    config, whole = MapConfig(**options, max_voxels=900), VoxelMap(24, MapConfig(voxel_size=0.2))
    world, other = (VoxelMap(24, config, device="cpu", beyond=Bricks(shelf)) for _ in range(2))
    for seed, each in enumerate((world, other)):
        for one, features in frames_of_kinds(seed):
            whole.integrate(one, features)
            each.integrate(one, features)
    assert world.beyond.on_disk.keys() & other.beyond.on_disk.keys(), "bricks of both"
    world.merge(other)
    assert len(world) <= 900
    assert world.beyond.nbytes < len(whole) * 230 + len(world.beyond.on_disk) * 3000, "codes"
    together = everything(world)
    mine, theirs = (each.table["key"].argsort() for each in (together, whole))
    for name in ("key", "hits", "views"):
        assert torch.equal(together.table[name][mine], whole.table[name][theirs])
    near = torch.cosine_similarity(together.table.means(mine), whole.table.means(theirs))
    assert near.mean() > 0.9 and near.min() > 0.3
