# SPDX-License-Identifier: Apache-2.0
"""Pairing in time: nearest partners, interpolated poses, nothing invented, everything counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from radseg_ros.config import NodeConfig, SyncConfig
from radseg_ros.datatypes import InputError
from radseg_ros.frames import transforms as transforms_module
from radseg_ros.frames.sync import FrameSync
from radseg_ros.frames.transforms import interpolate_pose

MS = 1_000_000


def pose(x: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    T[:3, :3] = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    return T


def add_pose(sync: FrameSync, stamp_ns: int, T: np.ndarray) -> list:
    sync.localizer.add_pose(stamp_ns, T)
    sync.see_pose(stamp_ns)
    return sync.complete()


def feed(sync: FrameSync, events: list) -> list:
    """Events are (kind, stamp in ms); images carry their stamp in ms, poses move 1 m/s along x."""
    matches = []
    for kind, ms in events:
        if kind == "pose":
            matches += add_pose(sync, ms * MS, pose(ms / 1000))
        else:
            matches += getattr(sync, f"add_{kind}")(ms * MS, ms)
    return matches


def nonzero(counts: dict) -> dict:
    return {kind: count for kind, count in counts.items() if count}


def test_an_image_that_is_sent_again_is_dropped():
    sync = FrameSync()
    frame = [("color", 100), ("depth", 100)]
    assert len(feed(sync, [("pose", 0), *frame, *frame, ("pose", 200), *frame])) == 1
    assert dict(sync.drops.items()) == {
        f"{kind} image with the stamp of another one": 2 for kind in ("colour", "depth")
    }


def test_a_recording_that_starts_again_is_used_again():
    recording = [
        event for ms in (0, 40, 2000) for event in (("pose", ms), ("color", ms), ("depth", ms))
    ]
    sync = FrameSync()
    assert len(feed(sync, 3 * recording)) == 9 and not sync.drops.total


def test_equal_stamps_match_at_once_with_the_pose_of_that_stamp():
    sync = FrameSync()
    matches = feed(sync, [("color", 100), ("depth", 100), ("pose", 100)])
    (match,) = matches
    assert (match.stamp_ns, match.color, match.depth) == (100 * MS, 100, 100)
    np.testing.assert_array_equal(match.T_world_camera, pose(0.1))
    assert sync.drops.total == 0


def test_the_pose_is_interpolated_at_the_depth_stamp():
    sync = FrameSync()
    add_pose(sync, 0, pose(0.0, 0))
    add_pose(sync, 100 * MS, pose(1.0, 90))
    (match,) = feed(sync, [("color", 25), ("depth", 25)])
    np.testing.assert_allclose(match.T_world_camera, pose(0.25, 22.5), atol=1e-12)


def test_interpolation_takes_the_shortest_arc():
    np.testing.assert_allclose(
        interpolate_pose(pose(0, 170), pose(0, -170), 0.5), pose(0, 180), atol=1e-12
    )


def test_the_camera_offset_is_applied_on_the_right():
    offset = pose(0.5, 90)
    sync = FrameSync(node=NodeConfig(camera_offset=offset.ravel().tolist()))
    add_pose(sync, 0, pose(2.0, 90))
    (match,) = feed(sync, [("color", 0), ("depth", 0)])
    np.testing.assert_allclose(match.T_world_camera, pose(2.0, 90) @ offset)
    assert match.T_world_camera[1, 3] == pytest.approx(0.5), (
        "half a metre ahead of a body that looks along y"
    )


def test_nothing_is_extrapolated():
    sync = FrameSync()
    assert not feed(sync, [("color", 0), ("depth", 0)]), "no pose at all: never identity"
    assert not feed(sync, [("pose", 10)]) and sync.drops["image pair older than every pose"] == 1
    assert not feed(sync, [("color", 20), ("depth", 20)]), "no pose behind the image yet"
    assert len(feed(sync, [("pose", 30)])) == 1


def test_a_pair_waits_for_its_pose_and_is_dropped_with_the_reason():
    sync = FrameSync(SyncConfig(pose_wait=0.2))
    assert not feed(sync, [("color", 0), ("depth", 0), ("color", 200), ("depth", 200)])
    assert sync.drops.total == 0
    assert not feed(sync, [("color", 201)])
    assert [reason for reason in sync.drops if "without a pose" in reason] and sync.drops.total == 1


def test_poses_too_far_apart_are_not_joined():
    sync = FrameSync(SyncConfig(max_pose_gap=0.1))
    assert not feed(sync, [("pose", 0), ("color", 100), ("depth", 100), ("pose", 150)])
    assert "more than 0.1 s apart" in next(iter(sync.drops))


def test_the_nearest_partner_wins_not_the_first():
    sync = FrameSync(SyncConfig(max_skew=0.02))
    matches = (
        feed(sync, [("pose", 0), ("pose", 100), ("color", 10), ("depth", 25), ("color", 30)])
        + sync.flush()
    )
    assert [(m.color, m.depth) for m in matches] == [(30, 25)]
    assert sync.drops["colour image without a depth image within 0.02 s"] == 1


def test_a_partner_beyond_the_skew_is_none():
    sync = FrameSync(SyncConfig(max_skew=0.02))
    assert not feed(sync, [("pose", 0), ("pose", 200), ("color", 10), ("depth", 31)]) + sync.flush()
    assert sync.drops.total == 2


def test_queues_are_bounded_and_say_what_is_missing():
    sync = FrameSync(SyncConfig(queue=5))
    feed(sync, [("color", 33 * i) for i in range(12)])
    assert sync.waiting["color"] == 5
    assert sync.drops["colour image without a depth image within 0.02 s"] == 7
    feed(sync, [("pose", 0), ("pose", 400), ("depth", 198)])
    assert sync.waiting["depth"] == 0, "the oldest had to go"
    assert [m.color for m in feed(sync, [("depth", 231)])] == [231], "the newest five are there"


def test_an_offset_that_is_no_rotation_is_refused():
    with pytest.raises(InputError, match="T_body_camera"):
        FrameSync(node=NodeConfig(camera_offset=np.diag([1.0, 1, -1, 1]).ravel().tolist()))


def test_time_running_backwards_starts_anew():
    sync = FrameSync()
    events = [(kind, 100 * i) for i in range(50) for kind in ("color", "depth", "pose")]
    assert len(feed(sync, events)) == 50
    feed(sync, [("color", 5000), ("depth", 5000)])  # waits for its pose when the bag starts again
    again = feed(sync, events)
    assert len(again) == 50 and sync.jumps >= 1
    assert sync.drops["image that waited while time went backwards"] == 1
    assert [m.stamp_ns for m in again] == [100 * MS * i for i in range(50)]


def test_one_topic_that_is_still_in_the_old_time_does_not_hurt_the_new_one():
    sync = FrameSync()
    feed(sync, [(kind, 100 * i) for i in range(50) for kind in ("color", "depth", "pose")])
    matches = feed(
        sync,
        [
            ("color", 0),
            ("depth", 0),
            ("pose", 5000),
            ("pose", 0),
            ("color", 100),
            ("depth", 100),
            ("pose", 100),
        ],
    )
    assert [m.stamp_ns for m in matches] == [0, 100 * MS]


def test_late_and_repeated_images_are_counted():
    sync = FrameSync()
    feed(sync, [("pose", 0), ("pose", 400), ("color", 200), ("depth", 200)])
    assert (
        not feed(sync, [("color", 100)])
        and sync.drops["colour image that came after later ones had been used"] == 1
    )
    assert (
        not feed(sync, [("color", 300), ("color", 300)])
        and sync.drops["colour image with the stamp of another one"] == 1
    )


def test_a_jump_back_keeps_what_is_not_later():
    sync = FrameSync()
    feed(sync, [("color", 5000), ("pose", 5000), ("color", 300), ("pose", 5100)])
    assert nonzero(sync.waiting) == {"color": 1, "pose": 2}, "poses may go on"
    feed(sync, [("pose", 300)])  # the poses jump as well, to the stamp of what already waits
    assert nonzero(sync.waiting) == {"color": 1, "pose": 1}
    assert sync.drops.total == 1 and sync.jumps == 2
    assert [m.color for m in feed(sync, [("depth", 300)])] == [300]


def test_a_jump_is_farther_than_any_delay_explains():
    config = SyncConfig(max_pose_gap=0.3, pose_wait=0.2)
    for back, jumps in ((500, 0), (501, 1)):
        sync = FrameSync(config)
        feed(sync, [("color", 5000), ("color", 5000 - back)])
        assert sync.jumps == jumps and sync.waiting["color"] == 2 - jumps
        feed(sync, [("color", 5400 - back)])
        assert sync.jumps == jumps, "the newest stamp counts, not the last"


def test_a_jump_to_the_last_match_does_not_void_it():
    late = "depth image that came after later ones had been used"
    for again, dropped in ((100, 1), (99, 0)):
        sync = FrameSync()
        feed(sync, [("pose", 0), ("pose", 200), ("color", 100), ("depth", 100), ("color", 5000)])
        feed(sync, [("color", again), ("depth", 80)])
        assert sync.jumps == 1 and sync.drops[late] == dropped


def test_a_jump_keeps_what_the_other_topics_have_seen_by_then():
    sync = FrameSync()
    feed(sync, [("depth", 3000), ("color", 5000), ("color", 3000), ("depth", 1000)])
    assert sync.jumps == 2


def test_pairs_without_a_pose_are_bounded():
    sync = FrameSync(SyncConfig(queue=3, pose_wait=3600))
    for i in range(5):
        feed(sync, [("color", 100 * i), ("depth", 100 * i)])
        waiting = min(i + 1, 3)
        assert sync.waiting == {
            "color": waiting,
            "depth": waiting,
            "pose": 0,
            "tf": 0,
            "tf_static": 0,
        }
    assert dict(sync.drops.items()) == {
        "image pair without a pose at or behind it within 3600 s": 2
    }
    matches = feed(sync, [("pose", 200), ("pose", 400)])
    assert [m.color for m in matches] == [200, 300, 400], "the newest are kept"


def test_limits_are_included():
    config = SyncConfig(max_skew=0.02, max_pose_gap=0.1, pose_wait=0.1)
    for late, used in ((0, 1), (1, 0)):
        sync = FrameSync(config)
        feed(sync, [("pose", 0), ("pose", 100), ("color", 10), ("depth", 30 + late)])
        assert len(sync.flush()) == used, "skew"
        sync = FrameSync(config)
        feed(sync, [("pose", 0), ("color", 50), ("depth", 50)])
        assert len(feed(sync, [("pose", 100 + late)])) == used, "gap between poses"
        sync = FrameSync(config)
        feed(sync, [("pose", 0), ("color", 50), ("depth", 50), ("color", 150 + late)])
        assert len(feed(sync, [("pose", 90)])) == used, "wait for a pose"


def test_a_nanosecond_is_a_difference():
    sync = FrameSync()
    feed(sync, [("pose", 0), ("pose", 100)])
    sync.add_color(MS, "color")
    assert not sync.add_depth(MS + 1, "depth"), "a nearer colour image may come"
    (match,) = sync.add_color(MS + 1, "nearer")
    assert match.color == "nearer"


def test_an_image_is_late_only_beyond_the_skew():
    sync = FrameSync()
    feed(sync, [("pose", 0), ("pose", 400), ("color", 200), ("depth", 200)])
    assert not feed(sync, [("color", 181), ("depth", 180)]) and sync.drops.total == 1
    assert sync.waiting["color"] == 1


def test_poses_of_one_stamp_are_one_pose():
    sync = FrameSync()
    feed(sync, [("pose", 0), ("pose", 100), ("pose", 100), ("pose", 50), ("pose", 50), ("pose", 0)])
    assert sync.waiting["pose"] == 3 and sync.ledger.superseded["pose"] == 3
    (match,) = feed(sync, [("color", 75), ("depth", 75)])
    assert match.T_world_camera[0, 3] == pytest.approx(0.075)


def test_old_poses_are_forgotten_in_portions():
    sync = FrameSync(SyncConfig(pose_history=1.0))
    for i in range(1000):
        feed(sync, [("pose", 10 * i)])
        assert sync.waiting["pose"] + sync.ledger.superseded["pose"] == i + 1
        if i == 200:
            assert sync.waiting["pose"] == 201
        if i == 201:
            assert sync.waiting["pose"] == 101, "one second and its ends"
    assert sync.waiting["pose"] <= 201


def test_dense_poses_are_bounded(monkeypatch):
    monkeypatch.setattr(transforms_module, "MAX_POSES", 50)
    sync, kept = FrameSync(), []
    for i in range(500):
        add_pose(sync, i, pose())
        kept.append(sync.waiting["pose"])
    assert max(kept) == 50 and min(kept[50:]) == 45 and kept[50] == 45
    assert len(sync.add_color(499, "c") + sync.add_depth(499, "d")) == 1, "the newest are kept"


def test_a_reset_forgets_poses_only_if_asked_to():
    for poses, left in ((False, 2), (True, 0)):
        sync = FrameSync()
        feed(sync, [("pose", 0), ("pose", 100), ("color", 50), ("color", 300), ("depth", 300)])
        sync.clear("because")
        if poses:
            sync.localizer.forget()
        assert nonzero(sync.waiting) == ({"pose": left} if left else {})
        assert dict(sync.drops.items()) == {
            "because": 1,
            "colour image without a depth image within 0.02 s": 1,
        }
        assert sync.ledger.dropped == {"color": 2, "depth": 1}
        assert len(feed(sync, [("color", 70), ("depth", 70)])) == (0 if poses else 1)


def reference(color: list, depth: list, poses: list, config: SyncConfig) -> list:
    """Greedy in time: the earliest mutually nearest images within the skew, between poses."""
    color, depth, result = sorted(color), sorted(depth), []
    while color and depth:
        c, d = color[0], depth[0]
        gap = abs(c - d)
        if c != d:
            early, late = (color, d) if c < d else (depth, c)
            if gap > config.max_skew * 1000 or (len(early) > 1 and abs(early[1] - late) < gap):
                early.pop(0)
                continue
        color, depth = color[1:], depth[1:]
        before = [p for p in poses if p <= d]
        after = [p for p in poses if p >= d]
        if (
            before
            and after
            and (before[-1] == d or after[0] - before[-1] <= config.max_pose_gap * 1000)
        ):
            result.append((c, d))
    return result


def around(poses: list, stamp: int) -> list:
    """The poses that the pose at ``stamp`` comes from."""
    return (
        [stamp]
        if stamp in poses
        else [
            max(p for p in poses if p < stamp),
            min(p for p in poses if p > stamp),
        ]
    )


stamps = st.lists(st.integers(0, 400), min_size=0, max_size=12, unique=True).map(sorted)


@settings(max_examples=150)
@given(color=stamps, depth=stamps, poses=stamps, data=st.data())
def test_any_interleaving_of_the_topics_gives_the_reference(color, depth, poses, data):
    """Each topic keeps its order; the topics may be delayed against each other as they like."""
    config = SyncConfig(max_skew=0.03, max_pose_gap=0.15, pose_wait=1.0)
    queues = {"color": list(color), "depth": list(depth), "pose": list(poses)}
    sync, matches = FrameSync(config), []
    while any(queues.values()):
        kind = data.draw(st.sampled_from([k for k, q in queues.items() if q]))
        matches += feed(sync, [(kind, queues[kind].pop(0))])
    matches += sync.flush()
    assert [(m.color, m.depth) for m in matches] == reference(color, depth, poses, config)
    for match in matches:
        assert match.T_world_camera[0, 3] == pytest.approx(match.depth / 1000)
    dropped = sync.ledger.dropped
    assert len(matches) + dropped["color"] == len(color), "every image is used or counted"
    assert len(matches) + dropped["depth"] == len(depth)
    counted = sum(count * (2 if "pair" in reason else 1) for reason, count in sync.drops.items())
    assert counted == sum(dropped.values()), "a pair is one reason"
    used = {p for m in matches for p in around(poses, m.depth)}
    assert sync.ledger.used["pose"] == len(used)
    assert sync.waiting["pose"] == len(poses) - len(used)


def test_flush_decides_the_last_pair():
    for order in itertools.permutations([("color", 10), ("depth", 12), ("pose", 12)]):
        sync = FrameSync()
        assert len(feed(sync, list(order)) + sync.flush()) == 1


def test_of_two_equally_near_partners_the_earlier_one_is_taken():
    sync = FrameSync()
    add_pose(sync, 10 * MS, pose())
    (match,) = feed(sync, [("color", 0), ("color", 20), ("depth", 10)])
    assert (match.color, match.depth) == (0, 10)


def test_a_full_queue_of_pairs_loses_its_oldest_one_only():
    sync = FrameSync(SyncConfig(queue=3))
    pairs = [(kind, ms) for ms in (0, 10, 20) for kind in ("color", "depth")]
    feed(sync, pairs)
    assert sync.waiting["depth"] == 3 and not sync.drops.total
    feed(sync, [("color", 30), ("depth", 30)])
    assert sync.waiting["depth"] == 3 and sync.drops.total == 1
    assert [match.depth for match in feed(sync, [("pose", 10), ("pose", 30)])] == [10, 20, 30]


def test_a_topic_that_stands_where_another_one_jumped_back_to_can_jump_too():
    sync = FrameSync()
    feed(sync, [("color", 5000), ("depth", 60_000), ("depth", 5000)])
    assert sync.jumps == 1
    feed(sync, [("color", 0)])
    assert sync.jumps == 2
