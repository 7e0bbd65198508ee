# SPDX-License-Identifier: Apache-2.0
"""The things that the node's labels find, as markers: a box and a name for each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Vector3
from rclpy.node import Node
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ...answers.cloud import palette
from ...datatypes import Answer, SemanticObject
from .. import messages
from .latched import LatchedTopic, Outputs, Turn

if TYPE_CHECKING:
    from ...live_map import LiveMap

TIME = 0.5  # s that vectors are made for an answer; others follow with the next one
REST = 4.0  # so that finding objects takes a fifth of a core at most
SOLID, FAINT = 0.4, 0.1  # opacity of the box of a thing that is there, and of one that is missing
TEXT = 0.12  # m, height of capital letters


class Objects(Outputs):
    """~/objects of ``live``: the answers to node.labels."""

    def __init__(self, node: Node, live: LiveMap) -> None:
        super().__init__()
        self._live = live
        self._unfinished = 0  # see _again
        self._topic = LatchedTopic(node, MarkerArray, "objects", REST)

    def _each(self, turn: Turn) -> None:
        config = self._live.config
        key = (self._live.version, config.node.labels, config.query, self._unfinished)
        turn(self._topic, key, self._make)

    def _make(self) -> MarkerArray:
        labels, answers = self._live.config.node.labels, []
        if labels:
            result = self._live.query(labels, time_limit=TIME)
            self._unfinished = self._again(result.covered < 1)
            answers = result.answers
        return marker_array(answers, palette(len(labels)), messages.header(*self._live.moment()))


def marker_array(answers: Sequence[Answer], colors: np.ndarray, head: Header) -> MarkerArray:
    """visualization_msgs/MarkerArray that replaces the one before it.

    Boxes are in the namespace "boxes" and texts in "names"; both have the id of their thing, or a
    negative number where it has none.

    Args:
        colors: (Q, 3) uint8, of each answer.
    """
    markers = [Marker(header=head, action=Marker.DELETEALL)]
    unnamed = itertools.count(-1, -1)
    for answer, color in zip(answers, (colors / 255.0).tolist(), strict=True):
        for thing in answer.objects:
            number = thing.id or next(unnamed)
            markers += [_box(thing, number, color, head), _name(thing, number, color, head)]
    return MarkerArray(markers=markers)


def _box(thing: SemanticObject, number: int, color: Sequence[float], head: Header) -> Marker:
    box = thing.box
    length, width, height = box.size
    return Marker(
        header=head,
        ns="boxes",
        id=number,
        type=Marker.CUBE,
        pose=messages.pose(messages.upright_pose(box.centre, box.yaw)),
        scale=Vector3(x=length, y=width, z=height),
        color=_rgba(color, FAINT if thing.missing_since_ns else SOLID),
    )


def _name(thing: SemanticObject, number: int, color: Sequence[float], head: Header) -> Marker:
    x, y, z = thing.box.centre
    above = (x, y, z + thing.box.size[2] / 2 + TEXT)
    words = [thing.label, *([f"#{thing.id}"] if thing.id else []), f"{thing.score:.2f}"]
    return Marker(
        header=head,
        ns="names",
        id=number,
        type=Marker.TEXT_VIEW_FACING,
        pose=messages.pose(messages.upright_pose(above, 0.0)),
        scale=Vector3(z=TEXT),
        color=_rgba(color, 1.0),
        text=" ".join([*words, *(["missing"] if thing.missing_since_ns else [])]),
    )


def _rgba(color: Sequence[float], opacity: float) -> ColorRGBA:
    red, green, blue = color
    return ColorRGBA(r=red, g=green, b=blue, a=opacity)
