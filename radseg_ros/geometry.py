# SPDX-License-Identifier: Apache-2.0
"""Camera geometry: working resolution, intrinsics, viewing rays, where to sample one image at the
pixels of another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .datatypes import Frame, InputError, Pixels
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


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFrame:
    """A :class:`Frame` as tensors of one device: encoder and map read it where it is."""

    stamp_ns: int
    rgb: torch.Tensor  # (H, W, 3) uint8, or float in [0, 1]
    depth: torch.Tensor  # (h, w) float32, metres
    K: np.ndarray  # (3, 3) float64, pixels of the depth image
    T_world_camera: np.ndarray  # (4, 4) float64


def arrays(frame: Frame | DeviceFrame) -> Frame:
    """The same frame in the memory of the processor."""
    if isinstance(frame, Frame):
        return frame
    rgb, depth = (array(pixels) for pixels in (frame.rgb, frame.depth))
    return Frame(frame.stamp_ns, rgb, depth, frame.K, frame.T_world_camera)


def array(values: torch.Tensor) -> np.ndarray:
    """A tensor of any device as an array; not a copy, if it was in the memory of the processor.

    NumPy asks for large pages, torch does not: that is where most of the time of a copy of many
    megabytes goes.
    """
    if values.device.type == "cpu":
        return values.numpy()
    there = np.empty(values.shape, torch.empty(0, dtype=values.dtype).numpy().dtype)
    torch.from_numpy(there).copy_(values)
    return there


def tensor(pixels: Pixels, device: torch.device | str) -> torch.Tensor:
    """An image as a tensor on ``device``; a copy, unless it is one already.

    On its way to a GPU it lies in memory that the GPU reads by itself, so nobody waits for it.
    """
    if isinstance(pixels, torch.Tensor):
        return pixels.to(device)
    if torch.device(device).type != "cuda":
        return torch.tensor(np.ascontiguousarray(pixels), device=device)
    kind = torch.from_numpy(np.empty(0, pixels.dtype)).dtype
    pinned = torch.empty(pixels.shape, dtype=kind, pin_memory=True)
    pinned.numpy()[...] = pixels
    return pinned.to(device, non_blocking=True)


def resize_rgb(rgb: np.ndarray, hw: tuple[int, int], antialias: bool = True) -> np.ndarray:
    """(H, W, 3) uint8 or float -> (h, w, 3) of the same type, bilinear, align_corners=False."""
    return rgb if rgb.shape[:2] == hw else resize_colors(torch.tensor(rgb), hw, antialias).numpy()


def resize_colors(rgb: torch.Tensor, hw: tuple[int, int], antialias: bool = True) -> torch.Tensor:
    """As :func:`resize_rgb`; bytes may differ by one between a GPU and a processor."""
    if rgb.shape[:2] == hw:
        return rgb
    planes = rgb.permute(2, 0, 1)[None]  # channels-last in memory: the fast path of interpolate
    if rgb.is_cuda:  # where it resizes no bytes
        planes = planes.float()
    planes = torch.nn.functional.interpolate(
        planes, hw, mode="bilinear", align_corners=False, antialias=antialias
    )
    resized = planes[0].permute(1, 2, 0).contiguous()
    if rgb.dtype == torch.uint8:
        return resized.round().clamp(0, 255).byte() if rgb.is_cuda else resized
    return resized.clamp(0.0, 1.0)  # rounding may leave [0, 1] by one ulp


def resize_depth(depth: torch.Tensor, hw: tuple[int, int]) -> torch.Tensor:
    """(H, W) -> (h, w), nearest-exact: depth is never mixed across an edge."""
    if depth.shape == hw:
        return depth
    return torch.nn.functional.interpolate(depth[None, None], hw, mode="nearest-exact")[0, 0]


def resize_frame(frame: Frame, short_side: int) -> Frame:
    """The frame at the working resolution: colour and depth of one size with ``short_side`` px on
    the short side.

    Args:
        short_side: px; 0 returns the frame unchanged.

    Raises:
        InputError: see :func:`working_size`.
    """
    return arrays(_resized(frame, short_side, torch.device("cpu")))


def frame_on(device: torch.device, frame: Frame, short_side: int) -> Frame | DeviceFrame:
    """As :func:`resize_frame`; on a GPU the frame is brought there first, once, and stays."""
    if device.type != "cuda":
        return resize_frame(frame, short_side)
    resized = _resized(frame, short_side, device)
    if isinstance(resized, DeviceFrame):
        return resized
    rgb, depth = tensor(frame.rgb, device), tensor(frame.depth, device)
    return DeviceFrame(frame.stamp_ns, rgb, depth, frame.K, frame.T_world_camera)


def _resized(frame: Frame, short_side: int, device: torch.device) -> Frame | DeviceFrame:
    """The frame itself if it has that size."""
    if short_side < 0:
        raise InputError(f"short_side must be >= 0, got {short_side}")
    hw = working_size(frame.depth.shape, short_side)
    if short_side == 0 or (frame.depth.shape == hw and frame.rgb.shape[:2] == hw):
        return frame
    rgb = resize_colors(tensor(frame.rgb, device), hw)
    depth = resize_depth(tensor(frame.depth, device), hw)
    K = scale_intrinsics(frame.K, frame.depth.shape, hw)
    return DeviceFrame(frame.stamp_ns, rgb, depth, K, frame.T_world_camera)


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
    columns, rows, depth = u.double(), v.double()[:, None], depth.double()
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
