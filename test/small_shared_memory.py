# SPDX-License-Identifier: Apache-2.0
"""Run as a program: a node, a player of 640x480 images and a client find a /dev/shm of any size.

Prints, as JSON, the frames that were sent and mapped, and what the node logged.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from robot import CLIENT, color_node, play, wait_for
from waiting import PATIENCE

from radseg_ros.ros.transport import own_domain

FRAMES, RATE = 40, 8
SIZE = (480, 640)


def write_recording(path: Path) -> Path:
    """Images that do not change, of the size of most cameras."""
    for part in ("color", "depth", "pose"):
        (path / part).mkdir(parents=True)
    np.savetxt(path / "intrinsics.txt", [[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    for i in range(FRAMES):
        Image.fromarray(np.full((*SIZE, 3), 200, np.uint8)).save(path / "color" / f"{i}.png")
        Image.fromarray(np.full(SIZE, 1000, np.uint16)).save(path / "depth" / f"{i}.png")
        np.savetxt(path / "pose" / f"{i}.txt", np.eye(4))
    return path


def status() -> dict[str, int]:
    """How far the node is, asked by a program of its own as a user would."""
    command = [sys.executable, *CLIENT, "red", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    return json.loads(done.stdout)["frames"]


def main() -> None:
    """See the text of the module."""
    recording = write_recording(Path(sys.argv[1]))
    with own_domain(), color_node({"short_side": 48, "node.backlog": FRAMES}) as node:
        play(str(recording), "--rate", str(RATE))
        wait_for(lambda: not status()["waiting"], "the last frame")
        print(json.dumps({"sent": FRAMES, **status(), "log": node.text}))


if __name__ == "__main__":
    main()
