# SPDX-License-Identifier: Apache-2.0
"""Recordings by their names: bags, folders, and scenes of the data sets that ``eval3d`` reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval3d.classes import ClassList, load_classes
from eval3d.datasets import DATASETS, open_scene
from eval3d.datasets.scene import Scene
from eval3d.options import EvalConfig

from ...config import Config
from ...datatypes import ConfigError, Frame
from ...frames.drops import DropCounts
from ...frames.folder import Recording, open_recording
from ...frames.keyframes import Skip, skip_none

DATA_SETS = tuple(name for name, spec in DATASETS.items() if spec.paper_scenes)


class SceneRecording:
    """A scene of a data set; its label images are not looked at."""

    map_frame = ""

    def __init__(self, path: Path, scene: Scene) -> None:
        self.path = path
        self.before: dict[str, int] = {}
        self._scene = scene
        scene.relabel = None

    @property
    def drops(self) -> DropCounts:
        """See :class:`Recording`."""
        return self._scene.drops

    def __len__(self) -> int:
        return len(self._scene)

    def __iter__(self) -> Iterator[Frame]:
        return (frame for _, frame in self.frames())

    def frames(self, start: int = 0, *, skip: Skip = skip_none) -> Iterator[tuple[int, Frame]]:
        """See :meth:`Recording.frames`."""
        for number, view in self._scene.frames(start):
            if reason := skip(view.frame.stamp_ns, view.frame.T_world_camera):
                self.drops.add(reason)
            else:
                yield number, view.frame


def open_named(name: str, reading: dict[str, Any], config: Config) -> Recording:
    """The recording ``name``.

    Args:
        reading: "rate" of a folder (Hz), "topics" of a bag by kind; "dataset" and "root" if the
            name is that of a scene.

    Raises:
        RecordingError: there is nothing that can be read; says what was looked for.
        ConfigError: the data set is unknown.
    """
    if not reading["dataset"]:
        sync, node = config.sync, config.node
        return open_recording(name, reading["rate"], reading["topics"], sync, node)
    if reading["dataset"] not in DATA_SETS:
        raise ConfigError(f"--dataset is one of {', '.join(DATA_SETS)}")
    options = EvalConfig(dataset=reading["dataset"], root=reading["root"], mapper=config)
    scene: Any = open_scene(options, name, _classes(reading["dataset"]))
    return SceneRecording(Path(reading["root"]) / name, scene)


def _classes(dataset: str) -> ClassList:
    return load_classes(DATASETS[dataset].classes)
