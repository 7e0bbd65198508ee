# SPDX-License-Identifier: Apache-2.0
"""Bytes of an image message -> pixels as they were sent. Bounded before anything is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...datatypes import InputError, brief
from ...files import MAX_PIXELS, open_image
from ..drops import Unusable

if TYPE_CHECKING:
    from PIL import Image

IMAGE_FORMATS = ("JPEG", "PNG")  # Pillow knows many more, and starts programs for some
# where the first red pixel of a mosaic is (row, column); behind and below it comes a green one
BAYER = {"rggb": (0, 0), "grbg": (0, 1), "gbrg": (1, 0), "bggr": (1, 1)}
# encoding (sensor_msgs/image_encodings.hpp) -> (type of one channel, channels)
ENCODINGS: dict[str, tuple[type[np.generic], int]] = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "mono8": (np.uint8, 1),
    "8UC1": (np.uint8, 1),
    "8UC3": (np.uint8, 3),  # channel order by OpenCV's habit: BGR, BGRA
    "8UC4": (np.uint8, 4),
    "rgb16": (np.uint16, 3),
    "bgr16": (np.uint16, 3),
    "rgba16": (np.uint16, 4),
    "bgra16": (np.uint16, 4),
    "mono16": (np.uint16, 1),
    "16UC1": (np.uint16, 1),
    "32FC1": (np.float32, 1),
    "yuv422": (np.uint8, 2),  # U Y V Y
    "uyvy": (np.uint8, 2),
    "yuv422_yuy2": (np.uint8, 2),  # Y U Y V
    "yuyv": (np.uint8, 2),
    **{f"bayer_{tile}8": (np.uint8, 1) for tile in BAYER},
    **{f"bayer_{tile}16": (np.uint16, 1) for tile in BAYER},
}


def image_to_array(message: Any, what: str = "image") -> np.ndarray:
    """sensor_msgs/Image -> (H, W) or (H, W, channels) in its own type and channel order.

    The byte order is that of this machine. Reads height, width, encoding, step, is_bigendian and
    data (bytes, array.array or ndarray); rows may be padded. The result may be a view of the
    message.

    Args:
        what: the image is called in messages.

    Raises:
        Unusable: an encoding that is not known, or data that is not as long as its rows.
    """
    if message.encoding not in ENCODINGS:
        raise Unusable(
            f"{what} of wrong type",
            f"image encoding {brief(repr(message.encoding), 40)} is not supported; supported: "
            f"{', '.join(ENCODINGS)}",
        )
    kind, channels = ENCODINGS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = width * channels * dtype.itemsize
    if height <= 0 or width <= 0:
        raise Unusable(f"{what} empty", f"image is empty ({width}x{height})")
    if height * width > MAX_PIXELS:
        raise Unusable(f"{what} too large", f"image has {width}x{height} pixels")
    if step < row:
        raise Unusable(
            f"{what} damaged",
            f"image step {step} is shorter than a row of {width} {message.encoding} pixels ({row} "
            "bytes)",
        )
    data = np.frombuffer(message.data, np.uint8)
    needed = (height - 1) * step + row  # some drivers leave out the padding of the last row
    if not needed <= data.size <= height * step:
        how = "truncated" if data.size < needed else "longer than its rows"
        raise Unusable(
            f"{what} damaged",
            f"image data is {how}: {data.size} bytes, {width}x{height} {message.encoding} needs "
            f"{needed}",
        )
    rows = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    pixels = np.ascontiguousarray(rows).view(dtype).astype(kind, copy=False)
    return pixels.reshape((height, width, channels) if channels > 1 else (height, width))


def open_compressed(data: bytes, what: str, formats: tuple[str, ...]) -> Image.Image:
    """The data of a sensor_msgs/CompressedImage, decoded; ``what`` it is, for the messages.

    Raises:
        Unusable: it is damaged, too large, or of another format.
    """
    try:
        return open_image(data, f"{what} image", formats)
    except InputError as error:
        raise Unusable(f"{what} damaged", str(error)) from error
