# SPDX-License-Identifier: Apache-2.0
"""Result files. Those with numbers are the same byte for byte when a command is repeated.

Times have a file of their own.

``<out>/<scene>/metrics.json``, ``classes.csv``, ``confusion.csv``, ``labels.npz``,
``timings.json``, ``pictures/``.
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

from ..classes import ClassList
from ..scoring.score import LabelledMap, SceneScores
from ..truth.ground_truth import GroundTruth

METRICS = "metrics.json"
TIMINGS = "timings.json"
LABELS = "labels.npz"


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
    metrics = _read_json(folder / METRICS)
    return {**metrics, "folder": folder}


def read_timings(folder: Path) -> dict[str, Any] | None:
    """The times of one scene; None where there are none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / TIMINGS
    return _read_json(path) if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {**found, "scene": str(found["scene"])}
    except OSError as error:
        raise InputError(f"no result in {path.parent}: {path.name}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: it is not the result of a scene") from None


def find_scenes(folder: Path) -> list[Path]:
    """The folders below ``folder`` (or itself) that hold the result of a scene, sorted.

    Raises:
        InputError: there is none.
    """
    found = sorted(path.parent for path in folder.rglob(METRICS))
    if not found:
        raise InputError(f"no result in {folder}: it holds no {METRICS}")
    return found
