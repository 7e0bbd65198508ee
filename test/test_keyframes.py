# SPDX-License-Identifier: Apache-2.0
"""Which frames are used: poses and stamps with known distances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from radseg_ros.config import NodeConfig
from radseg_ros.frames.keyframes import FAST, NEAR, KeyFrames

MS = 1_000_000


def pose(x: float = 0.0, degrees: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    T[0, 3] = x
    return T


def used(config: NodeConfig, *frames: tuple[int, np.ndarray]) -> list[str]:
    keys = KeyFrames()
    return [keys.skip(stamp, T, config) for stamp, T in frames]


def test_without_options_every_frame_is_used():
    assert used(NodeConfig(), (5, pose()), (5, pose()), (3, pose())) == ["", "", ""]


@pytest.mark.parametrize(
    ("x", "degrees", "reason"),
    [(0.19, 9.9, NEAR), (0.21, 0.0, ""), (0.0, 10.1, ""), (-0.3, 20.0, ""), (0.0, 180.0, "")],
)
def test_a_frame_is_new_when_it_moved_or_turned(x, degrees, reason):
    config = NodeConfig(keyframe_distance=0.2, keyframe_angle=10.0)
    assert used(config, (0, pose(1.0, 30.0)), (1, pose(1.0 + x, 30.0 + degrees))) == ["", reason]


def test_distance_is_measured_from_the_last_frame_that_was_used():
    config = NodeConfig(keyframe_distance=0.25)
    xs = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    reasons = used(config, *((i, pose(x)) for i, x in enumerate(xs)))
    assert [x for x, reason in zip(xs, reasons, strict=True) if not reason] == [0.0, 0.3, 0.6]


def test_the_rate_is_kept_on_average_although_stamps_jitter():
    rng = np.random.default_rng(0)
    stamps = (np.arange(300) / 30 * 1e9 + rng.integers(-3 * MS, 3 * MS, 300)).astype(int)
    reasons = used(NodeConfig(max_rate=10.0), *((int(s), pose()) for s in stamps))
    assert 98 <= reasons.count("") <= 101 and reasons.count(FAST) + reasons.count("") == 300


def test_a_rate_that_is_raised_counts_at_once():
    keys = KeyFrames()
    assert [keys.skip(0, pose(), NodeConfig(max_rate=0.01))] == [""]
    assert keys.skip(200 * MS, pose(), NodeConfig(max_rate=0.01)) == FAST
    assert keys.skip(200 * MS, pose(), NodeConfig(max_rate=10.0)) == ""


def test_a_recording_that_starts_again_begins_anew():
    config = NodeConfig(keyframe_distance=0.2, max_rate=1.0)
    frames = [(9_000 * MS, pose()), (1_000 * MS, pose()), (1_500 * MS, pose(0.1))]
    assert used(config, *frames, (1_500 * MS, pose(0.5))) == ["", "", NEAR, FAST]


def test_what_was_forgotten_is_near_to_nothing():
    keys, config = KeyFrames(), NodeConfig(keyframe_distance=1.0)
    assert [keys.skip(i, pose(), config) for i in range(2)] == ["", NEAR]
    keys.forget()
    assert keys.skip(3, pose(), config) == ""
