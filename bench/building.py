# SPDX-License-Identifier: Apache-2.0
"""A map of a whole building in two tiers: memory, frames, questions.

    python bench/building.py                    # 5 000 000 voxels: some twenty minutes, 4 GB
    python bench/building.py --voxels 300000    # a look at it
    python bench/building.py --only frames      # what tiers cost a frame of 640 x 864
    python bench/building.py --space backbone   # the map holds what must be projected for questions

The building has floors of tiles of 64 x 64 voxels; sixteen tiles are a room, with twelve of the
200 kinds of things that there are. A vector is that of a kind and noise. Each step of a walk adds a
tile and hits the one before again. Questions are asked as a robot is asked. In space ``backbone``
answer vectors are made for ``--ahead`` seconds before, by a head of the size of C-RADIOv3-B's.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import threading
import time
import zlib
from collections.abc import Sequence

import measure  # isort: skip

import query  # isort: skip
import rooms  # isort: skip
import torch  # isort: skip
from torch.nn.functional import cosine_similarity, normalize  # isort: skip

from radseg_ros.config import Config, MapConfig, QueryConfig
from radseg_ros.datatypes import FeatureMap
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.coding.tiered import TieredVectors
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.voxel_map import VoxelMap

CHANNELS = 768
SIDE = 64  # voxels of a tile
ROW, FLOOR = 16, 256  # tiles side by side, and on a floor
ALL_KINDS = 200
TILES, KINDS = 16, 12  # of a room
NOISE = 0.3  # of a kind's length
HITS = 20  # points of a voxel in a frame
AHEAD_ROWS = 8192  # answer vectors that are made at once
TURNS = 3  # in each room, of twelve frames: the first sees a room that is new
LIMIT = 5.0  # s that a question may take
LABELS = ["a chair", "a table", "a lamp", "a fire extinguisher"]


class Texts:
    """An encoder of which only texts are needed: their vectors are those of kinds of things."""

    name, checkpoint_hash, language, sam = "building", "", "", None
    channels = CHANNELS
    logit_scale, coarse_head = 100.0, True
    background = ("things", "stuff", "texture", "object")

    def __init__(self, projects: bool, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.head = query.Head() if projects else torch.nn.Identity()
        self.language_channels = query.LANGUAGE if projects else CHANNELS

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """(n, C) to the space of the texts."""
        with torch.no_grad():
            return self.head(vectors)

    def embed_labels(self, labels: Sequence[str]) -> torch.Tensor:
        """A kind for each, which no other has: what is like a background text is not found."""
        rows = [zlib.crc32(label.encode()) % ALL_KINDS for label in labels]
        return self.project(all_kinds()[rows]).float().to(self.device)

    embed_prompts = embed_meanings = embed_labels

    def at_hand(self, names: Sequence[str]) -> list[str]:
        """There are no everyday names: answers are relevancies."""
        del names
        return []


def kinds(room: int) -> torch.Tensor:
    """(12, C) the things of a room."""
    which = torch.randperm(ALL_KINDS, generator=torch.Generator().manual_seed(room))[:KINDS]
    return all_kinds()[which]


@functools.cache
def all_kinds() -> torch.Tensor:
    """(200, C) unit vectors."""
    random = torch.Generator().manual_seed(0)
    return normalize(torch.randn(ALL_KINDS, CHANNELS, generator=random))


def tile(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and mean vectors, (4096,) and (4096, C), of a tile of the floor."""
    floor, place = divmod(number, FLOOR)
    x, y = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    x, y = x + SIDE * (place // ROW), y + SIDE * (place % ROW)
    key = pack(torch.stack([x, y, torch.full_like(x, 60 * floor)]).flatten(1))
    random = torch.Generator().manual_seed(number)
    which = torch.randint(KINDS, (len(key),), generator=random)
    noise = torch.randn(len(key), CHANNELS, generator=random) * (NOISE / CHANNELS**0.5)
    return key, kinds(number // TILES)[which] + noise


def hit(world: VoxelMap, key: torch.Tensor, means: torch.Tensor, stamp_ns: int) -> None:
    """Add what a frame adds."""
    slots, order = world.table.claim(key)
    means, stamp = means[order] * HITS, torch.full_like(slots, stamp_ns)
    points = {
        "hits": torch.full_like(slots, HITS),
        "views": torch.ones_like(slots, dtype=torch.int32),
        "rgb_sum": torch.full((len(slots), 3), HITS / 2, dtype=torch.float64),
        "first_seen_ns": stamp,
        "last_seen_ns": stamp,
        "seen_at": stamp,
    }
    world.table.add(slots, points, lambda a, b: means[a:b].clone())


def resident(field: str = "VmRSS") -> float:
    """GB of this process."""
    return measure.resident(field) / 1024**2


def building(options: argparse.Namespace) -> None:
    """Fill a map, and ask it."""
    layout = MapConfig(
        space=options.space, hot_voxels=options.hot, cold_share=options.share, device="cpu"
    )
    before = resident()
    texts = Texts(projects=options.space == "backbone")
    mapper = Mapper(Config(map=layout, query=QueryConfig(mode="relevancy")), texts)
    fill(mapper.map, options, before)
    if options.space == "backbone":
        until = time.perf_counter() + options.ahead
        while time.perf_counter() < until and mapper.work_ahead(AHEAD_ROWS):
            pass
        print(
            f"{options.ahead:.0f} s of work ahead: {mapper.view.share(mapper.map):.1%} of the "
            f"voxels have answer vectors, {mapper.view.nbytes / 1e9:.2f} GB of {resident():.2f} "
            "resident"
        )
    ask(mapper)


def fill(world: VoxelMap, options: argparse.Namespace, before: float) -> None:
    """Walk through the building, and tell what that took."""
    spent, last = [], None
    steps = -(-options.voxels // SIDE**2)
    for number in range(steps):
        new = tile(number)
        key, means = new if last is None else map(torch.cat, zip(last, new, strict=True))
        start = time.perf_counter()
        hit(world, key, means, number)
        spent.append(time.perf_counter() - start)
        last = new
        if number % max(1, steps // 10) == 0:
            print(f"{len(world):>9} voxels, {resident():.2f} GB resident", flush=True)
    tiers = world.table.vectors
    assert isinstance(tiers, TieredVectors)
    print(
        f"{len(world)} voxels x {CHANNELS}, {options.hot} in full, the rest in 1/{options.share}: "
        f"{world.nbytes / 1e9:.2f} GB allocated, {world.nbytes / len(world):.0f} bytes a voxel, "
        f"{resident():.2f} GB resident ({before:.2f} before the map), at most "
        f"{resident('VmHWM'):.2f}"
    )
    parts = {
        "rows in full": tiers.hot_nbytes,
        f"{len(tiers.codecs.all)} codecs": tiers.codecs.own_nbytes,
        "codes": tiers.nbytes - tiers.hot_nbytes - tiers.codecs.own_nbytes,
        "index": world.table.index.nbytes,
        "hits, colours, stamps": world.nbytes - tiers.nbytes - world.table.index.nbytes,
    }
    print("of which " + ", ".join(f"{what} {size / 1e9:.2f}" for what, size in parts.items()))
    print(
        f"a step of {2 * SIDE**2} voxels, half of them new: median "
        f"{1e3 * statistics.median(spent):.0f} ms, longest {1e3 * max(spent):.0f} ms"
    )
    alike = []
    for number in range(0, steps, max(1, steps // 16)):
        key, means = tile(number)
        alike.append(cosine_similarity(world.table.means(world.table.index.find(key)), means))
    cosine = torch.cat(alike)
    worst = float(cosine.kthvalue(max(1, len(cosine) // 100)).values)
    print(f"cosine with what was put in: mean {float(cosine.mean()):.4f}, worst 1 % {worst:.3f}")


def ask(mapper: Mapper) -> None:
    """Questions over all, of at most five seconds."""
    for texts in (LABELS[:1], LABELS):
        start, processor = time.perf_counter(), time.process_time()
        result = mapper.query(texts, time_limit=LIMIT)
        scored = time.perf_counter() - start
        answers = result.answers
        took = time.perf_counter() - start
        print(
            f"a question for {len(texts)}: {result.covered:.1%} of {len(mapper.map)} voxels in "
            f"{took:.2f} s, of which {scored:.2f} s to score, "
            f"{sum(len(a.objects) for a in answers)} objects; at most "
            f"{resident('VmHWM'):.2f} GB resident since the start; "
            f"{time.process_time() - processor:.2f} s of processor time"
        )
        del result, answers  # before the next one is made


def frames(options: argparse.Namespace) -> None:
    """The same frames into a map in full and one in tiers, in turns."""
    count = options.rooms * TURNS * 12
    tiers = MapConfig(hot_voxels=options.hot, cold_share=options.share)
    device = torch.device(options.device)
    # of the processor alone where it does everything: others may use it meanwhile
    clock = time.process_time if device.type == "cpu" else functools.partial(measure.now, device)
    worlds = {"in full": VoxelMap(CHANNELS, MapConfig(), device=device)}
    worlds["in tiers"] = VoxelMap(CHANNELS, tiers, device=device)
    spent: dict[str, list[float]] = {name: [] for name in worlds}
    coded, learning = worlds["in tiers"].table.vectors, 0.0
    assert isinstance(coded, TieredVectors)
    walk = [(step, step // (TURNS * 12)) for step in range(count)]
    walk += [(step, 0) for step in range(12)]
    for step, room in walk:  # and back to the first room, which is cold by then
        frame = rooms.frame(step, room)
        random = torch.Generator().manual_seed(step)
        which = torch.randint(KINDS, (40, 54), generator=random)
        features = FeatureMap(kinds(room)[which].permute(2, 0, 1).contiguous().to(device))
        for name, world in worlds.items():
            start = clock()
            world.integrate(frame, features, patient=False)
            spent[name].append(clock() - start)
        start = clock()
        for thread in threading.enumerate():  # a robot's frames leave time for it
            if thread.name == "codec":
                thread.join()
        learning += clock() - start
    full, tiered = spent.values()
    ratio_with = (sum(tiered) + learning) / sum(full)
    first = [step % (TURNS * 12) < 12 for step in range(count)]
    of = "of processor time" if device.type == "cpu" else "on the GPU"
    parts = {
        "in a new room (a third of a frame's voxels are new)": [
            i for i in range(6, count) if first[i]
        ],
        "in a known room": [i for i in range(count) if not first[i]],
        "back in the first room": list(range(count, count + 12)),
    }
    parts["all frames"] = [i for part in parts.values() for i in part]
    for what, part in parts.items():
        a, b = [full[i] for i in part], [tiered[i] for i in part]
        ratio = statistics.median(b) / statistics.median(a)
        print(
            f"{what}: a frame {1e3 * statistics.median(a):.1f} ms {of} in full, "
            f"{1e3 * statistics.median(b):.1f} ms in tiers ({ratio:.2f}x), the longest "
            f"{1e3 * max(a):.0f} and {1e3 * max(b):.0f} ms"
        )
    print(
        f"{len(coded)} voxels; beside that, {len(coded.codecs.all)} codecs were learnt in "
        f"{learning:.1f} s, {1e3 * learning / len(tiered):.0f} ms a frame: {ratio_with:.2f}x in all"
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=("building", "frames"))
    parser.add_argument("--voxels", type=int, default=5_000_000)
    parser.add_argument("--hot", type=int, default=100_000)
    parser.add_argument("--share", type=int, default=16)
    parser.add_argument("--space", choices=("language", "backbone"), default="language")
    parser.add_argument("--ahead", type=float, default=60.0, help="s of work before questions")
    parser.add_argument("--rooms", type=int, default=8, help="of the walk of --only frames")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of --only frames")
    options = parser.parse_args()
    if options.device != "cpu" and options.only != "frames":
        parser.error("--device is of --only frames")
    for name, part in (("frames", frames), ("building", building)):
        if options.only in (None, name):
            part(options)


if __name__ == "__main__":
    main()
