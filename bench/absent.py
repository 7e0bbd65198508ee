# SPDX-License-Identifier: Apache-2.0
"""Does "not found" mean that it is not there? Each mode of a question on a recording with labels.

    python bench/absent.py ../shared/data/hololens_office bench/labels/hololens_office.json
    python bench/absent.py ../shared/data/small_house bench/labels/small_house.json
        --encoder oracle --noise 8

The labels are names of things that are there ("present") and of things that are not ("absent"). A
text's score is that of the answer (``best_score``); it is found if the answer has an object.
Printed per mode: the area under the curve that tells present from absent (AUROC), the largest
Matthews correlation of any threshold and the one of what was found, precision and recall of found,
how many absent things were found, how many the mode would find at the recall that ``calibrated``
has, and, where the recording says where things are, which share of the objects found is inside of
a true one or within 0.25 m of it.

Constants of ``calibrated`` (``radseg_ros/answers/scores.py``) were chosen with ``--half first`` of
the office; figures of ``--half second`` are of labels and frames that were not used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from real_recording import voxels_in_box
from tqdm import tqdm

from eval3d.oracle import OracleEncoder
from radseg_ros.config import MODES, Config, parse_assignments, to_dict, with_options
from radseg_ros.datatypes import Answer, Frame
from radseg_ros.encoders.protocol import Encoder, make_encoder
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.mapper import Mapper

NEAR = 0.25  # m from a true thing within which an object counts as at its place
TRIM = 2.0  # percent of a thing's voxels on each side that its box leaves out: rims of images
LEAST_TRUE = 5  # voxels of a thing whose place is known
HALVES = {"all": (0, 1), "first": (0, 2), "second": (1, 2)}  # start and step

Boxes = dict[str, list[np.ndarray]]  # label -> (2, 3) lowest and highest corner, m


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("recording", type=Path, help="folder with color/, depth/, pose/")
    p.add_argument("labels", type=Path, help='{"present": [...], "absent": [...]}')
    p.add_argument("--encoder", default="lite", help="or oracle, which needs label/ and meta.json")
    p.add_argument("--noise", type=float, default=8.0, help="of the oracle (default: %(default)s)")
    p.add_argument("--patch", type=int, default=1, help="px, of the oracle (default: %(default)s)")
    p.add_argument("--every", type=int, default=3, help="map every n-th frame (default: 3)")
    p.add_argument(
        "--half", choices=HALVES, default="all", help="of the labels and of the mapped frames"
    )
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option")
    p.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    p.add_argument("--map", type=Path, help="take the map from here, or put it there")
    p.add_argument("--curves", type=Path, help="draw them to this PNG")
    p.add_argument("--json", type=Path, help="also write the figures here")
    p.add_argument("--list", action="store_true", help="print the score of every label")
    return p


def build(options: argparse.Namespace, recording: FolderRecording) -> Mapper:
    """The map of the frames that the options name."""
    config = with_options(Config(), parse_assignments(Config, options.set))
    start, step = HALVES[options.half]
    used = range(start * options.every, len(recording), step * options.every)
    encoder: Encoder
    if options.encoder == "oracle":
        names = _classes(options.recording)
        encoder = OracleEncoder(list(names.values()), options.noise, options.patch)
    else:
        encoder = make_encoder(options.encoder, **to_dict(config).get(options.encoder, {}))
    mapper = Mapper(config, encoder)
    if options.map and options.map.is_file():
        mapper.take(mapper.read(options.map)[0])
        return mapper
    for i in tqdm(used, "mapping", unit="frame", mininterval=1, disable=None):
        if isinstance(encoder, OracleEncoder):
            encoder.look(_image(options.recording / "label", recording.names[i]), i)
        mapper.integrate(recording.frame(i))
    if options.map:
        mapper.save(options.map)
    return mapper


def _classes(folder: Path) -> dict[int, str]:
    names = json.loads((folder / "meta.json").read_text())["classes"]
    return {int(number): name for number, name in names.items()}


def _image(folder: Path, name: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(folder / f"{name}.png")).astype(np.int64)


def places(options: argparse.Namespace, recording: FolderRecording, mapper: Mapper) -> Boxes:
    """Boxes around the things whose place the recording knows, of what all its frames see."""
    size, short_side = mapper.map.voxel_size, mapper.config.short_side
    parts: dict[tuple[str, object], list[np.ndarray]] = {}
    drawn = options.recording / "box_labels.json"
    instances = options.recording / "instance"
    if drawn.is_file():
        for number, box in enumerate(json.loads(drawn.read_text())["boxes"]):
            frame = recording.frame(recording.names.index(box["frame"]))
            voxels = voxels_in_box(frame, box["box_xyxy"], short_side, size)
            parts[box["label"], number] = [voxels * size]
    elif instances.is_dir():
        meta = json.loads((options.recording / "meta.json").read_text())
        labels = {number: label for number, _, label in meta["instances"]}
        for i in range(0, len(recording), options.every):
            number = _image(instances, recording.names[i])
            points, valid = _points(recording.frame(i))
            for which in np.unique(number[valid]):
                if which in labels:
                    seen = points[number[valid] == which][::7]
                    parts.setdefault((labels[which], which), []).append(seen)
    boxes: Boxes = {}
    for (label, _), each in parts.items():
        points = np.concatenate(each)
        if len(points) >= LEAST_TRUE:
            corners = np.percentile(points, [TRIM, 100 - TRIM], axis=0)
            boxes.setdefault(label, []).append(corners)
    return boxes


def _points(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) m in the world, of the pixels that have depth, and (h, w) which those are."""
    valid = np.isfinite(frame.depth) & (frame.depth > 0)
    v, u = np.nonzero(valid)
    rays = np.linalg.inv(frame.K) @ np.stack([u, v, np.ones_like(u)])
    points = (rays * frame.depth[valid]).T
    return points @ frame.T_world_camera[:3, :3].T + frame.T_world_camera[:3, 3], valid


def auroc(present: np.ndarray, absent: np.ndarray) -> float:
    """Probability that a present thing scores higher than an absent one; ties count half."""
    higher = (present[:, None] > absent).mean() + 0.5 * (present[:, None] == absent).mean()
    return float(higher)


def matthews(present: np.ndarray, absent: np.ndarray) -> float:
    """Matthews correlation of two arrays of bool: found or not."""
    tp, fp = float(present.sum()), float(absent.sum())
    fn, tn = len(present) - tp, len(absent) - fp
    scale = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return (tp * tn - fp * fn) / scale if scale else 0.0


def localised(answers: list[Answer], boxes: Boxes) -> tuple[int, int]:
    """How many objects are at the place of a true one, and how many could be."""
    good = among = 0
    for answer in answers:
        for thing in answer.objects if answer.label in boxes else ():
            away = [
                np.linalg.norm(np.maximum(0, np.maximum(low - thing.centre, thing.centre - high)))
                for low, high in boxes[answer.label]
            ]
            good, among = good + (min(away) <= NEAR), among + 1
    return good, among


def ask(mapper: Mapper, mode: str, texts: list[str]) -> list[Answer]:
    """The answers of one mode."""
    rules = dataclasses.replace(mapper.config.query, mode=mode)
    return mapper.query(texts, rules).answers


def figures(answers: list[Answer], count: int, boxes: Boxes) -> dict[str, float]:
    """What is printed of one mode; the first ``count`` answers are of present things."""
    score = np.array([answer.best_score for answer in answers])
    found = np.array([answer.found for answer in answers])
    present, absent = score[:count], score[count:]
    best = max(matthews(present >= t, absent >= t) for t in score)
    good, among = localised(answers[:count], boxes)
    return {
        "auroc": auroc(present, absent),
        "matthews_best": best,
        "matthews": matthews(found[:count], found[count:]),
        "precision": float(found[:count].sum() / max(1, found.sum())),
        "recall": float(found[:count].mean()),
        "false_finds": int(found[count:].sum()),
        "localised": good / among if among else float("nan"),
        "objects": among,
    }


def false_at(answers: list[Answer], count: int, recall: float) -> int:
    """How many absent things score as high as present ones must for such a recall."""
    score = np.array([answer.best_score for answer in answers])
    wanted = max(1, round(recall * count))
    return int((score[count:] >= np.sort(score[:count])[-wanted]).sum())


def draw(path: Path, answers: dict[str, list[Answer]], count: int, name: str) -> None:
    """Present found over absent found, for every threshold; and both over the threshold."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for mode, own in answers.items():
        score = np.array([answer.best_score for answer in own])
        levels = np.concatenate([[np.inf], np.sort(score)[::-1]])
        found = np.array(
            [[(part >= t).mean() for t in levels] for part in np.split(score, [count])]
        )
        left.step(
            found[1], found[0], where="post", label=f"{mode} {auroc(*np.split(score, [count])):.2f}"
        )
    left.plot([0, 1], [0, 1], ":", color="0.6")
    left.set(xlabel="share of absent things found", ylabel="share of present things found")
    left.legend(title="mode, AUROC", loc="lower right")
    score = np.array([answer.best_score for answer in next(iter(answers.values()))])
    levels = np.linspace(0, 1, 201)
    for part, what in zip(np.split(score, [count]), ("present", "absent"), strict=True):
        right.plot(levels, [(part >= t).mean() for t in levels], label=what)
    right.set(xlabel=f"query.threshold, {next(iter(answers))}", ylabel="share found")
    right.legend()
    figure.suptitle(f"{name}: {count} things that are there, {len(score) - count} that are not")
    figure.savefig(path, dpi=110)


def main() -> int:
    """Entry point."""
    options = parser().parse_args()
    start, step = HALVES[options.half]
    labels = json.loads(options.labels.read_text())
    present, absent = labels["present"][start::step], labels["absent"][start::step]
    texts, count = [*present, *absent], len(present)
    recording = FolderRecording(options.recording)
    mapper = build(options, recording)
    boxes = places(options, recording, mapper)
    answers = {mode: ask(mapper, mode, texts) for mode in options.modes}
    result = {mode: figures(own, count, boxes) for mode, own in answers.items()}
    recall = result[options.modes[0]]["recall"]
    print(
        f"{options.recording.name}, {options.encoder}, half: {options.half}; {len(mapper.map)} "
        f"voxels, {count} things that are there, {len(absent)} that are not, threshold "
        f"{mapper.config.query.threshold:g}"
    )
    print(
        f"{'mode':<11}  AUROC  Matthews: best  found  precision  recall  false finds  at recall "
        f"{recall:.2f}  at its place"
    )
    for mode, row in result.items():
        row["false_finds_at_recall"] = false_at(answers[mode], count, recall)
        print(
            f"{mode:<11}  {row['auroc']:.3f}  {row['matthews_best']:14.3f}  "
            f"{row['matthews']:5.2f}  {row['precision']:9.2f}  {row['recall']:6.2f}  "
            f"{row['false_finds']:11d}  "
            f"{row['false_finds_at_recall']:14d}  {row['localised']:6.0%} of {row['objects']}"
        )
    if options.list:
        for mode, own in answers.items():
            order = sorted(range(len(own)), key=lambda i: -own[i].best_score)
            print(
                mode,
                *(
                    f"{own[i].label}{'' if i < count else '*'} {own[i].best_score:.2f}"
                    for i in order
                ),
                sep=", ",
            )
    if options.curves:
        draw(options.curves, answers, count, options.recording.name)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
