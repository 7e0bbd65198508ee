# SPDX-License-Identifier: Apache-2.0
"""The node over real transport and the evaluator make maps that score the same."""

from __future__ import annotations

import json
from pathlib import Path

import eval3d_world as world
import numpy as np
import pytest
from conftest import require_ros

# ruff: noqa: E402 - what follows needs ROS
require_ros()

from color_encoder import ColorEncoder
from robot import color_node, play, running_robot, wait_for

from eval3d.cli import main
from radseg_interfaces.srv import SaveMap
from radseg_ros.voxels.map_file import load_map

SHORT_SIDE = 96  # not the size of the recording: the working resolution is part of what must agree


def map_of_the_node(recording: Path, folder: Path) -> Path:
    """Play the recording to a node and have it saved by its service."""
    settings = {"short_side": SHORT_SIDE, "node.backlog": 50, "node.map_directory": folder}
    with running_robot() as robot, color_node(settings):
        play(str(recording), "--rate", "5")
        wait_for(lambda: robot.integrated() == world.FRAMES, "all frames")
        saved = robot.call(SaveMap, "/radseg_mapping/save_map", path="node.radmap")
        assert saved.success, saved.message
        return Path(saved.path)


@pytest.mark.slow
def test_node_and_offline_agree(tmp_path, capsys, monkeypatch):
    from eval3d import run
    from radseg_ros.encoders import protocol as encoder

    monkeypatch.setitem(encoder.ENCODERS, "colors", lambda options: ColorEncoder())
    run._cached_encoder.cache_clear()
    recording = world.write_folder(tmp_path / "room")
    online_file = map_of_the_node(recording, tmp_path)
    options = ["--encoder", "colors", "--set", f"short_side={SHORT_SIDE}", "--no-pictures"]
    assert (
        main(
            [
                "run",
                "--root",
                str(recording),
                "--save-map",
                "--out",
                str(tmp_path / "run"),
                *options,
            ]
        )
        == 0
    )
    online, identity = load_map(online_file)
    offline, _ = load_map(tmp_path / "run" / "room" / "map.radmap")
    ours, theirs = offline.snapshot(), online.snapshot()
    order = [np.lexsort(snapshot.index.numpy().T) for snapshot in (ours, theirs)]
    assert identity.frame_id == "map" and len(ours) > 1000
    for name in ("index", "hits"):
        assert np.array_equal(
            getattr(ours, name).numpy()[order[0]], getattr(theirs, name).numpy()[order[1]]
        ), name
    for name in ("features", "rgb", "xyz"):
        np.testing.assert_allclose(
            getattr(ours, name).numpy()[order[0]],
            getattr(theirs, name).numpy()[order[1]],
            atol=1e-4,
        )

    xyz, labels = world.points()
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
    scores = []
    for path in (online_file, tmp_path / "run" / "room" / "map.radmap"):
        against = ["--gt", str(tmp_path / "gt.npz"), "--classes", str(recording / "meta.json")]
        assert (
            main(["score", str(path), "--out", str(tmp_path / "scores"), *against, *options]) == 0
        )
        scores.append(
            json.loads((tmp_path / "scores" / path.stem / "metrics.json").read_text())["classes"]
        )
    assert scores[0] == scores[1] and capsys.readouterr()
