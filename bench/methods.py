# SPDX-License-Identifier: Apache-2.0
"""What RADSeg's peers cost, as ratios to RADSeg: seconds and memory of one image.

    python bench/methods.py                      # every method; about twenty minutes on two cores
    python bench/methods.py --only naradio plain --rounds 9

All methods have the sizes of ViT-B and random weights, see the same image of 576 x 768 through
windows of 336 px every 224 px (the paper's middle resolution of ADE20K and Context), and run in
turns. Beside them stand the ratios of the paper's Table A.3 (means over five data sets on a V100;
the derived methods are not in it). Memory is the rise of the resident set while the image is
encoded, in a process of its own, over what the loaded encoder takes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import random_radio
import torch

from radseg_ros.encoders.protocol import ENCODERS, Encoder, make_encoder

SIZE = (576, 768)  # px
WINDOW = {"crop": 336, "stride": 224, "device": "cpu", "offline": True}
BASE = "radseg"


@dataclass(frozen=True)
class Method:
    """One row: an encoder, its options, and what the paper says."""

    encoder: str
    options: Mapping[str, Any] = field(default_factory=dict)  # a name of WEIGHTS = their path
    seconds: float = 0.0  # an image in Table A.3; 0 = not in it


WEIGHTS: dict[str, Callable[[Path], Path]] = {
    "@radio": lambda folder: random_radio.write(folder / "radio.pth.tar"),
}
RADIO = partial(dict, checkpoint="@radio")
METHODS = {
    BASE: Method("radseg", RADIO(), 0.115),
    "plain": Method("radseg", RADIO(attention="plain")),
    "naradio": Method("radseg", RADIO(attention="naradio"), 0.111),  # its row: RayFronts
    "proxy_dino": Method("radseg", RADIO(attention="proxy_dino")),
    "proxy_sam": Method("radseg", RADIO(attention="proxy_sam")),
    "resradio": Method("radseg", RADIO(attention="resradio")),
}


def load(encoder: str, options: Mapping[str, Any]) -> Encoder:
    """The encoder of a row."""
    return make_encoder(encoder, **{**WINDOW, **options})


def ready(encoder: str, options: Mapping[str, Any]) -> Callable[[], object]:
    """Encoding of one image by a loaded encoder, which has seen a small one."""
    loaded, rgb = load(encoder, options), image(SIZE)
    loaded.encode(rgb[:336, :336])
    return lambda: loaded.encode(rgb)


def image(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) noise."""
    return np.random.default_rng(0).random((*size, 3), np.float32)


def run(names: list[str], rounds: int, memory: bool) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(write(Path(folder))) for name, write in WEIGHTS.items()}
        chosen = {
            name: {key: paths.get(value, value) for key, value in METHODS[name].options.items()}
            for name in names
        }
        sides = {name: ready(METHODS[name].encoder, options) for name, options in chosen.items()}
        taken = measure.in_turns(sides, rounds)
        sides.clear()
        peaks = {
            name: measure.peak_memory(ready, METHODS[name].encoder, options) if memory else 0.0
            for name, options in chosen.items()
        }
    print(f"{SIZE[0]} x {SIZE[1]}, windows 336 / 224, medians of {rounds} rounds")
    print(f"{'method':12} {'s':>7} {'ratio':>6} {'paper':>6} {'MiB':>6} {'ratio':>6}")
    for name in names:
        seconds, peak, published = taken[name].wall, peaks[name], METHODS[name].seconds
        paper = f"{published / METHODS[BASE].seconds:.2f}" if published else "-"
        more = f"{peak:6.0f} {peak / peaks[BASE]:6.2f}" if memory else ""
        ratio = seconds / taken[BASE].wall
        print(f"{name:12} {seconds:7.2f} {ratio:6.2f} {paper:>6} {more}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME",
                        help=f"some of {', '.join(METHODS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each method (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--no-memory", action="store_true", help="only the time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    here = [name for name in options.only if METHODS[name].encoder in ENCODERS]
    run(list(dict.fromkeys([BASE, *here])), options.rounds, not options.no_memory)


if __name__ == "__main__":
    main()
