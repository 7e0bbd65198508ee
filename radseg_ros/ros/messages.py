# SPDX-License-Identifier: Apache-2.0
"""The project's types -> ROS messages. The opposite direction is decode.py, which needs no ROS."""

from __future__ import annotations

import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Vector3
from nav_msgs.msg import MapMetaData, OccupancyGrid, Odometry
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header

from radseg_interfaces.msg import (
    DropCount,
    LabelAnswer,
    LabelLegend,
    MapStatus,
    SemanticObject,
    VoxelFilter,
)

from .. import datatypes
from ..answers.cloud import palette
from ..answers.floor.grid import Grid
from ..answers.packed import POINT

if TYPE_CHECKING:
    from ..live_map import LiveStatus

FIELDS = [
    PointField(
        name=name,
        offset=4 * i,
        datatype=PointField.INT32 if name == "label" else PointField.FLOAT32,
        count=1,
    )
    for i, name in enumerate(("x", "y", "z", "rgb", "label", "score", "hits"))
]
MILLIMETRES_MAX = 65535


def time_message(stamp_ns: int) -> Time:
    """Nanoseconds -> builtin_interfaces/Time."""
    sec, nanosec = divmod(int(stamp_ns), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def header(stamp_ns: int, frame_id: str) -> Header:
    """std_msgs/Header."""
    return Header(stamp=time_message(stamp_ns), frame_id=frame_id)


def cloud_message(
    points: np.ndarray, head: Header, memory: array.array | None = None
) -> PointCloud2:
    """(N,) structured array of ``POINT``: x y z rgb label score hits.

    An empty cloud keeps its fields and its point_step.

    Args:
        memory: array("B") that the message's data is put into, in place of new memory: fresh pages
            take several times as long as the copy. The message is then valid until the next one.
    """
    return PointCloud2(
        header=head,
        height=1,
        width=len(points),
        fields=FIELDS,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * len(points),
        data=_bytes(points, memory),
        is_dense=True,
    )


def answer_message(answer: datatypes.Answer, T: np.ndarray | None = None) -> LabelAnswer:
    """radseg_interfaces/LabelAnswer.

    Args:
        T: T_frame_world, (4, 4), to the frame of the message; None = it is that of the world.
    """
    return LabelAnswer(
        label=answer.label,
        found=answer.found,
        best_score=float(answer.best_score),
        objects=[object_message(thing, T) for thing in answer.objects],
    )


def object_message(thing: datatypes.SemanticObject, T: np.ndarray | None = None) -> SemanticObject:
    """radseg_interfaces/SemanticObject; see :func:`answer_message`.

    In another frame the box along the axes is that of the oriented one.
    """
    box, seen_from = thing.box, thing.viewpoint
    centre, size, T_frame_box = thing.centre, thing.size, upright_pose(box.centre, box.yaw)
    if T is not None:
        T_frame_box = T @ T_frame_box
        centre, size = T_frame_box[:3, 3], np.abs(T_frame_box[:3, :3]) @ box.size
    message = SemanticObject(
        id=thing.id,
        label=thing.label,
        score=float(thing.score),
        centre=Point(**_xyz(centre)),
        size=Vector3(**_xyz(size)),
        peak=Point(**_xyz(thing.peak if T is None else T[:3, :3] @ thing.peak + T[:3, 3])),
        box=pose(T_frame_box),
        box_size=Vector3(**_xyz(box.size)),
        voxels=thing.voxels,
        hits=thing.hits,
        views=thing.views,
        mean_score=float(thing.mean_score),
        best_score=float(thing.best_score),
        first_seen=time_message(thing.first_seen_ns),
        last_seen=time_message(thing.last_seen_ns),
        missing=bool(thing.missing_since_ns),
        missing_since=time_message(thing.missing_since_ns),
        has_viewpoint=seen_from is not None,
    )
    if seen_from is not None:
        T_frame_robot = upright_pose(seen_from.position, seen_from.yaw)
        message.viewpoint = pose(T_frame_robot if T is None else T @ T_frame_robot)
    return message


def voxel_filter(message: VoxelFilter, T: np.ndarray | None = None) -> datatypes.Filter | None:
    """radseg_interfaces/VoxelFilter -> Filter; None = it leaves nothing out.

    Args:
        T: T_frame_world, (4, 4), to the frame of the message; None = it is that of the world.

    Raises:
        InputError: a number cannot be.
    """
    if message == VoxelFilter():
        return None
    low, high = tuple_of(message.box_min), tuple_of(message.box_max)
    box = {} if low == high else {"lowest": low, "highest": high}
    return datatypes.Filter(
        **box,
        centre=tuple_of(message.centre),
        radius=float(message.radius),
        max_age=float(message.max_age),
        min_hits=max(1, int(message.min_hits)),
        T_filter_world=T,
    )


def filter_message(where: datatypes.Filter | None) -> VoxelFilter:
    """radseg_interfaces/VoxelFilter, in the frame of the filter's places."""
    if where is None:
        return VoxelFilter()
    return VoxelFilter(
        box_min=Point(**_xyz(where.lowest)),
        box_max=Point(**_xyz(where.highest)),
        centre=Point(**_xyz(where.centre)),
        radius=float(where.radius),
        max_age=float(where.max_age),
        min_hits=where.min_hits,
    )


def grid_message(grid: Grid, floor: float, head: Header) -> OccupancyGrid:
    """nav_msgs/OccupancyGrid.

    Args:
        floor: m, z of the plane.
    """
    height, width = grid.data.shape
    info = MapMetaData(map_load_time=head.stamp, resolution=grid.resolution)
    info.width, info.height = width, height
    info.origin.position = Point(**_xyz((*grid.origin, floor)))
    data = array.array("b")
    data.frombytes(np.ascontiguousarray(grid.data).reshape(-1).data)
    return OccupancyGrid(header=head, info=info, data=data)


def legend_message(labels: Sequence[str]) -> LabelLegend:
    """radseg_interfaces/LabelLegend: the colours that a cloud of these labels has."""
    colors = [
        ColorRGBA(r=red, g=green, b=blue, a=1.0)
        for red, green, blue in (palette(len(labels)) / 255.0).tolist()
    ]
    return LabelLegend(labels=labels, colors=colors)


def status_message(status: LiveStatus) -> MapStatus:
    """radseg_interfaces/MapStatus."""
    return MapStatus(
        header=header(status.stamp_ns, status.frame_id),
        encoder=status.encoder,
        paused=status.paused,
        voxels=status.voxels,
        voxels_on_disk=0 if status.disk is None else status.disk.voxels,
        pending_voxels=status.pending,
        answerable=status.answerable,
        map_bytes=status.map_bytes,
        frames_integrated=status.integrated,
        frames_waiting=status.waiting,
        last_frame_age=-1.0 if status.age is None else status.age,
        inputs_dropped=sum(count for _, count in status.drops),
        drops=[DropCount(reason=reason, count=count) for reason, count in status.drops],
    )


def color_message(rgb: np.ndarray, head: Header) -> Image:
    """(H, W, 3) uint8, or float in [0, 1] -> rgb8."""
    if rgb.dtype != np.uint8:
        rgb = np.round(255 * rgb).astype(np.uint8)
    return _image(rgb, "rgb8", head)


def depth_message(depth: np.ndarray, head: Header) -> Image:
    """(H, W) metres -> 16UC1 millimetres if that loses nothing, else 32FC1 metres.

    0 or NaN = no return.
    """
    metres = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
    millimetres = np.round(1000.0 * metres)
    if (
        millimetres.max(initial=0) <= MILLIMETRES_MAX
        and np.abs(millimetres - 1000.0 * metres).max(initial=0) < 1e-2
    ):
        return _image(millimetres.astype("<u2"), "16UC1", head)
    return _image(depth.astype("<f4"), "32FC1", head)


def info_message(K: np.ndarray, size: tuple[int, int], head: Header) -> CameraInfo:
    """(3, 3) and (h, w) of a rectified image -> CameraInfo."""
    projection = np.hstack([K, np.zeros((3, 1))])
    return CameraInfo(
        header=head,
        height=size[0],
        width=size[1],
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=K.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=projection.ravel().tolist(),
    )


def pose_message(T: np.ndarray, head: Header, child_frame: str = "") -> PoseStamped | Odometry:
    """(4, 4) -> PoseStamped, or Odometry if ``child_frame`` is given."""
    if not child_frame:
        return PoseStamped(header=head, pose=pose(T))
    odometry = Odometry(header=head, child_frame_id=child_frame)
    odometry.pose.pose = pose(T)
    return odometry


def pose(T: np.ndarray) -> Pose:
    """geometry_msgs/Pose of a rigid transform (4, 4)."""
    x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat()
    return Pose(position=Point(**_xyz(T[:3, 3])), orientation=Quaternion(x=x, y=y, z=z, w=w))


def upright_pose(position: Sequence[float], yaw: float) -> np.ndarray:
    """(4, 4) of a place (m) and an angle about z (rad)."""
    T = np.eye(4)
    T[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    T[:3, 3] = position
    return T


def tuple_of(place: Point) -> tuple[float, float, float]:
    """geometry_msgs/Point or Vector3 -> x, y, z."""
    return place.x, place.y, place.z


def floats(values: np.ndarray) -> array.array:
    """Numbers of any shape, row after row, as a field float32[]."""
    return array.array("f", np.ascontiguousarray(values, np.float32).tobytes())


def _image(pixels: np.ndarray, encoding: str, head: Header) -> Image:
    height, width = pixels.shape[:2]
    step = pixels[0].nbytes
    return Image(
        header=head,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=_bytes(pixels),
    )


def _bytes(values: np.ndarray, memory: array.array | None = None) -> array.array:
    """rclpy takes an array.array as it is, and checks every element of anything else."""
    data = array.array("B") if memory is None else memory
    content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    kept = min(len(data), len(content))
    del data[kept:]
    np.frombuffer(data, np.uint8)[:] = content[:kept]
    data.frombytes(content[kept:].data)
    return data


def _xyz(values: Iterable[float]) -> dict[str, float]:
    return dict(zip("xyz", map(float, values), strict=True))
