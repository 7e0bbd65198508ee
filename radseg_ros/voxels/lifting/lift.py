# SPDX-License-Identifier: Apache-2.0
"""From the pixels of one frame to its voxels: who they are, how often they were hit, and how to sum
their features.

Interpolation is linear, so the feature sums of a frame are (voxels x patches) weights times the
patch features, and no feature row per pixel ever exists (docs/method.md 3). The weights are found
from runs: stretches of one image row that stay in the same voxel and between the same four patches.
Within a run the vertical weight is constant and the sum of the horizontal weights is a difference
of two prefix sums, so after the runs are found nothing is done per pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...config import LiftConfig
from ...datatypes import Frame, InputError
from ...geometry import DeviceFrame
from ..tensors import take
from .runs import find_runs

SUMS_AT_ONCE = 1 << 26  # numbers: 256 MiB
Sums = Callable[[int, int], torch.Tensor]  # of the new vectors of a range of voxels


@dataclass(frozen=True, slots=True, eq=False)
class LiftedFrame:
    """The V voxels of one frame, by ascending key.

    ``weights`` is (V x P) in compressed rows, P = h * w patches.

    The feature sums of the voxels are ``weights @ features`` with features (P, C); row v owns the
    entries ``row_start[v]:row_start[v + 1]``; the row sum of the weights is ``hits[v]``.
    """

    key: torch.Tensor  # (V,) int64, packed voxel index (index.pack), ascending
    hits: torch.Tensor  # (V,) int64, points
    rgb_sum: torch.Tensor  # (V, 3) float64, colours in [0, 1]
    row_start: torch.Tensor  # (V + 1,) int64
    patch: torch.Tensor  # (E,) int64, column of the entry
    weight: torch.Tensor  # (E,) float32
    feature_hw: tuple[int, int]
    points: int  # of all voxels
    dropped: dict[str, int]  # pixels that were looked at but not used, by reason

    def reordered(self, order: torch.Tensor) -> LiftedFrame:
        """Voxels by (n,) row numbers: some of them, or all in another order."""
        count = take(self.row_start.diff(), order)
        row_start = torch.nn.functional.pad(count.cumsum(0), (1, 0))
        whole = len(order) == len(self.key)
        entries = len(self.patch) if whole else int(row_start[-1])
        begins = take(self.row_start, order) - row_start[:-1]
        shift = torch.repeat_interleave(begins, count, output_size=entries)
        entry = torch.arange(entries, device=order.device) + shift
        fields: dict[str, Any] = {
            name: take(getattr(self, name), order) for name in ("key", "hits", "rgb_sum")
        }
        return replace(
            self,
            row_start=row_start,
            patch=take(self.patch, entry),
            weight=take(self.weight, entry),
            points=self.points if whole else int(fields["hits"].sum()),
            **fields,
        )

    def feature_sums(
        self, features: torch.Tensor, start: int = 0, stop: int | None = None
    ) -> torch.Tensor:
        """(P, C) float32 patch features -> (stop - start, C) sums over the points of voxels
        ``start:stop``.
        """
        stop = len(self.key) if stop is None else stop
        offsets = self.row_start[start : stop + 1]
        if start == stop:
            return features.new_zeros(0, features.shape[1])
        first, last = int(offsets[0]), int(offsets[-1])
        return self._sums(features, offsets[:-1] - first, slice(first, last))

    def summing(self, features: torch.Tensor, order: torch.Tensor | slice) -> Sums:
        """(start, stop) -> what :meth:`feature_sums` gives of the voxels in another order.

        On a GPU all sums are made at once if there is room: where the entries of a voxel begin
        would have to be waited for.
        """
        if features.is_cuda and len(self.key) * features.shape[1] <= SUMS_AT_ONCE:
            sums = self._sums(features, self.row_start[:-1], slice(None))[order]
            return lambda start, stop: sums[start:stop]
        ordered = self if isinstance(order, slice) else self.reordered(order)
        return lambda start, stop: ordered.feature_sums(features, start, stop)

    def _sums(self, features: torch.Tensor, begins: torch.Tensor, entries: slice) -> torch.Tensor:
        """A sparse-dense product that CPU and CUDA do at memory speed."""
        return torch.nn.functional.embedding_bag(
            self.patch[entries],
            features,
            begins,
            mode="sum",
            per_sample_weights=self.weight[entries],
        )


def check_lift(feature_hw: tuple[int, int], voxel_size: float) -> None:
    """Refuse what cannot be lifted.

    Raises:
        InputError: no feature cells, or a voxel size that is not positive.
    """
    if min(feature_hw) < 1 or not voxel_size > 0:
        raise InputError(
            f"lift needs features and a positive voxel size, got {feature_hw} and {voxel_size}"
        )


def lift(
    frame: Frame | DeviceFrame,
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
    check_lift(feature_hw, voxel_size)
    runs, dropped = find_runs(
        frame, feature_hw, voxel_size, config or LiftConfig(), torch.device(device)
    )
    width, patches = feature_hw[1], feature_hw[0] * feature_hw[1]
    key, voxel = torch.unique(runs.key, return_inverse=True)
    group, member = torch.unique(voxel.mul_(patches).add_(runs.cell), return_inverse=True)
    sums = runs.sums.new_zeros(7, len(group)).index_add_(1, member, runs.sums)
    voxel = group // patches
    x, y, xy, one = sums[:4]
    weight = torch.stack([one - x - y + xy, x - xy, y - xy, xy], 1)
    corner = torch.arange(4, device=group.device)
    patch = (group - voxel * patches)[:, None] + (corner % 2 + corner // 2 * width)
    nonzero = (
        weight != 0
    )  # a feature map of one row or column has no second one: its weight is exactly 0
    entries = torch.zeros_like(key).index_add_(0, voxel, nonzero.sum(1))
    used = nonzero.flatten().nonzero()[:, 0]
    totals = sums.new_zeros(4, len(key)).index_add_(1, voxel, sums[3:])
    return LiftedFrame(
        key=key,
        hits=totals[0].long(),
        rgb_sum=totals[1:].T.contiguous(),
        row_start=torch.nn.functional.pad(entries.cumsum(0), (1, 0)),
        patch=take(patch.flatten(), used),
        weight=take(weight.flatten(), used).float(),
        feature_hw=feature_hw,
        points=int(totals[0].sum()),
        dropped=dropped,
    )
