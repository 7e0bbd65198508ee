# SPDX-License-Identifier: Apache-2.0
"""docs/robot.md says what the code does: its parameters, and every reason why an input is dropped.

Topics and services are compared with a running node in test_node_steer.py.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from radseg_ros.config import Config, options_of
from radseg_ros.frames.images.color import COLOR_ENCODINGS
from radseg_ros.frames.images.depth import DEPTH_ENCODINGS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "robot.md").read_text()
# where reasons are written down
SOURCES = [
    *(
        f"frames/{name}.py"
        for name in (
            *("assemble", "decode", "drops", "keyframes", "localizer", "sync", "transforms"),
            *("images/raw", "images/color", "images/depth", "images/rectify", "images/rvl"),
        )
    ),
    "geometry.py",
    "live_map.py",
    "ros/inputs.py",
    "ros/services/corrections.py",
]
COUNTING = {"add", "add_failure", "clear", "drop", "leave_out", "_begin_anew", "NotYet", "Unusable"}


def table(head: str) -> list[list[str]]:
    """The rows of the table whose head begins with ``head``; cells without their backticks."""
    lines = TEXT.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return rows


def template(node: ast.AST | None) -> str:
    """A text of the code with … for what is filled in; empty if it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or "…" for part in node.values)
    return ""


def reasons_in(source: str) -> Iterator[str]:
    """Texts that are counted, returned by what finds reasons, or constants in capitals."""
    tree = ast.parse((ROOT / "radseg_ros" / source).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            of_a_frame = source in ("frames/sync.py", "geometry.py") and called == "InputError"
            if called in COUNTING or of_a_frame:
                yield from map(template, node.args[: 1 + (called == "leave_out")])
        elif isinstance(node, ast.FunctionDef) and node.name == "_unpaired":
            yield from (template(n.value) for n in ast.walk(node) if isinstance(n, ast.Return))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            constant = name.isupper() and source in (
                "live_map.py", "frames/keyframes.py", "frames/drops.py"
            )  # fmt: skip
            if name == "reason" or constant:
                yield template(node.value)


def reasons() -> set[str]:
    found = {reason for source in SOURCES for reason in reasons_in(source)}
    stats = (ROOT / "radseg_ros" / "datatypes.py").read_text()
    found |= {f"{start}…" for start in re.findall(r'"(frame without[^"{]*)', stats)}
    sentences = {reason for reason in found if " " in reason}  # not names
    return sentences - {"short_side must be >= 0, got …"}  # the fault of a caller, not of a frame


def covers(explained: str, reason: str) -> bool:
    pattern = ".+".join(map(re.escape, explained.split("…")))
    return re.fullmatch(pattern, reason) is not None


def test_every_reason_that_the_code_can_give_is_explained():
    explained, given = [reason for reason, _ in table("dropped")], reasons()
    assert len(given) > 30, "the search finds them"
    missing = [r for r in given if not any(covers(e, r) for e in explained)]
    assert not missing, f"docs/robot.md, 'No data? Read this' lacks: {missing}"
    gone = [e for e in explained if not any(covers(e, r) for r in given)]
    assert not gone, f"docs/robot.md explains what the code never says: {gone}"


def test_what_the_watchdog_says_is_explained():
    said = [cause for cause, _ in table("silent input")]
    written = "".join(
        (ROOT / "radseg_ros" / name).read_text() for name in ("watchdog.py", "ros/inputs.py")
    )
    pieces = [part for cause in said for part in cause.split("…")]
    texts = "".join(re.findall(r'"([^"]*)"', written))
    plain = re.sub(r"\{[^}]*\}", "…", texts)
    assert all(piece in plain for piece in pieces), [p for p in pieces if p not in plain]


def test_the_parameters_that_can_change_are_listed():
    expected = [
        [option.name, json.dumps(option.default), option.doc]
        for option in options_of(Config).values()
        if not option.fixed
    ]
    assert table("parameter") == expected


def test_files_that_the_page_names_are_there():
    for link in re.findall(r"\]\((\.\./[^)]*|[a-z_]+\.md)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def test_the_encodings_are_those_that_are_decoded():
    def listed(*heads: str) -> list[str]:
        rows = [line for line in TEXT.splitlines() if line.startswith(heads)]
        return sorted(name for row in rows for name in re.findall(r"`(\w+)`", row))

    assert listed("| colour |", "| YUV 4:2:2", "| Bayer") == sorted(COLOR_ENCODINGS)
    assert listed("| depth |") == sorted(DEPTH_ENCODINGS)


def test_what_viewers_show_is_published():
    gives = {name.removeprefix("~/"): type_ for name, type_, _ in table("gives")}
    displays = yaml.safe_load((ROOT / "config" / "mapping.rviz").read_text())
    shown = {
        display["Topic"]["Value"]: display["Class"].split("/")[1]
        for display in displays["Visualization Manager"]["Displays"]
        if "Topic" in display
    }
    types = {"PointCloud2": "PointCloud2", "MarkerArray": "MarkerArray", "Map": "OccupancyGrid"}
    assert len(shown) == 6
    for topic, kind in shown.items():
        assert gives[topic].endswith(f"/{types[kind]}"), topic
    launch = (ROOT / "launch" / "mapping.launch.py").read_text()
    names = re.search(r"^SHOWN = \(([^)]*)\)", launch, re.M)
    assert names and {*re.findall(r'"(\w+)"', names[1])} == shown.keys()
    panels = json.loads((ROOT / "config" / "foxglove.json").read_text())["configById"]
    topics = panels["3D!map"]["topics"]
    assert {*topics} == {f"/radseg_mapping/{topic}" for topic in shown}


def test_every_panel_of_the_layout_has_its_place():
    layout = json.loads((ROOT / "config" / "foxglove.json").read_text())

    def panels(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        assert isinstance(part, dict)
        return [*panels(part["first"]), *panels(part["second"])]

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
