# SPDX-License-Identifier: Apache-2.0
"""The fastest honest setting of RADSeg without a GPU: how near its map is to the paper preset's.

    python bench/cpu.py                         # all candidates: a quarter of an hour on two cores
    python bench/cpu.py --settings paper cpu    # some of them

A camera sees the room of the demo (photographs on its walls) a few times, and every setting makes a
map of that, by ViT-B with random weights and by the small network of the golden numbers. The same
voxels are there in all maps. Their vectors are compared with those of preset paper: cosines as they
are (which `--least` is about; mean, and what 95 % of the voxels exceed), and the rest: cosines
without the mean vector, which all vectors of random weights share. Time is that of whole frames,
encoded and fused, by ViT-B; "frames/s" is threads / processor time: what a quiet machine does. The
last line names the fastest setting that is near enough.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure  # noqa: F401  # before torch; it shows the tests' helpers

import numpy as np  # isort: skip
import random_radio  # isort: skip
import torch  # isort: skip

from radseg_ros.config import Config, QueryConfig, RadsegConfig
from radseg_ros.datatypes import Frame
from radseg_ros.demo.gallery import EXHIBITS, SIZE, K, canvas, furniture, trajectory
from radseg_ros.demo.raycast import render
from radseg_ros.encoders.engines.encoder import EngineEncoder
from radseg_ros.encoders.engines.graph import write_engine
from radseg_ros.encoders.radseg.encoder import RadsegEncoder
from radseg_ros.mapper import Mapper

LEAST = 0.95  # mean cosine with the map of preset paper, with either network
GOLDEN = Path(__file__).resolve().parents[1] / "test" / "data" / "golden" / "tiny_radio.pth.tar"
# short side, crop and stride: windows of half the height, as the paper's are, and of more
WINDOWED = ((480, 240, 160), (336, 160, 112), (384, 192, 96), (384, 256, 128), (448, 336, 224))
APART = 4  # poses of the demo's drive between two frames: neighbours see half of the same


@dataclass(frozen=True, slots=True)
class Setting:
    """One candidate."""

    options: dict[str, Any] = field(default_factory=dict)  # of the encoder
    engine: str = ""  # onnxruntime, or int8; empty = torch
    threads: int = 0  # 0 = as many as the command says


def settings() -> dict[str, Setting]:
    """Name -> candidate; the first is what all are compared with."""
    found = {name: Setting({"preset": name}) for name in ("paper", "balanced", "fast")}
    for side in (512, 384, 256):
        found[f"single pass {side}"] = Setting({"crop": 0, "side": side})
    for side, crop, stride in WINDOWED:
        options = {"crop": crop, "stride": stride, "side": side}
        found[f"{side}: {crop} / {stride}"] = Setting(options)
    small = {"preset": "cpu"}
    found["cpu"] = Setting(small)
    found["cpu, 1 thread"] = Setting(small, threads=1)
    found["cpu, no SCGA"] = Setting({**small, "scga": "off"})
    found["cpu, bfloat16"] = Setting({**small, "dtype": "bfloat16"})
    found["cpu, onnxruntime"] = Setting(small, "onnxruntime")
    found["cpu, onnxruntime int8"] = Setting(small, "int8")
    return found


def frames(count: int) -> list[Frame]:
    """What the camera of the demo sees on its drive."""
    solids = [*furniture(), *map(canvas, EXHIBITS)]
    views = []
    for number, T in enumerate(trajectory()[: count * APART : APART]):
        rgb, depth, _ = render(solids, K, T, SIZE)
        views.append(Frame(number, rgb, depth.astype(np.float32), K, T))
    return views


def encoder_of(checkpoint: Path, setting: Setting, folder: Path, size: Any) -> RadsegEncoder:
    """The encoder of a candidate; a file of radseg-onnx is written for it."""
    config = dict(checkpoint=str(checkpoint), device="cpu", offline=True, **setting.options)
    encoder = RadsegEncoder(RadsegConfig(**config))
    if not setting.engine:
        return encoder
    path = folder / "engine.onnx"
    write_engine(encoder, path, size, int8=setting.engine == "int8")
    return EngineEncoder(RadsegConfig(**config, engine="onnxruntime", engine_file=str(path)))


@dataclass(frozen=True, slots=True)
class Made:
    """A map, and what one of its frames took: medians."""

    vectors: torch.Tensor  # (M, C)
    wall: float  # s
    processor: float  # s


def map_of(encoder: RadsegEncoder, seen: Sequence[Frame]) -> Made:
    """Integrate the frames. Medians: what is loaded with the first one does not count."""
    mapper, spent = Mapper(Config(query=QueryConfig(mode="relevancy")), encoder), []
    for frame in seen:
        start, start_processor = time.perf_counter(), time.process_time()
        mapper.integrate(frame)
        spent.append((time.perf_counter() - start, time.process_time() - start_processor))
    wall, processor = map(statistics.median, zip(*spent, strict=True))
    return Made(mapper.map.snapshot().features, wall, processor)


def near(ours: torch.Tensor, papers: torch.Tensor) -> dict[str, float]:
    """Cosines of (M, C) vectors with those of preset paper."""
    mean = papers.mean(0)
    cosine = torch.cosine_similarity(ours, papers)
    rest = torch.cosine_similarity(ours - mean, papers - mean)
    return {"mean": float(cosine.mean()), "low": float(cosine.quantile(0.05)),
            "rest": float(rest.mean())}  # fmt: skip


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Print the table and what it comes to."""
    candidates = settings()
    names = list(dict.fromkeys(["paper", *(options.settings or candidates)]))
    seen = frames(options.frames)
    size = (640, round(SIZE[1] * 640 / SIZE[0]))
    checkpoints = {"golden": GOLDEN, "random": random_radio.write(folder / "radio.pth.tar")}
    papers: dict[str, Made] = {}
    print(
        "setting                    golden: mean   5 %  rest  random: mean   5 %  rest  "
        "processor s  frames/s  as they ran  of paper's time"
    )
    fastest = (0.0, "none")
    for name in names:
        setting, said, least, made = candidates[name], "", 1.0, None
        threads = setting.threads or options.threads
        torch.set_num_threads(threads)
        for network, checkpoint in checkpoints.items():
            made = map_of(encoder_of(checkpoint, setting, folder, size), seen)
            paper = papers.setdefault(network, made)
            cosines = near(made.vectors, paper.vectors)
            least = min(least, cosines["mean"])
            said += "         {mean:.3f} {low:.3f} {rest:.3f}".format(**cosines)
        assert made is not None
        rate = threads / made.processor
        print(
            f"{name:24} {said}  {made.processor:11.2f}  {rate:8.2f}  {1 / made.wall:11.2f}  "
            f"{made.processor / papers['random'].processor:15.3f}",
            flush=True,
        )
        if least >= options.least:
            fastest = max(fastest, (rate, name))
    print(f"fastest with a mean cosine of at least {options.least}: {fastest[1]}, "
          f"{fastest[0]:.2f} frames a second on {options.threads} threads")  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", choices=settings(), metavar="NAME")
    parser.add_argument("--frames", type=int, default=4, help="of the camera (4)")
    parser.add_argument("--least", type=float, default=LEAST, help="mean cosine (0.95)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


if __name__ == "__main__":
    main()
