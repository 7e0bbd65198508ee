# SPDX-License-Identifier: Apache-2.0
"""The demo: pictures show what is there, answers are judged fairly, a dead program is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import require_ros
from waiting import PATIENCE

from eval3d.report.voxel_view import OVERSAMPLING, PAPER, View
from radseg_ros.answers.cloud import GLOW, heat
from radseg_ros.demo import run
from radseg_ros.demo.album import aligned, write_ply
from radseg_ros.demo.processes import DemoError, Program
from radseg_ros.demo.run import compare, main, table
from radseg_ros.view import pictures
from radseg_ros.view.cells import spacing
from radseg_ros.view.upright import upright

pytest.importorskip("matplotlib", reason="the extra [demo] is not installed")
ROOT = Path(__file__).resolve().parents[1]
VOXEL = 0.05


def grid(*axes: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def camera(position: tuple[float, float, float]) -> np.ndarray:
    """Optical axes, looking along x, z up."""
    T = np.eye(4)
    T[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    T[:3, 3] = position
    return T


@pytest.fixture(scope="module")
def scene():
    """A grey floor, a red block on it, and a white wall at +x that is seen from -x."""
    steps = np.arange(0, 2, VOXEL)
    floor = grid(steps, steps, np.array([0.0]))
    block = grid(
        np.arange(0.8, 1.2, VOXEL), np.arange(0.8, 1.2, VOXEL), np.arange(VOXEL, 0.5, VOXEL)
    )
    wall = grid(np.array([2.0]), steps, np.arange(0, 1.2, VOXEL))
    xyz = np.concatenate([floor, block, wall])
    colors = np.array([[120, 120, 120], [220, 30, 30], [240, 240, 240]], np.uint8)
    rgb = np.repeat(colors, [len(floor), len(block), len(wall)], axis=0)
    made, rows = pictures.make_scene(
        xyz, np.full(len(xyz), 9), np.array([[0.3, 1.0, 1.0]] * 3), np.eye(3), VOXEL
    )
    return made, rgb[rows], len(xyz)


def test_everything_solid_is_drawn(scene):
    made, rgb, count = scene
    assert len(rgb) == count
    np.testing.assert_allclose(made.rotation @ (0, 0, 1), (0, 0, 1), atol=1e-9)


def test_a_position_is_found_in_the_picture(scene):
    view = View(scene[0], azimuth=-135, elevation=40, width=400)
    image = np.asarray(view.paint(scene[1])).astype(int)
    x, y = view.pixel((1.0, 1.0, 0.45))  # top of the block
    r, g, b = image[round(y), round(x)]
    assert r > 2 * g and r > 2 * b
    assert image[2, 2].min() > 230  # paper


def test_a_wall_is_drawn_only_from_the_side_it_was_seen_from(scene):
    wall = np.flatnonzero(scene[0].xyz[:, 0] > 1.99)
    inside, behind = (View(scene[0], azimuth, 30, width=300) for azimuth in (180, 0))
    assert np.isin(inside.owner, wall).sum() > 2000
    assert np.isin(behind.owner, wall).sum() < 0.1 * np.isin(inside.owner, wall).sum()


def test_from_above_the_map_has_its_true_proportions(scene):
    view = View(scene[0], -90, 90, width=500, max_height=500)
    (x0, y0), (x1, y1) = view.pixel((0, 0, 0)), view.pixel((1, 1, 0))
    assert x1 - x0 == pytest.approx(y0 - y1) and x1 > x0  # x to the right, y upwards
    assert (view.owner >= 0).mean() > 0.85


@pytest.mark.parametrize("width", [133, 170, 210, 260])
def test_between_neighbours_nothing_shows_through(scene, width):
    view = View(scene[0], -90, 90, width=width, max_height=width)
    (x0, y1), (x1, y0) = (OVERSAMPLING * np.array(view.pixel((c, c, 0))) for c in (0.2, 1.7))
    assert (view.owner[round(y0) : round(y1), round(x0) : round(x1)] >= 0).all()


def test_below_a_picture_are_its_axes_its_scale_and_what_glows(scene):
    view = View(scene[0], -90, 90, width=250, max_height=250)
    image = pictures.painted(view, scene[1])
    key = np.asarray(pictures.with_key(image, view, 0.5)).astype(int)[image.height :]
    plain = np.asarray(pictures.with_key(image, view)).astype(int)[image.height :]
    assert len(key) == pictures.KEY and (plain[:, -300:] == PAPER).all()
    assert np.abs(key[:, -300:] - GLOW[-1]).max(2).min() < 3
    ink = "".join("-#"[int(dark)] for dark in (plain[pictures.KEY // 2] == pictures.INK).all(1))
    metre = view.pixel((1, 0, 0))[0] - view.pixel((0, 0, 0))[0]
    assert max(map(len, ink.split("-"))) == pytest.approx(1 * metre, abs=5)
    middle = {
        name: np.argwhere((plain == color).all(2)).mean(0) for name, color in pictures.AXES.items()
    }
    assert middle["x"][1] > middle["z"][1] + 5 and middle["y"][0] < middle["z"][0] - 5


@pytest.mark.parametrize("up", [(0, 0, 1), (0, 1, 0), (0, -1, 0), (1, 0, 0)])
def test_up_is_read_off_the_cameras(up):
    base = upright(np.stack([camera((0, 0, 0))[:3, :3]]))
    np.testing.assert_allclose(base @ (0, 0, 1), (0, 0, 1), atol=1e-9)
    forward = np.roll(up, 1)
    tilted = np.array(forward) - 0.2 * np.array(up)  # looks a little down
    tilted = tilted / np.linalg.norm(tilted)
    right = np.cross(tilted, up) / np.linalg.norm(np.cross(tilted, up))
    rotation = upright(np.stack([right, np.cross(tilted, right), tilted], 1)[None])
    np.testing.assert_allclose(rotation @ up, (0, 0, 1), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_heat_glows_only_above_the_threshold():
    rgb = np.full((3, 3), 200, np.uint8)
    colors = heat(rgb, np.array([0.1, 0.45, 0.95]), 0.5)
    assert np.ptp(colors[0]) == 0 and np.ptp(colors[2]) > 100


def test_scores_are_joined_by_place():
    xyz = np.array([[0, 0, 0], [0.05, 0, 0], [-3, 2, 1]], np.float32)
    heat = np.zeros(2, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("score", "<f4")])
    heat["x"], heat["y"], heat["z"], heat["score"] = [-3, 0.05], [2, 0], [1, 0], [0.7, 0.2]
    assert spacing(xyz) == 0.05
    np.testing.assert_allclose(aligned(xyz, heat, 0.05), [0, 0.2, 0.7], atol=1e-6)
    assert (aligned(xyz, heat[:0], 0.05) == 0).all()


def test_the_ply_can_be_read_back(tmp_path):
    xyz, rgb = (
        np.array([[0, 0, 0], [1, 2, 3]], np.float32),
        np.array([[1, 2, 3], [250, 251, 252]], np.uint8),
    )
    heat = np.zeros(1, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("score", "<f4")])
    heat["x"], heat["y"], heat["z"], heat["score"] = 1, 2, 3, 0.5
    write_ply(tmp_path / "map.ply", xyz, rgb, {"red mug": heat})
    head, body = (tmp_path / "map.ply").read_bytes().split(b"end_header\n")
    assert b"element vertex 2" in head and b"property float score_red_mug" in head
    assert len(body) == 2 * (3 * 4 + 3 + 4)
    assert np.frombuffer(body[19:31], "<f4").tolist() == [1, 2, 3] and list(body[31:34]) == [
        250,
        251,
        252,
    ]


def answer(label: str, *centre: float, score: float = 0.9) -> dict:
    return {
        "label": label,
        "found": bool(centre),
        "best_score": score,
        "objects": [{"centre": list(centre), "score": score}] if centre else [],
    }


def test_answers_are_judged_by_the_truth():
    truth = {
        "objects": {"cat": [0, 0, 1], "mug": [2, 0, 0], "dog": [1, 1, 1]},
        "absent": ["elephant", "whale"],
    }
    answers = [
        answer("cat", 0, 0.3, 1),
        answer("mug", 3, 0, 0),
        answer("dog", score=0.4),
        answer("elephant", score=0.2),
    ]
    rows = compare([*answers, answer("whale", 1, 1, 1), answer("sofa", 5, 5, 5)], truth)
    assert [row["ok"] for row in rows] == [True, False, False, True, False, True]
    assert rows[0]["error_m"] == pytest.approx(0.3) and rows[5]["error_m"] is None
    text = table(rows)
    assert text.count("WRONG") == 3 and "not found" in text and "0.30 m" in text


def test_a_program_that_fails_is_named_with_its_last_words(tmp_path):
    program = Program("the adder", tmp_path / "log", "json.tool", "no/such/file")
    with pytest.raises(DemoError, match=r"the adder ended with code \d[\s\S]*no/such/file"):
        program.wait(PATIENCE)
    assert not program.running


@pytest.mark.slow
def test_a_program_that_hangs_is_ended(tmp_path):
    program = Program("the sleeper", tmp_path / "log", "http.server", "0", "--bind", "127.0.0.1")
    with pytest.raises(DemoError, match="did not end within"):
        program.wait(0.3)
    program.stop()
    assert not program.running


@pytest.mark.parametrize(("until", "mapped", "ends"), [(0, 9, 10), (60, 9, 80), (60, 10, 0)])
def test_frames_that_the_node_still_has_are_waited_for(monkeypatch, until, mapped, ends):
    """A frame that nothing pairs is not."""
    require_ros()
    now = [0.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run.time, "sleep", lambda seconds: now.append(now.pop() + seconds))

    class Observed:
        poses, frames_in_map = range(10), mapped

        @property
        def frames_waiting(self) -> int:
            return int(now[0] < until)

    node, player = (SimpleNamespace(running=r, check=lambda: None) for r in (True, False))
    run.watch(Observed(), node, player)
    assert now[0] == pytest.approx(ends, abs=1.5)


def test_missing_recording_and_missing_queries_are_told(tmp_path, capsys):
    assert (
        main(
            [
                "--out",
                str(tmp_path / "out"),
                "--recording",
                str(tmp_path / "nowhere"),
                "--queries",
                "cat",
            ]
        )
        == 1
    )
    assert "nowhere does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["--out", str(tmp_path / "out"), "--recording", str(tmp_path / "empty")]) == 1
    assert "needs --queries" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)  # four programs with a real encoder; a minute where nothing else runs
def test_the_demo_runs_on_a_recording(tmp_path):
    """The cat's corner of the gallery: everything for real, in processes, over ROS."""
    require_ros()
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [lite] is not installed")
    from radseg_ros.demo import gallery

    corner, out = tmp_path / "corner", tmp_path / "out"
    truth = gallery.generate(corner, progress=lambda poses: poses[10:20])
    asked = {"objects": {"cat": truth["objects"]["cat"]}, "absent": ["elephant"]}
    (corner / "truth.json").write_text(json.dumps(asked))
    command = [sys.executable, "-m", "radseg_ros.demo.run", "--out", out, "--recording", corner]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads((out / "answers.json").read_text())
    cat, elephant = answers["rows"]
    assert cat["error_m"] < 0.5 and elephant["found"] is None
    assert answers["frames"]["integrated"] == 10
    views = [f"{what}_{view}.png" for what in ("map", "query_cat") for view in ("above", "angle")]
    for name in (*views, "overview.png", "map.ply"):
        assert (out / name).stat().st_size > 10_000
