# SPDX-License-Identifier: Apache-2.0
"""Depth images, raw and compressed -> metres."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...config import NodeConfig
from ..drops import Unusable
from . import rvl
from .raw import ENCODINGS, image_to_array, open_compressed

DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
DEPTH_SCALE = NodeConfig().depth_scale  # m per unit of 16-bit depth, unless somebody knows better
NO_RETURN = 65535  # what many cameras and data sets write besides 0
EITHER = "mono16"  # of DEPTH_ENCODINGS, also what cameras without colour send
GREY_16 = b"\x89PNG\r\n\x1a\n\x10\x00"  # bytes 0 to 7, and 24 and 25, of such a PNG
HEADER = 12  # bytes before compressed depth: int32 format, float32 a and b


def depth_image(message: Any, depth_scale: float = DEPTH_SCALE) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage (compressedDepth) -> (H, W) float32 metres.

    0 and non-finite = no return, and 65535 in images of 16 bit.

    Args:
        depth_scale: m per unit of 16-bit images; float images are metres (REP 118).

    Raises:
        Unusable: it is damaged, or no depth image.
    """
    if hasattr(message, "format"):
        return _compressed_depth(message, depth_scale)
    if message.encoding in ENCODINGS and message.encoding not in DEPTH_ENCODINGS:
        raise Unusable(
            "depth of wrong type",
            f"depth image has encoding {message.encoding!r}; supported: "
            f"{', '.join(DEPTH_ENCODINGS)}",
        )
    return to_metres(image_to_array(message, "depth"), depth_scale)


def is_depth(message: Any) -> bool | None:
    """Whether a sensor_msgs/Image or CompressedImage is depth, as far as it says.

    None = it may be: grey of 16 bit, or an encoding that is not known.
    """
    compressed = hasattr(message, "format")
    said = str(message.format if compressed else message.encoding)
    encoding = said.partition(";")[0].strip()
    if encoding == EITHER or encoding not in ENCODINGS:
        if "compressedDepth" in said:
            return True
        head = memoryview(message.data)[:26].tobytes()
        return None if not compressed or (head[:8] + head[24:] == GREY_16) else False
    return encoding in DEPTH_ENCODINGS


def to_metres(pixels: np.ndarray, depth_scale: float) -> np.ndarray:
    """Depth in units of ``depth_scale`` (whole numbers) or in metres (float) -> float32 metres."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    depth = np.multiply(pixels, np.float32(depth_scale), dtype=np.float32)
    depth[pixels == NO_RETURN] = 0.0
    return depth


def _compressed_depth(message: Any, depth_scale: float) -> np.ndarray:
    """As compressed_depth_image_transport sends it: a header, then PNG or RVL of 16 bit."""
    data = memoryview(message.data).tobytes()
    if "compressedDepth" not in message.format:
        return to_metres(_png16(data), depth_scale)
    if len(data) < HEADER:
        raise Unusable("compressed depth damaged", f"it is truncated: {len(data)} bytes")
    read = rvl.decode if "rvl" in message.format else _png16
    pixels = read(data[HEADER:])
    if not message.format.startswith("32FC1"):
        return to_metres(pixels, depth_scale)
    # inverse depth: value = a / depth + b; 0 = no return
    a, b = np.frombuffer(data, "<f4", 2, offset=4)
    if not (np.isfinite([a, b]).all() and a > 0):
        raise Unusable("compressed depth damaged", "its quantisation is impossible")
    with np.errstate(divide="ignore"):
        return np.where(pixels > 0, a / (pixels.astype(np.float32) - b), 0).astype(np.float32)


def _png16(data: bytes) -> np.ndarray:
    image = open_compressed(data, "compressed depth", ("PNG",))
    if not image.mode.startswith("I"):
        raise Unusable("depth of wrong type", f"it has mode {image.mode}, expected 16 bit")
    return np.asarray(image).astype(np.uint16, copy=False)
