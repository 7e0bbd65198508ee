# SPDX-License-Identifier: Apache-2.0
"""Frames a second through the node: a process of its own, images over real transport."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import gpu_kit

RATE = 30.0  # frames a second that are sent: what cameras do, and more than is asked for
FRAMES_GOAL = 10.0  # frames a second, preset balanced, 640x864
SETTLE = 3.0  # s of frames before it counts: kernels are chosen, memory is taken
PATIENCE = 60.0  # s until the node has loaded its encoder and used its first frame
TURN = 12  # frames of a room


def node(bench: gpu_kit.Bench) -> None:
    """Frames a second that get into the map while more are sent, and how old they are then."""
    try:
        import rclpy
    except ImportError:
        bench.leave_out("rclpy is not here")
        return
    from radseg_ros.ros.transport import image_transport, own_domain

    size, seconds = bench.sizes[0], 2.0 if bench.quick else 8.0
    table = bench.table(
        network="s", size="s", preset="s", type="s", sent_per_s=".1f", frames_per_s=".1f",
        age_ms=".0f", voxels="d",
    )  # fmt: skip
    with own_domain(), image_transport():
        rclpy.init()
        try:
            for preset in ("fast",) if bench.quick else ("balanced", "fast", "paper"):
                if bench.time_for(f"node {preset}", PATIENCE / 4):
                    with bench.attempt(f"node {preset}"):
                        _measure(bench, table, size, preset, seconds)
        finally:
            rclpy.shutdown()


def _measure(
    bench: gpu_kit.Bench, table: gpu_kit.Table, size: gpu_kit.Size, preset: str, seconds: float
) -> None:
    model, dtype = bench.models[0], "float16" if bench.device.type == "cuda" else "float32"
    crop, stride = bench.windows[preset]
    parameters = {
        "encoder": "radseg",
        "radseg.checkpoint": bench.checkpoint(model),
        "radseg.crop": crop,
        "radseg.stride": stride or -1,
        "radseg.dtype": dtype,
        "radseg.device": bench.device,
        "radseg.offline": "true",
        "short_side": min(size.height, size.width),
        "node.pose_source": "topic",
    }
    watcher = Watcher(size)
    log = bench.folder / "node.log"
    try:
        with running_node(parameters, log):
            watcher.first_frame()
            time.sleep(SETTLE)
            before = watcher.read()
            time.sleep(seconds)
            after = watcher.read()
    except Exception:
        print(log.read_text(errors="replace")[-3000:])
        raise
    finally:
        watcher.close()
    took = after["time"] - before["time"]
    rate = (after["frames"] - before["frames"]) / took
    table.row(
        network=model, size=str(size), preset=preset, type=dtype, frames_per_s=rate,
        sent_per_s=(after["sent"] - before["sent"]) / took, age_ms=1e3 * after["age"],
        voxels=after["voxels"],
    )  # fmt: skip
    if preset == "balanced" and bench.device.type == "cuda":
        most = 1e3 / FRAMES_GOAL
        bench.goal(f"ms a frame through the node, {model} {preset} {dtype}", 1e3 / rate, most)


@contextlib.contextmanager
def running_node(parameters: dict[str, Any], log: Any) -> Iterator[None]:
    """The node, in a process of its own, as long as the block lasts."""
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "radseg_ros.ros.mapper_node", "--ros-args", *words]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=gpu_kit.ROOT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


class Watcher:
    """A camera at ``RATE``, and what the node says of itself."""

    def __init__(self, size: gpu_kit.Size) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

        from radseg_interfaces.msg import MapStatus
        from radseg_ros.ros import messages

        self._header, self._views = messages.header, [self._view(size, i) for i in range(TURN)]
        self._node = rclpy.create_node("bench_camera")
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._publishers = {
            topic: self._node.create_publisher(type(message), topic, reliable)
            for topic, message in self._views[0].items()
        }
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._news = threading.Condition()
        self._status: dict[str, float] = {"frames": 0}
        self._sent = 0
        self._closed = threading.Event()
        self._node.create_subscription(MapStatus, "/radseg_mapping/status", self._told, latched)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._executor.spin, self._send)
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _view(size: gpu_kit.Size, step: int) -> dict[str, Any]:
        from radseg_ros.ros import messages

        frame = size.frame(step)
        camera, world = (messages.header(0, name) for name in ("camera", "map"))
        return {
            "depth/camera_info": messages.info_message(frame.K, frame.depth.shape, camera),
            "pose": messages.pose_message(frame.T_world_camera, world, "camera"),
            "depth/image": messages.depth_message(frame.depth, camera),
            "color/image": messages.color_message(frame.rgb, camera),
        }

    def _send(self) -> None:
        while not self._closed.wait(0.1):  # until the node listens
            if all(each.get_subscription_count() for each in self._publishers.values()):
                break
        due = time.monotonic()
        while not self._closed.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / RATE, time.monotonic())
            now = time.time_ns()
            for topic, message in self._views[self._sent % TURN].items():
                message.header.stamp = self._header(now, "").stamp
                self._publishers[topic].publish(message)
            self._sent += 1

    def _told(self, message: Any) -> None:
        stamp = message.header.stamp
        with self._news:
            self._status = {
                "time": time.monotonic(),
                "sent": self._sent,
                "frames": message.frames_integrated,
                "voxels": message.voxels,
                "age": time.time() - stamp.sec - 1e-9 * stamp.nanosec,
            }
            self._news.notify_all()

    def first_frame(self) -> None:
        """Wait until one is in the map."""
        with self._news:
            if not self._news.wait_for(lambda: self._status["frames"] > 0, PATIENCE):
                raise TimeoutError(f"no frame in the map after {PATIENCE:g} s")

    def read(self) -> dict[str, float]:
        """The next thing that the node says: it does so once a second."""
        with self._news:
            last = self._status
            if not self._news.wait_for(lambda: self._status is not last, PATIENCE / 4):
                raise TimeoutError("the node is silent")
            return self._status

    def close(self) -> None:
        """End."""
        self._closed.set()
        self._executor.shutdown()
        for thread in self._threads:
            thread.join(10)
        self._node.destroy_node()
