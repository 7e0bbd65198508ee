# SPDX-License-Identifier: Apache-2.0
"""What can be said about an encoder without labels, on any checkpoint and any folder of images.

    python bench/ablation.py c-radio_v3-b IMAGES
    python bench/ablation.py test/data/golden/tiny_radio.pth.tar IMAGES --short-side 144 --crop 96
        --stride 48

1. CLS-to-patch alignment (Fig. A.2): the mean cosine between each patch and the cls token of the
   language teacher, both of the backbone as it is, single pass. The paper has 0.48 for C-RADIOv3-B,
   0.38 for -H and -0.04 for -L over 1000 ImageNet images. Also the same two through the language
   head, which is what queries compare.
2. Agreement with the standard (tau 10, one recursion, SCGA always) when one thing is changed: the
   mean cosine of the patches in language space and, with labels, the share of pixels that keep
   their label: how much an option matters, not which is better.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from radseg_ros.config import RadsegConfig
from radseg_ros.datatypes import InputError, RadsegRosError
from radseg_ros.encoders.radseg.alignment import alignment
from radseg_ros.encoders.radseg.encoder import RadsegEncoder
from radseg_ros.geometry import resize_rgb, working_size
from radseg_ros.segmentation.maps import label_map
from radseg_ros.segmentation.probabilities import probabilities, read_rgb

IMAGES = {".jpg", ".jpeg", ".png", ".webp"}
VARIANTS = {
    "tau_scra 1": {"tau_scra": 1.0},
    "tau_scra 5": {"tau_scra": 5.0},
    "tau_scra 20": {"tau_scra": 20.0},
    "tau_scga 1": {"tau_scga": 1.0},
    "tau_scga 5": {"tau_scga": 5.0},
    "tau_scga 20": {"tau_scga": 20.0},
    "2 recursions": {"recursions": 2},
    "3 recursions": {"recursions": 3},
    "without SCRA": {"scra": False},
    "without SCGA": {"scga": "off"},
    "single pass": {"crop": 0},
    "single pass without SCGA": {"crop": 0, "scga": "off"},
}


def images_of(folder: Path, short_side: int, limit: int) -> list[np.ndarray]:
    """Up to ``limit`` images of a folder and its subfolders, evenly spread, at the working size."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not paths:
        raise InputError(f"{folder}: no images")
    chosen = [
        paths[i] for i in np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int)
    ]
    images = [read_rgb(path) for path in chosen]
    return [resize_rgb(rgb, working_size(rgb.shape[:2], short_side)) for rgb in images]


def view(
    encoder: RadsegEncoder, rgb: np.ndarray, text: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What an encoder makes of an image: (D, 64, 64) language vectors, and (64, 64) labels if there
    is text.
    """
    features = encoder.encode(rgb).data
    language = encoder.project(features.flatten(1).T).T.unflatten(1, features.shape[1:])
    language = F.interpolate(language[None], (64, 64), mode="bilinear", align_corners=False)[0]
    if text is None:
        return language, None
    return language, label_map(probabilities(encoder, rgb, text, size=(64, 64)))


def agreement(first: tuple, second: tuple) -> tuple[float, float]:
    """Mean cosine of two views, and the share of equal labels (NaN without text)."""
    same = float("nan") if first[1] is None else float((first[1] == second[1]).float().mean())
    return float(F.cosine_similarity(first[0], second[0], dim=0).mean()), same


def variants(config: RadsegConfig, only: str) -> Iterator[tuple[str, RadsegConfig]]:
    """The standard configuration with one thing changed."""
    crop, _ = config.window()
    for name, change in VARIANTS.items():
        if only in name and not (crop == 0 and "crop" in change and len(change) == 1):
            yield name, dataclasses.replace(config, **change)


def run(options: argparse.Namespace) -> None:
    """Print both tables."""
    torch.manual_seed(0)
    images = images_of(options.images, options.short_side, options.limit)
    config = RadsegConfig(
        checkpoint=options.checkpoint,
        preset=options.preset,
        crop=options.crop,
        stride=options.stride,
        device=options.device,
        text_embeddings=options.text_embeddings or [],
        force=True,
    )
    standard = RadsegEncoder(config)
    text = standard.embed_labels(options.labels.split(",")) if options.labels else None
    print(f"{standard.name}, {len(images)} images of {options.images}")
    plain, aligned = np.mean([alignment(standard, rgb) for rgb in images], axis=0)
    print(f"cls-to-patch cosine {plain:.3f}, through the head {standard.language} {aligned:.3f}")
    if options.only_alignment:
        return
    views = [view(standard, rgb, text) for rgb in images]
    crop, stride = config.window()
    print(
        "agreement with the standard "
        f"({f'crop {crop}, stride {stride}' if crop else 'single pass'}):"
    )
    for name, changed in variants(config, options.only):
        encoder = RadsegEncoder(changed)
        pairs = zip(views, (view(encoder, rgb, text) for rgb in images), strict=True)
        cosine, same = np.mean([agreement(first, second) for first, second in pairs], axis=0)
        labels = "" if text is None else f", labels {100 * same:.1f} %"
        print(f"  {name:26} cosine {cosine:.4f}{labels}", flush=True)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("checkpoint", help="RADIO weights: file, folder, version or hub id")
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument(
        "--limit", type=int, default=50, help="images, evenly spread over the folder (50)"
    )
    parser.add_argument(
        "--labels", default="", help="labels, separated by commas, whose agreement is counted"
    )
    parser.add_argument(
        "--text-embeddings", action="append", metavar="FILE", help="written by radseg-text"
    )
    parser.add_argument("--only-alignment", action="store_true", help="only the first part")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="only variants whose name holds this"
    )
    parser.add_argument("--short-side", type=int, default=448, help="px (448)")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--crop", type=int, default=-1)
    parser.add_argument("--stride", type=int, default=-1)
    parser.add_argument("--device", default="auto")
    try:
        run(parser.parse_args())
    except RadsegRosError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
