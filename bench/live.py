# SPDX-License-Identifier: Apache-2.0
"""How long a frame takes to fuse while the map is asked, saved and shown.

    python bench/live.py

Frames of a synthetic room come at a fixed rate into a map of that size; the head has the layout of
C-RADIOv3-B's language head with random weights. Where there are as few cores as here, part of what
a frame takes longer is that others compute: "busy" shows it with threads that touch no map.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import patience  # noqa: F401  # isort: skip

import numpy as np  # isort: skip
import query  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip

from radseg_ros.config import Config, MapConfig
from radseg_ros.datatypes import FeatureMap
from radseg_ros.encoders.protocol import Encoder
from radseg_ros.mapper import Mapper


class HeadOnly:
    """An encoder whose images are given and whose texts mean nothing."""

    name, checkpoint_hash, language, sam = "bench-head", "", "", None
    channels, language_channels, logit_scale = query.CHANNELS, query.LANGUAGE, 10.0
    background = ("thing",)
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.project = query.Head()
        self._features = rooms.features()

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """Always the same: what it takes is not measured here."""
        del rgb
        return self._features

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Any unit vectors, the same for the same text."""
        seeds = [torch.Generator().manual_seed(sum(label.encode())) for label in labels]
        return torch.stack([torch.randn(query.LANGUAGE, generator=seed) for seed in seeds])

    embed_prompts = embed_labels


def mapper_of(voxels: int) -> Mapper:
    """A mapper whose map has at least so many voxels."""
    encoder: Encoder = HeadOnly()
    mapper = Mapper(Config(short_side=0, map=MapConfig(device="cpu")), encoder)
    step = 0
    while len(mapper.map) < voxels:
        mapper.integrate(rooms.frame(step, room=step // 12))
        step += 1
    return mapper


def fused(mapper: Mapper, rate: float, seconds: float, until: Callable[[], bool]) -> list[float]:
    """Milliseconds of each frame; for so long, and until the others are done."""
    times, start, step = [], time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not until():
        prepared = mapper.prepare(rooms.frame(step, room=step // 12 % 2))
        begun = time.perf_counter()
        mapper.fuse(*prepared)
        times.append(1e3 * (time.perf_counter() - begun))
        step += 1
        time.sleep(max(0.0, start + step / rate - time.perf_counter()))
    return times


def meanwhile(
    mapper: Mapper, rate: float, seconds: float, work: Callable[[], object], workers: int = 1
) -> tuple[list[float], list[float]]:
    """Frames' milliseconds while ``workers`` threads repeat ``work``, and the seconds it took."""
    stop, took = threading.Event(), []

    def repeat() -> None:
        while True:
            begun = time.perf_counter()
            work()
            took.append(time.perf_counter() - begun)
            if stop.is_set():
                return

    threads = [threading.Thread(target=repeat) for _ in range(workers)]
    for thread in threads:
        thread.start()
    times = fused(mapper, rate, seconds, lambda: len(took) >= workers)
    stop.set()
    for thread in threads:
        thread.join()
    return times, took


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voxels", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each situation, at least")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    mapper = mapper_of(options.voxels)
    labels = [f"thing {number}" for number in range(options.labels)]
    square = torch.randn(1500, 1500)

    def save() -> None:
        with tempfile.TemporaryDirectory() as folder:
            mapper.save(Path(folder) / "live.radmap")

    pace, span = options.rate, options.seconds
    print(f"{len(mapper.map)} voxels, {options.labels} labels, {options.threads} threads")
    fused(mapper, pace, span / 4, lambda: True)  # warm
    alone = fused(mapper, pace, span, lambda: True)
    median = statistics.median(alone)
    situations: dict[str, tuple[Callable[[], object], int]] = {
        "busy": (lambda: square @ square, 1),
        "first question": (lambda: mapper.query(labels), 1),
        f"{options.clients} clients": (lambda: mapper.query(labels).answers, options.clients),
        "save": (save, 1),
        "cloud": (lambda: mapper.query(labels).cloud(), 1),
    }
    print(f"{'nobody asks':16} median {median:5.0f} ms, longest {max(alone):5.0f} ms")
    for name, (work, workers) in situations.items():
        times, took = meanwhile(mapper, pace, span, work, workers)
        print(
            f"{name:16} median {statistics.median(times):5.0f} ms "
            f"({statistics.median(times) / median:.2f}x), longest {max(times):5.0f} ms "
            f"(2 x {median:.0f} + 50 = {2 * median + 50:.0f}); {len(times)} frames; {name}: "
            f"first {took[0]:.2f} s, then {statistics.median(took[1:] or took):.2f} s"
        )


if __name__ == "__main__":
    main()
