# SPDX-License-Identifier: Apache-2.0
"""How long a frame takes to fuse while the map is asked, saved and shown.

    python bench/live.py                    # frames beside questions, saves and clouds
    python bench/live.py --ahead            # the first question after a run with work ahead

Frames of a synthetic room come at a fixed rate into a map of that size; the head has the layout of
C-RADIOv3-B's language head with random weights. Where there are as few cores as here, part of what
a frame takes longer is that others compute: "elsewhere" shows it with another process that knows no
map and multiplies matrices. Clouds are those of a larger map with the same frames, whose head costs
nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import patience  # noqa: F401  # isort: skip

import numpy as np  # isort: skip
import query  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip

from radseg_ros.answers.packed import PackedCloud
from radseg_ros.config import Config, MapConfig, NodeConfig
from radseg_ros.datatypes import FeatureMap
from radseg_ros.encoders.protocol import Encoder
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.index import pack

MEMORY = Path("/dev/shm")  # a save there shows what the program costs, one to disk the disk as well
FAR = 40_000  # voxels away from the frames: where the rest of a large map is


class HeadOnly:
    """An encoder whose images are given and whose texts mean nothing."""

    name, checkpoint_hash, language, sam = "bench-head", "", "", None
    channels, language_channels, logit_scale = query.CHANNELS, query.LANGUAGE, 10.0
    background, coarse_head = ("thing",), True
    device = torch.device("cpu")

    def __init__(self, busy: float = 0.0) -> None:
        self.project = query.Head()
        self._features = rooms.features()
        self._busy, self._square = busy, torch.randn(500, 500)

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """Always the same, after computing for ``busy`` seconds."""
        del rgb
        end = time.perf_counter() + self._busy
        while time.perf_counter() < end:
            self._square @ self._square
        return self._features

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """Any unit vectors, the same for the same text."""
        seeds = [torch.Generator().manual_seed(sum(label.encode())) for label in labels]
        width = self.language_channels
        return torch.stack([torch.randn(width, generator=seed) for seed in seeds])

    embed_prompts = embed_labels

    def embed_meanings(self, texts: Sequence[str], prompts: bool = False) -> torch.Tensor:
        """As ``embed_labels``."""
        return self.embed_labels(texts)

    def at_hand(self, labels: Sequence[str]) -> list[str]:
        """None: answers are not calibrated."""
        return []


class NoHead(HeadOnly):
    """The vectors of its texts are short, and projecting is leaving out."""

    language_channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.project = lambda vectors: vectors[:, : self.language_channels]  # type: ignore


def mapper_of(voxels: int, encoder: Encoder) -> Mapper:
    """A mapper whose map has at least so many voxels."""
    mapper = Mapper(Config(short_side=0, map=MapConfig(device="cpu")), encoder)
    step = 0
    while len(mapper.map) < voxels:
        mapper.integrate(rooms.frame(step, room=step // 12))
        step += 1
    return mapper


def large_mapper(voxels: int) -> Mapper:
    """The same, of voxels most of which no frame sees."""
    mapper = mapper_of(1, NoHead())
    number = torch.arange(voxels)
    block = torch.stack([FAR + number % 200, number // 200 % 60, number // 12_000])
    slots, _ = mapper.map.table.claim(pack(block.double()))
    query.touch(mapper.map, slots)
    return mapper


def fused(mapper: Mapper, rate: float, seconds: float, until: Callable[[], bool]) -> list[float]:
    """Milliseconds of each frame; for so long, and until the others are done."""
    times, start, step = [], time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not until():
        prepared = mapper.prepare(rooms.frame(step, room=step // 12 % 2))
        begun = time.perf_counter()
        mapper.fuse(prepared)
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


def _multiply(threads: int) -> None:
    torch.set_num_threads(threads)
    square = torch.randn(1500, 1500)
    while True:
        square @ square


def elsewhere(mapper: Mapper, rate: float, seconds: float, threads: int) -> list[float]:
    """Frames' milliseconds while another process keeps so many cores busy."""
    process = multiprocessing.get_context("spawn").Process(
        target=_multiply, args=(threads,), daemon=True
    )
    process.start()
    time.sleep(4.0)  # until it has loaded
    try:
        return fused(mapper, rate, seconds, lambda: True)
    finally:
        process.kill()


def publish(mapper: Mapper, cloud: PackedCloud, labels: list[str]) -> Callable[[], None]:
    """What the node does once a second for ~/semantic_cloud, up to the published message."""
    from rclpy.serialization import serialize_message

    from radseg_ros.ros import messages

    def once() -> None:
        end = time.perf_counter() + 1
        cloud.update(mapper.changes(cloud.step, labels), mapper.config.query.threshold)
        serialize_message(messages.cloud_message(cloud.points(), messages.header(0, "map")))
        time.sleep(max(0.0, end - time.perf_counter()))

    return once


class Report:
    """Lines of frames' times beside those of a map that nobody asks."""

    def __init__(self, alone: list[float], busy: list[float]) -> None:
        self.median = statistics.median(alone)
        self.lack = max(1.0, statistics.median(busy) / self.median)
        self.line("nobody asks", alone)
        self.line("elsewhere", busy)

    def line(self, name: str, times: list[float], more: str = "") -> None:
        """One situation."""
        ratio, longest = statistics.median(times) / self.median, max(times)
        explained = min(1.0, (self.lack - 1) / (ratio - 1)) if ratio > 1.01 else 0.0
        print(
            f"{name:16} median {ratio * self.median:5.0f} ms ({ratio:.2f}x; lack of cores alone "
            f"{self.lack:.2f}x: {explained:.0%} of the rise), longest {longest:5.0f} ms "
            f"(2 x median alone + 50 = {2 * self.median + 50:.0f}); {len(times)} frames{more}",
            flush=True,
        )


def beside(options: argparse.Namespace, labels: list[str]) -> None:
    """Frames beside everything else."""
    beside_questions(options, labels)
    beside_clouds(options, labels)


def beside_questions(options: argparse.Namespace, labels: list[str]) -> None:
    """Situations (b) first question, (c) several clients, (d) save, against (a) nobody."""
    mapper = mapper_of(options.voxels, HeadOnly())
    pace, span, threads = options.rate, options.seconds, options.threads

    def save(parent: Path) -> None:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            mapper.save(Path(folder) / "live.radmap")

    def asked() -> object:
        return mapper.query(labels, renew=0.5).answers

    print(f"{len(mapper.map)} voxels, {options.labels} labels, {threads} threads")
    fused(mapper, pace, span / 4, lambda: True)  # warm
    report = Report(fused(mapper, pace, span, lambda: True), elsewhere(mapper, pace, span, threads))
    from radseg_ros.device import give_way
    from radseg_ros.ros.services.offer import QUERIES

    clients = f"{options.clients} clients"
    threads_of_node = ThreadPoolExecutor(QUERIES, initializer=give_way)
    situations: dict[str, tuple[Callable[[], object], int]] = {
        "first question": (lambda: mapper.query(labels, renew=0.5), 1),
        clients: (lambda: threads_of_node.submit(asked).result(), options.clients),
        "save to memory": (lambda: save(MEMORY), 1),
        "save to disk": (lambda: save(Path(tempfile.gettempdir())), 1),
    }
    for name, (work, workers) in situations.items():
        times, took = meanwhile(mapper, pace, span, work, workers)
        then = statistics.median(took[1:] or took)
        report.line(name, times, f"; {name}: first {took[0]:.2f} s, then {then:.2f} s")


def beside_clouds(options: argparse.Namespace, labels: list[str]) -> None:
    """Situation (e), a cloud that is published once a second, against (a) nobody."""
    pace, span, threads = options.rate, options.seconds, options.threads
    large = large_mapper(options.cloud)
    once = publish(large, PackedCloud(), labels)
    begun = time.perf_counter()
    once()
    print(f"{len(large.map)} voxels; first cloud {time.perf_counter() - begun:.1f} s")
    report = Report(fused(large, pace, span, lambda: True), elsewhere(large, pace, span, threads))
    report.line("cloud", meanwhile(large, pace, span, once)[0])


def ahead(options: argparse.Namespace, labels: list[str]) -> None:
    """The first question after a run at 1 Hz with an encoder that takes 30 % of the time."""
    mapper = mapper_of(options.voxels, HeadOnly(busy=0.3))
    live = LiveMap(Config(short_side=0, map=MapConfig(device="cpu"), node=NodeConfig()))
    live.start(mapper)
    print(f"{len(mapper.map)} voxels; a run of up to {options.run:g} s at 1 Hz")
    start, step = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < options.run and live.status().answerable < 1:
        mapper.integrate(rooms.frame(step, room=step // 12 % 2))
        step += 1
        time.sleep(max(0.0, start + step - time.perf_counter()))
    ready = live.status().answerable
    begun = time.perf_counter()
    result = live.query(labels)
    took = time.perf_counter() - begun
    print(
        f"after {spent:.0f} s {ready:.1%} of the voxels were ready; first question {took:.2f} s, "
        f"made of {result.covered:.1%} of them"
    )
    live.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voxels", type=int, default=100_000)
    parser.add_argument("--cloud", type=int, default=1_000_000, help="voxels of the published map")
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each situation, at least")
    parser.add_argument("--ahead", action="store_true", help="only the question after a run")
    parser.add_argument("--run", type=float, default=120.0, help="s, with --ahead")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    labels = [f"thing {number}" for number in range(options.labels)]
    (ahead if options.ahead else beside)(options, labels)


if __name__ == "__main__":
    main()
