# SPDX-License-Identifier: Apache-2.0
"""What the documents name is there: rooms, files, links, commands and their options."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_architecture import CORE, GROUND
from waiting import PATIENCE

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("radseg_ros", "eval3d", "radseg_interfaces", "bench", "examples", "test", "scripts",
           "config", "launch", "docs")  # fmt: skip
FILES = [path for f in FOLDERS for path in (ROOT / f).rglob("*")] + [*ROOT.glob("*.*")]
NAMES = {f"/{path.relative_to(ROOT)}" for path in FILES}
EXAMPLES = {"gray.py", "mine.py", "radseg_interfaces/srv/CountVoxels.srv"}  # of CONTRIBUTING.md
# command -> where its options are written
COMMANDS = {
    **dict.fromkeys(
        (
            "radseg-segment",
            "radseg-eval2d",
            "radseg-text",
            "radseg-onnx",
            "radseg-map",
            "radseg-info",
            "radseg-merge",
            "radseg-export",
            "radseg-view",
            "radseg-doctor",
        ),
        "radseg_ros/cli",
    ),
    "radseg-play": "radseg_ros/ros",
    "radseg-query": "radseg_ros",
    "eval3d": "eval3d",
}


BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def texts(document: Path) -> Iterator[str]:
    """Inline code, and the lines of shell blocks; a line that goes on is one."""
    text = document.read_text()
    for language, block in BLOCK.findall(text):
        if language == "bash":
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def words_of(text: str) -> list[str]:
    """The words of a command; none if it is not one."""
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return []


def each(documents: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("document", documents, ids=lambda path: path.name)


def test_the_rooms_of_the_documents_are_those_of_the_code():
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("## Rooms") : text.index("## Rules")]
    rooms = {path.parent.name for path in (ROOT / "radseg_ros").glob("*/__init__.py")}
    named = {*re.findall(r"^\| `(?:radseg_ros/)?(\w+)` \|", table, re.M)}
    assert named == rooms | {"eval3d"}
    for room, files in (("ground", GROUND), ("core", CORE)):
        listed = re.search(rf"^\| {room} \| `([\w ]+)`", table, re.M)
        assert listed and {*listed[1].split()} == files
        assert all((ROOT / "radseg_ros" / f"{file}.py").is_file() for file in files)


def test_the_way_of_a_frame_is_short():
    text = (ROOT / "docs" / "architecture.md").read_text()
    way = text[text.index("## One frame's way") : text.index("## One question's way")]
    assert 0 < len(re.findall(r"^\| \d+ \| `radseg_ros/", way, re.M)) <= 14


@each(DOCUMENTS)
def test_files_that_a_document_names_exist(document):
    code = [text for text in texts(document) if re.fullmatch(r"[\w./-]+", text)]
    files = {t for t in code if re.search(r"\w\.(py|sh|toml|cff|msg|srv)$", t)} - EXAMPLES
    assert not [name for name in files if not any(path.endswith(f"/{name}") for path in NAMES)]
    types = [f"{t}.{t.split('/')[1]}" for t in code if re.match(r"radseg_interfaces/\w+/\w+$", t)]
    folders = [t for t in code if t.split("/")[0] in FOLDERS and re.search(r"/($|\w+/$)", t)]
    assert not [name for name in types + folders if not (ROOT / name).exists()]


@each(DOCUMENTS)
def test_links_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, heading = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        titles = re.findall(r"^#+ (.+)$", file.read_text(), re.M) if heading else []
        anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
        assert not heading or heading in anchors, target


@each(DOCUMENTS)
def test_commands_that_a_document_names_exist(document):
    setup, makefile = (ROOT / "setup.py").read_text(), (ROOT / "Makefile").read_text()
    for text in texts(document):
        program, *arguments = words = words_of(text) or [""]
        if program in ("python", "pytest") and arguments:
            scripts = [word for word in arguments if re.fullmatch(r"\w+/[\w/]+\.py", word)]
            assert all((ROOT / script).is_file() for script in scripts), text
            for script in scripts:
                assert_options(arguments, (ROOT / script).read_text(), text)
        elif program == "make" and len(words) > 1:
            assert re.search(rf"^{arguments[0]}:", makefile, re.M), text
        elif program in COMMANDS or program.startswith("radseg-"):
            assert f'"{program} = ' in setup, text
            own = (ROOT / COMMANDS[program]).rglob("*.py")
            sources = [*own, ROOT / "radseg_ros" / "command.py"]  # which has options of several
            assert_options(arguments, "".join(path.read_text() for path in sources), text)
        elif words[:3] == ["ros2", "launch", "radseg_ros"]:
            assert (ROOT / "launch" / words[3]).is_file(), text


def assert_options(arguments: list[str], source: str, text: str) -> None:
    for word in arguments:
        option = re.match(r"--(?:no-)?(\w[\w-]*)", word)
        assert not option or re.search(rf'"(?:--)?{option[1]}"', source), f"{word} in: {text}"


@pytest.mark.slow
def test_the_picture_of_the_rooms_shows_the_code():
    command = [sys.executable, "scripts/draw_rooms.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
