# SPDX-License-Identifier: Apache-2.0
"""Bricks that are not what was written, and folders that are not what they were: what is lost is
lost alone, and counted once; nothing waits, and nothing of it gets into the map.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from damage import damaged
from hostile import distorted
from journalled import assert_equal, beside, observe
from test_bricks import (
    OUT_AND_BACK,
    Host,
    ask,
    everything,
    full,
    in_memory_alone,
    keeper,
    on_disk,
    slow,
    walk,
)
from test_bricks_live import ended, walked, wanted, within_bound
from test_bricks_live import everything as all_of
from test_correct import AT_ONCE, correct
from test_correct import done as corrected
from waiting import PATIENCE

from radseg_ros.mapper import Mapper
from radseg_ros.voxels.bricks import keeper as keeper_module
from radseg_ros.voxels.bricks import shelf as shelf_module
from radseg_ros.voxels.bricks.keeper import IDLE, Keeper, voxels_of
from radseg_ros.voxels.bricks.saving import save_whole
from radseg_ros.voxels.bricks.shelf import Brick, Shelf
from radseg_ros.voxels.map_file import FILE, MapIdentity, load_map
from radseg_ros.voxels.tensor_file import save_tensors, write_tensors

assert keeper  # a fixture


def two_bricks(folder: Path) -> tuple[Shelf, list[Brick], dict[str, torch.Tensor]]:
    """Two bricks that are of the same length, and what is in the first one."""
    world = in_memory_alone()
    walk(world, [0])
    state = world.table.copied(torch.arange(64))
    shelf = Shelf(folder)
    written = [shelf.write(state), shelf.write({**state, "key": state["key"] + 1})]
    bricks = [brick for brick in written if brick is not None]
    assert len(bricks) == 2 and bricks[0].nbytes == bricks[1].nbytes
    return shelf, bricks, state


def contents(
    folder: Path, bricks: list[Brick], state: Mapping[str, torch.Tensor], count: int
) -> Iterator[bytes]:
    """What may be in the file of a brick: of the same tensors, with honest checksums; of another
    brick, or map; or what damage leaves.
    """
    path, good = folder / "other", bricks[0].path.read_bytes()
    for other in distorted(state, 2 * count):
        path.unlink(missing_ok=True)
        write_tensors(path, other)
        yield path.read_bytes()
    save_tensors(path, FILE, {"voxel_size": 0.4, "channels": 7}, state)
    yield path.read_bytes()
    yield bricks[1].path.read_bytes()
    yield good.replace(b"F32", b"I32")  # the same bytes of another type
    yield good.replace(b"[64]", b"[8]" + b" ")
    yield good + bytes(8)
    yield from damaged(good, count)


@pytest.mark.parametrize("count", [8, slow(80)])
def test_nothing_is_read_but_what_was_written(tmp_path, count):
    shelf, bricks, state = two_bricks(tmp_path / "bricks")
    path = bricks[0].path
    good, lost = path.read_bytes(), 0
    for content in contents(tmp_path, bricks, state, count):
        path.write_bytes(content)
        found = shelf.read(bricks[0])
        assert (found is None) == (content != good)
        lost += found is None
    assert lost > 2 * count and shelf.damaged.total() == bricks[0].voxels
    path.write_bytes(good)
    found = shelf.read(bricks[0])
    assert found is not None and all(torch.equal(found[name], state[name]) for name in state)
    assert shelf.read(bricks[1]) is not None


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "large"])
def test_no_pipe_link_or_size_keeps_anybody_waiting(tmp_path, what):
    shelf, (brick, _), _ = two_bricks(tmp_path)
    brick.path.unlink()
    if what == "pipe":
        os.mkfifo(brick.path)
    elif what == "folder":
        brick.path.mkdir()
    elif what == "link":
        brick.path.symlink_to("/dev/zero")
    else:
        with brick.path.open("wb") as file:
            file.truncate(1 << 40)
    assert shelf.read(brick) is None
    assert shelf.damaged.total() == brick.voxels
    shelf.discard(brick)


def test_no_brick_is_written_through_a_link(tmp_path):
    shelf, _, state = two_bricks(tmp_path / "bricks")
    precious = tmp_path / "precious"
    precious.write_bytes(b"of the user")
    (shelf.folder / "next.radbrick").symlink_to(precious)
    shelf._names = iter(["next.radbrick"])
    assert shelf.write(state) is None and shelf.failed == 1
    assert precious.read_bytes() == b"of the user"


def test_a_file_that_is_cut_once_it_was_read_harms_nobody(tmp_path):
    """Were it mapped into memory, the process would be killed (SIGBUS)."""
    shelf, (brick, _), state = two_bricks(tmp_path)
    found = shelf.read(brick)
    os.truncate(brick.path, 1)
    assert found is not None and torch.equal(found["vectors"], state["vectors"])
    assert shelf.read(brick) is None


def spoil(world, share: int = 1) -> int:
    """Cut every so many bricks; return the voxels that are lost."""
    bricks = list(world.beyond.on_disk.values())[::share]
    for brick in bricks:
        os.truncate(brick.path, brick.nbytes // 2)
    return sum(brick.voxels for brick in bricks)


def test_what_is_lost_is_counted_once_whoever_finds_it(tmp_path, keeper):
    whole, world = full(tmp_path / "bricks")
    lost, before = spoil(world, 2), world.beyond.voxels
    path = tmp_path / "a.radmap"
    for _ in range(2):  # a copy for a file does not take what it cannot read out of the map
        save_whole(path, world, MapIdentity(), {})
        assert world.beyond.shelf.damaged.total() == lost
    found = ask(world)
    assert len(found.geometry) == len(load_map(path)[0]) < len(whole)
    assert world.beyond.voxels == before - lost, "it is not called a part of the map any more"
    assert world.beyond.shelf.damaged.total() == world.history.removed == lost
    kept = keeper(Host(world))
    walk(world, OUT_AND_BACK, 50)
    while kept.step():
        pass
    assert world.beyond.shelf.damaged.total() == world.history.removed == lost
    assert voxels_of(world) >= len(everything(world)) >= len(whole) - lost


@pytest.mark.parametrize("gone", ["removed", slow("a file")])
def test_a_folder_that_vanishes_while_the_robot_maps(tmp_path, gone, caplog):
    whole, world = full(tmp_path / "bricks")
    lost = world.beyond.voxels
    shutil.rmtree(tmp_path / "bricks")
    if gone == "a file":
        (tmp_path / "bricks").write_bytes(b"")
    evicted = walk(world, [30, 31], 60)
    assert evicted > 0 and len(world) <= 400, "as without bricks"
    left = everything(world)
    path = tmp_path / "a.radmap"
    assert save_whole(path, world, MapIdentity(), {}) == len(left) == len(load_map(path)[0])
    assert len(ask(world).geometry) == len(left)
    shelf = world.beyond.shelf
    assert not world.beyond.on_disk and shelf.damaged.total() == lost and shelf.failed
    assert world.history.removed == lost + evicted
    said = {"removed": "No such file", "a file": "Not a directory"}[gone]
    assert len(caplog.records) == 2 and said in caplog.text
    world.clear()
    assert walk(world, [0], 70) == 0 and len(whole)
    shelf.close()


def test_what_cannot_be_opened_now_is_not_lost(tmp_path, monkeypatch, keeper):
    whole, world = full(tmp_path)
    kept = keeper(Host(world))
    walk(world, [0], 60)
    assert world.beyond.wanted
    before, read_back = dict(world.beyond.on_disk), shelf_module.read_back

    def too_many(path: Path, *_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(shelf_module, "read_back", too_many)
    for work in (kept.step, lambda: ask(world), lambda: everything(world)):
        with pytest.raises(MemoryError, match="Too many open files"):
            work()
    assert world.beyond.on_disk == before and not world.beyond.shelf.damaged
    monkeypatch.setattr(shelf_module, "read_back", read_back)
    assert len(ask(world).geometry) == len(everything(world)) == len(whole)


def test_a_thread_that_fails_again_and_again_does_not_fill_the_log(monkeypatch, tmp_path, caplog):
    failed = threading.Event()

    def fails(_: object) -> bool:
        failed.set()
        raise MemoryError("no room")

    monkeypatch.setattr(Keeper, "step", fails)
    monkeypatch.setattr(keeper_module, "RETRY", PATIENCE)
    thread = Keeper(Host(on_disk(tmp_path)))
    assert failed.wait(PATIENCE)
    time.sleep(3 * IDLE)
    assert thread.close(PATIENCE) and len(caplog.records) == 1


# ---- while a robot maps --------------------------------------------------------------------------


def attack(folder: Path, rng: random.Random) -> None:
    """Do something to a brick that is on the disk."""
    bricks = [path for path in folder.glob("*.radbrick") if path.is_file()]
    if len(bricks) < 2:
        return
    one, two = rng.sample(bricks, 2)
    how = rng.choice(("cut", "flip", "remove", "swap", "copy", "link", "pipe"))
    with contextlib.suppress(OSError):  # it has come back meanwhile, or is a link to the other
        if how == "cut":
            os.truncate(one, rng.randrange(one.stat().st_size + 1))
        elif how == "flip":
            with one.open("r+b") as file:
                file.seek(rng.randrange(one.stat().st_size + 1))
                file.write(b"\xff\0\xff")
        elif how == "copy":
            shutil.copyfile(two, one)
        elif how == "swap":
            one.rename(folder / "third"), two.rename(one), (folder / "third").rename(two)
        else:
            one.unlink()
            if how == "link":
                one.symlink_to(two)
            elif how == "pipe":
                os.mkfifo(one)


@pytest.mark.slow
@pytest.mark.parametrize("hot", [0, 400], ids=["full", "tiers"])
def test_whatever_happens_to_bricks_the_map_goes_on_and_the_journal_makes_it_whole(
    tmp_path, monkeypatch, hot
):
    """Frames, questions, files and floor plans, while somebody else works in the folder."""
    fuse, evicted = Mapper.fuse, []

    def counting(*given):
        stats = fuse(*given)
        evicted.append(stats.evicted)
        return stats

    monkeypatch.setattr(Mapper, "fuse", counting)
    tiers = {"map__hot_voxels": hot, "map__cold_share": 4}
    live, rng = walked(tmp_path, **AT_ONCE, **tiers), random.Random(hot)
    with beside(
        lambda: attack(tmp_path / "bricks", rng),
        lambda: live.query(["red"]),
        lambda: live.save(tmp_path / "some.radmap"),
        live.floor_plan,
        pause=0.005,
    ):
        for turn in range(3):
            observe(live, range(20 * turn, 20 * turn + 20))
    live.query(["red"])  # finds the last ones
    within_bound(live)
    whole, left, removed = wanted(tmp_path, live), all_of(live), live.mapper.map.history.removed
    # more where a file was cut that had come back, while somebody still read it
    assert 0 < removed - sum(evicted) <= live.status().disk.damaged
    assert live.mapper.voxels >= len(left)
    slots = whole.table.index.find(left.table["key"])
    assert bool((slots >= 0).all()) and len(whole) - len(left) <= removed
    assert bool((left.table["hits"] <= whole.table["hits"][slots]).all())
    assert bool(left.snapshot().features.isfinite().all())
    assert load_map(tmp_path / "some.radmap")[0].channels == left.channels

    correct(live, range(60))  # a map that has lost voxels is made anew
    corrected(live)
    assert_equal(all_of(live), wanted(tmp_path, live), stamps=False, coded=hot > 0)
    ended(live)
