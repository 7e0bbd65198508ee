# SPDX-License-Identifier: Apache-2.0
"""Messages as plain namespaces, for everything that reads fields and needs no ROS."""

from __future__ import annotations

import io
from types import SimpleNamespace as Message
from typing import Any

import numpy as np
from PIL import Image

K = [50.0, 0, 8, 0, 50, 6, 0, 0, 1]


def head(ms: int, frame: str = "map") -> Message:
    """Zero is no stamp: 0 becomes the first that is one."""
    sec, nanosec = divmod(ms * 1_000_000 or 1, 10**9)
    return Message(stamp=Message(sec=sec, nanosec=nanosec), frame_id=frame)


def image(ms: int, encoding: str = "rgb8", frame: str = "map") -> Message:
    step = 16 * {"rgb8": 3, "16UC1": 2}[encoding]
    return Message(
        header=head(ms, frame),
        height=12,
        width=16,
        encoding=encoding,
        step=step,
        is_bigendian=0,
        data=bytes(12 * step),
    )


def info(k: list | None = None, **fields: object) -> Message:
    default = {"header": head(0), "height": 12, "width": 16, "k": k or K, "p": [0.0] * 12}
    return Message(**{**default, **fields})


def pose(
    ms: int,
    x: float = 0.0,
    frame: str = "map",
    w: float = 1.0,
    odometry: bool = False,
    child: str | None = None,
) -> Message:
    inner = Message(
        position=Message(x=x, y=0.0, z=0.0), orientation=Message(x=0.0, y=0.0, z=0.0, w=w)
    )
    message = Message(header=head(ms, frame), pose=Message(pose=inner) if odometry else inner)
    if child is not None:
        message.child_frame_id = child
    return message


def pair(ms: int) -> list:
    return [("color", image(ms)), ("depth", image(ms, "16UC1"))]


def transforms(*edges: tuple, x: float = 0.0, w: float = 1.0) -> Message:
    """tf2_msgs/TFMessage; each edge is (ms, parent, child) or (ms, parent, child, x)."""
    made = []
    for ms, parent, child, *position in edges:
        at = Message(x=position[0] if position else x, y=0.0, z=0.0)
        turn = Message(x=0.0, y=0.0, z=0.0, w=w)
        motion = Message(translation=at, rotation=turn)
        made.append(Message(header=head(ms, parent), child_frame_id=child, transform=motion))
    return Message(transforms=made)


def raw_image(
    pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False, container: Any = bytes
) -> Message:
    """Pixels as a sensor_msgs/Image, without its header."""
    height, width = pixels.shape[:2]
    ordered = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    row = ordered.itemsize * pixels[0].size
    rows = np.full((height, row + padding), 0xEE, np.uint8)
    rows[:, :row] = np.frombuffer(ordered.tobytes(), np.uint8).reshape(height, row)
    size = {"height": height, "width": width, "step": row + padding}
    return Message(**size, encoding=encoding, is_bigendian=int(big), data=container(rows.tobytes()))


def file_bytes(pixels: np.ndarray, kind: str) -> bytes:
    """Pixels as an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()
