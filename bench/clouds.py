# SPDX-License-Identifier: Apache-2.0
"""Time of a published cloud of a million voxels with labels, after a frame that changed a part.

    python bench/clouds.py

Against making every point anew, which took: a copy of all voxels, all scores (here from a tenth of
the numbers per vector, which flatters it), colours, and two copies of the bytes. Both end with the
message serialised, by a publisher that keeps the last one for late subscribers, as the node's do.
Vectors are ready, as they are for questions anyway; what they took is printed.
"""

from __future__ import annotations

import argparse
import array
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import measure  # isort: skip

import query  # isort: skip
import torch  # isort: skip

import rclpy
from sensor_msgs.msg import PointCloud2

from radseg_ros.answers.cloud import semantic_cloud
from radseg_ros.answers.packed import POINT, PackedCloud, pack
from radseg_ros.answers.scores import relevancy
from radseg_ros.ros import messages
from radseg_ros.ros.outputs.latched import LATCHED
from radseg_ros.voxels.view import MapView
from radseg_ros.voxels.voxel_map import VoxelMap

CHANNELS = 64  # of the map: few, since they are not read
THRESHOLD = 0.5
HEAD = messages.header(0, "map")


class Texts:
    """Random texts against one of the background."""

    def __init__(self, count: int, width: int) -> None:
        self._vectors = torch.nn.functional.normalize(torch.randn(count + 1, width), dim=1)

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """(n, W) -> (n, count) in 0..1."""
        similarity = vectors @ self._vectors.T
        return relevancy(similarity[:, :-1], similarity[:, -1:], 100.0)


def anew(world: VoxelMap, vectors: torch.Tensor, texts: Texts) -> PointCloud2:
    """The straightforward way."""
    geometry = world.geometry()
    points = pack(semantic_cloud(geometry, texts(vectors).numpy(), THRESHOLD))
    data = array.array("B")
    data.frombytes(points.tobytes())
    step = POINT.itemsize
    size = {"height": 1, "width": len(points), "point_step": step, "row_step": step * len(points)}
    return PointCloud2(header=HEAD, fields=messages.FIELDS, data=data, is_dense=True, **size)


def seconds(work: Callable[[], PointCloud2], publisher: Any) -> tuple[float, float]:
    """Wall and processor time of one cloud, made and published."""
    start, processor = time.perf_counter(), time.process_time()
    publisher.publish(work())
    return time.perf_counter() - start, time.process_time() - processor


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voxels", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--changed", type=int, default=15_000, help="voxels that a frame changes")
    parser.add_argument("--most", type=int, default=100_000, help="points of the thinned cloud")
    parser.add_argument("--width", type=int, default=query.LANGUAGE, help="numbers in a vector")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rclpy.init()
    publisher = rclpy.create_node("bench_clouds").create_publisher(PointCloud2, "cloud", LATCHED)
    world, lock = query.filled_map(options.voxels, CHANNELS), threading.Lock()
    matrix = torch.randn(CHANNELS, options.width)
    view = MapView(
        lambda means: torch.nn.functional.normalize(means @ matrix, dim=1), options.width
    )
    narrow = options.width // 10
    vectors = torch.nn.functional.normalize(torch.randn(options.voxels, narrow), dim=1)
    texts, few = Texts(options.labels, options.width), Texts(options.labels, narrow)
    memory = array.array("B")  # of one message after the other, as in the node
    cloud, thinned, plain, outline = PackedCloud(), PackedCloud(), PackedCloud(), MapView()

    def labelled(shown: PackedCloud = cloud, most: int = 0) -> PointCloud2:
        shown.update(view.changes(shown.step, world.voxel_size, texts, options.labels), THRESHOLD)
        return messages.cloud_message(shown.points(most=most), HEAD, memory)

    def true_colors() -> PointCloud2:
        outline.catch_up(world, lock)
        plain.update(outline.changes(plain.step, world.voxel_size, lambda v: v, 0), THRESHOLD)
        return messages.cloud_message(plain.points(), HEAD, memory)

    ways: dict[str, Callable[[], PointCloud2]] = {
        "anew": lambda: anew(world, vectors, few),
        "what changed": labelled,
        f"thinned to {options.most}": lambda: labelled(thinned, options.most),
        "in true colours": true_colors,
    }
    print(f"{options.voxels} voxels, {options.labels} labels, {options.threads} threads")
    print(f"vectors of all voxels: {measure.seconds(lambda: view.catch_up(world, lock)):.1f} s")
    for name, work in ways.items():
        print(f"first cloud, {name}: {seconds(work, publisher)[0]:.2f} s")
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    ready = []
    for _ in range(options.rounds):
        query.touch(world, torch.randperm(options.voxels)[: options.changed].sort()[0])
        ready.append(measure.seconds(lambda: view.catch_up(world, lock)))
        for name, work in ways.items():
            took[name].append(seconds(work, publisher))
    old = statistics.median(processor for _, processor in took["anew"])
    print(
        f"after a frame that changed {options.changed} voxels, medians of {options.rounds} (their "
        f"vectors, without a head: {statistics.median(ready):.3f} s)"
    )
    for name, times in took.items():
        wall, processor = (statistics.median(each) for each in zip(*times, strict=True))
        print(
            f"  {name:20} {wall:.3f} s, processor {processor:.3f} s: {processor / old:.3f} of anew"
        )


if __name__ == "__main__":
    main()
