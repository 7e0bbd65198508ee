# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""A real recording becomes the same map at the desk and through a real node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import require_ros, shared
from scipy.spatial.transform import Rotation

require_ros()

from color_encoder import ColorEncoder
from recordings import BagWriter, StoragePlugin
from robot import NODE, color_node, play, running_robot, wait_for
from small_worlds import assert_same

from radseg_interfaces.srv import SaveMap
from radseg_ros.cli.map import main
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.voxels.map_file import load_map

FIRST, FRAMES = 200, 12


def write_bag(path: Path, folder: FolderRecording) -> Path:
    """Some frames of a folder as a bag, with a pose behind the last one."""
    with BagWriter(path, StoragePlugin.SQLITE3) as bag:
        for number, frame in folder.frames(FIRST, FIRST + FRAMES):
            ns = 1_000_000_000 + number * 100_000_000
            bag.info("/depth/camera_info", ns, frame.K, frame.depth.shape)
            write_pose(bag, ns, frame.T_world_camera)
            bag.image("/color/image", ns, frame.rgb, "rgb8")
            bag.image("/depth/image", ns, np.round(1000 * frame.depth).astype("<u2"), "16UC1")
        write_pose(bag, ns + 100_000_000, frame.T_world_camera)
    return path


def write_pose(bag: BagWriter, ns: int, T: np.ndarray) -> None:
    parts = {
        "position": ("Point", "xyz", T[:3, 3]),
        "orientation": ("Quaternion", "xyzw", Rotation.from_matrix(T[:3, :3]).as_quat()),
    }
    made = {
        name: bag.message(
            f"geometry_msgs/msg/{kind}", **dict(zip(axes, map(float, values), strict=True))
        )
        for name, (kind, axes, values) in parts.items()
    }
    pose = bag.message("geometry_msgs/msg/Pose", **made)
    stamped = bag.message("geometry_msgs/msg/PoseStamped", header=bag.header(ns, "map"), pose=pose)
    bag.write("/pose", stamped, ns)


@pytest.mark.slow
def test_the_office_is_the_same_at_the_desk_and_through_the_node(tmp_path, monkeypatch):
    office = FolderRecording(shared("data/hololens_office"))
    bag = write_bag(tmp_path / "office", office)
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())
    desk, node = tmp_path / "desk.radmap", tmp_path / "node.radmap"
    words = ["--encoder", "colors", "--set", "short_side=0"]
    assert main([str(bag), "-o", str(desk), *words]) == 0
    settings = {
        "node.map_directory": str(tmp_path),
        "node.backlog": 100,
        "node.pose_type": "pose",
    }
    with running_robot() as robot, color_node(settings):
        play(str(bag))
        wait_for(lambda: robot.integrated() == FRAMES, "all frames")
        robot.call(SaveMap, f"{NODE}/save_map", path=node.name)
    here, there = (load_map(path)[0].snapshot() for path in (desk, node))
    assert len(here) > 5000
    assert_same(here, there, 1e-4)
