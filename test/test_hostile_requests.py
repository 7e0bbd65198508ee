# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Requests of which any field may hold anything that its type can: an answer, or a reason."""

from __future__ import annotations

import copy
import random
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import require_ros

require_ros()

from color_encoder import ColorEncoder
from geometry_msgs.msg import PoseStamped
from journalled import live_map, observe
from rclpy.serialization import serialize_message

from radseg_interfaces.srv import (
    ClearBox,
    CorrectPoses,
    EncodeText,
    ForgetObject,
    LoadMap,
    QueryPoint,
    QueryText,
    QueryVector,
    SaveMap,
    SetLabels,
)
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.ros.faults import Faults
from radseg_ros.ros.services.changes import Changes
from radseg_ros.ros.services.corrections import Corrections
from radseg_ros.ros.services.offer import MapServices
from radseg_ros.ros.services.questions import Questions

TEXTS = (
    *("red", "a red box", "", " ", "\n", "red\nERROR forged", "red\0box", "🤖 red", "\u202ered"),
    *("x" * 200_000, "../a", "/etc/passwd", "a.ply", "a" * 300, "map", "odom", "a/b/c", "~"),
    *("calibrated", "cosine", "jpeg", "rgb8", "bgr8", "16UC1"),
)
LISTS = ([], ["red"], ["red", "red"], ["red", ""], ["red"] * 10_000, ["green", "red\0", "\n"])
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.3, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"))


def fill(message: Any, rng: random.Random, share: float = 0.4) -> Any:
    """Other values in some fields of a message of ROS; those of messages in it, too."""
    for name, kind in message.get_fields_and_field_types().items():
        if rng.random() > share:
            continue
        held = getattr(message, name)
        if hasattr(held, "get_fields_and_field_types"):
            fill(held, rng, share=0.6)
        elif kind == "sequence<string>":
            setattr(message, name, copy.deepcopy(rng.choice(LISTS)))
        elif kind == "string":
            setattr(message, name, rng.choice(TEXTS))
        elif kind == "boolean":
            setattr(message, name, rng.random() < 0.5)
        elif kind in ("float", "double"):
            value = rng.choice(NUMBERS)
            setattr(message, name, float(np.float32(value)) if kind == "float" else value)
        elif kind.startswith(("uint", "int")):
            bits = int(kind.removeprefix("u").removeprefix("int"))
            most = 2**bits - 1 if kind.startswith("u") else 2 ** (bits - 1) - 1
            setattr(message, name, rng.choice((0, 1, 2, 7, most)))
        elif kind == "sequence<float>":
            length = rng.choice((0, 1, 8, 9, 1000))
            setattr(message, name, [float(np.float32(rng.choice(NUMBERS)))] * length)
        elif kind == "sequence<uint8>":
            setattr(message, name, rng.randbytes(rng.choice((1, 12, 48, 192))))
        else:
            assert kind.startswith("sequence<"), (name, kind)
    return message


class Node:
    """What the services need of one."""

    def set_parameters_atomically(self, parameters: list) -> SimpleNamespace:
        serialize_message(parameters[0].to_parameter_msg())
        return SimpleNamespace(successful=True, reason="")

    def create_subscription(self, *args: Any, **options: Any) -> None:
        """Nobody publishes here."""


@pytest.fixture
def live(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())
    maps = {"node__map_directory": str(tmp_path / "maps")}
    found = live_map(tmp_path / "journal", query__threshold=0.0, **maps)
    observe(found, range(3))
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_requests_whose_fields_hold_anything(live, tmp_path, seed):
    rng, faults, shown = random.Random(seed), Faults(), []
    ask, change = Questions(live, lambda *args: shown.append(args)), Changes(Node(), live)
    correct = Corrections(Node(), live, faults, lambda work: None).correct
    offered = (
        *((QueryText, ask.text), (QueryVector, ask.vector), (QueryPoint, ask.point)),
        *((EncodeText, ask.encode), (SetLabels, change.set_labels), (SaveMap, change.save)),
        *((LoadMap, change.load), (ClearBox, change.clear_box)),
        *((ForgetObject, change.forget_object), (CorrectPoses, partial(correct, ""))),
    )
    answered = Counter()
    for number in range(800):
        kind, answer = rng.choice(offered)
        request, response = kind.Request(), kind.Response()
        if hasattr(request, "labels"):
            request.labels = ["red", "a grey wall"]
        if kind in (SaveMap, LoadMap):
            request.path = "a"
        if kind is QueryVector:
            request.vector = [0.5] * 8
        fill(request, rng, rng.choice((0.0, 0.1, 0.2, 0.4)))
        if kind is CorrectPoses:
            request.path.poses = [fill(PoseStamped(), rng, 0.2) for _ in range(rng.randrange(4))]
        MapServices._answer(
            SimpleNamespace(faults=faults), kind.__name__, answer, request, response
        )
        assert faults.failures == 0, (kind, request, faults.told())
        assert response.success or 0 < len(response.message) < 1000, kind
        assert response.success or "\n" not in response.message
        serialize_message(response)
        answered[kind.__name__, response.success] += 1
        if not len(live.mapper.map):
            observe(live, [10 + number])
    assert all(answered[kind.__name__, False] for kind, _ in offered), answered
    found = [kind for kind, _ in offered if answered[kind.__name__, True] > 9]
    assert {QueryText, QueryVector, SaveMap, ClearBox} <= set(found), answered
    outside = [path for path in tmp_path.rglob("*") if path.suffix in (".ply", ".pcd", ".radmap")]
    assert all(path.is_relative_to(tmp_path / "maps") for path in outside)
