# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the RADIO-SAM refinement against one region at a time through transformers'
own mask decoder.

    python bench/refine.py                # 50 regions of 10 classes at 640 x 864, random weights of
        ViT-H's decoder size
    python bench/refine.py --kept 0.2     # as many masks pass the predicted IoU; the others are not
        made by either side

Both sides share weights, coarse probabilities and image embedding, run in turns in one process, and
must agree. The passes of RADIO are the same on both sides and are not counted. Peak memory is the
rise of the resident set over its value before the call.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import patience  # noqa: F401  # isort: skip

import random_sam  # isort: skip
import torch  # isort: skip
from torch.nn import functional as F  # isort: skip

from radseg_ros.config import RefineConfig
from radseg_ros.segmentation.maps import Segmentation, label_map
from radseg_ros.segmentation.refine import (
    Regions,
    find_regions,
    mask_prompts,
    prompts_of,
    refine,
    sam_input_size,
)
from radseg_ros.segmentation.sam_decoder import SamDecoder, load_sam

SIZE = (640, 864)
CLASSES = 10


def world(regions: int, seed: int = 0) -> torch.Tensor:
    """(Q, H, W) coarse probabilities with that many regions: a grid of cells, neighbours of
    different classes.
    """
    rows = max(1, int((regions / 2) ** 0.5))
    columns = -(-regions // rows)
    y, x = (
        torch.arange(side) * count // side
        for side, count in zip(SIZE, (rows, columns), strict=True)
    )
    labels = (3 * y[:, None] + x[None]) % CLASSES
    cell = y[:, None] * columns + x[None]
    random = torch.Generator().manual_seed(seed)
    noise = F.interpolate(
        torch.rand(1, CLASSES, 40, 54, generator=random), SIZE, mode="bilinear", align_corners=False
    )[0]
    logits = 2 * noise + 4 * F.one_hot(labels, CLASSES).permute(2, 0, 1)
    return torch.where(cell < regions, logits.softmax(0), 0.05)


class OneByOne:
    """The same method, one region after the other: prompt, decode with ``SamMaskDecoder``, enlarge,
    merge.
    """

    def __init__(self, sam: SamDecoder, config: RefineConfig) -> None:
        self.sam, self.config = sam, config
        side = sam.grid
        self.position = sam.grid_position.T.reshape(1, -1, side, side)

    @torch.inference_mode()
    def __call__(self, coarse: torch.Tensor, embedding: torch.Tensor) -> Segmentation:
        """(Q, H, W) coarse probabilities and (T, C) image embedding -> refined ones."""
        sam, config, side = self.sam, self.config, self.sam.grid
        regions = find_regions(coarse, config.threshold, config.min_area)
        boxes, points = prompts_of(regions, sam)
        image = embedding.T.reshape(1, -1, side, side)
        input_size = sam_input_size(tuple(coarse.shape[1:]), sam)
        refined, failed = torch.zeros_like(coarse), torch.zeros(coarse.shape[1:], dtype=torch.bool)
        for i, c in enumerate(regions.classes.tolist()):
            prompts = sam.embed_prompts(boxes[i : i + 1], points[i : i + 1])[None]
            mask = mask_prompts(coarse, torch.tensor([c]), sam, config)
            dense = sam.embed_masks(mask)[0].T.reshape(1, -1, side, side)
            low, iou = sam.decoder(image, self.position, prompts, dense, multimask_output=False)
            if iou.item() <= config.iou:
                area = torch.from_numpy(regions.ids == i + 1)[None, None].float()
                failed |= F.interpolate(area, coarse.shape[1:], mode="nearest")[0, 0] > 0
                continue
            large = F.interpolate(
                low[0], 2 * (sam.image_size,), mode="bilinear", align_corners=False
            )
            large = large[..., : input_size[0], : input_size[1]]
            logits = F.interpolate(large, coarse.shape[1:], mode="bilinear", align_corners=False)[
                0, 0
            ]
            refined[c] = torch.maximum(
                refined[c], torch.where(logits > 0, logits.sigmoid() * coarse[c], 0.0)
            )
        masked = refined.amax(0) > 0
        best = label_map(torch.where(masked, refined, coarse))
        return Segmentation(
            torch.where(failed | ~masked, torch.maximum(refined, coarse), refined), best
        )


@torch.inference_mode()
def batched(
    sam: SamDecoder, config: RefineConfig, coarse: torch.Tensor, embedding: torch.Tensor
) -> Segmentation:
    """The refinement as the encoder runs it."""
    regions = find_regions(coarse, config.threshold, config.min_area)
    return refine(coarse, regions, embedding, sam, config)


@torch.inference_mode()
def quality(
    sam: SamDecoder,
    config: RefineConfig,
    coarse: torch.Tensor,
    embedding: torch.Tensor,
    regions: Regions,
) -> torch.Tensor:
    """(N,) predicted IoU of every region, to place the threshold."""
    tokens, classes = (
        sam.embed_prompts(*prompts_of(regions, sam)),
        torch.from_numpy(regions.classes),
    )
    scores = []
    for i in range(len(regions)):
        prompted = sam.prompt_image(
            embedding, mask_prompts(coarse, classes[i : i + 1], sam, config)[0]
        )
        scores.append(sam.decode(tokens[i : i + 1], [prompted])[0].iou)
    return torch.tensor(scores)


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def setting(
    folder: str, regions: int, kept: float, batch: int
) -> tuple[SamDecoder, RefineConfig, torch.Tensor, torch.Tensor]:
    """Decoder, options, coarse probabilities and image embedding; the same for every process."""
    sam = load_sam(folder)
    config = RefineConfig(iou=-1e9, batch=batch)
    coarse = world(regions)
    features = torch.randn(sam.features, 48, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embedding = sam.embed_image(features)
    found = find_regions(coarse, config.threshold, config.min_area)
    if len(found) != regions:
        raise SystemExit(
            f"{len(found)} regions instead of {regions}: cells too small for refine_min_area"
        )
    if kept < 1:
        scores = quality(sam, config, coarse, embedding, found).sort(descending=True).values
        n = round(kept * regions)
        between = (scores[n - 1] + scores[n]) / 2 if n else scores[0] + 1
        config = dataclasses.replace(config, iou=float(between))
    return sam, config, coarse, embedding


def peak(side: str, threads: int, pipe: object, *options: object) -> None:
    """Send the rise of the resident set while ``side`` runs once (after a first run on a small
    world).
    """
    torch.set_num_threads(threads)
    sam, config, coarse, embedding = setting(*options)
    run = functions(sam, config)[side]
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to the present size
    before = resident("VmRSS")
    run(coarse, embedding)
    pipe.send(resident("VmHWM") - before)


def functions(
    sam: SamDecoder, config: RefineConfig
) -> dict[str, Callable[[torch.Tensor, torch.Tensor], Segmentation]]:
    """Both sides."""
    return {"batched": lambda c, e: batched(sam, config, c, e), "one by one": OneByOne(sam, config)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", type=int, default=50)
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
        world_options = (folder, options.regions, options.kept, options.batch)
        sam, config, coarse, embedding = setting(*world_options)
        sides = functions(sam, config)
        first = {side: run(coarse, embedding) for side, run in sides.items()}  # warms up, too
        results = list(first.values())
        difference = (results[0].probabilities - results[1].probabilities).abs().amax(0).flatten()
        equal = (results[0].best == results[1].best).float().mean()
        seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, run in sides.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                run(coarse, embedding)
                seconds[side].append((time.perf_counter() - start, time.process_time() - start_cpu))
        (mine, my_cpu), (plain, plain_cpu) = (
            map(statistics.median, zip(*seconds[side], strict=True)) for side in sides
        )
        print(
            f"{options.regions} regions, {options.kept:.0%} kept, {SIZE[0]} x {SIZE[1]}, batch "
            f"{options.batch}",
            end="",
        )
        print(f", {options.threads} threads")
        print(f"time: batched {mine:.2f} s, one by one {plain:.2f} s ({plain / mine:.2f}x)")
        print(
            f"processor time: batched {my_cpu:.2f} s, one by one {plain_cpu:.2f} s "
            f"({plain_cpu / my_cpu:.2f}x)"
        )
        print(f"agreement: labels equal on {equal:.4%} of the pixels, ", end="")
        near = (
            (difference < 1e-4).float().mean()
        )  # a mask ends where its logit changes its sign: there rounding may decide
        print(f"probabilities within 1e-4 on {near:.4%}")
        if not options.no_memory:
            context = multiprocessing.get_context("spawn")
            for side in sides:
                receive, send = context.Pipe(duplex=False)
                process = context.Process(
                    target=peak, args=(side, options.threads, send, *world_options)
                )
                process.start()
                print(f"memory: {side} {receive.recv() / 2**20:.0f} MiB")
                process.join()


if __name__ == "__main__":
    main()
