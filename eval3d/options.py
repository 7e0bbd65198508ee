# SPDX-License-Identifier: Apache-2.0
"""All options of an evaluation, with defaults, units and meaning.

The mapper's own options are a group of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from radseg_ros.config import Config, from_dict, one_of, option, to_dict
from radseg_ros.datatypes import ConfigError

from .scoring.metrics import PROTOCOLS
from .truth.ground_truth import RULES

CLASSES = "(the class list)"  # stands for the labels of a probability map until the scene is known


@dataclass(frozen=True, slots=True)
class OracleConfig:
    """The encoder that knows the labels."""

    noise: float = option(0.0, "length of the noise per patch, in units of the signal")
    patch: int = option(
        1, "px of the working resolution per patch; 1 = every pixel, 16 = as coarse as a ViT"
    )


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """Topics of a bag; empty = found by type and name."""

    color: str = option("", "colour images")
    depth: str = option("", "depth images")
    info: str = option("", "camera info of the depth images")
    pose: str = option("", "poses")


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """One evaluation. The defaults are those of the paper (docs/method.md: 5 cm voxels, k 5, frame
    skip 10).
    """

    dataset: str = option("folder", "replica, scannet, scannetpp, folder or bag")
    root: str = option("", "folder of the data set (the bag itself for a bag)")
    classes: str = option("", "class list: a shipped one or a file; empty = the data set's own")
    encoder: str = option("radseg", "radseg, lite, or oracle (knows the labels)")
    gt: str = option(
        "",
        "labelled points, {root} and {scene} are filled in; lifted = from label images; empty = "
        "by data set",
    )
    gt_holds: str = option(
        "",
        "what labelled points hold: ids (of the class list) or index (from 0); empty = by data set",
    )
    gt_rule: str = option(
        "auto", "label of a voxel: majority, non_ignored (most frequent but 0); auto = by protocol"
    )
    gt_voxel_size: float = option(0.0, "m; 0 = that of the map")
    protocol: str = option("radseg", "radseg (of the paper) or hovsg")
    ignore: list[str] = option(
        [], "classes that are not scored; empty = those that the data set's protocol leaves out"
    )
    k: int = option(5, "neighbours that vote for a ground-truth voxel; 0 = only the same voxel")
    denoise_threshold: float = option(
        0.5, "classes whose probability stays below this in the whole map are removed; 0 = off"
    )
    prediction_threshold: float = option(0.1, "a best probability below this predicts nothing")
    denoise_chunk: int = option(
        0, "voxels per denoising; 0 = the whole map; 10000 = as the published program"
    )
    coverage_radius: float = option(
        0.1, "m within which a ground-truth voxel must have a prediction to count as covered"
    )
    frame_skip: int = option(
        -1, "frames left out after each one used; 10 = frames 0, 11, 22; -1 = by data set"
    )
    limit: int = option(0, "use at most so many frames of a scene; 0 = all")
    seed: int = option(0, "of everything random (the oracle's noise)")
    threads: int = option(
        0, "threads of one scene; 0 = the cores of the machine, 8 at most. Never depends on --jobs"
    )
    oracle: OracleConfig = field(default_factory=OracleConfig)
    topics: TopicConfig = field(default_factory=TopicConfig)
    mapper: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        one_of("protocol", self.protocol, PROTOCOLS)
        one_of("gt_rule", self.gt_rule, RULES)
        one_of("gt_holds", self.gt_holds, ("", "ids", "index"))
        numbers = ("k", "denoise_chunk", "limit", "seed", "threads", "gt_voxel_size")
        for name in (*numbers, "denoise_threshold", "prediction_threshold", "coverage_radius"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)}")


def _find(cls: Any, dotted: str) -> list[str]:
    """The path of an option; what is not one of ours is looked for in the mapper's."""
    first = dotted.split(".")[0]
    if first not in {f.name for f in fields(cls)} and first in {f.name for f in fields(Config)}:
        return ["mapper", *dotted.split(".")]
    return dotted.split(".")


def _current(config: Any, path: list[str]) -> Any:
    for name in path:
        if not is_dataclass(config) or name not in {f.name for f in fields(config)}:
            return None
        config = getattr(config, name)
    return config


def parse_value(text: str, like: Any = None) -> Any:
    """Text of a command line -> value: JSON where it is JSON, commas make a list where a list is
    wanted, else a string.
    """
    if isinstance(like, str):
        return text
    if isinstance(like, list) and not text.startswith("["):
        return [parse_value(part) for part in text.split(",") if part]
    try:
        return json.loads(text)
    except ValueError:
        return text


def with_options(config: EvalConfig, assignments: list[str] | dict[str, Any]) -> EvalConfig:
    """``config`` with options changed: ``["k=1", "radseg.tau_scra=5", "map.voxel_size=0.1"]`` or
    the same as a dictionary.

    Raises:
        ConfigError: an option does not exist or takes another type; it is named in full.
    """
    if isinstance(assignments, list):
        pairs = []
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise ConfigError(f"{assignment!r} is not OPTION=VALUE")
            pairs.append((name, parse_value(text, _current(config, _find(EvalConfig, name)))))
    else:
        pairs = list(assignments.items())
    values = to_dict(config)
    for name, value in pairs:
        *groups, last = _find(EvalConfig, name)
        table = values
        for group in groups:
            if not isinstance(table.get(group), dict):
                raise ConfigError(f"unknown option {name}")
            table = table[group]
        table[last] = value
    map_options = values["mapper"]["map"]
    if map_options["space"] == "probability" and not map_options["labels"]:
        map_options["labels"] = [CLASSES]  # the class list is known once the scene is open
    return from_dict(EvalConfig, values)
