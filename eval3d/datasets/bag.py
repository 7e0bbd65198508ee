# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 through the very code that the node uses: same decoding, same pairing in time, same
reasons to drop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from radseg_ros.config import NodeConfig, SyncConfig
from radseg_ros.frames.assemble import KINDS
from radseg_ros.frames.bag import BagRecording, Topics

from ..classes import ClassList
from .scene import LabelledFrame


class BagScene:
    """A bag as a scene. There are no label images in a bag: the ground truth comes from a file."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.step = 1
        self.limit = 0
        self.notes: dict[str, int] = {}
        self.examples: dict[str, str] = {}
        self._options: dict[str, Any] = {}
        self._recording: BagRecording | None = None
        self._hash = hashlib.sha256()

    def configure(self, topics: Any, sync: SyncConfig, node: NodeConfig) -> None:
        """Options as of the node; ``topics`` has color, depth, info and pose, empty ones are found
        by type and name.
        """
        names = {kind: getattr(topics, kind) for kind in KINDS}
        self._options = {"topics": Topics(**names), "sync": sync, "node": node}

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
    def received(self) -> dict[str, int]:
        """Messages read, by kind."""
        return {
            kind: int(count) for kind, count in sorted(self.recording.assembler.received.items())
        }

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


def open_scene(root: Path, name: str, classes: ClassList) -> BagScene:
    """``root`` is the bag, or the folder that holds the bag ``name``."""
    del classes
    inside = root / name
    is_bag = (root / "metadata.yaml").is_file() or root.is_file()
    return BagScene(root if is_bag or not inside.exists() else inside, name)
