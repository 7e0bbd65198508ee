# SPDX-License-Identifier: Apache-2.0
"""A map in another frame: its voxels are moved as a whole and sorted into a new grid."""

from __future__ import annotations

import numpy as np
import torch

from ...datatypes import InputError, check_pose
from ..index import COORDINATE_LIMIT, pack
from ..voxel_map import VoxelMap


@torch.no_grad()
def moved(voxels: VoxelMap, T_target_source: np.ndarray) -> VoxelMap:
    """A copy of a map in another frame.

    All points of a voxel go to the voxel in which its centre lies after the move. Voxels that meet
    in one are added as :meth:`VoxelMap.merge` adds them: hits, views and sums of colours and
    vectors are summed, the stamps are the first and the last, and looks through it count anew. So
    no hit is lost or made; where the move is a whole number of voxels the map is the same. Of no
    journal: what it would go on from is in the other frame.

    Args:
        T_target_source: (4, 4) rigid, metres.

    Raises:
        InputError: the pose is not rigid, or moves a voxel beyond the largest coordinate.
    """
    T = torch.from_numpy(check_pose(T_target_source, "the move")).to(voxels.device)
    table, size = voxels.table, voxels.voxel_size
    index = table.coordinates().double() @ T[:3, :3].T + T[:3, 3] / size
    # centres that lie on a border all go to one side of it, whatever rounding did to them: half to
    # even would bring two into every second voxel
    index = index.add_(0.5 + 1e-6).floor_()
    if len(index) and bool((index.abs() >= COORDINATE_LIMIT).any()):
        raise InputError("the move takes voxels beyond the largest coordinate of a map")
    key, group = torch.unique(pack(index.T), return_inverse=True)
    there = VoxelMap(voxels.channels, voxels.config, voxels.lift, voxels.device)
    slots, _ = there.table.claim(key)  # of an empty table: in the order of the keys
    members = group.argsort(stable=True)  # rows of this map, sorted by where they go
    bounds = torch.nn.functional.pad(torch.bincount(group, minlength=len(key)).cumsum(0), (1, 0))

    def gathered(name: str, how: str) -> torch.Tensor:
        values = table[name]
        out = values.new_zeros((len(key), *values.shape[1:]))
        at = group.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
        return out.scatter_reduce_(0, at, values, how, include_self=False)

    def sums(a: int, b: int) -> torch.Tensor:
        rows = members[int(bounds[a]) : int(bounds[b])]
        out = torch.zeros(b - a, voxels.channels, device=voxels.device)
        return out.index_add_(0, group[rows] - a, table.sums(rows))

    rows = {name: gathered(name, "sum") for name in ("hits", "views", "rgb_sum")}
    rows["first_seen_ns"] = gathered("first_seen_ns", "amin")
    rows |= {name: gathered(name, "amax") for name in ("last_seen_ns", "seen_at")}
    there.table.add(slots, rows, sums)
    camera = T[:3, :3] @ T.new_tensor(voxels.camera) + T[:3, 3]
    there.camera = tuple(camera.tolist())
    there.last_stamp_ns, there.clock = voxels.last_stamp_ns, voxels.clock
    return there
