# SPDX-License-Identifier: Apache-2.0
"""What RADSeg's peers cost, as ratios to RADSeg: seconds and memory of one image, from pixels to
probabilities.

    python bench/methods.py                             # every method: half an hour on two cores
    python bench/methods.py --only naradio naclip --rounds 9

All networks have the sizes of the paper's base models and random weights; all methods see the same
image of 576 x 768, through windows of 336 px every 224 px (the paper's middle resolution for
ADE20K and Context) but where their authors fix others, look for the same number of labels, and run
in turns. Beside them stand the ratios of the paper's Table A.3, means over five data sets on a V100
(a dash: not in it). Memory is the rise of the resident set while the image is looked at, over what
the loaded encoder takes, in a process of its own. TextRegion gets its masks for nothing here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import numpy as np
import random_clip
import random_radio
import torch

from radseg_ros.encoders.protocol import make_encoder
from radseg_ros.segmentation.probabilities import probabilities

SIZE, LABELS = (576, 768), 20  # px
COMMON = {"crop": 336, "stride": 224, "device": "cpu", "offline": True}
BASE = {"width": 768, "depth": 12, "heads": 12}
RADSEG = "radseg"


@dataclass(frozen=True)
class Method:
    """One row: an encoder, its options, and what the paper says."""

    encoder: str
    options: Mapping[str, Any] = field(default_factory=dict)  # @NAME = the path of WEIGHTS
    seconds: float = 0.0  # an image in Table A.3; 0 = not in it


def write_clip(path: Path) -> Path:
    """ViT-B/16, with a small text tower that nobody asks."""
    return random_clip.write(path, **BASE, side=224, projection=512, tokenizer=False)


WEIGHTS: dict[str, Callable[[Path], Path]] = {
    "@radio": lambda path: random_radio.write(path.with_suffix(".pth.tar")),
    "@clip": write_clip,
    "@dino8": lambda path: random_clip.write_dino(path, 8, 224, **BASE),
    "@dino16": lambda path: random_clip.write_dino(path, 16, 224, **BASE),
    "@dinov2": lambda path: random_clip.write_dinov2(path, 14, 518, **BASE),
    "@sam": lambda path: random_clip.write_sam(path, 16, 1024, window=14, **BASE),
}
RADIO, CLIP = {"checkpoint": "@radio"}, {"checkpoint": "@clip"}
METHODS = {
    RADSEG: Method("radseg", RADIO, 0.115),
    "plain": Method("radseg", RADIO | {"attention": "plain"}),
    "naradio": Method("radseg", RADIO | {"attention": "naradio"}, 0.111),  # its row: RayFronts
    "proxy_dino": Method("radseg", RADIO | {"attention": "proxy_dino"}),
    "proxy_sam": Method("radseg", RADIO | {"attention": "proxy_sam"}),
    "resradio": Method("radseg", RADIO | {"attention": "resradio"}),
    "resradio sfr": Method("radseg", RADIO | {"attention": "resradio", "sfr": True}),
    "naclip": Method("naclip", CLIP, 0.089),
    "scclip": Method("scclip", CLIP, 0.147),
    "resclip": Method("resclip", CLIP, 0.261),
    "proxyclip": Method("proxyclip", CLIP | {"proxy": "@dino8", "stride": 112}, 0.667),
    "talk2dino": Method(
        "talk2dino", {"checkpoint": "@dinov2", "text_tower": "@clip", "crop": 448}, 0.165
    ),
    "trident": Method("trident", CLIP | {"proxy": "@dino16", "sam": "@sam"}, 0.454),
    "textregion": Method("textregion", CLIP, 0.682),
}


def ready(encoder: str, options: Mapping[str, Any]) -> Callable[[], object]:
    """What is timed: one image through a loaded encoder, which has seen a small one."""
    torch.manual_seed(0)
    loaded: Any = make_encoder(encoder, **{**COMMON, **options})
    if encoder == "textregion":
        loaded.masker = stripes
    rgb = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    vectors = torch.randn(LABELS, loaded.language_channels)
    probabilities(loaded, np.ascontiguousarray(rgb[:112, :112]), vectors)
    return lambda: probabilities(loaded, rgb, vectors)


def stripes(image: torch.Tensor) -> torch.Tensor:
    """(3, H, W) -> (32, H, W): masks side by side."""
    columns = torch.arange(image.shape[2]) * 32 // image.shape[2]
    return (columns == torch.arange(32)[:, None, None]).float().expand(-1, image.shape[1], -1)


def wanted(names: list[str], folder: Path) -> dict[str, Method]:
    """The rows, with the weights that they need written to ``folder``."""
    used = {str(value) for name in names for value in METHODS[name].options.values()}
    paths = {name: str(write(folder / name[1:])) for name, write in WEIGHTS.items() if name in used}
    return {
        name: Method(row.encoder, {k: paths.get(v, v) for k, v in row.options.items()}, row.seconds)
        for name, row in ((name, METHODS[name]) for name in names)
    }


def run(names: list[str], rounds: int, memory: bool) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = wanted(names, Path(folder))
        sides = {name: ready(row.encoder, row.options) for name, row in rows.items()}
        taken = measure.in_turns(sides, rounds)
        sides.clear()
        peaks = {
            name: measure.peak_memory(ready, row.encoder, row.options) if memory else 0.0
            for name, row in rows.items()
        }
    print(f"{SIZE[0]} x {SIZE[1]}, {LABELS} labels, medians of {rounds} rounds")
    print(
        f"{'method':14} {'s':>7} {'ratio':>6} {'paper':>6}" + memory * f" {'MiB':>6} {'ratio':>6}"
    )
    for name, row in rows.items():
        seconds = taken[name].wall
        paper = f"{row.seconds / METHODS[RADSEG].seconds:.2f}" if row.seconds else "-"
        line = f"{name:14} {seconds:7.2f} {seconds / taken[RADSEG].wall:6.2f} {paper:>6}"
        print(line + memory * f" {peaks[name]:6.0f} {peaks[name] / (peaks[RADSEG] or 1):6.2f}")


def main() -> None:
    """The command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    known = ", ".join(METHODS)
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="NAME", help=known)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each method (3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--no-memory", action="store_true", help="only the time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = dict.fromkeys([RADSEG, *(options.only or METHODS)])
    run(list(names), options.rounds, not options.no_memory)


if __name__ == "__main__":
    main()
