# SPDX-License-Identifier: Apache-2.0
"""Messages that contradict each other while every frame still decodes: told once, with the cure."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from plain_messages import K, Message, image, info, pose

from radseg_ros.config import NodeConfig
from radseg_ros.frames.assemble import Assembler

EYE = np.eye(4).ravel().tolist()


def told(caplog, events: list, offset: bool = False, frames: int = 3) -> list[str]:
    """What is logged while ``frames`` frames come of ``events(ms)``; all of them are complete."""
    caplog.clear()
    assembler = Assembler(node=NodeConfig(camera_offset=EYE if offset else []))
    with caplog.at_level(logging.WARNING, "radseg_ros"):
        complete = [
            observation
            for ms in range(0, 100 * frames, 100)
            for kind, message in events(ms)
            for observation in assembler.add(kind, message)
        ]
    assert len(complete) == frames and not assembler.drops.total
    return [record.getMessage() for record in caplog.records]


def messages(color="camera", depth="camera", child="camera", camera=None, size=None):
    def events(ms: int) -> list:
        return [
            ("info", camera or info()),
            ("pose", pose(ms, odometry=True, child=child)),
            ("color", image(ms, frame=color)),
            ("depth", Message(**{**vars(image(ms, "16UC1", depth)), **(size or {})})),
        ]

    return events


def test_messages_that_agree_have_nothing_to_tell(caplog):
    assert not told(caplog, messages())
    assert not told(caplog, messages(child="")), "no name, no contradiction"
    assert not told(caplog, messages(child="base_link"), offset=True)
    assert not told(caplog, messages(color="/camera", depth="camera", child="/camera"))
    assert not told(caplog, messages(color="", depth=""))


@pytest.mark.parametrize(
    ("color", "depth"), [("rgb_frame", "depth_frame"), ("a", "b"), ("camera", "camera_2")]
)
def test_colour_and_depth_of_different_frames(caplog, color, depth):
    (text,) = told(caplog, messages(color, depth, child=""))
    assert f"colour images are in frame '{color}', depth images in '{depth}'" in text
    assert "registered" in text


def test_an_offset_for_poses_of_the_camera(caplog):
    (text,) = told(caplog, messages(), offset=True)
    assert "node.camera_offset is set, but the poses are those of 'camera'" in text


def intrinsics(cx: float = 8, cy: float = 6) -> list:
    return [50.0, 0, cx, 0, 50, cy, 0, 0, 1]


@pytest.mark.parametrize(("cx", "cy"), [(16, 6), (8, 12), (-1, 6), (8, -0.5), (320, 240)])
def test_a_principal_point_outside_of_the_image(caplog, cx, cy):
    for without_size in ({}, {"height": 0, "width": 0}):
        (text,) = told(caplog, messages(camera=info(intrinsics(cx, cy), **without_size)))
        assert f"the principal point ({cx}, {cy}) outside of its image (16x12)" in text


def test_a_principal_point_at_the_rim_is_inside(caplog):
    for cx, cy in ((0, 0), (15.5, 11.5)):
        assert not told(caplog, messages(camera=info(intrinsics(cx, cy))))


@pytest.mark.parametrize("factor", [2, 0.5, 4])
def test_camera_info_of_another_resolution(caplog, factor):
    h, w = int(12 * factor), int(16 * factor)
    camera = info(intrinsics(8 * factor, 6 * factor), height=h, width=w)
    (text,) = told(caplog, messages(camera=camera))
    assert f"camera info is of {w}x{h} images, depth images have 16x12" in text
    assert "scaled" in text


def test_camera_info_without_a_size_is_of_any(caplog):
    assert not told(caplog, messages(camera=info(height=0, width=0)))


def test_distortion_is_told_whenever_it_appears(caplog):
    for d in ([], [0.0] * 5):
        assert not told(caplog, messages(camera=info(d=d)))

    def later(ms: int) -> list:
        return messages(camera=info(d=[0.0, 0, 0, 0, 0.1 if ms else 0.0]))(ms)

    for events in (later, messages(camera=info(d=[0.1])), messages(camera=info(D=[0.1]))):
        (text,) = told(caplog, events)
        assert "lens distortion" in text and "feed rectified ones (image_proc" in text


def test_every_contradiction_is_told(caplog):
    camera = info(intrinsics(99), height=24, width=32, d=[1.0])
    texts = told(caplog, messages("a", "b", "b", camera), offset=True)
    assert len(texts) == 5 and len(set(texts)) == 5


def test_names_from_outside_forge_no_line_of_the_log(caplog):
    long = "x" * 200
    for text in told(caplog, messages(color=f"{long}1", depth=f"{long}2", child=f"{long}2")):
        assert len(text) < 400
    for name in ("a\nb", "\x1b[31mred", "x" * 1_000_000, "\u202eabc"):
        assert not told(caplog, messages(color=name)), "no name at all"


def test_pairs_of_garbage_are_left_to_the_decoder():
    assembler = Assembler()
    assembler.add("info", info(K))
    assembler.add("pose", pose(0))
    assembler.add("color", Message(header=image(0).header))
    depth = Message(header=image(0).header, height="tall", width=None)
    (observation,) = assembler.add("depth", depth)
    assembler.drop(RuntimeError("whoever decodes it"))
    assert observation.match.depth is depth
    assert assembler.accounts()["depth"].dropped == 1
