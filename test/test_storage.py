# SPDX-License-Identifier: Apache-2.0
"""Storage that grows with the map: rows are where they were put, memory follows their number."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radseg_ros.voxels.storage import Column, VectorBlocks

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "float16": torch.float16}
WIDTH, BLOCK = 3, 4


def capacity(column: Column) -> int:
    """Rows that there is room for."""
    return column.nbytes // column.data.element_size() // max(1, column.data[:1].numel())


@settings(max_examples=80)
@given(st.lists(st.integers(0, 300) | st.just("trim"), max_size=12))
def test_a_column_is_a_list_whose_memory_follows_its_length(steps):
    column, reference = Column((2,), torch.int64, CPU, fill=7), np.zeros((0, 2), np.int64)
    assert column.nbytes == 0
    for number, step in enumerate(steps):
        if step == "trim":
            column.trim()
            assert column.nbytes == reference.nbytes
        else:
            column.resize(step)
            new = np.full((max(0, step - len(reference)), 2), 7)
            reference = np.concatenate([reference[:step], new])
        assert len(column) == len(reference)
        np.testing.assert_array_equal(column.data, reference)
        assert column.nbytes <= 16 * max(64, 2 * len(reference) + 1)
        reference[:] = number
        column.data[:] = number


def test_a_column_grows_in_few_steps_and_keeps_its_place_in_between():
    column, places = Column((), torch.int32, CPU), []
    for length in range(64, 5001):
        column.resize(length)
        places.append(column.data.data_ptr())
    moves = sum(a != b for a, b in zip(places, places[1:], strict=False))
    assert 10 < moves < 45 and column.nbytes <= 4 * 5000 * 9 / 8


def test_a_column_gives_memory_back_when_more_than_half_is_free():
    column = Column((), torch.int64, CPU)
    column.resize(64)
    before = column.data.data_ptr()
    column.resize(64)
    assert column.data.data_ptr() == before
    column.resize(32)
    assert column.nbytes == 64 * 8 and column.data.data_ptr() == before
    column.resize(31)
    assert column.nbytes == 31 * 8
    column.trim()
    place = column.data.data_ptr()
    column.trim()
    assert column.data.data_ptr() == place, "nothing to give back"


def filled(dtype: str, length: int, block_rows: int = BLOCK) -> tuple[VectorBlocks, torch.Tensor]:
    """Blocks to whose rows some points were added, and how many to each."""
    blocks = VectorBlocks(WIDTH, DTYPES[dtype], CPU, block_rows)
    blocks.resize(length)
    hits = torch.arange(length) % 3 + 1
    vectors = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(length))
    blocks.add(torch.arange(length), hits * 0, hits, lambda a, b: vectors[a:b].clone())
    return blocks, hits


def add_and_fail(blocks: VectorBlocks, slots, before, added, vectors) -> torch.Tensor:
    """Add vectors, of which the last ones cannot be had; return what was there by then."""
    meanwhile = blocks.state()["vectors"]

    def give(start: int, stop: int) -> torch.Tensor:
        nonlocal meanwhile
        if stop == len(slots):
            meanwhile = blocks.state()["vectors"]
            raise MemoryError
        return vectors[start:stop].clone()

    with pytest.raises(MemoryError) if len(slots) else contextlib.nullcontext():
        blocks.add(slots, before, added, give)
    return meanwhile


@settings(max_examples=80)
@given(st.integers(0, 2**31), st.sampled_from(sorted(DTYPES)))
def test_blocks_are_one_array_of_sums(seed, dtype):
    rng = np.random.default_rng(seed)
    blocks = VectorBlocks(WIDTH, DTYPES[dtype], CPU, BLOCK)
    sums, hits = np.zeros((0, WIDTH)), np.zeros(0, np.int64)
    tolerance = {"atol": 1e-4, "rtol": 1e-5} if dtype == "float32" else {"atol": 0.06, "rtol": 0.02}

    def check(order: np.ndarray) -> None:
        slots, counts = torch.tensor(order), torch.tensor(hits)
        np.testing.assert_allclose(blocks.sums(slots, counts[slots]), sums[order], **tolerance)
        known = order[hits[order] > 0]
        means = sums[known] / hits[known, None]
        slots = torch.tensor(known)
        np.testing.assert_allclose(blocks.means(slots, counts[slots]), means, **tolerance)
        np.testing.assert_allclose(blocks.all_means(counts)[slots], means, **tolerance)
        assert torch.equal(blocks.state()["vectors"][slots].float(), blocks.rows(slots))
        assert torch.equal(blocks.stored(slots).float(), blocks.rows(slots))

    for _ in range(8):
        some = np.sort(rng.permutation(len(hits))[: rng.integers(0, len(hits) + 1)])
        slots = torch.tensor(some)
        what = rng.choice(["resize", "add", "take back", "write", "move"])
        if what == "resize":
            length = int(rng.integers(0, 30))
            missing = max(0, length - len(hits))
            blocks.resize(length)
            sums = np.concatenate([sums[:length], np.zeros((missing, WIDTH))])
            hits = np.concatenate([hits[:length], np.zeros(missing, np.int64)])
        elif what in ("add", "take back"):
            added = rng.integers(1, 4, len(some))
            vectors = rng.normal(size=(len(some), WIDTH)).astype(np.float32)
            before, more = torch.tensor(hits[some]), torch.tensor(added)
            if what == "take back":
                add_and_fail(blocks, slots, before, more, torch.tensor(vectors))
            else:
                blocks.add(slots, before, more, lambda a, b, v=vectors: torch.tensor(v[a:b]))
                sums[some] += vectors
                hits[some] += added
        elif what == "write":
            shuffled = rng.permutation(some)
            stored = rng.normal(size=(len(some), WIDTH))
            blocks.write(torch.tensor(shuffled), torch.tensor(stored))
            hits[shuffled] = 1
            sums[shuffled] = stored
        else:
            source, target = np.array_split(rng.permutation(some)[: len(some) // 2 * 2], 2)
            source, target = np.sort(source), np.sort(target)
            blocks.moving(torch.tensor(source), torch.tensor(target))()
            sums[target], hits[target] = sums[source], hits[source]
        assert len(blocks) == len(hits) and blocks.state()["vectors"].shape == (len(hits), WIDTH)
        assert blocks.nbytes == -(-len(hits) // BLOCK) * BLOCK * WIDTH * DTYPES[dtype].itemsize
        check(rng.permutation(len(hits)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_than_is_undone_at_once_is_undone(dtype):
    blocks, hits = filled(dtype, 700, block_rows=600)
    before = blocks.state()["vectors"]
    more = torch.randn(600, WIDTH)
    slots = torch.arange(100, 700)
    meanwhile = add_and_fail(blocks, slots, hits[slots], hits[slots], more)
    changed = (meanwhile != before).any(1)
    assert not changed[:100].any() and changed[100:600].all() and not changed[600:].any()
    torch.testing.assert_close(blocks.state()["vectors"], before, atol=1e-5, rtol=1e-5)


def test_only_blocks_that_are_touched_are_asked_for():
    blocks, hits = filled("float32", 20)
    asked = []

    def sums(start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return torch.zeros(stop - start, WIDTH)

    slots = torch.tensor([5, 6, 16, 19])
    blocks.add(slots, hits[slots], hits[slots], sums)
    assert asked == [(0, 2), (2, 4)]


@pytest.mark.parametrize("saved", DTYPES)
@pytest.mark.parametrize("read", DTYPES)
@pytest.mark.parametrize("length", [0, 3, 4, 11])
def test_rows_of_either_type_are_read_by_either(saved, read, length):
    blocks, hits = filled(saved, length)
    again = VectorBlocks(WIDTH, DTYPES[read], CPU, BLOCK)
    again.resize(length)
    again.load(blocks.state(), hits)
    assert all(not block[length % BLOCK or BLOCK :].any() for block in again.blocks[-1:])
    means = blocks.all_means(hits)
    exact = 1e-6 if saved == read else 2e-3
    torch.testing.assert_close(again.all_means(hits), means, atol=exact, rtol=exact)


def test_rows_that_come_back_are_zero():
    blocks, _ = filled("float32", 10)
    for length in (9, 4, 6):
        blocks.resize(length)
        blocks.resize(10)
        assert not blocks.state()["vectors"][length:].any()
        assert blocks.state()["vectors"][: min(length, 4)].all()
