# SPDX-License-Identifier: Apache-2.0
"""All options of an evaluation, with defaults, units and meaning.

The mapper's own options are a group of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from radseg_ros.config import LABELLED_SPACES, Config, Options, group, option, options_of
from radseg_ros.config import with_options as change_options
from radseg_ros.datatypes import ConfigError

from .classes import SHIPPED
from .scoring.metrics import PROTOCOLS
from .truth.ground_truth import RULES

CLASSES = "(the class list)"  # stands for the labels of a probability map until the scene is known


@dataclass(frozen=True, slots=True)
class OracleConfig(Options):
    """The encoder that knows the labels."""

    PREFIX: ClassVar[str] = "oracle."

    noise: float = option(0.0, "length of the noise per patch, in units of the signal", low=0)
    patch: int = option(
        1, "px of the working resolution per patch; 1 = every pixel, 16 = as coarse as a ViT", low=1
    )
    similarity: float = option(
        0.3, "cosine of a phrase that is none of the classes with one of them", low=0, high=1
    )


@dataclass(frozen=True, slots=True)
class TopicConfig(Options):
    """Topics of a bag; empty = found by type and name."""

    PREFIX: ClassVar[str] = "topics."

    color: str = option("", "colour images")
    depth: str = option("", "depth images")
    info: str = option("", "camera info of the depth images")
    pose: str = option("", "poses")


@dataclass(frozen=True, slots=True)
class EvalConfig(Options):
    """One evaluation. The defaults are those of the paper (docs/method.md)."""

    dataset: str = option("folder", "replica, scannet, scannetpp, folder or bag")
    root: str = option("", "folder of the data set (the bag itself for a bag)")
    classes: str = option(
        "", f"class list: {', '.join(SHIPPED)}, or a file; empty = the data set's own"
    )
    encoder: str = option(
        "radseg", "radseg, lite, oracle (knows the labels), or any other that a mapper may have"
    )
    gt: str = option(
        "",
        "labelled points (.ply .npz .pt), {root} and {scene} are filled in; lifted = from label "
        "images; empty = by data set",
    )
    gt_holds: str = option(
        "",
        "what labelled points hold: ids (of the class list) or index (from 0); empty = by data set",
        choices=("", "ids", "index"),
    )
    gt_rule: str = option(
        "auto",
        "label of a voxel: majority, non_ignored (most frequent but 0); auto = by protocol",
        choices=RULES,
    )
    gt_voxel_size: float = option(0.0, "m; 0 = that of the map", low=0, high=1000)
    protocol: str = option("radseg", "radseg (of the paper) or hovsg", choices=PROTOCOLS)
    ignore: list[str] = option(
        [], "classes that are not scored; empty = those that the data set's protocol leaves out"
    )
    k: int = option(
        5,
        "neighbours that vote for a ground-truth voxel; 0 = only the same voxel",
        low=0,
        high=1000,
    )
    denoise_threshold: float = option(
        0.5,
        "classes whose probability stays below this in the whole map are removed; 0 = off",
        low=0,
        high=1,
    )
    prediction_threshold: float = option(
        0.1, "a best probability below this predicts nothing", low=0, high=1
    )
    denoise_chunk: int = option(
        0, "voxels per denoising; 0 = the whole map; 10000 = as the published program", low=0
    )
    coverage_radius: float = option(
        0.1, "m within which a ground-truth voxel must have a prediction to count as covered", low=0
    )
    retrieval: bool = option(
        False,
        "also ask for every class by name, as a robot would: whether what is there is found and "
        "what is not there is not, and, where the things of a scene are known, AP, top-k frequency "
        "and localisation",
    )
    labels: str = option(
        "",
        "label file (docs/evaluation.md) whose absent names are asked for, too; turns retrieval on",
    )
    min_instance: int = option(
        10,
        "voxels; smaller things and objects count neither for nor against (ScanNet: 100 vertices)",
        low=1,
    )
    near: float = option(
        0.25, "m from a thing within which an object counts as at its place", low=0, high=1000
    )
    frame_skip: int = option(
        -1, "frames left out after each one used; 10 = frames 0, 11, 22; -1 = by data set", low=-1
    )
    limit: int = option(0, "use at most so many frames of a scene; 0 = all", low=0)
    seed: int = option(0, "of everything random (the oracle's noise)", low=0)
    threads: int = option(
        0,
        "threads of one scene; 0 = the cores of the machine, 8 at most. Never depends on --jobs",
        low=0,
        high=1024,
    )
    oracle: OracleConfig = group(OracleConfig)
    topics: TopicConfig = group(TopicConfig)
    mapper: Config = group(Config, flat="")

    @property
    def asks(self) -> bool:
        """Whether scenes are asked by name."""
        return self.retrieval or bool(self.labels)

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        low = options_of(Config)["map.voxel_size"].low
        if 0 < self.gt_voxel_size < (low or 0):
            raise ConfigError(f"gt_voxel_size must be 0 or >= {low:g}, got {self.gt_voxel_size}")


def with_options(config: EvalConfig, values: Mapping[str, Any]) -> EvalConfig:
    """``config`` with options changed: ``{"k": 1, "radseg.tau_scra": 5.0, "map.voxel_size": 0.1}``.

    Raises:
        ConfigError: an option does not exist or takes another type; it is named in full.
    """
    space = values.get("map.space", config.mapper.map.space)
    labels = values.get("map.labels", config.mapper.map.labels)
    if space in LABELLED_SPACES and not labels:  # the class list is known once the scene is open
        values = {**values, "map.labels": [CLASSES]}
    return change_options(config, values)
