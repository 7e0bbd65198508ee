# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the RADSeg encoder against the straightforward formulation: attention and T x
T matrices materialised.

    python bench/encoder.py                 # ViT-B with random weights, 640 x 864: about ten
        minutes on two cores
    python bench/encoder.py --only memory   # SCGA at 1344 x 2688 (14 112 patches)

Both sides share weights and image, run in turns, and agree in their output, but for the few patches
whose correlation lies within rounding of the threshold of SCGA. Peak memory is the rise of the
resident set over its value right before the call, in a process of its own for each side.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np
import plain_encoder
import random_radio
import torch

from radseg_ros.config import RadsegConfig
from radseg_ros.encoders.radseg.correlation import aggregate
from radseg_ros.encoders.radseg.encoder import RadsegEncoder

WINDOWS = {"single pass": (0, 0), "windows 336/224": (336, 224), "windows 336/112": (336, 112)}


def time_both(rounds: int) -> None:
    """Single pass and windows: medians, ratio and the largest difference of the outputs."""
    rgb = np.random.default_rng(0).random((640, 864, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_radio.write(Path(folder) / "radio.pth.tar")
        for name, (crop, stride) in WINDOWS.items():
            config = RadsegConfig(
                checkpoint=str(checkpoint), crop=crop, stride=stride, device="cpu", offline=True
            )
            ours = RadsegEncoder(config)
            plain = plain_encoder.PlainEncoder(checkpoint, crop, stride)
            difference = (ours.encode(rgb).data - plain.encode(rgb)).abs()  # and warms up
            sides = {"ours": lambda e=ours: e.encode(rgb), "plain": lambda e=plain: e.encode(rgb)}
            taken = measure.in_turns(sides, rounds)
            mine, theirs = taken["ours"], taken["plain"]
            print(
                f"{name}: {mine.wall:.2f} s, straightforward {theirs.wall:.2f} s: "
                f"{mine.wall / theirs.wall:.2f}x (processor time "
                f"{mine.processor / theirs.processor:.2f}x; outputs differ by "
                f"{difference.median():.1e}, at most {difference.max():.1e})",
                flush=True,
            )


def aggregation(
    function: Callable[[torch.Tensor, float], torch.Tensor], shape: tuple[int, int, int]
) -> Callable[[], torch.Tensor]:
    """SCGA by ``function`` over features of that shape, after a small call that loads libraries."""
    torch.manual_seed(0)
    features = torch.randn(shape)
    function(features[:, :8, :8], plain_encoder.TAU)
    return lambda: function(features, plain_encoder.TAU)


def memory_of_both() -> None:
    """SCGA over 84 x 168 patches of 768 channels."""
    ours, plain = (
        measure.peak_memory(aggregation, function, (768, 84, 168))
        for function in (aggregate, plain_encoder.plain_aggregate)
    )
    print(
        f"SCGA, 14112 patches: {ours:.0f} MiB extra, straightforward {plain:.0f} MiB: "
        f"{ours / plain:.3f}x",
        flush=True,
    )


def main() -> None:
    """The command."""
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
