# SPDX-License-Identifier: Apache-2.0
"""Fields of messages -> arrays.

Duck-typed: messages of rclpy, of rosbags and plain namespaces all work; imports no ROS.

What a message holds is not believed before it is looked at: values that cannot be become an
``Unusable`` that says what is wrong, and so do missing fields within ``reading``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import NodeConfig
from ..datatypes import Frame, InputError, brief
from ..files import MAX_PIXELS, open_image, rgb_pixels
from .drops import Unusable

if TYPE_CHECKING:
    from PIL import Image

# encoding -> (type of one channel, channels)
ENCODINGS = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "rgba8": (np.uint8, 4),
    "bgra8": (np.uint8, 4),
    "mono8": (np.uint8, 1),
    "8UC1": (np.uint8, 1),
    "8UC3": (np.uint8, 3),  # channel order by OpenCV's habit: BGR
    "16UC1": (np.uint16, 1),
    "mono16": (np.uint16, 1),
    "32FC1": (np.float32, 1),
}
CHANNELS = {
    "rgb8": [0, 1, 2],
    "rgba8": [0, 1, 2],
    "bgr8": [2, 1, 0],
    "bgra8": [2, 1, 0],
    "8UC3": [2, 1, 0],
    "mono8": [0, 0, 0],
}
DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
# cameras round their image sizes; a colour and a depth image differ by more when views differ
ASPECT_TOLERANCE = 0.02
DEPTH_SCALE = NodeConfig().depth_scale  # m per unit of 16-bit depth, unless somebody knows better
NO_RETURN = 65535  # what many cameras and data sets write besides 0
IMAGE_FORMATS = ("JPEG", "PNG")  # Pillow knows many more, and starts programs for some
MAX_SECONDS = 2**31 - 1  # builtin_interfaces/Time holds them in an int32
MAX_FRAME_ID = 255  # characters
SHORTEST_FOCAL_LENGTH = 1e-3  # px
MAX_NUMBER = 1e9  # px in a camera matrix, m in a position: what is larger only overflows
QUATERNION_TOLERANCE = 1e-2  # on the norm; float32 quaternions and four printed digits stay below


@contextmanager
def reading(what: str) -> Iterator[None]:
    """The border to messages: whatever goes wrong while their fields are read becomes Unusable.

    Fields may be missing or of other types, because a bag brings its own definitions.
    """
    try:
        yield
    except (Unusable, MemoryError):
        raise
    except InputError as error:
        raise Unusable(f"{what} refused", str(error)) from error
    except Exception as error:
        raise Unusable(f"{what} whose fields cannot be read", type(error).__name__) from error


class Damaged:
    """Stands for a message that cannot be decoded, so that it still has its place in time.

    Whoever reads more of it than its header is told why.

    Args:
        fault: what is wrong with the message.
        stamp: (seconds, nanoseconds) of its header; None = not known either.
    """

    def __init__(self, fault: Unusable, stamp: tuple[int, int] | None = None) -> None:
        self.fault = fault
        if stamp is not None:
            time = SimpleNamespace(sec=stamp[0], nanosec=stamp[1])
            self.header = SimpleNamespace(stamp=time, frame_id="")

    def __getattr__(self, name: str) -> Any:
        raise Unusable(self.fault.reason, self.fault.detail)


def stamp_to_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> ns, which fit an int64."""
    seconds, nanoseconds = int(stamp.sec), int(stamp.nanosec)
    if not (0 <= seconds <= MAX_SECONDS and 0 <= nanoseconds < 1_000_000_000):
        raise Unusable(
            "stamp that is no time (seconds must be in 0..2^31-1, nanoseconds below 10^9)",
            f"{brief(seconds, 40)} s {brief(nanoseconds, 40)} ns",
        )
    return seconds * 1_000_000_000 + nanoseconds


def frame_id(name: Any) -> str:
    """The name of a coordinate frame; what cannot be one is refused."""
    name = str(name)
    if len(name) > MAX_FRAME_ID or not name.isprintable():
        raise Unusable("frame id that is no name", f"{len(name)} characters: {brief(name, 60)}")
    return name


def plain_frame_id(name: Any) -> str:
    """As ``frame_id``, without the slash that some began with in ROS 1."""
    return frame_id(name).removeprefix("/")


def image_to_array(message: Any, what: str = "image") -> np.ndarray:
    """sensor_msgs/Image -> (H, W) or (H, W, channels) in its own type and channel order.

    The byte order is that of this machine. Reads height, width, encoding, step, is_bigendian and
    data (bytes, array.array or ndarray); rows may be padded. The result may be a view of the
    message.

    Args:
        what: the image is called in messages.
    """
    if message.encoding not in ENCODINGS:
        raise Unusable(
            f"{what} of wrong type",
            f"image encoding {brief(repr(message.encoding), 40)} is not supported; supported: "
            f"{', '.join(ENCODINGS)}",
        )
    kind, channels = ENCODINGS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = width * channels * dtype.itemsize
    if height <= 0 or width <= 0:
        raise Unusable(f"{what} empty", f"image is empty ({width}x{height})")
    if height * width > MAX_PIXELS:
        raise Unusable(f"{what} too large", f"image has {width}x{height} pixels")
    if step < row:
        raise Unusable(
            f"{what} damaged",
            f"image step {step} is shorter than a row of {width} {message.encoding} pixels ({row} "
            "bytes)",
        )
    data = np.frombuffer(message.data, np.uint8)
    needed = (height - 1) * step + row  # some drivers leave out the padding of the last row
    if not needed <= data.size <= height * step:
        how = "truncated" if data.size < needed else "longer than its rows"
        raise Unusable(
            f"{what} damaged",
            f"image data is {how}: {data.size} bytes, {width}x{height} {message.encoding} needs "
            f"{needed}",
        )
    rows = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    pixels = np.ascontiguousarray(rows).view(dtype).astype(kind, copy=False)
    return pixels.reshape((height, width, channels) if channels > 1 else (height, width))


def color_image(message: Any) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage -> (H, W, 3) uint8 RGB."""
    if hasattr(message, "format"):
        data = memoryview(message.data).tobytes()
        image = _open(data, "compressed colour", IMAGE_FORMATS)
        try:
            return rgb_pixels(image)
        except InputError as error:
            raise Unusable("colour of wrong type", str(error)) from error
    if message.encoding in ENCODINGS and message.encoding not in CHANNELS:
        raise Unusable(
            "colour of wrong type",
            f"colour image has encoding {message.encoding!r}; supported: {', '.join(CHANNELS)}",
        )
    pixels = image_to_array(message, "colour")
    return np.ascontiguousarray(np.atleast_3d(pixels)[..., CHANNELS[message.encoding]])


def depth_image(message: Any, depth_scale: float = DEPTH_SCALE) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage (compressedDepth) -> (H, W) float32 metres.

    0 and non-finite = no return, and 65535 in images of 16 bit.

    Args:
        depth_scale: m per unit of 16-bit images; float images are metres (REP 118).
    """
    if hasattr(message, "format"):
        return _compressed_depth(message, depth_scale)
    if message.encoding in ENCODINGS and message.encoding not in DEPTH_ENCODINGS:
        raise Unusable(
            "depth of wrong type",
            f"depth image has encoding {message.encoding!r}; supported: "
            f"{', '.join(DEPTH_ENCODINGS)}",
        )
    return to_metres(image_to_array(message, "depth"), depth_scale)


def camera_matrix(message: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """sensor_msgs/CameraInfo -> K (3, 3) float64 of the rectified image, and its size (h, w).

    ``p`` describes rectified images and is used when it is set, else ``k``; binning and region of
    interest are applied.
    """
    k, p = (
        np.asarray(getattr(message, name, getattr(message, name.upper(), ())), np.float64)
        for name in ("k", "p")
    )
    matrix = (
        p.reshape(3, 4)[:, :3]
        if p.size == 12 and p[0] > 0
        else k.reshape(3, 3)
        if k.size == 9
        else np.zeros((3, 3))
    )
    K = matrix.copy()
    height, width = int(message.height), int(message.width)
    roi = getattr(message, "roi", None)
    if roi is not None and roi.width and roi.height:
        K[:2, 2] -= roi.x_offset, roi.y_offset
        height, width = int(roi.height), int(roi.width)
    bins = [max(int(getattr(message, name, 1)), 1) for name in ("binning_x", "binning_y")]
    K[:2] /= np.array(bins)[:, None]
    if not is_camera_matrix(K):
        raise Unusable(
            "camera info without a camera matrix",
            "the camera is not calibrated: focal lengths are missing or impossible",
        )
    return K, (height // bins[1], width // bins[0])


def camera_frame(color: Any, depth: Any) -> str:
    """The frame of the images of one moment: where the depth is, if it says so."""
    names = (getattr(getattr(image, "header", None), "frame_id", "") for image in (depth, color))
    return next(filter(None, map(plain_frame_id, names)), "")


def is_camera_matrix(K: np.ndarray) -> bool:
    """Whether a (3, 3) matrix can belong to a camera: focal lengths, numbers, last row."""
    calibrated = min(K[0, 0], K[1, 1]) >= SHORTEST_FOCAL_LENGTH and (K[2] == (0, 0, 1)).all()
    return bool(calibrated and (np.abs(K) <= MAX_NUMBER).all())  # NaN compares as false


def pose_matrix(pose: Any) -> np.ndarray:
    """geometry_msgs/Pose -> (4, 4) float64."""
    return _rigid("pose", pose.orientation, pose.position)


def transform(message: Any) -> tuple[str, str, int, np.ndarray]:
    """geometry_msgs/TransformStamped -> parent, child, stamp (ns), T_parent_child (4, 4)."""
    parent, child = plain_frame_id(message.header.frame_id), plain_frame_id(message.child_frame_id)
    if not (parent and child):
        raise Unusable("transform without the names of its two frames")
    T = _rigid("transform", message.transform.rotation, message.transform.translation)
    return parent, child, stamp_to_ns(message.header.stamp), T


def _rigid(what: str, q: Any, t: Any) -> np.ndarray:
    """Quaternion and translation -> (4, 4). Plain arithmetic: transforms come by the thousand."""
    norm = math.sqrt(q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w)
    if not abs(norm - 1) < QUATERNION_TOLERANCE:  # also catches NaN
        raise Unusable(f"{what} not rigid", f"its quaternion has norm {norm:.3g}, not 1")
    position = float(t.x), float(t.y), float(t.z)
    if not all(abs(value) <= MAX_NUMBER for value in position):  # NaN compares as false
        raise Unusable(f"{what} not finite", "its position is no number, or beyond 10^9 m")
    x, y, z, w = (value / norm for value in (q.x, q.y, q.z, q.w))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), position[0]],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), position[1]],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), position[2]],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def pose_message(message: Any) -> Any:
    """PoseStamped, PoseWithCovarianceStamped or Odometry -> its geometry_msgs/Pose."""
    return message.pose.pose if hasattr(message.pose, "pose") else message.pose


def make_frame(
    stamp_ns: int,
    color: Any,
    depth: Any,
    info: Any,
    T_world_camera: np.ndarray,
    depth_scale: float = DEPTH_SCALE,
) -> Frame:
    """Messages of one moment -> Frame.

    Colour and depth may differ in size but not in view; camera info of another resolution of the
    same view is scaled.
    """
    with reading("frame"):
        rgb, metres = color_image(color), depth_image(depth, depth_scale)
        K, size = camera_matrix(info)
        _same_view("colour", "colour image", rgb.shape[:2], metres.shape)
        if size != metres.shape and 0 not in size:  # some drivers leave the size out
            # brings torch, which takes seconds to import and which the player does not need
            from ..geometry import scale_intrinsics

            _same_view("camera info", "camera info", size, metres.shape)
            K = scale_intrinsics(K, size, metres.shape)
        return Frame(stamp_ns, rgb, metres, K, T_world_camera)


def same_aspect(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether images of two sizes (h, w) can show the same view."""
    return abs(size[1] / size[0] * other[0] / other[1] - 1) <= ASPECT_TOLERANCE


def _same_view(what: str, name: str, size: tuple[int, int], depth: tuple[int, int]) -> None:
    if not same_aspect(size, depth):
        raise Unusable(
            f"{what} of wrong size",
            f"{name} ({size[1]}x{size[0]}) and depth image ({depth[1]}x{depth[0]}) do not show "
            "the same view; use depth that is registered to colour",
        )


def to_metres(pixels: np.ndarray, depth_scale: float) -> np.ndarray:
    """Depth in units of ``depth_scale`` (whole numbers) or in metres (float) -> float32 metres."""
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    depth = np.multiply(pixels, np.float32(depth_scale), dtype=np.float32)
    depth[pixels == NO_RETURN] = 0.0
    return depth


def _compressed_depth(message: Any, depth_scale: float) -> np.ndarray:
    """compressed_depth_image_transport: int32 format, float32 a and b, then a PNG of 16 bit."""
    data = memoryview(message.data).tobytes()
    if "compressedDepth" not in message.format:
        return to_metres(_png16(data), depth_scale)
    if "rvl" in message.format:
        raise Unusable(
            "compressed depth in RVL, which is not supported: let its publisher compress as png "
            "(parameter .compressedDepth.format)"
        )
    if len(data) < 12:
        raise Unusable("compressed depth damaged", f"it is truncated: {len(data)} bytes")
    pixels = _png16(data[12:])
    if not message.format.startswith("32FC1"):
        return to_metres(pixels, depth_scale)
    # inverse depth: value = a / depth + b; 0 = no return
    a, b = np.frombuffer(data, "<f4", 2, offset=4)
    if not (np.isfinite([a, b]).all() and a > 0):
        raise Unusable("compressed depth damaged", "its quantisation is impossible")
    with np.errstate(divide="ignore"):
        return np.where(pixels > 0, a / (pixels.astype(np.float32) - b), 0).astype(np.float32)


def _png16(data: bytes) -> np.ndarray:
    image = _open(data, "compressed depth", ("PNG",))
    if not image.mode.startswith("I"):
        raise Unusable("depth of wrong type", f"it has mode {image.mode}, expected 16 bit")
    return np.asarray(image).astype(np.uint16, copy=False)


def _open(data: bytes, what: str, formats: tuple[str, ...]) -> Image.Image:
    try:
        return open_image(data, f"{what} image", formats)
    except InputError as error:
        raise Unusable(f"{what} damaged", str(error)) from error
