# SPDX-License-Identifier: Apache-2.0
"""radseg-map on a recording: frames per second and peak memory, beside the mapper alone and a node.

    python bench/desk.py ../shared/data/hololens_office
    python bench/desk.py ../shared/data/hololens_office --kills 40

Each side runs in a process of its own. "bare" are calls of Mapper.integrate on frames that were
decoded before; "radseg-map" reads, decodes, maps and saves; "node" is the mapping node, to which
`radseg-play` sends the recording as fast as it can, from its first frame to its last. Loading the
encoder is in none of the times. With --kills, radseg-map is killed so often at random moments
instead, and resumed: each time the file must be whole, and in the end the map that of one go.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import measure  # isort: skip  # before torch: how threads wait

import numpy as np

from radseg_ros.cli.mapping.recorded import map_recording
from radseg_ros.config import Config, parse_assignments, with_options
from radseg_ros.frames.folder import open_recording
from radseg_ros.ros.transport import own_domain

READING = {"rate": 10.0, "topics": {}, "dataset": "", "root": ""}
WARM = 3  # frames before the clock starts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("recording", type=Path)
    p.add_argument("--encoder", default="lite")
    p.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE")
    p.add_argument("--no-node", dest="node", action="store_false", help="without ROS")
    p.add_argument("--kills", type=int, default=0, help="kill radseg-map so often instead")
    return p


def bare(recording: Path, given: dict[str, Any], out: Path) -> tuple[float, int]:
    """Seconds and number of calls of Mapper.integrate."""
    from radseg_ros.cli.mapping.recorded import _encoder
    from radseg_ros.mapper import Mapper

    config = with_options(Config(), given)
    frames = list(open_recording(recording))
    mapper = Mapper(config, _encoder(config))
    for frame in frames[:WARM]:
        mapper.prepare(frame)
    return measure.seconds(lambda: [mapper.integrate(frame) for frame in frames]), len(frames)


def command(recording: Path, given: dict[str, Any], out: Path) -> tuple[float, int]:
    """Seconds and frames of radseg-map, from the first frame read to the file on disk."""
    task = {"out": str(out), "given": given, "reading": READING, "resume": False}
    outcome = map_recording(str(recording), task)
    return outcome["seconds"], outcome["used"]


def in_process(side: Callable[..., tuple[float, int]], *arguments: Any) -> tuple[float, int, float]:
    """Seconds, frames, and MiB by which the resident set rises, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (side, *arguments))


def _measured(side: Callable[..., tuple[float, int]], *arguments: Any) -> tuple[float, int, float]:
    found: list[tuple[float, int]] = []
    peak = measure.rise(lambda: found.append(side(*arguments)))
    return *found[0], peak


@own_domain()
def node(recording: Path, given: dict[str, Any], folder: Path) -> tuple[float, int, float]:
    """Seconds and frames of a node between its first and its last frame, and its peak in MiB."""
    from radseg_ros.demo.processes import Program
    from radseg_ros.view.observer_node import Observer

    settings = {**given, "node.backlog": 100_000}
    words = [w for name, value in settings.items() for w in ("-p", f"{name}:={value}")]
    mapping = Program(
        "node", folder / "node.log", "radseg_ros.ros.mapper_node", "--ros-args", *words
    )
    try:
        with Observer() as observer:
            play = ("--rate", "1000", "--wait-timeout", "300")
            player = Program(
                "player", folder / "play.log", "radseg_ros.ros.player", str(recording), *play
            )
            first = last = 0.0
            before = done = 0
            begun = time.monotonic()
            while player.running or time.monotonic() - max(last, begun) < 15:
                time.sleep(0.05)
                if (now := observer.frames_in_map) > done:
                    last, done = time.monotonic(), now
                    first, before = (first, before) if first else (last, now)
            status = Path(f"/proc/{mapping.process.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    finally:
        mapping.stop()
    return last - first, done - before, peak


def kill_often(options: argparse.Namespace, given: dict[str, Any], folder: Path) -> int:
    """Kill radseg-map at random moments and resume it -> 0 if nothing was lost by it."""
    from radseg_ros.voxels.map_file import load_map, read_header

    whole, out = folder / "whole.radmap", folder / "killed.radmap"
    task = {"out": str(whole), "given": given, "reading": READING, "resume": False}
    map_recording(str(options.recording), task)
    program = [sys.executable, "-m", "radseg_ros.cli.map", str(options.recording), "-o", str(out)]
    sets = [w for text in (*options.set, "map.autosave_period=0.0005") for w in ("--set", text)]
    program += ["--resume", "--encoder", options.encoder, *sets]
    chance, begun = random.Random(0), []
    for number in range(options.kills):
        before = out.stat().st_mtime_ns if out.exists() else 0
        process = subprocess.Popen(program, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (out.exists() and out.stat().st_mtime_ns > before):
            time.sleep(0.01)
        with suppress(subprocess.TimeoutExpired):  # in a frame, or in the next save
            process.wait(chance.uniform(0, 0.5))
        process.kill()
        process.wait()
        used = 0
        if out.exists():
            load_map(out)
            used = read_header(out).notes["recording"]["used"]
        begun.append(used)
        print(f"kill {number + 1}: the file is whole, {used} frames", flush=True)
    subprocess.run(program, check=True)
    first, second = (load_map(path)[0].snapshot() for path in (whole, out))
    same = len(first) == len(second) and bool((first.index == second.index).all())
    worst = float(np.abs((first.features - second.features).numpy()).max()) if same else np.inf
    print(
        f"{options.kills} kills; voxels {len(second)} of {len(first)}, largest change {worst:.2g}"
    )
    return int(not (same and worst < 1e-4 and begun == sorted(begun)))


def main() -> int:
    """Entry point."""
    options = parser().parse_args()
    given = {"encoder": options.encoder, **parse_assignments(Config, options.set)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.kills:
            return kill_often(options, given, folder)
        arguments = (options.recording, given, folder / "map.radmap")
        rows = {"bare": in_process(bare, *arguments), "radseg-map": in_process(command, *arguments)}
        if options.node:
            rows["node"] = node(options.recording, given, folder)
    first = rows["bare"][1] / rows["bare"][0]
    for side, (seconds, frames, peak) in rows.items():
        rate = frames / max(seconds, 1e-9)
        print(f"{side:<12}{frames:5d} frames {rate:7.2f} /s ({rate / first:.2f}x)  {peak:7.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
