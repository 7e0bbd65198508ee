# SPDX-License-Identifier: Apache-2.0
"""Where the things of a label file are: rectangles of images become boxes in the world."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from radseg_ros.config import to_dict
from radseg_ros.datatypes import Frame, InputError, brief
from radseg_ros.frames.folder import FolderRecording, open_recording
from radseg_ros.geometry import world_points

from ..options import EvalConfig
from ..scoring.presence import Place, box_around
from .labels import Labels, Patch

LEAST = 20  # pixels with depth that a rectangle must have


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a label file tells of a recording."""

    places: dict[str, list[Place]]  # of each name, as far as they are known
    patches: list[tuple[str, np.ndarray]]  # name, and (n, 3) m that a rectangle shows of it
    empty: list[str]  # of each rectangle that holds too little depth to be a place, a sentence


def find_places(labels: Labels, config: EvalConfig) -> Known:
    """Where the things of a label file are.

    Raises:
        InputError: a frame is not in the recording, or smaller than a rectangle in it.
        RecordingError: the recording cannot be read.
    """
    frames = named_frames(config, {patch.frame for patch in labels.patches()})
    found = Known({}, [], [])
    for name, places in labels.places.items():
        for each in places:
            if isinstance(each, Place):
                found.places.setdefault(name, []).append(each)
                continue
            xyz = points_of(each, frames[each.frame])
            if len(xyz) < LEAST:
                pixels = f"pixels {list(each.pixels)} of {each.frame}"
                found.empty.append(f"{name}: no depth in {pixels}")
                continue
            found.places.setdefault(name, []).append(box_around(xyz, part=True))
            found.patches.append((name, xyz))
    return found


def named_frames(config: EvalConfig, names: Collection[str]) -> dict[str, Frame]:
    """The frames of a recording by name: that of its file in a folder, its stamp in a bag (ns).

    Raises:
        InputError: one is not there, or cannot be used.
        RecordingError: the recording cannot be read.
    """
    if not names:
        return {}
    mapper, topics = config.mapper, to_dict(config.topics)
    recording = open_recording(config.root, topics=topics, sync=mapper.sync, node=mapper.node)
    if isinstance(recording, FolderRecording):
        number = {name: i for i, name in enumerate(recording.names)}
        found = {name: recording.frame(number[name]) for name in names if name in number}
    else:
        kept = recording.frames(skip=lambda stamp, _: "" if str(stamp) in names else "not asked")
        found = {str(frame.stamp_ns): frame for _, frame in kept}
    if missing := sorted(set(names) - found.keys()):
        raise InputError(
            f"{Path(config.labels).name} names the frame {brief(repr(missing[0]))}, which is not "
            f"in {config.root}"
        )
    return found


def points_of(patch: Patch, frame: Frame) -> np.ndarray:
    """(n, 3) m in the world: what a rectangle shows, which may be only a part of the thing.

    Raises:
        InputError: it reaches beyond the image.
    """
    (height, width), (h, w) = frame.rgb.shape[:2], frame.depth.shape
    left, top, right, bottom = patch.pixels
    if right > width or bottom > height:
        raise InputError(
            f"pixels {list(patch.pixels)} reach beyond frame {brief(patch.frame)}, which has "
            f"{width}x{height}"
        )
    x, y = (np.arange(w) + 0.5) * (width / w), (np.arange(h) + 0.5) * (height / h)
    inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    seen = inside & (frame.depth > 0) & np.isfinite(frame.depth)
    depth = torch.tensor(np.where(seen, frame.depth, 0))
    xyz = world_points(depth, torch.arange(w), torch.arange(h), frame.K, frame.T_world_camera)
    return np.stack([axis.numpy()[seen] for axis in xyz], axis=1)
