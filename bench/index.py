# SPDX-License-Identifier: Apache-2.0
"""Structures that could find the slot of a voxel: what a frame costs with each, in a small and in a
large map.

    python bench/index.py

A frame looks up 10 000 voxels of one region, 1 000 of them new, and adds those.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Protocol

import patience  # noqa: F401  # isort: skip

import torch  # isort: skip

from radseg_ros.voxels.index import VoxelIndex, pack, unpack


class Structure(Protocol):
    """key -> slot."""

    def find(self, key: torch.Tensor) -> torch.Tensor:
        """Slots, -1 where there is none."""
        ...

    def assign(self, key: torch.Tensor, slot: torch.Tensor) -> None:
        """Add new keys."""
        ...


class Dictionary:
    """Python's dict."""

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}

    def find(self, key: torch.Tensor) -> torch.Tensor:
        """One look-up at a time."""
        return torch.tensor([self.slots.get(k, -1) for k in key.tolist()])

    def assign(self, key: torch.Tensor, slot: torch.Tensor) -> None:
        """One key at a time."""
        self.slots.update(zip(key.tolist(), slot.tolist(), strict=True))


class Sorted:
    """All keys in order: a binary search, and a merge of the whole array when keys are added."""

    def __init__(self) -> None:
        self.keys = torch.zeros(0, dtype=torch.int64)
        self.slots = torch.zeros(0, dtype=torch.int64)

    def find(self, key: torch.Tensor) -> torch.Tensor:
        """Binary search."""
        if not len(self.keys):
            return torch.full_like(key, -1)
        at = torch.searchsorted(self.keys, key).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[at] == key, self.slots[at], -1)

    def assign(self, key: torch.Tensor, slot: torch.Tensor) -> None:
        """Sort again."""
        self.keys, order = torch.sort(torch.cat([self.keys, key]))
        self.slots = torch.cat([self.slots, slot])[order]


class Open3d:
    """Open3D's hash map, with three coordinates as the key.

    Packed keys collide in its hash function.
    """

    def __init__(self) -> None:
        import open3d

        self.core = open3d.core
        self.map = self.core.HashMap(1 << 16, self.core.int32, (3,), self.core.int64, (1,))

    def find(self, key: torch.Tensor) -> torch.Tensor:
        """One call."""
        at, found = self.map.find(self._coordinates(key))
        slots = torch.from_numpy(self.map.value_tensor().numpy())[:, 0]
        found = torch.from_numpy(found.numpy())
        return torch.where(
            found, slots[torch.where(found, torch.from_numpy(at.numpy()).long(), 0)], -1
        )

    def assign(self, key: torch.Tensor, slot: torch.Tensor) -> None:
        """One call."""
        self.map.insert(self._coordinates(key), self.core.Tensor.from_numpy(slot.numpy()[:, None]))

    def _coordinates(self, key: torch.Tensor) -> object:
        return self.core.Tensor.from_numpy(unpack(key).int().numpy())


STRUCTURES = {
    "bricks (ours)": VoxelIndex,
    "sorted keys": Sorted,
    "python dict": Dictionary,
    "open3d HashMap": Open3d,
}


def surface(start: int, count: int) -> torch.Tensor:
    """``count`` voxels of a wavy floor 200 voxels wide, from voxel number ``start`` on: (count,)
    keys, ascending.
    """
    number = torch.arange(start, start + count)
    x, z = number // 200, number % 200
    return pack(
        torch.stack([x, (4 * torch.sin(0.1 * x) + 3 * torch.cos(0.07 * z)).round(), z]).double()
    ).sort()[0]


def frame_time(
    structure: Structure, size: int, rounds: int, looked: int = 10_000, new: int = 1000
) -> float:
    """Median seconds of a frame."""
    known = surface(0, size)
    structure.assign(known[:-1], torch.arange(size - 1))
    structure.assign(known[-1:], torch.tensor([size - 1]))  # what grows by a factor has grown
    times = []
    for _ in range(rounds):
        keys = surface(size + new - looked, looked)
        start = time.perf_counter()
        slots = structure.find(keys)
        missing = slots < 0
        structure.assign(keys[missing], torch.arange(size, size + int(missing.sum())))
        times.append(time.perf_counter() - start)
        assert int(missing.sum()) == new
        size += new
    return statistics.median(times)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'ms a frame':<16}{'20 000':>10}{'500 000':>10}{'2 000 000':>11}")
    for name, make in STRUCTURES.items():
        times = [
            1e3 * frame_time(make(), size, options.rounds) for size in (20_000, 500_000, 2_000_000)
        ]
        print(f"{name:<16}{times[0]:>10.2f}{times[1]:>10.2f}{times[2]:>11.2f}")


if __name__ == "__main__":
    main()
