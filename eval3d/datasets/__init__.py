# SPDX-License-Identifier: Apache-2.0
"""The data sets that can be scored: how to open a scene, its classes, truth, and paper's scenes.

A scene is anything with ``name``, ``len()``, iteration over LabelledFrame, ``dropped`` / ``notes``
/ ``examples`` and ``listing()`` / ``digest()``: see :class:`eval3d.datasets.scene.Scene`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from radseg_ros.config import one_of
from radseg_ros.datatypes import RecordingError

from ..classes import ClassList
from ..options import EvalConfig
from . import folder, replica, scannet, scannetpp
from .scene import LabelledFrame, Scene


class SceneSource(Protocol):
    """What the evaluator needs of a scene."""

    name: str
    instances: bool  # whether images of instances are read, too

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> frames or messages that were not used."""
        ...

    @property
    def notes(self) -> dict[str, int]:
        """Reason -> faults that did not cost the frame."""
        ...

    @property
    def examples(self) -> dict[str, str]:
        """Reason -> the first input with this fault, and what is wrong with it."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[LabelledFrame]: ...

    def listing(self) -> list[str]:
        """What the scene consists of, without reading it."""
        ...

    def digest(self) -> str:
        """SHA-256 of what the last iteration read."""
        ...


@dataclass(frozen=True, slots=True)
class Dataset:
    """One data set: its layout and the paper's settings for it."""

    name: str
    open_scene: Callable[[Path, str, ClassList, EvalConfig], Any]
    classes: str  # shipped class list; empty = the recording brings its own (meta.json)
    ground_truth: tuple[
        str, ...
    ]  # where to look, {root} and {scene} are filled in; "lifted" = from the label images
    points_hold: str  # what labelled points hold: ids of the class list, or 0-based class indices
    paper_scenes: tuple[str, ...] = ()
    frame_skip: int = 10  # frames left out after each one used


_SCANNET_SCENES = (
    "scene0011_00 scene0011_01 scene0050_00 scene0050_01 scene0050_02 scene0231_00 "
    "scene0231_01 scene0231_02 "
    "scene0378_00 scene0378_01 scene0378_02 scene0518_00"
).split()
_SCANNETPP_SCENES = (
    "00777c41d4 bcd2436daf a5114ca13d 2b1dc6d6a5 d551dac194 "
    "f9f95681fd ea42cd27e6 20ff72df6e bf6e439e38"
).split()
_SUFFIXES = ("npz", "pt", "pth", "ply")


def _open_bag(root: Path, name: str, classes: ClassList, config: EvalConfig) -> SceneSource:
    from .bag import open_scene  # brings scipy; only bags need it

    return open_scene(root, name, classes, config)


DATASETS = {
    "replica": Dataset(
        "replica",
        replica.open_scene,
        "replica101",
        tuple(f"{{root}}/ground_truth/{{scene}}.{suffix}" for suffix in _SUFFIXES) + ("lifted",),
        "ids",
        ("office0", "office1", "office2", "office3", "office4", "room0", "room1", "room2"),
    ),
    "scannet": Dataset(
        "scannet", scannet.open_scene, "nyu40", ("lifted",), "ids", tuple(_SCANNET_SCENES)
    ),
    "scannetpp": Dataset(
        "scannetpp",
        scannetpp.open_scene,
        "scannetpp100",
        tuple(f"{{root}}/ground_truth/{{scene}}.{suffix}" for suffix in ("pth", *_SUFFIXES)),
        "index",
        tuple(_SCANNETPP_SCENES),
    ),
    "folder": Dataset("folder", folder.open_scene, "", ("lifted",), "ids", frame_skip=0),
    "bag": Dataset("bag", _open_bag, "", (), "ids", frame_skip=0),
}


def open_scene(config: EvalConfig, name: str, classes: ClassList) -> SceneSource:
    """The scene ``name`` of ``config.root``, read as the options say.

    Every ``frame_skip + 1``-th frame is used (as the official programs do), ``limit`` at most.
    Depth has the scale ``node.depth_scale`` wherever the data set does not bring its own.

    Raises:
        ConfigError: unknown data set.
        RecordingError: the scene cannot be read; the message says what was looked for.
    """
    spec = DATASETS[one_of("dataset", config.dataset, DATASETS)]
    root = Path(config.root)
    if not root.exists():
        raise RecordingError(f"{root} does not exist")
    scene = spec.open_scene(root, name, classes, config)
    scene.step = (spec.frame_skip if config.frame_skip < 0 else config.frame_skip) + 1
    scene.limit = config.limit
    scene.instances = config.asks
    return scene


__all__ = ["DATASETS", "Dataset", "LabelledFrame", "Scene", "SceneSource", "open_scene"]
