# SPDX-License-Identifier: Apache-2.0
"""A scene on disk: a list of views, read one by one, with every view that cannot be used counted
and explained.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import Frame, InputError, RecordingError, check_pose

log = logging.getLogger(__name__)

FRAME_PERIOD_NS = 100_000_000  # data sets without time stamps play at 10 Hz
ASPECT_TOLERANCE = 0.02


class Unusable(Exception):
    """One view cannot be used; ``reason`` is short and the same for every view with this fault."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """A frame and, where the data set has one, its label image."""

    name: str
    frame: Frame
    label: np.ndarray | None = (
        None  # (h, w) int64, labels 1..C, 0 = ignore; shape of the depth image
    )


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Where one frame lies on disk.

    ``pose`` is camera-to-world (4, 4), or the text file that holds it.
    """

    name: str
    rgb: Path
    depth: Path
    pose: np.ndarray | Path
    label: Path | None = None


@dataclass(eq=False)
class Scene:
    """The views of one scene; iterating reads them.

    After an iteration ``dropped`` says how many views were not used and why, ``examples`` names the
    first of each kind, and ``digest()`` is the SHA-256 of everything that was read.
    """

    name: str
    views: list[View]
    K: np.ndarray  # (3, 3) pixels of images of ``size``
    depth_scale: float  # m per unit
    size: tuple[int, int] | None = None  # (h, w) of the depth images; None = as the first one
    color_to_depth: bool = (
        False  # resize colour to the depth image (ScanNet) instead of refusing other sizes
    )
    relabel: Callable[[np.ndarray], np.ndarray] | None = None  # ids in the files -> labels 1..C
    step: int = 1  # use every step-th view
    limit: int = 0  # use at most so many views; 0 = all
    dropped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)  # faults that did not cost the frame
    examples: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._hash = hashlib.sha256()
        if not self.views:
            raise RecordingError(f"{self.name}: no frames")

    def selected(self) -> list[tuple[int, View]]:
        """The views that the frame skip leaves, with their position in the whole scene."""
        chosen = list(enumerate(self.views))[:: self.step]
        return chosen[: self.limit] if self.limit else chosen

    def __len__(self) -> int:
        return len(self.selected())

    def __iter__(self) -> Iterator[LabelledFrame]:
        self._hash, self.dropped, self.notes, self.examples = hashlib.sha256(), {}, {}, {}
        for position, view in self.selected():
            try:
                yield self._read(position, view)
            except Unusable as fault:
                self._count(self.dropped, fault, view)

    def listing(self) -> list[str]:
        """Name and size of every file of the selected views: changes when the data set does, costs
        no reading.
        """
        paths = [
            path
            for _, v in self.selected()
            for path in (v.rgb, v.depth, v.pose, v.label)
            if isinstance(path, Path)
        ]
        return [
            f"{path.name} {path.stat().st_size if path.is_file() else 'missing'}" for path in paths
        ]

    def digest(self) -> str:
        """SHA-256 over the files and poses read by the last iteration."""
        return self._hash.hexdigest()

    def _count(self, table: dict[str, int], fault: Unusable, view: View) -> None:
        if fault.reason not in table:
            log.warning(
                "%s, frame %s: %s (%s)",
                self.name,
                view.name,
                fault,
                "skipped" if table is self.dropped else "kept",
            )
            self.examples[fault.reason] = f"{view.name}: {fault.detail}"
        table[fault.reason] = table.get(fault.reason, 0) + 1

    def _bytes(self, path: Path, what: str) -> bytes:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Unusable(f"{what} missing", str(error)) from None
        self._hash.update(data)
        return data

    def _image(self, path: Path, what: str, mode: str | None = None) -> np.ndarray:
        from PIL import Image

        data = self._bytes(path, what)
        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image.convert(mode) if mode else image)
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
        ) as error:  # what Pillow raises on half-written files
            raise Unusable(f"{what} damaged", f"{path.name}: {error}") from None

    def _pose(self, view: View) -> np.ndarray:
        if isinstance(view.pose, Path):
            text = self._bytes(view.pose, "pose").decode("utf-8", "replace")
            try:
                pose = np.array([float(word) for word in text.split()])
            except ValueError as error:
                raise Unusable("pose damaged", f"{view.pose.name}: {error}") from None
            if pose.size != 16:
                raise Unusable(
                    "pose damaged", f"{view.pose.name} holds {pose.size} numbers, not 16"
                )
            pose = pose.reshape(4, 4)
        else:
            pose = np.asarray(view.pose, np.float64)
            self._hash.update(pose.tobytes())
        if not np.isfinite(pose).all():
            raise Unusable("pose not finite", "tracking was lost here")
        try:
            return check_pose(pose)
        except InputError as error:
            raise Unusable("pose not rigid", str(error)) from None

    def _read(self, position: int, view: View) -> LabelledFrame:
        pose = self._pose(view)
        depth = self._image(view.depth, "depth")
        if depth.ndim != 2 or depth.dtype.kind not in "ui":
            raise Unusable(
                "depth of wrong type",
                f"{view.depth.name}: {depth.shape} {depth.dtype}, need one 16-bit channel",
            )
        size = self.size = self.size or (depth.shape[0], depth.shape[1])
        if depth.shape != size:
            raise Unusable(
                "depth of wrong size",
                f"{depth.shape[1]}x{depth.shape[0]}, need {size[1]}x{size[0]}",
            )
        rgb = self._color(view, size)
        metres = depth.astype(np.float32) * np.float32(self.depth_scale)
        try:
            frame = Frame(position * FRAME_PERIOD_NS, rgb, metres, self.K, pose)
        except InputError as error:
            raise Unusable("frame refused", str(error)) from None
        return LabelledFrame(view.name, frame, self._label(view, size))

    def _color(self, view: View, size: tuple[int, int]) -> np.ndarray:
        rgb = self._image(view.rgb, "colour", "RGB")
        height, width = size
        if rgb.shape[:2] == size:
            return rgb
        if not (self.color_to_depth and _same_aspect(rgb.shape, size)):
            raise Unusable(
                "colour of wrong size", f"{rgb.shape[1]}x{rgb.shape[0]}, need {width}x{height}"
            )
        from PIL import Image

        return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))

    def _label(self, view: View, size: tuple[int, int]) -> np.ndarray | None:
        if view.label is None or self.relabel is None:
            return None
        try:
            ids = self._image(view.label, "label")
            if ids.ndim != 2 or not _same_aspect(ids.shape, size):
                raise Unusable("label of wrong size", f"{ids.shape}, depth is {size}")
        except Unusable as fault:  # the map can still use the frame
            self._count(self.notes, fault, view)
            return None
        return self.relabel(nearest_resize(ids, size))


def _same_aspect(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    return abs((shape[1] / shape[0]) / (size[1] / size[0]) - 1) <= ASPECT_TOLERANCE


def nearest_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (h, w), each pixel from the one that holds its centre ("nearest-exact")."""
    if image.shape == tuple(size):
        return image
    rows, columns = (
        ((np.arange(n) + 0.5) * old / n).astype(np.int64)
        for n, old in zip(size, image.shape, strict=True)
    )
    return image[rows[:, None], columns]


def read_matrix(path: Path, shape: tuple[int, int], what: str) -> np.ndarray:
    """Numbers of a text file as a finite matrix.

    Raises:
        RecordingError: the file is missing or holds something else.
    """
    try:
        values = np.array([float(word) for word in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise RecordingError(f"{what}: cannot read {path}: {error}") from None
    if values.size == 16 and shape == (3, 3):
        values = values.reshape(4, 4)[:3, :3].ravel()  # ScanNet writes intrinsics as 4x4
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise RecordingError(f"{what}: {path} does not hold a finite {shape[0]}x{shape[1]} matrix")
    return values.reshape(shape)


def read_trajectory(path: Path) -> np.ndarray:
    """One row-major 4x4 camera-to-world per line (or per four lines) -> (N, 4, 4).

    May hold values that are not finite.

    Raises:
        RecordingError: the file is missing or not a whole number of matrices.
    """
    try:
        values = np.array([float(word) for word in path.read_text(encoding="utf-8").split()])
    except (OSError, ValueError) as error:
        raise RecordingError(f"trajectory: cannot read {path}: {error}") from None
    if values.size == 0 or values.size % 16:
        raise RecordingError(
            f"trajectory: {path} holds {values.size} numbers, not a whole number of 4x4 matrices"
        )
    return values.reshape(-1, 4, 4)


def numbered(folder: Path, pattern: str = "*") -> dict[int, Path]:
    """The files of a folder by the number at the end of their stem, in numeric order.

    {} for a folder that is not there.
    """
    found = {}
    for path in folder.glob(pattern) if folder.is_dir() else ():
        digits = path.stem[len(path.stem.rstrip("0123456789")) :]
        if digits and path.is_file():
            found[int(digits)] = path
    return dict(sorted(found.items()))
