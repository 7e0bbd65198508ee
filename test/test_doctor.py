# SPDX-License-Identifier: Apache-2.0
"""radseg-doctor says what is there, what is not, and what to do; it never falls over."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from radseg_ros.cli import checkups, doctor
from radseg_ros.cli.checkups import BAD, CHECKS, EXTRAS, GOOD, LACKS, Finding, examine
from radseg_ros.config import Config, with_options
from radseg_ros.datatypes import CheckpointError

ROOT = Path(__file__).parent.parent


def only(name: str, **options) -> list[Finding]:
    return examine(with_options(Config(), options), {name: CHECKS[name]})[name]


def test_this_machine_is_named():
    found = {each.what: each for each in only("this machine")}
    assert {"radseg_ros", "Python", "packages"} == found.keys()
    assert "torch" in found["packages"].text and found["packages"].state == GOOD


def test_extras_that_are_missing_have_a_cure(monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "viser" else known(name)
    )
    found = {each.what: each for each in only("extras")}
    assert found.keys() == {f"[{extra}]" for extra in EXTRAS}
    view = found["[view]"]
    assert view.state == LACKS and view.cure == "pip install 'radseg_ros[view]'"


def test_a_machine_without_ros_is_no_error(monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rclpy" else known(name)
    )
    (found,) = only("ROS")
    assert found.state == LACKS and "setup.bash" in found.cure


def test_the_map_directory(tmp_path):
    (tmp_path / "a.radmap").write_bytes(b"")
    (found,) = only("maps", **{"node.map_directory": str(tmp_path)})
    assert found.state == GOOD and f"{tmp_path}: 1 maps" in found.text
    (found,) = only("maps", **{"node.map_directory": str(tmp_path / "later")})
    assert found.state == LACKS


def test_errors_are_findings():
    def known(config):
        yield Finding("first", GOOD, "fine")
        raise CheckpointError("the file is damaged")

    def unknown(config):
        raise KeyError("x")
        yield

    found = examine(Config(), {"a": known, "b": unknown})
    assert [each.state for each in found["a"]] == [GOOD, BAD]
    assert found["a"][1].text == "the file is damaged" and not found["a"][1].cure
    assert found["b"][0].cure == "please report this"
    assert "[WRONG]" in doctor.page(found) and "-> please report this" in doctor.page(found)


def test_the_status_tells_whether_something_is_wrong(monkeypatch, capsys):
    for state, status in ((GOOD, 0), (LACKS, 0), (BAD, 1)):
        findings = [Finding("it", state, "text", "cure")]
        monkeypatch.setattr(checkups, "examine", lambda config, f=findings: {"one": f})
        assert doctor.main(["--json"]) == status
        told = json.loads(capsys.readouterr().out)
        assert told == {"one": [{"what": "it", "state": state, "text": "text", "cure": "cure"}]}


def test_a_bug_report_asks_for_it():
    assert "radseg-doctor" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()


@pytest.mark.slow
def test_weights_are_examined(capsys):
    """Of a small network of the published layout: nothing of it is wrong."""
    weights = ROOT / "test" / "data" / "golden" / "tiny_radio.pth.tar"
    found = {each.what: each for each in only("encoder radseg", **{"radseg.checkpoint": weights})}
    assert "heads clip, siglip2" in found["weights"].text and found["weights"].state == GOOD
    assert found["encoder radseg"].state == GOOD
    assert "cls-to-patch cosine" in found["alignment"].text or found["alignment"].state == LACKS
    (gone,) = only("encoder radseg", **{"radseg.checkpoint": "/nowhere/c.pth.tar"})
    assert gone.state == LACKS and "no such file" in gone.text


@pytest.mark.slow
def test_a_cat_is_a_cat():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [lite] is not installed")
    pytest.importorskip("skimage", reason="the extra [demo] is not installed")
    found = {each.what: each.state for each in only("encoder lite")}
    assert found == {"encoder lite": GOOD, "lite: a cat is a cat": GOOD}
