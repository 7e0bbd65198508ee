# SPDX-License-Identifier: Apache-2.0
"""Ask a map of a scene for every class by name, and hold the answers against the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radseg_ros.mapper import Mapper

from ..classes import ClassList
from ..options import EvalConfig
from ..scoring.metrics import as_numpy
from ..scoring.presence import Places, box_around, localisation, presence
from ..scoring.retrieval import (
    Instances,
    make_instances,
    nearest_rows,
    overlaps,
    precisions,
    top_shares,
    true_ranks,
)
from ..scoring.score import queried_labels, scored_truth
from ..truth.ground_truth import GroundTruth
from .questions import Reply, ask, similarity

MANY = 1000  # objects of one name that are ranked


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """A ground truth as questions are held against it."""

    gt: GroundTruth
    label: np.ndarray  # (M,) int64, 1..C, 0 = not scored
    instances: Instances | None
    names: dict[int, str]  # of the labels that may be predicted
    least: int  # voxels of what counts

    @property
    def voxels(self) -> np.ndarray:
        """(C + 1,) of each label."""
        return np.bincount(self.label, minlength=max(self.names) + 1)

    @property
    def present(self) -> list[int]:
        """Labels of which enough is there to be found."""
        return [label for label in self.names if self.voxels[label] >= self.least]

    def absent(self, others: Sequence[str]) -> list[str]:
        """Names of which nothing is there: of the list, and of ``others``."""
        there = {name for label, name in self.names.items() if self.voxels[label]}
        return [n for n in dict.fromkeys([*self.names.values(), *others]) if n not in there]


def ask_scene(
    mapper: Mapper,
    gt: GroundTruth,
    number: np.ndarray | None,
    config: EvalConfig,
    classes: ClassList,
    absent: Sequence[str] = (),
) -> dict[str, Any]:
    """``presence``, and ``retrieval`` where the things are known: plain data for a result file.

    Args:
        number: (M,) which thing each voxel of ``gt`` is of, 0 = of none; None = not known.
        absent: names that are in none of the scenes, beside the classes that this one lacks.

    Raises:
        RadsegRosError: a name cannot be asked for.
    """
    label = scored_truth(gt, config, classes)
    instances = None if number is None else make_instances(number, label)
    names = {each: classes.names[each - 1] for each in queried_labels(config, classes)}
    truth = _Truth(gt, label, instances, names, config.min_instance)
    present = {each: ask(mapper, names[each], MANY) for each in truth.present}
    missing = [ask(mapper, name) for name in truth.absent(absent)]
    found = {"presence": presence_dict(list(present.values()), missing)}
    if instances is not None:
        found["retrieval"] = _retrieval(mapper, truth, instances, present, config)
    return found


def presence_dict(present: Sequence[Reply], absent: Sequence[Reply]) -> dict[str, Any]:
    """The figures of :func:`presence`, and each answer in short."""
    rows = [
        {
            "name": reply.answer.label,
            "kind": kind,
            "best_score": reply.answer.best_score,
            "objects": len(reply.answer.objects),
        }
        for kind, replies in (("present", present), ("absent", absent))
        for reply in replies
    ]
    answers = [[reply.answer for reply in replies] for replies in (present, absent)]
    return {**presence(*answers), "mode": _mode([*present, *absent]), "answers": rows}


def _mode(replies: Sequence[Reply]) -> str:
    return replies[0].mode if replies else ""


def _retrieval(
    mapper: Mapper,
    truth: _Truth,
    instances: Instances,
    replies: dict[int, Reply],
    config: EvalConfig,
) -> dict[str, Any]:
    counted = instances.counted(truth.least)
    asked = [label for label in replies if (counted & (instances.label == label)).any()]
    shares = top_shares(_ranks(mapper, truth, instances, config.coverage_radius), instances)
    places = _places(truth.gt, truth.names, instances, counted)
    seen = _seen(truth.gt, replies, config.coverage_radius)
    rows = []
    for label in asked:
        reply, mine = replies[label], counted & (instances.label == label)
        owner = np.append(reply.owner(), 0)[seen]
        scores = [thing.score for thing in reply.answer.objects]
        of = overlaps(owner, scores, instances, label, truth.label > 0, truth.least)
        rows.append(
            {
                "label": label,
                "name": truth.names[label],
                "instances": int(mine.sum()),
                "objects": len(scores),
                **precisions(of),
                **{name: float(share[mine].mean()) for name, share in shares.items()},
                "error": localisation([reply.answer], places, config.near)["error"],
            }
        )
    answers = [replies[label].answer for label in asked]
    return {
        "instances": int(counted.sum()),
        "asked": len(asked),
        **{name: _mean([row[name] for row in rows]) for name in ("ap", "ap50", "ap25")},
        **{name: _mean(share[counted].tolist()) for name, share in shares.items()},
        "localisation": localisation(answers, places, config.near),
        "mode": _mode(list(replies.values())),
        "classes": rows,
    }


def _seen(gt: GroundTruth, replies: dict[int, Reply], radius: float) -> np.ndarray:
    """(M,) rows of the map that answers, of each voxel of the truth; -1 = not mapped."""
    if not replies:
        return np.full(len(gt), -1)
    geometry = next(iter(replies.values())).geometry
    return nearest_rows(gt.xyz, as_numpy(geometry.xyz), radius)


def _ranks(mapper: Mapper, truth: _Truth, instances: Instances, radius: float) -> np.ndarray:
    """(M,) how far up the name of the thing comes that a voxel of the truth is of."""
    order = list(truth.names)
    rows = nearest_rows(truth.gt.xyz, as_numpy(mapper.map.geometry().xyz), radius)
    rows = np.where(instances.number > 0, rows, -1)
    label = np.append(order[0], instances.label)[instances.number]
    fits = similarity(mapper, list(truth.names.values()))
    return true_ranks(fits, rows, np.searchsorted(order, label))


def _places(
    gt: GroundTruth, names: dict[int, str], instances: Instances, counted: np.ndarray
) -> Places:
    """Where the things of each name are."""
    xyz = gt.index * gt.voxel_size
    order = np.argsort(instances.number, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(instances.number, minlength=len(counted) + 1)))
    places: dict[str, list[Any]] = {}
    for i in np.flatnonzero(counted):
        places.setdefault(names[int(instances.label[i])], []).append(box_around(xyz[parts[i + 1]]))
    return places


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
