# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""``bench/soak.py`` in short: it runs to its end, and what it reports is what it has measured."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require_ros

require_ros()
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not installed (scripts/setup.sh makes it)")

BENCH = Path(__file__).parents[1] / "bench"
sys.path.append(str(BENCH))  # last, so that no package is hidden

import soak

OPTIONS = argparse.Namespace(minutes=1.0, rate=30.0, encode=0.1)


def samples(rise: float = 0.0, threads: int = 9, files: int = 20) -> list[soak.Sample]:
    """A minute, in which memory first jumps and then rises by ``rise`` MiB a minute."""
    late = [soak.Sample(s, 300 + rise * s / 60, 9, 20) for s in range(12, 60)]
    first = [soak.Sample(s, 100.0, 3, 7) for s in range(12)]
    return [*first, *late, soak.Sample(60.0, 300 + rise, threads, files)]


STEADY = [0.1] * 95 + [0.19] * 5


@pytest.mark.parametrize(
    ("taken", "latencies", "fine", "said"),
    [
        (samples(), STEADY, True, r"slope \+0.00 .* threads 9, file descriptors 20 .* 100 frames"),
        (samples(0.5), STEADY, True, r"300 to 300 MiB, slope \+0.50"),
        (samples(2.0), STEADY, False, r"slope \+2.00"),
        (samples(-9.0), STEADY, True, r"slope -9.00"),
        (samples(threads=10), STEADY, False, "threads 9 to 10"),
        (samples(files=19), STEADY, False, "file descriptors 19 to 20"),
        (samples(), [0.1] * 90 + [0.3] * 10, False, r"median 100 ms, .* 300 ms: 3.00x"),
    ],
)
def test_a_run_is_judged_by_what_comes_after_its_start(taken, latencies, fine, said, capsys):
    assert soak.report(taken, latencies, OPTIONS) is fine
    text = " ".join(capsys.readouterr().out.split())
    first, *more = said.split(" .* ")
    assert re.search(first, text) and all(re.search(part, text) for part in more), text


@pytest.mark.slow
def test_a_short_run_reports_everything():
    short = ("--minutes", "0.15", "--load-seconds", "2", "--encode", "0.02")
    done = subprocess.run(
        [sys.executable, str(BENCH / "soak.py"), *short],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert re.search(r"at 200 Hz: [\d.]+% of a core, bare node [\d.]+%: [\d.]+x", done.stdout)
    (frames,) = re.findall(r"(\d+) frames mapped", done.stdout)
    assert int(frames) > 5
    for part in ("MiB a minute", "threads ", "file descriptors ", "95th percentile"):
        assert part in done.stdout
