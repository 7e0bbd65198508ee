# SPDX-License-Identifier: Apache-2.0
"""The tensors of a map of which a part is on the disk, as a map file has them.

They need not fit into memory: they are put together in a file without a name.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...datatypes import MapFileError
from ..coding.tiered import TieredVectors
from ..map_file import ROWS, MapIdentity, save_map
from ..voxel_map import VoxelMap
from . import cubes
from .bricks import Bricks
from .keeper import bricks_of

_PAGE = 4096  # bytes


def save_whole(path: Path, world: VoxelMap, identity: MapIdentity, notes: Mapping[str, Any]) -> int:
    """As :func:`save_map`, with what is on the disk, whose files must be kept meanwhile.

    Args:
        world: of :meth:`VoxelMap.frozen`, or one that nobody changes meanwhile.

    Raises:
        MapFileError: as :func:`save_map`.
    """
    bricks = bricks_of(world)
    if bricks is None or not bricks.on_disk:
        return save_map(path, world, identity, notes)
    return save_map(path, world, identity, notes, whole=whole_state(world, bricks, path.parent))


def whole_state(frozen: VoxelMap, bricks: Bricks, spare: Path) -> dict[str, torch.Tensor]:
    """As :meth:`VoxelTable.state`, with what is on the disk.

    Args:
        frozen, bricks: what is in memory and on the disk.
        spare: folder to put them together in, if that of the bricks is full, or gone.

    Raises:
        MapFileError: no disk has room.
    """
    state = frozen.table.state()
    of_row = {name: rows for name, rows in state.items() if not name.startswith("codec")}
    most = len(frozen) + bricks.voxels
    try:
        out = _Rows(of_row, most, bricks.shelf.folder)
    except MapFileError:
        out = _Rows(of_row, most, spare)
    brick = cubes.brick_of(state["key"])
    apart = torch.isin(brick, torch.tensor(list(bricks.on_disk)))
    for some in (~apart).nonzero()[:, 0].split(ROWS):
        out.add({name: rows[some] for name, rows in of_row.items()})
    for number, here in bricks.on_disk.items():
        slots = (brick == number).nonzero()[:, 0] if bool(apart.any()) else torch.zeros(0).long()
        part = bricks.read(frozen, here, in_full=len(slots) > 0)
        if len(slots):
            here_too = frozen.part(frozen.table.copied(slots.to(frozen.device)), in_full=True)
            if part is None:
                part = here_too
            else:
                part.rejoin(here_too)
        if part is not None:
            part.forget()
            out.add(_as_in(frozen, part))
    return state | out.tensors()


def _as_in(frozen: VoxelMap, part: VoxelMap) -> dict[str, torch.Tensor]:
    """The state of a part with codes where the whole map has them, and vectors where that has."""
    state, tiers = part.table.state(), frozen.table.vectors
    if isinstance(tiers, TieredVectors) and tiers.codecs and "vectors" in state:
        means = torch.cat(list(part.means()))
        codes = [tiers.codecs.encode(some) for some in means.split(ROWS)]
        state["codes"] = torch.cat(codes).cpu()
    return state


class _Rows:
    """Tensors that grow by rows, backed by files that no name leads to: they go with the last who
    has them.

    Raises:
        MapFileError: the disk has no room for ``most`` rows.
    """

    def __init__(self, like: Mapping[str, torch.Tensor], most: int, folder: Path) -> None:
        self._length = 0
        self._out = {name: _backed(rows, most, folder) for name, rows in like.items()}

    def add(self, state: Mapping[str, torch.Tensor]) -> None:
        """More rows; what has no place here is left out."""
        end = self._length + len(state["key"])
        for name, out in self._out.items():
            rows = state[name]
            if rows.dim() == 1:
                out[self._length : end] = rows
            else:
                out[self._length : end, : rows.shape[1]] = rows
        self._length = end

    def tensors(self) -> dict[str, torch.Tensor]:
        """All rows so far."""
        return {name: out[: self._length] for name, out in self._out.items()}


def _backed(like: torch.Tensor, most: int, folder: Path) -> torch.Tensor:
    shape = (most, *like.shape[1:])
    count = torch.Size(shape).numel()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # a killed process leaves nothing behind
            size = max(_PAGE, count * like.dtype.itemsize)
            os.posix_fallocate(file.fileno(), 0, size)
            room = mmap.mmap(file.fileno(), size)
    except OSError as error:
        reason = error.strerror or error
        raise MapFileError(f"the map cannot be put together in {folder}: {reason}") from error
    return torch.frombuffer(room, dtype=like.dtype, count=count).view(shape)
