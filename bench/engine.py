# SPDX-License-Identifier: Apache-2.0
"""RADSeg on the CPU by onnxruntime against PyTorch, with weights as they are and in dynamic int8.

    python bench/engine.py                       # ViT-B with random weights, 640 x 864, single pass
    python bench/engine.py --preset balanced     # the same in windows of 336 px
    python bench/engine.py --checkpoint c-radio_v3-b

All sides see one image, in turns. The cosine is that of the features with PyTorch's, patch by
patch. In int8 the weights of the matrix products are rounded channel by channel, and what goes into
them is rounded by its range; SCRA and SCGA stay as they are, since their products have no weights.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import measure
import numpy as np
import random_radio
import torch

from radseg_ros.config import WINDOWS, RadsegConfig
from radseg_ros.encoders.engines.graph import compare, write_engine
from radseg_ros.encoders.engines.session import Engine
from radseg_ros.encoders.radseg.encoder import RadsegEncoder

CPU = torch.device("cpu")


def compare_all(checkpoint: str, preset: str, size: tuple[int, int], rounds: int) -> None:
    """Print what each side takes, and how far its features are from PyTorch's."""
    encoder = RadsegEncoder(RadsegConfig(checkpoint=checkpoint, preset=preset, device="cpu"))
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image = encoder.image(rgb)
    with tempfile.TemporaryDirectory() as folder:
        files = {side: Path(folder) / f"{side}.onnx" for side in ("onnxruntime", "int8")}
        for side, file in files.items():
            write_engine(encoder, file, size, int8=side == "int8")
        engines = {side: Engine(file, CPU).start() for side, file in files.items()}
        mib = {side: file.stat().st_size >> 20 for side, file in files.items()}
    torchs = encoder.features(image)
    agreements = {side: compare(engine(image), torchs) for side, engine in engines.items()}
    sides = {"torch": lambda: encoder.features(image)}
    sides |= {side: lambda e=engine: e(image) for side, engine in engines.items()}
    with torch.inference_mode():
        taken = measure.in_turns(sides, rounds)
    base = taken.pop("torch")
    print(f"preset {preset}, {size[0]} x {size[1]}: torch {base.wall:.2f} s", flush=True)
    for side, own in taken.items():
        near = agreements[side]
        print(
            f"  {side}: {own.wall:.2f} s, {own.wall / base.wall:.2f}x (processor time "
            f"{own.processor / base.processor:.2f}x); {mib[side]} MiB; features within "
            f"{near.difference:.1e} of the largest, worst cosine {near.cosine:.4f}",
            flush=True,
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="", help="RADIO weights (random ones)")
    parser.add_argument("--preset", choices=WINDOWS, default="fast")
    parser.add_argument("--size", nargs=2, type=int, default=(640, 864), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each side (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or str(random_radio.write(Path(folder) / "radio.pth.tar"))
        compare_all(checkpoint, options.preset, tuple(options.size), options.rounds)


if __name__ == "__main__":
    main()
