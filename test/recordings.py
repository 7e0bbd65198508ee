# SPDX-License-Identifier: Apache-2.0
"""Writes small recordings of known contents: folders and bags."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

K = np.array([[50.0, 0, 8], [0, 50, 6], [0, 0, 1]])
SIZE = (12, 16)
HUMBLE = get_typestore(Stores.ROS2_HUMBLE)  # shared: it compiles each type that is written once


def rgb_of(i: int) -> np.ndarray:
    return np.full((*SIZE, 3), (10 * i, 20, 30), np.uint8)


def write_folder(path: Path, names: list[int]) -> Path:
    for part in ("color", "depth", "pose"):
        (path / part).mkdir(parents=True)
    np.savetxt(path / "intrinsics.txt", K)
    for i in names:
        Image.fromarray(rgb_of(i)).save(path / "color" / f"{i:06d}.png")
        Image.fromarray(np.full(SIZE, 1000 + i, np.uint16)).save(path / "depth" / f"{i:06d}.png")
        T = np.eye(4)
        T[0, 3] = i / 10
        np.savetxt(path / "pose" / f"{i:06d}.txt", T)
    return path


class BagWriter:
    """Writes the messages of a small robot."""

    def __init__(
        self,
        path: Path,
        plugin: StoragePlugin,
        prefix: str = "",
        compression: CompressionMode = CompressionMode.NONE,
    ) -> None:
        self.store = HUMBLE
        self.writer = Writer(path, version=9, storage_plugin=plugin)
        if compression:
            self.writer.set_compression(compression, CompressionFormat.ZSTD)
        self.writer.open()
        self.prefix = prefix
        self.connections: dict = {}

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def message(self, name: str, **fields: object) -> object:
        return self.store.types[name](**fields)

    def write(self, topic: str, message: object, time_ns: int) -> None:
        kind = message.__msgtype__
        data = bytes(self.store.serialize_cdr(message, kind))
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(
                self.prefix + topic, kind, typestore=self.store
            )
        self.writer.write(self.connections[topic], time_ns, self.damage(topic, data))

    def damage(self, topic: str, data: bytes) -> bytes:
        """What is stored of a message; tests replace it."""
        return data

    def header(self, ns: int, frame: str) -> object:
        """Zero is no stamp: 0 becomes the first that is one."""
        ns = ns or 1
        stamp = self.message("builtin_interfaces/msg/Time", sec=ns // 10**9, nanosec=ns % 10**9)
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame)

    def image(self, topic: str, ns: int, pixels: np.ndarray, encoding: str, late: int = 0) -> None:
        data = np.frombuffer(pixels.tobytes(), np.uint8)
        message = self.message(
            "sensor_msgs/msg/Image",
            header=self.header(ns, "camera"),
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=int(np.prod(pixels.shape[1:])) * pixels.itemsize,
            data=data,
        )
        self.write(topic, message, ns + late)

    def compressed(
        self, topic: str, ns: int, pixels: np.ndarray, kind: str, header: bytes = b""
    ) -> None:
        stream = io.BytesIO(header)
        stream.seek(len(header))
        Image.fromarray(pixels).save(stream, "png")
        data = np.frombuffer(stream.getvalue(), np.uint8)
        message = self.message(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(ns, "camera"),
            format=kind,
            data=data,
        )
        self.write(topic, message, ns)

    def info(
        self,
        topic: str,
        ns: int,
        K: np.ndarray = K,
        size: tuple[int, int] = SIZE,
        model: str = "",
        D: Sequence[float] = (),
    ) -> None:
        roi = self.message(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        )
        message = self.message(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(ns, "camera"),
            height=size[0],
            width=size[1],
            distortion_model=model,
            d=np.array(D, float),
            k=K.ravel(),
            r=np.eye(3).ravel(),
            p=np.zeros(12),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )
        self.write(topic, message, ns)

    def pose(
        self,
        topic: str,
        ns: int,
        x: float,
        quat_w: float = 1.0,
        odometry: bool = False,
        child: str = "camera",
    ) -> None:
        position = self.message("geometry_msgs/msg/Point", x=x, y=0.0, z=0.0)
        orientation = self.message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=quat_w)
        pose = self.message("geometry_msgs/msg/Pose", position=position, orientation=orientation)
        head = self.header(ns, "map")
        if not odometry:
            self.write(
                topic, self.message("geometry_msgs/msg/PoseStamped", header=head, pose=pose), ns
            )
            return
        zero = self.message("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        twist = self.message("geometry_msgs/msg/Twist", linear=zero, angular=zero)
        with_covariance = {
            "pose": ("PoseWithCovariance", pose),
            "twist": ("TwistWithCovariance", twist),
        }
        parts = {
            name: self.message(
                f"geometry_msgs/msg/{kind}", **{name: value, "covariance": np.zeros(36)}
            )
            for name, (kind, value) in with_covariance.items()
        }
        self.write(
            topic,
            self.message("nav_msgs/msg/Odometry", header=head, child_frame_id=child, **parts),
            ns,
        )

    def transforms(
        self, topic: str, ns: int, *edges: tuple[str, str, float], late: int = 0
    ) -> None:
        """Each edge is (parent, child, x)."""
        turn = self.message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
        made = []
        for parent, child, x in edges:
            at = self.message("geometry_msgs/msg/Vector3", x=x, y=0.0, z=0.0)
            motion = self.message("geometry_msgs/msg/Transform", translation=at, rotation=turn)
            head, name = self.header(ns, parent), "geometry_msgs/msg/TransformStamped"
            made.append(self.message(name, header=head, child_frame_id=child, transform=motion))
        self.write(topic, self.message("tf2_msgs/msg/TFMessage", transforms=made), ns + late)


def write_tf_bag(path: Path, frames: int = 5) -> Path:
    """Frames at 10 Hz from t = 1 s and no topic of poses: the base drives 1 m/s along map's x.

    Its transforms come at 20 Hz; that of the camera, half a metre ahead, once and late.
    """
    with BagWriter(path, StoragePlugin.SQLITE3) as bag:
        for i in range(2 * frames + 1):
            ns = 1_000_000_000 + i * 50_000_000
            moved = (i - 0.5) / 20
            bag.transforms("/tf", ns - 25_000_000, ("map", "base_link", moved), ("odd", "one", 0.0))
            if i % 2 == 0 and i < 2 * frames:
                bag.info("/depth/camera_info", ns)
                bag.image("/color/image", ns, rgb_of(i), "rgb8")
                bag.image("/depth/image", ns, np.full(SIZE, 1000 + i, np.uint16), "16UC1")
        bag.transforms("/tf_static", ns, ("base_link", "camera", 0.5))
    return path


def write_bag(path: Path, plugin: StoragePlugin = StoragePlugin.SQLITE3, frames: int = 5) -> Path:
    """Frames at 10 Hz from t = 1 s, poses at 20 Hz, half a period beside the images.

    Depth is recorded 5 ms late.
    """
    with BagWriter(path, plugin, "/robot") as bag:
        for i in range(2 * frames + 1):
            ns = 1_000_000_000 + i * 50_000_000
            bag.pose("/pose", ns - 25_000_000, (i - 0.5) / 20)
            if i % 2 == 0 and i < 2 * frames:
                bag.info("/depth/camera_info", ns)
                bag.image("/color/image", ns, rgb_of(i)[..., ::-1], "bgr8")
                bag.image(
                    "/depth/image",
                    ns + 5_000_000,
                    np.full(SIZE, 1000 + i, np.uint16),
                    "16UC1",
                    late=40_000_000,
                )
    return path
