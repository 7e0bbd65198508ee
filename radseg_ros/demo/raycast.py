# SPDX-License-Identifier: Apache-2.0
"""A small ray caster: textured boxes and upright cylinders, numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

LIGHT = np.array([0.35, -0.25, 0.9]) / np.linalg.norm([0.35, -0.25, 0.9])
AMBIENT = 0.8
Color = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Box:
    """An axis-aligned box. Metres, world frame, z up. Seen from outside.

    From inside too, so that a room is a box.
    """

    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    color: Color = (0.8, 0.8, 0.8)
    pictures: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # face (+x, -x, +y, -y, +z) -> (h, w, 3) uint8
    planks: bool = False  # wooden planks on the faces that look up

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """(3,) and (N, 3) -> (N,) distance in lengths of the rays; inf = missed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            a = (np.subtract(self.centre, np.divide(self.size, 2)) - origin) / rays
            b = (np.add(self.centre, np.divide(self.size, 2)) - origin) / rays
        near, far = np.minimum(a, b).T, np.maximum(a, b).T
        near, far = (
            np.maximum(np.maximum(near[0], near[1]), near[2]),
            np.minimum(np.minimum(far[0], far[1]), far[2]),
        )
        return np.where(far < np.maximum(near, 0), np.inf, np.where(near > 1e-6, near, far))

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) points on the surface -> (N, 3) outward normals, (N, 3) colours in 0..1."""
        local = (points - self.centre) / np.divide(self.size, 2)
        axis = np.abs(local).argmax(1)
        sign = np.sign(local[np.arange(len(local)), axis])
        normals = np.zeros_like(points)
        normals[np.arange(len(local)), axis] = sign
        colors = np.broadcast_to(np.array(self.color), points.shape).copy()
        if self.planks:
            up = axis == 2
            colors[up] *= _planks(points[up])
        for face, picture in self.pictures.items():
            chosen = (axis == "xyz".index(face[1])) & (sign == (1 if face[0] == "+" else -1))
            colors[chosen] = _sample(picture, *_face_uv(face, local[chosen]))
        return normals, colors

    def corners(self) -> np.ndarray:
        """(8, 3)"""
        signs = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]), -1).reshape(8, 3)
        return np.add(self.centre, signs * self.size)


@dataclass(frozen=True, eq=False)
class Cylinder:
    """An upright cylinder or cone stump, open at both ends unless it is thin."""

    centre: tuple[float, float, float]
    radius: float
    height: float
    color: Color
    top_radius: float | None = None

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """As :meth:`Box.hit`."""
        top = self.radius if self.top_radius is None else self.top_radius
        slope = (top - self.radius) / self.height
        base = np.array([*self.centre[:2], self.centre[2] - self.height / 2])
        start = origin - base
        r0 = self.radius + slope * start[2]
        a = rays[:, 0] ** 2 + rays[:, 1] ** 2 - (slope * rays[:, 2]) ** 2
        b = start[0] * rays[:, 0] + start[1] * rays[:, 1] - slope * rays[:, 2] * r0
        c = start[0] ** 2 + start[1] ** 2 - r0**2
        root = b * b - a * c
        best = np.full(len(rays), np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            for sign in (1.0, -1.0):  # the far side first, the near one wins
                t = (-b + sign * np.sqrt(root)) / a
                z = start[2] + t * rays[:, 2]
                good = (root >= 0) & (t > 1e-6) & (z >= 0) & (z <= self.height) & (t < best)
                best[good] = t[good]
            lid = (self.height - start[2]) / rays[:, 2]
            on_lid = np.hypot(start[0] + lid * rays[:, 0], start[1] + lid * rays[:, 1]) <= top
        good = on_lid & (lid > 1e-6) & (lid < best)
        best[good] = lid[good]
        return best

    def surface(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Box.surface`."""
        normals = points - self.centre
        on_lid = normals[:, 2] > self.height / 2 - 1e-4
        normals[:, 2] = 0.15
        normals[on_lid] = (0, 0, 1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return normals, np.broadcast_to(np.array(self.color), points.shape).copy()

    def corners(self) -> np.ndarray:
        """(8, 3)"""
        widest = 2 * max(self.radius, self.top_radius or 0)
        return Box(self.centre, (widest, widest, self.height)).corners()


Solid = Box | Cylinder


def render(
    solids: Sequence[Solid], K: np.ndarray, T_world_camera: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One view.

    Args:
        K: (3, 3), px.
        T_world_camera: (4, 4), optical axes.
        size: (H, W) px.

    Returns:
        (H, W, 3) uint8 colour; (H, W) float32 depth along the optical axis in m, 0 = nothing hit;
            (H, W) cosine between
        ray and surface.
    """
    height, width = size
    v, u = np.mgrid[0:height, 0:width]
    camera_rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(size)], -1)
    rays = (
        camera_rays @ T_world_camera[:3, :3].T
    )  # their length along the optical axis is 1, so distance = depth
    origin = T_world_camera[:3, 3]
    depth, owner = np.full(size, np.inf), np.full(size, -1)
    for i, solid in enumerate(solids):
        window = _window(solid.corners(), K, T_world_camera, size)
        if window is None:
            continue
        distance = solid.hit(origin, rays[window].reshape(-1, 3)).reshape(depth[window].shape)
        nearer = distance < depth[window]
        depth[window][nearer] = distance[nearer]
        owner[window][nearer] = i
    color, facing = np.zeros((*size, 3)), np.ones(size)
    for i in np.unique(owner[owner >= 0]):
        seen = owner == i
        normals, colors = solids[i].surface(origin + rays[seen] * depth[seen, None])
        towards = -np.sign((normals * rays[seen]).sum(1))
        normals *= towards[:, None]  # from inside a box its normals look the other way
        shade = AMBIENT + (1 - AMBIENT) * np.clip(normals @ LIGHT, -0.35, 1)
        color[seen] = colors * shade[:, None]
        facing[seen] = np.abs((normals * rays[seen]).sum(1)) / np.linalg.norm(rays[seen], axis=1)
    depth[~np.isfinite(depth)] = 0
    return np.round(255 * color.clip(0, 1)).astype(np.uint8), depth.astype(np.float32), facing


def _window(
    corners: np.ndarray, K: np.ndarray, T_world_camera: np.ndarray, size: tuple[int, int]
) -> tuple[slice, slice] | None:
    """The part of the image that a solid can cover; None = it is out of view."""
    p = (corners - T_world_camera[:3, 3]) @ T_world_camera[:3, :3]
    if (p[:, 2] < 0.05).all():
        return None
    if (p[:, 2] < 0.05).any():
        return slice(0, size[0]), slice(0, size[1])
    uv = (p @ K.T)[:, :2] / p[:, 2:]
    low, high = np.floor(uv.min(0)).astype(int), np.ceil(uv.max(0)).astype(int) + 1
    left, right = np.clip([low[0], high[0]], 0, size[1])
    top, bottom = np.clip([low[1], high[1]], 0, size[0])
    return None if left >= right or top >= bottom else (slice(top, bottom), slice(left, right))


def _face_uv(face: str, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position on a face as seen from outside (from above for +z): (N,) to the right and (N,)
    downwards, 0..1.
    """
    x, y, z = local.T
    right = {"+x": y, "-x": -y, "+y": -x, "-y": x, "+z": x}[face]
    down = -y if face == "+z" else -z
    return (right + 1) / 2, (down + 1) / 2


def _sample(picture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up of a (h, w, 3) uint8 picture at (N,) positions 0..1 -> (N, 3) in 0..1."""
    from scipy.ndimage import map_coordinates

    h, w = picture.shape[:2]
    where = np.stack([v * h - 0.5, u * w - 0.5])
    channels = np.moveaxis(picture.astype(np.float32) / 255, -1, 0)
    return np.stack(
        [map_coordinates(channel, where, order=1, mode="nearest") for channel in channels], 1
    )


def _planks(points: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N, 1) brightness of planks 0.14 m wide that run along x."""
    row = np.floor(points[:, 1] / 0.14)
    along = points[:, 0] + 0.7 * np.mod(row * 0.618, 1) * 2
    tone = np.mod(np.sin(row * 12.9898 + np.floor(along / 1.4) * 78.233) * 43758.5453, 1)
    seam = (np.mod(points[:, 1], 0.14) < 0.008) | (np.mod(along, 1.4) < 0.008)
    grain = 0.02 * np.sin(points[:, 1] * 210 + np.sin(points[:, 0] * 3 + row) * 4)
    return (0.86 + 0.16 * tone + grain - 0.22 * seam)[:, None]
