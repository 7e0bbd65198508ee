# SPDX-License-Identifier: Apache-2.0
"""From the pixels of one frame to its voxels: who they are, how often they were hit, and how to sum their features.

Interpolation is linear, so the feature sums of a frame are (voxels x patches) weights times the patch features, and no
feature row per pixel ever exists (SPEC 3). The weights are found from runs: stretches of one image row that stay in the
same voxel and between the same four patches. Within a run the vertical weight is constant and the sum of the
horizontal weights is a difference of two prefix sums, so after the runs are found nothing is done per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from .config import LiftConfig
from .datatypes import Frame, InputError
from .geometry import bilinear_cells, resize_rgb, world_points
from .voxel_index import out_of_range, pack, unpack


@dataclass(frozen=True, slots=True, eq=False)
class LiftedFrame:
    """The V voxels of one frame, by ascending key. ``weights`` is (V x P) in compressed rows, P = h * w patches.

    The feature sums of the voxels are ``weights @ features`` with features (P, C); row v owns the entries
    ``row_start[v]:row_start[v + 1]``; the row sum of the weights is ``hits[v]``.
    """

    key: torch.Tensor  # (V,) int64, packed voxel index, ascending
    hits: torch.Tensor  # (V,) int64, points
    rgb_sum: torch.Tensor  # (V, 3) float64, colours in [0, 1]
    row_start: torch.Tensor  # (V + 1,) int64
    patch: torch.Tensor  # (E,) int64, column of the entry
    weight: torch.Tensor  # (E,) float32
    feature_hw: tuple[int, int]
    dropped: dict[str, int]  # pixels that were looked at but not used, by reason

    @property
    def index(self) -> torch.Tensor:
        """(V, 3) int64 voxel index; the centre is index * voxel_size."""
        return unpack(self.key)

    @property
    def weights(self) -> torch.Tensor:
        """The weights as a sparse COO tensor (V, P)."""
        rows = torch.repeat_interleave(torch.arange(len(self.key), device=self.key.device), self.row_start.diff())
        shape = (len(self.key), self.feature_hw[0] * self.feature_hw[1])
        return torch.sparse_coo_tensor(torch.stack([rows, self.patch]), self.weight, shape)

    def reordered(self, order: torch.Tensor) -> LiftedFrame:
        """The same voxels in another order, (V,) row numbers."""
        count = self.row_start.diff()[order]
        row_start = torch.nn.functional.pad(count.cumsum(0), (1, 0))
        shift = torch.repeat_interleave(self.row_start[order] - row_start[:-1], count)
        entry = torch.arange(len(self.patch), device=order.device) + shift
        fields = {name: getattr(self, name)[order] for name in ("key", "hits", "rgb_sum")}
        return replace(self, row_start=row_start, patch=self.patch[entry], weight=self.weight[entry], **fields)

    def feature_sums(self, features: torch.Tensor, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """(P, C) float32 patch features -> (stop - start, C) sums over the points of voxels ``start:stop``."""
        stop = len(self.key) if stop is None else stop
        offsets = self.row_start[start : stop + 1]
        if start == stop:
            return features.new_zeros(0, features.shape[1])
        first, last = int(offsets[0]), int(offsets[-1])
        return torch.nn.functional.embedding_bag(  # a sparse-dense product that CPU and CUDA do at memory speed
            self.patch[first:last], features, offsets[:-1] - first, mode="sum", per_sample_weights=self.weight[first:last]
        )


def lift(
    frame: Frame,
    feature_hw: tuple[int, int],
    voxel_size: float,
    config: LiftConfig | None = None,
    device: torch.device | str = "cpu",
) -> LiftedFrame:
    """Find the voxels of a frame and the weights of the patches in each.

    Args:
        feature_hw: rows and columns of the feature map; it may be 1 x 1 or as large as the image.
        voxel_size: metres.

    Raises:
        InputError: no feature cells, or a voxel size that is not positive.
    """
    if min(feature_hw) < 1 or not voxel_size > 0:
        raise InputError(f"lift needs features and a positive voxel size, got {feature_hw} and {voxel_size}")
    config = config or LiftConfig()
    depth_hw = frame.depth.shape
    rows, columns = (_pixel_grid(size, config) for size in depth_hw)
    v, u = (torch.arange(size, device=device)[grid] for size, grid in zip(depth_hw, (rows, columns), strict=True))
    depth, dropped = _usable_depth(torch.tensor(frame.depth, device=device), rows, columns, config)
    points = world_points(depth, u, v, frame.K, frame.T_world_camera, voxel_size)
    usable = ~depth.isnan()
    if config.clip_min or config.clip_max:
        inside = _inside_clip(points, voxel_size, config)
        dropped["clip"] = int((usable & ~inside).sum())
        usable &= inside
    cell_x, weight_x = bilinear_cells(u, depth_hw[1], feature_hw[1])
    cell_y, weight_y = bilinear_cells(v, depth_hw[0], feature_hw[0])

    runs = _find_runs(torch.where(usable, pack(points.round_()), -1), cell_x)
    far = out_of_range(runs.key)
    dropped["out_of_range"] = int(runs.count[far].sum())
    runs = runs.where(~far)
    wx, wy = runs.sums(weight_x[None], torch.float64), weight_y[runs.row]
    moments = torch.stack([runs.count, wx, runs.count * wy, wx * wy], 1)
    cell = cell_y[runs.row] * feature_hw[1] + cell_x[runs.first]
    grouped = _group(runs, moments, cell, feature_hw)
    rgb = _run_colours(runs, frame.rgb, depth_hw, (rows, columns))
    rgb_sum = rgb.new_zeros(len(grouped["key"]), 3).index_add_(0, grouped.pop("voxel"), rgb)
    return LiftedFrame(rgb_sum=rgb_sum, feature_hw=feature_hw, dropped=dropped, **grouped)


def _pixel_grid(size: int, config: LiftConfig) -> slice:
    """The pixels of one axis that are looked at."""
    return slice(config.border, max(size - config.border, config.border), config.pixel_stride)


def _usable_depth(depth: torch.Tensor, rows: slice, columns: slice, config: LiftConfig) -> tuple[torch.Tensor, dict[str, int]]:
    """(H, W) depth -> (h, w) depth of the grid, NaN where it is not used, and how many were dropped by reason."""
    depth = torch.where((depth > 0) & (depth < torch.inf), depth, torch.nan)
    grid = depth[rows, columns]
    dropped = {"no_return": int(grid.isnan().sum())}
    if config.min_range > 0 or config.max_range > 0:
        outside = (grid < config.min_range) | (grid > (config.max_range or torch.inf))
        dropped["range"] = int(outside.sum())
        grid = grid.masked_fill(outside, torch.nan)
    if config.depth_edge > 0:
        edge = depth_edges(depth, config.depth_edge)[rows, columns] & ~grid.isnan()
        dropped["depth_edge"] = int(edge.sum())
        grid = grid.masked_fill(edge, torch.nan)
    return grid, dropped


def depth_edges(depth: torch.Tensor, fraction: float) -> torch.Tensor:
    """(H, W) metres, NaN = none -> (H, W) bool, pixels that jump by more than ``fraction`` against one of four neighbours.

    The jump is relative to the nearer of the two. Sensors smear such pixels between foreground and background, so both
    sides are marked.
    """
    edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (0, 1):
        before, after = depth.narrow(axis, 0, depth.shape[axis] - 1), depth.narrow(axis, 1, depth.shape[axis] - 1)
        jump = (after - before).abs() > fraction * torch.minimum(before, after)
        edge.narrow(axis, 0, depth.shape[axis] - 1).logical_or_(jump)
        edge.narrow(axis, 1, depth.shape[axis] - 1).logical_or_(jump)
    return edge


def _inside_clip(points: torch.Tensor, voxel_size: float, config: LiftConfig) -> torch.Tensor:
    """(3, h, w) points in voxels -> (h, w) bool, inside the configured box."""
    inside = torch.ones(points.shape[1:], dtype=torch.bool, device=points.device)
    for limits, compare in ((config.clip_min, torch.ge), (config.clip_max, torch.le)):
        for axis, limit in enumerate(limits):
            inside &= compare(points[axis], limit / voxel_size)
    return inside


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """R stretches of one row of the pixel grid that stay in one voxel and between the same patches."""

    key: torch.Tensor  # (R,) int64, voxel
    row: torch.Tensor  # (R,) int64, row of the grid
    first: torch.Tensor  # (R,) int64, first column
    last: torch.Tensor  # (R,) int64, last column

    @property
    def count(self) -> torch.Tensor:
        """(R,) int64 pixels."""
        return self.last - self.first + 1

    def where(self, mask: torch.Tensor) -> _Runs:
        """The runs that ``mask`` keeps."""
        return _Runs(self.key[mask], self.row[mask], self.first[mask], self.last[mask])

    def sums(self, image: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(h or 1, w, ...) values per pixel -> (R, ...) sums per run; ``dtype`` must hold the sum of a whole row."""
        prefix, row = image.cumsum(1, dtype=dtype), self.row if len(image) > 1 else torch.zeros_like(self.row)
        return prefix[row, self.last] - prefix[row, self.first] + image[row, self.first]


def _find_runs(key: torch.Tensor, cell_x: torch.Tensor) -> _Runs:
    """(h, w) voxel keys and (w,) patch columns -> the runs; pixels with key < 0 belong to none."""
    width = max(key.shape[1], 1)
    begins = torch.ones_like(key, dtype=torch.bool)
    begins[:, 1:] = (key[:, 1:] != key[:, :-1]) | (cell_x[1:] != cell_x[:-1])
    begin = begins.flatten().nonzero()[:, 0]
    end = torch.cat([begin[1:], begin.new_tensor([key.numel()])[: len(begin)]])
    row = begin // width
    runs = _Runs(key.flatten()[begin], row, begin - row * width, end - 1 - row * width)
    return runs.where(runs.key >= 0)


def _run_colours(runs: _Runs, rgb: np.ndarray, depth_hw: tuple[int, int], grid: tuple[slice, slice]) -> torch.Tensor:
    """(R, 3) float64 sums of the colour, in [0, 1] per point, sampled at the depth pixels."""
    if rgb.shape[:2] != depth_hw:
        rgb = rgb.astype(np.float32) / 255.0 if rgb.dtype == np.uint8 else rgb
        rgb = resize_rgb(rgb, depth_hw, antialias=False)
    image = torch.tensor(rgb[grid], device=runs.key.device)
    if image.dtype == torch.uint8:
        return runs.sums(image, torch.int32).double() / 255.0  # int32: exact up to 8 million columns
    return runs.sums(image.double(), torch.float64)


def _group(runs: _Runs, moments: torch.Tensor, cell: torch.Tensor, feature_hw: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Sum the runs of each (voxel, cell) into four bilinear weights, in compressed rows.

    Args:
        moments: (R, 4) float64 sums over the run of 1, wx, wy and wx * wy.
        cell: (R,) upper-left patch of the four.
    """
    width, patches = feature_hw[1], feature_hw[0] * feature_hw[1]
    key, voxel = torch.unique(runs.key, return_inverse=True)
    group, member = torch.unique(voxel * patches + cell, return_inverse=True)
    one, x, y, xy = moments.new_zeros(len(group), 4).index_add_(0, member, moments).unbind(1)
    weight = torch.stack([one - x - y + xy, x - xy, y - xy, xy], 1)
    patch = (group % patches)[:, None] + torch.tensor([0, 1, width, width + 1], device=group.device)
    used = weight != 0  # a map of one row or column has no second one: its weight is exactly 0
    entries = torch.zeros_like(key).index_add_(0, group // patches, used.sum(1))
    return {
        "key": key,
        "hits": torch.zeros_like(key).index_add_(0, voxel, runs.count),
        "row_start": torch.nn.functional.pad(entries.cumsum(0), (1, 0)),
        "patch": patch[used],
        "weight": weight[used].float(),
        "voxel": voxel,
    }
