# SPDX-License-Identifier: Apache-2.0
"""A rosbag2, decoded, paired in time and dropped by the very code that the node uses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radseg_ros.config import NodeConfig, SyncConfig, to_dict
from radseg_ros.frames.bag import BagRecording
from radseg_ros.frames.topics import Topics

from ..classes import ClassList
from ..options import EvalConfig
from .scene import LabelledFrame


class BagScene:
    """A bag as a scene. There are no label images in a bag: the ground truth comes from a file.

    Args:
        topics: empty ones are found by type and name.
        sync, node: options as of the node.
    """

    def __init__(
        self, path: Path, name: str, topics: Topics, sync: SyncConfig, node: NodeConfig
    ) -> None:
        self.path = path
        self.name = name
        self.step = 1
        self.limit = 0
        self.instances = False  # there are no images of them in a bag
        self.notes: dict[str, int] = {}
        self._options: dict[str, Any] = {"topics": topics, "sync": sync, "node": node}
        self._recording: BagRecording | None = None
        self._hash = hashlib.sha256()

    @property
    def recording(self) -> BagRecording:
        """The bag, opened on first use."""
        if self._recording is None:
            self._recording = BagRecording(self.path, **self._options)
        return self._recording

    @property
    def dropped(self) -> dict[str, int]:
        """Messages that did not become a frame, by reason."""
        return {str(reason): int(count) for reason, count in sorted(self.recording.drops.items())}

    @property
    def examples(self) -> dict[str, str]:
        """Reason -> the first message with this fault, where more is known."""
        return self.recording.drops.examples

    def __len__(self) -> int:
        count = -(-len(self.recording) // self.step)
        return min(count, self.limit) if self.limit else count

    def __iter__(self) -> Iterator[LabelledFrame]:
        self._hash = hashlib.sha256()
        used = 0
        for position, frame in enumerate(self.recording):
            if position % self.step:
                continue
            for array in (frame.rgb, frame.depth, frame.K, frame.T_world_camera):
                self._hash.update(array.tobytes())
            yield LabelledFrame(str(frame.stamp_ns), frame)
            used += 1
            if used == self.limit:
                return

    def listing(self) -> list[str]:
        """Name and size of the files of the bag."""
        files = (
            sorted(p for p in self.path.rglob("*") if p.is_file())
            if self.path.is_dir()
            else [self.path]
        )
        return [f"{file.name} {file.stat().st_size}" for file in files]

    def digest(self) -> str:
        """SHA-256 over the frames of the last iteration."""
        return self._hash.hexdigest()


def open_scene(root: Path, name: str, classes: ClassList, config: EvalConfig) -> BagScene:
    """``root`` is the bag, or the folder that holds the bag ``name``."""
    del classes
    inside = root / name
    is_bag = (root / "metadata.yaml").is_file() or root.is_file()
    path = root if is_bag or not inside.exists() else inside
    topics = Topics(**to_dict(config.topics))
    return BagScene(path, name, topics, config.mapper.sync, config.mapper.node)
