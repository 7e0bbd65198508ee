# SPDX-License-Identifier: Apache-2.0
"""Kills a process that maps with a journal, again and again, and compares what is left."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from journalled import assert_equal, close, live_map, observe
from waiting import PATIENCE

from radseg_ros.config import MapConfig
from radseg_ros.journal.folder import Journal
from radseg_ros.live_map import LiveMap
from radseg_ros.voxels.voxel_map import VoxelMap

MOST = 12  # frames that a process lives, and
LONGER = 0.03  # s
SAVES = 5  # frames between two files of the map
FROM_THE_JOURNAL = 8  # rounds between two restarts without the file


@dataclass(slots=True)
class Killed:
    """What became of the frames."""

    kills: int = 0
    frames: int = 0  # in the journal
    in_hand: int = 0  # of those, frames whose end the process could not tell any more
    saves: int = 0  # files of the map that restarts began with
    bricks: int = 0  # left behind by those that were killed


def _map(folder: str, start: int, options: dict[str, Any], ended: Connection) -> None:
    """In a process of its own: map frames from ``start`` on and tell of each that it is done."""
    torch.set_num_threads(1)
    file = Path(folder) / "auto.radmap"
    load = file if file.exists() else None
    live = live_map(Path(folder) / "journal", load=load, **options)
    ended.send(-1)
    for step in itertools.count(start):
        observe(live, [step])
        ended.send(step)
        if step % SAVES == 0:
            live.autosave(file)


def _options(folder: Path, hot: int, bound: int) -> dict[str, Any]:
    bricks = {"map__disk_directory": str(folder / "bricks"), "map__max_voxels": bound}
    return {"map__hot_voxels": hot, "map__cold_share": 4, **(bricks if bound else {})}


def _whole(live: LiveMap) -> VoxelMap:
    """All of a map, in memory."""
    world = live.mapper.map
    if world.beyond is None:
        return world
    with live.mapper.lock:
        whole = VoxelMap(world.channels, MapConfig(device="cpu"))
        whole.merge(world)
    return whole


def killed(folder: Path, rounds: int, seed: int, hot: int = 0, bound: int = 0) -> Killed:
    """Kill so many processes, each at a random moment.

    After each, the journal must hold every frame that was told to be done and at most one more,
    and a restart must have the map of the frames in the journal.

    Args:
        hot: ``map.hot_voxels``.
        bound: ``map.max_voxels``, beyond which bricks go to the disk; 0 = none.
    """
    options = _options(folder, hot, bound)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["radseg_ros.live_map"])  # torch, once
    moments, found, file = random.Random(seed), Killed(), folder / "auto.radmap"
    layout = MapConfig(hot_voxels=hot, cold_share=4, device="cpu")
    wanted, known = VoxelMap(8, layout), 0
    for number in range(rounds):
        told, ended = context.Pipe(duplex=False)
        process = context.Process(
            target=_map, args=(str(folder), known, options, ended), daemon=True
        )
        process.start()
        ended.close()
        assert _next(told) == -1
        done = known - 1
        for _ in range(moments.randrange(MOST)):
            done = _next(told)
        time.sleep(moments.uniform(0, LONGER))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        done = _last(told, done)
        journal = Journal(folder / "journal")
        frames = [r for r in journal.records if r.kind == "frame"]
        assert len(frames) - 1 in (done, done + 1), (len(frames), done)
        for record in frames[known:]:
            kept = journal.key_frame(record)
            assert kept is not None
            wanted.integrate(kept.frame, kept.features, kept.rules)
        found.in_hand += len(frames) - 1 - done
        known, found.kills, found.frames = len(frames), number + 1, len(frames)
        with_file = file.exists() and number % FROM_THE_JOURNAL > 0
        found.saves += with_file
        load = file if with_file else None
        found.bricks += len(list((folder / "bricks").glob("*.radbrick")))
        again = live_map(folder / "journal", load=load, **options)
        assert_equal(_whole(again), wanted, coded=hot > 0)
        assert not journal.damaged
        close(again)
        again.discard()
    return found


def _next(told: Connection) -> int:
    """What a process tells next."""
    assert told.poll(PATIENCE), "a process says nothing"
    return int(told.recv())


def _last(told: Connection, before: int) -> int:
    """The last step that a process told of before it died."""
    last = before
    try:
        while told.poll(0):
            last = told.recv()
    except (EOFError, OSError):
        pass
    return last
