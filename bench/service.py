# SPDX-License-Identifier: Apache-2.0
"""Latency of the services that ask, through a real node, while it maps: median and 95th percentile.

    python bench/service.py

A node in a process of its own, with an encoder that computes for part of the time, takes frames of
a synthetic room and a map of that size to begin with. Each client asks again as soon as it has its
answer. "Ready" is how much of the map had vectors when the clients began. Then one client asks each
of the other ways in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import live  # isort: skip  # before torch: how threads wait

import numpy as np
import rclpy
import rooms
import torch
from geometry_msgs.msg import Point, PointStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from radseg_interfaces.msg import MapStatus, VoxelFilter
from radseg_interfaces.srv import EncodeText, QueryPoint, QueryText, QueryVector
from radseg_ros.ros import messages
from radseg_ros.ros.player import DISCOVERY_SLACK
from radseg_ros.ros.transport import image_transport, own_domain

NODE = "/radseg_mapping"
BUSY = "BENCH_ENCODER_SECONDS"  # environment variable: s that the node's encoder computes per frame
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def run_node() -> None:
    """In the node's process."""
    from radseg_ros.encoders.protocol import ENCODERS
    from radseg_ros.ros.mapper_node import main as node_main

    ENCODERS["bench"] = lambda options: live.HeadOnly(float(os.environ[BUSY]))
    sys.argv.remove("--node")
    node_main()


class Camera:
    """Sends frames of the room at a rate."""

    def __init__(self, node: Any, rate: float) -> None:
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._node, self._period, self._step = node, 1 / rate, 0
        sent = self._messages()
        self._publishers = {
            topic: node.create_publisher(type(message), topic, reliable)
            for topic, message in sent.items()
        }
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, once the node listens."""
        while not all(each.get_subscription_count() for each in self._publishers.values()):
            time.sleep(0.1)
        time.sleep(DISCOVERY_SLACK)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._period):
            for topic, message in self._messages().items():
                self._publishers[topic].publish(message)
            self._step += 1

    def _messages(self) -> dict[str, Any]:
        frame = rooms.frame(self._step, room=self._step // 12 % 2)
        now = time.time_ns()
        camera, world = (messages.header(now, name) for name in ("camera", "map"))
        return {
            "depth/camera_info": messages.info_message(frame.K, frame.depth.shape, camera),
            "color/image": messages.color_message(frame.rgb, camera),
            "depth/image": messages.depth_message(frame.depth, camera),
            "pose": messages.pose_message(frame.T_world_camera, world, "camera"),
        }


class Clients:
    """Each asks again when it has its answer."""

    def __init__(self, node: Any, count: int, labels: list[str], time_limit: float) -> None:
        self._request = QueryText.Request(labels=labels, time_limit=time_limit)
        self._clients = [node.create_client(QueryText, f"{NODE}/query") for _ in range(count)]
        self.seconds: list[float] = []
        self.covered: list[float] = []
        self.refused = 0
        self._closed, self._waiting = False, 0
        for client in self._clients:
            client.wait_for_service()
        time.sleep(DISCOVERY_SLACK)

    def run(self, seconds: float) -> None:
        """Ask for so long, and until every client had an answer; then wait for what is asked."""
        end = time.monotonic() + seconds
        for client in self._clients:
            self._ask(client)
        while time.monotonic() < end or len(self.seconds) < len(self._clients):
            time.sleep(0.1)
        self._closed = True
        while self._waiting:
            time.sleep(0.1)

    def _ask(self, client: Any) -> None:
        self._waiting += 1
        begun = time.perf_counter()

        def answered(future: Any) -> None:
            response = future.result()
            if response.success:
                self.seconds.append(time.perf_counter() - begun)
                self.covered.append(response.covered)
            self.refused += not response.success
            if not self._closed:
                self._ask(client)
            self._waiting -= 1

        client.call_async(self._request).add_done_callback(answered)


def labels_of(options: argparse.Namespace) -> list[str]:
    """Any texts."""
    return [f"thing {number}" for number in range(options.labels)]


def measure(node: Any, status: list[MapStatus], options: argparse.Namespace) -> None:
    """Print a line for each number of clients."""
    for count in options.clients:
        before = status[-1]
        clients = Clients(node, count, labels_of(options), options.time_limit)
        clients.run(options.seconds)
        took, after = np.array(clients.seconds), status[-1]
        mapped = after.frames_integrated - before.frames_integrated
        print(
            f"{count:3} clients: median {np.median(took):.2f} s, 95th percentile "
            f"{np.percentile(took, 95):.2f} s, longest {took.max():.2f} s; {len(took)} answers of "
            f"{statistics.mean(clients.covered):.1%} of the map, {clients.refused} refused; "
            f"{mapped} frames mapped meanwhile (ready {before.answerable:.1%}; {after.voxels} "
            "voxels)",
            flush=True,
        )


def ways(labels: list[str]) -> dict[str, tuple[Any, str, Any]]:
    """Name -> type, service and request of each other way to ask."""
    place = Point(x=1.0, z=0.5)
    picture = messages.color_message(rooms.frame(0).rgb[:200, :200], messages.header(0, ""))
    vector = np.random.default_rng(0).normal(size=live.HeadOnly.language_channels).tolist()
    one = labels[:1]
    where = VoxelFilter(centre=place, radius=2.0)
    return {
        "one label": (QueryText, "query", QueryText.Request(labels=one)),
        "one label within 2 m": (QueryText, "query", QueryText.Request(labels=one, where=where)),
        "one label with viewpoints": (
            QueryText, "query", QueryText.Request(labels=one, viewpoint_distance=1.0)
        ),
        "a vector": (QueryVector, "query_vector", QueryVector.Request(vector=vector)),
        "a picture": (QueryVector, "query_vector", QueryVector.Request(image=picture)),
        f"what is here, of {len(labels)} labels": (
            QueryPoint,
            "query_point",
            QueryPoint.Request(point=PointStamped(point=place), radius=1.0, labels=labels),
        ),
        "texts to vectors": (EncodeText, "encode_text", EncodeText.Request(texts=labels)),
    }  # fmt: skip


def other_ways(node: Any, options: argparse.Namespace) -> None:
    """Print a line for each: one call after the other."""
    for name, (type_, service, request) in ways(labels_of(options)).items():
        client, seconds, refused = node.create_client(type_, f"{NODE}/{service}"), [], ""
        client.wait_for_service()
        time.sleep(DISCOVERY_SLACK)
        for _ in range(options.calls):
            done, begun = threading.Event(), time.perf_counter()
            future = client.call_async(request)
            future.add_done_callback(lambda _, done=done: done.set())
            done.wait()
            seconds.append(time.perf_counter() - begun)
            refused = refused or ("" if future.result().success else future.result().message)
        middle, late = (1e3 * value for value in np.percentile(seconds, [50, 95]))
        why = f"; refused: {refused}" if refused else ""
        print(f"{name}: median {middle:.0f} ms, 95th percentile {late:.0f} ms{why}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--voxels", type=int, default=200_000)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rate", type=float, default=1.0, help="frames per second")
    parser.add_argument("--busy", type=float, default=0.3, help="s that the encoder takes")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each number of clients")
    parser.add_argument("--calls", type=int, default=20, help="of each other way to ask")
    parser.add_argument("--time-limit", type=float, default=0.0, help="of a question, s; 0 = none")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ.update({BUSY: str(options.busy), "OMP_NUM_THREADS": str(options.threads)})
    with own_domain(), tempfile.TemporaryDirectory() as folder:
        mapper = live.mapper_of(options.voxels, live.HeadOnly())
        print(f"{mapper.save(Path(folder) / 'map.radmap', 'map')} voxels to begin with", flush=True)
        del mapper
        parameters = {
            "encoder": "bench",
            "short_side": 0,
            "map.device": "cpu",
            "node.map_directory": folder,
            "map.load": "map",
            "map.frame_is_persistent": True,
            "map.work_ahead": 1.0,  # only until the clients begin: nobody waits for the map
        }
        words = [w for name, value in parameters.items() for w in ("-p", f"{name}:={value}")]
        command = [sys.executable, __file__, "--node", "--ros-args", *words]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            with image_transport():
                rclpy.init()
                ask(options)
        finally:
            process.terminate()
            process.wait(30)


def ask(options: argparse.Namespace) -> None:
    """With the node that has been started."""
    node = rclpy.create_node("bench_service")
    executor, status = SingleThreadedExecutor(), []
    executor.add_node(node)
    node.create_subscription(MapStatus, f"{NODE}/status", status.append, LATCHED)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    while not (status and status[-1].voxels):
        time.sleep(0.1)
    first = Clients(node, 1, labels_of(options), 0.0)
    first.run(0.0)
    print(f"first question, before any frame: {first.seconds[0]:.1f} s", flush=True)
    camera = Camera(node, options.rate)
    camera.start()
    time.sleep(5 / options.rate)
    measure(node, status, options)
    other_ways(node, options)
    camera.close()
    executor.shutdown()
    spinning.join()
    rclpy.shutdown()


if __name__ == "__main__":
    run_node() if "--node" in sys.argv else main()
