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
        return cls(feature_hw, config, voxel_size, pixel, u.double(), v.double(), cell, weights)

    def steps(self, depth: torch.Tensor, rgb: torch.Tensor, camera: torch.Tensor) -> Tensors:
        """All that is done without knowing how many voxels there are.

        Args:
            depth, rgb: as in a frame.
            camera: (3, 4) of :func:`_camera`.

        Returns:
            Counts, (3 + reasons,): voxels V, groups G, points, and the drops by :func:`_reasons`;
            and key, hits, rgb_sum, row_start, patch, weight, of which the first V, V + 1 or G are
            meant.
        """
        key, drops = self._keys(depth, camera)
        key, order = torch.sort(key, stable=True)
        cell, count = take(self.cell, order), len(key)
        begins = torch.ones(2, count, dtype=torch.bool, device=key.device)  # voxels, groups
        torch.ne(key[1:], key[:-1], out=begins[0, 1:])
        torch.logical_or(begins[0, 1:], cell[1:] != cell[:-1], out=begins[1, 1:])
        number = _running(begins) - 1
        # place of the first pixel of each; behind the last one N, and what is no first goes away
        first = torch.full((2, count + 2), count, device=key.device)
        place = torch.arange(count, device=key.device).expand(2, -1)
        first.scatter_(1, torch.where(begins, number, count + 1), place)
        first = first[:, :-1]
        color = take(at_depth_size(rgb, depth).reshape(-1, 3), take(self.pixel, order))
        color = color.double() / 255 if color.dtype == torch.uint8 else color.double()
        values = torch.cat([torch.index_select(self.weights, 1, order), color.T])
        prefix = torch.nn.functional.pad(_running(values), (1, 0))
        x, y, xy = torch.index_select(prefix[:3], 1, first[1]).diff(dim=1)
        colors = torch.index_select(prefix[3:], 1, first[0]).diff(dim=1)
        one = first[1].diff().double()
        weight = torch.stack([one - x - y + xy, x - xy, y - xy, xy], 1)
        corner = torch.arange(4, device=key.device)
        width, patches = self.feature_hw[1], self.feature_hw[0] * self.feature_hw[1]
        inside = first[:, :-1].clamp(max=count - 1)
        patch = take(cell, inside[1])[:, None] + (corner % 2 + corner // 2 * width)
        groups = torch.cat([number[1], number[1, -1:] + 1])  # up to each pixel
        used = key != NO_VOXEL
        counts = torch.cat([(begins & used).sum(1), used.sum()[None], drops])
        return (
            counts,
            take(key, inside[0]),
            first[0].diff(),
            colors.T,
            4 * take(groups, first[0]),
            # one row or column of patches has no second one; its weight is 0 to rounding
            patch.clamp(max=patches - 1),
            weight.float(),
        )

    def _keys(self, depth: torch.Tensor, camera: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) voxel of each pixel, NO_VOXEL for unused ones, and the drops of :func:`_reasons`."""
        config = self.config
        whole = returns(depth)
        d = take(whole.view(-1), self.pixel)
        usable = d > 0
        drops = [len(d) - usable.sum()]

        def keep(good: torch.Tensor) -> torch.Tensor:
            left = usable & good
            drops.append(usable.sum() - left.sum())
            return left

        if config.min_range or config.max_range:
            usable = keep((d >= config.min_range) & (d <= (config.max_range or torch.inf)))
        if config.depth_edge:
            edges = depth_edges(whole, config.depth_edge)
            usable = keep(~take(edges.view(-1), self.pixel))
        axes = [((self.u * a + c) + self.v * b) * d + t for a, b, c, t in camera]
        if config.clip_min or config.clip_max:
            inside = torch.ones_like(usable)
            for limits, compare in ((config.clip_min, torch.ge), (config.clip_max, torch.le)):
                for axis, limit in zip(axes, limits, strict=False):
                    inside &= compare(axis, limit / self.voxel_size)
            usable = keep(inside)
        index = torch.stack(axes).round_()
        usable = keep((index.abs() < COORDINATE_LIMIT).all(0))
        key = pack(index.where(usable, 0.0))
        return key.where(usable, NO_VOXEL), torch.stack(drops)

    def lifted(self, results: Tensors) -> LiftedFrame:
        """What :meth:`steps` gave, cut to size, in memory of its own."""
        counts, *rest = results
        voxels, groups, points, *drops = counts.tolist()
        key, hits, rgb_sum, row_start, patch, weight = rest
        return LiftedFrame(
            key=key[:voxels].clone(),
            hits=hits[:voxels].clone(),
            rgb_sum=rgb_sum[:voxels].clone(memory_format=torch.contiguous_format),
            row_start=row_start[: voxels + 1].clone(),
            patch=patch[:groups].clone().flatten(),
            weight=weight[:groups].clone().flatten(),
            feature_hw=self.feature_hw,
            points=points,
            dropped=dict(zip(_reasons(self.config), drops, strict=True)),
        )


def _running(rows: torch.Tensor) -> torch.Tensor:
    """(r, N) -> the running sums along each row; one by one, which a GPU does 20 times as fast."""
    return torch.stack([row.cumsum(0) for row in rows])


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
