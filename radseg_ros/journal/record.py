# SPDX-License-Identifier: Apache-2.0
"""One record of a journal: a safetensors file (:mod:`..voxels.tensor_file`, tag ``radjournal``).

The header says where the record belongs: ``journal`` (its id), ``number`` and ``kind``.

A key frame (kind ``frame``) is kept as it is fused, at the working size. Its header has
``stamp_ns``, ``camera`` (its name, where there are several, below that of its robot, where there
are several: ``front``, ``a``, ``a/front``), ``frame_id`` (of the world),
``optical_frame`` (of the images), ``K`` (3 x 3), ``pose`` (T_world_camera, 4 x 4), ``lift`` (which
pixels are used) and ``depth_unit``. Its tensors:

* ``color``: the bytes of a JPEG, (n,) U8.
* ``depth``: the bytes of a PNG of 16 bit in units of ``depth_unit`` metres, (n,) U8; or, where
  that would lose anything, metres, (h, w) F32. 0 = no return.
* ``features``: patch vectors, (C, h, w) F16.

What else happens to a map as a whole is told by records of a few hundred bytes, whose kinds and
fields are in :mod:`.story`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..config import LiftConfig, from_dict, to_dict
from ..datatypes import FeatureMap, Frame, InputError
from ..files import open_image, rgb_pixels
from ..reading import MISFITS
from ..voxels.map_file import MAX_CHANNELS, STAMP_LIMIT_NS
from ..voxels.tensor_file import Kind

VERSION = 1
FILE = Kind("radjournal", "journal record", VERSION)
FRAME = "frame"
JPEG_QUALITY = 95  # colours are off by 1 of 255 in the mean
DEFLATE = 1  # of 9; depth gets hardly smaller with more


class Record(NamedTuple):
    """One record, as its name and size tell."""

    number: int
    kind: str
    nbytes: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.number:010d}-{self.kind}.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class KeyFrame:
    """What is fused of an observation, and where it comes from."""

    frame: Frame
    features: FeatureMap  # float16
    rules: LiftConfig  # which depth pixels are used
    camera: str = ""
    frame_id: str = ""  # of the world
    optical_frame: str = ""  # of the images


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a record holds."""

    header: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.nbytes for tensor in self.state.values())


NOTHING: Mapping[str, torch.Tensor] = {}


def pack(key_frame: KeyFrame, depth_unit: float) -> Content:
    """A key frame as a record; :func:`unpack` gives what can be kept of it.

    Args:
        depth_unit: m, of which depth is most likely made.
    """
    frame = key_frame.frame
    header = {
        "stamp_ns": frame.stamp_ns,
        "camera": key_frame.camera,
        "frame_id": key_frame.frame_id,
        "optical_frame": key_frame.optical_frame,
        "K": frame.K.tolist(),
        "pose": frame.T_world_camera.tolist(),
        "lift": to_dict(key_frame.rules),
        "depth_unit": depth_unit,
    }
    state = {
        "color": _jpeg(frame.rgb),
        "depth": _depth(frame.depth, depth_unit),
        "features": key_frame.features.data.detach().cpu().half(),
    }
    return Content(header, state)


def unpack(content: Content) -> KeyFrame:
    """The key frame of a record.

    Raises:
        InputError: the record holds something else.
    """
    header, state = content.header, content.state
    try:
        stamp_ns, names = header["stamp_ns"], ("camera", "frame_id", "optical_frame")
        camera, frame_id, optical_frame = (header[name] for name in names)
        features, color = state["features"], state["color"]
        if type(stamp_ns) is not int or not 0 <= stamp_ns < STAMP_LIMIT_NS:
            raise InputError("impossible stamp")
        if not all(isinstance(text, str) for text in (camera, frame_id, optical_frame)):
            raise InputError("impossible names")
        if features.dtype != torch.float16 or features.shape[0] > MAX_CHANNELS:
            raise InputError("impossible features")
        rgb = rgb_pixels(open_image(color.numpy().tobytes(), "colour", ("JPEG",)))
        depth = _metres(state["depth"], float(header["depth_unit"]))
        frame = Frame(stamp_ns, rgb, depth, np.array(header["K"]), np.array(header["pose"]))
        rules = from_dict(LiftConfig, header["lift"], "lift.")
        return KeyFrame(frame, FeatureMap(features), rules, camera, frame_id, optical_frame)
    except InputError:
        raise
    except MISFITS as error:
        raise InputError("fields of a key frame are missing or impossible") from error


def _jpeg(rgb: np.ndarray) -> torch.Tensor:
    """(H, W, 3) RGB, uint8 or float in [0, 1] -> (n,) uint8."""
    pixels = rgb if rgb.dtype == np.uint8 else np.rint(255 * rgb).astype(np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return _as_tensor(stream)


def _depth(depth: np.ndarray, unit: float) -> torch.Tensor:
    """(h, w) float32 metres -> the bytes of a PNG, if nothing is lost, or metres."""
    known = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    units = np.rint(known / np.float32(unit))
    if units.max() <= np.iinfo(np.uint16).max:
        pixels = units.astype(np.uint16)
        if np.array_equal(np.multiply(pixels, np.float32(unit), dtype=np.float32), known):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG", compress_level=DEFLATE)
            return _as_tensor(stream)
    return torch.from_numpy(known)


def _metres(kept: torch.Tensor, unit: float) -> np.ndarray:
    """What :func:`_depth` gave -> (h, w) float32 metres.

    Raises:
        InputError: it is something else.
    """
    if kept.dtype == torch.float32:
        return kept.numpy()
    pixels = np.asarray(open_image(kept.numpy().tobytes(), "depth", ("PNG",)))
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu":
        raise InputError("depth is no image of 16 bit")
    return np.multiply(pixels.astype(np.uint16), np.float32(unit), dtype=np.float32)


def _as_tensor(stream: io.BytesIO) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(stream.getbuffer(), np.uint8).copy())
