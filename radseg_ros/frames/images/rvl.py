# SPDX-License-Identifier: Apache-2.0
"""RVL, the lossless code of depth images (Wilson, Fast Lossless Depth Image Compression, 2017).

Pixels, row after row, are runs of zeros and of others by turns: the two lengths, then for each of
the others its difference to the last pixel that was not zero, as 0, -1, 1, -2, ... -> 0, 1, 2, 3,
... A number is written three bits at a time, lowest first, in nibbles whose highest bit says that
more follow. Eight nibbles, first one highest, are a little-endian word of 32 bit.
compressed_depth_image_transport writes width and height in front, as two such words.
"""

from __future__ import annotations

import numpy as np

from ...files import MAX_PIXELS
from ..drops import Unusable

SIZE = 8  # bytes of width and height
MOST_PIXELS = MAX_PIXELS // 4  # 4K; numbers take some 20 bytes each while they are decoded
MORE = 8  # the bit of a nibble that says that its number goes on
MOST_NIBBLES = 9  # of a number; a length has as many at most, a difference of 16 bit six
MOST_BYTES = 3  # of a pixel: six nibbles


def decode(data: bytes) -> np.ndarray:
    """Width, height and RVL -> (H, W) uint16.

    Raises:
        Unusable: the data is truncated, or cannot be an image of this size.
    """
    if len(data) < SIZE:
        raise _damaged(f"it is truncated: {len(data)} bytes")
    width, height = (int(number) for number in np.frombuffer(data, "<u4", 2))
    pixels = width * height
    if not 0 < pixels <= MOST_PIXELS:
        raise _damaged(f"it says that it has {width}x{height} pixels")
    # behind the longest code that such an image can have nothing is looked at
    words = min(len(data) - SIZE, MOST_BYTES * pixels + 4 * MOST_NIBBLES) // 4
    numbers = _numbers(np.frombuffer(data, "<u4", words, offset=SIZE))
    heads, end = _runs(numbers, pixels)
    lengths = numbers[heads[:, None] + (0, 1)].ravel()  # of zeros, others, zeros, others, ...
    is_step = np.ones(end, bool)
    is_step[heads] = is_step[heads + 1] = False
    steps = numbers[:end][is_step]
    steps = (steps >> 1) ^ (0 - (steps & 1))  # negative ones wrap, as 16 bit of whoever wrote them
    image = np.zeros(pixels, np.uint16)
    others = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    image[others] = np.cumsum(steps, dtype=np.uint16)
    return image.reshape(height, width)


def _numbers(words: np.ndarray) -> np.ndarray:
    """All numbers of a code, as uint32."""
    octets = words.astype(">u4").view(np.uint8)
    nibbles = np.stack([octets >> 4, octets & 15], axis=1).ravel()
    last = np.flatnonzero(nibbles < MORE)
    sizes = np.diff(last, prepend=-1)
    longest = int(sizes.max(initial=0))
    if longest > MOST_NIBBLES:
        raise _damaged("it holds a number that is too large")
    numbers = nibbles[last].astype(np.uint32)
    for place in range(1, longest):
        longer = np.flatnonzero(sizes > place)
        numbers[longer] = numbers[longer] << 3 | nibbles[last[longer] - place] & 7
    return numbers


def _runs(numbers: np.ndarray, pixels: int) -> tuple[np.ndarray, int]:
    """Where in ``numbers`` the two lengths of each run are, and where the last run ends."""
    lengths = (
        numbers.data
    )  # whose items are plain numbers: this loop, once per run, is the slow part
    heads, at = [], 0
    while pixels > 0:
        if at + 1 >= len(lengths):
            raise _damaged("it is truncated")
        zeros, others = lengths[at], lengths[at + 1]
        if not zeros + others:
            raise _damaged("it holds a run of nothing")
        heads.append(at)
        pixels -= zeros + others
        at += 2 + others
    if pixels < 0:
        raise _damaged("its runs are longer than its size")
    if at > len(lengths):
        raise _damaged("it is truncated")
    return np.array(heads), at


def _damaged(how: str) -> Unusable:
    return Unusable("compressed depth damaged", how)
