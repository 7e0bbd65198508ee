# SPDX-License-Identifier: Apache-2.0
"""Free space: which voxels a frame looks through, so that ghosts and moved things can go."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ..datatypes import Frame
from ..geometry import DeviceFrame, camera_points, tensor
from .tensors import take


def spheres_in_view(
    centre: torch.Tensor, radius: float, frame: Frame | DeviceFrame
) -> torch.Tensor:
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


def seen_through(xyz: torch.Tensor, frame: Frame | DeviceFrame, margin: float) -> torch.Tensor:
    """Which points the rays of a frame pass by more than ``margin`` metres.

    The nearest depth of 3 x 3 pixels counts, and a pixel without depth among them proves nothing:
    edges and holes of the sensor carve no solid thing.

    Args:
        xyz: (N, 3) metres, world.

    Returns:
        (N,) bool.
    """
    return depth_beyond(xyz, frame) > margin


def depth_beyond(xyz: torch.Tensor, frame: Frame | DeviceFrame, side: float = 0.0) -> torch.Tensor:
    """How far the view goes on behind points, along the optical axis.

    The nearest of 3 x 3 pixels counts: neighbours, or farther apart where a cube of ``side`` metres
    at the point is larger in the image.

    Args:
        xyz: (N, 3) metres, world.

    Returns:
        (N,) float64 metres, negative where something hides the point; NaN where it is not in the
        image, or one of the pixels has no depth.
    """
    depth = tensor(frame.depth, xyz.device)
    height, width = depth.shape
    points = camera_points(xyz, frame.T_world_camera)
    z = points[:, 2]
    pixel = (points @ torch.as_tensor(frame.K, device=xyz.device).T)[:, :2] / z[:, None]
    u, v = pixel.round().unbind(1)
    inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = (torch.where(inside, axis, 0.0).long() for axis in (u, v))
    step = torch.where(inside, frame.K[0, 0] * side / 2 / z, 0.0).round().long().clamp(1, width)
    columns = [(u + shift * step).clamp(0, width - 1) for shift in (-1, 0, 1)]
    rows = [(v + shift * step).clamp(0, height - 1) * width for shift in (-1, 0, 1)]
    nearest = torch.full_like(z, torch.inf)
    for row, column in itertools.product(rows, columns):
        found = take(depth.view(-1), row + column)
        there = (found > 0) & (found < torch.inf)
        nearest = torch.minimum(nearest, torch.where(there, found, torch.nan))
    return torch.where(inside, nearest - z, torch.nan)
