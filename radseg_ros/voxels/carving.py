# SPDX-License-Identifier: Apache-2.0
"""Free space: which voxels a frame looks through, so that ghosts and moved things can go."""

from __future__ import annotations

import numpy as np
import torch

from ..datatypes import Frame
from ..geometry import camera_points


def spheres_in_view(centre: torch.Tensor, radius: float, frame: Frame) -> torch.Tensor:
    """(N, 3) centres of spheres in the world, metres -> (N,) bool.

    False only where no part can be in the image.
    """
    height, width = frame.depth.shape
    points = camera_points(centre, frame.T_world_camera)
    rows = frame.K[:2]
    # A pixel edge u = e is the plane (K[0] - e K[2]) . p = 0, and likewise for v.
    sides = np.stack([rows[0], -rows[0], rows[1], -rows[1], [0, 0, 0]])
    sides[:, 2] += [0.5, width - 0.5, 0.5, height - 0.5, 1.0]  # the last plane is the camera's own
    sides /= np.linalg.norm(sides, axis=1, keepdims=True)
    return (points @ torch.as_tensor(sides, device=points.device).T >= -radius).all(1)


def seen_through(xyz: torch.Tensor, frame: Frame, margin: float) -> torch.Tensor:
    """Which points the rays of a frame pass by more than ``margin`` metres.

    The nearest depth of 3 x 3 pixels counts, and a pixel without depth among them proves nothing:
    edges and holes of the sensor carve no solid thing.

    Args:
        xyz: (N, 3) metres, world.

    Returns:
        (N,) bool.
    """
    depth = torch.tensor(frame.depth, device=xyz.device)
    height, width = depth.shape
    depth = torch.where((depth > 0) & (depth < torch.inf), depth, 0.0)
    nearest = -torch.nn.functional.max_pool2d(-depth[None, None], 3, stride=1, padding=1)[0, 0]
    points = camera_points(xyz, frame.T_world_camera)
    z = points[:, 2]
    pixel = (points @ torch.as_tensor(frame.K, device=xyz.device).T)[:, :2] / z[:, None]
    u, v = pixel.round().unbind(1)
    inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = (torch.where(inside, axis, 0.0).long() for axis in (u, v))
    return inside & (nearest[v, u] > z + margin)
