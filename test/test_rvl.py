# SPDX-License-Identifier: Apache-2.0
"""RVL depth: what the plain decoder reads, and no more than one sentence for what is damaged."""

from __future__ import annotations

import struct

import numpy as np
import plain_rvl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from plain_messages import Message

from radseg_ros.frames.drops import Unusable
from radseg_ros.frames.images.depth import depth_image
from radseg_ros.frames.images.rvl import MOST_PIXELS, decode

RNG = np.random.default_rng(0)


def noisy_depth(height: int, width: int, holes: float = 0.2) -> np.ndarray:
    """A slope with noise, holes, and a block without returns."""
    rows, columns = np.mgrid[:height, :width]
    image = (800 + 3 * rows + columns + RNG.normal(0, 4, (height, width))).astype(np.uint16)
    image[RNG.random((height, width)) < holes] = 0
    image[: height // 3, width // 2 :] = 0
    return image


def test_a_code_written_by_hand():
    # no zeros, two others: 5, and 4 less than that; one zero, nothing else
    # 5 -> 10 = 0b1_010 -> nibbles 1010 0001; -4 -> 7 -> 0111
    code = struct.pack("<III", 3, 1, 0x02A17100)
    assert decode(code).tolist() == [[5, 1, 0]]
    wall = struct.pack("<III", 16, 12, 0x08838AF3) + bytes(96)  # 192 others, the first is 1000
    assert (decode(wall) == 1000).all() and decode(wall).shape == (12, 16)
    assert plain_rvl.encode(decode(wall)) == wall


@pytest.mark.parametrize("holes", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (48, 64)])
def test_every_image_is_what_the_plain_decoder_reads(size, holes):
    for image in (noisy_depth(*size, holes), RNG.integers(0, 65536, size, np.uint16)):
        code = plain_rvl.encode(image)
        np.testing.assert_array_equal(plain_rvl.decode(code), image)
        found = decode(code)
        np.testing.assert_array_equal(found, image)
        assert found.dtype == np.uint16 and found.flags.writeable


EXTREME = st.sampled_from([0, 0, 1, 2, 32767, 32768, 65534, 65535])


@settings(max_examples=200)
@given(arrays.arrays(np.uint16, arrays.array_shapes(min_dims=2, max_dims=2), elements=EXTREME))
def test_extreme_steps_and_runs(image):
    np.testing.assert_array_equal(decode(plain_rvl.encode(image)), image)


def test_long_runs():
    for value in (0, 1, 65535):
        image = np.full((600, 700), value, np.uint16)
        np.testing.assert_array_equal(decode(plain_rvl.encode(image)), image)


def test_steps_of_whoever_counts_in_signed_16_bit():
    # 40000 is -25536 there: one step down, which is the same modulo 2^16
    code = struct.pack("<II", 1, 1) + plain_rvl.words([0, 1, 2 * 25536 - 1])
    assert decode(code).tolist() == [[40000]]


def test_messages_of_both_kinds():
    units = noisy_depth(12, 16)
    message = Message(format="16UC1; compressedDepth rvl", data=bytes(12) + plain_rvl.encode(units))
    depth = depth_image(message)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, units / 1000, rtol=1e-6)
    np.testing.assert_allclose(depth_image(message, 0.0002), units / 5000, rtol=1e-6)
    # as the publisher quantises: z0 = 100, farthest 10 m
    metres = np.where(units > 0, units / 400, 0)
    a = 100 * 101.0
    b = 1 - a / 10
    with np.errstate(divide="ignore"):
        inverse = np.where(metres > 0, a / metres + b, 0).astype(np.uint16)
    header = struct.pack("<iff", 0, a, b)
    data = header + plain_rvl.encode(inverse)
    depth = depth_image(Message(format="32FC1; compressedDepth rvl", data=data))
    np.testing.assert_array_equal(depth == 0, units == 0)
    np.testing.assert_allclose(depth, metres, rtol=2e-3)


def test_whatever_is_cut_off_is_missed():
    code = plain_rvl.encode(noisy_depth(12, 16))
    for length in range(len(code)):
        with pytest.raises(Unusable, match="compressed depth damaged: "):
            decode(code[:length])
    for length in (0, 11, 19):
        with pytest.raises(Unusable, match="compressed depth damaged: it is truncated"):
            depth_image(Message(format="16UC1; compressedDepth rvl", data=bytes(length)))


def test_what_follows_the_image_is_not_looked_at():
    image = noisy_depth(6, 8)
    code = plain_rvl.encode(image)
    for rest in (bytes(1), bytes(4000), b"\x11" * 10_000, b"\x88" * 4):
        np.testing.assert_array_equal(decode(code + rest), image)
    tail = bytes(50_000_000)
    np.testing.assert_array_equal(decode(code + tail), image)


@pytest.mark.parametrize(
    ("width", "height"),
    [(0, 5), (5, 0), (0, 0), (MOST_PIXELS + 1, 1), (2**16, 2**16), (2**32 - 1, 2**32 - 1)],
)
def test_a_size_that_cannot_be_is_refused(width, height):
    code = struct.pack("<II", width, height) + plain_rvl.words([width * height % 2**20, 0])
    with pytest.raises(Unusable, match=f"it says that it has {width}x{height} pixels"):
        decode(code)


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ([0, 0, 4, 0], "a run of nothing"),
        ([5, 0], "runs are longer than its size"),
        ([1, 4, 0, 0, 0, 0], "runs are longer than its size"),
        ([2**27, 0], "number that is too large"),
        ([2**27 - 1, 0], "runs are longer than its size"),
        ([0, 4, 2**27], "number that is too large"),
        ([1, 2, 3, 4], "a run of nothing"),
        ([0, 1, 1, 0, 1, 1, 0, 1], "truncated"),
        ([], "truncated"),
    ],
)
def test_a_code_that_cannot_be_is_refused(numbers, what):
    code = struct.pack("<II", 2, 2) + plain_rvl.words(numbers)
    with pytest.raises(Unusable, match=f"compressed depth damaged: it.* {what}"):
        decode(code)


def test_the_largest_size_needs_few_bytes_and_is_read():
    code = struct.pack("<II", MOST_PIXELS, 1) + plain_rvl.words([MOST_PIXELS, 0])
    assert len(code) == 16 and not decode(code).any()


def test_any_damage_costs_one_sentence():
    code = bytearray(plain_rvl.encode(noisy_depth(12, 16)))
    refused = 0
    for _ in range(500):
        changed = bytearray(code)
        for _ in range(RNG.integers(1, 4)):
            changed[RNG.integers(len(changed))] = RNG.integers(256)
        try:
            image = decode(bytes(changed))
        except Unusable as fault:
            refused += 1
            assert fault.reason == "compressed depth damaged" and len(fault.detail) < 80
        else:
            assert image.dtype == np.uint16 and image.ndim == 2
    assert refused > 100
