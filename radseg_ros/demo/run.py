# SPDX-License-Identifier: Apache-2.0
"""Runs the whole system once: player, mapping node and client as processes over ROS 2, then
pictures of what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ros.transport import own_domain
from .processes import DemoError, Program

if TYPE_CHECKING:
    from ..view.observer_node import Observer

START_TIMEOUT = 180.0  # s until the node has loaded its encoder
STALL_TIMEOUT = 120.0  # s without a new frame in the map
ANSWER_TIMEOUT = 180.0  # s for one answer; the first one brings every voxel into language space
SETTLE_TIME = (
    10.0  # s without a new frame after the end of a recording whose last inputs cannot be paired
)
MAP = "map.radmap"
RESULTS = (
    "answers.json",
    "map.ply",
    MAP,
    "map_*.png",
    "query_*.png",
    "overview.png",
)  # of an earlier run: removed first
CLEARLY_BELOW = 0.5  # what is absent must stay below this score (the node's own threshold)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m radseg_ros.demo.run", description=__doc__)
    p.add_argument(
        "--out",
        type=Path,
        default=Path("demo_out"),
        help="folder for everything (default: %(default)s)",
    )
    p.add_argument(
        "--recording",
        type=Path,
        help="folder or rosbag2 (default: the gallery, a room that is generated)",
    )
    p.add_argument(
        "--queries",
        default="",
        help="things to ask for, separated by commas (default: what hangs in the gallery)",
    )
    p.add_argument(
        "--encoder",
        default="lite",
        help="encoder of the node (default: %(default)s, which needs no download)",
    )
    p.add_argument(
        "--rate",
        type=float,
        default=5.0,
        help="frames per second that a folder is played at (default: %(default)s)",
    )
    p.add_argument("--view", action="store_true", help="show the map in the browser afterwards")
    p.add_argument(
        "--node-arg",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="another parameter of the node",
    )
    return p


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; 0 when everything that is there was found, and nothing else."""
    options = parser().parse_args(args)
    options.out = options.out.resolve()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for pattern in RESULTS:
            for old in options.out.glob(pattern):
                old.unlink()
        status = run(options)
        return show(options.out / MAP) if options.view else status
    except ImportError as error:
        print(
            f"\ndemo: {error}; `make demo` installs everything that the demo needs", file=sys.stderr
        )
        return 1
    except (DemoError, TimeoutError, RuntimeError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Recording -> map -> answers -> pictures."""
    started = time.monotonic()
    recording, truth = prepare(options)
    texts = [text.strip() for text in options.queries.split(",") if text.strip()]
    texts = texts or [*truth.get("objects", {}), *truth.get("absent", [])]
    if not texts:
        raise DemoError(
            "a recording of your own needs --queries (make demo RECORDING=path "
            'QUERIES="sofa,backpack")'
        )
    remark = (
        " (an ImageNet classifier: it knows things, hardly any surfaces)"
        if options.encoder == "lite"
        else ""
    )
    print(f"encoder: {options.encoder}{remark}")
    with own_domain():  # the demo is nobody else's business
        result = measure(options, recording, texts)
    if not result["voxels"]:
        raise DemoError(f"the map is empty; dropped: {result['drops'] or 'nothing'}")
    rows = compare(result["answers"], truth)
    print("\n" + table(rows))
    print(
        f"map: {result['voxels']} voxels from {result['frames']['integrated']} frames; dropped: "
        f"{result['drops'] or 'nothing'}"
    )
    view = result.pop("view")
    answers = {"recording": str(recording), "encoder": options.encoder, "rows": rows, **result}
    (options.out / "answers.json").write_text(json.dumps(answers, indent=2) + "\n")
    from .album import draw

    names = draw(options.out, view, rows)
    print(f"\nwritten to {options.out}: answers.json, map.ply, {', '.join(names)}")
    print(f"{time.monotonic() - started:.0f} s in all")
    shown = os.path.relpath(options.out / MAP)
    print(f"see and ask it in the browser: source scripts/env.sh; radseg-view {shown} --open")
    return 0 if all(row["ok"] for row in rows) else 1


def show(path: Path) -> int:
    """The page of a map, until somebody ends it."""
    from ..cli.view import main as view

    return view([str(path), "--open"])


def prepare(options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The recording, generated if need be, and its truth, if it is known."""
    if options.recording is not None:
        if not options.recording.exists():
            raise DemoError(f"{options.recording} does not exist")
        return options.recording.resolve(), read_truth(options.recording / "truth.json")
    from tqdm import tqdm

    from . import gallery

    folder = options.out / "gallery"
    if not gallery.is_complete(folder):
        gallery.generate(
            folder, progress=lambda frames: tqdm(frames, "drawing the gallery", unit="frame")
        )
    return folder, read_truth(folder / "truth.json")


def read_truth(file: Path) -> dict[str, Any]:
    """Where the things are: {"objects": {text: [x, y, z]}, "absent": [text, ...]}.

    Empty when there is no such file.
    """
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except ValueError as error:
        raise DemoError(f"{file}: {error}") from error


def measure(options: argparse.Namespace, recording: Path, texts: list[str]) -> dict[str, Any]:
    """Start the programs, wait until the map is complete, ask."""
    from ..view.observer_node import Observer

    logs = options.out / "logs"
    logs.mkdir(exist_ok=True)
    parameters = [
        f"encoder:={options.encoder}",
        "node.backlog:=100000",
        f"node.map_directory:={options.out}",
    ]
    if not options.recording:  # nobody sees a moped, a rocket and a cat in one room
        parameters.append("query.mode:=relevancy")
    parameters += options.node_arg
    if options.encoder == "lite":
        parameters.insert(0, "short_side:=0")  # it makes images smaller anyway
    arguments = [word for parameter in parameters for word in ("-p", parameter)]
    pose_type = "pose" if "node.pose_type:=pose" in parameters else "odometry"
    with ExitStack() as stack:
        node = Program(
            "the mapping node",
            logs / "node.log",
            "radseg_ros.ros.mapper_node",
            "--ros-args",
            *arguments,
        )
        stack.callback(node.stop)
        observer = stack.enter_context(Observer(pose_type))
        play = ("--rate", str(options.rate), "--wait-timeout", str(START_TIMEOUT))
        player = Program(
            "the player", logs / "player.log", "radseg_ros.ros.player", str(recording), *play
        )
        stack.callback(player.stop)
        watch(observer, node, player)
        command = ("--json", "--timeout", str(ANSWER_TIMEOUT), "--", *texts)
        client = Program("the client", logs / "client.log", "radseg_ros.ros.query_client", *command)
        stack.callback(client.stop)
        result = json.loads(client.wait(2 * ANSWER_TIMEOUT))
        observer.save(MAP, ANSWER_TIMEOUT)
        heats = {text: observer.scores(text, ANSWER_TIMEOUT) for text in texts}
        result["view"] = {
            "points": observer.points(),
            "heats": heats,
            "poses": list(observer.poses.values()),
        }
    return result


def watch(observer: Observer, node: Program, player: Program) -> None:
    """Show the progress until every frame that was played is in the map.

    Raises:
        DemoError: a program ended, or nothing happens any more.
    """
    from tqdm import tqdm

    state, start = (0, 0, 0), time.monotonic()
    last_change = first_frame = start
    with tqdm(
        desc="loading the encoder",
        bar_format="{desc}: {n_fmt}/{total_fmt} {bar} {elapsed}",
        mininterval=1,
    ) as bar:
        while True:
            time.sleep(0.5)
            player.check()
            if not node.running:
                raise DemoError(
                    f"the mapping node ended with code {node.process.returncode}; its last "
                    f"lines:\n{node.tail()}"
                )
            now, played, mapped = time.monotonic(), len(observer.poses), observer.frames_in_map
            if (found := (played, mapped, observer.frames_waiting)) != state:
                first_frame = first_frame if state[1] else now
                state, last_change = found, now
                bar.set_description_str("mapping" if played else "loading the encoder")
                bar.total, bar.n = max(played, 1), mapped
            bar.refresh()
            still = now - last_change
            if not player.running:
                if not played:
                    raise DemoError(
                        "the player ended without playing anything; its last "
                        f"lines:\n{player.tail()}"
                    )
                settle_time = max(SETTLE_TIME, 3 * (last_change - first_frame) / max(mapped, 1))
                settled = mapped and not observer.frames_waiting and still > settle_time
                if mapped == played or settled:
                    return
            if still > (STALL_TIMEOUT if played else START_TIMEOUT):
                raise DemoError(
                    f"{mapped} of {played} frames are in the map and nothing has changed for "
                    f"{still:.0f} s\n"
                    f"node:\n{node.tail()}\nplayer:\n{player.tail()}"
                )


def compare(answers: list[dict[str, Any]], truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers next to the truth. A row is ok when the best object is within 0.5 m, an absent thing
    was not found, or no truth is known."""
    rows = []
    for answer in answers:
        label, best = answer["label"], (answer["objects"] or [None])[0]
        found = best["centre"] if best else None
        true = truth.get("objects", {}).get(label)
        error = (
            sum((a - b) ** 2 for a, b in zip(found, true, strict=True)) ** 0.5
            if found and true
            else None
        )
        ok = True
        if true:
            ok = error is not None and error <= 0.5
        elif label in truth.get("absent", ()):
            ok = not answer["found"] and answer["best_score"] < CLEARLY_BELOW
        rows.append(
            {
                "label": label,
                "score": best["score"] if best else answer["best_score"],
                "found": found,
                "true": true,
                "error_m": error,
                "ok": ok,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for people; metres."""

    def place(position: list[float] | None, otherwise: str) -> str:
        return " ".join(f"{value:6.2f}" for value in position) if position else f"{otherwise:>20}"

    lines = [
        f"{'asked for':<16} {'score':>5}  {'found at (x y z)':>20}  {'true position':>20}  "
        f"{'error':>7}"
    ]
    for row in rows:
        error = f"{row['error_m']:5.2f} m" if row["error_m"] is not None else ""
        true = place(row["true"], "")
        found, mark = place(row["found"], "not found"), "" if row["ok"] else "WRONG"
        lines.append(f"{row['label']:<16} {row['score']:5.2f}  {found}  {true}  {error:>7} {mark}")
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
