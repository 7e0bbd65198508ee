# SPDX-License-Identifier: Apache-2.0
"""The protocol beside every number, and in what two results differ."""

from __future__ import annotations

import json
from types import SimpleNamespace

import eval3d_world as world
import numpy as np
import pytest
from test_eval3d_run import evaluate, oracle
from test_segment import colors, small_set  # noqa: F401  # a fixture

from eval3d.cli import main
from eval3d.report.difference import differences, read_result
from eval3d.report.protocol import encoder_windows
from radseg_ros.cli import eval2d
from radseg_ros.datatypes import InputError


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return world.write_folder(tmp_path_factory.mktemp("world") / "room")


def diff(capsys, a, b):
    status = main(["diff", str(a), str(b)])
    return status, capsys.readouterr().out


def test_every_report_states_its_protocol(tmp_path, capsys, recording):
    more = ["--limit", 4, "--k", 3, "--ignore", "red wall,blue wall", "--set", "oracle.patch=2"]
    text = evaluate(capsys, *oracle(recording, tmp_path, *more))
    said = json.loads((tmp_path / "summary.json").read_text())["protocols"][0]
    assert said["frames"] == "4 used of 4: every one (at most 4 of a scene)"
    assert said["map"] == "voxels of 10 cm, backbone" and said["resolution"] == "as recorded"
    assert said["k"] == "3 nearest voxels vote" and said["weights"] == "none"
    assert said["ignored classes"] == "red wall, blue wall" and "6 classes" in said["classes"]
    assert said["denoising"] == "classes below 0.5 in the whole map are removed"
    assert said["prediction threshold"] == "0.1" and said["scoring"].startswith("radseg")
    assert said["other options"] == "oracle.patch=2" and "revision" in said["program"]
    assert all(f"{what}: {how}\n" in text for what, how in said.items())
    page = (tmp_path / "report.html").read_text()
    assert "ignored classes: red wall, blue wall\n" in page


@pytest.mark.slow
def test_diff_says_in_what_two_results_differ(tmp_path, capsys, recording, monkeypatch):
    monkeypatch.setenv("EVAL3D_REVISION", "under test")
    for out, more in {
        "a": (),
        "same": (),
        "b": ("--k", 1, "--set", "denoise_threshold=0", "--frame-skip", 2),
    }.items():
        evaluate(capsys, *oracle(recording, tmp_path / out, *more))
    assert diff(capsys, tmp_path / "a", tmp_path / "same")[0] == 0
    status, text = diff(capsys, tmp_path / "a", tmp_path / "b")
    assert status == 1
    rows = differences(read_result(tmp_path / "a"), read_result(tmp_path / "b"))
    assert {what for what, _, _ in rows} == {"k", "denoising", "frames"}
    assert "| k | 5 nearest voxels vote | 1 nearest voxels vote |" in text
    assert "0, 3, 6" in text and "mIoU: " in text and "The same: data, " in text


def test_a_folder_of_several_runs_is_no_one_result(tmp_path, capsys, recording):
    for k in (1, 5):
        evaluate(capsys, *oracle(recording, tmp_path / f"k{k}", "--k", k, "--limit", 2))
    with pytest.raises(InputError, match="holds 2 runs, name one"):
        read_result(tmp_path)
    (tmp_path / "old.json").write_text('{"miou": 0.5}')
    with pytest.raises(InputError, match="states no protocol"):
        read_result(tmp_path / "old.json")


def test_results_of_images_state_theirs(tmp_path, capsys, colors):  # noqa: F811
    small_set(tmp_path, ".png", ".png", 1)
    folders = [str(tmp_path / "images"), str(tmp_path / "labels")]
    words = [*folders, "--classes", str(tmp_path / "classes.txt")]
    for name, more in {"a": (), "b": ("--denoise", "0", "--limit", "2")}.items():
        assert eval2d.main([*words, "--json", str(tmp_path / f"{name}.json"), *more]) == 0
    text = capsys.readouterr().out
    assert "denoising: classes below 0.5 in the whole image are removed\n" in text
    assert "classes: 3 with 4 names" in text and "images: 2 used\n" in text
    status, told = diff(capsys, tmp_path / "a.json", tmp_path / "b.json")
    assert status == 1 and "| denoising |" in told and "| images | 3 used | 2 used |" in told


def test_results_of_earlier_versions_still_make_a_report(tmp_path, capsys, recording):
    evaluate(capsys, *oracle(recording, tmp_path / "old", "--limit", 2))
    path = tmp_path / "old" / "room" / "metrics.json"
    metrics = json.loads(path.read_text())
    for key in ("count", "ignored"):
        del metrics["provenance"]["classes"][key]
    path.write_text(json.dumps(metrics))
    assert main(["report", str(tmp_path / "old"), "--out", str(tmp_path / "new")]) == 0
    assert "ignored classes: unknown" in capsys.readouterr().out


@pytest.mark.slow
def test_maps_from_files_do_not_claim_what_nobody_knows(tmp_path, capsys, recording):
    evaluate(capsys, *oracle(recording, tmp_path / "run", "--save-map", "--limit", 2))
    xyz, labels = world.points(2)
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
    np.savez(tmp_path / "theirs.npz", xyz=xyz[::50], labels=labels[::50])
    given = ["--classes", recording / "meta.json", "--gt", tmp_path / "gt.npz", "--no-pictures"]
    given += ["--encoder", "oracle"]
    for name, path in {
        "ours": tmp_path / "run" / "room" / "map.radmap",
        "theirs": tmp_path / "theirs.npz",
    }.items():
        evaluate(capsys, "score", path, *given, "--out", tmp_path / name)
    ours, theirs = (read_result(tmp_path / name).protocol for name in ("ours", "theirs"))
    assert ours["map"] == "voxels of 10 cm, backbone", "as the file says, not the command"
    assert theirs["map"] == f"{len(xyz[::50])} points of a file"
    assert theirs["encoder"] == "another program's labels" and theirs["weights"] == "unknown"
    for said in (ours, theirs):
        assert all(said[name].startswith("unknown") for name in ("frames", "resolution", "windows"))


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        ({}, "as the encoder does"),
        ({"crop": 0, "stride": 0}, "none (single pass)"),
        (
            {"crop": 192, "stride": 128, "side": 384},
            "192 px every 128 px, images at a short side of 384 px",
        ),
    ],
)
def test_windows_are_told_with_the_size_of_what_they_cut(cut, told):
    assert encoder_windows(SimpleNamespace(**cut)) == told
