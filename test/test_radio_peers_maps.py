# SPDX-License-Identifier: Apache-2.0
"""RADSeg's peers from images to answers: the evaluator, and the node over real transport."""

from __future__ import annotations

import json
from pathlib import Path

import eval3d_world as world
import numpy as np
import pytest
from conftest import golden_file, require_ros

from eval3d.cli import main
from radseg_ros.config import ATTENTIONS
from radseg_ros.language.cache import LABEL, save_embeddings
from radseg_ros.language.embedder import BACKGROUND
from radseg_ros.voxels.map_file import load_map

CHECKPOINT = golden_file("tiny_radio.pth.tar")
NAMES = [f"{name} wall" for name in world.FACES]
# encoder options of each row, and what a map of it stores
ROWS = {name: ([f"radseg.attention={name}"], "backbone") for name in ATTENTIONS}
ROWS["resradio-sfr"] = (["radseg.attention=resradio", "radseg.sfr=true"], "probability")


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    return world.write_folder(tmp_path_factory.mktemp("recording") / "room")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Vectors of all names that are asked for."""
    known = [*NAMES, "red", *BACKGROUND]
    vectors = np.random.default_rng(0).normal(size=(len(known), 48)).astype(np.float32)
    path = tmp_path_factory.mktemp("texts") / "texts.npz"
    save_embeddings(
        path, "tiny", {(LABEL, name): v for name, v in zip(known, vectors, strict=True)}
    )
    return path


def options_of(texts: Path, *more: str) -> list[str]:
    return [
        *(f"radseg.checkpoint={CHECKPOINT}", "radseg.crop=96", "radseg.stride=48"),
        *("radseg.text_tower=tiny", "radseg.offline=true", f"radseg.text_embeddings=[{texts}]"),
        *("short_side=96", *more),
    ]


def evaluated(recording: Path, texts: Path, out: Path, name: str, *more: str) -> tuple[int, Path]:
    """A run of the evaluator over two frames."""
    options, space = ROWS[name]
    settings = options_of(texts, "denoise_threshold=0", "prediction_threshold=0", *options, *more)
    arguments = ["run", "--root", recording, "--space", space, "--limit", 2, "--no-pictures"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    code = main([str(word) for word in [*arguments, "--save-map", *chosen, "--out", out]])
    return code, out / "room"


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_evaluated_end_to_end(tmp_path, capsys, recording, texts, name):
    code, folder = evaluated(recording, texts, tmp_path / "out", name)
    assert code == 0, capsys.readouterr().err
    found = json.loads((folder / "metrics.json").read_text())
    assert 0 < found["acc"] < 1 and found["coverage"] > 0.9
    mark = "" if name == "scra" else f"-{name}"
    assert found["provenance"]["encoder"].endswith(f"-siglip2{mark}")
    voxel_map, identity = load_map(folder / "map.radmap")
    assert len(voxel_map) > 500 and identity.encoder == found["provenance"]["encoder"]


@pytest.mark.slow
def test_a_map_of_one_attention_is_refused_by_the_others(tmp_path, capsys, recording, texts):
    code, folder = evaluated(recording, texts, tmp_path / "out", "naradio")
    assert code == 0
    xyz, labels = world.points()
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
    against = ["--gt", tmp_path / "gt.npz", "--classes", recording / "meta.json"]
    for name, fits in (("naradio", True), ("plain", False), ("scra", False)):
        settings = options_of(texts, f"radseg.attention={name}")
        chosen = [word for setting in settings for word in ("--set", setting)]
        out = ["--out", tmp_path / name]
        command = ["score", folder / "map.radmap", *against, *chosen, *out]
        assert (main([str(word) for word in command]) == 0) == fits
        assert ("its vectors mean other things" in capsys.readouterr().err) == (not fits)


def test_features_that_depend_on_labels_make_no_map_of_vectors(tmp_path, capsys, recording, texts):
    for space in ("backbone", "language"):
        code, _ = evaluated(
            recording, texts, tmp_path / space, "resradio-sfr", f"map.space={space}"
        )
        assert code != 0
        assert "map.space probability" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_mapped_by_a_node(tmp_path, recording, texts, name):
    require_ros()
    from robot import color_node, play, running_robot, wait_for

    from radseg_interfaces.srv import SaveMap

    options, space = ROWS[name]
    settings = dict(
        option.split("=", 1) for option in options_of(texts, *options, f"map.space={space}")
    )
    settings |= {"encoder": "radseg", "node.backlog": 50, "node.map_directory": tmp_path}
    if space == "probability":
        settings["map.labels"] = json.dumps([*NAMES, "red"])
    with running_robot() as robot, color_node(settings):
        play(str(recording), "--rate", "5")
        wait_for(lambda: robot.integrated() == world.FRAMES, "all frames")
        answer = robot.query("red wall")
        assert answer.success and answer.status.voxels > 500, answer.message
        assert answer.status.encoder.endswith(name) or name == "scra"
        saved = robot.call(SaveMap, "/radseg_mapping/save_map", path="node.radmap")
        assert saved.success, saved.message
    _, identity = load_map(tmp_path / "node.radmap")
    assert identity.encoder.endswith(f"-siglip2{'' if name == 'scra' else f'-{name}'}")
