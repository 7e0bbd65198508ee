# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the RADSeg encoder against the straightforward formulation: attention and T x
T matrices materialised.

    python bench/encoder.py                 # ViT-B with random weights, 640 x 864: about ten
        minutes on two cores
    python bench/encoder.py --only memory   # SCGA at 1344 x 2688 (14 112 patches)

Both sides share weights and image, run in turns, and agree in their output, but for the few patches
whose correlation lies within rounding of the threshold of SCGA. Peak memory is measured in a
process of its own for each side, as the rise of the resident set (VmHWM) over its value right
before the call.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import random_radio
import torch
from torch.nn import functional as F

from radseg_ros.config import RadsegConfig
from radseg_ros.encoders.radseg.backbone import build_radio
from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
from radseg_ros.encoders.radseg.correlation import aggregate
from radseg_ros.encoders.radseg.encoder import RadsegEncoder
from radseg_ros.encoders.radseg.windows import corners, resized

TAU = 10.0


def plain_aggregate(features: torch.Tensor, tau: float) -> torch.Tensor:
    """SCGA line by line: (C, h, w) -> (C, h, w)."""
    vectors = features.flatten(1).T
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    scores = unit @ unit.T
    scores = tau * (scores - scores.mean())
    scores[scores < 0] = -math.inf
    return (scores.softmax(-1) @ vectors).T.reshape(features.shape)


class PlainAttention(torch.nn.Module):
    """SCRA line by line, both attention matrices as a whole."""

    def __init__(self, attention: torch.nn.Module) -> None:
        super().__init__()
        self.own = attention

    def forward(self, x: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
        """(B, T, C) -> (B, T, C)."""
        own = self.own
        split = (own.num_attention_heads, -1)
        q, k, v = (
            linear(x).unflatten(-1, split).transpose(1, 2)
            for linear in (own.q_proj, own.k_proj, own.v_proj)
        )
        weights = ((q @ k.transpose(2, 3)) * own.scaling).softmax(-1)
        out = own.o_proj((weights @ v).transpose(1, 2).flatten(2))
        unit = F.normalize(out.unflatten(-1, split).transpose(1, 2), dim=-1)
        scores = TAU * unit @ unit.transpose(2, 3)
        scores[scores < 0] = -math.inf
        return own.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), None


class PlainEncoder:
    """RADSeg line by line: eager attention, all windows in one batch."""

    def __init__(self, checkpoint: Path, crop: int, stride: int) -> None:
        self.crop, self.stride = crop, stride
        self.model = build_radio(read_checkpoint(checkpoint))
        self.model.set_attn_implementation("eager")
        self.model.encoder.layer[-1].attention = PlainAttention(
            self.model.encoder.layer[-1].attention
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, C, h, w)."""
        grid = (images.shape[2] // 16, images.shape[3] // 16)
        return self.model(images).features.transpose(1, 2).unflatten(2, grid)

    @torch.inference_mode()
    def encode(self, rgb: np.ndarray) -> torch.Tensor:
        """(H, W, 3) -> (C, h, w)."""
        image = torch.from_numpy(rgb).permute(2, 0, 1)[None]
        size = resized(rgb.shape[:2], self.crop, self.stride)
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        if not self.crop:
            return plain_aggregate(self.features(image)[0], TAU)
        places = corners(size, self.crop, self.stride)
        side = self.crop // 16
        windows = self.features(
            torch.cat([image[:, :, y : y + self.crop, x : x + self.crop] for y, x in places])
        )
        total = torch.zeros(windows.shape[1], size[0] // 16, size[1] // 16)
        count = torch.zeros(total.shape[1:])
        for (y, x), window in zip(places, windows, strict=True):
            total[:, y // 16 : y // 16 + side, x // 16 : x // 16 + side] += window
            count[y // 16 : y // 16 + side, x // 16 : x // 16 + side] += 1
        return plain_aggregate(total / count, TAU)


def time_both(rounds: int) -> None:
    """Single pass and windows, in turns.

    Prints medians, ratio and the largest difference of the outputs.
    """
    rgb = np.random.default_rng(0).random((640, 864, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_radio.write(Path(folder) / "radio.pth.tar")
        for name, crop, stride in (
            ("single pass", 0, 0),
            ("windows 336/224", 336, 224),
            ("windows 336/112", 336, 112),
        ):
            ours = RadsegEncoder(
                RadsegConfig(
                    checkpoint=str(checkpoint), crop=crop, stride=stride, device="cpu", offline=True
                )
            )
            plain = PlainEncoder(checkpoint, crop, stride)
            difference = (
                ours.encode(rgb).data - plain.encode(rgb)
            ).abs()  # the first run also warms up
            runs: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
            for _ in range(rounds):
                for side, encode in (("ours", ours.encode), ("plain", plain.encode)):
                    start, start_cpu = time.perf_counter(), time.process_time()
                    encode(rgb)
                    runs[side].append(
                        (time.perf_counter() - start, time.process_time() - start_cpu)
                    )
            (mine, my_cpu), (theirs, their_cpu) = (
                map(statistics.median, zip(*runs[side], strict=True)) for side in runs
            )
            print(
                f"{name}: {mine:.2f} s, straightforward {theirs:.2f} s: {mine / theirs:.2f}x "
                f"(processor time {my_cpu / their_cpu:.2f}x; "
                f"outputs differ by {difference.median():.1e}, at most {difference.max():.1e})",
                flush=True,
            )


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def peak_of(
    function: Callable[[torch.Tensor, float], torch.Tensor],
    shape: tuple[int, int, int],
    pipe: object,
) -> None:
    """Send the rise of the resident set while ``function`` runs, after a small call that loads the
    libraries.
    """
    torch.manual_seed(0)
    features = torch.randn(shape)
    with torch.inference_mode():
        function(features[:, :8, :8], TAU)
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to the present size
        before = resident("VmRSS")
        function(features, TAU)
    pipe.send(resident("VmHWM") - before)


def memory_of_both() -> None:
    """SCGA over 84 x 168 patches of 768 channels, each side in a process of its own."""
    peaks = {}
    for name, function in (("ours", aggregate), ("plain", plain_aggregate)):
        receive, send = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=peak_of, args=(function, (768, 84, 168), send)
        )
        process.start()
        peaks[name] = receive.recv() / 2**20
        process.join()
    ours, plain = peaks["ours"], peaks["plain"]
    print(
        f"SCGA, 14112 patches: {ours:.0f} MiB extra, straightforward {plain:.0f} MiB: "
        f"{ours / plain:.3f}x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("time", "memory"), help="one part")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each side (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only != "time":
        memory_of_both()
    if options.only != "memory":
        time_both(options.rounds)


if __name__ == "__main__":
    main()
