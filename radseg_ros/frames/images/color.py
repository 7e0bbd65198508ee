# SPDX-License-Identifier: Apache-2.0
"""Colour images in every encoding of cameras -> RGB of 8 bit.

Each rule gives the pixels of OpenCV, and so of cv_bridge, to the last bit (test/test_color.py).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...files import rgb_pixels, to_8_bit
from ..drops import Unusable
from .raw import BAYER, ENCODINGS, IMAGE_FORMATS, image_to_array, open_compressed

RGB, BGR, GREY = [0, 1, 2], [2, 1, 0], [0, 0, 0]
# encoding -> the channels that are red, green and blue
CHANNELS = {
    **dict.fromkeys(("rgb8", "rgba8", "rgb16", "rgba16"), RGB),
    **dict.fromkeys(("bgr8", "bgra8", "bgr16", "bgra16", "8UC3", "8UC4"), BGR),
    **dict.fromkeys(("mono8", "8UC1", "mono16"), GREY),
}
# encoding -> the channel that holds Y; the other one holds U and V by turns
LUMA = {"yuv422": 1, "uyvy": 1, "yuv422_yuy2": 0, "yuyv": 0}
MOSAICS = {name: BAYER[name[6:10]] for name in ENCODINGS if name.startswith("bayer_")}
COLOR_ENCODINGS = (*CHANNELS, *LUMA, *MOSAICS)

# ITU-R BT.601, Y in 16..235 and chroma in 16..240, in units of 2^-20
SHIFT = 20
Y_TO_ALL, V_TO_RED, V_TO_GREEN, U_TO_GREEN, U_TO_BLUE = (
    int(factor * 2**SHIFT) for factor in (1.164, 1.596, -0.813, -0.391, 2.018)
)

Places = tuple[tuple[int, int], ...]
# neighbours of a pixel: rows down, columns to the right
BESIDE, ABOVE = ((0, -1), (0, 1)), ((-1, 0), (1, 0))
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))


def color_image(message: Any) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage -> (H, W, 3) uint8 RGB.

    Raises:
        Unusable: it is damaged, or no colour image.
    """
    if hasattr(message, "format"):
        data = memoryview(message.data).tobytes()
        image = open_compressed(data, "compressed colour", IMAGE_FORMATS)
        encoding = str(message.format).partition(";")[0]  # before it was compressed
        if encoding in MOSAICS and (image.mode == "L" or image.mode.startswith("I")):
            kind = np.uint8 if image.mode == "L" else np.uint16
            return _to_rgb(np.asarray(image).astype(kind, copy=False), encoding)
        return rgb_pixels(image)
    if message.encoding in ENCODINGS and message.encoding not in COLOR_ENCODINGS:
        raise Unusable(
            "colour of wrong type",
            f"colour image has encoding {message.encoding!r}; supported: "
            f"{', '.join(COLOR_ENCODINGS)}",
        )
    return _to_rgb(image_to_array(message, "colour"), message.encoding)


def _to_rgb(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """Pixels of ``COLOR_ENCODINGS`` in 8 or 16 bit -> (H, W, 3) uint8 RGB."""
    if encoding in LUMA:
        return yuv422_to_rgb(pixels, LUMA[encoding])
    if encoding in MOSAICS:
        return to_8_bit(demosaic(pixels, *MOSAICS[encoding]))
    rgb = np.atleast_3d(to_8_bit(pixels))[..., CHANNELS[encoding]]
    return np.ascontiguousarray(rgb)


def yuv422_to_rgb(pixels: np.ndarray, luma: int) -> np.ndarray:
    """(H, W, 2) uint8 of YUV 4:2:2 by ITU-R BT.601 -> (H, W, 3) uint8 RGB.

    Two neighbouring columns share the U of the first and the V of the second.

    Args:
        luma: the channel that holds Y.

    Raises:
        Unusable: an odd number of columns.
    """
    height, width = pixels.shape[:2]
    if width % 2:
        raise Unusable("colour damaged", f"YUV 4:2:2 comes in pairs of columns, not {width}")
    pairs = pixels.reshape(height, width // 2, 2, 2).astype(np.int32)
    u, v = np.moveaxis(pairs[..., 1 - luma] - 128, -1, 0)
    y = np.maximum(pairs[..., luma] - 16, 0) * Y_TO_ALL + 2 ** (SHIFT - 1)
    rgb = np.empty((height, width // 2, 2, 3), np.uint8)
    for channel, shade in enumerate((V_TO_RED * v, V_TO_GREEN * v + U_TO_GREEN * u, U_TO_BLUE * u)):
        rgb[..., channel] = np.clip((y + shade[..., None]) >> SHIFT, 0, 255)
    return rgb.reshape(height, width, 3)


def demosaic(mosaic: np.ndarray, red_row: int, red_column: int) -> np.ndarray:
    """Bayer mosaic (H, W) of uint8 or uint16 -> (H, W, 3) RGB of the same type, bilinear.

    A colour that a pixel lacks is the rounded mean of the two or four neighbours that have it. The
    outermost pixels, which lack neighbours, take the colours of those beside them.

    Args:
        red_row, red_column: where the first red pixel is, 0 or 1.

    Raises:
        Unusable: fewer than 3 rows or columns.
    """
    height, width = mosaic.shape
    if min(height, width) < 3:
        size = f"{width}x{height}"
        raise Unusable("colour damaged", f"a Bayer mosaic has 3x3 pixels or more, not {size}")
    wide = mosaic.astype(np.uint16 if mosaic.dtype == np.uint8 else np.uint32)  # for sums of four
    rgb = np.empty((height, width, 3), mosaic.dtype)
    for row, column in itertools.product((1, 2), (1, 2)):
        own = wide[row:-1:2, column:-1:2]
        beside, above, corners = (_mean(wide, row, column, n) for n in (BESIDE, ABOVE, CORNERS))
        in_red_row, in_red_column = row % 2 == red_row, column % 2 == red_column
        if in_red_row != in_red_column:
            colors = (beside, own, above) if in_red_row else (above, own, beside)
        else:
            green = _mean(wide, row, column, BESIDE + ABOVE)
            colors = (own, green, corners) if in_red_row else (corners, green, own)
        for channel, values in enumerate(colors):
            rgb[row:-1:2, column:-1:2, channel] = values
    rgb[:, 0], rgb[:, -1] = rgb[:, 1], rgb[:, -2]
    rgb[0], rgb[-1] = rgb[1], rgb[-2]
    return rgb


def _mean(wide: np.ndarray, row: int, column: int, neighbours: Places) -> np.ndarray:
    """Of the pixels around every second one of every second row, from (row, column) on."""
    height, width = wide.shape
    parts = [
        wide[row + down : height - 1 + down : 2, column + right : width - 1 + right : 2]
        for down, right in neighbours
    ]
    return (sum(parts[1:], parts[0]) + len(parts) // 2) // len(parts)
