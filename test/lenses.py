# SPDX-License-Identifier: Apache-2.0
"""Lenses with known coefficients, and a small room as seen through them.

Written out from the description of the models, and turned round by Newton's method: nothing here
knows how the product rectifies.
"""

from __future__ import annotations

import numpy as np
from color_encoder import COLORS

SIZE = (96, 128)
K = np.array([[90.0, 0, 62.3], [0, 92, 48.9], [0, 0, 1]])  # of the images as they come
P = np.array([[112.0, 0, 64.1], [0, 110, 46.2], [0, 0, 1]])  # of the rectified ones
LENSES = {
    "plumb_bob": (-0.28, 0.09, 0.002, -0.0015, -0.012),
    # of the kind that Azure Kinects have
    "rational_polynomial": (0.52, -2.64, 0.0009, -0.0012, 1.53, 0.39, -2.47, 1.46),
    "equidistant": (0.03, -0.012, 0.004, -0.0008),
}
LOW, HIGH = np.array([-1.6, -1.2, -1.0]), np.array([1.6, 1.2, 2.4])  # m; see VOXEL
VOXEL = 0.1  # m; walls, floor and ceiling go through the middle of their voxels
FACES = ("red", "green", "blue", "yellow", "magenta", "cyan")  # x low, x high, y low, ...


def distorted(model: str, D: tuple[float, ...], xy: np.ndarray) -> np.ndarray:
    """(..., 2) place of a ray in the pinhole image, in focal lengths -> where the lens puts it."""
    x, y = xy[..., 0], xy[..., 1]
    r = np.hypot(x, y)
    if model == "equidistant":
        k1, k2, k3, k4 = D
        angle = np.arctan(r)
        bent = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8)
        return xy * np.divide(bent, r, out=np.ones_like(r), where=r > 0)[..., None]
    k1, k2, p1, p2, k3, k4, k5, k6 = (*D, *[0.0] * (8 - len(D)))
    factor = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    aside = 2 * p1 * x * y + p2 * (r**2 + 2 * x**2), p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y
    return xy * factor[..., None] + np.stack(aside, -1)


def undistorted(model: str, D: tuple[float, ...], seen: np.ndarray) -> np.ndarray:
    """What ``distorted`` makes ``seen`` of."""
    xy, h = seen.copy(), 1e-6
    for _ in range(30):
        columns = [
            (distorted(model, D, xy + h * axis) - distorted(model, D, xy - h * axis)) / (2 * h)
            for axis in np.eye(2)
        ]
        off = distorted(model, D, xy) - seen
        xy -= np.linalg.solve(np.stack(columns, -1), off[..., None])[..., 0]
    assert np.abs(distorted(model, D, xy) - seen).max() < 1e-9
    return xy


def rays(camera: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(h, w, 2) place of each pixel, in focal lengths from the axis."""
    v, u = np.mgrid[: size[0], : size[1]]
    return np.stack([(u - camera[0, 2]) / camera[0, 0], (v - camera[1, 2]) / camera[1, 1]], -1)


def rays_through(model: str, size: tuple[int, int] = SIZE, camera: np.ndarray = K) -> np.ndarray:
    """As ``rays``, for the pixels of an image that the lens ``model`` makes."""
    return undistorted(model, LENSES[model], rays(camera, size))


def look(xy: np.ndarray, T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """rgb (h, w, 3) uint8 and depth (h, w) float32 m of the room, along rays from ``T``."""
    direction = np.concatenate([xy, np.ones_like(xy[..., :1])], -1) @ T[:3, :3].T
    with np.errstate(divide="ignore"):
        hits = np.stack([LOW - T[:3, 3], HIGH - T[:3, 3]], -1) / direction[..., None]
    hits = np.where(hits > 0, hits, np.inf).reshape(*xy.shape[:2], 6)
    colors = np.array([COLORS[name] for name in FACES]) * 255
    return colors[hits.argmin(-1)].astype(np.uint8), hits.min(-1).astype(np.float32)


def poses() -> list[np.ndarray]:
    """(4, 4) camera to world: around the middle of the room."""
    found = []
    for i, angle in enumerate((0.0, 0.9, 1.9, -2.3)):
        T = np.eye(4)
        T[0, [0, 2]], T[2, [0, 2]] = (np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))
        T[:3, 3] = (0.2 * i - 0.3, 0.05 * i - 0.1, 0.4 - 0.03 * i)
        found.append(T)
    return found
