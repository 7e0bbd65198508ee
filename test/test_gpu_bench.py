# SPDX-License-Identifier: Apache-2.0
"""What ``bench/gpu.py`` says of a device is right, and it runs where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"
sys.path.append(str(BENCH))

import floors  # noqa: E402
import gpu  # noqa: E402
import gpu_kit  # noqa: E402
import gpu_syncs  # noqa: E402
import pretend_gpu  # noqa: E402

from radseg_ros.gpu.replay import Replayed  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_part_runs_without_a_gpu(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, BENCH / "gpu.py", "--device", "cpu", "--quick", "--json", report]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads(report.read_text())["parts"]
    assert parts.keys() == gpu.PARTS.keys()
    for name in parts.keys() - {"node"}:  # which needs a ROS
        assert all(parts[name]["tables"]) and not parts[name]["failures"], name


def bench_of(folder: Path, budget: float = 60.0) -> gpu_kit.Bench:
    return gpu_kit.Bench(CPU, True, budget, folder, folder / "report.json")


def test_what_fails_costs_its_own_part_and_is_told(tmp_path):
    bench = bench_of(tmp_path)

    def broken(bench: gpu_kit.Bench) -> None:
        table = bench.table(what="s", encode_ms=".1f")
        table.row(what="before", encode_ms=1.25)
        with bench.attempt("a figure"):
            raise ValueError("no such kernel")
        table.row(what="after")
        raise RuntimeError("device lost")

    bench.run("broken", broken, 0.5)
    assert not bench.good
    bench.run("whole", lambda bench: bench.goal("x", 2.0, 1.0, must=True), 1.0)
    parts = json.loads((tmp_path / "report.json").read_text())["parts"]
    failures = ["a figure: ValueError: no such kernel", "broken: RuntimeError: device lost"]
    assert parts["broken"]["failures"] == failures
    assert parts["broken"]["tables"] == [
        [{"what": "before", "encode_ms": 1.25}, {"what": "after", "encode_ms": None}]
    ]
    assert not parts["whole"]["failures"] and not parts["whole"]["goals"][0]["kept"]


def test_a_part_that_is_not_the_same_is_not_good(tmp_path):
    bench = bench_of(tmp_path)
    bench.run("same", lambda bench: bench.goal("x", 0.5, 1.0, must=True), 1.0)
    assert bench.good
    bench.run("other", lambda bench: bench.goal("x", float("nan"), 1.0, must=True), 1.0)
    assert not bench.good


def test_what_there_is_no_time_for_is_named(tmp_path):
    bench = bench_of(tmp_path)

    def slow(bench: gpu_kit.Bench) -> None:
        assert bench.time_for("short") and not bench.time_for("long", 61.0)

    bench.run("slow", slow, 1.0)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["parts"]["slow"]["left_out"] == ["long"] and bench.good


@pytest.mark.slow  # a dispatch mode brings torch's compiler, which takes seconds to import
def test_waits_are_found_where_they_are():
    from radseg_ros.voxels.index import VoxelIndex

    key = torch.tensor([1, 2, 3])
    with gpu_syncs.counted(CPU) as found:
        VoxelIndex(CPU).assign(key, key)
        assert bool((key > 0).any())
        key[key > 1] + key.sum()
    product = {file for file, _ in found.waits}
    assert product == {"radseg_ros/voxels/index.py", "elsewhere"}
    assert found.waits["elsewhere", 0] == 2  # a number, and a mask
    with gpu_syncs.counted(CPU) as found:
        key * 2 + key[torch.tensor([0])]
    assert not found.waits


@pytest.mark.slow
def test_launches_are_operations_and_copies_but_no_views():
    def asked(work) -> tuple[int, int]:
        with gpu_syncs.counted(device) as found:
            work()
        return found.launches.total(), found.waits.total()

    pinned = torch.zeros(3)
    with pretend_gpu.pretend() as device:
        a = torch.zeros(3, device=device)
        assert asked(lambda: a.view(3, 1)[1:].T) == (0, 0)
        assert asked(lambda: torch.empty_like(a)) == (0, 0)
        assert asked(lambda: a + 1 * a.mul_(2)) == (3, 0)
        assert asked(lambda: a.sum().tolist()) == (2, 1)
        assert asked(lambda: float(a.sum())) == (2, 1)
        assert asked(lambda: a.nonzero()) == (1, 1)
        assert asked(a.cpu) == (1, 1)
        assert asked(lambda: pinned.to(device)) == (1, 1)
        assert asked(lambda: pinned.to(device, non_blocking=True)) == (1, 0)
        assert asked(lambda: torch.tensor([1.0], device=device)) == (1, 1)
        twice = Replayed(lambda b: (b + b, b * 3))
        assert asked(lambda: twice.taken(lambda results: results[0][1:], a)) == (2, 0)


@pytest.mark.slow
def test_a_frame_asks_little_of_a_gpu():
    with pretend_gpu.pretend() as device:
        found = gpu_syncs.asked(device, gpu_kit.Size(96, 128, (96, 128)))
    waits = {stage: counts.waits.total() for stage, counts in found.items()}
    assert waits == {"lift": 1, "fuse, known voxels": 1, "fuse, new voxels": 2}
    launches = {stage: counts.launches.total() for stage, counts in found.items()}
    assert 5 < launches["lift"] <= 9
    assert 20 < launches["fuse, known voxels"] <= 35 < launches["fuse, new voxels"] <= 73


def test_floors_count_each_product_once():
    network = floors.Transformer(width=8, depth=3, patch=2, prefix=1)
    tokens = 5
    blocks = 3 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8)
    assert network.linear_flops(tokens) == 2 * tokens * (blocks + 3 * 2 * 2 * 8)
    attention = 2 * 2 * tokens * tokens * 8
    once = network.linear_flops(tokens) + 4 * attention + 2 * tokens * 8 * 8
    assert network.encode_flops(1, 4, 0) == once
    assert network.encode_flops(2, 4, 7) == 2 * once + 2 * 2 * 7 * 7 * 8


def test_a_voxel_s_bytes_are_those_of_its_columns():
    from radseg_ros.voxels.table import VoxelTable

    table = VoxelTable(4, torch.float32, CPU)
    table.resize(1)
    names = ("hits", "views", "rgb_sum", "first_seen_ns", "last_seen_ns", "seen_at")
    columns = [table[name] for name in (*names, "seen_through", "changed")]
    assert floors.VOXEL_BYTES == sum(column[:1].nbytes for column in columns)
    assert floors.map_update_bytes(10, 3, 0, 4) == 10 * 7 + 3 * 16
