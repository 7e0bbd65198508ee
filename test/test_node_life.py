# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""Real nodes from start to end: signals, maps that outlive a run, little shared memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import require_ros
from PIL import Image as Picture

require_ros()

from color_node import GATE, HELD_PIXEL
from recordings import write_folder
from robot import COLOR_NODE, HERE, NODE, Process, color_node, play, start, wait_for
from std_srvs.srv import Trigger

from radseg_interfaces.srv import SaveMap
from radseg_ros.ros.mapper_node import Signals

pytestmark = pytest.mark.slow  # most tests start nodes of their own
FRAMES = 4
ALL_FRAMES = {"node.backlog": FRAMES}
STOP = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that is red all over."""
    return recording(tmp_path_factory.mktemp("red") / "recording", (255, 0, 0))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of frames that the encoder works on until the gate opens."""
    return recording(tmp_path_factory.mktemp("held") / "recording", HELD_PIXEL)


def recording(path: Path, color: tuple[int, int, int]) -> Path:
    write_folder(path, list(range(FRAMES)))
    for image in (path / "color").iterdir():
        Picture.fromarray(np.full((12, 16, 3), color, np.uint8)).save(image)
    return path


@pytest.mark.parametrize("first", STOP, ids=lambda s: s.name)
def test_the_frame_in_hand_gets_into_the_map_that_is_saved_at_the_end(robot, held, tmp_path, first):
    gate = tmp_path / "gate"
    settings = {"node.map_directory": tmp_path / "maps", "map.autosave": "office"}
    with color_node(settings, **{GATE: str(gate)}) as node:
        play(str(held), "--count", "1")
        wait_for(lambda: robot.query("red").status.frames_waiting, what="the frame")
        node.process.send_signal(first)
        wait_for(lambda: "ending after the frame in hand" in node.text, what="the first signal")
        gate.touch()
        code, text = node.result()
    assert code == 0 and f"saved {tmp_path / 'maps' / 'office.radmap'}" in text, text
    assert (tmp_path / "maps" / "office.radmap").is_file() and "lost: it was not saved" not in text


def test_a_second_signal_gives_up_the_frame_and_a_map_that_is_not_saved_is_told(
    robot, red, held, tmp_path
):
    with color_node(ALL_FRAMES, **{GATE: str(tmp_path / "never")}) as node:
        play(str(red))
        wait_for(lambda: robot.integrated() == FRAMES, what="a map")
        play(str(held), "--count", "1")
        wait_for(lambda: robot.query("red").status.frames_waiting, what="the frame")
        node.process.send_signal(signal.SIGINT)
        node.process.send_signal(signal.SIGINT)  # Ctrl-C reaches the node twice with ros2 launch
        wait_for(lambda: "ending after the frame in hand" in node.text, what="the first signal")
        time.sleep(1.5 * Signals.MOMENT)  # the second may have come a little later
        assert not node.ended and "given up" not in node.text
        node.process.send_signal(signal.SIGTERM)
        code, text = node.result()
    assert code == 0 and "the frame in hand was given up" in text, text
    assert "lost: it was not saved" in text


def test_a_map_is_saved_while_the_node_runs(robot, red, tmp_path):
    settings = {"node.map_directory": tmp_path, "map.autosave": "a", "map.autosave_period": 0.005}
    with color_node(settings):
        play(str(red))
        wait_for((tmp_path / "a.radmap").is_file, what="the file")


def test_a_map_of_an_earlier_run_answers_once_it_is_confirmed(robot, red, tmp_path):
    keep = {"node.map_directory": tmp_path, "map.load": "office", "map.autosave": "office"}
    keep |= ALL_FRAMES
    with color_node(keep):  # the first time there is no file to load
        play(str(red))
        wait_for(lambda: robot.integrated() == FRAMES, what="a map")
        saved = robot.call(SaveMap, f"{NODE}/save_map", path="office")
        assert saved.success, saved.message

    with color_node(keep) as node:
        assert "office.radmap" in node.text and "waits" in node.text
        answer = robot.query("red")
        assert answer.status.voxels == 0 and not answer.answers[0].found
        assert f"a loaded map of {saved.voxels} voxels waits for ~/confirm_map" in answer.message
        assert answer.status.pending_voxels == saved.voxels and answer.covered == 1
        confirmed = robot.call(Trigger, f"{NODE}/confirm_map")
        assert confirmed.success, confirmed.message
        answer = robot.query("red")
        assert answer.status.voxels == saved.voxels and answer.answers[0].found
        again = robot.call(Trigger, f"{NODE}/confirm_map")
        assert not again.success and "no loaded map waits" in again.message

    with color_node({**keep, "map.frame_is_persistent": True}):
        assert robot.query("red").answers[0].found, "at once"


def test_a_node_that_is_killed_goes_on_with_its_journal(robot, red, tmp_path):
    keep = {"journal.directory": tmp_path / "journal", "map.frame_is_persistent": True}
    keep |= ALL_FRAMES
    node = start(keep)
    node.said("ready")
    play(str(red))
    wait_for(lambda: robot.integrated() == FRAMES, what="a map")
    before = robot.query("red")
    frames = len(list((tmp_path / "journal").glob("*-frame.safetensors")))
    assert frames == before.status.frames_integrated
    node.stop(signal.SIGKILL)
    robot.forget_servers()
    with color_node(keep) as node:
        assert f"the map goes on with {frames} frames of {tmp_path / 'journal'}" in node.text
        after = robot.query("red")
        assert after.answers[0].found and after.status.voxels == before.status.voxels > 0
        play(str(red))
        wait_for(lambda: robot.integrated(), what="more frames")
    assert "it was not saved" not in node.text, "what is not saved is in the journal"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["map.load:=office", "node.map_directory:=''"], "with an empty node.map_directory"),
        (["map.load:=office", "node.map_directory:=/nowhere"], "there is no map file /nowhere/off"),
        (["map.autosave:=a", "node.map_directory:=/proc/maps"], "/proc/maps cannot be made"),
    ],
)
def test_maps_that_cannot_be_kept_stop_the_start(robot, options, reason):
    words = [word for text in ("encoder:=colors", *options) for word in ("-p", text)]
    code, text = Process(COLOR_NODE, "--ros-args", *words).result()
    assert code == 1 and "Traceback" not in text, text
    (line,) = [line for line in text.splitlines() if line.startswith("radseg_mapping:")]
    assert reason in line


# Little shared memory

IN_NAMESPACE = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


def with_shared_memory(size: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that finds a /dev/shm of its own."""
    allowed = subprocess.run([*IN_NAMESPACE, MOUNT, size, "true"], capture_output=True, text=True)
    if allowed.returncode:
        pytest.skip(f"no mount namespace is permitted here: {allowed.stderr.strip()}")
    process = subprocess.Popen(
        [*IN_NAMESPACE, MOUNT, size, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"},
    )  # in another domain: DDS takes it for granted that a machine has one /dev/shm
    try:
        out, error = process.communicate(timeout=280)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # nobody is left behind
    return subprocess.CompletedProcess(command, process.returncode, out, error)


@pytest.mark.parametrize(("size", "share"), [("64m", 0.8), ("6m", 0.0)])
def test_images_arrive_in_little_shared_memory_or_the_node_says_why_not(tmp_path, size, share):
    script = [sys.executable, str(HERE / "small_shared_memory.py"), str(tmp_path / "vga")]
    done = with_shared_memory(size, *script)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    warned = "MB are free in /dev/shm" in found["log"] and "--shm-size" in found["log"]
    assert found["integrated"] >= share * found["sent"]
    assert warned == (share == 0.0), found["log"]
