# SPDX-License-Identifier: Apache-2.0
"""The types that travel between the stages, checked once where they are made.

Conventions, stated here and in README only: optical axes (x right, y down, z forward), metres,
integer nanoseconds, ``T_target_source`` maps source coordinates to target coordinates, colours are
RGB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = Union[np.ndarray, "torch.Tensor"]  # an image, on the processor or on a GPU


class RadsegRosError(Exception):
    """Root of every error that this project raises on purpose."""


class InputError(RadsegRosError, ValueError):
    """Data that cannot be used: wrong shape, wrong type, a pose that is none."""


class NotReadyError(RadsegRosError):
    """Something that is still being loaded was asked for; asking again later helps."""


class ConfigError(RadsegRosError, ValueError):
    """An option that does not exist or a value that is out of range."""


class CheckpointError(RadsegRosError):
    """Weights that are missing, damaged, or of a kind that is not supported."""


class LanguageError(RadsegRosError):
    """Text that cannot be embedded: no text tower, no cached embedding, no language head."""


class MapFileError(RadsegRosError):
    """A map file that is damaged, partial, or does not fit the running map."""


class RecordingError(RadsegRosError):
    """A recording (folder or bag) that cannot be read."""


def brief(text: object, limit: int = 120) -> str:
    """What came from outside, as it may be logged or become part of a message: one line of at most
    ``limit`` characters, in which nothing controls a terminal or forges a second line.
    """
    raw = str(text)
    cut = " ".join(raw[:limit].split())
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return safe if len(raw) <= limit >= len(safe) else f"{safe[: limit - 3]}..."


ROTATION_TOLERANCE = 1e-3  # float32 poses and text files with six digits stay well below this


def check_rgb(rgb: np.ndarray) -> np.ndarray:
    """Return ``rgb`` if it is a non-empty (H, W, 3) image, uint8 or float32 in [0, 1].

    Raise InputError otherwise.
    """
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise InputError(f"rgb must be a non-empty (H, W, 3) image, got shape {rgb.shape}")
    if rgb.dtype != np.uint8 and not (
        rgb.dtype.kind == "f" and 0.0 <= rgb.min() and rgb.max() <= 1.0
    ):
        raise InputError(f"rgb must be uint8, or float in [0, 1], got {rgb.dtype}")
    return rgb


def check_pose(T: np.ndarray, name: str = "pose") -> np.ndarray:
    """Return ``T`` as (4, 4) float64 if it is a rigid transform.

    Raise InputError that says what is wrong otherwise.
    """
    T = np.asarray(T, np.float64)
    if T.shape != (4, 4):
        raise InputError(f"{name} must be a 4x4 matrix, got shape {T.shape}")
    if not np.isfinite(T).all():
        raise InputError(f"{name} holds values that are not finite")
    rotation = T[:3, :3]
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if (
        error > ROTATION_TOLERANCE
        or np.linalg.det(rotation) < 0
        or np.abs(T[3] - (0, 0, 0, 1)).max() > 1e-6
    ):
        raise InputError(
            f"{name} is not a rigid transform (|R^T R - 1| up to {error:.2g}, det "
            f"{np.linalg.det(rotation):.2g})"
        )
    return T


MAX_TEXTS = 1000  # labels of one question
MAX_TEXT_LENGTH = 100_000  # characters; towers read some 64 tokens


def check_texts(texts: Sequence[str], most: int = MAX_TEXTS) -> None:
    """Refuse labels that cannot be looked for, in one sentence.

    Raises:
        InputError: there is none, or more than ``most``; one is empty, too long, or not Unicode.
    """
    if not texts or not all(text.strip() for text in texts):
        raise InputError("at least one label is needed, and none of them empty")
    if len(texts) > most:
        raise InputError(f"at most {most} labels at once, got {len(texts)}")
    if (longest := max(map(len, texts))) > MAX_TEXT_LENGTH:
        raise InputError(f"a label takes at most {MAX_TEXT_LENGTH} characters, got {longest}")
    for text in texts:
        if any("\ud800" <= c <= "\udfff" for c in text):  # bytes of a command line
            raise InputError(f"{ascii(text[:100])} is not UTF-8, so it cannot be a label")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One posed RGB-D observation.

    ``K`` belongs to ``depth``. Colour and depth show the same view but may differ in size.

    Raises:
        InputError: an array has the wrong shape or type, the intrinsics or the pose are impossible.
    """

    stamp_ns: int
    rgb: np.ndarray  # (H, W, 3) uint8, or float32 in [0, 1]; RGB
    depth: (
        np.ndarray
    )  # (h, w) float32, metres along the optical axis; 0, negative and non-finite = no return
    K: np.ndarray  # (3, 3) float64, pixels of the depth image
    T_world_camera: np.ndarray  # (4, 4) float64, camera -> world

    def __post_init__(self) -> None:
        depth = np.asarray(self.depth)
        if depth.ndim != 2 or 0 in depth.shape:
            raise InputError(f"depth must be a non-empty (h, w) image, got shape {depth.shape}")
        if depth.dtype.kind != "f":
            raise InputError(
                f"depth must be float metres, got {depth.dtype}; millimetres are converted by the "
                "reader"
            )
        K = np.asarray(self.K, np.float64)
        if (
            K.shape != (3, 3)
            or not np.isfinite(K).all()
            or K[0, 0] <= 0
            or K[1, 1] <= 0
            or (K[2] != (0, 0, 1)).any()
        ):
            raise InputError(
                f"K must be a 3x3 camera matrix with positive focal lengths, got {K.tolist()}"
            )
        object.__setattr__(self, "stamp_ns", int(self.stamp_ns))
        object.__setattr__(self, "rgb", check_rgb(self.rgb))
        object.__setattr__(self, "depth", depth.astype(np.float32, copy=False))
        object.__setattr__(self, "K", K)
        object.__setattr__(self, "T_world_camera", check_pose(self.T_world_camera))


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMap:
    """Dense features of one image, one vector per patch.

    Raises:
        InputError: ``data`` is not (C, h, w).
    """

    data: torch.Tensor  # (C, h, w)

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or 0 in self.data.shape:
            raise InputError(f"a feature map is (C, h, w), got shape {tuple(self.data.shape)}")

    @property
    def channels(self) -> int:
        """C."""
        return int(self.data.shape[0])


_WHY_NOTHING = {  # of most pixels
    "no_return": "the depth image has no returns",
    "range": "all depth is outside of lift.min_range to lift.max_range",
    "depth_edge": "all depth is at edges (lift.depth_edge)",
    "clip": "all points are outside of lift.clip_min to lift.clip_max",
    "out_of_range": "all points are too far from the origin of the map frame (52 km at 5 cm; "
    "poses in UTM need a local frame)",
}


@dataclass(frozen=True, slots=True)
class IntegrationStats:
    """What one frame did to the map."""

    points: int  # depth pixels that were fused
    voxels: int  # voxels that they fell into
    new_voxels: int  # of those, voxels that the map did not have
    dropped: dict[
        str, int
    ]  # pixels by reason: no_return, range, depth_edge, clip, out_of_range (beyond the voxel keys)
    carved: int = 0  # voxels removed because frames saw through them
    forgotten: int = 0  # voxels removed because they were not seen for too long
    evicted: int = 0  # voxels removed to stay within the bounds of the map

    @property
    def why_nothing(self) -> str:
        """Why no pixel was used, in words that name the cure: what most of them lack."""
        most = max(self.dropped, key=lambda reason: self.dropped[reason], default="")
        known = _WHY_NOTHING if self.dropped.get(most) else {}
        why = known.get(most, "none is looked at (lift.border, lift.pixel_stride)")
        return f"frame without a usable depth pixel: {why}"


@dataclass(frozen=True, slots=True, eq=False)
class MapGeometry:
    """A copy of the map at one moment, without its vectors.

    Row i of every field is one voxel. Tensors on the device of the map.
    """

    index: torch.Tensor  # (M, 3) int64, voxel index; the centre is index * voxel_size
    xyz: torch.Tensor  # (M, 3) float32, metres, centre in the world frame
    rgb: torch.Tensor  # (M, 3) float32 in [0, 1]
    hits: torch.Tensor  # (M,) float32, number of points
    views: torch.Tensor  # (M,) int32, number of frames
    first_seen_ns: torch.Tensor  # (M,) int64
    last_seen_ns: torch.Tensor  # (M,) int64
    seen_at_ns: torch.Tensor  # (M,) int64, last hit by the clock of the map, which only passes
    voxel_size: float  # metres

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def kept(self, which: torch.Tensor) -> MapGeometry:
        """The voxels of an (M,) mask."""
        return replace(self, **{name: values[which] for name, values in self._columns().items()})

    def joined(self, others: Sequence[MapGeometry]) -> MapGeometry:
        """These voxels and those of ``others``, one after the other."""
        import torch

        parts = [self._columns(), *(other._columns() for other in others)]
        columns: dict[str, Any] = {n: torch.cat([part[n] for part in parts]) for n in parts[0]}
        return replace(self, **columns)

    def _columns(self) -> dict[str, Any]:
        names = (field.name for field in fields(self) if field.name != "voxel_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True, eq=False)
class MapOutline:
    """Where the voxels of a map are, also those on the disk. Tensors on the CPU."""

    index: torch.Tensor  # (M, 3) int64, voxel index; the centre is index * voxel_size
    hits: torch.Tensor  # (M,) int64, number of points
    voxel_size: float  # metres


@dataclass(frozen=True, slots=True, eq=False)
class MapSnapshot(MapGeometry):
    """A copy of the map at one moment."""

    features: torch.Tensor  # (M, C) float32, mean over all points


@dataclass(frozen=True, slots=True, eq=False)
class MapChanges:
    """What has changed in a copy of the map since an earlier look at it. Tensors on its device."""

    step: int  # of the copy: the next look asks for what is newer
    known: torch.Tensor  # (M,) bool, of all rows of the copy: whether there is a voxel
    slots: torch.Tensor  # (N,) int64, the rows that have changed, ascending
    geometry: MapGeometry  # the voxels in those N rows
    scores: torch.Tensor  # (N, Q) in 0..1, of the texts that were asked for
    missing: int = 0  # rows that will change as soon as there is time


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """Which voxels may answer a question: those that fulfil all of it.

    Raises:
        InputError: a number cannot be, or a corner lies beyond the opposite one.
    """

    lowest: tuple[float, float, float] = (-math.inf,) * 3  # m, of centres; borders included
    highest: tuple[float, float, float] = (math.inf,) * 3
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)  # m
    radius: float = 0.0  # m around ``centre``; 0 = anywhere
    max_age: float = 0.0  # s before the newest frame of the map; 0 = any
    min_hits: int = 1
    T_filter_world: np.ndarray | None = None  # (4, 4); None = places are in the world frame

    def __post_init__(self) -> None:
        if not all(low <= high for low, high in zip(self.lowest, self.highest, strict=True)):
            raise InputError(  # also NaN
                f"a box goes from its lowest corner to its highest, got {self.lowest} to "
                f"{self.highest}"
            )
        if not np.isfinite(self.centre).all():
            raise InputError(f"a centre is three finite numbers, got {self.centre}")
        for name, value in (("radius", self.radius), ("max_age", self.max_age)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must be a finite number >= 0, got {value}")
        if self.min_hits < 1:
            raise InputError(f"min_hits must be >= 1, got {self.min_hits}")


@dataclass(frozen=True, slots=True)
class OrientedBox:
    """A box that stands upright and is turned about the z axis of the world. Metres."""

    centre: tuple[float, float, float]
    size: tuple[float, float, float]  # length, width (not longer than it), height
    yaw: float  # rad in [-pi/2, pi/2), from the x axis of the world to the length


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """From where a thing can be seen. World frame."""

    position: tuple[float, float, float]  # m: of a camera that saw it, or a place on the floor
    yaw: float  # rad, from the x axis of the world to the thing


@dataclass(frozen=True, slots=True)
class SemanticObject:
    """One connected group of voxels that answers a text. World frame, metres.

    Its boxes hold its voxels whole: what is one voxel thick is as thick as a voxel.
    """

    label: str
    score: float  # 0..1: the most that query.min_voxels of its voxels reach; compare thresholds
    centre: tuple[float, float, float]  # middle of the box along the world axes
    size: tuple[float, float, float]  # of that box
    peak: tuple[float, float, float]  # score-weighted mean of its voxels
    box: OrientedBox  # of those that are turned about z the smallest
    voxels: int
    hits: int  # points in them
    views: int  # frames: the most that any one of its voxels was hit by
    mean_score: float  # of its voxels
    best_score: float  # of any one voxel
    first_seen_ns: int  # first and last frame that hit any of its voxels
    last_seen_ns: int
    id: int = 0  # the same thing keeps it from question to question; 0 = it is not followed
    missing_since_ns: int = 0  # frame by which its place had been looked through; 0 = it is there
    viewpoint: Viewpoint | None = None  # None = not known


@dataclass(frozen=True, slots=True)
class Answer:
    """What the map knows about one text: objects, best first, and then those that are missing."""

    label: str
    best_score: float  # highest score anywhere in the map, 0..1; 0 for an empty map
    objects: tuple[SemanticObject, ...]

    @property
    def found(self) -> bool:
        """Whether any object is where it was seen."""
        return any(not thing.missing_since_ns for thing in self.objects)


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """A labelled point cloud at the border to messages and files (numpy)."""

    xyz: np.ndarray  # (M, 3) float32, metres
    rgb: np.ndarray  # (M, 3) uint8
    label: np.ndarray  # (M,) int32, index into the label list, -1 = none
    score: np.ndarray  # (M,) float32, 0..1
    hits: np.ndarray  # (M,) float32

    def __post_init__(self) -> None:
        shapes = {
            name: getattr(self, name).shape for name in ("xyz", "rgb", "label", "score", "hits")
        }
        n = len(self.xyz)
        if (
            shapes["xyz"] != (n, 3)
            or shapes["rgb"] != (n, 3)
            or any(shapes[k] != (n,) for k in ("label", "score", "hits"))
        ):
            raise InputError(f"the fields of a cloud differ in length: {shapes}")

    def __len__(self) -> int:
        return len(self.xyz)

    def of(self, chosen: np.ndarray) -> Cloud:
        """The points where ``chosen`` (M,) is true."""
        return Cloud(
            self.xyz[chosen],
            self.rgb[chosen],
            self.label[chosen],
            self.score[chosen],
            self.hits[chosen],
        )
