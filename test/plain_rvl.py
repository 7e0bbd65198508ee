# SPDX-License-Identifier: Apache-2.0
"""RVL one number at a time: the code that ``frames/images/rvl.py`` must read."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import numpy as np


def encode(image: np.ndarray) -> bytes:
    """(H, W) uint16 -> width, height and RVL."""
    numbers: list[int] = []
    before = 0
    flat = image.ravel().tolist()
    runs = [list(run) for _, run in itertools.groupby(flat, bool)]
    if flat[0]:
        runs.insert(0, [])
    for zeros, others in itertools.zip_longest(runs[::2], runs[1::2], fillvalue=[]):
        numbers += [len(zeros), len(others)]
        for value in others:
            step, before = value - before, value
            numbers.append(2 * step if step >= 0 else -2 * step - 1)
    return struct.pack("<II", *image.shape[::-1]) + words(numbers)


def words(numbers: list[int]) -> bytes:
    """Numbers as nibbles, eight to a word, the last word filled with zeros."""
    nibbles = [nibble for number in numbers for nibble in nibbles_of(number)]
    nibbles += [0] * (-len(nibbles) % 8)
    digits = "".join(f"{nibble:x}" for nibble in nibbles)
    return b"".join(struct.pack("<I", int(digits[i : i + 8], 16)) for i in range(0, len(digits), 8))


def nibbles_of(number: int) -> Iterator[int]:
    while number > 7:
        yield number & 7 | 8
        number >>= 3
    yield number


def decode(data: bytes) -> np.ndarray:
    """What :func:`encode` was given, from data that is whole."""
    width, height = struct.unpack_from("<II", data)
    nibbles = iter(
        int(digit, 16) for (word,) in struct.iter_unpack("<I", data[8:]) for digit in f"{word:08x}"
    )

    def number() -> int:
        value = 0
        for place in itertools.count():
            nibble = next(nibbles)
            value |= (nibble & 7) << 3 * place
            if nibble < 8:
                return value
        raise AssertionError

    flat: list[int] = []
    before = 0
    while len(flat) < width * height:
        zeros, others = number(), number()
        flat += [0] * zeros
        for _ in range(others):
            step = number()
            before += -(step + 1) // 2 if step % 2 else step // 2
            flat.append(before)
    return np.array(flat, np.uint16).reshape(height, width)
