# SPDX-License-Identifier: Apache-2.0
"""The rows of a map against a dictionary: claimed, added to, given back, removed, copied, read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radseg_ros.voxels import table as table_module
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.table import VoxelTable

CPU = torch.device("cpu")
CHANNELS = 3
SUMS = ("hits", "views", "rgb_sum", "first_seen_ns", "last_seen_ns", "seen_at")


def keys(count: int, apart: int = 1, start: int = 0) -> torch.Tensor:
    """Keys of voxels in a line; ``apart`` = 8 puts each into a brick of its own."""
    x = torch.arange(start, start + count) * apart
    return pack(torch.stack([x, x * 0, x * 0]))


def points(rng: np.random.Generator, count: int) -> dict[str, torch.Tensor]:
    """What a frame adds to so many voxels."""
    stamps = {name: torch.tensor(rng.integers(-50, 50, count)) for name in SUMS[3:]}
    hits = torch.tensor(rng.integers(1, 5, count))
    views = torch.tensor(rng.integers(1, 3, count), dtype=torch.int32)
    colors = torch.tensor(rng.random((count, 3)))
    return {"hits": hits, "views": views, "rgb_sum": colors, **stamps}


def add(table: VoxelTable, key: torch.Tensor, rows: dict[str, torch.Tensor], vectors) -> None:
    slots, order = table.claim(key)
    assert bool((slots.diff() > 0).all()), "ascending"
    ordered = {name: values[order] for name, values in rows.items()}
    table.add(slots, ordered, lambda a, b: vectors[order][a:b].clone())


def made(count: int, apart: int = 1, **options: Any) -> VoxelTable:
    table = VoxelTable(CHANNELS, torch.float32, CPU, **options)
    rng = np.random.default_rng(0)
    add(table, keys(count, apart), points(rng, count), torch.ones(count, CHANNELS))
    return table


def contents(table: VoxelTable) -> dict[int, dict[str, Any]]:
    """Everything that is kept of each voxel, by key; the index must find it there."""
    assert torch.equal(table.index.find(table["key"]), torch.arange(len(table)))
    names = (*SUMS, "seen_through", "changed")
    columns = {name: table[name].tolist() for name in names}
    columns["sum"] = table.sums(torch.arange(len(table))).tolist()
    rows = zip(*columns.values(), strict=True)
    return {k: dict(zip(columns, row, strict=True)) for k, row in zip(table["key"].tolist(), rows)}  # noqa: B905


def assert_equal(found: dict, expected: dict, changed: bool = True) -> None:
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        for name, value in row.items():
            if name != "changed" or changed:
                np.testing.assert_allclose(found[key][name], value, atol=1e-4, err_msg=name)


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_a_table_is_a_dictionary_of_sums(seed):
    rng = np.random.default_rng(seed)
    table, copy = (VoxelTable(CHANNELS, torch.float32, CPU) for _ in range(2))
    reference: dict[int, dict[str, Any]] = {}
    newest = 0
    for _ in range(8):
        count = int(rng.integers(0, 25))
        key = torch.tensor(rng.permutation(keys(40).numpy())[:count])
        what = rng.choice(["add", "add", "give back", "remove", "look", "trim", "read", "follow"])
        if what == "add":
            rows, vectors = points(rng, count), torch.tensor(rng.random((count, 3))).float()
            add(table, key, rows, vectors)
            for i, k in enumerate(key.tolist()):
                new = {name: np.array(values[i].tolist()) for name, values in rows.items()}
                old = reference.get(k)
                row = {
                    "hits": new["hits"] + (old["hits"] if old else 0),
                    "views": new["views"] + (old["views"] if old else 0),
                    "rgb_sum": new["rgb_sum"] + (old["rgb_sum"] if old else 0),
                    "first_seen_ns": min(new["first_seen_ns"], old["first_seen_ns"])
                    if old
                    else new["first_seen_ns"],
                    "last_seen_ns": max(new["last_seen_ns"], old["last_seen_ns"])
                    if old
                    else new["last_seen_ns"],
                    "seen_at": max(new["seen_at"], old["seen_at"]) if old else new["seen_at"],
                    "seen_through": 0,
                    "sum": vectors[i].numpy() + (old["sum"] if old else 0),
                }
                reference[k] = row
            if count:
                revisions = table["changed"][table.index.find(key)].unique().tolist()
                assert len(revisions) == 1 and revisions[0] > newest
                newest = revisions[0]
                for k in key.tolist():
                    reference[k]["changed"] = newest
        elif what == "give back":
            known = len(table)
            slots, order = table.claim(key)
            assert torch.equal(table["key"][slots], key[order])
            table.release(known)
        elif what == "remove":
            gone = torch.tensor(rng.random(len(table)) < rng.choice([0.1, 0.5, 1.0]))
            for k in table["key"][gone].tolist():
                del reference[k]
            assert table.remove(gone) == int(gone.sum())
        elif what == "look":
            table["seen_through"].add_(1)
            for row in reference.values():
                row["seen_through"] += 1
        elif what == "trim":
            table.trim()
        elif what == "read":
            again = VoxelTable(CHANNELS, torch.float32, CPU)
            again.load({**table.state(), "seen_at": table["seen_at"]})
            assert_equal(contents(again), reference, changed=False)
            revisions = again["changed"].unique().tolist()
            assert not revisions or (len(revisions) == 1 and revisions[0] > newest)
        else:
            stale = len(table)
            while stale:
                now = copy.follow(table, 7)
                assert now == stale or stale == len(table)
                stale = max(0, now - 7)
            assert copy.follow(table, 7) == 0
            for name, values in table.state().items():
                assert torch.equal(copy.state()[name], values), name
            for name in ("seen_at", "changed"):
                assert torch.equal(copy[name], table[name])
        assert len(table) == len(reference)
        assert_equal(contents(table), reference)


def test_claimed_rows_are_empty_and_keys_that_go_are_nowhere():
    table = made(10)
    slots, _ = table.claim(keys(10, start=5))
    assert slots.tolist() == list(range(5, 15)) and len(table) == 15
    for name in ("hits", "rgb_sum", "seen_through", "changed"):
        assert not table[name][10:].any()
    assert not table.vectors.state()["vectors"][10:].any()
    table.release(10)
    assert (table.index.find(keys(10, start=10)) == -1).all()
    table.remove(torch.arange(10) % 2 == 1)
    assert table.index.find(keys(10)).tolist() == [0, -1, 2, -1, 4, -1, 1, -1, 3, -1]


def test_following_copies_only_what_is_asked_for_and_stale():
    table, copy = made(20), VoxelTable(CHANNELS, torch.float32, CPU)
    assert [copy.follow(table, 8) for _ in range(4)] == [20, 12, 4, 0]
    table["seen_through"][3] = 5
    assert copy.follow(table, 8) == 0 and copy["seen_through"][3] == 5
    rng = np.random.default_rng(1)
    add(table, keys(4, start=18), points(rng, 4), torch.ones(4, CHANNELS))
    assert [copy.follow(table, 8) for _ in range(2)] == [4, 0]
    assert torch.equal(copy["key"], table["key"])


@pytest.mark.parametrize(
    ("channels", "dtype", "max_bytes", "rows"),
    [
        (768, torch.float32, 0, 4096),
        (768, torch.float32, None, 4096),
        (768, torch.float32, 1, 64),
        (8, torch.float32, 64 * 32 * 64, 64),
        (8, torch.float32, 64 * 32 * 65, 65),
        (8, torch.float16, 64 * 16 * 100, 100),
        (8, torch.float16, 10**12, 4096),
    ],
)
def test_a_bounded_table_grows_in_small_steps(channels, dtype, max_bytes, rows):
    bound = [] if max_bytes is None else [max_bytes]
    assert VoxelTable(channels, dtype, CPU, *bound).vectors.block_rows == rows


def test_what_is_removed_is_given_back_now_and_then(monkeypatch):
    """The index keeps a row of 2 kB for every brick, also for those that are empty."""
    monkeypatch.setattr("radseg_ros.voxels.table._BLOCK_ROWS", {"cpu": 8})
    table = made(40, apart=8)

    def remove(count: int) -> int:
        gone = torch.zeros(len(table), dtype=torch.bool)
        gone[:count] = True
        table.remove(gone)
        return len(table.index.brick_corner)

    assert remove(20) == 40, "as many removed as are left"
    assert remove(1) == 19, "more removed than are left"
    assert remove(9) == 19 and remove(1) == 9, "counted anew; 10 removed, 9 left"
    assert remove(1) == 9 and remove(7) == 9, "8 removed: a few are never worth it"
    assert remove(1) == 0


def test_a_table_gives_back_all_that_it_does_not_need():
    table = made(300, apart=8)
    gone = torch.arange(300) >= 10
    table.remove(gone)
    table.trim()
    rows = sum(column._storage.nbytes for column in table._columns.values())
    assert table.nbytes == rows + table.vectors.nbytes + table.index.nbytes
    assert rows == 10 * sum(column.data[:1].nbytes for column in table._columns.values())
    assert table.index.nbytes == (10 + 1) * (512 * 4 + 2 * 8)  # one is that of missing bricks


@pytest.mark.parametrize("channels", [1, 768, 40_000, 10_000_000])
def test_blocks_of_long_vectors_are_bounded_on_every_device(channels, monkeypatch):
    for rows in table_module._BLOCK_ROWS.values():
        monkeypatch.setitem(table_module._BLOCK_ROWS, "cpu", rows)
        blocks = VoxelTable(channels, torch.float32, torch.device("cpu")).vectors
        assert 1 <= blocks.block_rows <= rows
        assert blocks.block_nbytes <= max(256 << 20, 64 * channels * 4)
