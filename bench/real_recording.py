# SPDX-License-Identifier: Apache-2.0
"""How well a map of a real recording ranks places for a text: mean average precision over boxes.

    python bench/real_recording.py ../shared/data/hololens_office --encoder lite
    python bench/real_recording.py RECORDING --encoder radseg --option
        checkpoint=c-radio_v3-b.pth.tar --option preset=fast

The recording is a folder with color/, depth/, pose/, intrinsics.txt and box_labels.json. The frames
with labels are left out of the map. Truth: a map voxel has a label when a pixel with valid depth
inside a box of that label falls into it. Ranked are the voxels that have any label (what was not
labelled is not known to be wrong), by the cosine with the label's text: what all modes of
``radseg_ros.answers.scores`` start from. Chance is the share of a label's voxels among all labelled
ones. A label whose boxes hold no mapped depth cannot be ranked: it is named, left out of the mean,
and counted as 0 in the mean over all labels.

How lite was made: no list of labels, only four numbers, which were chosen by the mean over the
labels of this recording (sizes, temperature, nearness of names, and the known/unknown ramp, which
does not change a ranking). On every second frame, 11 sets of sizes x 4 temperatures x 4 nearnesses
gave 0.26 to 0.36 mAP; two sizes beat one (0.27 to 0.30), and between temperatures 1.25 and 2 and
nearnesses 0.03 and 0.07 the two sizes stay within 0.33 to 0.35: the defaults were taken from that
plateau, not from its highest point. The published classifier at one size of 640 px, with the cosine
of the raw probabilities, gives 0.17. What gave less: sentence vectors averaged by probability
(ConSE, 0.21 to 0.27), logits instead of probabilities (0.29), probabilities averaged over views
instead of features (0.29).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from radseg_ros.answers.scores import cosine
from radseg_ros.config import Config, MapConfig, parse_assignments, to_dict, with_options
from radseg_ros.datatypes import FeatureMap, Frame
from radseg_ros.encoders.protocol import make_encoder
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.geometry import resize_frame
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.voxel_map import VoxelMap


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("recording", type=Path)
    p.add_argument("--encoder", default="lite")
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the encoder, e.g. preset=fast",
    )
    p.add_argument(
        "--short-side",
        type=int,
        default=640,
        help="working resolution, px; 0 = as recorded (default: %(default)s)",
    )
    p.add_argument("--voxel-size", type=float, default=0.05, help="m (default: %(default)s)")
    p.add_argument("--every", type=int, default=1, help="map only every n-th frame (default: all)")
    p.add_argument("--json", type=Path, help="also write the numbers here")
    return p


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under precision over recall of (N,) scores against (N,) bool.

    Equal scores share their precision.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # of each group of equal scores
    hits = np.cumsum(truth[order])[last]
    return float(np.sum(hits / (last + 1) * np.diff(hits, prepend=0)) / truth.sum())


def build_map(
    options: argparse.Namespace, recording: FolderRecording, left_out: set[str]
) -> Mapper:
    """The map of all frames but those named in ``left_out``."""
    settings = {
        "encoder": options.encoder,
        "short_side": options.short_side,
        "map.voxel_size": options.voxel_size,
    }
    words = [f"{options.encoder}.{text}" for text in options.option]
    config = with_options(Config(), {**settings, **parse_assignments(Config, words)})
    mapper = Mapper(config, make_encoder(config.encoder, **to_dict(config)[config.encoder]))
    used = [i for i, name in enumerate(recording.names) if name not in left_out][:: options.every]
    for i in tqdm(used, "mapping", unit="frame", mininterval=1):
        mapper.integrate(recording.frame(i))
    return mapper


def voxels_in_box(frame: Frame, box: list[float], short_side: int, voxel_size: float) -> np.ndarray:
    """(V, 3) indices of the voxels behind a box (x0 y0 x1 y1, px), where its depth is valid."""
    height, width = frame.depth.shape
    x, y = (np.arange(n) + 0.5 for n in (width, height))
    inside = ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))
    masked = dataclasses.replace(frame, depth=np.where(inside, frame.depth, 0).astype(np.float32))
    if not (masked.depth > 0).any():
        return np.zeros((0, 3), np.int64)
    world = VoxelMap(1, MapConfig(voxel_size=voxel_size), device="cpu")
    world.integrate(resize_frame(masked, short_side), FeatureMap(torch.zeros(1, 2, 2)))
    return world.geometry().index.numpy()


def rows_of(index: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Rows of ``index`` (M, 3) that are among ``voxels`` (V, 3)."""
    keys, wanted = (pack(torch.from_numpy(v).T).numpy() for v in (index, voxels))
    return np.flatnonzero(np.isin(keys, wanted))


def rows_of_boxes(
    options: argparse.Namespace,
    recording: FolderRecording,
    boxes: list[dict[str, Any]],
    mapper: Mapper,
) -> dict[str, np.ndarray]:
    """Label -> the rows of the map that are in its boxes."""
    index = mapper.map.geometry().index.cpu().numpy()
    rows: dict[str, list[np.ndarray]] = {}
    for box in boxes:
        frame = recording.frame(recording.names.index(box["frame"]))
        voxels = voxels_in_box(frame, box["box_xyxy"], options.short_side, options.voxel_size)
        rows.setdefault(box["label"], []).append(rows_of(index, voxels))
    return {label: np.unique(np.concatenate(parts)) for label, parts in rows.items()}


def evaluate(mapper: Mapper, truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """Average precision per label; ``truth`` holds rows of the map."""
    names = sorted(truth)
    labelled = np.unique(np.concatenate(list(truth.values())))
    encoder = mapper.encoder
    vectors = encoder.project(mapper.map.snapshot().features[labelled].to(encoder.device))
    scores = cosine(vectors, encoder.embed_labels(names)).cpu().numpy()
    result: dict[str, Any] = {
        "labels": {},
        "voxels": len(mapper.map),
        "labelled_voxels": len(labelled),
    }
    for name, column in zip(names, scores.T, strict=True):
        mask = np.isin(labelled, truth[name])
        ap = average_precision(column, mask) if mask.any() else None
        result["labels"][name] = {"voxels": int(mask.sum()), "ap": ap, "chance": float(mask.mean())}
    known = [row for row in result["labels"].values() if row["ap"] is not None]
    result["map"] = float(np.mean([row["ap"] for row in known]))
    result["map_all"] = float(np.sum([row["ap"] for row in known]) / len(names))
    result["chance"] = float(np.mean([row["chance"] for row in known]))
    return result


def main() -> int:
    """Entry point."""
    options = parser().parse_args()
    start = time.monotonic()
    recording = FolderRecording(options.recording)
    boxes = json.loads((options.recording / "box_labels.json").read_text())["boxes"]
    mapper = build_map(options, recording, {box["frame"] for box in boxes})
    truth = rows_of_boxes(options, recording, boxes, mapper)
    result = evaluate(mapper, truth)
    print(f"{'label':<18}{'voxels':>7}{'AP':>8}{'chance':>8}")
    for name, row in result["labels"].items():
        ap = "no depth" if row["ap"] is None else f"{row['ap']:.3f}"
        print(f"{name:<18}{row['voxels']:>7}{ap:>9}{row['chance']:>8.3f}")
    ranked = sum(row["ap"] is not None for row in result["labels"].values())
    print(
        f"\nmAP {result['map']:.3f} over the {ranked} labels with voxels, {result['map_all']:.3f} "
        f"over all {len(truth)}; "
        f"chance {result['chance']:.3f}"
    )
    print(
        f"{options.encoder} {options.option or ''}: {result['voxels']} voxels, "
        f"{result['labelled_voxels']} of them labelled, "
        f"{time.monotonic() - start:.0f} s; stages "
        f"{ ({k: round(v) for k, v in mapper.timings.seconds.items()}) }"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
