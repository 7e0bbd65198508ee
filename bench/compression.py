# SPDX-License-Identifier: Apache-2.0
"""What a map's vectors lose when they are kept in less memory: the curve, as a table and a picture.

    python bench/compression.py labelled ../shared/data/small_house --noise 8
    python bench/compression.py boxes ../shared/data/hololens_office --encoder lite --every 3

Maps a recording once, and then puts each vector through the codec of map files
(``radseg_ros/voxels/coding/codec.py``) at 1/4 to 1/64 of its memory. "labelled" recordings (folders
that ``eval3d`` reads) are scored by the evaluator (mIoU, k = 5), and by average precision: for each
class its voxels are ranked by their cosine with its name. "boxes" are scored as by
bench/real_recording.py. The codec is learnt from a sample of the map itself: from ``--draws`` of
them, as one draw's mIoU says little (classes are as small as 21 voxels). What chance alone does to
it is shown by random vectors of the same size as what the code at 1/4 loses, added to the map's.
Beside it: bytes with a scale for every 32 numbers, which is what questions keep (``ScaledBytes``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure  # noqa: F401  # isort: skip

import numpy as np
import real_recording
import torch
from torch.nn.functional import cosine_similarity, normalize
from tqdm import tqdm

from eval3d import run as evaluation
from eval3d.datasets import open_scene
from eval3d.options import EvalConfig, OracleConfig
from eval3d.scoring.score import label_map, score_scene
from eval3d.truth.ground_truth import LabelLifter
from radseg_ros.answers.scores import cosine
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.coding.codec import VectorCodec, sample_size
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.storage import ScaledBytes

SHARES = (4, 8, 16, 32, 64)  # of the bytes of float32
ROWS = 8192  # vectors that are coded at once
Measure = Callable[[], dict[str, float]]  # of the map as it is now, in percent
# bytes of a vector, the vectors as they come back, and what that took
Coded = tuple[int, torch.Tensor, dict[str, float]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("kind", choices=("labelled", "boxes"))
    p.add_argument("recording", type=Path)
    p.add_argument("--encoder", default="", help="default: oracle, or lite for boxes")
    p.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    p.add_argument("--noise", type=float, default=8.0, help="of the oracle (default: 8)")
    p.add_argument("--seed", type=int, default=0, help="of the oracle's noise (default: 0)")
    p.add_argument("--draws", type=int, default=3, help="samples to learn from (default: 3)")
    p.add_argument("--every", type=int, default=1, help="map every n-th frame (default: all)")
    p.add_argument("--json", type=Path, help="also write the figures here")
    p.add_argument("--curve", type=Path, help="draw figures of this and of --with to this PNG")
    p.add_argument(
        "--with", dest="others", type=Path, nargs="+", default=[], help="--json of other runs"
    )
    return p


def labelled(options: argparse.Namespace) -> tuple[Mapper, Measure]:
    """The map of a recording with label images, and what scores it."""
    encoder = options.encoder or "oracle"
    config = EvalConfig(root=str(options.recording), encoder=encoder, frame_skip=options.every - 1)
    config = replace(config, oracle=OracleConfig(noise=options.noise), seed=options.seed)
    classes = evaluation.classes_of(config)
    scene = open_scene(config, evaluation.scene_names(config, [])[0], classes)
    lifter = LabelLifter(config.mapper.map.voxel_size)
    known = evaluation.make_scene_encoder(config, classes)
    mapper, _ = evaluation.build_map(
        config, scene, known, lifter, lambda frames: tqdm(frames, "mapping", mininterval=1)
    )
    truth = lifter.result()
    names = [classes.names[label - 1] for label in np.unique(truth.label) if label]
    labels = [label for label in np.unique(truth.label) if label]
    text = known.embed_labels(names)
    mine = pack(mapper.map.geometry().index.T)
    theirs = pack(torch.from_numpy(truth.index).T)
    order = torch.argsort(theirs)
    place = order[torch.searchsorted(theirs[order], mine).clamp(max=len(order) - 1)]
    label = torch.where(theirs[place] == mine, torch.from_numpy(truth.label)[place], 0).numpy()

    def score() -> dict[str, float]:
        found = label_map(mapper.map, mapper.space, known, config, classes)
        miou = score_scene(found, truth, config, classes).scores.miou
        vectors = mapper.space.language_vectors(mapper.map)
        scores = cosine(vectors[label > 0], text).numpy()
        precisions = [
            real_recording.average_precision(column, label[label > 0] == wanted)
            for column, wanted in zip(scores.T, labels, strict=True)
            if (label == wanted).any()
        ]
        return {"mIoU": 100 * miou, "mAP": 100 * float(np.mean(precisions))}

    return mapper, score


def boxes(options: argparse.Namespace) -> tuple[Mapper, Measure]:
    """The map of a recording with labelled boxes, and what scores it."""
    words = [str(options.recording), "--encoder", options.encoder or "lite"]
    words += ["--every", str(options.every)]
    words += [word for each in options.option for word in ("--option", each)]
    asked = real_recording.parser().parse_args(words)
    recording = FolderRecording(options.recording)
    drawn = json.loads((options.recording / "box_labels.json").read_text())["boxes"]
    mapper = real_recording.build_map(asked, recording, {box["frame"] for box in drawn})
    truth = real_recording.rows_of_boxes(asked, recording, drawn, mapper)

    def score() -> dict[str, float]:
        return {"mAP": 100 * real_recording.evaluate(mapper, truth)["map"]}

    return mapper, score


def coded(means: torch.Tensor, share: int, draw: int) -> Coded:
    """The map's vectors after a codec, learnt from a sample of them."""
    nbytes = means.shape[1] * 4 // share
    sample = torch.randperm(len(means), generator=torch.Generator().manual_seed(draw))
    sample = sample[: sample_size(means.shape[1])]
    start = time.perf_counter()
    codec = VectorCodec.learn(means[sample], nbytes)
    learnt = time.perf_counter()
    codes = [codec.encode(part) for part in means.split(ROWS)]
    done = time.perf_counter()
    back = torch.cat([codec.decode(part) for part in codes])
    took = {"learn": learnt - start, "encode": (done - learnt) / len(means) * 1e6}
    return codec.nbytes, back, took


def disturbed(means: torch.Tensor, draw: int) -> Coded:
    """Vectors that random ones are added to, as long as what the code at 1/4 loses of them."""
    nbytes, back, _ = coded(means, SHARES[0], draw)
    random = torch.randn(means.shape, generator=torch.Generator().manual_seed(draw))
    return nbytes, means + normalize(random, dim=1) * (back - means).norm(dim=1, keepdim=True), {}


def as_bytes(means: torch.Tensor) -> Coded:
    """Vectors as questions keep them."""
    kept = ScaledBytes(means.shape[1], means.device, ROWS)
    kept.resize(len(means))
    rows = torch.arange(len(means))
    for some in rows.split(ROWS):
        kept.write(some, means[some])
    return kept.nbytes // (-(-len(means) // ROWS) * ROWS), kept.rows(rows), {}


def main() -> int:
    """Entry point."""
    options = parser().parse_args()
    mapper, score = (labelled if options.kind == "labelled" else boxes)(options)
    table = mapper.map.table
    hits = table["hits"]
    means = table.vectors.all_means(hits)
    whole = score()
    name = f"{options.recording.name}, {mapper.encoder.name.split('-')[0]}"
    print(f"{name}: {len(means)} voxels of {means.shape[1]} numbers")
    print("memory         bytes  cosine: mean  worst 1 %  figures, and what they have gained")
    rows: list[dict[str, Any]] = []

    def tell(what: str, tried: Iterable[Coded]) -> None:
        """One row: the mean of what was tried, and how far its figures are apart."""
        each = []
        for nbytes, vectors, took in tried:
            table.vectors.load({"vectors": vectors * hits[:, None]}, hits)
            now = score()
            alike = cosine_similarity(vectors, means)[means.any(1)]
            worst = float(alike.kthvalue(max(1, len(alike) // 100)).values)
            losses = {f"loss {key}": value - now[key] for key, value in whole.items()}
            fit = {"bytes": nbytes, "cosine": float(alike.mean()), "worst": worst}
            each.append({**fit, **now, **losses, **took})
        row = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        rows.append({"memory": what, **row, "draws": each})
        figures = []
        for key in whole:
            gains = [-one[f"loss {key}"] for one in each]
            apart = f" ({min(gains):+.2f} to {max(gains):+.2f})" if len(each) > 1 else ""
            figures.append(f"{key} {row[key]:5.2f} {np.mean(gains):+6.2f}{apart}")
        print(
            f"{what:<13} {row['bytes']:>6.0f}  {row['cosine']:12.5f}  {row['worst']:9.4f}  "
            + "  ".join(figures),
            flush=True,
        )

    tell("float32", [(means.shape[1] * 4, means, {})])
    tell("bytes, 1/3.8", [as_bytes(means)])
    for share in SHARES:
        tell(f"1/{share}", (coded(means, share, draw) for draw in range(options.draws)))
    tell("chance at 1/4", (disturbed(means, draw) for draw in range(options.draws)))
    if options.json:
        options.json.write_text(json.dumps({"name": name, "rows": rows}, indent=1) + "\n")
    if options.curve:
        others = [json.loads(path.read_text()) for path in options.others]
        draw(options.curve, [{"name": name, "rows": rows}, *others])
    return 0


def draw(path: Path, runs: list[dict[str, Any]]) -> None:
    """Losses, and cosines, over the share of memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for run in runs:
        rows = [row for row in run["rows"] if row["memory"].startswith("1/")]
        share = [int(row["memory"][2:]) for row in rows]
        for key in (key for key in rows[0] if key.startswith("loss ")):
            label = f"{run['name']}: {key.removeprefix('loss ')}"
            left.plot(share, [-row[key] for row in rows], "o-", label=label)
        right.plot(share, [1 - row["cosine"] for row in rows], "o-", label=f"{run['name']}: mean")
        right.plot(share, [1 - row["worst"] for row in rows], "o:", label="worst 1 %")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(SHARES, [f"1/{share}" for share in SHARES])
        axes.set_xlabel("memory of the vectors")
        axes.grid(color="0.9")
        axes.legend(fontsize=8)
    left.axhline(0, color="0.6", lw=0.8)
    left.set_ylabel("points gained or lost")
    right.set_yscale("log")
    right.set_ylabel("1 - cosine with the vector")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
