# SPDX-License-Identifier: Apache-2.0
"""Every option, with its default, unit and meaning: the only place where a default is written.

ROS parameters, ``config/mapping.yaml`` and the command lines are derived from these classes. Types
are those that a ROS parameter can have (bool, int, float, str, list of str or float), so "no limit"
is 0 and "not set" is an empty string.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePath
from typing import Any, ClassVar, TypeVar

from .datatypes import ConfigError, brief

SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
LABELLED_SPACES = ("probability",)  # a voxel holds one number per label of map.labels
SPACES = ("backbone", "language", *LABELLED_SPACES)
ENCODER_FLAGS = ("checkpoint", "preset", "text-embeddings", "device")  # of command lines
MODES = ("calibrated", "relevancy", "softmax", "cosine")  # what a score means
MAX_CAMERAS = 8  # of a robot
MAX_ROBOTS = 8
MAX_NAMESPACE = 60  # characters
NAMESPACE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")  # below the node's
# preset -> crop, stride and short side in px; crop 0 = single pass, side 0 = images as they come
WINDOWS = {
    "paper": (336, 112, 0),
    "balanced": (336, 224, 0),
    "fast": (0, 0, 0),
    "cpu": (192, 128, 384),
}
# what RADIO's last block attends by -> the options that only it has (docs/method.md 2.7)
ATTENTIONS = {
    "scra": ("scra", "tau_scra", "recursions"),
    "plain": (),
    "naradio": ("sigma", "bias_grid"),
    "resradio": (
        *("sigma", "tau_r", "lambda_r", "first_block", "last_block"),
        *("sfr", "tau_s", "lambda_s", "sfr_threshold"),
    ),
    "proxy_dino": ("beta", "gamma"),
    "proxy_sam": ("beta", "gamma"),
}


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is known.

    Raises:
        ConfigError: it is not; lists the known ones, and the nearest.
    """
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: {brief(repr(value))} is not one of {', '.join(known)}{hint}")
    return value


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[str] = (),
    live: bool = False,
) -> Any:
    """A field of an option group: its default, meaning, and what it may be.

    Args:
        doc: becomes the ROS parameter's description, the comment in the YAML file, and help texts.
        low, high: bounds of a number, or of every number of a list; both included.
        choices: the words that a text may be.
        live: it may change while a mapper runs.
    """
    metadata = {"doc": doc, "low": low, "high": high, "choices": tuple(choices), "live": live}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(cls: type, flat: str | None = None) -> Any:
    """A field that is a group of options itself.

    Args:
        flat: the names of its options begin with this instead of ``<group>.``.
    """
    return field(default_factory=cls, metadata={"flat": flat})


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a configuration, under the name that users write."""

    name: str  # dotted, e.g. lift.max_range
    path: tuple[str, ...]  # names of the fields that lead to it
    kind: Any  # bool, int, float, str, list[float] or list[str]
    default: Any
    doc: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    fixed: str  # why it cannot change while a mapper runs; empty = it can


class Options:
    """Base of all option groups: a value outside of what its field allows cannot be made."""

    __slots__ = ()
    PREFIX: ClassVar[str] = ""  # of the options' names, for messages
    FIXED: ClassVar[str] = "it is read once"  # why an option that is not live cannot change

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            if "doc" in f.metadata:
                _check_value(self.PREFIX + f.name, getattr(self, f.name), f.metadata)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _check_value(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if metadata["choices"]:
        one_of(name, value, metadata["choices"])
    numbers = value if isinstance(value, list) else [value]
    low, high = metadata["low"], metadata["high"]
    bounds = f"in {low:g}..{high:g}" if low is not None and high is not None else ""
    bounds = bounds or (
        f">= {low:g}" if low is not None else f"<= {high:g}" if high is not None else ""
    )
    for number in numbers:
        if not isinstance(number, (int, float)):
            continue
        if isinstance(number, int):
            _check(
                abs(number) < 1 << 63, f"{name} takes whole numbers of 64 bits, got {brief(value)}"
            )
        else:
            _check(math.isfinite(number), f"{name} must be a finite number, got {brief(value)}")
        within = (low is None or number >= low) and (high is None or number <= high)
        _check(within, f"{name} must be {bounds}, got {brief(value)}")


@dataclass(frozen=True, slots=True)
class RefineConfig(Options):
    """RADSeg+ (docs/method.md 2.6): how SAM's decoder refines probability maps."""

    PREFIX: ClassVar[str] = "radseg.refine_"
    FIXED: ClassVar[str] = "the encoder is loaded with it"

    sam: str = option(
        "facebook/sam-vit-huge", "refinement: SAM weights, a folder or hub id; its ViT is not used"
    )
    threshold: float = option(
        0.1,
        "refinement: pixels and classes less probable than this are left as they are",
        low=0,
        high=1,
    )
    min_area: int = option(
        225,
        "refinement: smaller regions are left as they are; pixels of half the image's resolution",
        low=1,
    )
    mask_scale: float = option(
        0.005, "refinement: factor on the probabilities that SAM gets as mask prompt"
    )
    iou: float = option(0.9, "refinement: masks whose predicted IoU is not above this are refused")
    batch: int = option(
        8, "refinement: regions that go through the decoder at once; about 12 MB each", low=1
    )


@dataclass(frozen=True, slots=True)
class RadsegConfig(Options):
    """The RADSeg encoder (docs/method.md: RADIO + SCRA + SCGA)."""

    PREFIX: ClassVar[str] = "radseg."
    FIXED: ClassVar[str] = "the encoder is loaded with it"

    checkpoint: str = option(
        "nvidia/C-RADIOv3-B",
        "RADIO weights: a .pth.tar file, a Hugging Face folder, a hub id, or a version such as "
        "c-radio_v3-b",
    )
    preset: str = option(
        "paper",
        "paper (crop 336, stride 112), balanced (336, 224: half the time), fast (single pass: a "
        "third), cpu (192, 128 of a smaller image: a sixth, for machines without a GPU)",
        choices=WINDOWS,
    )
    crop: int = option(-1, "window side in px; 0 = single pass; -1 = as the preset says", low=-1)
    stride: int = option(-1, "window stride in px; -1 = as the preset says", low=-1)
    side: int = option(
        -1,
        "px; the network sees images brought down to this short side; 0 = as they come; -1 = as "
        "the preset says",
        low=-1,
        high=8192,
    )
    attention: str = option(
        "scra",
        "what the last block attends by: scra (RADSeg), plain (RADIO as it is), or a peer method: "
        "naradio, resradio, proxy_dino, proxy_sam",
        choices=ATTENTIONS,
    )
    scra: bool = option(True, "off = plain attention in RADSeg, for ablations")
    scga: str = option(
        "auto",
        "self-correlating global aggregation: always, multi_window, off, or auto (always with "
        "scra, off with other attentions)",
        choices=("always", "multi_window", "off", "auto"),
    )
    tau_scra: float = option(10.0, "temperature of SCRA", low=0)
    tau_scga: float = option(10.0, "temperature of SCGA", low=0)
    recursions: int = option(1, "recursions of SCRA; more than 1 is worse (Table A.5)", low=1)
    sigma: float = option(
        7.0, "naradio, resradio: patches; how far away is near", low=0.01, high=1e6
    )
    bias_grid: str = option(
        "right",
        "naradio: right, or published (rows and columns swapped where an image is not square)",
        choices=("right", "published"),
    )
    beta: float = option(
        1.2, "proxy_*: share of the mean similarity that a patch must exceed", low=0, high=1e3
    )
    gamma: float = option(3.0, "proxy_*: sharpness of the similarities", low=0, high=1e6)
    tau_r: float = option(1.0, "resradio: factor on the attention", low=0, high=1e3)
    lambda_r: float = option(0.3, "resradio: share of the earlier blocks", low=0, high=1)
    first_block: int = option(
        0,
        "resradio: the first block that is looked at, from 1; 0 = 6 of 12, in proportion of others",
        low=0,
    )
    last_block: int = option(
        0,
        "resradio: the last block that is looked at, from 1; 0 = 9 of 12, in proportion of others",
        low=0,
    )
    sfr: bool = option(
        False,
        "resradio: a second pass with the labels of the first; features then depend on the labels, "
        "so that only map.space probability can be had",
    )
    tau_s: float = option(2.1, "resradio, sfr: factor on keys and labels", low=0, high=1e3)
    lambda_s: float = option(0.7, "resradio, sfr: share of the labels", low=0, high=1)
    sfr_threshold: float = option(
        0.25,
        "resradio, sfr: pixels less probable than this count as of the first label",
        low=0,
        high=1,
    )
    refine: str = option(
        "off",
        "refinement of probability maps: off, or sam (RADSeg+)",
        choices=("sam", "off"),
    )
    refinement: RefineConfig = group(RefineConfig, flat="refine_")
    language: str = option(
        "", "language head, e.g. siglip2; empty = the language teacher that the checkpoint names"
    )
    text_tower: str = option(
        "", "text tower, a folder or hub id; empty = the one that the checkpoint names"
    )
    text_embeddings: list[str] = option(
        [], "files written by radseg-text, so that no text tower is needed"
    )
    device: str = option("auto", "cpu, cuda, cuda:N, mps, or auto (cuda if there is one)")
    dtype: str = option(
        "auto",
        "float32, float16, bfloat16, or auto (float16 on a GPU, bfloat16 if that overflows, "
        "float32 elsewhere)",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    compile: bool = option(
        False, "compile the network with torch.compile; slow first frame, faster afterwards"
    )
    engine: str = option(
        "torch",
        "what runs the network: torch, or onnxruntime or tensorrt with a file of radseg-onnx",
        choices=("torch", "onnxruntime", "tensorrt"),
    )
    engine_file: str = option("", "what radseg-onnx wrote, for radseg.engine")
    offline: bool = option(False, "never touch the network; use only files and the hub cache")
    force: bool = option(
        False, "use v3-L for language although its patches are not aligned with text (0.86 mIoU)"
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        self._check_attention()
        self._check_engine()
        crop, stride = self.window()
        _check(
            crop >= 0 and crop % 16 == 0, f"radseg.crop must be 0 or a multiple of 16, got {crop}"
        )
        _check(
            crop == 0 or (0 < stride <= crop and stride % 16 == 0),
            f"radseg.stride must be a multiple of 16 and at most the crop ({crop}), got {stride}",
        )

    def _check_attention(self) -> None:
        """What belongs to another attention would have no effect: a changed one is refused."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for name in dict.fromkeys(name for names in ATTENTIONS.values() for name in names):
            owners = [attention for attention, names in ATTENTIONS.items() if name in names]
            _check(
                self.attention in owners or getattr(self, name) == defaults[name],
                f"radseg.{name} is an option of radseg.attention {' and '.join(owners)}, not of "
                f"{self.attention}",
            )
        for name in ("tau_s", "lambda_s", "sfr_threshold"):
            same = getattr(self, name) == defaults[name]
            _check(self.sfr or same, f"radseg.{name} is an option of radseg.sfr, which is off")

    def _check_engine(self) -> None:
        if self.engine == "torch":
            _check(
                not self.engine_file,
                "radseg.engine_file is for radseg.engine onnxruntime and tensorrt, not torch",
            )
            return
        _check(
            bool(self.engine_file),
            f"radseg.engine {self.engine} needs radseg.engine_file, a file of radseg-onnx",
        )
        for name in ("compile", "sfr"):
            _check(
                not getattr(self, name),
                f"radseg.{name} is for radseg.engine torch, not {self.engine}",
            )

    def aggregation(self) -> str:
        """When SCGA is done: always, multi_window or off. It is RADSeg's: peers do without."""
        if self.scga != "auto":
            return self.scga
        return "always" if self.attention == "scra" else "off"

    def window(self) -> tuple[int, int]:
        """Crop and stride in px: the preset's, unless set; crop 0 = single pass."""
        crop, stride, _ = WINDOWS[self.preset]
        crop = crop if self.crop == -1 else self.crop
        if self.stride != -1:
            return crop, self.stride
        return crop, min(stride or crop, crop)

    def short_side(self) -> int:
        """Px that the network sees at most of an image's short side; 0 = all."""
        return WINDOWS[self.preset][2] if self.side == -1 else self.side


@dataclass(frozen=True, slots=True)
class LiteConfig(Options):
    """The encoder that needs no download beyond pip: an ImageNet classifier and MiniLM."""

    PREFIX: ClassVar[str] = "lite."
    FIXED: ClassVar[str] = "the encoder is loaded with it"

    device: str = option("auto", "cpu, cuda, cuda:N, or auto (cuda if there is one)")
    sizes: list[float] = option(
        [192.0, 320.0],
        "px; short sides at which an image is looked at: small = context, large = detail",
        low=32,
        high=4096,
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        _check(bool(self.sizes), "lite.sizes needs at least one length")


@dataclass(frozen=True, slots=True)
class LiftConfig(Options):
    """From pixels to voxels: which depth pixels are used."""

    PREFIX: ClassVar[str] = "lift."

    min_range: float = option(
        0.0, "m along the optical axis; nearer depth is dropped", low=0, live=True
    )
    max_range: float = option(
        0.0, "m along the optical axis; farther depth is dropped; 0 = no limit", low=0, live=True
    )
    pixel_stride: int = option(1, "use every n-th depth pixel in both directions", low=1, live=True)
    border: int = option(0, "px of the depth image's rim that are dropped", low=0, live=True)
    depth_edge: float = option(
        0.0,
        "drop pixels whose depth jumps by more than this fraction against a neighbour; 0 = off",
        low=0,
        live=True,
    )
    clip_min: list[float] = option(
        [], "m, world x y z; points below are dropped; empty = off", live=True
    )
    clip_max: list[float] = option(
        [], "m, world x y z; points above are dropped; empty = off", live=True
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        _check(
            self.max_range == 0 or self.max_range > self.min_range,
            "lift.max_range must exceed lift.min_range, or be 0",
        )
        for name in ("clip_min", "clip_max"):
            value = getattr(self, name)
            _check(len(value) in (0, 3), f"lift.{name} takes three numbers, got {brief(value)}")


@dataclass(frozen=True, slots=True)
class MapConfig(Options):
    """The voxel map."""

    PREFIX: ClassVar[str] = "map."
    FIXED: ClassVar[str] = "the map is made with it"

    voxel_size: float = option(0.05, "m", low=1e-4, high=1000)
    space: str = option(
        "backbone",
        "what a voxel stores: backbone vectors, language vectors, or probability (one per label)",
        choices=SPACES,
    )
    labels: list[str] = option([], "the fixed label set of space probability")
    dtype: str = option(
        "float32",
        "storage of the vectors: float32 or float16 (half the memory)",
        choices=("float32", "float16"),
    )
    hot_voxels: int = option(
        0,
        "keep the vectors of so many voxels, those seen last, in full, and code the others in "
        "1/map.cold_share of the memory; several times what a frame sees; 0 = all in full",
        low=0,
        high=1e9,
    )
    cold_share: int = option(
        16,
        "see map.hot_voxels: 4 loses next to nothing, 16 little (docs/method.md)",
        low=2,
        high=64,
    )
    device: str = option("auto", "cpu, cuda, cuda:N, or auto (where the encoder is)")
    max_voxels: int = option(0, "evict beyond this many voxels; 0 = no limit", low=0, live=True)
    max_bytes: int = option(0, "evict beyond this many bytes of map memory; 0 = no limit", low=0)
    evict: str = option(
        "least_recent",
        "which voxels go first: least_recent or farthest (from the camera)",
        choices=("least_recent", "farthest"),
        live=True,
    )
    forget_after: float = option(
        0.0, "s; voxels not seen for longer are removed; 0 = never", low=0, high=1e9, live=True
    )
    carve_after: int = option(
        0, "remove a voxel that this many frames have seen through; 0 = off", low=0, live=True
    )
    carve_margin: float = option(
        0.15,
        "m that a ray must go on behind a voxel before it counts as seen through",
        low=0,
        live=True,
    )
    cache_projections: bool = option(
        True, "keep language vectors per voxel: a repeated query is fast; counts as map memory"
    )
    fast_projection: bool = option(
        True,
        "project voxels for questions in bfloat16 where the processor has instructions for it "
        "(AVX-512 BF16, AMX): half the time, and no cosine moves by 1e-3",
    )
    work_ahead: float = option(
        0.25,
        "share of one core's time in which language vectors are made before anybody asks; 0 = off",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.space in LABELLED_SPACES:
            _check(bool(self.labels), f"map.space {self.space} needs map.labels")
            _check(not self.hot_voxels, "map.hot_voxels: probabilities are kept as they are")
        _check(
            not self.hot_voxels or self.dtype == "float32",
            "map.hot_voxels: what is kept in full is kept as map.dtype float32",
        )


@dataclass(frozen=True, slots=True)
class PersistenceConfig(Options):
    """What is kept of a map on the disk, while the node runs and from one run to the next."""

    PREFIX: ClassVar[str] = "map."

    disk_directory: str = option(
        "",
        "folder (of one node alone) for the coldest parts of a map beyond map.max_bytes or "
        "map.max_voxels: they are not evicted, and come back when the camera sees them; empty = "
        "off",
    )

    load: str = option(
        "",
        "file below node.map_directory to begin with; it waits for ~/confirm_map unless "
        "map.frame_is_persistent; may be missing where it is also map.autosave; empty = none",
    )
    frame_is_persistent: bool = option(
        False,
        "the frame of the map has the same origin in every run (a localized 'map', not 'odom'): "
        "map.load is continued at once",
    )
    autosave: str = option(
        "",
        "file below node.map_directory that the map is written to at the end and every "
        "map.autosave_period; empty = never",
    )
    autosave_period: float = option(
        5.0, "minutes between two writes of map.autosave; 0 = only at the end", low=0, high=10_000
    )


@dataclass(frozen=True, slots=True)
class JournalConfig(Options):
    """Every key frame on the disk, so that nothing is lost and the map can be made again."""

    PREFIX: ClassVar[str] = "journal."
    FIXED: ClassVar[str] = "the journal is opened with it"

    directory: str = option(
        "",
        "folder that each key frame is written to (some 4 MB at 640x864): a killed node loses one "
        "frame, and radseg-map --journal makes the map again; empty = off",
    )
    max_bytes: int = option(
        20_000_000_000, "bytes of the journal; the oldest frames go first; 0 = no limit", low=0
    )


@dataclass(frozen=True, slots=True)
class CorrectConfig(Options):
    """Frames that follow corrected poses (topic trajectory, ~/correct); needs a journal."""

    PREFIX: ClassVar[str] = "correct."

    min_shift: float = option(
        0.05, "m; a frame that a correction moves by less stays", low=0, high=1000, live=True
    )
    min_angle: float = option(
        1.0, "degrees; a frame that turns by more is moved however near", low=0, high=180, live=True
    )
    max_gap: float = option(
        30.0,
        "s between two poses of a trajectory; frames between poses farther apart stay, as do those "
        "in a gap of more than 1.5 s that no frames at its ends tell how to bridge",
        low=1e-3,
        high=3600,
        live=True,
    )
    body_frame: str = option(
        "",
        "frame whose poses a trajectory tells, e.g. base_link; empty = that of the pose topic "
        "(child_frame_id), or the camera's own",
        live=True,
    )
    share: float = option(
        0.5, "share of one core's time that moving frames may take", low=0.01, high=1
    )


@dataclass(frozen=True, slots=True)
class QueryConfig(Options):
    """From scores to places."""

    PREFIX: ClassVar[str] = "query."

    mode: str = option(
        "calibrated",
        "what a score means: calibrated (the probability that the thing is there, measured by what "
        "everyday names get in the same map), relevancy (odds against the background texts), "
        "softmax (share among the texts of the question), or cosine",
        choices=MODES,
        live=True,
    )
    threshold: float = option(
        0.5, "0..1; a voxel that scores at least this answers a text", low=0, high=1, live=True
    )
    background: list[str] = option(
        [], "texts that a query must beat; empty = the encoder's own", live=True
    )
    hysteresis: float = option(
        0.5,
        "an object goes on to voxels that reach this share of the best score of its text; "
        "query.min_voxels of them reach query.threshold; 1 = only to those that reach it, too",
        low=0,
        high=1,
        live=True,
    )
    min_voxels: int = option(3, "smaller groups of voxels are not objects", low=1, live=True)
    max_objects: int = option(10, "objects per text, best first", low=1, live=True)
    max_gap: float = option(
        0.15, "m; voxels nearer than this belong to one object", low=1e-4, high=1000, live=True
    )


@dataclass(frozen=True, slots=True)
class GridConfig(Options):
    """Floor plans of the map for planners. The z axis of the map frame points up."""

    PREFIX: ClassVar[str] = "grid."

    floor: float = option(
        0.0, "m, z of the floor in the frame of the map", low=-1e4, high=1e4, live=True
    )
    low: float = option(
        0.1,
        "m above and below the floor; voxels up to there are floor, which can be driven on",
        low=0,
        high=100,
        live=True,
    )
    high: float = option(
        1.5,
        "m above the floor, the height of the robot; voxels between grid.low and there are "
        "obstacles",
        low=0,
        high=100,
        live=True,
    )
    min_hits: int = option(
        3, "voxels with fewer points are neither floor nor obstacle", low=1, live=True
    )
    clearance: float = option(
        0.3,
        "m from obstacles, where a robot can stand (viewpoint_distance)",
        low=0,
        high=100,
        live=True,
    )
    label: str = option(
        "", "text whose places ~/label_grid shows; empty = it is not published", live=True
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        _check(self.low < self.high, f"grid.low must be below grid.high, got {self.low:g}")
        _check(self.label == self.label.strip(), "grid.label begins or ends with a space")


@dataclass(frozen=True, slots=True)
class SyncConfig(Options):
    """Pairing of colour, depth and pose in time (of their stamps, never of their arrival)."""

    PREFIX: ClassVar[str] = "sync."
    FIXED: ClassVar[str] = "inputs that wait are paired by it"

    max_skew: float = option(0.02, "s between a colour image and its depth image", low=0, high=3600)
    max_pose_gap: float = option(
        0.5,
        "s between the two poses that the camera pose is interpolated from",
        low=1e-3,
        high=3600,
    )
    pose_wait: float = option(
        0.5,
        "s of stamps that an image pair waits for a pose behind it before it is dropped",
        low=1e-3,
        high=3600,
    )
    pose_history: float = option(
        10.0, "s of poses that are kept for images that come late", low=1e-3, high=3600
    )
    queue: int = option(
        30,
        "images of each kind that wait for their partner; also the depth of the input queues",
        low=1,
        high=10_000,
    )


def _check_namespaces(option: str, names: Sequence[str], most: int) -> None:
    _check(len(names) <= most, f"{option}: at most {most}, got {len(names)}")
    for name in names:
        _check(
            NAMESPACE.fullmatch(name) is not None and len(name) <= MAX_NAMESPACE,
            f"{option}: {name[:MAX_NAMESPACE]!r} is no namespace: letters, digits and _, not "
            "beginning with a digit, and no / at either end",
        )
    _check(len(set(names)) == len(names), f"{option}: each once, got {names}")


@dataclass(frozen=True, slots=True)
class NodeConfig(Options):
    """What only the ROS node needs."""

    PREFIX: ClassVar[str] = "node."
    FIXED: ClassVar[str] = "the node's inputs and files are set up with it"

    cameras: list[str] = option(
        [],
        "namespaces of several cameras, each with its own color/image, depth/image and "
        "depth/camera_info: [front, rear]; empty = one camera, on the topics as they are",
    )
    robots: list[str] = option(
        [],
        "namespaces of several robots that make one map: each has pose, tf and tf_static below its "
        "own, and the topics of its camera or, below that, of node.cameras; empty = one robot",
    )
    robot_origins: list[float] = option(
        [],
        "row-major 4x4 T_map_robot for each of node.robots: the frame of its poses, or its own map "
        "in tf, in the map; empty = as tf says",
    )
    pose_source: str = option(
        "auto",
        "topic ('pose'), tf (/tf and /tf_static), or auto: the topic if it is remapped or "
        "published, else tf; decided with the first pose",
        choices=("auto", "topic", "tf"),
    )
    pose_type: str = option(
        "odometry",
        "message type of the topic 'pose': odometry (nav_msgs/Odometry), pose (PoseStamped) or "
        "pose_with_covariance (PoseWithCovarianceStamped)",
        choices=("odometry", "pose", "pose_with_covariance"),
    )
    image_transport: str = option(
        "raw",
        "raw (sensor_msgs/Image) or compressed (CompressedImage; depth as compressedDepth)",
        choices=("raw", "compressed"),
    )
    depth_image_transport: str = option(
        "",
        "the same for depth images alone: raw or compressed; empty = as node.image_transport",
        choices=("", "raw", "compressed"),
    )
    map_frame: str = option(
        "", "frame of the map; empty = the frame of the first pose, 'map' where poses come from tf"
    )
    camera_offset: list[float] = option(
        [],
        "row-major 4x4 T_body_camera (optical camera -> body), for poses of a body; empty = as tf "
        "says, or poses are the camera's",
    )
    depth_scale: float = option(0.001, "m per unit of 16-bit depth images", low=1e-9, high=1000)
    rectify: bool = option(
        False,
        "undo the lens distortion that camera info tells of (d, distortion_model), in colour and "
        "depth; for images that are not rectified yet; needs OpenCV",
    )
    backlog: int = option(
        1,
        "frames that may wait for the encoder; when more come the oldest is dropped; 1 = newest "
        "wins",
        low=1,
    )
    keyframe_distance: float = option(
        0.0,
        "m; a frame nearer than this to the last one that was used, and turned less than "
        "node.keyframe_angle, is skipped; 0 = no frame is",
        low=0,
        high=1000,
        live=True,
    )
    keyframe_angle: float = option(
        10.0,
        "degrees; a frame that turned as much is used however near it is",
        low=0,
        high=180,
        live=True,
    )
    max_rate: float = option(
        0.0, "Hz; frames that come faster are skipped; 0 = none is", low=0, high=1e6, live=True
    )
    labels: list[str] = option(
        [], "labels of ~/semantic_cloud (~/set_labels); empty = true colours", live=True
    )
    publish_period: float = option(1.0, "s between two clouds", low=0.01, high=3600, live=True)
    cloud_min_hits: int = option(1, "voxels with fewer points are not published", low=1, live=True)
    cloud_max_points: int = option(
        0,
        "points in a published cloud; of more voxels some are left out, always the same and evenly "
        "in space; 0 = all",
        low=0,
        live=True,
    )
    cloud_radius: float = option(
        0.0,
        "m around the last place of the camera; voxels farther away are not published; 0 = all are",
        low=0,
        high=1e6,
        live=True,
    )
    map_directory: str = option(
        "~/.ros/radseg_maps",
        "folder of ~/save_map and ~/load_map, made when a map is saved; empty = both are refused",
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        _check_namespaces("node.robots", self.robots, MAX_ROBOTS)
        _check_namespaces("node.cameras", self.cameras, MAX_CAMERAS)
        self._check_robots()
        self._check_cameras()
        count = len(self.camera_offset)
        _check(count in (0, 16), f"node.camera_offset takes 16 numbers, got {count}")
        _check(all(map(str.strip, self.labels)), "node.labels: none may be empty")

    def _check_robots(self) -> None:
        robots, count = self.robots, len(self.robot_origins)
        for one in robots:
            inside = [name for name in robots if name.startswith(f"{one}/")]
            _check(not inside, f"node.robots: {inside} is below {one!r}, whose topics are there")
        lacks = robots[count // 16 : count // 16 + 1]
        _check(
            count in (0, 16 * len(robots)),
            f"node.robot_origins takes 16 numbers for each of node.robots, got {count}"
            + (f": {lacks[0]!r} has none of its own" if lacks else ""),
        )

    def _check_cameras(self) -> None:
        if len(self.cameras) < 2:
            return
        _check(
            not self.camera_offset,
            "node.camera_offset is the place of one camera: with several in node.cameras, "
            "/tf_static tells where each is",
        )
        _check(
            self.pose_type == "odometry" or self.pose_source == "tf",
            f"node.pose_type {self.pose_type} does not say of what its poses are, which several "
            "node.cameras need: odometry does (child_frame_id), or node.pose_source tf",
        )


@dataclass(frozen=True, slots=True)
class Config(Options):
    """All options of a running mapper."""

    FIXED: ClassVar[str] = "encoder and map are made for it"

    encoder: str = option(
        "radseg",
        "radseg, lite (no weights to download; knows little), naclip, scclip, proxyclip, resclip, "
        "talk2dino, trident, textregion, or one that an installed package brings",
    )
    encoder_options: list[str] = option(
        [],
        "NAME=VALUE each: options of an encoder that has no group of its own here (all but radseg "
        "and lite), e.g. checkpoint=openai/clip-vit-base-patch16",
    )
    short_side: int = option(
        640,
        "px; images are brought to this short side before anything else; 0 = as they come",
        low=0,
        high=8192,
    )
    radseg: RadsegConfig = group(RadsegConfig)
    lite: LiteConfig = group(LiteConfig)
    lift: LiftConfig = group(LiftConfig)
    map: MapConfig = group(MapConfig)
    persistence: PersistenceConfig = group(PersistenceConfig, flat="map.")
    journal: JournalConfig = group(JournalConfig)
    correct: CorrectConfig = group(CorrectConfig)
    query: QueryConfig = group(QueryConfig)
    grid: GridConfig = group(GridConfig)
    sync: SyncConfig = group(SyncConfig)
    node: NodeConfig = group(NodeConfig)

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        bound = self.map.max_bytes or self.map.max_voxels
        _check(
            bool(bound) or not self.persistence.disk_directory,
            "map.disk_directory needs a bound of memory: map.max_bytes or map.max_voxels",
        )
        folders = self.persistence.disk_directory, self.journal.directory
        _check(
            not all(folders) or len({os.path.abspath(os.path.expanduser(f)) for f in folders}) > 1,
            "map.disk_directory and journal.directory must be two folders",
        )


# encoders without a group of this name have their options in encoder_options
GROUPS = tuple(f.name for f in dataclasses.fields(Config) if "flat" in f.metadata)

# From names and values to configurations


@cache
def options_of(cls: type, prefix: str = "") -> dict[str, Option]:
    """Every option of a configuration class by the name that users write, in source order."""
    found: dict[str, Option] = {}
    kinds = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        kind = kinds[f.name]
        if dataclasses.is_dataclass(kind):
            below = f.metadata["flat"] if f.metadata["flat"] is not None else f"{f.name}."
            for inner in options_of(kind, prefix + below).values():  # type: ignore[arg-type]
                path = (f.name, *inner.path)
                found.setdefault(inner.name, dataclasses.replace(inner, path=path))
            continue
        made: Any = f.default_factory
        default = made() if f.default is dataclasses.MISSING else f.default
        said = {key: f.metadata[key] for key in ("doc", "low", "high", "choices")}
        said["fixed"] = "" if f.metadata["live"] else cls.FIXED  # type: ignore[attr-defined]
        found[prefix + f.name] = Option(prefix + f.name, (f.name,), kind, default, **said)
    return found


def find_option(cls: type, name: str) -> Option:
    """The option that users call ``name``.

    Raises:
        ConfigError: there is none; says which one is nearest.
    """
    options = options_of(cls)
    if name not in options:
        raise _unknown(options, name)
    return options[name]


def _unknown(options: Iterable[str], name: str) -> ConfigError:
    options, shown = list(options), brief(name)
    outer = name.rpartition(".")[0]
    if any(known.startswith(f"{name}.") for known in options):
        return ConfigError(f"{shown} is a group of options, not an option")
    if outer in options:
        return ConfigError(f"unknown option {shown}; {outer} is an option, not a group of options")
    near = difflib.get_close_matches(name, options, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(options)}"
    return ConfigError(f"unknown option {shown}; {hint}")


AnyConfig = TypeVar("AnyConfig")


def with_options(config: AnyConfig, values: Mapping[str, Any]) -> AnyConfig:
    """``config`` with options changed: ``{"map.voxel_size": 0.1, "radseg.refine_iou": 0.8}``.

    Raises:
        ConfigError: an option does not exist (named in full, with the nearest known one), has the
            wrong type, or a value that it cannot have.
    """
    cls = type(config)
    nested = to_dict(config)
    for name, value in values.items():
        *groups, last = find_option(cls, name).path
        table = nested
        for part in groups:
            table = table[part]
        table[last] = value
    return from_dict(cls, nested)


def from_dict(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build a configuration from nested ``values``; what is left out has its default.

    Raises:
        ConfigError: an option does not exist (named in full, with the nearest known one), has the
            wrong type, or a value that it cannot have.
    """
    kinds = typing.get_type_hints(cls)
    options = options_of(cls, prefix)
    groups = {f.name: f.metadata["flat"] for f in dataclasses.fields(cls) if "flat" in f.metadata}
    fields = {f.name for f in dataclasses.fields(cls)}
    known: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for name, value in values.items():
        flat = [g for g, start in groups.items() if start is not None and name.startswith(start)]
        if name in groups:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prefix}{name} is a group of options, got {brief(repr(value))}")
            for key, each in value.items():
                inner[_home(cls, name, key)][key] = each
        elif name in fields:
            known[name] = _typed(options[prefix + name], value)
        elif flat:
            inner[flat[0]][name.removeprefix(groups[flat[0]])] = value
        else:
            raise _unknown(options, prefix + name)
    for name, start in groups.items():
        below = prefix + (f"{name}." if start is None else start)
        known[name] = from_dict(kinds[name], inner[name], below)
    return cls(**known)


def from_texts(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """As :func:`from_dict`, but a text may stand for any value, as on a command line.

    Raises:
        ConfigError: as :func:`from_dict`.
    """
    kinds = {option.name: option.kind for option in options_of(cls, prefix).values()}
    read = {
        name: parse_value(value, kinds.get(prefix + name, str)) if isinstance(value, str) else value
        for name, value in values.items()
    }
    return from_dict(cls, read, prefix)


def _home(cls: Any, name: str, key: str) -> str:
    """The group that ``key`` belongs to, of ``name`` and the one whose options begin like it."""
    kinds = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if f.metadata.get("flat") == f"{name}." and key in typing.get_type_hints(kinds[f.name]):
            return f.name
    return name


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of :func:`from_dict`."""
    return dataclasses.asdict(config)


def _typed(option: Option, value: Any) -> Any:
    """``value`` as the type that its option has.

    A path may stand for a text, a whole number for a real one, a tuple for a list; and, because
    YAML 1.1 reads an unquoted on or off as a boolean, booleans for such words and the reverse.
    """
    kind = option.kind
    if option.choices and "off" in option.choices and isinstance(value, bool):
        return next(c for c in option.choices if c != "off") if value else "off"
    if kind is bool and isinstance(value, str):
        return SWITCH[one_of(option.name, value.lower(), SWITCH)]
    found = _as_kind(value, kind)
    if found is None:
        raise ConfigError(f"option {option.name} takes {_said(kind)}, got {brief(repr(value))}")
    return found


def _as_kind(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``; None if it is something else."""
    if typing.get_origin(kind) is list:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return None
        items = [_as_kind(each, typing.get_args(kind)[0]) for each in value]
        return None if None in items else items
    if kind is str and isinstance(value, PurePath):
        return str(value)
    if kind is float and type(value) is int:
        return float(value) if abs(value) < sys.float_info.max else None
    return value if type(value) is kind else None


def _said(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)


def parse_assignments(cls: type, texts: Iterable[str]) -> dict[str, Any]:
    """``["k=1", "ignore=wall,floor", "radseg.scra=off"]`` of a command line -> name and value.

    A value is read as its option's type asks: texts as they are, lists as JSON or separated by
    commas, everything else as JSON; on and off are words for true and false.

    Raises:
        ConfigError: not OPTION=VALUE, or no such option.
    """
    pairs = split_assignments(texts)
    return {name: parse_value(value, find_option(cls, name).kind) for name, value in pairs.items()}


def split_assignments(texts: Iterable[str]) -> dict[str, str]:
    """``["NAME=VALUE", ...]`` -> name and value; of a name that is there twice the last one.

    Raises:
        ConfigError: one of them is something else.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"{brief(repr(text))} is not OPTION=VALUE")
        found[name] = value
    return found


def encoder_flags(
    encoder: str, flags: dict[str, Any], grouped: Iterable[str] = GROUPS
) -> list[str]:
    """Take out of ``flags`` what is meant for an encoder without a group of options here.

    Args:
        encoder: its name; empty = not known yet.
        flags: name of a flag -> value, as a command line gives them.

    Returns:
        They as ``encoder_options``.
    """
    if not encoder or encoder in grouped:
        return []
    own = [flag for flag in ENCODER_FLAGS if flags.get(flag) is not None]
    return [f"{flag.replace('-', '_')}={flags.pop(flag)}" for flag in own]


def parse_value(text: str, kind: Any = None) -> Any:
    """One value of a command line; see :func:`parse_assignments`."""
    if kind is str:
        return text
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        if not text.startswith("[") or (item is str and '"' not in text):  # YAML needs no quotes
            parts = map(str.strip, text.removeprefix("[").removesuffix("]").split(","))
            return [parse_value(part, item) for part in parts if part]
    elif kind is bool and text.lower() in SWITCH:
        return SWITCH[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text
