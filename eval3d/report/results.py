# SPDX-License-Identifier: Apache-2.0
"""Result files. Those with numbers are the same byte for byte when a command is repeated.

Times have a file of their own.

``<out>/<scene>/metrics.json``, ``classes.csv``, ``retrieval.csv``, ``confusion.csv``,
``labels.npz``, ``timings.json``, ``pictures/``.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.datatypes import InputError
from radseg_ros.files import write_whole
from radseg_ros.reading import border, read_json

from ..classes import ClassList
from ..scoring.score import LabelledMap, SceneScores
from ..truth.ground_truth import GroundTruth

METRICS = "metrics.json"
TIMINGS = "timings.json"
LABELS = "labels.npz"
RETRIEVAL_COLUMNS = (
    *("label", "name", "instances", "objects", "ap", "ap50", "ap25"),
    *("top1", "top5", "top10", "error"),
)


def to_json(value: Any) -> str:
    """Readable, with sorted keys and every digit."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def table(rows: list[dict[str, Any]], columns: list[str], source: dict[str, Any]) -> str:
    """CSV with its provenance in a comment line on top."""
    text = io.StringIO()
    text.write(f"# {json.dumps(source, sort_keys=True)}\n")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_scene(
    folder: Path,
    metrics: dict[str, Any],
    timings: dict[str, Any],
    found: SceneScores,
    labelled: LabelledMap,
    gt: GroundTruth,
    classes: ClassList,
) -> None:
    """Write everything about one scene.

    ``metrics.json`` comes last and says that the scene is complete.
    """
    source = metrics["provenance"]
    columns = ["label", "name", "iou", "ceiling_iou", "recall", "precision", "tp", "fp", "fn"]
    write_whole(folder / "classes.csv", table(metrics["classes"], columns, source))
    if "retrieval" in metrics:
        rows = metrics["retrieval"]["classes"]
        write_whole(folder / "retrieval.csv", table(rows, list(RETRIEVAL_COLUMNS), source))
    names = ["(none)", *classes.names]
    used = np.flatnonzero(found.confusion.sum(axis=0) + found.confusion.sum(axis=1))
    rows = [
        {"truth": names[i], **{names[j]: int(found.confusion[i, j]) for j in used}} for i in used
    ]
    write_whole(folder / "confusion.csv", table(rows, ["truth", *(names[j] for j in used)], source))
    data = io.BytesIO()
    np.savez_compressed(
        data,
        gt_index=gt.index.astype(np.int32),
        gt_label=gt.label.astype(np.int16),
        predicted=found.predicted.astype(np.int16),
        map_xyz=labelled.xyz,
        map_rgb=np.round(labelled.rgb * 255).astype(np.uint8),
        map_label=labelled.label.astype(np.int16),
        confusion=found.confusion,
        iou=found.scores.iou,
        voxel_size=gt.voxel_size,
        names=np.array(classes.names),
        provenance=json.dumps(source, sort_keys=True),
    )
    write_whole(folder / LABELS, data.getvalue())
    write_whole(folder / TIMINGS, to_json(timings))
    write_whole(folder / METRICS, to_json(metrics))


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of one scene, and its ``folder``.

    Raises:
        InputError: there is no result, or it is damaged.
    """
    return {**read_result(folder / METRICS, METRICS_KIND), "folder": folder}


def read_timings(folder: Path) -> dict[str, Any] | None:
    """The times of one scene; None where there are none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / TIMINGS
    return read_result(path, TIMINGS_KIND) if path.is_file() else None


# What reports read of a result: a type, {key: kind}, {str: kind} (any keys), or [kind] (a list).
NUMBER, MAYBE = (int, float), (int, float, type(None))
METRICS_KIND: dict[Any, Any] = {
    "scene": str,
    **dict.fromkeys(("miou", "fmiou", "macc", "acc", "coverage"), MAYBE),
    "ceiling": {"miou": MAYBE},
    **dict.fromkeys(("gt_voxels", "map_voxels", "map_bytes"), int),
    "ground_truth": str,
    "classes": [
        {
            "name": str,
            **dict.fromkeys(("label", "tp", "fp", "fn"), int),
            **dict.fromkeys(("iou", "ceiling_iou", "recall"), NUMBER),
        }
    ],
    "frames": {
        **dict.fromkeys(("listed", "used"), int),
        **dict.fromkeys(("dropped", "notes", "pixels"), {str: int}),
        "examples": {str: str},
    },
    "provenance": {
        "encoder": str,
        "classes": {"name": str},
        "git": str,
        "versions": {str: str},
        "config": {
            **dict.fromkeys(("protocol", "dataset", "encoder"), str),
            **dict.fromkeys(("k", "frame_skip", "limit", "denoise_chunk"), int),
            **dict.fromkeys(("denoise_threshold", "prediction_threshold", "gt_voxel_size"), NUMBER),
            "mapper": {"short_side": int, "map": {"voxel_size": NUMBER, "space": str}},
        },
    },
}
FIGURES = dict.fromkeys(("auroc", "matthews_best", "matthews", "precision", "recall"), MAYBE)
PRESENCE_KIND = {
    **FIGURES,
    **dict.fromkeys(("present", "absent", "false_finds"), int),
    "mode": str,
    "answers": [{"name": str, "kind": str, "best_score": NUMBER, "objects": int}],
}
PRECISIONS = dict.fromkeys(("ap", "ap50", "ap25", "top1", "top5", "top10"), MAYBE)
LOCALISATION_KIND = {
    **dict.fromkeys(("accuracy", "error", "at_place"), MAYBE),
    **dict.fromkeys(("known", "objects"), int),
}
RETRIEVAL_KIND = {
    **PRECISIONS,
    **dict.fromkeys(("instances", "asked"), int),
    "localisation": LOCALISATION_KIND,
    "classes": [
        {**PRECISIONS, "error": MAYBE, "name": str}
        | dict.fromkeys(("label", "instances", "objects"), int)
    ],
}
ASKED_KINDS = {"presence": PRESENCE_KIND, "retrieval": RETRIEVAL_KIND}  # where it was asked for
TIMINGS_KIND = {"scene": str, "frames": int, "seconds": {str: NUMBER}}


def read_result(path: Path, kind: dict[Any, Any]) -> dict[str, Any]:
    """A result file, if it holds what is read of it.

    Args:
        kind: of its values, by name: see METRICS_KIND.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise InputError(f"no result in {path.parent}: it holds no {path.name}")
    found = read_json(path)
    with border(path, "the result of a scene"):
        to_json(found)  # refuses NaN, which reports could not write again
    kind = {**kind, **{name: more for name, more in ASKED_KINDS.items() if name in found}}
    if wrong := _wrong(kind, found, path.name):
        raise InputError(f"{path} is damaged: no result of a scene has such a {wrong}")
    return found


def _wrong(kind: Any, value: Any, name: str) -> str:
    """The name of the first value that is not of its ``kind``; empty = all are."""
    if isinstance(kind, (dict, list)):
        if not isinstance(value, type(kind)):
            return name
        items: dict[Any, Any] = value if isinstance(value, dict) else dict(enumerate(value))
        every = kind[0] if isinstance(kind, list) else kind.get(str)
        kinds: Any = kind if every is None else dict.fromkeys(items, every)
        found = (_wrong(k, items.get(i, Ellipsis), str(i)) for i, k in kinds.items())
        return next(filter(None, found), "")
    measured = isinstance(value, NUMBER)
    good = isinstance(value, kind) and not isinstance(value, bool)
    return "" if good and (not measured or abs(value) < 1e18) else name  # not so for NaN


def find_scenes(folder: Path) -> list[Path]:
    """The folders below ``folder`` (or itself) that hold the result of a scene, sorted.

    Raises:
        InputError: there is none.
    """
    found = sorted(path.parent for path in folder.rglob(METRICS))
    if not found:
        raise InputError(f"no result in {folder}: it holds no {METRICS}")
    return found
