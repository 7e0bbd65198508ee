# SPDX-License-Identifier: Apache-2.0
"""A node that runs for long: its memory, threads, files and latency, and what odometry costs it.

    python bench/soak.py --minutes 10

First 200 Hz of odometry and of transforms alone: the processor time of the node beside that of a
bare node, which subscribes to the same and does nothing (rclpy, single-threaded), in the same
seconds. Then 30 Hz of images on top, from a bag in a loop (``--bag``) or of a synthetic room, into
an encoder that is slower than that. A question is asked every few seconds.

The slope of the memory is fitted after the first fifth of the time (of 10 minutes: 2), in which the
map fills and caches are made.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure  # noqa: F401  # isort: skip  # the tests' helpers
import rooms  # isort: skip

import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from tf2_msgs.msg import TFMessage

from radseg_interfaces.srv import QueryText
from radseg_ros.datatypes import Frame
from radseg_ros.frames.folder import open_recording
from radseg_ros.geometry import resize_frame
from radseg_ros.ros import messages
from radseg_ros.ros.transport import image_transport, own_domain

NAMESPACE = "/soak"
NODE = f"{NAMESPACE}/radseg_mapping"
VIEWS = 12  # of the synthetic room, again and again
SHORT_SIDE = 480  # px
SETTLE = 4.0  # s after the start of programs or a change of load
ASK_PERIOD = 5.0  # s
SLOPE_LIMIT = 1.0  # MB a minute
LATENCY_LIMIT = 2.0  # 95th percentile over median
LOAD_LIMIT = 1.5  # of the bare node
TICK = os.sysconf("SC_CLK_TCK")


# The programs beside this one


def mapping_node(log: str, encode: float, arguments: Sequence[str]) -> None:
    """The product's node with an encoder of the tests that takes ``encode`` s.

    Each frame's latency (s, from its stamp to the map) becomes a line of ``log``.
    """
    from color_encoder import ColorEncoder

    from radseg_ros.encoders.protocol import ENCODERS
    from radseg_ros.mapper import Mapper, Prepared
    from radseg_ros.ros.mapper_node import main as run

    class SlowEncoder(ColorEncoder):
        def encode(self, rgb: np.ndarray) -> Any:
            time.sleep(encode)
            return super().encode(rgb)

    fuse = Mapper.fuse

    def timed(mapper: Mapper, prepared: Prepared, *rest: Any) -> Any:
        stats = fuse(mapper, prepared, *rest)
        with open(log, "a") as file:
            print((time.time_ns() - prepared.frame.stamp_ns) / 1e9, file=file)
        return stats

    ENCODERS["slow"] = lambda options: SlowEncoder()
    Mapper.fuse = timed  # type: ignore[method-assign]
    run(arguments)


def bare_node() -> None:
    """What any node in Python pays for these topics."""
    # It has nothing to put away: a signal ends it at once, without rclpy's shutdown.
    rclpy.init(
        args=["--ros-args", "-r", f"__ns:={NAMESPACE}"],
        signal_handler_options=SignalHandlerOptions.NO,
    )
    node = rclpy.create_node("bare")
    qos = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
    for type_, topic in ((Odometry, "pose"), (TFMessage, "/tf")):
        node.create_subscription(type_, topic, lambda message: None, qos)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    print("ready", flush=True)
    executor.spin()


class Child:
    """A program of this file, which ends with this one."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._proc = Path(f"/proc/{self._process.pid}")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(iter(self._process.stdout.readline, ""))

    def wait_ready(self) -> None:
        """Wait until it says so."""
        while not any("ready" in line for line in self.lines):
            self._must_live()
            time.sleep(0.05)

    def _must_live(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError("".join(self.lines))

    def processor(self) -> float:
        """Seconds of processor time so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def sample(self) -> Sample:
        """Its memory, threads and files now."""
        self._must_live()
        status = (self._proc / "status").read_text()
        resident, threads = (
            int(re.findall(rf"{name}:\s+(\d+)", status)[0]) for name in ("VmRSS", "Threads")
        )
        return Sample(
            time.monotonic(), resident / 1024, threads, len(os.listdir(self._proc / "fd"))
        )

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(120)


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process."""

    at: float  # s
    memory: float  # MiB
    threads: int
    files: int


# What is sent


class Sender:
    """This process's own node: a robot with a camera."""

    def __init__(self) -> None:
        with image_transport():
            self._node = rclpy.create_node("soak", namespace=NAMESPACE)
        self._publishers: dict[str, Any] = {}
        self._client = self._node.create_client(QueryText, f"{NODE}/query")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ending.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """Send nothing more."""
        self._ending.set()
        self._thread.join()
        self._node.destroy_node()

    def publish(self, topic: str, message: Any) -> None:
        """Send one message."""
        if topic not in self._publishers:
            self._publishers[topic] = self._node.create_publisher(type(message), topic, 10)
        self._publishers[topic].publish(message)

    def ask(self) -> None:
        """Ask where something is; the answer is awaited by nobody."""
        self._client.call_async(QueryText.Request(labels=["red", "grey"]))


def every(period: float, stop: threading.Event, act: Callable[[], None]) -> threading.Thread:
    """Call ``act`` in a thread of its own until ``stop``; a late call is not made up for."""

    def run() -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            act()
            due = max(due + period, time.monotonic() - period)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def odometry_of(sender: Sender, transforms: int) -> Callable[[], None]:
    """What a base sends: its odometry, and as many transforms in one message."""
    from geometry_msgs.msg import TransformStamped

    def act() -> None:
        head = messages.header(time.time_ns(), "odom")
        sender.publish("pose", messages.pose_message(np.eye(4), head, "camera"))
        moved = [
            TransformStamped(header=head, child_frame_id=f"link_{number}")
            for number in range(transforms)
        ]
        sender.publish("/tf", TFMessage(transforms=moved))

    return act


def frames_of(bag: str) -> list[Frame]:
    """The frames of a bag, or views of a room."""
    if bag:
        return list(itertools.islice(open_recording(Path(bag)), 100))
    return [resize_frame(rooms.frame(step), SHORT_SIDE) for step in range(VIEWS)]


def camera_of(sender: Sender, frames: Sequence[Frame]) -> Callable[[], None]:
    """A camera that sees ``frames`` again and again."""

    def ready() -> Iterator[dict[str, Any]]:
        head = messages.header(0, "camera")
        made = [
            {
                "depth/camera_info": messages.info_message(frame.K, frame.depth.shape, head),
                "color/image": messages.color_message(frame.rgb, head),
                "depth/image": messages.depth_message(frame.depth, head),
            }
            for frame in frames
        ]
        return itertools.cycle(made)

    shown = ready()

    def act() -> None:
        stamp = messages.time_message(time.time_ns())
        for topic, message in next(shown).items():
            message.header.stamp = stamp
            sender.publish(topic, message)

    return act


# What is found


def odometry_load(
    node: Child, bare: Child, sender: Sender, seconds: float, rate: float, transforms: int
) -> tuple[float, float]:
    """Share of a core that odometry and transforms cost the node, and the bare node."""

    def shares() -> list[float]:
        time.sleep(SETTLE)
        before = [child.processor() for child in (node, bare)]
        time.sleep(seconds)
        return [(c.processor() - b) / seconds for c, b in zip((node, bare), before, strict=True)]

    idle = shares()
    stop = threading.Event()
    thread = every(1 / rate, stop, odometry_of(sender, transforms))
    busy = shares()
    stop.set()
    thread.join()
    ours, theirs = (b - i for b, i in zip(busy, idle, strict=True))
    return ours, theirs


def slope(samples: Sequence[Sample]) -> float:
    """MiB a minute."""
    minutes = [sample.at / 60 for sample in samples]
    return statistics.linear_regression(minutes, [sample.memory for sample in samples]).slope


def soak(options: argparse.Namespace) -> bool:
    """Run it, print what is found; whether all of it is within its limits."""
    with own_domain(), tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "latency"
        log.touch()
        rclpy.init()
        node = Child("--as-node", str(log), str(options.encode))
        bare = Child("--as-bare")
        sender = Sender()
        try:
            node.wait_ready()
            bare.wait_ready()
            ours, theirs = odometry_load(
                node, bare, sender, options.load_seconds, options.odometry, options.transforms
            )
            print(
                f"odometry and transforms at {options.odometry:g} Hz: {ours:.1%} of a core, bare "
                f"node {theirs:.1%}: {ours / theirs:.2f}x (limit {LOAD_LIMIT})",
                flush=True,
            )
            samples = long_run(node, sender, options)
        finally:
            sender.close()
            node.stop()
            bare.stop()
            rclpy.shutdown()
        latencies = [float(line) for line in log.read_text().split()]
    fine = report(samples, latencies, options)
    return fine and ours <= LOAD_LIMIT * theirs


def long_run(node: Child, sender: Sender, options: argparse.Namespace) -> list[Sample]:
    """Everything at once; a look at the node every second."""
    stop = threading.Event()
    threads = [
        every(1 / options.odometry, stop, odometry_of(sender, options.transforms)),
        every(1 / options.rate, stop, camera_of(sender, frames_of(options.bag))),
        every(ASK_PERIOD, stop, sender.ask),
    ]
    samples, end = [], time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        time.sleep(min(1.0, options.minutes * 60 / 30))
        samples.append(node.sample())
    stop.set()
    for thread in threads:
        thread.join()
    return samples


def report(
    samples: Sequence[Sample], latencies: Sequence[float], options: argparse.Namespace
) -> bool:
    """Print what a long run has shown; whether it is within the limits."""
    late = samples[len(samples) // 5 :]
    threads, files = ({getattr(s, name) for s in late} for name in ("threads", "files"))
    rise = slope(late)
    median = statistics.median(latencies)
    p95 = statistics.quantiles(latencies, n=20)[-1]
    print(
        f"{60 * options.minutes:g} s at {options.rate:g} Hz into an encoder of {options.encode:g} "
        f"s: {len(latencies)} frames mapped\n"
        f"memory {late[0].memory:.0f} to {late[-1].memory:.0f} MiB, slope {rise:+.2f} MiB a minute "
        f"(limit {SLOPE_LIMIT:g})\n"
        f"threads {shown(threads)}, file descriptors {shown(files)} (constant)\n"
        f"latency: median {1e3 * median:.0f} ms, 95th percentile {1e3 * p95:.0f} ms: "
        f"{p95 / median:.2f}x (limit {LATENCY_LIMIT:g})"
    )
    constant = len(threads) == len(files) == 1
    return rise < SLOPE_LIMIT and constant and p95 <= LATENCY_LIMIT * median


def shown(values: set[int]) -> str:
    """One number, or from where to where."""
    return str(min(values)) if len(values) == 1 else f"{min(values)} to {max(values)}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=30.0, help="Hz of images")
    parser.add_argument("--encode", type=float, default=0.1, help="s that the encoder takes")
    parser.add_argument("--bag", default="", help="its first 100 frames instead of a room")
    parser.add_argument("--odometry", type=float, default=200.0, help="Hz, and of transforms")
    parser.add_argument("--transforms", type=int, default=1, help="in one message")
    parser.add_argument("--load-seconds", type=float, default=15.0)
    parser.add_argument("--as-node", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--as-bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_bare:
        bare_node()
    elif options.as_node:
        log, encode = options.as_node
        settings = ("encoder:=slow", "short_side:=240", "map.voxel_size:=0.1")
        parameters = [word for setting in settings for word in ("-p", setting)]
        mapping_node(log, float(encode), ["--ros-args", "-r", f"__ns:={NAMESPACE}", *parameters])
    else:
        return 0 if soak(options) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
