# SPDX-License-Identifier: Apache-2.0
"""A scene on disk: views that are read one by one; those that cannot be used are counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from radseg_ros.datatypes import Frame, RecordingError
from radseg_ros.frames.decode import same_aspect
from radseg_ros.frames.disk import FrameReader, View
from radseg_ros.frames.drops import DropCounts, Unusable

FRAME_PERIOD_NS = 100_000_000  # data sets without time stamps play at 10 Hz


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFrame:
    """A frame and, where the data set has one, its label image."""

    name: str
    frame: Frame
    # (h, w) int64, labels 1..C, 0 = ignore; shape of the depth image
    label: np.ndarray | None = None
    instance: np.ndarray | None = None  # (h, w) int64, ids of things, 0 = none; as above


@dataclass(frozen=True, slots=True, eq=False)
class LabelledView(View):
    """Where one frame, its label image and its image of instances lie on disk."""

    label: Path | None = None
    instance: Path | None = None


@dataclass(eq=False)
class Scene:
    """The views of one scene; iterating reads them.

    After an iteration ``dropped`` says how many views were not used and why, ``notes`` which faults
    did not cost the frame, ``examples`` names the first of each kind, and ``digest()`` is the
    SHA-256 of everything that was read.

    Raises:
        RecordingError: there are no views.
    """

    name: str
    views: list[LabelledView]
    K: np.ndarray  # (3, 3) pixels of images of ``size``
    depth_scale: float  # m per unit
    size: tuple[int, int] | None = None  # (h, w) of the depth images; None = as the first one
    color_to_depth: bool = False  # resize colour to the depth image, as ScanNet's programs do
    relabel: Callable[[np.ndarray], np.ndarray] | None = None  # ids in the files -> labels 1..C
    step: int = 1  # use every step-th view
    limit: int = 0  # use at most so many views; 0 = all
    instances: bool = False  # read the images of instances, too
    drops: DropCounts = field(default_factory=DropCounts, init=False)
    _notes: DropCounts = field(default_factory=DropCounts, init=False)

    def __post_init__(self) -> None:
        self._hash = hashlib.sha256()
        if not self.views:
            raise RecordingError(f"{self.name}: no frames")

    def selected(self) -> list[tuple[int, LabelledView]]:
        """The views that the frame skip leaves, with their position in the whole scene."""
        chosen = list(enumerate(self.views))[:: self.step]
        return chosen[: self.limit] if self.limit else chosen

    def __len__(self) -> int:
        return len(self.selected())

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (frame for _, frame in self.frames())

    def frames(self, start: int = 0) -> Iterator[tuple[int, LabelledFrame]]:
        """The frames from number ``start`` on that can be used, with their numbers."""
        self._hash = hashlib.sha256()
        self.drops, self._notes = DropCounts(), DropCounts("kept without its label")
        reader = FrameReader(self.K, self.depth_scale, self.size, self._read)
        for number, (position, view) in list(enumerate(self.selected()))[start:]:
            try:
                frame = self._labelled_frame(reader, position, view)
            except Unusable as fault:
                self.drops.add(fault.reason, example=fault.detail)
            else:
                yield number, frame

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> views that were not used."""
        return dict(self.drops.items())

    @property
    def notes(self) -> dict[str, int]:
        """Reason -> views whose label image was not used."""
        return dict(self._notes.items())

    @property
    def examples(self) -> dict[str, str]:
        """Reason -> the first view with this fault, and what is wrong with it."""
        return {**self.drops.examples, **self._notes.examples}

    def listing(self) -> list[str]:
        """Name and size of every file of the selected views: changes when the data set does."""
        paths = [
            path
            for _, v in self.selected()
            for path in (v.color, v.depth, v.pose, v.label, v.instance if self.instances else None)
            if isinstance(path, Path)
        ]
        return [
            f"{path.name} {path.stat().st_size if path.is_file() else 'missing'}" for path in paths
        ]

    def digest(self) -> str:
        """SHA-256 over the files and poses read by the last iteration."""
        return self._hash.hexdigest()

    def _read(self, path: Path) -> bytes:
        data = path.read_bytes()
        self._hash.update(data)
        return data

    def _labelled_frame(
        self, reader: FrameReader, position: int, view: LabelledView
    ) -> LabelledFrame:
        if not isinstance(view.pose, Path):
            self._hash.update(np.asarray(view.pose, np.float64).tobytes())
        frame = reader.frame(view, position * FRAME_PERIOD_NS)
        if self.color_to_depth:
            frame = replace(frame, rgb=_resize_color(frame.rgb, frame.depth.shape))
        size = frame.depth.shape
        label = instance = None
        if self.relabel is not None:
            ids = self._ids(reader, view.name, view.label, "label", size)
            label = None if ids is None else self.relabel(ids)
        if self.instances:
            instance = self._ids(reader, view.name, view.instance, "instance", size)
        return LabelledFrame(view.name, frame, label, instance)

    def _ids(
        self, reader: FrameReader, name: str, path: Path | None, what: str, size: tuple[int, int]
    ) -> np.ndarray | None:
        """(h, w) int64 ids of an image, if there is one that can be used."""
        if path is None:
            return None
        try:
            image = reader.image(path, what)
            ids = np.asarray(image)
            if ids.ndim != 2:
                found = f"need one channel of ids, got {ids.shape}"
                raise Unusable(f"{what} in colours, not ids", found)
            if image.format != "PNG":
                raise Unusable(f"{what} of wrong type", f"{image.format} does not keep ids exact")
            if not same_aspect(ids.shape, size):
                raise Unusable(f"{what} of wrong size", f"{ids.shape}, depth is {size}")
        except Unusable as fault:  # the map can still use the frame
            self._notes.add(fault.reason, example=f"{name}: {fault.detail}")
            return None
        return nearest_resize(ids, size).astype(np.int64)


def camera_matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """(3, 3) from focal lengths and principal point in pixels.

    Raises:
        RecordingError: no camera has those.
    """
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
    if not (np.isfinite(K).all() and fx > 0 and fy > 0):
        raise RecordingError(f"no camera has focal lengths {fx}, {fy} and centre {cx}, {cy}")
    return K


def _resize_color(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w, 3), bilinear as Pillow does it."""
    if rgb.shape[:2] == size:
        return rgb
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR))


def nearest_resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (h, w), each pixel from the one that holds its centre ("nearest-exact")."""
    if image.shape == tuple(size):
        return image
    rows, columns = (
        ((np.arange(n) + 0.5) * old / n).astype(np.int64)
        for n, old in zip(size, image.shape, strict=True)
    )
    return image[rows[:, None], columns]
