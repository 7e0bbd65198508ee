# SPDX-License-Identifier: Apache-2.0
"""radseg-map: make maps of recordings as the node would, without ROS.

A recording is a rosbag2 (sqlite3 or mcap), a folder with color/ depth/ pose/ intrinsics.txt, or,
with --dataset, the folder of a data set, whose --scenes are mapped. Ctrl-C saves what is there, and
--resume goes on after the last frame. With --journal the recording is what a node has written down
(journal.directory): its map is made again, with other options, and no image is encoded.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..command import complain, positive, run_command
from ..config import Config, with_options
from ..datatypes import ConfigError, InputError
from ..files import prepare_file, prepare_folder
from .mapping.progress import bar, interruptible
from .mapping.recordings import DATA_SETS
from .options.mapper import add_mapper_options, given_options

NAME = "radseg-map"
SUFFIX = ".radmap"
KINDS = ("color", "depth", "info", "pose")  # of topics


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 0, 1 if a recording failed, 130 when interrupted."""
    options = parser().parse_args(arguments)
    return run_command(NAME, lambda: command(options))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "recordings", nargs="*", metavar="RECORDING", help="bag, folder, or root of a data set"
    )
    p.add_argument("--journal", type=Path, metavar="DIR", help="journal of a node, instead")
    p.add_argument(
        "--unconfirmed",
        action="store_true",
        help="of a journal: the run that nobody has confirmed (~/confirm_map), not the map",
    )
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help=f"the map to write ({SUFFIX}); of several recordings the folder of their maps",
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on with a map that is there, after its last frame; begin one that is not",
    )
    p.add_argument("--overwrite", action="store_true", help="replace a map that is there")
    add_mapper_options(p, "encoder", "checkpoint", "preset", "device")
    reading = p.add_argument_group("reading")
    reading.add_argument(
        "--rate",
        type=positive,
        default=10,
        metavar="HZ",
        help="frames per second of a folder, which has no stamps (%(default)s)",
    )
    for kind in KINDS:
        text = f"the bag's topic for {kind} (default: found by type)"
        reading.add_argument(f"--bag-{kind}", default="", metavar="TOPIC", help=text)
    reading.add_argument(
        "--dataset", default="", choices=DATA_SETS, help="RECORDING is the root of this data set"
    )
    reading.add_argument(
        "--scenes", default="paper", help="names, separated by commas; paper = the paper's"
    )
    many = p.add_argument_group("several recordings")
    many.add_argument("--jobs", type=positive, default=1, help="at the same time on this machine")
    many.add_argument(
        "--cluster",
        default="",
        metavar="ADDRESS",
        help="Dask scheduler, e.g. tcp://host:8786, or local:2",
    )
    return p


def command(options: argparse.Namespace) -> int:
    """Map what the command line names -> the exit status."""
    logging.basicConfig(level=logging.ERROR, format=f"{NAME}: %(message)s")
    # what is dropped is counted and printed at the end; what contradicts itself is told only once
    logging.getLogger("radseg_ros.frames.evidence").setLevel(logging.WARNING)
    given = given_options(options)
    if options.journal is not None:
        return map_journalled(options, given)
    if not options.recordings or options.unconfirmed:
        raise InputError("name a recording, or a journal (--journal DIR)")
    with_options(Config(), given)  # refused before anything is read
    reading, tasks = reading_of(options), {}
    for name, out in targets_of(options).items():
        if out.exists() and not (options.resume or options.overwrite):
            raise InputError(f"{out} is there already: --resume continues it, --overwrite loses it")
        prepare_file(out)
        common = {"given": given, "reading": reading, "resume": options.resume}
        tasks[name] = {"out": str(out), **common}
    if options.cluster or (options.jobs > 1 and len(tasks) > 1):
        return map_elsewhere(tasks, options)
    return map_here(tasks)


def map_journalled(options: argparse.Namespace, given: dict[str, Any]) -> int:
    """Make the map of a journal -> the exit status.

    Raises:
        InputError: options that belong to recordings, or a file that cannot be written.
    """
    folder, out = options.journal, options.out
    if options.recordings or options.dataset or options.resume:
        raise InputError("--journal goes without recordings, --dataset and --resume")
    if out.suffix != SUFFIX:
        raise InputError(f"{out}: the file of a map ends with {SUFFIX}")
    if out.exists() and not options.overwrite:
        raise InputError(f"{out} is there already: --overwrite loses it")
    prepare_file(out)
    from .mapping.journalled import map_journal

    with interruptible(NAME) as stop:
        outcome = map_journal(folder, out, given, options.unconfirmed, stop)
        print(told(outcome))
        for reason, count in outcome["dropped"].items():
            print(f"  {count:6d} x {reason}")
        return 0 if outcome["complete"] else 130


def reading_of(options: argparse.Namespace) -> dict[str, Any]:
    """How recordings are read; see :func:`open_named`."""
    return {
        "rate": float(options.rate),
        "topics": {kind: getattr(options, f"bag_{kind}") for kind in KINDS},
        "dataset": options.dataset,
        "root": str(Path(options.recordings[0]).absolute()) if options.dataset else "",
    }


def targets_of(options: argparse.Namespace) -> dict[str, Path]:
    """Recording, or scene -> the file of its map.

    Raises:
        InputError: a file of another suffix, or two maps of one name.
        ConfigError: several data sets, or a scene outside of its data set.
    """
    names, out = list(dict.fromkeys(options.recordings)), options.out
    if options.dataset:
        from eval3d.options import EvalConfig
        from eval3d.run import scene_names

        if len(names) > 1:
            raise ConfigError("--dataset takes the root of one data set")
        chosen = [name for name in options.scenes.split(",") if name]
        names = scene_names(EvalConfig(dataset=options.dataset, root=names[0]), chosen)
    if len(names) == 1 and not out.is_dir():
        if out.suffix != SUFFIX:
            raise InputError(f"{out}: the file of a map ends with {SUFFIX}")
        return {names[0]: out}
    prepare_folder(out)
    found: dict[str, Path] = {}
    for name in names:
        path = out / f"{_stem(name)}{SUFFIX}"
        if path in found.values():
            raise InputError(f"two recordings would be written to {path}: map one after the other")
        found[name] = path
    return found


def _stem(name: str) -> str:
    path = Path(name).absolute()
    return path.stem if path.suffix in (".mcap", ".db3") else path.name


def map_here(tasks: dict[str, dict[str, Any]]) -> int:
    """Map one recording after the other; one that fails does not stop the others."""
    from eval3d.cluster import attempt

    from .mapping.recorded import map_recording

    status = 0
    with interruptible(NAME) as stop:
        for name, task in tasks.items():
            work = partial(map_recording, name, task, bar, stop)
            status |= conclude(name, work() if len(tasks) == 1 else attempt(work))
            if stop():
                return 130
    return status


def map_elsewhere(tasks: dict[str, dict[str, Any]], options: argparse.Namespace) -> int:
    """Map recordings in processes of this machine, or on a cluster."""
    from tqdm import tqdm

    from eval3d.cluster import elsewhere

    from .mapping.recorded import attempt_recording

    status, sent = 0, {}
    for name, task in tasks.items():
        far = name if options.dataset else str(Path(name).absolute())
        sent[far] = {**task, "out": str(Path(task["out"]).absolute())}
    folders = {str(Path(task["out"]).parent) for task in sent.values()}
    paths = sorted(folders | {str(Path(name).absolute()) for name in options.recordings})
    results = elsewhere(attempt_recording, [*sent], (sent,), options.jobs, options.cluster, paths)
    for name, outcome in tqdm(results, "maps", total=len(sent), unit="map", disable=None):
        status |= conclude(name, outcome)
    return status


def conclude(name: str, outcome: dict[str, Any] | str) -> int:
    """Tell what became of a recording -> the exit status."""
    if isinstance(outcome, str):
        complain(NAME, f"{name}: {outcome}")
        return 1
    print(told(outcome))
    for reason, count in outcome["dropped"].items():
        example = outcome["examples"].get(reason)
        print(f"  {count:6d} x {reason}" + (f" (e.g. {example})" if example else ""))
    if outcome["complete"]:
        return 0
    saved = f"{outcome['out']} holds what is there, --resume goes on"
    complain(NAME, f"interrupted: {saved if outcome['used'] else 'no frame was mapped so far'}")
    return 0


def told(outcome: dict[str, Any]) -> str:
    """How far a map is, in one line."""
    unused = sum(outcome["dropped"].values())
    return (
        f"{outcome['out']}: {outcome['voxels']} voxels from {outcome['used']} of "
        f"{outcome['frames']} frames, {outcome['bytes'] / 1e6:.1f} MB, {outcome['seconds']:.0f} s"
        + (f"; not used: {unused}" if unused else "")
    )


if __name__ == "__main__":
    sys.exit(main())
