# SPDX-License-Identifier: Apache-2.0
"""Recordings as files: which belong together, and one rule each for colour, depth and poses.

Every reader of folders (recordings, data sets of the evaluation) goes through here, so all of them
see the same frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..datatypes import Frame, InputError, RecordingError, check_pose
from ..files import open_image, refuse_pipes, rgb_pixels
from ..reading import read_text
from .decode import is_camera_matrix, same_aspect
from .drops import Unusable
from .images.depth import DEPTH_SCALE, to_metres
from .images.raw import IMAGE_FORMATS

if TYPE_CHECKING:
    from PIL import Image

COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = DEPTH_SUFFIXES = (".png",)
POSE_SUFFIXES = (".txt",)
MAX_FILE = 1 << 28  # bytes: more than the largest image, unpacked
BAG_SUFFIXES = (".mcap", ".db3")
LAYOUT = (
    "color/NAME.jpg|png, depth/NAME.png (16 bit), pose/NAME.txt (4x4 camera to world), "
    "intrinsics.txt (3x3)"
)


# Names


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Sorted as people number things: 9 before 10, whether or not there are leading zeros."""

    def key(name: str) -> tuple[list[str | tuple[int, str]], str]:
        parts = re.split(r"([0-9]+)", name)  # text, number, text, ...
        digits = [part.lstrip("0") for part in parts]  # of two numbers, the longer is larger
        return [(len(digits[i]), digits[i]) if i % 2 else p for i, p in enumerate(parts)], name

    return sorted(names, key=key)


def is_ours(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether this is a file of such a suffix, in capitals or not, and not hidden."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def list_files(folder: Path, suffixes: Sequence[str], prefix: str = "") -> dict[str, Path]:
    """The files of a folder by their names without ``prefix`` and suffix, in natural order.

    Hidden files, other suffixes, and names without the prefix are somebody else's. {} for a folder
    that is not there.

    Raises:
        RecordingError: two files differ in nothing but the suffix.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (is_ours(path, suffixes) and path.stem.startswith(prefix)):
            continue
        name = path.stem.removeprefix(prefix)
        if name in found:
            raise RecordingError(f"{folder} holds {found[name].name} and {path.name}: which one?")
        found[name] = path
    return {name: found[name] for name in in_natural_order(found)}


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Where one frame lies on disk; a file that is not there costs this frame only."""

    name: str
    color: Path
    depth: Path
    pose: Path | np.ndarray | None  # (4, 4) camera to world, the text file of it, or there is none


def folder_views(folder: Path) -> list[View]:
    """The frames of a folder in the layout ``LAYOUT``: whatever has an image or a pose.

    Raises:
        RecordingError: a part is missing altogether, or two files have one name.
    """
    parts = {"color": COLOR_SUFFIXES, "depth": DEPTH_SUFFIXES, "pose": POSE_SUFFIXES}
    for part in parts:
        if not (folder / part).is_dir():
            raise RecordingError(f"{folder} has no folder {part}/; expected {LAYOUT}")
    files = {part: list_files(folder / part, suffixes) for part, suffixes in parts.items()}
    for part, suffixes in parts.items():
        if not files[part]:
            raise RecordingError(f"{folder / part} holds no files of {', '.join(suffixes)}")
    return [
        View(
            name,
            *(
                files[part].get(name, folder / part / f"{name}{suffixes[0]}")
                for part, suffixes in parts.items()
            ),
        )
        for name in in_natural_order({name for found in files.values() for name in found})
    ]


# Contents


def read_numbers(path: Path) -> np.ndarray:
    """All numbers of a text file in order; what follows a # is a comment.

    Raises:
        RecordingError: the file is missing, or holds something else.
    """
    text = read_text(path, RecordingError)
    try:
        return _numbers(text)
    except InputError as error:
        raise RecordingError(f"{path}: {error}") from None


def _numbers(text: str) -> np.ndarray:
    words = re.sub(r"#.*", "", text).split()
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        raise InputError("holds something that is no number") from None


def read_intrinsics(path: Path) -> np.ndarray:
    """The camera matrix of a text file, (3, 3) float64; a 4x4 one is cut.

    Raises:
        RecordingError: the file is missing or holds something else.
    """
    values = read_numbers(path)
    side = {9: 3, 16: 4}.get(values.size, 0)
    K = values.reshape(side, side)[:3, :3] if side else np.zeros((3, 3))
    if not is_camera_matrix(K):
        raise RecordingError(f"{path} does not hold a 3x3 camera matrix with focal lengths")
    return K


class FrameReader:
    """Reads the frames of one camera.

    Args:
        K: (3, 3) pixels of the depth images.
        depth_scale: m per unit of the depth images.
        size: (h, w) of the depth images; None = as in the first frame that is whole.
        read: gives the bytes of a file.
    """

    def __init__(
        self,
        K: np.ndarray,
        depth_scale: float = DEPTH_SCALE,
        size: tuple[int, int] | None = None,
        read: Callable[[Path], bytes] = Path.read_bytes,
    ) -> None:
        self.K = K
        self.depth_scale = depth_scale
        self.size = size
        self._read = read

    def frame(self, view: View, stamp_ns: int) -> Frame:
        """Read one view.

        Raises:
            Unusable: a file is missing or damaged, or does not fit the others; names the view.
        """
        try:
            pose, depth = self.pose(view.pose), self.depth(view.depth)
            rgb = self.color(view.color, depth.shape)
            frame = Frame(stamp_ns, rgb, depth, self.K, pose)
        except Unusable as fault:
            raise Unusable(fault.reason, f"{view.name}: {fault.detail}") from None
        except InputError as error:
            raise Unusable("frame refused", f"{view.name}: {error}") from None
        self.size = (depth.shape[0], depth.shape[1])
        return frame

    def pose(self, pose: Path | np.ndarray | None) -> np.ndarray:
        """(4, 4) camera to world; a file holds its 16 numbers row by row.

        Raises:
            Unusable: it is missing, or not a rigid transform.
        """
        if pose is None:
            raise Unusable("pose missing", "the trajectory ends before this image")
        values = _pose_numbers(self.contents(pose, "pose")) if isinstance(pose, Path) else pose
        if not np.isfinite(values).all():
            raise Unusable("pose not finite", "tracking was lost here")
        try:
            return check_pose(values)
        except InputError as error:
            raise Unusable("pose not rigid", str(error)) from None

    def depth(self, path: Path) -> np.ndarray:
        """(h, w) float32 metres of an image of one 16-bit channel.

        Raises:
            Unusable: it is missing or damaged, of another type, or of another size than before.
        """
        units = np.asarray(self.image(path, "depth"))
        if units.ndim != 2 or units.dtype.kind not in "iu" or units.dtype.itemsize < 2:
            found = f"need one channel of 16 bit, got {units.shape} {units.dtype}"
            raise Unusable("depth of wrong type", found)
        if self.size is not None and units.shape != self.size:
            raise Unusable("depth of wrong size", _sizes(units.shape, self.size))
        return to_metres(units, self.depth_scale)

    def color(self, path: Path, size: tuple[int, ...]) -> np.ndarray:
        """(H, W, 3) uint8 RGB of an image that shows the view of a depth image of ``size``.

        Raises:
            Unusable: it is missing or damaged, of another type, or has another aspect.
        """
        image = self.image(path, "colour")
        try:
            rgb = rgb_pixels(image)
        except InputError as error:
            raise Unusable("colour of wrong type", f"{path.name}: {error}") from None
        if not same_aspect(rgb.shape, size):
            raise Unusable("colour of wrong size", _sizes(rgb.shape, size))
        return rgb

    def image(self, path: Path, what: str) -> Image.Image:
        """An image file, decoded; ``what`` it is, for the messages.

        Raises:
            Unusable: it is missing or damaged.
        """
        data = self.contents(path, what)
        try:
            return open_image(data, path.name, IMAGE_FORMATS)
        except InputError as error:
            raise Unusable(f"{what} damaged", str(error)) from None

    def contents(self, path: Path, what: str) -> bytes:
        """What a file holds; ``what`` it is, for the messages.

        Raises:
            Unusable: it cannot be read, or no image or pose takes so much.
        """
        try:
            refuse_pipes(path)
            if (size := path.stat().st_size) > MAX_FILE:
                raise Unusable(f"{what} too large", f"{path.name}: {size >> 20} MB")
            return self._read(path)
        except Unusable:
            raise
        except InputError:
            raise Unusable(f"{what} missing", f"{path.name}: neither a file nor a folder") from None
        except (OSError, ValueError) as error:  # ValueError: no file can have such a name
            reason = getattr(error, "strerror", None) or "no such name"
            raise Unusable(f"{what} missing", f"{path.name}: {reason}") from None


def _pose_numbers(data: bytes) -> np.ndarray:
    try:
        values = _numbers(data.decode("utf-8-sig", "replace"))
    except InputError as error:
        raise Unusable("pose damaged", str(error)) from None
    if values.size != 16:
        raise Unusable("pose damaged", f"holds {values.size} numbers, not 16")
    return values.reshape(4, 4)


def _sizes(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return f"{found[1]}x{found[0]}, need {wanted[1]}x{wanted[0]}"
