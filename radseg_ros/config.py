# SPDX-License-Identifier: Apache-2.0
"""Every option, with its default, unit and meaning: the only place where a default is written.

ROS parameters, ``config/mapping.yaml`` and the command lines are derived from these classes. Types
are those that a ROS parameter can have (bool, int, float, str, list of str or float), so "no limit"
is 0 and "not set" is an empty string.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from .datatypes import ConfigError


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: str, known: typing.Iterable[str]) -> str:
    """Return ``value`` if it is known.

    Raise ConfigError that lists the known ones (and the nearest) otherwise.
    """
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: {value!r} is not one of {', '.join(known)}{hint}")
    return value


def option(default: Any, doc: str, also: type | None = None) -> Any:
    """A dataclass field with its documentation, which becomes the ROS parameter description and the
    YAML comment.

    ``also`` is a second type that is taken and converted by the class itself: YAML 1.1 reads an
    unquoted on or off as a boolean.
    """
    metadata = {"doc": doc, "also": also}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


WINDOWS = {
    "paper": (336, 112),
    "balanced": (336, 224),
    "fast": (0, 0),
}  # preset -> crop and stride in px; crop 0 = single pass


def _switch(name: str, value: Any) -> bool:
    """A bool, or one of the words that people and YAML 1.1 use for it."""
    words = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
    return value if isinstance(value, bool) else words[one_of(name, str(value).lower(), words)]


@dataclass(frozen=True, slots=True)
class RadsegConfig:
    """The RADSeg encoder (docs/method.md: RADIO + SCRA + SCGA)."""

    checkpoint: str = option(
        "nvidia/C-RADIOv3-B",
        "RADIO weights: a .pth.tar file, a Hugging Face folder, a hub id, or a version such as "
        "c-radio_v3-b",
        also=PurePath,
    )
    preset: str = option(
        "paper",
        "paper (crop 336, stride 112), balanced (336, 224: half the time), fast (single pass: a "
        "fifth)",
    )
    crop: int = option(-1, "window side in px; 0 = single pass; -1 = as the preset says")
    stride: int = option(-1, "window stride in px; -1 = as the preset says")
    scra: bool = option(True, "self-correlating recursive attention in the last block", also=str)
    scga: str = option(
        "always", "self-correlating global aggregation: always, multi_window or off", also=bool
    )
    tau_scra: float = option(10.0, "temperature of SCRA")
    tau_scga: float = option(10.0, "temperature of SCGA")
    recursions: int = option(1, "recursions of SCRA; more than 1 is worse (Table A.5)")
    refine: str = option("off", "refinement of probability maps: off, or sam (RADSeg+)", also=bool)
    refine_sam: str = option(
        "facebook/sam-vit-huge", "refinement: SAM weights, a folder or hub id; its ViT is not used"
    )
    refine_threshold: float = option(
        0.1, "refinement: pixels and classes less probable than this are left as they are"
    )
    refine_min_area: int = option(
        225,
        "refinement: smaller regions are left as they are; pixels of half the image's resolution",
    )
    refine_mask_scale: float = option(
        0.005, "refinement: factor on the probabilities that SAM gets as mask prompt"
    )
    refine_iou: float = option(
        0.9, "refinement: masks whose predicted IoU is not above this are refused"
    )
    refine_batch: int = option(
        8, "refinement: regions that go through the decoder at once; about 12 MB each"
    )
    language: str = option(
        "", "language head, e.g. siglip2; empty = the language teacher that the checkpoint names"
    )
    text_tower: str = option(
        "",
        "text tower, a folder or hub id; empty = the one that the checkpoint names",
        also=PurePath,
    )
    text_embeddings: list[str] = option(
        [], "files written by radseg-text, so that no text tower is needed", also=list
    )
    device: str = option("auto", "cpu, cuda, cuda:N, mps, or auto (cuda if there is one)")
    dtype: str = option("float32", "float32, float16 or bfloat16")
    compile: bool = option(
        False, "compile the network with torch.compile; slow first frame, faster afterwards"
    )
    offline: bool = option(False, "never touch the network; use only files and the hub cache")
    force: bool = option(
        False, "use v3-L for language although its patches are not aligned with text (0.86 mIoU)"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "scra", _switch("radseg.scra", self.scra))
        for name in ("checkpoint", "text_tower"):
            object.__setattr__(self, name, str(getattr(self, name)))
        files = [str(file) if isinstance(file, PurePath) else file for file in self.text_embeddings]
        _check(
            all(isinstance(file, str) for file in files),
            f"radseg.text_embeddings takes file names, got {files}",
        )
        object.__setattr__(self, "text_embeddings", files)
        for name, on in (("scga", "always"), ("refine", "sam")):
            value = getattr(self, name)
            if isinstance(value, bool):  # an unquoted off in YAML 1.1 is a boolean
                object.__setattr__(self, name, on if value else "off")
        one_of("radseg.scga", self.scga, ("always", "multi_window", "off"))
        one_of("radseg.refine", self.refine, ("off", "sam"))
        _check(
            0 <= self.refine_threshold <= 1,
            f"radseg.refine_threshold must be in 0..1, got {self.refine_threshold}",
        )
        for name in ("refine_min_area", "refine_batch"):
            _check(
                getattr(self, name) >= 1, f"radseg.{name} must be >= 1, got {getattr(self, name)}"
            )
        one_of("radseg.preset", self.preset, WINDOWS)
        one_of("radseg.dtype", self.dtype, ("float32", "float16", "bfloat16"))
        crop, stride = self.window()
        _check(
            crop >= 0 and crop % 16 == 0, f"radseg.crop must be 0 or a multiple of 16, got {crop}"
        )
        _check(
            crop == 0 or (0 < stride <= crop and stride % 16 == 0),
            f"radseg.stride must be a multiple of 16 and at most the crop ({crop}), got {stride}",
        )
        _check(self.tau_scra >= 0, f"radseg.tau_scra must be >= 0, got {self.tau_scra}")
        _check(self.tau_scga >= 0, f"radseg.tau_scga must be >= 0, got {self.tau_scga}")
        _check(self.recursions >= 1, f"radseg.recursions must be >= 1, got {self.recursions}")

    def window(self) -> tuple[int, int]:
        """Crop and stride in px: the preset's, unless set; crop 0 = single pass."""
        crop, stride = WINDOWS[self.preset]
        crop = crop if self.crop == -1 else self.crop
        if self.stride != -1:
            return crop, self.stride
        return crop, min(stride or crop, crop)


@dataclass(frozen=True, slots=True)
class LiteConfig:
    """The encoder that needs no download beyond pip: an ImageNet classifier behind a sentence
    encoder.
    """

    device: str = option("auto", "cpu, cuda, cuda:N, or auto (cuda if there is one)")
    sizes: list[float] = option(
        [192.0, 320.0],
        "px; short sides at which an image is looked at: small = context, large = detail",
    )

    def __post_init__(self) -> None:
        _check(
            bool(self.sizes) and min(self.sizes) >= 32,
            f"lite.sizes takes lengths of at least 32 px, got {self.sizes}",
        )


@dataclass(frozen=True, slots=True)
class LiftConfig:
    """From pixels to voxels: which depth pixels are used."""

    min_range: float = option(0.0, "m along the optical axis; nearer depth is dropped")
    max_range: float = option(
        0.0, "m along the optical axis; farther depth is dropped; 0 = no limit"
    )
    pixel_stride: int = option(1, "use every n-th depth pixel in both directions")
    border: int = option(0, "px of the depth image's rim that are dropped")
    depth_edge: float = option(
        0.0, "drop pixels whose depth jumps by more than this fraction against a neighbour; 0 = off"
    )
    clip_min: list[float] = option([], "m, world x y z; points below are dropped; empty = off")
    clip_max: list[float] = option([], "m, world x y z; points above are dropped; empty = off")

    def __post_init__(self) -> None:
        _check(self.min_range >= 0, f"lift.min_range must be >= 0, got {self.min_range}")
        _check(
            self.max_range == 0 or self.max_range > self.min_range,
            "lift.max_range must exceed lift.min_range, or be 0",
        )
        _check(self.pixel_stride >= 1, f"lift.pixel_stride must be >= 1, got {self.pixel_stride}")
        _check(self.border >= 0, f"lift.border must be >= 0, got {self.border}")
        _check(self.depth_edge >= 0, f"lift.depth_edge must be >= 0, got {self.depth_edge}")
        for name in ("clip_min", "clip_max"):
            _check(
                len(getattr(self, name)) in (0, 3),
                f"lift.{name} takes three numbers, got {getattr(self, name)}",
            )


@dataclass(frozen=True, slots=True)
class MapConfig:
    """The voxel map."""

    voxel_size: float = option(0.05, "m")
    space: str = option(
        "backbone",
        "what a voxel stores: backbone vectors, language vectors, or probability (one per label)",
    )
    labels: list[str] = option([], "the fixed label set of space probability")
    dtype: str = option("float32", "storage of the vectors: float32 or float16 (half the memory)")
    device: str = option("auto", "cpu, cuda, cuda:N, or auto (where the encoder is)")
    max_voxels: int = option(0, "evict beyond this many voxels; 0 = no limit")
    max_bytes: int = option(0, "evict beyond this many bytes of map memory; 0 = no limit")
    evict: str = option(
        "least_recent", "which voxels go first: least_recent or farthest (from the camera)"
    )
    forget_after: float = option(0.0, "s; voxels not seen for longer are removed; 0 = never")
    carve_after: int = option(0, "remove a voxel that this many frames have seen through; 0 = off")
    carve_margin: float = option(
        0.15, "m that a ray must go on behind a voxel before it counts as seen through"
    )
    cache_projections: bool = option(
        True, "keep language vectors per voxel: a repeated query is fast; counts as map memory"
    )

    def __post_init__(self) -> None:
        _check(self.voxel_size > 0, f"map.voxel_size must be > 0, got {self.voxel_size}")
        one_of("map.space", self.space, ("backbone", "language", "probability"))
        one_of("map.dtype", self.dtype, ("float32", "float16"))
        one_of("map.evict", self.evict, ("least_recent", "farthest"))
        for name in ("max_voxels", "max_bytes", "forget_after", "carve_after", "carve_margin"):
            _check(getattr(self, name) >= 0, f"map.{name} must be >= 0, got {getattr(self, name)}")
        _check(
            self.space != "probability" or bool(self.labels),
            "map.space probability needs map.labels",
        )


@dataclass(frozen=True, slots=True)
class QueryConfig:
    """From scores to places."""

    threshold: float = option(
        0.5,
        "0..1; a voxel answers a text when it prefers the text to every background text at this "
        "odds",
    )
    background: list[str] = option([], "texts that a query must beat; empty = the encoder's own")
    min_voxels: int = option(3, "smaller groups of voxels are not objects")
    max_objects: int = option(10, "objects per text, best first")
    max_gap: float = option(0.15, "m; voxels nearer than this belong to one object")

    def __post_init__(self) -> None:
        _check(0 <= self.threshold <= 1, f"query.threshold must be in 0..1, got {self.threshold}")
        _check(self.min_voxels >= 1, f"query.min_voxels must be >= 1, got {self.min_voxels}")
        _check(self.max_objects >= 1, f"query.max_objects must be >= 1, got {self.max_objects}")
        _check(self.max_gap > 0, f"query.max_gap must be > 0, got {self.max_gap}")


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """Pairing of colour, depth and pose in time (of their stamps, never of their arrival)."""

    max_skew: float = option(0.02, "s between a colour image and its depth image")
    max_pose_gap: float = option(
        0.5, "s between the two poses that the camera pose is interpolated from"
    )
    pose_wait: float = option(
        0.5, "s of stamps that an image pair waits for a pose behind it before it is dropped"
    )
    pose_history: float = option(10.0, "s of poses that are kept for images that come late")
    queue: int = option(
        30, "images of each kind that wait for their partner; also the depth of the input queues"
    )

    def __post_init__(self) -> None:
        for name in ("max_pose_gap", "pose_wait", "pose_history"):
            _check(getattr(self, name) > 0, f"sync.{name} must be > 0, got {getattr(self, name)}")
        _check(self.max_skew >= 0, f"sync.max_skew must be >= 0, got {self.max_skew}")
        _check(self.queue >= 1, f"sync.queue must be >= 1, got {self.queue}")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What only the ROS node needs."""

    pose_type: str = option(
        "odometry",
        "message type of the topic 'pose': odometry (nav_msgs/Odometry) or pose (PoseStamped)",
    )
    image_transport: str = option(
        "raw", "raw (sensor_msgs/Image) or compressed (CompressedImage; depth as compressedDepth)"
    )
    map_frame: str = option("", "frame of the map; empty = the frame of the first pose")
    camera_offset: list[float] = option(
        [],
        "row-major 4x4 T_body_camera (optical camera -> body), for poses of a body; empty = poses "
        "are the camera's",
    )
    depth_scale: float = option(0.001, "m per unit of 16-bit depth images")
    backlog: int = option(
        1,
        "frames that may wait for the encoder; when more come the oldest is dropped; 1 = newest "
        "wins",
    )
    labels: list[str] = option([], "labels of ~/semantic_cloud; empty = those of the last query")
    publish_period: float = option(1.0, "s between two clouds")
    cloud_min_hits: int = option(1, "voxels with fewer points are not published")
    map_directory: str = option("", "folder of ~/save_map and ~/load_map; empty = both are refused")

    def __post_init__(self) -> None:
        one_of("node.pose_type", self.pose_type, ("odometry", "pose"))
        one_of("node.image_transport", self.image_transport, ("raw", "compressed"))
        _check(
            len(self.camera_offset) in (0, 16),
            f"node.camera_offset takes 16 numbers, got {len(self.camera_offset)}",
        )
        _check(self.depth_scale > 0, f"node.depth_scale must be > 0, got {self.depth_scale}")
        _check(self.backlog >= 1, f"node.backlog must be >= 1, got {self.backlog}")
        _check(
            self.publish_period > 0, f"node.publish_period must be > 0, got {self.publish_period}"
        )


@dataclass(frozen=True, slots=True)
class Config:
    """All options of a running mapper."""

    encoder: str = option("radseg", "radseg, or lite (no weights to download; knows little)")
    short_side: int = option(
        640, "px; images are brought to this short side before anything else; 0 = as they come"
    )
    radseg: RadsegConfig = field(default_factory=RadsegConfig)
    lite: LiteConfig = field(default_factory=LiteConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    map: MapConfig = field(default_factory=MapConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)
    node: NodeConfig = field(default_factory=NodeConfig)

    def __post_init__(self) -> None:
        _check(self.short_side >= 0, f"short_side must be >= 0, got {self.short_side}")


def _matches(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return isinstance(value, (list, tuple)) and all(_matches(v, item) for v in value)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is kind


def from_dict(cls: Any, values: dict[str, Any], prefix: str = "") -> Any:
    """Build a config dataclass from nested ``values``.

    Raises:
        ConfigError: an option that does not exist (named in full, with the nearest known one) or
            has the wrong type.
    """
    kinds = typing.get_type_hints(cls)
    also = {f.name: f.metadata.get("also") for f in dataclasses.fields(cls)}
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, list(kinds), 1)
            hint = (
                f"did you mean {prefix}{near[0]}?"
                if near
                else f"known: {', '.join(prefix + k for k in kinds)}"
            )
            raise ConfigError(f"unknown option {prefix}{name}; {hint}")
        kind = kinds[name]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise ConfigError(f"option {prefix}{name} is a group of options, got {value!r}")
            known[name] = from_dict(kind, value, f"{prefix}{name}.")
        elif _matches(value, kind) or isinstance(value, also[name] or ()):
            known[name] = (
                list(value)
                if isinstance(value, tuple)
                else (float(value) if kind is float else value)
            )
        else:
            raise ConfigError(
                f"option {prefix}{name} takes {getattr(kind, '__name__', kind)}, got {value!r}"
            )
    return cls(**known)


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of :func:`from_dict`."""
    return dataclasses.asdict(config)
