# SPDX-License-Identifier: Apache-2.0
"""Nothing that was received is lost: for any sequence of messages, in any order and of any quality,
received = used + superseded + waiting + dropped, for each kind and at every moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_messages import Message, image, info, pair, pose, transforms

from radseg_ros.config import SyncConfig
from radseg_ros.frames.assemble import KINDS, Assembler
from radseg_ros.frames.decode import Damaged
from radseg_ros.frames.drops import Unusable
from radseg_ros.frames.ledger import IMAGES, Account, Ledger, input_name
from radseg_ros.frames.sync import FrameSync

MS = 1_000_000
SMALL = SyncConfig(max_skew=0.02, max_pose_gap=0.15, pose_wait=0.1, pose_history=0.4, queue=3)


def even(accounts: dict[str, Account]) -> None:
    """Every account comes out even, and nothing is negative."""
    for kind, a in accounts.items():
        parts = (a.used, a.superseded, a.waiting, a.dropped)
        assert min(parts) >= 0 and a.received == sum(parts), (kind, a)


def made(kind: str, ms: int) -> Message:
    """A good message."""
    if kind in ("tf", "tf_static"):
        return transforms((ms, "odom" if ms % 2 else "map", "map"))
    make = {"color": image, "depth": lambda at: image(at, "16UC1"), "pose": pose}
    return info() if kind == "info" else make[kind](ms)


def at(sec: object, nanosec: object, frame: object = "map") -> Message:
    return Message(header=Message(stamp=Message(sec=sec, nanosec=nanosec), frame_id=frame))


GARBAGE = {
    "no field": Message(),
    "nothing": None,
    "no header": Message(header=None),
    "no stamp": Message(header=Message(stamp="now", frame_id="map")),
    "before time": at(-1, 0),
    "after time": at(2**40, 0),
    "too many nanoseconds": at(1, 10**9),
    "stamp that is none": at(float("nan"), 0),
    "stamp only": at(0, 100 * MS),
    "name without end": pose(100, frame="x" * 1_000_000),
    "two lines": pose(100, frame="map\nERROR forged"),
    "other frame": pose(100, frame="odom"),
    "no rotation": pose(100, w=0.0),
    "not finite": pose(100, x=float("inf")),
    "no calibration": info([0.0] * 9),
    "calibration of text": info(["a"] * 9),
    "damaged": Damaged(Unusable("message damaged", "cut")),
    "damaged, with its stamp": Damaged(Unusable("message damaged", "cut"), (0, 100 * MS)),
}

stamps = st.integers(0, 20).map(lambda i: 25 * i) | st.integers(0, 600)
jumps = st.sampled_from([0, 5_000, 100_000, 2_000_000_000])  # ms; the last is far in the future
good = st.tuples(st.just("good"), st.sampled_from(KINDS), stamps, jumps)
bad = st.tuples(st.just("bad"), st.sampled_from(KINDS), st.sampled_from(sorted(GARBAGE)))
control = st.tuples(st.sampled_from(["clear", "reset", "flush"]))
rounds = st.tuples(st.sampled_from(["frame", "frame without info"]), stamps)


class Tally:
    """An assembler of several cameras or robots, and all that is sent to it."""

    def __init__(self, assembler: Assembler, cameras: Iterable[str]) -> None:
        self.assembler, self.cameras = assembler, cameras
        self.sent: Counter[str] = Counter()  # by input
        self.hand: list[Any] = []  # frames of which nobody knows yet what becomes

    def send(self, kind: str, message: Any, source: str) -> None:
        several = isinstance(message, Message) and hasattr(message, "transforms")
        self.sent[input_name(kind, source)] += len(message.transforms) if several else 1
        self.hand += self.assembler.add(kind, message, source)

    def meet(self, event: str, *rest: str) -> None:
        """What happens to it beside messages."""
        if event == "left out":
            kind, source = rest
            self.sent[input_name(kind, source)] += 1
            self.assembler.leave_out(kind, "paused", source)
        elif event == "flush":
            self.hand += self.assembler.flush()
        else:
            self.assembler.clear("because", forget_frame=event == "reset")

    def go_on(self, data: st.DataObject) -> None:
        """Some frames are mapped, or lost; every account is even at every moment."""
        even(self.assembler.accounts())
        while self.hand and data.draw(st.booleans()):
            camera = self.hand.pop().camera
            if data.draw(st.booleans()):
                self.assembler.used(camera)
            else:
                self.assembler.drop(RuntimeError("encoder"), camera=camera)
            even(self.assembler.accounts())

    def check(self) -> None:
        """All that was sent is accounted for, and what waits is bounded."""
        accounts = self.assembler.accounts()
        assert {name: account.received for name, account in accounts.items()} == {
            name: self.sent[name] for name in accounts
        }
        for camera in self.cameras:
            in_hand = sum(o.camera == camera for o in self.hand)
            assert self.assembler.in_hand(camera) == in_hand
            assert accounts[f"{camera}/color"].waiting <= 3 * SMALL.queue + in_hand


@settings(max_examples=250)
@given(st.lists(good | good | good | rounds | rounds | bad | control, max_size=60), st.data())
def test_any_sequence_of_messages_is_accounted_for(events, data):
    assembler, sent, hand = Assembler(SMALL), Counter(), []
    for event, *rest in events:
        if event == "good":
            kind, ms, jump = rest
            sent[kind] += 1
            hand += assembler.add(kind, made(kind, ms + jump))
        elif event in ("frame", "frame without info"):
            for kind in KINDS:
                if kind != "info" or event == "frame":
                    sent[kind] += 1
                    hand += assembler.add(kind, made(kind, rest[0]))
        elif event == "bad":
            sent[rest[0]] += 1
            hand += assembler.add(rest[0], GARBAGE[rest[1]])
        elif event == "flush":
            hand += assembler.flush()
            assert all(assembler.accounts()[kind].waiting == len(hand) for kind in IMAGES)
        else:
            assembler.clear("because", forget_frame=event == "reset")
        even(assembler.accounts())
        while hand and data.draw(st.booleans()):
            hand.pop()
            if data.draw(st.booleans()):
                assembler.used()
            else:
                assembler.drop(RuntimeError("encoder"))
            even(assembler.accounts())
    accounts = assembler.accounts()
    assert {kind: a.received for kind, a in accounts.items()} == {k: sent[k] for k in KINDS}
    dropped = sum(a.dropped for a in accounts.values())
    assert assembler.drops.total <= dropped <= 2 * assembler.drops.total, "a pair is one reason"
    assert len(assembler.drops.items()) < 30, "reasons are categories"
    # what waits is bounded
    assert accounts["color"].waiting <= 3 * SMALL.queue + len(hand)
    assert accounts["info"].waiting <= 1


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["color", "depth", "pose"]), stamps, jumps), max_size=80))
def test_pairing_loses_nothing(events):
    ledger, fed, matched = Ledger(), Counter(), 0
    sync = FrameSync(SMALL, ledger=ledger)
    for kind, ms, jump in events:
        fed[kind] += 1
        stamp, thing = (ms + jump) * MS, np.eye(4) if kind == "pose" else object()
        if kind == "pose":
            sync.localizer.add_pose(stamp, thing)
            sync.see_pose(stamp)
            matched += len(sync.complete())
        else:
            matched += len(getattr(sync, f"add_{kind}")(stamp, thing))
        for image_kind in ("color", "depth"):
            known = matched + sync.waiting[image_kind] + ledger.dropped[image_kind]
            assert fed[image_kind] == known
        poses = ledger.used["pose"] + ledger.superseded["pose"] + sync.waiting["pose"]
        assert fed["pose"] == poses
        assert sync.waiting["color"] <= 2 * SMALL.queue and sync.waiting["depth"] <= 2 * SMALL.queue
    matched += len(sync.flush())
    assert sync.waiting["color"] == sync.waiting["depth"] == 0
    assert all(matched + ledger.dropped[kind] == fed[kind] for kind in ("color", "depth"))


def test_what_becomes_of_poses_and_camera_infos():
    assembler = Assembler()
    for kind, message in (("info", info()), ("info", info()), *pair(100)):
        assembler.add(kind, message)
    for ms in (0, 50, 150, 200):
        assembler.add("pose", pose(ms))
    assembler.add("pose", pose(150))
    accounts = assembler.accounts()
    assert accounts["pose"] == Account(received=5, used=2, waiting=2, dropped=0, superseded=1)
    assert accounts["info"] == Account(received=2, used=1, waiting=0, dropped=0, superseded=1)
    assembler.add("info", info())
    assert assembler.accounts()["info"] == Account(3, used=1, waiting=1, dropped=0, superseded=1)
    for observation in assembler.add("color", image(150)) + assembler.add(
        "depth", image(150, "16UC1")
    ):
        assert observation.match.stamp_ns == 150 * MS
    assert assembler.accounts()["pose"].used == 2, "a pose is used once, however many frames it has"
    assert assembler.accounts()["info"] == Account(3, used=2, waiting=0, dropped=0, superseded=1)
    assembler.clear("reset", forget_frame=True)
    assert assembler.accounts()["pose"] == Account(5, used=2, waiting=0, dropped=0, superseded=3)


def test_what_is_left_out_unseen_is_received_and_dropped():
    assembler = Assembler()
    for kind in ("color", "depth", "color"):
        assembler.leave_out(kind, "paused")
    assert assembler.accounts()["color"] == Account(received=2, used=0, waiting=0, dropped=2)
    assert assembler.accounts()["depth"] == Account(received=1, used=0, waiting=0, dropped=1)
    assert dict(assembler.drops.items()) == {"paused": 3}


def test_a_dropped_pair_is_one_reason_and_two_images():
    assembler = Assembler()
    for kind, message in pair(0):
        assembler.add(kind, message)
    assembler.flush()
    assert assembler.drops.total == 1
    assert [assembler.accounts()[kind].dropped for kind in ("color", "depth")] == [1, 1]


def test_a_frame_in_hand_waits_until_it_is_told_what_became_of_it():
    assembler = Assembler()
    for kind, message in (("info", info()), *pair(0), *pair(100), *pair(200)):
        assembler.add(kind, message)
    for ms in (0, 100, 200):
        assert len(assembler.add("pose", pose(ms))) == 1
    assert assembler.accounts()["color"] == Account(3, used=0, waiting=3, dropped=0)
    assembler.used()
    assembler.drop("busy", 1)
    assembler.drop("nothing", 0)
    assert assembler.accounts()["depth"] == Account(3, used=1, waiting=1, dropped=1)
    assert dict(assembler.drops.items()) == {"busy": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", sorted(GARBAGE))
def test_garbage_costs_itself_and_names_no_name(kind, what):
    assembler = Assembler()
    frame = [("info", info()), ("pose", pose(0)), *pair(0)]
    assert [o for k, m in frame for o in assembler.add(k, m)]
    for _ in range(3):
        assembler.add(kind, GARBAGE[what])
    for reason, text in assembler.drops.examples.items():
        assert "\n" not in reason + text and "0x" not in reason + text
        assert len(reason) < 200 and len(text) <= 300
    assert len(assembler.drops.items()) <= 2
    frame = [("info", info()), ("pose", pose(400)), *pair(400)]
    assert len([o for k, m in frame for o in assembler.add(k, m)]) == 1, "and the next is used"
    even(assembler.accounts())
