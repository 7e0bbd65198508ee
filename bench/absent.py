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
has, and which share of the objects found is at the place of a true one, where places are known
(eval3d/scoring/presence.py).

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
from tqdm import tqdm

from eval3d.asking.labels import read_label_file
from eval3d.asking.places import find_places
from eval3d.options import EvalConfig
from eval3d.options import with_options as with_eval_options
from eval3d.oracle import OracleEncoder
from eval3d.scoring.presence import Places, auroc, localisation, presence
from radseg_ros.config import MODES, Config, parse_assignments, to_dict, with_options
from radseg_ros.datatypes import Answer
from radseg_ros.encoders.protocol import Encoder, make_encoder
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.mapper import Mapper

HALVES = {"all": (0, 1), "first": (0, 2), "second": (1, 2)}  # start and step


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("recording", type=Path, help="folder with color/, depth/, pose/")
    p.add_argument("labels", type=Path, help="label file (docs/evaluation.md)")
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


def ask(mapper: Mapper, mode: str, texts: list[str]) -> list[Answer]:
    """The answers of one mode."""
    rules = dataclasses.replace(mapper.config.query, mode=mode)
    return mapper.query(texts, rules).answers


def figures(answers: list[Answer], count: int, places: Places) -> dict[str, float]:
    """What is printed of one mode; the first ``count`` answers are of present things."""
    where = localisation(answers[:count], places, EvalConfig().near)
    return {
        **presence(answers[:count], answers[count:]),
        "localised": where["at_place"],
        "objects": where["objects"],
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
    labels = read_label_file(options.labels)
    present, absent = labels.present[start::step], labels.absent[start::step]
    texts, count = [*present, *absent], len(present)
    recording = FolderRecording(options.recording)
    mapper = build(options, recording)
    named = {"root": str(options.recording), "labels": str(options.labels)}
    places = find_places(labels, with_eval_options(EvalConfig(), named)).places
    answers = {mode: ask(mapper, mode, texts) for mode in options.modes}
    result = {mode: figures(own, count, places) for mode, own in answers.items()}
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
            f"{row['matthews']:5.2f}  {row['precision'] or 0:9.2f}  {row['recall']:6.2f}  "
            f"{row['false_finds']:11d}  "
            f"{row['false_finds_at_recall']:14d}  {row['localised'] or 0:6.0%} of {row['objects']}"
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
