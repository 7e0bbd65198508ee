# SPDX-License-Identifier: Apache-2.0
"""Camera geometry: working resolution, intrinsics, viewing rays, where to sample one image at the
pixels of another.
"""

from __future__ import annotations

import numpy as np
import torch

from .datatypes import Frame, InputError
from .files import MAX_PIXELS

LONGEST_ASPECT = 8.0  # long side to short side: a full turn of a lidar camera is 4


def scale_intrinsics(K: np.ndarray, old_hw: tuple[int, int], new_hw: tuple[int, int]) -> np.ndarray:
    """(3, 3) camera matrix of an image of size ``old_hw`` -> the one of the same image resized to
    ``new_hw``.

    Rows are scaled by new / old, as the published programs do (docs/method.md 3).
    """
    scale = np.array([new_hw[1] / old_hw[1], new_hw[0] / old_hw[0], 1.0])
    return np.asarray(K, np.float64) * scale[:, None]


def working_size(hw: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The size (h, w) that has ``short_side`` as its short side and the aspect of ``hw``.

    Args:
        short_side: px; 0 = ``hw`` itself.

    Raises:
        InputError: the image is a strip, or would have too many pixels.
    """
    if max(hw) > LONGEST_ASPECT * min(hw):
        raise InputError(f"image more than {LONGEST_ASPECT:g} times as long as wide")
    scale = short_side / min(hw) if short_side else 1.0
    height, width = (max(1, round(side * scale)) for side in hw)
    if height * width > MAX_PIXELS:
        raise InputError(f"image of more than {MAX_PIXELS // 10**6} million pixels (short_side)")
    return height, width


def resize_rgb(rgb: np.ndarray, hw: tuple[int, int], antialias: bool = True) -> np.ndarray:
    """(H, W, 3) uint8 or float -> (h, w, 3) of the same type, bilinear, align_corners=False."""
    if rgb.shape[:2] == hw:
        return rgb
    planes = torch.tensor(rgb).permute(2, 0, 1)[
        None
    ]  # channels-last in memory: the fast path of interpolate
    planes = torch.nn.functional.interpolate(
        planes, hw, mode="bilinear", align_corners=False, antialias=antialias
    )
    resized = planes[0].permute(1, 2, 0).contiguous().numpy()
    return (
        resized if rgb.dtype == np.uint8 else resized.clip(0.0, 1.0)
    )  # rounding may leave [0, 1] by one ulp


def resize_depth(depth: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (h, w), nearest-exact: depth is never mixed across an edge."""
    if depth.shape == hw:
        return depth
    planes = torch.nn.functional.interpolate(
        torch.tensor(depth)[None, None], hw, mode="nearest-exact"
    )
    return planes[0, 0].numpy()


def resize_frame(frame: Frame, short_side: int) -> Frame:
    """The frame at the working resolution: colour and depth of one size with ``short_side`` px on
    the short side.

    Args:
        short_side: px; 0 returns the frame unchanged.

    Raises:
        InputError: see :func:`working_size`.
    """
    if short_side < 0:
        raise InputError(f"short_side must be >= 0, got {short_side}")
    hw = working_size(frame.depth.shape, short_side)
    if short_side == 0 or (frame.depth.shape == hw and frame.rgb.shape[:2] == hw):
        return frame
    return Frame(
        stamp_ns=frame.stamp_ns,
        rgb=resize_rgb(frame.rgb, hw),
        depth=resize_depth(frame.depth, hw),
        K=scale_intrinsics(frame.K, frame.depth.shape, hw),
        T_world_camera=frame.T_world_camera,
    )


def world_points(
    depth: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    K: np.ndarray,
    T_world_camera: np.ndarray,
    unit: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Back-project a grid of pixels into the world.

    K^-1 [u, v, 1] is a column part plus a row part, so the ray of a pixel is one sum instead of a
    matrix product.

    Args:
        depth: (h, w) metres along the optical axis.
        u, v: (w,) and (h,) pixel coordinates of the grid.
        unit: metres per unit of the result.

    Returns:
        World x, y and z, each (h, w) float64 in ``unit``.
    """
    rays = T_world_camera[:3, :3] @ np.linalg.inv(K) / unit
    origin = T_world_camera[:3, 3] / unit
    columns, rows = u.double(), v.double()[:, None]
    x, y, z = (
        ((columns * a + c) + rows * b).mul_(depth).add_(t)
        for (a, b, c), t in zip(rays.tolist(), origin, strict=True)
    )
    return x, y, z


def camera_points(xyz: torch.Tensor, T_world_camera: np.ndarray) -> torch.Tensor:
    """(N, 3) world points -> (N, 3) float64 in the camera's optical frame."""
    rotation = torch.as_tensor(T_world_camera[:3, :3], device=xyz.device)
    translation = torch.as_tensor(T_world_camera[:3, 3], device=xyz.device)
    return (xyz.double() - translation) @ rotation


def bilinear_cells(
    pixels: torch.Tensor, size: int, cells: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the pixels of one image axis fall on a coarser (or finer) grid: bilinear,
    align_corners=False.

    At the rim, where interpolation would leave the grid, the position is clamped; the weight of the
    outer cell is then 0 or 1, which equals torch's ``interpolate``.

    Args:
        pixels: (n,) pixel coordinates on an axis of ``size`` pixels.
        cells: number of grid cells along the axis.

    Returns:
        (n,) int64 lower cell, and (n,) float64 weight of the cell after it (0 if there is none).
    """
    position = ((pixels.double() + 0.5) * (cells / size) - 0.5).clamp_(0, cells - 1)
    lower = position.floor().clamp_(max=max(cells - 2, 0))
    return lower.long(), position - lower
