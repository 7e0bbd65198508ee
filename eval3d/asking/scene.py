# SPDX-License-Identifier: Apache-2.0
"""Ask a map of a scene for every class by name, and hold the answers against the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radseg_ros.datatypes import Answer, MapGeometry
from radseg_ros.mapper import Mapper

from ..classes import ClassList
from ..options import EvalConfig
from ..scoring.metrics import as_numpy
from ..scoring.presence import Place, Places, box_around, localisation, presence
from ..scoring.retrieval import (
    Instances,
    Overlaps,
    make_instances,
    nearest_rows,
    overlaps,
    precisions,
    top_shares,
    true_ranks,
)
from ..scoring.score import queried_labels, scored_truth
from ..truth.ground_truth import GroundTruth
from .questions import Reply, ask, mode_of, similarity

MANY = 1000  # objects of one name that are ranked


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """A ground truth as questions are held against it."""

    gt: GroundTruth
    label: np.ndarray  # (M,) int64, 1..C, 0 = not scored
    instances: Instances  # none where they are not known
    names: dict[int, str]  # of the labels that may be predicted
    config: EvalConfig

    @property
    def voxels(self) -> np.ndarray:
        """(C + 1,) of each label."""
        return np.bincount(self.label, minlength=max(self.names) + 1)

    @property
    def present(self) -> list[int]:
        """Labels of which enough is there to be found."""
        voxels = self.voxels
        return [label for label in self.names if voxels[label] >= self.config.min_instance]

    def absent(self, others: Sequence[str]) -> list[str]:
        """Names of which nothing is there: of the list, and of ``others``."""
        voxels = self.voxels
        there = {name for label, name in self.names.items() if voxels[label]}
        return [n for n in dict.fromkeys([*self.names.values(), *others]) if n not in there]

    @property
    def counted(self) -> np.ndarray:
        """(N,) bool: things that are large enough to be asked for."""
        return self.instances.counted(self.config.min_instance)

    def rows_of(self, geometry: MapGeometry) -> np.ndarray:
        """(M,) the map voxel of each ground-truth voxel; -1 = none is near."""
        return nearest_rows(self.gt.xyz, as_numpy(geometry.xyz), self.config.coverage_radius)

    def overlaps(self, reply: Reply, rows: np.ndarray, label: int) -> Overlaps:
        """What the objects of an answer share with the things of a label."""
        owner = np.append(reply.owner(), 0)[rows]
        scores = [thing.score for thing in reply.answer.objects]
        least = self.config.min_instance
        return overlaps(owner, scores, self.instances, label, self.label > 0, least)

    def places(self) -> Places:
        """Where the things of each name are."""
        number, xyz = self.instances.number, self.gt.index * self.gt.voxel_size
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=len(self.counted) + 1))
        places: dict[str, list[Place]] = {}
        for i in np.flatnonzero(self.counted):
            name = self.names[int(self.instances.label[i])]
            places.setdefault(name, []).append(box_around(xyz[order[ends[i] : ends[i + 1]]]))
        return places


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
    instances = make_instances(np.zeros(len(gt), np.int64) if number is None else number, label)
    names = {each: classes.names[each - 1] for each in queried_labels(config, classes)}
    truth = _Truth(gt, label, instances, names, config)
    things = set(instances.label[truth.counted].tolist())
    answers: dict[int, Answer] = {}
    found: dict[int, dict[str, float]] = {}
    rows = None
    for each in truth.present:
        reply = ask(mapper, names[each], MANY)
        answers[each] = reply.answer
        if each in things:
            rows = truth.rows_of(reply.geometry) if rows is None else rows
            found[each] = precisions(truth.overlaps(reply, rows, each))
    missing = [ask(mapper, name).answer for name in truth.absent(absent)]
    result = {"presence": presence_dict(mapper, list(answers.values()), missing)}
    if number is not None:
        result["retrieval"] = _retrieval(mapper, truth, answers, found)
    return result


def presence_dict(
    mapper: Mapper, present: Sequence[Answer], absent: Sequence[Answer]
) -> dict[str, Any]:
    """The figures of :func:`presence`, each answer in short, and what its score means."""
    rows = [
        {
            "name": answer.label,
            "kind": kind,
            "best_score": answer.best_score,
            "objects": len(answer.objects),
        }
        for kind, answers in (("present", present), ("absent", absent))
        for answer in answers
    ]
    return {**presence(present, absent), "mode": mode_of(mapper), "answers": rows}


def _retrieval(
    mapper: Mapper,
    truth: _Truth,
    answers: dict[int, Answer],
    found: dict[int, dict[str, float]],
) -> dict[str, Any]:
    counted, places, near = truth.counted, truth.places(), truth.config.near
    shares = top_shares(_ranks(mapper, truth), truth.instances)
    rows = []
    for label, reached in found.items():
        mine = counted & (truth.instances.label == label)
        rows.append(
            {
                "label": label,
                "name": truth.names[label],
                "instances": int(mine.sum()),
                "objects": len(answers[label].objects),
                **reached,
                **{name: float(share[mine].mean()) for name, share in shares.items()},
                "error": localisation([answers[label]], places, near)["error"],
            }
        )
    asked = [answers[label] for label in found]
    return {
        "instances": int(counted.sum()),
        "asked": len(asked),
        **{name: _mean([row[name] for row in rows]) for name in ("ap", "ap50", "ap25")},
        **{name: _mean(share[counted].tolist()) for name, share in shares.items()},
        "localisation": localisation(asked, places, near),
        "classes": rows,
    }


def _ranks(mapper: Mapper, truth: _Truth) -> np.ndarray:
    """(M,) how far up the name of the thing comes that a voxel of the truth is of."""
    order = list(truth.names)
    number = truth.instances.number
    rows = np.where(number > 0, truth.rows_of(mapper.map.geometry()), -1)
    label = np.append(order[0], truth.instances.label)[number]
    fits = similarity(mapper, list(truth.names.values()))
    return true_ranks(fits, rows, np.searchsorted(order, label))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
