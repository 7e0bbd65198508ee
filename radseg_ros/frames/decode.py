# SPDX-License-Identifier: Apache-2.0
"""Fields of messages -> frames, poses and cameras; what an image holds is read in images/.

Duck-typed: messages of rclpy, of rosbags and plain namespaces all work; imports no ROS.

What a message holds is not believed before it is looked at: values that cannot be become an
``Unusable`` that says what is wrong, and so do missing fields within ``reading``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..datatypes import Frame, InputError, brief
from .drops import Unusable
from .images.color import color_image
from .images.depth import DEPTH_SCALE, depth_image
from .images.rectify import MODELS, Lens, Rectifier

# cameras round their image sizes; a colour and a depth image differ by more when views differ
ASPECT_TOLERANCE = 0.02
MAX_SECONDS = 2**31 - 1  # builtin_interfaces/Time holds them in an int32
MAX_FRAME_ID = 255  # characters
SHORTEST_FOCAL_LENGTH = 1e-3  # px
UPRIGHT = 1e-4  # by which the numbers of a turn that is none may differ from the identity's
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


def camera_matrix(message: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """sensor_msgs/CameraInfo -> K (3, 3) float64 of the rectified image, and its size (h, w).

    ``p`` describes rectified images and is used when it is set, else ``k``; binning and region of
    interest are applied.
    """
    p = _matrix(message, "p")
    return _of_the_image(message, p if p[0, 0] > 0 else _matrix(message, "k"))


def camera_lens(message: Any) -> Lens | None:
    """sensor_msgs/CameraInfo -> the lens of images that are not rectified yet.

    They come with ``k`` and ``d`` and go to the camera of :func:`camera_matrix`, as in image_proc:
    rectified there or here, they make one map. Where ``d`` is empty or zero nothing is distorted,
    whatever the model (as in image_geometry).

    Raises:
        Unusable: the model is not known, or not with these coefficients; or ``r`` turns the camera,
            so that depth along its axis would be another.
    """
    D = _numbers(message, "d")
    if not D.any():
        return None
    name = str(getattr(message, "distortion_model", ""))
    if name not in MODELS:
        raise Unusable(
            "camera info of an unknown lens model (node.rectify)",
            f"distortion_model {brief(repr(name), 40)} is not one of {', '.join(MODELS)}",
        )
    counts = MODELS[name]
    used = min(len(D), counts[-1])  # drivers fill up with zeros what another model would take
    if used not in counts or D[used:].any() or not np.isfinite(D).all():
        raise Unusable(
            "camera info with impossible lens coefficients (node.rectify)",
            f"{name} takes {' or '.join(map(str, counts))}, all finite; D has {len(D)}: "
            f"{brief(D[:20].tolist(), 100)}",
        )
    R = _numbers(message, "r")
    if R.size == 9 and R.any() and not np.abs(R - np.eye(3).ravel()).max() <= UPRIGHT:
        raise Unusable(
            "camera info of one of a stereo pair, which rectifying turns (node.rectify)",
            "its R is not the identity: take the images that the driver rectifies",
        )
    K, _ = _of_the_image(message, _matrix(message, "k"))
    return Lens(name, tuple(D[:used].tolist()), K, camera_matrix(message)[0])


def _numbers(message: Any, name: str) -> np.ndarray:
    """An array of a CameraInfo, flat; its name was in capitals in ROS 1."""
    return np.ravel(np.asarray(getattr(message, name, getattr(message, name.upper(), ())), float))


def _matrix(message: Any, name: str) -> np.ndarray:
    """``k`` or the left of ``p``, (3, 3); zeros where it is not of its size."""
    numbers, columns = _numbers(message, name), 4 if name == "p" else 3
    return numbers.reshape(3, -1)[:, :3] if numbers.size == 3 * columns else np.zeros((3, 3))


def _of_the_image(message: Any, matrix: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """``k`` or ``p`` of a whole sensor -> that of its image, and the size (h, w) of the image.

    Raises:
        Unusable: it is no camera matrix.
    """
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
    rectifier: Rectifier | None = None,
) -> Frame:
    """Messages of one moment -> Frame.

    Colour and depth may differ in size but not in view; camera info of another resolution of the
    same view is scaled.

    Args:
        rectifier: of this camera, whose images are not rectified yet; None = they are.
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
        if rectifier is not None and (lens := camera_lens(info)) is not None:
            known = metres.shape if 0 in size else size
            rgb = rectifier.color(rgb, lens.scaled(known, rgb.shape[:2]))
            metres = rectifier.depth(metres, lens.scaled(known, metres.shape))
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
