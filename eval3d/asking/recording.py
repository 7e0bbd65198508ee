# SPDX-License-Identifier: Apache-2.0
"""Ask a recording of one's own: a map of it, the names of a label file, and what comes of them.

``<out>/<recording>/answers.json`` (everything), ``answers.csv``, ``voxels.npz`` (what the pictures
are drawn from), ``timings.json``; ``answers.json`` comes last and says that the rest is whole.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.config import LABELLED_SPACES
from radseg_ros.datatypes import Answer, InputError, SemanticObject
from radseg_ros.files import write_whole
from radseg_ros.mapper import Mapper, Timings

from ..classes import ClassList
from ..datasets import open_scene
from ..options import EvalConfig, with_options
from ..provenance import fingerprint, provenance
from ..report.protocol import encoder_windows
from ..report.results import (
    LOCALISATION_KIND,
    METRICS_KIND,
    NUMBER,
    PRESENCE_KIND,
    TIMINGS,
    read_result,
    table,
    to_json,
)
from ..run import Progress, build_map, classes_of, make_scene_encoder, set_threads
from ..scoring.metrics import as_numpy, voxel_index
from ..scoring.presence import Place, error_of, localisation
from ..scoring.retrieval import make_instances, nearest_rows, top_shares, true_ranks
from .labels import Labels, read_label_file
from .places import Known, find_places
from .questions import ask, similarity
from .scene import presence_dict

log = logging.getLogger(__name__)

ANSWERS, VOXELS = "answers.json", "voxels.npz"
MOST_DRAWN = 60  # names in the pictures
POINT = [NUMBER]
ANSWERS_KIND = {
    "recording": str,
    "fingerprint": str,
    "presence": PRESENCE_KIND,
    "localisation": LOCALISATION_KIND,
    "labels": [
        {
            "name": str,
            "kind": str,
            "best_score": NUMBER,
            "error": (int, float, type(None)),
            "objects": [{"centre": POINT, "size": POINT, "score": NUMBER, "at_place": str}],
            "places": [{"lowest": POINT, "highest": POINT}],
        }
    ],
    "top": {str: NUMBER},
    "without_depth": [str],
    "voxels": int,
    "near": NUMBER,
    "threshold": NUMBER,
    "frames": METRICS_KIND["frames"],
    "provenance": {**METRICS_KIND["provenance"], "labels_sha256": str},
}


def ask_recording(
    config: EvalConfig, out: Path, progress: Progress = iter, save_map: bool = False
) -> Path:
    """Map the recording ``config.root``, ask it for every name of ``config.labels`` -> the folder
    of the results. What is there already is not computed again.

    Raises:
        InputError: no label file, one that cannot be used, or one that is of another recording.
        RadsegRosError: the recording or the encoder cannot be used, or a name not be asked for.
    """
    if not config.labels:
        raise InputError("say what is there and what is not: --labels FILE (docs/evaluation.md)")
    labels = read_label_file(Path(config.labels))
    if config.mapper.map.space in LABELLED_SPACES:
        config = with_options(config, {"map.labels": [*labels.present, *labels.absent]})
    name = Path(config.root).resolve().name
    classes = _classes(config, name, labels)
    scene = open_scene(config, name, classes)
    scene.instances = False  # places come from the label file
    mark = fingerprint(config, classes, [*scene.listing(), f"labels {labels.digest}"])
    folder = out / name
    if _finished(folder, mark):
        log.info("%s: done already", name)
        return folder
    known = find_places(labels, config)
    set_threads(config)
    timings = Timings()
    with timings.stage("load encoder"):
        encoder = make_scene_encoder(config, classes)
        if config.mapper.map.space not in LABELLED_SPACES:
            encoder.embed_labels([*labels.present, *labels.absent])  # fails before a long walk
    with timings.stage("read and map"):
        mapper, usage = build_map(config, scene, encoder, progress=progress)
    with timings.stage("ask"):
        present, absent, voxels = _ask_all(mapper, labels)
        top = _top(mapper, labels, known, config.coverage_radius)
    result = {
        "recording": name,
        "fingerprint": mark,
        "presence": presence_dict(mapper, present, absent),
        "localisation": localisation(present, known.places, config.near),
        "labels": [
            _row(answer, kind, known.places.get(answer.label, ()), config.near)
            for kind, answers in (("present", present), ("absent", absent))
            for answer in answers
        ],
        "top": top,
        "without_depth": known.empty,
        "voxels": len(mapper.map),
        "near": config.near,
        "threshold": config.mapper.query.threshold,
        "frames": usage.as_dict(scene),
        "provenance": {
            **provenance(config, classes),
            "encoder": encoder.name,
            "checkpoint_hash": encoder.checkpoint_hash,
            "windows": encoder_windows(encoder),
            "inputs_sha256": scene.digest(),
            "labels_sha256": labels.digest,
        },
    }
    stages = {f"mapper: {stage}": seconds for stage, seconds in mapper.timings.seconds.items()}
    times = {"scene": name, "frames": usage.used, "seconds": {**timings.seconds, **stages}}
    write_whole(folder / TIMINGS, to_json(times))
    if save_map:
        mapper.save(folder / "map.radmap")
    write_whole(folder / VOXELS, voxels)
    write_whole(folder / "answers.csv", _csv(result))
    write_whole(folder / ANSWERS, to_json(result))
    return folder


def read_answers(folder: Path) -> dict[str, Any]:
    """The answers of a recording.

    Raises:
        InputError: there are none, or they are damaged.
    """
    return read_result(folder / ANSWERS, ANSWERS_KIND)


def _finished(folder: Path, mark: str) -> bool:
    """Whether there is a whole result of the same question."""
    if not ((folder / ANSWERS).is_file() and (folder / VOXELS).is_file()):
        return False
    try:
        return read_answers(folder)["fingerprint"] == mark
    except InputError as error:
        log.warning("%s; it is computed again", error)
        return False


def _classes(config: EvalConfig, name: str, labels: Labels) -> ClassList:
    """What the oracle knows; any other encoder asks for nothing but the names."""
    if config.classes or (Path(config.root) / "meta.json").is_file():
        return classes_of(config, name)
    names = (*labels.present, *labels.absent)
    return ClassList("labels", names, tuple(range(1, len(names) + 1)))


def _row(answer: Answer, kind: str, places: Sequence[Place], near: float) -> dict[str, Any]:
    unknown = "unknown" if kind == "present" else "no"
    objects = [_object(thing, places, near, unknown) for thing in answer.objects]
    return {
        "name": answer.label,
        "kind": kind,
        "best_score": answer.best_score,
        "objects": objects,
        "error": error_of(answer.objects[0], places) if objects and places else None,
        "places": [{"lowest": list(p.lowest), "highest": list(p.highest)} for p in places],
    }


def _object(
    thing: SemanticObject, places: Sequence[Place], near: float, unknown: str
) -> dict[str, Any]:
    known = ("no", "yes")[error_of(thing, places) <= near] if places else unknown
    return {
        "centre": list(thing.centre),
        "size": list(thing.size),
        "score": thing.score,
        "voxels": thing.voxels,
        "at_place": known,
    }


def _csv(result: dict[str, Any]) -> str:
    columns = ["name", "kind", "best_score", "found", "error", "places"]
    rows = [
        {**row, "found": len(row["objects"]), "places": len(row["places"])}
        for row in result["labels"]
    ]
    return table(rows, columns, result["provenance"])


def _top(mapper: Mapper, labels: Labels, known: Known, radius: float) -> dict[str, float]:
    """Top-k frequency among all names of the file, of the voxels that rectangles show: the mean
    over the rectangles. Nothing where there are none.

    Args:
        radius: m within which the map must have a voxel.
    """
    if not known.patches:
        return {}
    size, names = mapper.map.voxel_size, [*labels.present, *labels.absent]
    voxels = [np.unique(voxel_index(xyz, size), axis=0) for _, xyz in known.patches]
    counts = [len(each) for each in voxels]
    number = np.repeat(np.arange(1, len(counts) + 1), counts)
    column = np.repeat([names.index(name) for name, _ in known.patches], counts)
    seen = np.concatenate(voxels) * size
    rows = nearest_rows(seen, as_numpy(mapper.map.geometry().xyz), radius)
    ranks = true_ranks(similarity(mapper, names), rows, column)
    shares = top_shares(ranks, make_instances(number, column + 1))
    return {name: float(share.mean()) for name, share in shares.items()}


def _ask_all(mapper: Mapper, labels: Labels) -> tuple[list[Answer], list[Answer], bytes]:
    """The answers about what is there and what is not; and of those that get a picture (what is
    there, and what was found though it is not) the scores of the voxels, as a file.
    """
    answers: list[Answer] = []
    drawn: dict[str, np.ndarray] = {}
    for name in (*labels.present, *labels.absent):
        reply = ask(mapper, name)
        answers.append(reply.answer)
        wanted = len(answers) <= len(labels.present) or reply.answer.found
        if wanted and len(drawn) < MOST_DRAWN:
            drawn[name] = np.round(255 * reply.scores).astype(np.uint8)
    geometry, data = reply.geometry, io.BytesIO()
    np.savez_compressed(
        data,
        xyz=as_numpy(geometry.xyz),
        rgb=np.round(255 * as_numpy(geometry.rgb)).astype(np.uint8),
        names=json.dumps(list(drawn)),
        scores=np.array(list(drawn.values()), np.uint8).reshape(len(drawn), len(geometry)),
        voxel_size=geometry.voxel_size,
    )
    split = len(labels.present)
    return answers[:split], answers[split:], data.getvalue()
