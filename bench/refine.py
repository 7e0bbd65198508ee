# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the refinement with SAM's decoder, three ways: one region at a time through
transformers' mask decoder, all regions of a class at once through the same (its batched call), and
our decoder.

    python bench/refine.py                # 50 regions of 10 classes at 640 x 864
    python bench/refine.py --kept 0.2     # as many masks pass the predicted IoU
    python bench/refine.py --classes 4 --batch 50    # larger batches for the batched call

The three share random weights of the size of ViT-H's decoder, coarse probabilities and image
embedding, run in turns in one process, and must agree. The passes of RADIO are the same for all and
are not counted. Peak memory is the rise of the resident set over its value before the call, in a
process of its own for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable

import measure
import numpy as np
import plain_sam
import random_sam
import torch
from torch.nn import functional as F

from radseg_ros.config import RefineConfig
from radseg_ros.segmentation.maps import Segmentation, label_map
from radseg_ros.segmentation.refine import (
    find_regions,
    mask_prompts,
    merge,
    prompts_of,
    refine,
    sam_input_size,
)
from radseg_ros.segmentation.sam_decoder import SamDecoder
from radseg_ros.segmentation.sam_weights import load_sam

SIZE = (640, 864)


@dataclasses.dataclass(frozen=True)
class World:
    """What one measurement is about; small enough to be sent to another process."""

    folder: str  # of the SAM
    regions: int
    classes: int
    kept: float  # share of the masks that pass the predicted IoU
    batch: int


class Sides:
    """The three ways, on the same world."""

    def __init__(self, world: World, iou: float | None = None) -> None:
        weights = load_sam(world.folder)
        self.sam, self.plain = SamDecoder(weights), plain_sam.PlainSam(weights)
        self.coarse = coarse_maps(world)
        random = torch.Generator().manual_seed(1)
        with torch.inference_mode():
            features = torch.randn(self.sam.features, 48, 64, generator=random)
            self.embedding = self.sam.embed_image(features)
        self.config = RefineConfig(batch=world.batch, iou=-1e9)
        found = len(find_regions(self.coarse, self.config.threshold, self.config.min_area))
        if found != world.regions:
            raise SystemExit(f"{found} regions instead of {world.regions}: too many, or < 4 kinds")
        iou = self._threshold(world) if iou is None else iou
        self.config = dataclasses.replace(self.config, iou=iou)

    @torch.inference_mode()
    def ours(self) -> Segmentation:
        """The refinement as the product runs it."""
        regions = find_regions(self.coarse, self.config.threshold, self.config.min_area)
        return refine(self.coarse, regions, self.embedding, self.sam, self.config)

    @torch.inference_mode()
    def batched(self) -> Segmentation:
        """transformers' decoder on the regions of a class; masks are made for kept regions only."""
        coarse, config = self.coarse, self.config
        regions = find_regions(coarse, config.threshold, config.min_area)
        boxes, points = prompts_of(regions, self.sam)
        size = (coarse.shape[1], coarse.shape[2])
        input_size = sam_input_size(size, self.sam)
        kept, best = np.zeros(len(regions), bool), {}
        for c in np.unique(regions.classes).tolist():
            mask = mask_prompts(coarse, torch.tensor([c]), self.sam, config)[0]
            own = torch.from_numpy(np.flatnonzero(regions.classes == c))
            for some in own.split(config.batch):
                masks, iou = self.plain(self.embedding, mask, boxes[some], points[some])
                kept[some] = iou > config.iou
                for low in masks[iou > config.iou]:
                    logits = self.plain.enlarge(low, input_size, size)
                    best[c] = torch.maximum(best[c], logits) if c in best else logits
        return merge(coarse, regions, kept, best)

    @torch.inference_mode()
    def one_by_one(self) -> Segmentation:
        """The method as it is written down: prompt, decode, enlarge, merge, region after region."""
        coarse, config = self.coarse, self.config
        regions = find_regions(coarse, config.threshold, config.min_area)
        boxes, points = prompts_of(regions, self.sam)
        size = (coarse.shape[1], coarse.shape[2])
        input_size = sam_input_size(size, self.sam)
        refined, failed = torch.zeros_like(coarse), torch.zeros(size, dtype=torch.bool)
        for i, c in enumerate(regions.classes.tolist()):
            mask = mask_prompts(coarse, torch.tensor([c]), self.sam, config)[0]
            low, iou = self.plain(self.embedding, mask, boxes[i : i + 1], points[i : i + 1])
            if iou.item() <= config.iou:
                area = torch.from_numpy(regions.ids == i + 1)[None, None].float()
                failed |= F.interpolate(area, size, mode="nearest")[0, 0] > 0
                continue
            logits = self.plain.enlarge(low[0], input_size, size)
            mine = torch.where(logits > 0, logits.sigmoid() * coarse[c], 0.0)
            refined[c] = torch.maximum(refined[c], mine)
        masked = refined.amax(0) > 0
        best = label_map(torch.where(masked, refined, coarse))
        left = torch.where(failed | ~masked, coarse, 0.0)
        return Segmentation(torch.maximum(refined, left), best)

    def all(self) -> dict[str, Callable[[], Segmentation]]:
        """By name, ours last."""
        return {"one by one": self.one_by_one, "batched": self.batched, "ours": self.ours}

    def _threshold(self, world: World) -> float:
        """A predicted IoU that the wanted share of the regions passes."""
        if world.kept >= 1:
            return -1e9
        regions = find_regions(self.coarse, self.config.threshold, self.config.min_area)
        boxes, points = prompts_of(regions, self.sam)
        qualities = []
        for i, c in enumerate(regions.classes.tolist()):
            mask = mask_prompts(self.coarse, torch.tensor([c]), self.sam, self.config)[0]
            qualities.append(self.plain(self.embedding, mask, boxes[[i]], points[[i]])[1].item())
        qualities = [max(qualities) + 1, *sorted(qualities, reverse=True)]
        n = round(world.kept * world.regions)
        return (qualities[n] + qualities[n + 1]) / 2


def coarse_maps(world: World, seed: int = 0) -> torch.Tensor:
    """(Q, H, W) probabilities with that many regions: cells, no two alike side by side."""
    rows = max(1, int((world.regions / 2) ** 0.5))
    columns = -(-world.regions // rows)
    sides = zip(SIZE, (rows, columns), strict=True)
    y, x = (torch.arange(side) * count // side for side, count in sides)
    labels = (2 * y[:, None] + x[None]) % world.classes
    cell = y[:, None] * columns + x[None]
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, world.classes, 40, 54, generator=random)
    smooth = F.interpolate(noise, SIZE, mode="bilinear", align_corners=False)[0]
    logits = 2 * smooth + 4 * F.one_hot(labels, world.classes).permute(2, 0, 1)
    return torch.where(cell < world.regions, logits.softmax(0), 0.05)


def side_of(world: World, iou: float, name: str) -> Callable[[], Segmentation]:
    """One of the three, in a process of its own."""
    return Sides(world, iou).all()[name]


def agreement(ours: Segmentation, other: Segmentation) -> str:
    """How far two results are the same.

    A mask ends where its logit changes its sign: there rounding may decide.
    """
    equal = (ours.best == other.best).float().mean()
    difference = (ours.probabilities - other.probabilities).abs().amax(0)
    near = (difference < 1e-4).float().mean()
    return f"labels equal on {equal:.4%} of the pixels, probabilities within 1e-4 on {near:.4%}"


def report(world: World, rounds: int, memory: bool) -> None:
    """Print what the three take."""
    sides = Sides(world)
    runs = sides.all()
    results = {name: run() for name, run in runs.items()}  # warms up, too
    taken = measure.in_turns(runs, rounds)
    ours = taken["ours"]
    for name, seconds in taken.items():
        line = f"{name:10}  {seconds.wall:6.2f} s ({seconds.wall / ours.wall:.2f}x)   processor "
        line += f"{seconds.processor:6.2f} s ({seconds.processor / ours.processor:.2f}x)"
        if memory:
            peak = measure.peak_memory(side_of, world, sides.config.iou, name)
            line += f"   memory {peak:4.0f} MiB"
        print(line, flush=True)
    for name in ("one by one", "batched"):
        print(f"ours and {name}: {agreement(results['ours'], results[name])}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", type=int, default=50)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--kept", type=float, default=1.0, help="share of the masks that pass the predicted IoU (1)"
    )
    parser.add_argument("--batch", type=int, default=RefineConfig().batch)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="time only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        random_sam.write(folder)
        world = World(folder, options.regions, options.classes, options.kept, options.batch)
        print(
            f"{options.regions} regions of {options.classes} classes, {options.kept:.0%} kept, "
            f"{SIZE[0]} x {SIZE[1]}, batch {options.batch}, {options.threads} threads"
        )
        report(world, options.rounds, not options.no_memory)


if __name__ == "__main__":
    main()
