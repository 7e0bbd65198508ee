# SPDX-License-Identifier: Apache-2.0
"""The command ``eval3d``. Nothing heavy is imported until the arguments are known to be right."""

from __future__ import annotations

import argparse
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from radseg_ros.command import add_workers, complain, run_command

from .report.difference import add_diff, command_diff
from .tables.command import add_table, command_table

EXAMPLES = """examples:
  eval3d run --dataset replica --root ~/Replica --gt ~/replica_gt/{scene}.npz --out results/replica
  eval3d run --dataset folder --root recording --encoder oracle --out results/oracle
  eval3d bag my_bag --gt labelled.ply --classes nyu40 --encoder lite --out results/bag
  eval3d score map.radmap --gt labelled.ply --classes nyu40 --encoder lite --out results/map
  eval3d sweep --root recording --encoder oracle --axis oracle.noise=0,4,16 --out results/noise
  eval3d report results/a results/b --out results/both
  eval3d table A.8
  eval3d diff results/a results/b
  eval3d ask my_recording --labels labels.json --encoder lite --out results/asked
  eval3d export openlex3d results/replica --checkpoint CHECKPOINT --out predictions/radseg/replica
"""

# command-line name -> option; everything else goes through --set
FLAGS = {
    "encoder": "encoder",
    "checkpoint": "radseg.checkpoint",
    "preset": "radseg.preset",
    "space": "map.space",
    "voxel-size": "map.voxel_size",
    "device": "radseg.device",
    "classes": "classes",
    "ignore": "ignore",
    "gt": "gt",
    "protocol": "protocol",
    "k": "k",
    "frame-skip": "frame_skip",
    "limit": "limit",
    "seed": "seed",
    "threads": "threads",
    "retrieval": "retrieval",
    "labels": "labels",
}
# of a command that scores against no ground truth
UNSCORED = ("gt", "protocol", "k", "ignore", "retrieval")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        "eval3d",
        description="Score 3D open-vocabulary maps, reproducibly: the protocol of the RADSeg "
        "paper.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="map and score scenes of a data set")
    _dataset(run)
    _options(run)
    _execution(run)

    bag = commands.add_parser(
        "bag", help="map and score a rosbag2, through the code that the node uses"
    )
    bag.add_argument("bag", help="folder of the bag, or its .mcap / .db3 file")
    _options(bag)
    _execution(bag)

    score = commands.add_parser(
        "score", help="score a map made elsewhere: .radmap, or .npz with xyz and labels"
    )
    score.add_argument("map", type=Path)
    _options(score)
    _output(score)

    sweep = commands.add_parser(
        "sweep", help="run every combination of options, as ablation tables need it"
    )
    _dataset(sweep)
    sweep.add_argument(
        "--axis",
        action="append",
        required=True,
        metavar="OPTION=V,V,...",
        help="values to try; may be repeated",
    )
    _options(sweep)
    _execution(sweep)

    report = commands.add_parser(
        "report", help="merge results into tables, plots and one HTML page"
    )
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    _output(report)

    ask = commands.add_parser(
        "ask", help="is what is there found, and what is not there not? Needs no ground truth"
    )
    ask.add_argument("recording", help="a folder with color/, depth/ and pose/, or a rosbag2")
    ask.add_argument("--save-map", action="store_true", help="keep the map (map.radmap)")
    _options(ask, UNSCORED)
    _output(ask)

    export = commands.add_parser("export", help="maps in the formats of other benchmarks")
    export.add_argument("format", choices=["openlex3d"])
    export.add_argument("maps", nargs="+", type=Path, help="map files, or results of --save-map")
    export.add_argument(
        "--objects",
        choices=["voxel", "object"],
        default="voxel",
        help="what has an embedding: each voxel (default), or each connected group of one class",
    )
    _options(export, (*UNSCORED, "labels"))
    export.add_argument("--out", type=Path, required=True, help="folder of the predictions")

    add_table(commands)
    add_diff(commands)
    commands.add_parser("options", help="list every option with its default")
    return parser


def _dataset(parser: argparse.ArgumentParser) -> None:
    from .datasets import DATASETS

    parser.add_argument(
        "--dataset", choices=DATASETS, default="folder", help="how the data lie (default: folder)"
    )
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument(
        "--scenes",
        default="paper",
        help="names separated by commas; paper = those of the paper (default)",
    )


def _options(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    from radseg_ros.config import options_of

    from .options import EvalConfig

    known = options_of(EvalConfig)
    for flag, name in FLAGS.items():
        if flag in without:
            continue
        option = known[name]
        many = "A,B,..." if typing.get_origin(option.kind) is list else None
        help = option.doc.replace("%", "%%")
        parser.add_argument(f"--{flag}", choices=option.choices or None, metavar=many, help=help)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="any option of 'eval3d options'",
    )
    parser.add_argument(
        "--encoder-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of an encoder that has no group of its own among them; may be repeated",
    )


def _execution(parser: argparse.ArgumentParser) -> None:
    add_workers(parser, "scenes")
    parser.add_argument(
        "--save-map", action="store_true", help="keep the map of each scene (map.radmap)"
    )
    _output(parser)


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the results; scenes that are there are not repeated",
    )
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="numbers only")
    parser.add_argument(
        "--up",
        default="z",
        choices=["x", "y", "z", "-x", "-y", "-z"],
        help="world axis that points up, for pictures",
    )


def make_config(arguments: argparse.Namespace) -> Any:
    """The options of a command line as an EvalConfig."""
    from radseg_ros.config import GROUPS, encoder_flags, parse_assignments

    from .options import EvalConfig, with_options

    fixed = {"bag": ("bag", getattr(arguments, "bag", "")), "score": ("folder", "")}
    fixed |= {"ask": _recording(getattr(arguments, "recording", "")), "export": ("folder", "")}
    dataset = fixed.get(arguments.command)
    name, root = dataset or (arguments.dataset, arguments.root)
    config = with_options(EvalConfig(), {"dataset": name, "root": str(root)})
    given = {flag: getattr(arguments, flag.replace("-", "_"), None) for flag in FLAGS}
    own = encoder_flags(given["encoder"] or "", given, (*GROUPS, "oracle"))
    flags = [f"{FLAGS[flag]}={value}" for flag, value in given.items() if value is not None]
    if any(flag.startswith("radseg.device=") for flag in flags):
        flags.append(f"lite.device={arguments.device}")
    found = parse_assignments(EvalConfig, [*flags, *arguments.set])
    if own or arguments.encoder_option:
        given_options = found.get("encoder_options", [])
        found["encoder_options"] = [*given_options, *own, *arguments.encoder_option]
    return with_options(config, found)


def _recording(path: str) -> tuple[str, str]:
    """The data set that a recording is: a folder of images, or a bag."""
    return ("folder" if (Path(path) / "depth").is_dir() else "bag"), path


def bars() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Progress over the frames of a scene and over scenes, with the time left.

    Silent where nobody looks.
    """
    from tqdm import tqdm

    def frames(scene: Any) -> Iterator[Any]:
        return iter(
            tqdm(scene, scene.name, total=len(scene), unit="frame", disable=None, leave=False)
        )

    def scenes(items: Any, total: int) -> Iterator[Any]:
        return iter(
            tqdm(items, "scenes", total=total, unit="scene", disable=None if total > 1 else True)
        )

    return frames, scenes


def run_scenes(
    config: Any, arguments: argparse.Namespace, out: Path
) -> tuple[list[Path], dict[str, str]]:
    """Evaluate the scenes of a command line into ``out``, write the report -> the folders of those
    that are done, and the errors of the others.
    """
    from .asking.labels import read_label_file
    from .cluster import evaluate_scenes
    from .run import scene_names, write_run

    if config.labels:
        read_label_file(Path(config.labels))  # one that is none is refused once, before any work
    names = scene_names(
        config, [name for name in getattr(arguments, "scenes", "").split(",") if name]
    )
    write_run(config, names, out)
    frames, scenes = bars()
    execution = (arguments.jobs, arguments.cluster, arguments.save_map)
    done, failed = evaluate_scenes(config, names, out, *execution, frames=frames, scenes=scenes)
    folders = [out / scene["scene"] for scene in done]
    if folders:
        finish(folders, out, arguments, failed)
    return folders, failed


def finish(
    folders: list[Path], out: Path, arguments: argparse.Namespace, failed: dict[str, str]
) -> None:
    """Pictures of the scenes, and the report."""
    from .report.write import write_report

    if arguments.pictures:
        from .report.pictures import draw_scene

        for folder in folders:
            draw_scene(folder, arguments.up)
    write_report(folders, out, arguments.pictures, failed)


def command_run(arguments: argparse.Namespace) -> int:
    """run and bag."""
    done, failed = run_scenes(make_config(arguments), arguments, arguments.out)
    return _conclude(arguments.out, bool(done), failed)


def command_score(arguments: argparse.Namespace) -> int:
    """score."""
    from .score_file import score_file

    folder = score_file(make_config(arguments), arguments.map, arguments.out)
    finish([folder], arguments.out, arguments, {})
    return _conclude(arguments.out)


def command_sweep(arguments: argparse.Namespace) -> int:
    """sweep."""
    from .report.write import write_report
    from .sweep import combinations

    failed: dict[str, str] = {}
    folders = []
    for name, config in list(combinations(make_config(arguments), arguments.axis)):
        print(f"{name}", file=sys.stderr)
        done, errors = run_scenes(config, arguments, arguments.out / name)
        failed.update({f"{name}, {scene}": text for scene, text in errors.items()})
        folders += done
    if folders:
        write_report(folders, arguments.out, arguments.pictures, failed)
    return _conclude(arguments.out, bool(folders), failed)


def command_report(arguments: argparse.Namespace) -> int:
    """report."""
    from .report.write import write_report

    write_report(arguments.folders, arguments.out, arguments.pictures)
    return _conclude(arguments.out)


def command_ask(arguments: argparse.Namespace) -> int:
    """ask."""
    from .asking.recording import ask_recording
    from .asking.report import report_answers

    frames, _ = bars()
    config = make_config(arguments)
    folder = ask_recording(config, arguments.out, frames, arguments.save_map)
    report_answers(folder, arguments.out, arguments.pictures, arguments.up)
    return _conclude(arguments.out)


def command_export(arguments: argparse.Namespace) -> int:
    """export."""
    from .openlex3d import export_openlex3d

    config = make_config(arguments)
    for folder in export_openlex3d(config, arguments.maps, arguments.out, arguments.objects):
        print(folder)
    return 0


def command_options(arguments: argparse.Namespace) -> int:
    """options."""
    from radseg_ros.config import options_of

    from .options import EvalConfig

    for option in options_of(EvalConfig).values():
        print(f"{option.name} = {option.default!r}\n    {option.doc}")
    return 0


def _conclude(out: Path, reported: bool = True, failed: dict[str, str] | None = None) -> int:
    if reported:
        print((out / "summary.md").read_text(encoding="utf-8"))
        print(f"{out / 'report.html'}")
    for scene, text in (failed or {}).items():
        complain("eval3d", f"{scene}: {text}")
    return 1 if failed else 0


COMMANDS = {
    "run": command_run,
    "bag": command_run,
    "score": command_score,
    "sweep": command_sweep,
    "report": command_report,
    "ask": command_ask,
    "export": command_export,
    "options": command_options,
    "table": command_table,
    "diff": command_diff,
}


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status is 0, 1 when a scene failed, 2 for wrong options and inputs."""
    parsed = build_parser().parse_args(arguments)
    return run_command("eval3d", lambda: _command(parsed), refused=2)


def _command(arguments: argparse.Namespace) -> int:
    import logging

    from radseg_ros.files import prepare_folder

    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if getattr(arguments, "out", None) is not None:
        prepare_folder(arguments.out)
    return COMMANDS[arguments.command](arguments)


if __name__ == "__main__":
    raise SystemExit(main())
