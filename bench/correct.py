# SPDX-License-Identifier: Apache-2.0
"""Corrected poses: is the map the one of the true poses, what does it cost, and who waits for it.

    python bench/correct.py                          # the generated gallery: some ten minutes
    python bench/correct.py ../shared/data/hololens_office
    python bench/correct.py --only cost

A walk is mapped with a smooth drift of up to half a metre, then corrected. Vectors are 768 numbers
a patch, made of its colours: what they mean does not matter here.

* ``exact``: the corrected map against one of the true poses, as a sum of frames and made anew (with
  carving).
* ``meanwhile``: frames go on and questions are asked while the walk is corrected.
* ``cost``: seconds per moved frame, by how many move and by the size of the map; and made anew,
  which is the other way: see :mod:`radseg_ros.journal.correct` for why the first is taken.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure  # isort: skip  # puts the tests on the path

import numpy as np  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip
from color_encoder import ColorEncoder  # isort: skip
from scipy.spatial.transform import Rotation

from radseg_ros.config import Config, MapConfig
from radseg_ros.datatypes import FeatureMap, Frame, Pixels
from radseg_ros.demo.gallery import generate, is_complete
from radseg_ros.device import give_way
from radseg_ros.encoders.image import image_on, planes
from radseg_ros.frames.folder import open_recording
from radseg_ros.geometry import arrays
from radseg_ros.journal.correct import Corrector
from radseg_ros.journal.folder import About, JournalWriter, new_id
from radseg_ros.journal.record import FRAME, KeyFrame, pack, unpack
from radseg_ros.journal.replay import replay
from radseg_ros.journal.trajectory import Trajectory
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.voxel_map import VoxelMap

DRIFT, TURN = 0.5, 4.0  # m and degrees, at most
CHANNELS, GRID = 768, (30, 40)
SHARE = 0.5  # of one core's time, as the node's default


class Patches(ColorEncoder):
    """Patches of fixed vectors that depend on their mean colours."""

    channels = language_channels = CHANNELS
    sees_tensors = True

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        random = torch.Generator().manual_seed(0)
        self._weights = torch.randn(CHANNELS, 3, generator=random).to(self.device)

    def encode(self, rgb: Pixels) -> FeatureMap:
        """(H, W, 3) -> (768, 30, 40)."""
        image = planes(image_on(self.device, rgb))
        colors = torch.nn.functional.adaptive_avg_pool2d(image, GRID)
        return FeatureMap(torch.sin(torch.einsum("ck,khw->chw", 3 * self._weights, colors)))

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """The vector of a colour."""
        rows = super().embed_labels(labels)[:, :3].to(self.device)
        return torch.sin(3 * rows @ self._weights.T)

    embed_prompts = embed_labels


class Walk:
    """A map with a journal, and frames that are put into it where somebody says."""

    def __init__(self, folder: Path, device: str, share: float = 1.0, **options: Any) -> None:
        config = Config(short_side=0, map=MapConfig(device=device, **options))
        self.mapper = Mapper(config, Patches(device))
        about = About(new_id(), self.mapper.identity(), "backbone", CHANNELS, {})
        self.journal = JournalWriter(folder, about)
        self.turn = threading.Lock()
        args = (lambda path: self.mapper.read(path)[0], share, lambda path: None)
        self.corrector = Corrector(self.journal, self.mapper, self.turn, *args)

    def add(self, frame: Frame) -> float:
        """Map a frame as the node does -> seconds."""
        begun = time.perf_counter()
        seen, features = self.mapper.see(frame)
        content = pack(KeyFrame(arrays(seen), features, self.mapper.config.lift), 0.001)
        kept = unpack(content)
        with self.turn:
            again = self.mapper.lifted(kept.frame, kept.features, kept.rules)
            self.mapper.fuse(again, self.journal.next)
            self.journal.append(FRAME, content)
        return measure.now(self.mapper.map.device) - begun

    def correct(self, frames: Sequence[Frame]) -> int:
        """Frames belong where these are -> how many move."""
        path = Trajectory([f.stamp_ns for f in frames], [f.T_world_camera for f in frames], 1e9)
        self.corrector.prepare()
        with self.turn:
            return self.corrector.request(path, lambda name: np.eye(4), 1e-6, 1e-6).moved

    def wait(self) -> float:
        """Until all frames are where they belong -> seconds."""
        begun = time.perf_counter()
        while self.corrector.waiting:
            time.sleep(0.002)
        return measure.now(self.mapper.map.device) - begun

    def close(self) -> None:
        """Let the thread end."""
        self.corrector.close()
        self.journal.close()


def drifted(frames: Sequence[Frame]) -> list[Frame]:
    """The same frames with poses that drift smoothly, up to DRIFT and TURN at the end."""
    found = []
    for i, frame in enumerate(frames):
        share = i / max(1, len(frames) - 1)
        off = np.eye(4)
        wave = np.array([np.sin(3 * share), np.cos(2 * share) - 1, 0.3 * share])
        off[:3, 3] = DRIFT * share * wave / np.linalg.norm(wave) if share else 0
        off[:3, :3] = Rotation.from_rotvec([0, 0, np.radians(TURN) * share]).as_matrix()
        found.append(dataclasses.replace(frame, T_world_camera=off @ frame.T_world_camera))
    return found


def recorded(path: Path, most: int) -> list[Frame]:
    """Up to so many frames of a recording, evenly."""
    recording = open_recording(str(path), 10.0)
    step = max(1, len(recording) // most)
    return [frame for number, frame in recording.frames() if number % step == 0][:most]


def compared(name: str, found: VoxelMap, wanted: VoxelMap) -> None:
    """Print how far two maps are from each other."""
    (a, b) = (world.table for world in (found, wanted))
    at = found.table.index.find(b["key"])
    both = at >= 0
    same = both.clone()
    same[both] = a["hits"][at[both]] == b["hits"][both]
    slots = same.nonzero()[:, 0]
    vectors = (found.table.means(at[slots]) - wanted.table.means(slots)).abs()
    colors = (a["rgb_sum"][at[slots]] - b["rgb_sum"][slots]).abs().max()
    union = len(found) + len(wanted) - int(both.sum())
    print(
        f"{name}: {len(found)} voxels, {int(same.sum()) / union:.4%} with equal hits; worst vector "
        f"difference {float(vectors.max()):.1e}, worst colour sum {float(colors):.1e}",
        flush=True,
    )


def exact(frames: list[Frame], folder: Path, device: str) -> None:
    """The corrected map against that of the true poses."""
    for name, options in (("a sum", {}), ("made anew, carving", {"carve_after": 3})):
        walk = Walk(folder / name.split()[0], device, **options)
        for frame in drifted(frames):
            walk.add(frame)
        wanted = VoxelMap(CHANNELS, walk.mapper.config.map)
        poses = {
            r.number: f.T_world_camera for r, f in zip(walk.journal.records, frames, strict=True)
        }
        before = time.perf_counter()
        for _ in replay(walk.journal, walk.journal.story().main, wanted, CameraPath(), poses):
            pass
        scratch = time.perf_counter() - before
        compared(f"{name}: drifted", walk.mapper.map, wanted)
        moved = walk.correct(frames)
        took = walk.wait()
        compared(f"{name}: corrected", walk.mapper.map, wanted)
        print(
            f"{name}: {moved} of {len(frames)} frames moved, {took / moved:.3f} s each; from the "
            f"journal {scratch / len(frames):.3f} s a frame"
        )
        walk.close()


class WatchedLock:
    """A lock that knows for how long the correcting thread has held it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.held = [0.0]  # s of its processor time

    def __enter__(self) -> None:
        self._lock.acquire()
        self._since = time.thread_time()

    def __exit__(self, *exception: object) -> None:
        if threading.current_thread().name == "correcting":
            self.held.append(time.thread_time() - self._since)
        self._lock.release()


def meanwhile(frames: list[Frame], folder: Path, device: str, rate: float, rounds: int) -> None:
    """Frames and questions with and without a correction beside them, in turns.

    What else runs on the machine makes some frames long: that is seen without a correction.
    """
    walk, half = Walk(folder / "meanwhile", device, SHARE), len(frames) // 2
    lock = walk.mapper.lock = WatchedLock()  # type: ignore[assignment]
    away, there, later = drifted(frames)[:half], frames[:half], frames[half:]
    for frame in away:
        walk.add(frame)
    texts, number = ["red", "green", "blue"], itertools.count(1)
    last = max(frame.stamp_ns for frame in frames)
    walk.mapper.query(texts)
    ended, answers = threading.Event(), []

    def ask() -> None:
        give_way()  # as the node's questions do
        while not ended.wait(0.5):
            before = time.perf_counter()
            walk.mapper.query(texts, renew=0.5)
            answers.append(time.perf_counter() - before)

    def go_on(goes: Callable[[int], bool]) -> list[float]:
        """Add frames at the rate, as long as it goes -> seconds of each."""
        times, start = [], time.perf_counter()
        while goes(len(times)):
            i = next(number)
            frame = dataclasses.replace(later[i % len(later)], stamp_ns=last + i)
            times.append(walk.add(frame))
            time.sleep(max(0.0, start + len(times) / rate - time.perf_counter()))
        return times

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    alone, beside, took, moved, asked = [], [], 0.0, 0, [0.0]
    for each in range(rounds):
        alone.append(go_on(lambda done: done < len(later)))
        before, start = len(answers), time.perf_counter()
        moved += walk.correct(away if each % 2 else there)
        beside.append(go_on(lambda done: walk.corrector.waiting > 0))
        took += time.perf_counter() - start
        asked += answers[before:]
    ended.set()
    asking.join()
    walk.close()
    median = statistics.median(itertools.chain(*alone))
    print(f"meanwhile: {moved} frames moved in {took:.1f} s, {took / moved:.3f} s each, {SHARE=}")
    for name, parts in (("without a correction", alone), ("beside one", beside)):
        every = [time for part in parts for time in part]
        print(
            f"meanwhile: {name}, {len(every)} frames: median {1e3 * statistics.median(every):.0f} "
            f"ms; longest of each round, in medians without a correction: "
            f"{', '.join(f'{max(part) / median:.2f}' for part in parts)}; "
            f"over 2: {sum(time > 2 * median for time in every)}"
        )
    print(
        f"meanwhile: a step has the map for {1e3 * statistics.median(lock.held[1:]):.1f} ms, at "
        f"most {1e3 * max(lock.held):.1f} ms; {len(asked) - 1} questions, median "
        f"{statistics.median(asked):.2f} s, longest {max(asked):.2f} s",
        flush=True,
    )


def cost(folder: Path, device: str) -> None:
    """Seconds per moved frame, by how many move and by the size of the map."""
    for number, (kind, count) in enumerate((("small", 1), ("large", 6))):
        walk = Walk(folder / kind, device)
        frames = [rooms.frame(step, step // 12) for step in range(12 * count)]
        for frame in frames:
            walk.add(frame)
        walk.corrector.prepare()
        off = np.eye(4)
        for moving in (3, 6, 12):
            off[0, 3] += 0.1 + number
            some = [
                dataclasses.replace(f, T_world_camera=off @ f.T_world_camera)
                for f in frames[:moving]
            ]
            walk.correct(some)
            took = walk.wait()
            print(
                f"cost: {moving} of {len(frames)} frames in a map of {len(walk.mapper.map)} "
                f"voxels: {took:.2f} s, {took / moving:.3f} s each",
                flush=True,
            )
        world, before = VoxelMap(CHANNELS, walk.mapper.config.map), time.perf_counter()
        for _ in replay(walk.journal, walk.journal.story().main, world, CameraPath(), {}):
            pass
        print(f"cost: made anew, {time.perf_counter() - before:.2f} s whatever moves", flush=True)
        walk.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path, nargs="?", help="a folder; none = the gallery")
    parser.add_argument("--only", choices=("exact", "meanwhile", "cost"), help="one part")
    parser.add_argument("--frames", type=int, default=60, help="of the recording, at most")
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second, meanwhile")
    parser.add_argument("--rounds", type=int, default=4, help="with and without, meanwhile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), options.recording
        if path is None and options.only != "cost":
            path = Path(tempfile.gettempdir()) / "radseg_gallery"
            if not is_complete(path):
                generate(path)
        frames = [] if options.only == "cost" else recorded(path, options.frames)
        if options.only in (None, "exact"):
            exact(frames, folder, options.device)
        if options.only in (None, "meanwhile"):
            meanwhile(frames, folder, options.device, options.rate, options.rounds)
        if options.only in (None, "cost"):
            cost(folder, options.device)


if __name__ == "__main__":
    main()
