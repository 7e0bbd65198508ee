# SPDX-License-Identifier: Apache-2.0
"""Wrong shapes, types and poses are refused where a Frame is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radseg_ros.datatypes import FeatureMap, Frame, InputError, brief

GOOD = {
    "stamp_ns": 5,
    "rgb": np.zeros((6, 8, 3), np.uint8),
    "depth": np.ones((3, 4), np.float32),
    "K": np.array([[4.0, 0, 1.5], [0, 4, 1], [0, 0, 1]]),
    "T_world_camera": np.eye(4),
}


def make(**changes) -> Frame:
    return Frame(**{**GOOD, **changes})


def test_good_frame_is_normalised():
    frame = make(depth=np.ones((3, 4), np.float64), T_world_camera=np.eye(4, dtype=np.float32))
    assert frame.depth.dtype == np.float32 and frame.T_world_camera.dtype == np.float64


def pose_with(row: int, column: int, value: float) -> np.ndarray:
    T = np.eye(4)
    T[row, column] = value
    return T


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": np.zeros((0, 8, 3), np.uint8)}, "non-empty"),
        ({"rgb": np.zeros((6, 8), np.uint8)}, r"\(H, W, 3\)"),
        ({"rgb": np.zeros((6, 8, 3), np.int32)}, "uint8"),
        ({"rgb": np.full((6, 8, 3), 2.0, np.float32)}, "uint8"),
        ({"depth": np.zeros((3, 4), np.uint16)}, "metres"),
        ({"depth": np.zeros((3, 4, 1), np.float32)}, r"\(h, w\)"),
        ({"depth": np.zeros((3, 0), np.float32)}, "non-empty"),
        ({"K": np.eye(4)}, "3x3"),
        ({"K": np.zeros((3, 3))}, "positive focal"),
        ({"T_world_camera": np.eye(3)}, "4x4"),
        ({"T_world_camera": pose_with(0, 0, 2.0)}, "rigid"),
        ({"T_world_camera": pose_with(0, 0, -1.0)}, "rigid"),
        ({"T_world_camera": pose_with(3, 0, 1.0)}, "rigid"),
        ({"T_world_camera": pose_with(0, 3, -np.inf)}, "finite"),
    ],
)
def test_bad_frames_are_refused_with_the_reason(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_feature_map_needs_three_dimensions():
    assert FeatureMap(torch.zeros(5, 2, 3)).channels == 5
    with pytest.raises(InputError, match=r"\(C, h, w\)"):
        FeatureMap(torch.zeros(1, 5, 2, 3))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("map", "map"),
        ("caméra 1", "caméra 1"),
        ("a\nb\r\n  c\t", "a b c"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("a\u2028b", "a b"),
        ("", ""),
        (12, "12"),
        ("x" * 21, "x" * 17 + "..."),
        ("x" * 20, "x" * 20),
        ("\0" * 19, r"\x00" * 4 + r"\..."),
        ("x" * 10**7, "x" * 17 + "..."),
    ],
)
def test_what_comes_from_outside_is_shown_on_one_bounded_line(text, shown):
    assert brief(text, 20) == shown
    assert len(brief(text, 20)) <= 20 and brief(text, 20).isprintable()
