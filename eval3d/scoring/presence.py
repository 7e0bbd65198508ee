# SPDX-License-Identifier: Apache-2.0
"""Is it there, and where? Arithmetic over answers about what is there and what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radseg_ros.datatypes import Answer, SemanticObject

TRIM = 2.0  # percent of a thing's points on each side that its box leaves out: rims of images


@dataclass(frozen=True, slots=True)
class Place:
    """A box that a thing is in, along the axes of the world, metres; of a point both corners are
    equal.
    """

    lowest: tuple[float, float, float]
    highest: tuple[float, float, float]
    part: bool = False  # it holds only a part of the thing, such as what one frame shows of a floor

    @property
    def centre(self) -> tuple[float, ...]:
        """(3,) m."""
        return tuple((a + b) / 2 for a, b in zip(self.lowest, self.highest, strict=True))


Places = Mapping[str, Sequence[Place]]  # of the things of a name, as far as they are known


def box_around(xyz: np.ndarray, part: bool = False) -> Place:
    """The place of a thing of which (N, 3) points are known, N >= 1, m."""
    lowest, highest = np.percentile(xyz, [TRIM, 100 - TRIM], axis=0).tolist()
    return Place(tuple(lowest), tuple(highest), part)


def auroc(present: np.ndarray, absent: np.ndarray) -> float:
    """Probability that a present thing scores higher than an absent one; ties count half.

    Args:
        present, absent: (P,) and (A,) scores; NaN where one is empty.
    """
    if not len(present) or not len(absent):
        return float("nan")
    higher = (present[:, None] > absent).mean() + 0.5 * (present[:, None] == absent).mean()
    return float(higher)


def matthews(present: np.ndarray, absent: np.ndarray) -> float:
    """Matthews correlation of (P,) and (A,) bool: found or not. 0 where it is not defined."""
    tp, fp = float(present.sum()), float(absent.sum())
    fn, tn = len(present) - tp, len(absent) - fp
    scale = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return (tp * tn - fp * fn) / scale if scale else 0.0


def best_matthews(present: np.ndarray, absent: np.ndarray) -> float:
    """The largest :func:`matthews` of any threshold of (P,) and (A,) scores."""
    levels = np.unique(np.concatenate([present, absent]))
    return max((matthews(present >= t, absent >= t) for t in levels), default=0.0)


def presence(present: Sequence[Answer], absent: Sequence[Answer]) -> dict[str, Any]:
    """What answers about present and absent things say of whether "found" means that it is there.

    A thing's score is that of its answer; it is found if the answer has an object.

    Returns:
        auroc; matthews_best (of any threshold); matthews, precision, recall (of what was found);
        false_finds, how many absent things were found; present, absent, how many were asked for.
        None = not defined.
    """
    scores = [np.array([answer.best_score for answer in each]) for each in (present, absent)]
    found = [np.array([answer.found for answer in each], bool) for each in (present, absent)]
    both = bool(present) and bool(absent)
    hits, false_finds = int(found[0].sum()), int(found[1].sum())
    return {
        "present": len(present),
        "absent": len(absent),
        "auroc": auroc(*scores) if both else None,
        "matthews_best": best_matthews(*scores) if both else None,
        "matthews": matthews(*found) if both else None,
        "precision": hits / (hits + false_finds) if hits + false_finds else None,
        "recall": hits / len(present) if present else None,
        "false_finds": false_finds,
    }


def error_of(thing: SemanticObject, places: Sequence[Place]) -> float:
    """How far an object is from the nearest place of what it claims to be, m; inf if there is none.

    From its centre to the box of the true thing, 0 inside. Where only a part of the thing is known,
    from the centre of that part to the box of the object instead.
    """
    half = np.array(thing.size) / 2
    own = (tuple(np.subtract(thing.centre, half)), tuple(np.add(thing.centre, half)))
    return min(
        (
            _outside(place.centre, *own)
            if place.part
            else _outside(thing.centre, place.lowest, place.highest)
            for place in places
        ),
        default=float("inf"),
    )


def _outside(point: Sequence[float], lowest: Sequence[float], highest: Sequence[float]) -> float:
    """Metres from a point to a box."""
    beyond = np.maximum(np.subtract(lowest, point), np.subtract(point, highest))
    return float(np.linalg.norm(beyond.clip(0)))


def localisation(answers: Sequence[Answer], places: Places, near: float) -> dict[str, Any]:
    """Whether what is found is where it is, of the answers whose places are known.

    Args:
        near: m; an object counts as at its place up to this :func:`error_of`.

    Returns:
        known, how many names that is; accuracy, the share of them whose best object is at its place
        (what is not found is not); error, the median error of the best objects, m; objects, how
        many were found, and at_place, the share of them that are at a place. None = not defined.
    """
    asked = [answer for answer in answers if places.get(answer.label)]
    errors = [
        [error_of(thing, places[answer.label]) for thing in answer.objects if is_there(thing)]
        for answer in asked
    ]
    best = [each[0] for each in errors if each]
    every = [error for each in errors for error in each]
    return {
        "known": len(asked),
        "accuracy": sum(error <= near for error in best) / len(asked) if asked else None,
        "error": float(np.median(best)) if best else None,
        "objects": len(every),
        "at_place": sum(error <= near for error in every) / len(every) if every else None,
    }


def is_there(thing: SemanticObject) -> bool:
    """Whether it is where it was seen."""
    return not thing.missing_since_ns
