# SPDX-License-Identifier: Apache-2.0
"""The lift of a GPU: all pixels are sorted by voxel.

It gives what :func:`..lift.lift` gives, but for the rounding of sums and for weights of 0, which
it keeps. No step needs a number from the GPU before the last one does, so that all of them are
recorded once and started at once (:mod:`...gpu.replay`); runs, which a processor likes, would make
the GPU wait a dozen times.

Pixels are taken patch by patch. Sorting them by voxel, equal ones in their order, then brings
those together that share voxel and patches, and the sums of such a group are differences of two
prefix sums.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from ...config import LiftConfig
from ...datatypes import Frame
from ...geometry import DeviceFrame, bilinear_cells, tensor
from ...gpu.replay import Replayed, Tensors
from ..index import COORDINATE_LIMIT, pack
from ..tensors import take
from .lift import LiftedFrame, check_lift
from .runs import at_depth_size, depth_edges, pixel_grid, returns

MOST = 8  # kinds of frames that are remembered
NO_VOXEL = torch.iinfo(torch.int64).max


class SortingLift:
    """Lifts frames on one device; thread safe.

    What depends on sizes and options alone is made once.

    Args:
        voxel_size: metres.
        device: where.
    """

    def __init__(self, voxel_size: float, device: torch.device) -> None:
        self.voxel_size, self.device = voxel_size, device
        self._kinds: OrderedDict[object, tuple[_Kind, Replayed]] = OrderedDict()
        self._turn = threading.Lock()

    def __call__(
        self,
        frame: Frame | DeviceFrame,
        feature_hw: tuple[int, int],
        config: LiftConfig | None = None,
    ) -> LiftedFrame:
        """See :func:`..lift.lift`."""
        check_lift(feature_hw, self.voxel_size)
        config = config or LiftConfig()
        size = int(frame.depth.shape[0]), int(frame.depth.shape[1])
        if not all(pixel_grid(side, config) for side in size):
            return _nothing(feature_hw, self.device)
        key = (size, feature_hw, repr(config))
        with self._turn:
            if key not in self._kinds:
                self._kinds[key] = self._kind(size, feature_hw, config)
            kind, steps = self._kinds[key]
            self._kinds.move_to_end(key)
            while len(self._kinds) > MOST:
                self._kinds.popitem(last=False)
        camera = tensor(_camera(frame, self.voxel_size), self.device)
        images = tensor(frame.depth, self.device), tensor(frame.rgb, self.device)
        return steps.taken(kind.lifted, *images, camera)

    def _kind(
        self, size: tuple[int, int], feature_hw: tuple[int, int], config: LiftConfig
    ) -> tuple[_Kind, Replayed]:
        kind = _Kind.of(size, feature_hw, config, self.voxel_size, self.device)
        return kind, Replayed(kind.steps, urgent=True)


def _camera(frame: Frame | DeviceFrame, unit: float) -> np.ndarray:
    """(3, 4) float64: what a pixel's ray is made of, and where it begins, in voxels.

    World coordinate i of pixel (u, v) with depth d: ((u a + c) + v b) d + t; row i is a, b, c, t.
    """
    pose = frame.T_world_camera
    return np.column_stack([pose[:3, :3] @ np.linalg.inv(frame.K) / unit, pose[:3, 3] / unit])


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """Frames of one size with one size of features, lifted by the same rules.

    N pixels of the grid are in the order of their patches.
    """

    feature_hw: tuple[int, int]
    config: LiftConfig
    voxel_size: float
    pixel: torch.Tensor  # (N,) int64, in the depth image
    u: torch.Tensor  # (N,) float64
    v: torch.Tensor
    cell: torch.Tensor  # (N,) int64, the upper-left patch of its four
    corners: torch.Tensor  # (4,) int64, from that one to each of the four
    weights: torch.Tensor  # (3, N) float64: wx, wy, wx * wy

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        feature_hw: tuple[int, int],
        config: LiftConfig,
        voxel_size: float,
        device: torch.device,
    ) -> _Kind:
        v, u = (torch.tensor(pixel_grid(side, config), device=device) for side in size)
        (cell_y, weight_y), (cell_x, weight_x) = (
            bilinear_cells(axis, side, cells)
            for axis, side, cells in zip((v, u), size, feature_hw, strict=True)
        )
        cell = (cell_y[:, None] * feature_hw[1] + cell_x).flatten()
        cell, order = torch.sort(cell, stable=True)
        y, x = order // len(u), order % len(u)
        v, u, wx, wy = v[y], u[x], weight_x[x], weight_y[y]
        weights = torch.stack([wx, wy, wx * wy])
        pixel = v * size[1] + u
        # a single row or column of patches has no next one; what is left of its weight is rounding
        down, right = (int(cells > 1) for cells in feature_hw)
        down *= feature_hw[1]
        corners = torch.tensor([0, right, down, down + right], device=device)
        return cls(
            feature_hw, config, voxel_size, pixel, u.double(), v.double(), cell, corners, weights
        )

    def steps(self, depth: torch.Tensor, rgb: torch.Tensor, camera: torch.Tensor) -> Tensors:
        """All that is done without knowing how many voxels there are.

        Args:
            depth, rgb: as in a frame.
            camera: (3, 4) of :func:`_camera`.

        Returns:
            Counts, (2 + reasons,): voxels V, groups G, and the pixels that are left after each of
            :func:`_reasons`; (6, N + 1) key, hits, colour and row_start of voxels, of which the
            first V, or V + 1, are meant, colour as the bits of float64; and (N, 4) patch and
            weight of groups, of which the first G are.
        """
        key, left = self._keys(depth, camera)
        key, order = torch.sort(key, stable=True)
        cell, count = take(self.cell, order), len(key)
        begins = torch.ones(2, count, dtype=torch.bool, device=key.device)  # voxels, groups
        torch.ne(key[1:], key[:-1], out=begins[0, 1:])
        torch.logical_or(begins[0, 1:], cell[1:] != cell[:-1], out=begins[1, 1:])
        counts = torch.stack([*(begins & (key != NO_VOXEL)), *left]).sum(1)
        number = _running(begins)  # of those that begin before each pixel
        # place of the first pixel of each, behind the last one N; place 0 is of what begins none
        first = torch.full((2, count + 2), count, device=key.device)
        place = torch.arange(count, device=key.device).expand(2, -1)
        first = first.scatter_(1, number[:, 1:] * begins, place)[:, 1:]

        values = torch.empty(6, count, dtype=torch.float64, device=key.device)
        torch.index_select(self.weights, 1, order, out=values[:3])
        color = take(at_depth_size(rgb, depth).reshape(-1, 3), take(self.pixel, order))
        values[3:] = color.T
        if color.dtype == torch.uint8:
            values[3:].div_(255)
        prefix = _running(values)
        sums = torch.index_select(prefix[:3], 1, first[1]).diff(dim=1)
        one, (x, y, xy) = first[1].diff().double(), sums
        weight = torch.stack([one - x - y + xy, *(sums[:2] - xy), xy], 1).float()

        inside = first[:, :-1].clamp(max=count - 1)
        voxels = torch.empty(6, count + 1, dtype=torch.int64, device=key.device)
        torch.index_select(key, 0, inside[0], out=voxels[0, :-1])
        torch.sub(first[0, 1:], first[0, :-1], out=voxels[1, :-1])
        colors = torch.index_select(prefix[3:], 1, first[0])
        torch.sub(colors[:, 1:], colors[:, :-1], out=voxels[2:5, :-1].view(torch.float64))
        torch.mul(take(number[1], first[0]), 4, out=voxels[5])
        return counts, voxels, take(cell, inside[1])[:, None] + self.corners, weight

    def _keys(
        self, depth: torch.Tensor, camera: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(N,) voxel of each pixel, NO_VOXEL for unused ones.

        And (N,) bool, which pixels are left after each of :func:`_reasons`.
        """
        config = self.config
        d = take(depth.reshape(-1), self.pixel)
        left = [(d > 0) & (d < torch.inf)]
        if config.min_range or config.max_range:
            near = (d >= config.min_range) & (d <= (config.max_range or torch.inf))
            left.append(left[-1] & near)
        if config.depth_edge:
            edges = depth_edges(returns(depth), config.depth_edge)
            left.append(left[-1] & ~take(edges.view(-1), self.pixel))
        a, b, c, t = camera[:, :, None].unbind(1)
        axes = (self.u * a).add_(c).add_(self.v * b).mul_(d).add_(t)  # (3, N)
        if config.clip_min or config.clip_max:
            inside = left[-1].clone()
            for limits, compare in ((config.clip_min, torch.ge), (config.clip_max, torch.le)):
                for axis, limit in zip(axes, limits, strict=False):
                    inside &= compare(axis, limit / self.voxel_size)
            left.append(inside)
        index = axes.round_()
        left.append(left[-1] & (index.abs() < COORDINATE_LIMIT).all(0))
        # what is not left may be anything, not only a number
        return pack(index.long()).where(left[-1], NO_VOXEL), left

    def lifted(self, results: Tensors) -> LiftedFrame:
        """What :meth:`steps` gave, cut to size, in memory of its own."""
        counts, every, patch, weight = results
        voxels, groups, *left = counts.tolist()
        cut = every[:, : voxels + 1].clone()
        pixels = zip([len(self.pixel), *left], left, strict=False)
        return LiftedFrame(
            key=cut[0, :-1],
            hits=cut[1, :-1],
            rgb_sum=cut[2:5, :-1].view(torch.float64).T,
            row_start=cut[5],
            patch=patch[:groups].flatten().clone(),
            weight=weight[:groups].flatten().clone(),
            feature_hw=self.feature_hw,
            points=left[-1],
            dropped=dict(zip(_reasons(self.config), (a - b for a, b in pixels), strict=True)),
        )


def _running(rows: torch.Tensor) -> torch.Tensor:
    """(r, N) -> (r, N + 1) the sums of what is before each column and of all, by row.

    One row after the other, which a GPU does 20 times as fast as all at once.
    """
    kind = torch.int64 if rows.dtype == torch.bool else rows.dtype
    sums = torch.zeros(len(rows), rows.shape[1] + 1, dtype=kind, device=rows.device)
    for row, out in zip(rows, sums, strict=True):
        torch.cumsum(row, 0, out=out[1:])
    return sums


def _reasons(config: LiftConfig) -> list[str]:
    """For which pixels may be dropped, in the order in which they are."""
    asked = {
        "no_return": True,
        "range": config.min_range or config.max_range,
        "depth_edge": config.depth_edge,
        "clip": config.clip_min or config.clip_max,
        "out_of_range": True,
    }
    return [reason for reason, wanted in asked.items() if wanted]


def _nothing(feature_hw: tuple[int, int], device: torch.device) -> LiftedFrame:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return LiftedFrame(
        key=none,
        hits=none,
        rgb_sum=torch.zeros(0, 3, dtype=torch.float64, device=device),
        row_start=torch.zeros(1, dtype=torch.int64, device=device),
        patch=none,
        weight=torch.zeros(0, device=device),
        feature_hw=feature_hw,
        points=0,
        dropped={"no_return": 0, "out_of_range": 0},
    )
