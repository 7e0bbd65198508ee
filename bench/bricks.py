# SPDX-License-Identifier: Apache-2.0
"""A map larger than its bound, with bricks on the disk: memory, frames, questions, files.

    python bench/bricks.py                      # vectors in full: some three minutes, 3 GB of disk
    python bench/bricks.py --hot 50000          # in tiers: their codes go to the disk
    python bench/bricks.py --rooms 3 --megabytes 300 --rate 0   # a look at it

A camera walks through rooms and back to the first, and its frames go into two maps in turns: one
without a bound, and one of ``--megabytes`` whose coldest bricks are on the disk. Between two frames
is the time that they have on a robot (``--rate``), in which bricks move. At the end both maps are
the same, which is checked.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import measure  # isort: skip

import building  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip

from radseg_ros.config import Config, MapConfig, PersistenceConfig, QueryConfig
from radseg_ros.datatypes import FeatureMap
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.bricks.bricks import Bricks
from radseg_ros.voxels.bricks.keeper import Keeper
from radseg_ros.voxels.map_file import load_map

VIEWS = 12  # of a room
TURNS = 2  # in each room: the first sees a room that is new


def mapper_of(layout: MapConfig, folder: str = "") -> Mapper:
    """A mapper that is asked, and whose map is made by hand."""
    persistence = PersistenceConfig(disk_directory=folder)
    rules = QueryConfig(mode="relevancy")
    texts = building.Texts(projects=False, device=layout.device)
    return Mapper(Config(map=layout, persistence=persistence, query=rules), texts)


def walk(count: int) -> list[tuple[str, int, int]]:
    """(phase, step, room) of each frame."""
    steps = [
        ("in a new room" if turn == 0 else "in a known room", VIEWS * turn + view, room)
        for room in range(count)
        for turn in range(TURNS)
        for view in range(VIEWS)
    ]
    return steps + [("back in the first room", view, 0) for view in range(VIEWS * TURNS)]


def features_of(step: int, room: int, device: torch.device) -> FeatureMap:
    """Patch vectors of the kinds of things in a room."""
    random = torch.Generator().manual_seed(step + 100 * room)
    which = torch.randint(building.KINDS, (40, 54), generator=random)
    return FeatureMap(building.kinds(room)[which].permute(2, 0, 1).contiguous().to(device))


def frames(options: argparse.Namespace, sides: dict[str, Mapper]) -> None:
    """Frames into both, in turns."""
    spent: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    used, lost, on_disk = 0, 0, sides["with bricks"]
    device = torch.device(options.device)
    for number, (phase, step, room) in enumerate(walk(options.rooms)):
        frame, features = rooms.frame(step, room), features_of(step, room, device)
        frame = type(frame)(number * 10**9, frame.rgb, frame.depth, frame.K, frame.T_world_camera)
        for name in list(sides)[:: 1 if number % 2 else -1]:
            mapper, start = sides[name], measure.now(device)
            with mapper.lock:
                stats = mapper.map.integrate(frame, features)
            spent[name].setdefault(phase, []).append(measure.now(device) - start)
            lost += stats.evicted
        used = max(used, on_disk.map.nbytes)
        if options.rate:
            time.sleep(1 / options.rate)
    for phase in spent["with bricks"]:
        free, bound = (spent[name][phase] for name in sides)
        a, b = statistics.median(free), statistics.median(bound)
        print(
            f"{phase}: a frame {1e3 * a:.1f} ms in memory alone, {1e3 * b:.1f} ms with bricks "
            f"({b / a:.2f}x), the longest {1e3 * max(free):.0f} and {1e3 * max(bound):.0f} ms"
        )
    bricks = on_disk.map.beyond
    assert isinstance(bricks, Bricks)
    whole = sides["in memory alone"].map
    print(
        f"{len(whole)} voxels, {whole.nbytes / 1e6:.0f} MB in memory alone; with bricks "
        f"{len(on_disk.map)} in memory, at most {used / 1e6:.0f} MB of "
        f"{options.megabytes} MB; {bricks.voxels} in {len(bricks.on_disk)} bricks of "
        f"{bricks.nbytes / max(1, bricks.voxels):.0f} bytes a voxel; {lost} voxels lost"
    )


def questions(sides: dict[str, Mapper]) -> None:
    """The same question to both, twice."""
    for name, mapper in sides.items():
        for _ in range(2):
            start = time.perf_counter()
            result = mapper.query(["a chair", "a table"])
            scored = time.perf_counter() - start
            found = sum(len(answer.objects) for answer in result.answers)
            print(
                f"a question {name}: {time.perf_counter() - start:.2f} s, of which {scored:.2f} s "
                f"to score {len(result.geometry)} voxels (all: {result.covered:.0%}); "
                f"{found} objects"
            )


def saved(mapper: Mapper, whole: Mapper, folder: Path, tolerance: float) -> None:
    """All of it to a file, which is compared with the map in memory."""
    path, start = folder / "whole.radmap", time.perf_counter()
    voxels = mapper.save(path)
    print(
        f"saving {voxels} voxels: {time.perf_counter() - start:.1f} s, "
        f"{path.stat().st_size / 1e6:.0f} MB"
    )
    loaded, world = load_map(path, device=whole.map.device)[0], whole.map
    mine, theirs = (each.table["key"].argsort() for each in (loaded, world))
    same = torch.equal(loaded.table["key"][mine], world.table["key"][theirs])
    same &= torch.equal(loaded.table["hits"][mine], world.table["hits"][theirs])
    worst = max(
        float((loaded.table.means(a) - world.table.means(b)).abs().max())
        for a, b in zip(mine.split(4096), theirs.split(4096), strict=True)
    )
    print(f"voxels and hits are equal: {same}; vectors differ by at most {worst:.1e}")
    if not same or worst > tolerance:
        raise SystemExit("the maps differ")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--megabytes", type=int, default=300, help="map.max_bytes")
    parser.add_argument("--hot", type=int, default=0, help="map.hot_voxels")
    parser.add_argument("--rate", type=float, default=2.0, help="frames a second; 0 = no pause")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        layout = MapConfig(space="language", device=options.device, hot_voxels=options.hot)
        bound = MapConfig(
            space="language",
            device=options.device,
            hot_voxels=options.hot,
            max_bytes=1_000_000 * options.megabytes,
        )
        sides = {
            "in memory alone": mapper_of(layout),
            "with bricks": mapper_of(bound, str(Path(folder) / "bricks")),
        }
        keeper = Keeper(sides["with bricks"])
        frames(options, sides)
        questions(sides)
        keeper.close()
        tolerance = 1e-4 if not options.hot else 10.0
        saved(sides["with bricks"], sides["in memory alone"], Path(folder), tolerance)
        print(f"at most {measure.resident('VmHWM') / 1024**2:.2f} GB resident, with both maps")
        sides["with bricks"].close()


if __name__ == "__main__":
    main()
