# SPDX-License-Identifier: Apache-2.0
"""Messages of which any field may hold anything: each is used, or dropped and counted, and what
becomes of the rest is not touched.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from color_encoder import ColorEncoder
from damage import OTHER_VALUES
from journalled import settle
from plain_messages import Message, image, info, pose, transforms

from radseg_ros.config import Config, NodeConfig, with_options
from radseg_ros.frames.drops import MAX_REASONS
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper

VALUES = (
    *OTHER_VALUES,
    *(2**31, 2**32 - 1, 2**63, -(2**31), 1e9, 1e-300, b"", b"x" * 7),
    *("map", "odom", "cam", "a" * 300, [float("nan")] * 9, [1e300] * 12, [0] * 12),
    *(np.zeros(3), np.full((3, 3), np.nan), Message()),
)


def altered(message: Message, rng: random.Random) -> Message:
    """A copy with one or two other fields."""
    message = copy.deepcopy(message)
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = rng.choice(list(fields(message)))
        value = copy.deepcopy(rng.choice(VALUES))
        if isinstance(holder, list):
            holder[key] = value
        elif hasattr(holder, key) and rng.random() < 0.15:
            delattr(holder, key)
        else:
            setattr(holder, key, value)
    return message


def fields(value: Any) -> Iterator[tuple[Any, Any]]:
    """What holds a field, and its name or place; all the way down."""
    short = value if isinstance(value, list) and len(value) < 30 else []
    inner = vars(value).items() if isinstance(value, Message) else enumerate(short)
    for key, below in list(inner):
        yield value, key
        yield from fields(below)


def camera_info() -> Message:
    """With every field of its type."""
    roi = Message(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    rectified = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]
    distortion = {"d": [0.1] * 5, "r": rectified, "distortion_model": "plumb_bob"}
    return info(**distortion, binning_x=0, binning_y=0, roi=roi)


def moment(ms: int, source: str, rng: random.Random) -> list[tuple[str, Message]]:
    """The messages of one frame, in any order."""
    where = "map" if source == "pose" else "cam"
    depth = image(ms, "16UC1", where)
    depth.data = np.full(12 * 16, rng.choice([0, 1500, 2000, 65535]), "<u2").tobytes()
    found = [("color", image(ms, frame=where)), ("depth", depth), ("info", camera_info())]
    if source == "tf":
        moving = transforms((ms, "map", "cam"), (ms, "cam", "arm"))
        found += [("tf", moving), ("tf_static", transforms((ms, "base", "map")))]
    else:
        child = "cam" if source == "odometry" else None
        found.append(("pose", pose(ms, ms / 1e4, odometry=child is not None, child=child)))
    rng.shuffle(found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("source", ["pose", "odometry", "tf"])
def test_messages_whose_fields_hold_anything(seed, source):
    rng, sent = random.Random(seed), Counter()
    base = Config(encoder="colors", short_side=0, node=NodeConfig(backlog=99, map_frame="map"))
    poses = {"node.pose_source": "tf"} if source == "tf" else {"node.pose_type": source}
    live = LiveMap(with_options(base, {"map.work_ahead": 0.0, **poses}))
    live.start(Mapper(live.config, ColorEncoder()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(60):
                ms = 1000 + 100 * step if rng.random() < 0.95 else rng.randrange(7000)
                for kind, message in moment(ms, source, rng):
                    sent[kind] += 1
                    live.receive(kind, altered(message, rng) if rng.random() < 0.2 else message)
            settle(live)
        for kind, account in live.status().accounts.items():
            parts = (account.used, account.superseded, account.waiting, account.dropped)
            assert account.received == sum(parts), (kind, account)
            # transforms are counted one by one
            assert kind in ("tf", "tf_static") or account.received == sent[kind]
        reasons = [reason for reason, _ in live.drops.items()]
        assert len(reasons) <= MAX_REASONS + 1
        assert all(len(reason) <= 300 and reason.isprintable() for reason in reasons)
        world = live.mapper.map
        assert len(world), "frames between the others are used"
        assert bool(world.snapshot().features.isfinite().all())
        assert live.drops.failures == 0
    finally:
        live.close()
