# SPDX-License-Identifier: Apache-2.0
"""Whether each thing in a fully labelled recording is found as one object, and keeps its id.

    python bench/instances.py ../shared/data/small_house --noise 0 8

The recording is a folder with color/, depth/, pose/, intrinsics.txt, label/ and instance/ (images
of ids) and meta.json. The encoder knows the label of each pixel, up to noise of so many times its
own length, so what is measured is what the map and the search for objects make of it. Each class is
asked for in turn and must beat all others. An instance counts when at least three frames saw it
and what they saw is larger than 0.3 m. It is found when one object has its centre within 0.25 m of
the centre of the seen part, and neither is the object of another instance nor holds the centre of
another one of its class. Where even the largest connected piece of what was seen is farther off,
it cannot be found so: the share without those is printed as well.

Every few frames all classes are asked: a switch is an instance whose object has another id than the
last time that it was found. Nothing moves in the recording, so whatever is said to be missing is a
mistake.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import measure  # noqa: F401  # isort: skip

import numpy as np
import torch
from tqdm import tqdm

from eval3d.oracle import OracleEncoder
from radseg_ros.answers.boxes import straight_box
from radseg_ros.answers.groups import connected_groups
from radseg_ros.answers.tracks import Tracks
from radseg_ros.config import Config, parse_assignments, with_options
from radseg_ros.datatypes import Frame, SemanticObject
from radseg_ros.files import open_image
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.geometry import world_points
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.carving import depth_beyond
from radseg_ros.voxels.index import pack, unpack

VIEWS, LARGE, NEAR = 3, 0.3, 0.25  # frames, m, m
LEAST_PIXELS = 50  # of an instance in a frame that sees it
MANY = 1000  # objects of a class


@dataclass(slots=True)
class Instance:
    """What has been seen of one thing so far."""

    name: str
    label: str
    views: int = 0
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of its voxels
    lowest: np.ndarray | float = np.inf  # (3,) voxels
    highest: np.ndarray | float = -np.inf

    def take(self, keys: np.ndarray) -> None:
        """A frame shows these voxels."""
        self.views += 1
        self.keys = np.union1d(self.keys, keys)
        index = unpack(torch.from_numpy(keys)).numpy()
        self.lowest = np.minimum(self.lowest, index.min(0))
        self.highest = np.maximum(self.highest, index.max(0))

    def counts(self, voxel_size: float) -> bool:
        """Whether it is one of those that must be found."""
        return self.views >= VIEWS and bool((self.size(voxel_size) > LARGE).any())

    def size(self, voxel_size: float) -> np.ndarray:
        """(3,) m."""
        return (self.highest - self.lowest + 1) * voxel_size

    def centre(self, voxel_size: float) -> np.ndarray:
        """(3,) m."""
        return (self.highest + self.lowest) / 2 * voxel_size

    def is_connected(self, voxel_size: float, max_gap: float) -> bool:
        """Whether its largest connected piece is where the whole is."""
        voxels = unpack(torch.from_numpy(self.keys)).numpy()
        group = connected_groups(voxels, voxel_size, max_gap)
        largest = voxels[group == np.bincount(group).argmax()]
        apart = straight_box(largest, voxel_size)[0] - self.centre(voxel_size)
        return float(np.linalg.norm(apart)) <= NEAR


class House:
    """A recording whose labels are known.

    Args:
        every: use every n-th frame.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.recording = FolderRecording(path)
        meta = json.loads((path / "meta.json").read_text())
        self.names = [meta["classes"][id] for id in sorted(meta["classes"], key=int)]
        self.instances = {id: Instance(name, label) for id, name, label in meta["instances"]}

    def frames(self) -> Iterator[tuple[int, Frame, np.ndarray, np.ndarray]]:
        """Number, frame, and its (h, w) images of labels and instances."""
        for i, frame in self.recording.frames():
            if i % self.every == 0:
                file = f"{self.recording.names[i]}.png"
                label, instance = (
                    np.asarray(open_image(self.path / kind / file)).astype(np.int64)
                    for kind in ("label", "instance")
                )
                yield i, frame, label, instance

    def saw(self, frame: Frame, instance: np.ndarray, voxel_size: float) -> None:
        """Count what a frame shows of each instance."""
        height, width = frame.depth.shape
        depth, u, v = torch.tensor(frame.depth), torch.arange(width), torch.arange(height)
        xyz = world_points(depth, u, v, frame.K, frame.T_world_camera, voxel_size)
        keys = pack([axis.round() for axis in xyz]).numpy()
        for id in np.unique(instance[frame.depth > 0]):
            seen = (instance == id) & (frame.depth > 0)
            if id in self.instances and seen.sum() >= LEAST_PIXELS:
                self.instances[id].take(keys[seen])


def asked(
    mapper: Mapper, tracks: Tracks, names: list[str]
) -> tuple[dict[str, list[SemanticObject]], list[SemanticObject]]:
    """The objects of each class that are there, and those of all that are said to be missing."""
    found: dict[str, list[SemanticObject]] = {}
    missing: list[SemanticObject] = []
    for name in names:
        others = [other for other in names if other != name]
        rules = replace(mapper.config.query, mode="relevancy", max_objects=MANY, background=others)
        result = mapper.query([name], rules)
        things = tracks.follow(name, result.geometry, result.scores[:, 0], result.rules)
        found[name] = [thing for thing in things if not thing.missing_since_ns]
        missing += [thing for thing in things if thing.missing_since_ns]
    return found, missing


def held(thing: SemanticObject, instances: list[Instance], voxel_size: float) -> Iterator[Instance]:
    """The instances of its class whose centres are in the box of an object."""
    half = np.array(thing.size) / 2
    for each in instances:
        apart = np.abs(np.subtract(thing.centre, each.centre(voxel_size)))
        if each.label == thing.label and (apart <= half).all():
            yield each


def assigned(
    instances: list[Instance], found: dict[str, list[SemanticObject]], voxel_size: float
) -> dict[str, SemanticObject]:
    """Name of an instance -> its object: the nearest pairs first, each thing once."""
    pairs = sorted(
        (float(np.linalg.norm(np.subtract(thing.centre, each.centre(voxel_size)))), i, thing.id)
        for i, each in enumerate(instances)
        for thing in found[each.label]
        if all(other is each for other in held(thing, instances, voxel_size))
    )
    by_id = {thing.id: thing for things in found.values() for thing in things}
    taken: dict[str, SemanticObject] = {}
    used: set[int] = set()
    for distance, i, id in pairs:
        if distance <= NEAR and instances[i].name not in taken and id not in used:
            taken[instances[i].name] = by_id[id]
            used.add(id)
    return taken


def why_not(
    each: Instance, instances: list[Instance], things: list[SemanticObject], voxel_size: float
) -> str:
    """Why an instance is not found, in words."""
    low = each.centre(voxel_size) - each.size(voxel_size) / 2
    high = each.centre(voxel_size) + each.size(voxel_size) / 2

    def common(thing: SemanticObject) -> float:
        half = np.array(thing.size) / 2
        sides = np.minimum(high, thing.centre + half) - np.maximum(low, thing.centre - half)
        return float(sides.clip(0).prod())

    inside = [thing for thing in things if common(thing) > 0]
    if not inside:
        return "nothing of its class is found there"
    best = max(inside, key=common)
    others = [o.name for o in held(best, instances, voxel_size) if o is not each]
    apart = np.linalg.norm(np.subtract(best.centre, each.centre(voxel_size)))
    if others:
        return f"one object with {', '.join(others)}"
    pieces = sum(bool(((low <= t.centre) & (high >= np.array(t.centre))).all()) for t in inside)
    if pieces > 1:
        return f"in {pieces} pieces"
    size = " x ".join(f"{side:.2f}" for side in best.size)
    return f"its object is {size} m, {apart:.2f} m off"


def run(options: argparse.Namespace, config: Config, noise: float) -> None:
    """Print what one noise gives."""
    house, size = House(options.recording, options.every), config.map.voxel_size
    encoder = OracleEncoder(house.names, noise=noise, patch=options.patch)
    mapper, tracks = Mapper(config, encoder), Tracks()
    last: dict[str, int] = {}
    switches: Counter[str] = Counter()
    missing: dict[int, str] = {}
    again, looks = 0, 0.0
    frames = list(range(0, len(house.recording), options.every))
    for i, frame, label, instance in tqdm(house.frames(), f"noise {noise:g}", len(frames)):
        encoder.look(label, i)
        mapper.integrate(frame)
        start = time.perf_counter()
        now_ns = mapper.map.clock.now_ns
        tracks.look(frame, partial(beyond, frame, size), config.map.carve_margin, now_ns)
        looks += time.perf_counter() - start
        house.saw(frame, instance, size)
        if (i // options.every + 1) % options.ask and i != frames[-1]:
            continue
        found, gone = asked(mapper, tracks, house.names)
        missing |= {thing.id: f"{thing.label} of {thing.voxels} voxels" for thing in gone}
        wanted = [each for each in house.instances.values() if each.counts(size)]
        matches = assigned(wanted, found, size)
        for name, thing in matches.items():
            again += name in last
            switches[name] += last.get(name, thing.id) != thing.id
            last[name] = thing.id
    gap = config.query.max_gap
    pieces = {each.name for each in wanted if not each.is_connected(size, gap)}
    report(wanted, found, matches, pieces, size)
    whole = len(wanted) - len(pieces - matches.keys())
    changed = {name: count for name, count in switches.items() if count}
    print(
        f"noise {noise:g}: {len(matches)} of {len(wanted)} instances found "
        f"({100 * len(matches) / len(wanted):.1f} %), {100 * len(matches) / whole:.1f} % of those "
        "whose seen part is in one piece; "
        f"{sum(map(len, found.values()))} objects in all; "
        f"{sum(changed.values())} switches of id in {again} ({changed}); "
        f"said to be missing at any time: {list(missing.values())}; "
        f"{1000 * looks / len(frames):.2f} ms a frame to look at what is followed"
    )


def beyond(frame: Frame, voxel_size: float, xyz: np.ndarray) -> np.ndarray:
    """As LiveMap does it."""
    return depth_beyond(torch.from_numpy(xyz), frame, voxel_size).numpy()


def report(
    wanted: list[Instance],
    found: dict[str, list[SemanticObject]],
    matches: dict[str, SemanticObject],
    pieces: set[str],
    voxel_size: float,
) -> None:
    """Print the instances that are not found, with reasons."""
    print(f"{'not found':<30}{'class':<20}{'size m':<20}{'frames':>6}  why")
    for each in wanted:
        if each.name not in matches:
            size = " x ".join(f"{side:.2f}" for side in each.size(voxel_size))
            why = why_not(each, wanted, found[each.label], voxel_size)
            why = "what was seen of it is not connected" if each.name in pieces else why
            print(f"{each.name:<30}{each.label:<20}{size:<20}{each.views:>6}  {why}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 8.0])
    parser.add_argument("--patch", type=int, default=1, help="px (default: %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="use every n-th frame")
    parser.add_argument("--ask", type=int, default=10, help="frames between two questions")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="e.g. query.max_gap=0.1"
    )
    options = parser.parse_args()
    given = parse_assignments(Config, options.option)
    config = with_options(Config(), {"short_side": 0, "query.threshold": 0.5, **given})
    for noise in options.noise:
        run(options, config, noise)


if __name__ == "__main__":
    main()
