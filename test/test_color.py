# SPDX-License-Identifier: Apache-2.0
"""Colour encodings of cameras: mosaics, luma and chroma, 16 bit. OpenCV sees the same pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import require_ros
from plain_messages import Message, file_bytes, raw_image

from radseg_ros.frames.drops import Unusable
from radseg_ros.frames.images.color import (
    COLOR_ENCODINGS,
    LUMA,
    MOSAICS,
    color_image,
    demosaic,
)
from radseg_ros.frames.images.raw import ENCODINGS

TILES = {tile: [[*tile[:2]], [*tile[2:]]] for tile in ("rggb", "grbg", "gbrg", "bggr")}
RNG = np.random.default_rng(0)


def random_pixels(encoding: str, height: int = 14, width: int = 18) -> np.ndarray:
    """Noise, as an encoding holds it."""
    kind, channels = ENCODINGS[encoding]
    shape = (height, width, channels) if channels > 1 else (height, width)
    return RNG.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def color_of_tile(tile: str, row: int, column: int) -> int:
    return "rgb".index(TILES[tile][row % 2][column % 2])


def plain_demosaic(mosaic: np.ndarray, tile: str) -> np.ndarray:
    """Pixel by pixel: a colour that it lacks is the mean of all around that have it."""
    height, width = mosaic.shape
    rgb = np.zeros((height, width, 3), mosaic.dtype)
    for row, column in itertools.product(range(height), range(width)):
        # a pixel at the edge is as the nearest one that has neighbours all around
        y, x = min(max(row, 1), height - 2), min(max(column, 1), width - 2)
        around = itertools.product(range(y - 1, y + 2), range(x - 1, x + 2))
        has: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for place in around:
            has[color_of_tile(tile, *place)].append(int(mosaic[place]))
        has[color_of_tile(tile, y, x)] = [int(mosaic[y, x])]
        rgb[row, column] = [(sum(v) + len(v) // 2) // len(v) for v in has.values()]
    return rgb


@pytest.mark.parametrize("size", [(3, 3), (3, 4), (4, 3), (6, 9), (7, 8)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("tile", TILES)
def test_a_mosaic_becomes_what_the_plain_rule_says(tile, bits, size):
    mosaic = random_pixels(f"bayer_{tile}{bits}", *size)
    expected = plain_demosaic(mosaic, tile)
    np.testing.assert_array_equal(demosaic(mosaic, *MOSAICS[f"bayer_{tile}{bits}"]), expected)
    message = raw_image(mosaic, f"bayer_{tile}{bits}", padding=3, big=True)
    found = color_image(message)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected if bits == 8 else np.rint(expected / 257))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("tile", TILES)
def test_a_mosaic_of_one_color_has_that_color(tile, bits):
    color = (200, 30, 60)
    scale = 1 if bits == 8 else 257
    kind = ENCODINGS[f"bayer_{tile}{bits}"][0]
    tiles = np.array([[color["rgb".index(c)] for c in row] for row in TILES[tile]]) * scale
    rgb = color_image(raw_image(np.tile(tiles.astype(kind), (5, 4)), f"bayer_{tile}{bits}"))
    assert rgb.shape == (10, 8, 3) and (rgb == color).all()


def test_a_mosaic_too_small_for_neighbours_is_refused():
    for size in ((2, 8), (8, 2), (1, 1)):
        with pytest.raises(Unusable, match=f"colour damaged: .* not {size[1]}x{size[0]}"):
            color_image(raw_image(np.zeros(size, np.uint8), "bayer_rggb8"))


def yuv422(y: np.ndarray, u: np.ndarray, v: np.ndarray, encoding: str) -> np.ndarray:
    """(H, W), (H, W / 2), (H, W / 2) -> (H, W, 2), Y before or behind chroma."""
    chroma = np.stack([u, v], axis=-1).reshape(y.shape)
    return np.stack([y, chroma] if encoding in ("yuv422_yuy2", "yuyv") else [chroma, y], axis=-1)


@pytest.mark.parametrize("encoding", LUMA)
@pytest.mark.parametrize(
    ("yuv", "rgb"),
    [
        ((16, 128, 128), (0, 0, 0)),
        ((235, 128, 128), (255, 255, 255)),
        ((126, 128, 128), (128, 128, 128)),
        ((81, 90, 240), (254, 0, 0)),  # the primaries of BT.601, as 8 bit can hold them
        ((145, 54, 34), (0, 255, 1)),
        ((41, 240, 110), (0, 0, 255)),
        ((0, 128, 128), (0, 0, 0)),  # darker than black, brighter than white
        ((255, 128, 128), (255, 255, 255)),
    ],
)
def test_yuv_of_known_colors(encoding, yuv, rgb):
    y, u, v = (np.full((2, n), value, np.uint8) for value, n in zip(yuv, (6, 3, 3), strict=True))
    found = color_image(raw_image(yuv422(y, u, v, encoding), encoding, padding=5))
    assert found.shape == (2, 6, 3) and (np.abs(found.astype(int) - rgb) <= 1).all(), found[0, 0]


@pytest.mark.parametrize("encoding", LUMA)
def test_yuv_is_bt601_rounded(encoding):
    y = RNG.integers(0, 256, (64, 64), np.uint8)
    u, v = RNG.integers(0, 256, (2, 64, 32), np.uint8)
    luma = np.maximum(y - 16.0, 0) * 1.164
    blue, red = (np.repeat(chroma - 128.0, 2, axis=1) for chroma in (u, v))
    exact = [luma + 1.596 * red, luma - 0.813 * red - 0.391 * blue, luma + 2.018 * blue]
    found = color_image(raw_image(yuv422(y, u, v, encoding), encoding))
    # half a step, and what 20 bits of the factors lose
    assert np.abs(found - np.clip(np.stack(exact, -1), 0, 255)).max() < 0.501


def test_yuv_of_an_odd_width_is_refused():
    with pytest.raises(Unusable, match="colour damaged: .* pairs of columns, not 5"):
        color_image(raw_image(np.zeros((4, 5, 2), np.uint8), "yuv422"))


def test_every_step_of_16_bit_is_rounded():
    steps = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(steps / 257)
    for big in (False, True):
        grey = color_image(raw_image(steps, "mono16", big=big))
        np.testing.assert_array_equal(grey, np.repeat(expected[..., None], 3, axis=2))
    rgb = np.stack([steps, steps[::-1], np.zeros_like(steps)], axis=-1)
    alpha = np.dstack([rgb, steps])
    for encoding, pixels in (
        ("rgb16", rgb),
        ("bgr16", rgb[..., ::-1]),
        ("rgba16", alpha),
        ("bgra16", alpha[..., [2, 1, 0, 3]]),
    ):
        found = color_image(raw_image(pixels, encoding))
        np.testing.assert_array_equal(found, np.rint(rgb / 257))


def test_a_compressed_mosaic_stays_one():
    for bits in (8, 16):
        mosaic = random_pixels(f"bayer_gbrg{bits}")
        raw = color_image(raw_image(mosaic, f"bayer_gbrg{bits}"))
        message = Message(
            format=f"bayer_gbrg{bits}; png compressed ", data=file_bytes(mosaic, "png")
        )
        np.testing.assert_array_equal(color_image(message), raw)
    # one that was decoded before it was compressed says so by its channels
    message = Message(format="bayer_gbrg8; png compressed bgr8", data=file_bytes(raw, "png"))
    np.testing.assert_array_equal(color_image(message), raw)


def test_compressed_grey_of_16_bit_is_not_clipped():
    grey = random_pixels("mono16")
    message = Message(format="mono16; png compressed ", data=file_bytes(grey, "png"))
    np.testing.assert_array_equal(color_image(message), color_image(raw_image(grey, "mono16")))


def test_every_encoding_of_color_is_decoded_and_no_other():
    for encoding, (kind, _) in ENCODINGS.items():
        if encoding in COLOR_ENCODINGS:
            assert color_image(raw_image(random_pixels(encoding), encoding)).shape == (14, 18, 3)
        elif kind is not np.float32:
            with pytest.raises(Unusable, match="colour of wrong type"):
                color_image(raw_image(random_pixels(encoding), encoding))


CODES = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}  # OpenCV names the second row


def test_opencv_sees_the_same():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    for encoding in (*LUMA, *MOSAICS):
        if encoding in MOSAICS:
            code = f"COLOR_Bayer{CODES[encoding[6:10]]}2RGB"
        else:
            code = "COLOR_YUV2RGB_YUY2" if LUMA[encoding] == 0 else "COLOR_YUV2RGB_UYVY"
        for size in ((48, 64), (37, 50), (480, 640)):
            pixels = random_pixels(encoding, *size)
            expected = cv2.cvtColor(pixels, getattr(cv2, code))
            if expected.dtype == np.uint16:
                expected = cv2.convertScaleAbs(expected, alpha=255 / 65535)
            found = color_image(raw_image(pixels, encoding))
            np.testing.assert_array_equal(found, expected, encoding)


def test_cv_bridge_sees_the_same():
    require_ros()
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge is not installed")
    from sensor_msgs.msg import Image

    # 8UC1, 8UC3 and 8UC4 name no colours, and these two names of YUV 4:2:2 came later
    for encoding in sorted({*COLOR_ENCODINGS} - {"8UC1", "8UC3", "8UC4", "uyvy", "yuyv"}):
        plain = vars(raw_image(random_pixels(encoding), encoding))
        message = Image(**{**plain, "data": list(plain["data"])})
        expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
        np.testing.assert_array_equal(color_image(message), expected, encoding)
