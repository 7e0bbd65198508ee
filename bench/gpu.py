# SPDX-License-Identifier: Apache-2.0
"""One command that says of any GPU: does it give the same map, and how fast is it?

    python bench/gpu.py                         # about four minutes on a large GPU
    python bench/gpu.py --only parity syncs     # some parts
    python bench/gpu.py --budget 120 --networks ViT-B --types float16 --json gpu.json
    python bench/gpu.py --device cpu --quick    # that everything runs, in seconds

Parts, each with tables in Markdown that are printed row by row (docs/performance.md explains them):

    parity   encoder, maps and questions against the authors' numbers and against the CPU, by type
    stages   time, memory and distance from the floor of each stage, by network, size, preset, type
    frames   frames a second: Mapper.integrate, and a live map that is fed messages
    growth   frames, questions and clouds in maps of 50 000, 500 000 and 2 000 000 voxels
    syncs    where the host waits for the GPU, by line
    launches what lifting and fusing a frame asks of a GPU, by line; without one, of a pretended one
    node     frames a second through the node, where ROS is

No weights are needed: networks are random or those of test/data/golden. The exit code is 1 if
something failed or is not the same.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import tempfile
from pathlib import Path

import gpu_kit
import torch

# part -> its share of the time, beside the others
PARTS = {
    "parity": 2.0, "stages": 5.0, "frames": 3.0, "growth": 3.0, "syncs": 1.0, "launches": 0.5,
    "node": 2.0,
}  # fmt: skip
MODULES = {  # others: gpu_speed
    "parity": "gpu_parity", "syncs": "gpu_syncs", "launches": "gpu_syncs", "node": "gpu_node",
}  # fmt: skip


def measure_part(name: str, bench: gpu_kit.Bench) -> None:
    """A part, loaded on use: one may need what is not here."""
    getattr(importlib.import_module(MODULES.get(name, "gpu_speed")), name)(bench)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="", choices=("cpu", "cuda"), help="(cuda if there is one)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--quick", action="store_true", help="tiny: only that everything runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="these parts")
    parser.add_argument(
        "--budget",
        type=float,
        default=0.0,
        help="s that all may take; what does not fit is left out",
    )
    parser.add_argument("--networks", nargs="+", choices=("ViT-B", "ViT-H"), help="(both)")
    parser.add_argument("--types", nargs="+", choices=gpu_kit.TYPES, help="(all; CPU: no float16)")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wanted = [name for name in PARTS if not options.only or name in options.only]
    with tempfile.TemporaryDirectory(prefix="radseg_gpu_") as folder:
        budget = options.budget or float("inf")
        bench = gpu_kit.Bench(device, options.quick, budget, Path(folder), options.json)
        bench.narrow(options.networks, options.types)
        bench.begin()
        for number, name in enumerate(wanted):
            left = sum(PARTS[other] for other in wanted[number:])
            bench.run(name, functools.partial(measure_part, name), PARTS[name] / left)
    sys.exit(0 if bench.good else 1)


if __name__ == "__main__":
    main()
