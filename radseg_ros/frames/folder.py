# SPDX-License-Identifier: Apache-2.0
"""Recordings on disk as Frames: a folder of images, or a rosbag2. Imports no ROS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..config import NodeConfig, SyncConfig
from ..datatypes import Frame, InputError, RecordingError
from .drops import DropCounts

if TYPE_CHECKING:
    from .bag import BagRecording

COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = (
    "color/NAME.jpg|png, depth/NAME.png (16 bit), pose/NAME.txt (4x4 camera to world), "
    "intrinsics.txt (3x3)"
)


class Recording(Protocol):
    """Posed RGB-D frames in the order of their stamps.

    What cannot be used is left out and counted in ``drops``.
    """

    path: Path
    drops: DropCounts

    def __len__(self) -> int:
        """Number of frames at most (some may turn out to be unusable)."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...


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
    path = Path(path)
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    if path.suffix in (".mcap", ".db3", ".bag") or (path / "metadata.yaml").is_file():
        from .bag import BagRecording, Topics

        return BagRecording(path, Topics(**(topics or {})), sync, node)
    if (path / "color").is_dir():
        return FolderRecording(path, rate, (node or NodeConfig()).depth_scale)
    raise RecordingError(f"{path} is neither a rosbag2 (metadata.yaml) nor a folder with {LAYOUT}")


class FolderRecording:
    """A folder with color/, depth/, pose/ and intrinsics.txt. Frames are named after their files.

    Args:
        rate: frames per second; the folder holds no stamps, frame i gets ``i / rate`` s.
        depth_scale: m per unit of the depth images.

    Raises:
        RecordingError: a part is missing altogether or the intrinsics are none.
    """

    def __init__(self, path: str | Path, rate: float = 10.0, depth_scale: float = 0.001) -> None:
        self.path = Path(path)
        self.rate = rate
        self.depth_scale = depth_scale
        self.drops = DropCounts()
        for part in ("color", "depth", "pose"):
            if not (self.path / part).is_dir():
                raise RecordingError(f"{self.path} has no folder {part}/; expected {LAYOUT}")
        self.K = self._read_intrinsics()
        files = sorted(
            p for p in (self.path / "color").iterdir() if p.suffix.lower() in COLOR_SUFFIXES
        )
        if not files:
            raise RecordingError(
                f"{self.path / 'color'} holds no images ({', '.join(COLOR_SUFFIXES)})"
            )
        self._colors = {file.stem: file for file in files}
        self.names = list(self._colors)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Frame]:
        for i in range(len(self)):
            try:
                yield self.frame(i)
            except InputError as error:
                self.drops.add(str(error))

    def frame(self, i: int) -> Frame:
        """Frame ``i``, counted from 0.

        Raises:
            InputError: one of its files is missing or damaged; the message names it.
        """
        name = self.names[i]
        color, depth, pose = (
            self._colors[name],
            self.path / "depth" / f"{name}.png",
            self.path / "pose" / f"{name}.txt",
        )
        rgb = np.asarray(_read_image(color).convert("RGB"))
        units = np.asarray(_read_image(depth))
        if units.ndim != 2 or units.dtype == np.uint8:
            raise InputError(
                f"{depth}: a depth image has one channel of 16 bit, got {units.shape} {units.dtype}"
            )
        try:
            T_world_camera = np.loadtxt(pose, ndmin=2)
        except (OSError, ValueError) as error:
            raise InputError(f"{pose}: {error}") from error
        try:
            stamp_ns = round(i / self.rate * 1e9)
            return Frame(
                stamp_ns,
                rgb,
                units.astype(np.float32) * np.float32(self.depth_scale),
                self.K,
                T_world_camera,
            )
        except InputError as error:
            raise InputError(f"frame {name}: {error}") from error

    def _read_intrinsics(self) -> np.ndarray:
        file = self.path / "intrinsics.txt"
        try:
            K = np.loadtxt(file, ndmin=2)
        except (OSError, ValueError) as error:
            raise RecordingError(f"{file}: {error}") from error
        if (
            K.shape not in ((3, 3), (4, 4))
            or not np.isfinite(K).all()
            or K[0, 0] <= 0
            or K[1, 1] <= 0
        ):
            raise RecordingError(f"{file}: expected a 3x3 camera matrix, got {K.tolist()}")
        return K[:3, :3]


def _read_image(file: Path) -> Any:
    from PIL import Image

    try:
        image = Image.open(file)
        image.load()  # finds half-written files
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{file}: {error}") from error
    return image
