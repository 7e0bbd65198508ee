# SPDX-License-Identifier: Apache-2.0
"""Files as they come out of broken downloads, full disks and wrong programs: seeded damage."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

# what a value of JSON, or of a dictionary of tensors, may be instead of what it should
OTHER_VALUES = (
    *(None, True, 0, -1, 1.5, 10**20, 10**400, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800"),
    *([], [1], [[[]]], {}, {"x": 1}, {"name": None}, "9" * 5000),
)


def damaged(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` ways in which ``data`` may have suffered: cut, overwritten, doubled, or empty."""
    rng = random.Random(seed)
    yield b""
    for number in range(count - 1):
        found, place = bytearray(data), rng.randrange(max(1, len(data)))
        kind = number % 6
        if kind == 0:
            del found[place:]
        elif kind == 1:  # a header suffers more often than its share
            place = rng.randrange(min(len(found), 300))
            found[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            for _ in range(20):
                found[rng.randrange(len(found))] = rng.randrange(256)
        elif kind == 3:
            del found[place : place + rng.randrange(1, 64)]
        elif kind == 4:
            found[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 64)))
        else:
            found[place : place + 512] = bytes(min(512, len(found) - place))
        yield bytes(found)


def altered(value: Any, count: int, seed: int = 0) -> Iterator[Any]:
    """``count`` copies of a nest of dictionaries and lists, with one or two other values inside."""
    rng = random.Random(seed)
    for _ in range(count):
        found = [copy.deepcopy(value)]
        for _ in range(rng.choice((1, 1, 2))):
            places = list(_places(found))
            holder, key = rng.choice(places)
            if isinstance(holder, dict) and key in holder and rng.random() < 0.2:
                del holder[key]
            else:
                holder[key] = copy.deepcopy(rng.choice(OTHER_VALUES))
        yield found[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])
