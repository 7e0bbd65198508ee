# SPDX-License-Identifier: Apache-2.0
"""Transforms between frames, against answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from radseg_ros.config import SyncConfig
from radseg_ros.frames import transforms as transforms_module
from radseg_ros.frames.drops import Unusable
from radseg_ros.frames.ledger import Ledger
from radseg_ros.frames.transforms import NotConnected, NotYet, Transforms

MS = 1_000_000


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    T[:3, :3] = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    return T


def robot(until_ms: int = 1000, **options: float) -> Transforms:
    """odom 10 m beside map; the base drives 1 m/s along odom's x; the camera sits on it."""
    buffer = Transforms(SyncConfig(**options))
    buffer.add("base_link", "camera_link", 0, at(0.2, 0, 0.5), static=True)
    buffer.add("camera_link", "optical", 0, OPTICAL, static=True)
    for ms in range(0, until_ms + 1, 100):
        buffer.add("map", "odom", ms * MS, at(0, 10))
        buffer.add("odom", "base_link", ms * MS, at(ms / 1000))
    return buffer


OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # REP 103


def test_a_chain_of_moving_and_static_transforms():
    T = robot().lookup("map", "optical", 350 * MS)
    np.testing.assert_allclose(T[:3, 3], (0.55, 10, 0.5), atol=1e-12)
    np.testing.assert_allclose(T[:3, :3], OPTICAL[:3, :3], atol=1e-12)
    # 2 m ahead of the lens is 2 m along map's x
    np.testing.assert_allclose(T @ (0, 0, 2, 1), (2.55, 10, 0.5, 1), atol=1e-12)


def test_down_a_branch_and_between_branches():
    buffer = robot()
    buffer.add("base_link", "lidar", 0, at(-0.3, 0, 1.0, yaw_deg=90), static=True)
    T = buffer.lookup("lidar", "camera_link", 350 * MS)  # (0.5, 0, -0.5) seen by one who looks left
    np.testing.assert_allclose(T[:3, 3], (0, -0.5, -0.5), atol=1e-12)
    back = buffer.lookup("camera_link", "lidar", 350 * MS)
    np.testing.assert_allclose(back @ T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(buffer.lookup("optical", "map", 0)[:3, 3], (10, 0.5, -0.2))
    np.testing.assert_array_equal(buffer.lookup("map", "map", 350 * MS), np.eye(4))


def test_rotations_are_interpolated_along_the_shortest_arc():
    buffer = Transforms()
    buffer.add("map", "base", 0, at(0, yaw_deg=170))
    buffer.add("map", "base", 100 * MS, at(1, yaw_deg=-170))
    T = buffer.lookup("map", "base", 25 * MS)
    np.testing.assert_allclose(T, at(0.25, yaw_deg=175), atol=1e-12)


def test_the_order_of_arrival_does_not_matter():
    moments = list(range(0, 1001, 100))
    buffer = Transforms()
    for ms in np.random.default_rng(0).permutation(moments):
        buffer.add("map", "base", int(ms) * MS, at(ms / 1000))
    for ms in (0, 40, 550, 999, 1000):
        T = buffer.lookup("map", "base", ms * MS)
        np.testing.assert_allclose(T[0, 3], ms / 1000, atol=1e-12)


def test_a_late_transform_is_waited_for_and_nothing_is_extrapolated():
    buffer = robot()
    with pytest.raises(NotYet, match="transform of 'base_link' at or behind it"):
        buffer.lookup("map", "optical", 1050 * MS)
    buffer.add("odom", "base_link", 1100 * MS, at(1.1))
    with pytest.raises(NotYet, match="transform of 'odom' at or behind it"):
        buffer.lookup("map", "optical", 1050 * MS)
    buffer.add("map", "odom", 1100 * MS, at(0, 10))
    assert buffer.lookup("map", "base_link", 1050 * MS)[0, 3] == pytest.approx(1.05)


def test_what_will_never_be_known():
    buffer = Transforms()
    for ms in (1000, 1100, 2000):
        buffer.add("map", "base", ms * MS, at())
    for ms, why in ((900, "older than every transform of 'base'"), (1500, "more than 0.5 s apart")):
        with pytest.raises(Unusable, match=why) as caught:
            buffer.lookup("map", "base", ms * MS)
        assert not isinstance(caught.value, NotYet)


def test_frames_that_nothing_joins():
    with pytest.raises(NotConnected, match="nothing came on /tf"):
        Transforms().lookup("map", "camera", 0)
    buffer = robot()
    with pytest.raises(NotConnected, match="'lidar' is in no transform; roots: 'map'"):
        buffer.lookup("map", "lidar", 0)
    buffer.add("world", "lidar", 0, at(), static=True)
    with pytest.raises(NotConnected, match="'map' is below 'map' and 'lidar' is below 'world'"):
        buffer.lookup("map", "lidar", 0)


def test_a_static_transform_is_of_all_times_and_the_newest_counts():
    buffer = Transforms()
    for stamp, x in ((900 * MS, 1.0), (0, 2.0)):
        buffer.add("base", "camera", stamp, at(x), static=True)
        for ms in (0, 10**9):
            assert buffer.lookup("base", "camera", ms * MS)[0, 3] == x


def test_circles_are_refused():
    buffer = robot()
    for parent, child in (("optical", "map"), ("base_link", "map"), ("lone", "lone")):
        with pytest.raises(Unusable, match="closes a circle"):
            buffer.add(parent, child, 0, at())
    assert buffer.lookup("map", "optical", 350 * MS)[1, 3] == 10


def test_a_second_parent_is_refused_until_the_first_is_silent():
    buffer = robot()
    with pytest.raises(Unusable, match="'base_link' is in 'odom' and would be in 'map': two"):
        buffer.add("map", "base_link", 1000 * MS, at())
    with pytest.raises(Unusable, match="second parent"):
        buffer.add("map", "optical", 10**9 * MS, at(), static=True)
    with pytest.raises(Unusable, match="both static and moving"):
        buffer.add("camera_link", "optical", 1000 * MS, at())
    buffer.add("map", "base_link", 12_000 * MS, at(3))  # 11 s later: another program took over
    assert buffer.lookup("map", "base_link", 12_000 * MS)[0, 3] == 3


def test_a_recording_that_starts_again():
    buffer = robot(5000)
    buffer.add("map", "odom", 0, at(0, 20))
    buffer.add("map", "odom", 100 * MS, at(0, 20))
    with pytest.raises(NotYet):
        buffer.lookup("map", "odom", 300 * MS)
    buffer.forget()
    with pytest.raises(NotYet):
        buffer.lookup("map", "optical", 50 * MS)
    assert buffer.lookup("base_link", "optical", 50 * MS)[2, 3] == 0.5, "static ones stay"


def test_time_and_number_are_bounded(monkeypatch):
    monkeypatch.setattr(transforms_module, "MAX_FRAMES", 20)
    monkeypatch.setattr(transforms_module, "MAX_POSES", 400)
    ledger, added = Ledger(), 0
    buffer = Transforms(SyncConfig(pose_history=2.0), ledger)
    for ms in range(0, 10_000, 100):
        for i in range(30):
            try:
                buffer.add("map", f"frame{i}", ms * MS, at())
            except Unusable as fault:
                assert i >= 20 and fault.reason == "transform of more than 20 frames"
            else:
                added += 1
    assert len(buffer) == 20 and buffer.waiting["tf"] <= 400 + 20
    assert added == buffer.waiting["tf"] + ledger.superseded["tf"]
    with pytest.raises(Unusable, match="older than every"):
        buffer.lookup("map", "frame0", 6500 * MS)


def test_each_transform_is_counted_once():
    ledger = Ledger()
    buffer = Transforms(ledger=ledger)
    buffer.add("base", "camera", 0, at(), static=True)
    for ms in (0, 100, 100, 200):
        buffer.add("map", "base", ms * MS, at())
    with pytest.raises(NotYet):
        buffer.lookup("map", "camera", 250 * MS)
    assert not ledger.used, "what did not lead to an answer was not used"
    for _ in range(2):
        buffer.lookup("map", "camera", 50 * MS)
    assert ledger.used == {"tf": 2, "tf_static": 1} and ledger.superseded["tf"] == 1
    assert buffer.waiting == {"tf": 1, "tf_static": 0}


def test_the_newest_moment_is_the_last_that_all_know():
    buffer = robot()
    buffer.add("odom", "base_link", 1050 * MS, at(1.05))  # map in odom: 1000
    T, moment_ns = buffer.newest("map", "base_link")
    assert moment_ns == 1000 * MS
    np.testing.assert_allclose(T[:3, 3], (1.0, 10, 0), atol=1e-12)
    back, _ = buffer.newest("base_link", "map")
    np.testing.assert_allclose(back @ T, np.eye(4), atol=1e-12)
    T, moment_ns = buffer.newest("base_link", "optical")
    assert moment_ns == 0 and T[0, 3] == 0.2
    assert buffer.newest("map", "map")[1] == 0
    with pytest.raises(NotConnected):
        buffer.newest("map", "nowhere")
    buffer.forget()
    with pytest.raises(NotYet):
        buffer.newest("map", "base_link")
