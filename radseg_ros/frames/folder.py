# SPDX-License-Identifier: Apache-2.0
"""Recordings on disk as Frames: a folder of images, or a rosbag2. Imports no ROS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..config import NodeConfig, SyncConfig
from ..datatypes import Frame, RecordingError, brief
from .disk import BAG_SUFFIXES, LAYOUT, FrameReader, folder_views, read_intrinsics
from .drops import DropCounts, Unusable
from .images.depth import DEPTH_SCALE
from .keyframes import Skip, skip_none

if TYPE_CHECKING:
    from .bag import BagRecording


class Recording(Protocol):
    """Posed RGB-D frames in the order of their stamps.

    What cannot be used is left out and counted in ``drops``.
    """

    path: Path
    before: dict[str, int]  # reason -> count, of ``drops``: before the frame that was begun with

    @property
    def drops(self) -> DropCounts:
        """Why messages or files of the last iteration were not used."""
        ...

    @property
    def map_frame(self) -> str:
        """The frame of the poses; empty as long as none has told, or none does."""
        ...

    def __len__(self) -> int:
        """Number of frames at most (some may turn out to be unusable)."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def frames(self, start: int = 0, *, skip: Skip = skip_none) -> Iterator[tuple[int, Frame]]:
        """The frames from number ``start`` on that can be used, with their numbers.

        Args:
            skip: says why a frame of this stamp (ns) and pose (4, 4) is not wanted; it is counted
                in ``drops``, and not decoded if its pose is known before. Empty = it is wanted.
        """
        ...


def open_recording(
    path: str | Path,
    rate: float = 10.0,
    topics: dict[str, str] | None = None,
    sync: SyncConfig | None = None,
    node: NodeConfig | None = None,
) -> FolderRecording | BagRecording:
    """Open a folder or a rosbag2.

    Args:
        rate: frames per second of a folder, which has no stamps.
        topics: which topic of a bag is color, depth, info and pose; what is left out or empty is
            found by type.
        sync, node: how a bag is paired, as in the node; of ``node`` a folder uses depth_scale.

    Raises:
        RecordingError: there is nothing that can be read; the message says what was expected.
    """
    path, node = Path(path), node or NodeConfig()
    try:
        if not path.exists():
            raise RecordingError(f"{path} does not exist")
        is_bag = not path.is_dir() or (path / "metadata.yaml").is_file()
        if not is_bag and (path / "color").is_dir():
            return FolderRecording(path, rate, node.depth_scale)
        if not is_bag and not any(file.suffix in BAG_SUFFIXES for file in path.iterdir()):
            raise RecordingError(
                f"{path} is neither a rosbag2 (metadata.yaml) nor a folder with {LAYOUT}"
            )
    except (OSError, ValueError) as error:  # not allowed, too long, a NUL in the name
        reason = (isinstance(error, OSError) and error.strerror) or "no such name"
        raise RecordingError(f"{brief(path)} cannot be read: {reason}") from error
    from .bag import BagRecording
    from .topics import Topics

    return BagRecording(path, Topics(**(topics or {})), sync, node)


class FolderRecording:
    """A folder with color/, depth/, pose/ and intrinsics.txt. Frames are named after their files.

    Args:
        rate: frames per second; the folder holds no stamps, frame i gets ``i / rate`` s.
        depth_scale: m per unit of the depth images.

    Raises:
        RecordingError: a part is missing altogether, or the intrinsics are none.
    """

    def __init__(
        self, path: str | Path, rate: float = 10.0, depth_scale: float = DEPTH_SCALE
    ) -> None:
        self.path = Path(path)
        self.rate = rate
        self.drops = DropCounts()
        self.before: dict[str, int] = {}
        self.map_frame = ""
        self._reader = FrameReader(read_intrinsics(self.path / "intrinsics.txt"), depth_scale)
        self.views = folder_views(self.path)
        self.names = [view.name for view in self.views]

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[Frame]:
        self.drops = DropCounts()
        return (frame for _, frame in self.frames())

    def frames(
        self, start: int = 0, stop: int | None = None, skip: Skip = skip_none
    ) -> Iterator[tuple[int, Frame]]:
        """The frames ``start`` to ``stop``; see :meth:`Recording.frames`."""
        for i in range(len(self))[start:stop]:
            try:
                frame = self.frame(i)
                if reason := skip(frame.stamp_ns, frame.T_world_camera):
                    raise Unusable(reason)
            except Unusable as fault:
                self.drops.add(fault.reason, example=fault.detail)
            else:
                yield i, frame

    def frame(self, i: int) -> Frame:
        """Frame ``i``, counted from 0.

        Raises:
            Unusable: one of its files is missing or damaged; the message names it.
        """
        return self._reader.frame(self.views[i], round(i / self.rate * 1e9))
