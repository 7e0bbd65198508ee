# SPDX-License-Identifier: Apache-2.0
"""A live map of which most is on the disk: asked, saved, corrected, reset, and begun again."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from journalled import SIZE, assert_equal, beside, close, live_map, observe, settle
from test_correct import AT_ONCE, correct, from_scratch
from test_correct import done as corrected

from radseg_ros.config import Config, MapConfig, PersistenceConfig
from radseg_ros.datatypes import ConfigError, Filter, MapFileError
from radseg_ros.live_map import LiveMap, LiveStatus
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.bricks import cubes
from radseg_ros.voxels.map_file import load_map
from radseg_ros.voxels.voxel_map import VoxelMap

STEPS = range(12)
BOUND = 700  # voxels; the walk has some 2000
A_FRAME = SIZE[0] * SIZE[1]  # voxels at most


def walked(folder: Path, **options) -> LiveMap:
    given = {"map__disk_directory": str(folder / "bricks"), "map__max_voxels": BOUND, **options}
    live = live_map(folder / "journal", **given)
    observe(live, STEPS)
    return live


def ended(live: LiveMap) -> None:
    close(live)
    live.discard()


def within_bound(live: LiveMap) -> LiveStatus:
    """Its status between two bricks: with one that is on its way there may be more in memory."""
    found = [live.status()]
    settle(live, lambda: found.append(live.status()) or found[-1].voxels <= BOUND)
    return found[-1]


def everything(live: LiveMap) -> VoxelMap:
    """All of the map, in memory."""
    with live.mapper.lock:
        world = live.mapper.map
        whole = VoxelMap(world.channels, MapConfig(), device="cpu")
        whole.merge(world)
        whole.history.removed = 0
    return whole


def wanted(folder: Path, live: LiveMap) -> VoxelMap:
    """What the frames of the journal make without bounds."""
    with live.mapper.lock:
        config = live.mapper.config
    free = type("Live", (), {"mapper": type("Mapper", (), {})()})()
    free.mapper.config = Config(map=MapConfig(space=config.map.space))
    return from_scratch(folder / "journal", free)


def test_nothing_is_lost_and_the_account_says_where_it_is(tmp_path):
    live = walked(tmp_path)
    status = within_bound(live)
    assert BOUND < status.disk.voxels and status.everywhere >= 1500
    assert status.disk.nbytes > 0 and not status.disk.failed and not status.disk.damaged
    assert_equal(everything(live), wanted(tmp_path, live))
    close(live)
    assert live.save(tmp_path / "at_the_end.radmap") == len(everything(live))
    live.discard()
    assert not list((tmp_path / "bricks").iterdir())


def test_questions_and_clouds_see_all_of_it(tmp_path):
    live = walked(tmp_path)
    whole = wanted(tmp_path, live)
    found = live.query(["red", "green"])
    assert len(found.geometry) == len(whole) and found.covered == 1.0
    plain = {tuple(index) for index in whole.table.coordinates().tolist()}
    assert {tuple(index) for index in found.geometry.index.tolist()} == plain
    assert len(live.cloud(["red"])) == len(live.cloud()) == len(whole)
    near = live.query(["red"], where=Filter(centre=(0, 0, 0), radius=1.0)).geometry
    here = (whole.table.coordinates() * 0.05).norm(dim=1) <= 1.0
    assert len(near) == int(here.sum()) > 0
    hasty = live.query(["red"], time_limit=0.0)
    assert 0 < hasty.covered < 0.7
    image = np.full((16, 16, 3), (255, 0, 0), np.uint8)
    assert len(live.query_image(image, "red").geometry) == len(whole)
    ended(live)


def test_floor_plans_know_all_of_it(tmp_path, caplog):
    caplog.set_level("INFO", "radseg_ros.voxels.bricks")
    rules = {"grid__min_hits": 1, "grid__floor": -1.0, "grid__high": 3.0}
    live, whole = walked(tmp_path, **rules), live_map(tmp_path / "whole", **rules)
    observe(whole, STEPS)
    settle(live, lambda: live.status().disk.voxels > 0)
    found, wanted = live.floor_plan(), whole.floor_plan()
    assert found.first == wanted.first and np.array_equal(found.data, wanted.data)
    assert (found.data > 0).sum() > 100
    outline = live.mapper.places()
    assert len(outline.index) > len(live.mapper.map)
    assert caplog.text.count("published clouds show what is in memory") == 1
    ended(live)
    ended(whole)


@pytest.mark.slow
def test_a_file_has_all_of_it_and_is_read_back(tmp_path):
    live = walked(tmp_path)
    whole, path = wanted(tmp_path, live), tmp_path / "whole.radmap"
    assert live.save(path) == len(whole) and not live.unsaved
    assert live.reset() >= len(whole)
    assert live.status().disk.voxels == 0 == live.status().voxels
    assert live.load(path) >= len(whole)
    assert_equal(everything(live), whole)
    assert live.load(path, merge=True) >= len(whole)
    twice = everything(live)
    assert int(twice.table["hits"].sum()) == 2 * int(whole.table["hits"].sum())
    within_bound(live)
    ended(live)


@pytest.mark.slow
def test_a_node_that_begins_again_has_all_of_it(tmp_path):
    live = walked(tmp_path)
    whole = wanted(tmp_path, live)
    with pytest.raises(MapFileError, match="in use"):
        Mapper(live.mapper.config, live.mapper.encoder)
    ended(live)
    (tmp_path / "bricks" / "00000001.radbrick").write_bytes(b"of a node that was killed")
    again = live_map(
        tmp_path / "journal", map__disk_directory=str(tmp_path / "bricks"), map__max_voxels=BOUND
    )
    within_bound(again)
    assert_equal(everything(again), whole)
    ended(again)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"map__carve_after": 3}])
def test_corrected_poses_reach_what_is_on_the_disk(tmp_path, options):
    live = walked(tmp_path, **AT_ONCE, **options)
    moved = correct(live, STEPS)
    assert moved.moved > 6
    corrected(live)
    journal = live.status().journal
    assert not journal.unmoved and not journal.damaged
    if options:
        assert len(everything(live)) > BOUND  # when a brick comes back decides what is carved
    else:
        assert_equal(everything(live), wanted(tmp_path, live), stamps=False)
        assert live.mapper.map.is_sum
    ended(live)


def test_a_folder_without_a_bound_is_refused():
    with pytest.raises(ConfigError, match=r"map\.disk_directory needs a bound"):
        Config(persistence=PersistenceConfig(disk_directory="bricks"))


def test_a_folder_that_the_journal_has_is_refused(tmp_path):
    live = live_map(tmp_path / "journal")
    ended(live)
    for other in ("journal", "a/../journal/"):
        with pytest.raises(ConfigError, match=r"disk_directory and journal\.directory must be two"):
            live_map(
                tmp_path / "journal",
                map__disk_directory=f"{tmp_path}/{other}",
                map__max_voxels=BOUND,
            )


@pytest.mark.slow
def test_a_storm_of_everything_at_once_loses_nothing(tmp_path, monkeypatch):
    """Frames, questions, files and corrections beside each other, and the disk behind them."""
    live = live_map(
        tmp_path / "journal",
        map__disk_directory=str(tmp_path / "bricks"),
        map__max_voxels=BOUND,
        **AT_ONCE,
    )
    mapper, held, others = live.mapper, [torch.zeros(0, dtype=torch.int64)], [0]
    holding = mapper.holding

    def noted(world: VoxelMap, key: torch.Tensor):
        held.append(torch.unique(cubes.brick_of(key)))
        return holding(world, key)

    def look() -> None:
        """How much is in memory besides what the frame needs that moves, or was moved last."""
        with mapper.lock:
            brick = cubes.brick_of(mapper.map.table["key"])
            others.append(int((~torch.isin(brick, held[-1])).sum()))
        time.sleep(0.002)

    monkeypatch.setattr(mapper, "holding", noted)
    observe(live, range(1))
    with beside(
        lambda: live.query(["red"]),
        lambda: live.save(tmp_path / "some.radmap"),
        look,
    ):
        for turn in range(3):
            observe(live, range(1 + 13 * turn, 14 + 13 * turn))
            correct(live, range(14 + 13 * turn), 0.1 * (turn + 1))
        corrected(live)
    status = within_bound(live)
    assert not status.disk.failed and not status.disk.damaged and not status.journal.unmoved
    whole = everything(live)
    a_brick = int(cubes.brick_of(whole.table["key"]).unique(return_counts=True)[1].max())
    assert max(others) <= BOUND + 2 * a_brick + A_FRAME, "docs/method.md 3.4"
    assert_equal(whole, wanted(tmp_path, live), stamps=False)
    live.save(tmp_path / "all.radmap")
    assert_equal(load_map(tmp_path / "all.radmap")[0], wanted(tmp_path, live), stamps=False)
    ended(live)
