# SPDX-License-Identifier: Apache-2.0
"""What benchmarks share: sides that run in turns, the memory of one side, and the tests' helpers.

Imported before torch: threads wait as those of the product do.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import patience  # noqa: F401

# random weights and plain references; last, so that no package is hidden
sys.path.append(str(Path(__file__).resolve().parents[1] / "test"))


@dataclass(frozen=True, slots=True)
class Seconds:
    """Medians over the rounds."""

    wall: float
    processor: float  # of all threads: other processes disturb it less


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_seconds(
    work: Callable[[], object],
    device: Any,
    rounds: int = 10,
    warm: int = 3,
    limit: float = math.inf,
) -> float:
    """Median wall time of one call, until the device (a ``torch.device``) has done it.

    Args:
        warm: calls before those that count.
        limit: s after which neither begins another one; one counts in any case.
    """
    import torch

    def done() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    start, taken = time.perf_counter(), []
    for _ in range(warm):
        if time.perf_counter() - start < limit / 2:
            done()
    while len(taken) < rounds and (not taken or time.perf_counter() - start < limit):
        taken.append(seconds(done))
    return statistics.median(taken)


def now(device: Any) -> float:
    """Wall time in s, when the device (a ``torch.device``) has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Seconds]:
    """What each side takes. Who calls has run each once before, so that everything is loaded."""
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            start, start_processor = time.perf_counter(), time.process_time()
            run()
            spent = time.perf_counter() - start, time.process_time() - start_processor
            runs[side].append(spent)
    return {side: Seconds(*map(statistics.median, zip(*runs[side], strict=True))) for side in sides}


def peak_memory(prepare: Callable[..., Callable[[], object]], *options: Any) -> float:
    """MiB by which the resident set rises while ``prepare(*options)()`` runs, over what it is after
    ``prepare(*options)``, in a process of its own.
    """
    import torch

    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    arguments = (send, torch.get_num_threads(), prepare, options)
    process = context.Process(target=_send_peak, args=arguments)
    process.start()
    send.close()  # so that the end of the process is noticed
    peak = receive.recv()
    process.join()
    return peak


def _send_peak(
    send: Connection, threads: int, prepare: Callable[..., Callable[[], object]], options: tuple
) -> None:
    import torch

    torch.set_num_threads(threads)
    send.send(rise(prepare(*options)))


def rise(run: Callable[[], object], process: int | str = "self") -> float:
    """MiB by which the resident set of a process, this or another, rises while ``run()`` runs."""
    Path(f"/proc/{process}/clear_refs").write_text("5")  # sets VmHWM back to the present size
    before = resident("VmRSS", process)
    run()
    return (resident("VmHWM", process) - before) / 1024


def resident(field: str, process: int | str = "self") -> int:
    """VmRSS or VmHWM of a process in KiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+)", status)[0])
