# SPDX-License-Identifier: Apache-2.0
"""Results of scenes, gathered into runs: scenes that were evaluated with equal options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radseg_ros.config import LABELLED_SPACES, options_of

from ..options import EvalConfig
from .results import find_scenes, read_metrics

MEANS = ("miou", "fmiou", "macc", "acc")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The scenes of one folder that were evaluated with equal options."""

    name: str
    options: dict[str, Any]  # by the names that users write
    scenes: list[dict[str, Any]]  # metrics of each, sorted by the scene's name
    mean: dict[str, float]  # plain means over the scenes


def load_runs(folders: list[Path]) -> list[Run]:
    """Every run below the folders, in the order found.

    Raises:
        InputError: a folder holds no results, or a result is damaged.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        for path in find_scenes(folder):
            metrics = read_metrics(path)
            groups.setdefault(_same_run(metrics), []).append(metrics)
    places = [scenes[0]["folder"].parent for scenes in groups.values()]
    names = [place.name for place in places]
    return [
        Run(
            # two folders of one name: say where they lie
            name if names.count(name) == 1 else f"{place.parent.name}-{name}",
            _options(scenes[0]),
            sorted(scenes, key=lambda metrics: metrics["scene"]),
            mean_over_scenes(scenes),
        )
        for name, place, scenes in zip(names, places, groups.values(), strict=True)
    ]


def _same_run(metrics: dict[str, Any]) -> str:
    """Equal for the scenes of one run."""
    place, encoder = str(metrics["folder"].parent), metrics["provenance"]["encoder"]
    return json.dumps([place, encoder, _options(metrics)], sort_keys=True)


def _options(metrics: dict[str, Any]) -> dict[str, Any]:
    options = flatten(metrics["provenance"]["config"])
    if options.get("map.space") in LABELLED_SPACES:
        options.pop("map.labels")  # follows from the class list, which may differ by scene
    return options


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration -> {"map.voxel_size": 0.05, ...}, by the names that users write."""
    names = {option.path: option.name for option in options_of(EvalConfig).values()}
    return {names.get(path, ".".join(path)): value for path, value in _leaves(config)}


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from (((key, *path), leaf) for path, leaf in _leaves(value))
        else:
            yield (key,), value


def mean_over_scenes(scenes: list[dict[str, Any]]) -> dict[str, float]:
    """Plain means over the scenes that have the number (the paper's tables average like this)."""
    columns = {
        **{name: [scene[name] for scene in scenes] for name in (*MEANS, "coverage")},
        "ceiling": [scene["ceiling"]["miou"] for scene in scenes],
    }
    return {
        name: float(np.mean([v for v in values if v is not None]))
        for name, values in columns.items()
        if set(values) - {None}
    }


def varied_options(runs: list[Run]) -> list[str]:
    """The options in which the runs differ."""
    names = {name for run in runs for name in run.options} - {"root", "map.labels"}
    values = {name: {json.dumps(run.options.get(name)) for run in runs} for name in names}
    return sorted(name for name in names if len(values[name]) > 1)
