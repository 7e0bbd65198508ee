# SPDX-License-Identifier: Apache-2.0
"""The per-pixel part of the lift: which stretches of an image row fall into one voxel.

A run is a stretch of one row of pixels that stays in the same voxel and between the same four
patches. A room seen at 640 x 864 has some 80 000 runs, so everything after them is cheap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...config import LiftConfig
from ...datatypes import Frame
from ...geometry import DeviceFrame, bilinear_cells, resize_colors, tensor, world_points
from ..index import COORDINATE_LIMIT, pack_nearest
from ..tensors import take

# On a CPU the image is taken in bands of rows whose arrays stay in the cache. Bands below torch's
# grain of 32 768 elements also run without a barrier between threads, which a busy machine would
# have to wait at for every operation.
BAND_PIXELS = 32_000


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """R runs of a frame, in the order of its pixels."""

    key: torch.Tensor  # (R,) int64, voxel
    cell: torch.Tensor  # (R,) int64, upper-left patch of the four
    # (7, R) float64, over the pixels: wx, wy, wx * wy (weights of the next patch), 1, red, green,
    # blue
    sums: torch.Tensor


def pixel_grid(size: int, config: LiftConfig) -> range:
    """The pixels of an axis of the depth image that are looked at."""
    return range(size)[config.border : max(size - config.border, 0) : config.pixel_stride]


def depth_edges(depth: torch.Tensor, fraction: float) -> torch.Tensor:
    """(H, W) metres, 0 = none -> (H, W) bool, pixels that jump by more than ``fraction`` against
    one of four neighbours.

    The jump is relative to the nearer of the two. Sensors smear such pixels between foreground and
    background, so both sides are marked.
    """
    edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (0, 1):
        length = depth.shape[axis] - 1
        before, after = depth.narrow(axis, 0, length), depth.narrow(axis, 1, length)
        nearer = torch.minimum(before, after)
        jump = (nearer > 0) & ((after - before).abs() > fraction * nearer)
        edge.narrow(axis, 0, length).logical_or_(jump)
        edge.narrow(axis, 1, length).logical_or_(jump)
    return edge


def find_runs(
    frame: Frame | DeviceFrame,
    feature_hw: tuple[int, int],
    voxel_size: float,
    config: LiftConfig,
    device: torch.device,
) -> tuple[Runs, dict[str, int]]:
    """The runs of the pixels that are used, and how many pixels are not, by reason."""
    scan = _Scan(frame, feature_hw, voxel_size, config, device)
    rows, width = (len(pixel_grid(size, config)) for size in frame.depth.shape)
    if not rows or not width:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return Runs(nothing, nothing, nothing.new_zeros(7, 0, dtype=torch.float64)), {
            **scan.dropped
        }
    height = max(1, BAND_PIXELS // width) if device.type == "cpu" else rows
    numbers = torch.arange(height * width, device=device)
    starts = range(0, rows, height)
    bands = [scan.band(slice(start, start + height), numbers) for start in starts]
    return scan.runs(*map(torch.cat, zip(*bands, strict=True))), dict(scan.dropped)


_Points = Sequence[torch.Tensor]  # world x, y and z of a band of pixels, each (h, w), in voxels


class _Scan:
    """What the bands of one frame share."""

    def __init__(
        self,
        frame: Frame | DeviceFrame,
        feature_hw: tuple[int, int],
        voxel_size: float,
        config: LiftConfig,
        device: torch.device,
    ) -> None:
        self.frame, self.voxel_size, self.config = frame, voxel_size, config
        rows, columns = (pixel_grid(size, config) for size in frame.depth.shape)
        area = tuple(slice(axis.start, axis.stop, axis.step) for axis in (rows, columns))
        depth = tensor(frame.depth, device)
        self.rgb = at_depth_size(tensor(frame.rgb, device), depth)[area]
        self.dropped: Counter[str] = Counter(no_return=0, out_of_range=0)
        depth = returns(depth)
        edges = depth_edges(depth, config.depth_edge)[area] if config.depth_edge else None
        self.depth = self._usable_depth(depth[area], edges)
        self.v, self.u = (_numbers(axis, device) for axis in (rows, columns))
        self.cell_y, self.weight_y = bilinear_cells(self.v, frame.depth.shape[0], feature_hw[0])
        self.cell_x, weight_x = bilinear_cells(self.u, frame.depth.shape[1], feature_hw[1])
        self.cell_y *= feature_hw[1]
        self.prefix_x = torch.nn.functional.pad(weight_x.cumsum(0), (1, 0))
        self.turns_x = self.cell_x[1:] != self.cell_x[:-1]
        self.all_near = self._farthest() < COORDINATE_LIMIT - 1

    def band(
        self, rows: slice, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The stretches of some rows of the pixel grid.

        Args:
            numbers: 0, 1, ... for every pixel of the band.

        Returns:
            Number of the first pixel in the grid, key, -1 of pixels that are not used, and sums of
            the colours as they are stored: (S,), (S,) and (S, 3).
        """
        depth = self.depth[rows]
        pose, K = self.frame.T_world_camera, self.frame.K
        points: _Points = world_points(depth, self.u, self.v[rows], K, pose, self.voxel_size)
        usable, points = self._in_range(self._clip(depth > 0, points), points)
        key = torch.where(usable, pack_nearest(points), -1)
        begins = torch.ones_like(usable)
        torch.ne(key[:, 1:], key[:, :-1], out=begins[:, 1:])
        begins[:, 1:] |= self.turns_x
        begin = begins.flatten().nonzero()[:, 0]
        colors = torch.nn.functional.embedding_bag(
            numbers[: depth.numel()], self.rgb[rows].reshape(-1, 3).float(), begin, mode="sum"
        )  # exact where they are bytes
        return begin + rows.start * len(self.u), take(key.flatten(), begin), colors

    def runs(self, begin: torch.Tensor, key: torch.Tensor, colors: torch.Tensor) -> Runs:
        """The stretches of all bands that are used, as runs."""
        end = torch.cat([begin[1:], begin.new_full((1,), self.depth.numel())])
        used = (key >= 0).nonzero()[:, 0]
        key, begin, end = (take(values, used) for values in (key, begin, end))
        row = begin // len(self.u)
        first = begin - row * len(self.u)
        count, y = end - begin, take(self.weight_y, row)
        x = take(self.prefix_x, first + count) - take(self.prefix_x, first)
        weights = torch.stack([x, count * y, x * y, count.double()])
        colors = take(colors, used).T.double()
        if self.rgb.dtype == torch.uint8:
            colors /= 255
        cell = take(self.cell_y, row) + take(self.cell_x, first)
        return Runs(key, cell, torch.cat([weights, colors]))

    def _usable_depth(self, depth: torch.Tensor, edges: torch.Tensor | None) -> torch.Tensor:
        """(h, w) metres, 0 where there is none -> 0 where the pixel is not used."""
        self.dropped["no_return"] += depth.numel() - int(depth.count_nonzero())
        if self.config.min_range or self.config.max_range:
            farthest = self.config.max_range or torch.inf
            depth = self._drop("range", depth, (depth < self.config.min_range) | (depth > farthest))
        if edges is not None:
            depth = self._drop("depth_edge", depth, edges)
        return depth

    def _farthest(self) -> float:
        """In voxels, what no coordinate of a point exceeds."""
        pose, (height, width) = self.frame.T_world_camera, self.frame.depth.shape
        rays = np.abs(pose[:3, :3] @ np.linalg.inv(self.frame.K)) @ [width, height, 1.0]
        depth = float(self.depth.max()) if self.depth.numel() else 0.0
        return float((rays * depth + np.abs(pose[:3, 3])).max()) / self.voxel_size

    def _drop(self, reason: str, depth: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
        self.dropped[reason] += int((gone & (depth > 0)).sum())
        return depth.masked_fill(gone, 0.0)

    def _clip(self, usable: torch.Tensor, points: _Points) -> torch.Tensor:
        """(h, w) bool, usable and inside the configured box; points are in voxels."""
        if not (self.config.clip_min or self.config.clip_max):
            return usable
        inside = usable.clone()
        for limits, compare in ((self.config.clip_min, torch.ge), (self.config.clip_max, torch.le)):
            for axis, limit in zip(points, limits, strict=False):
                inside &= compare(axis, limit / self.voxel_size)
        self.dropped["clip"] += int(usable.sum()) - int(inside.sum())
        return inside

    def _in_range(self, usable: torch.Tensor, points: _Points) -> tuple[torch.Tensor, _Points]:
        """Drop points that no key can express: one far pixel must not cost the frame, nor wrap into
        a near voxel.
        """
        if self.all_near:
            return usable, points
        near = usable.clone()
        for axis in points:
            near &= axis.round().abs() < COORDINATE_LIMIT
        self.dropped["out_of_range"] += int(usable.sum()) - int(near.sum())
        return near, [torch.where(near, axis, 0.0) for axis in points]


def _numbers(pixels: range, device: torch.device) -> torch.Tensor:
    return torch.arange(len(pixels), device=device) * pixels.step + pixels.start


def returns(depth: torch.Tensor) -> torch.Tensor:
    """Depth with 0 where the sensor had no return."""
    return torch.where((depth > 0) & (depth < torch.inf), depth, 0.0)


def at_depth_size(rgb: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) colours sampled bilinearly at the pixels of the (h, w) depth."""
    if rgb.shape[:2] == depth.shape:
        return rgb
    exact = rgb.float() / 255 if rgb.dtype == torch.uint8 else rgb
    height, width = depth.shape
    return resize_colors(exact, (height, width), antialias=False)
