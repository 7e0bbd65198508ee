# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks of the journal share: a walk of random frames, and a live map of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import torch
from color_encoder import ColorEncoder
from plain_messages import head, info
from waiting import PATIENCE, wait_for

from radseg_ros.config import Config, NodeConfig, with_options
from radseg_ros.encoders.protocol import Encoder
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.voxel_map import VoxelMap

SIZE = (12, 16)  # px


def live_map(folder: Path, encoder: Encoder | None = None, **options: Any) -> LiveMap:
    """A live map with a journal, ready for frames; it goes on with what is in ``folder``.

    Args:
        options: by name, with _ for the dot after the group: ``map__voxel_size``.
    """
    given = {name.replace("__", "."): value for name, value in options.items()}
    load = given.pop("load", None)
    base = Config(encoder="colors", short_side=0, node=NodeConfig(backlog=99, map_frame="map"))
    always = {"map.frame_is_persistent": True, "map.work_ahead": 0.0}
    given = {**always, "journal.directory": str(folder), **given}
    config = with_options(base, given)
    live = LiveMap(config)
    live.start(Mapper(config, encoder or ColorEncoder()))
    live.resume(load)
    live.receive("info", info())
    return live


def observe(
    live: LiveMap,
    steps: Iterable[int],
    frame: str = "map",
    places: Mapping[int, np.ndarray] | None = None,
) -> None:
    """Frame ``step`` of the walk, at ``step`` tenths of a second; each is in the map at the end.

    Args:
        places: T_world_camera of the steps; None = :func:`place`.
    """
    for step in steps:
        rng = np.random.default_rng(step)
        ms = 1000 + 100 * step
        for kind, pixels, encoding in (
            ("color", rng.integers(0, 256, (*SIZE, 3), np.uint8), "rgb8"),
            ("depth", rng.integers(500, 2500, SIZE).astype("<u2"), "16UC1"),
        ):
            size = {"height": SIZE[0], "width": SIZE[1], "step": pixels[0].nbytes}
            data = {"encoding": encoding, "is_bigendian": 0, "data": pixels.tobytes()}
            live.receive(kind, Message(header=head(ms, frame), **size, **data))
        T = place(step) if places is None else places[step]
        live.receive("pose", pose_message(ms, T, frame))
        settle(live)


def place(step: int) -> np.ndarray:
    """T_world_camera, (4, 4), of frame ``step``."""
    T = np.eye(4)
    turn = 0.3 * step
    T[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    T[:3, 3] = 0.2 * step, np.sin(step), 0.1
    return T


def pose_message(ms: int, T: np.ndarray, frame: str = "map") -> Message:
    """geometry_msgs/PoseStamped of a pose that is turned about z."""
    half = np.arctan2(T[1, 0], T[0, 0]) / 2
    turn = Message(x=0.0, y=0.0, z=float(np.sin(half)), w=float(np.cos(half)))
    x, y, z = T[:3, 3].tolist()
    return Message(
        header=head(ms, frame), pose=Message(position=Message(x=x, y=y, z=z), orientation=turn)
    )


def settle(live: LiveMap, done: Callable[[], bool] = lambda: True) -> None:
    """Wait until nothing is being worked on."""
    wait_for(lambda: not live.status().waiting and done(), "the end of the work")


def close(live: LiveMap) -> None:
    """End all that it does, so that another one can have its journal."""
    assert live.close(PATIENCE), "a thread does not end"


def rows(world: VoxelMap) -> dict[str, torch.Tensor]:
    """All that a map holds, by ascending key."""
    order = world.table["key"].argsort()
    names = ("key", "hits", "views", "rgb_sum", "first_seen_ns", "last_seen_ns")
    found = {name: world.table[name][order] for name in names}
    return {**found, "vectors": world.table.means(order)}


def assert_equal(
    found: VoxelMap, wanted: VoxelMap, stamps: bool = True, coded: bool = False
) -> None:
    """The same voxels: whole numbers exactly, colours and vectors to rounding.

    Args:
        coded: vectors to what codes of 1/4 lose.
    """
    a, b = rows(found), rows(wanted)
    whole = ("key", "hits", "views", *(("first_seen_ns", "last_seen_ns") if stamps else ()))
    for name in whole:
        assert torch.equal(a[name], b[name]), name
    torch.testing.assert_close(a["rgb_sum"], b["rgb_sum"], atol=1e-6, rtol=1e-9)
    if not coded:
        torch.testing.assert_close(a["vectors"], b["vectors"], atol=1e-4, rtol=0)
        return
    near = torch.cosine_similarity(a["vectors"], b["vectors"])
    assert near.mean() > 0.99 and near.min() > 0.9


@contextmanager
def beside(*works: Callable[[], object], pause: float = 0.0) -> Iterator[None]:
    """Each of these again and again, in a thread of its own, while the block runs: none fails."""
    stop, failures = threading.Event(), []

    def repeat(work: Callable[[], object]) -> None:
        try:
            while not stop.wait(pause):
                work()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures
