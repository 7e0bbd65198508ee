# SPDX-License-Identifier: Apache-2.0
"""The voxel map: hit-weighted means of colour and vectors, at a cost per frame that does not grow with the map.

Slots 0 .. len - 1 are always in use: removing a voxel moves the last one into its place. So every per-voxel array is
dense, and a snapshot is a copy of its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .config import LiftConfig, MapConfig, from_dict
from .datatypes import FeatureMap, Frame, InputError, IntegrationStats, MapSnapshot
from .lift import lift
from .voxel_index import VoxelIndex, unpack
from .voxel_storage import Column, VectorBlocks

_BLOCK_ROWS = 4096
_NEVER = torch.iinfo(torch.int64)

# What is kept per voxel besides its vector: shape, type, value of a new voxel.
_COLUMNS: dict[str, tuple[tuple[int, ...], torch.dtype, int]] = {
    "key": ((), torch.int64, 0),
    "hits": ((), torch.int64, 0),
    "rgb_sum": ((3,), torch.float64, 0),
    "first_seen_ns": ((), torch.int64, _NEVER.max),
    "last_seen_ns": ((), torch.int64, _NEVER.min),
    "seen_through": ((), torch.int32, 0),  # frames in a row that looked through it
}


def resolve_device(device: torch.device | str) -> torch.device:
    """``auto`` is cuda where there is one."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


class VoxelMap:
    """Voxels of one world frame, with one vector of ``channels`` numbers each. Not thread safe.

    Args:
        voxel_size: metres.
        channels: C of the feature maps.
        lift: which depth pixels are used.
        device: where the map lives.
        options: the other fields of :class:`MapConfig` by name.

    Raises:
        ConfigError: an option that does not exist or is out of range.
    """

    def __init__(
        self,
        voxel_size: float = 0.05,
        channels: int = 768,
        *,
        lift: LiftConfig | None = None,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        self.config: MapConfig = from_dict(MapConfig, {**options, "voxel_size": float(voxel_size), "device": str(device)}, "map.")
        if channels < 1:
            raise InputError(f"a map needs at least one channel, got {channels}")
        self.voxel_size = self.config.voxel_size
        self.channels = int(channels)
        self.lift = lift or LiftConfig()
        self.device = resolve_device(device)
        self.clear()

    @classmethod
    def from_config(
        cls, config: MapConfig, channels: int, lift: LiftConfig | None = None, device: torch.device | str | None = None
    ) -> VoxelMap:
        """A map with the options of ``config``; ``device`` overrides that of the config."""
        options = {name: getattr(config, name) for name in config.__dataclass_fields__ if name not in ("voxel_size", "device")}
        return cls(config.voxel_size, channels, lift=lift, device=device or config.device, **options)

    def clear(self) -> None:
        """Forget everything."""
        self.last_stamp_ns: int | None = None  # of the newest frame
        self._index = VoxelIndex(self.device)
        self._columns = {name: Column(shape, dtype, self.device, fill) for name, (shape, dtype, fill) in _COLUMNS.items()}
        dtype = torch.float16 if self.config.dtype == "float16" else torch.float32
        self._vectors = VectorBlocks(self.channels, dtype, self.device, _BLOCK_ROWS)

    def __len__(self) -> int:
        return len(self._columns["key"])

    @property
    def nbytes(self) -> int:
        """Bytes allocated for the map, with index and cache."""
        return self._index.nbytes + self._vectors.nbytes + sum(column.nbytes for column in self._columns.values())

    def column(self, name: str) -> torch.Tensor:
        """(M, ...) one of the per-voxel values, as a view that is valid until the map changes."""
        return self._columns[name].data

    @torch.no_grad()
    def integrate(self, frame: Frame, feature_map: FeatureMap) -> IntegrationStats:
        """Fuse one frame.

        Raises:
            InputError: the features have another number of channels than the map, or are not finite.
        """
        features, feature_hw = self._patch_features(feature_map)
        lifted = lift(frame, feature_hw, self.voxel_size, self.lift, self.device)
        known = len(self)
        slots, order = self._claim(lifted.key)
        lifted = lifted.reordered(order)
        stamp = torch.full_like(slots, frame.stamp_ns)
        self._fuse(slots, lifted.hits, lifted.rgb_sum, stamp, stamp, lambda a, b: lifted.feature_sums(features, a, b))
        self.last_stamp_ns = frame.stamp_ns if self.last_stamp_ns is None else max(self.last_stamp_ns, frame.stamp_ns)
        return IntegrationStats(int(lifted.hits.sum()), len(slots), len(self) - known, lifted.dropped)

    def snapshot(self) -> MapSnapshot:
        """A copy of the whole map."""
        return self._snapshot(self._vectors.all_means(self.column("hits")))

    def geometry(self) -> MapSnapshot:
        """A copy of the map without the vectors: ``features`` is (M, 0). Rows as in :meth:`snapshot`."""
        return self._snapshot(torch.zeros(len(self), 0, device=self.device))

    def _snapshot(self, features: torch.Tensor) -> MapSnapshot:
        index, hits = unpack(self.column("key")), self.column("hits")
        return MapSnapshot(
            index=index,
            xyz=(index * self.voxel_size).float(),
            rgb=(self.column("rgb_sum") / hits[:, None]).float(),
            features=features,
            hits=hits.float(),
            first_seen_ns=self.column("first_seen_ns").clone(),
            last_seen_ns=self.column("last_seen_ns").clone(),
        )

    @torch.no_grad()
    def language_vectors(self, project: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """(M, D) unit vectors in the language space; rows as in :meth:`snapshot`.

        Args:
            project: (N, C) -> (N, D).
        """
        return torch.nn.functional.normalize(project(self._vectors.all_means(self.column("hits"))).float(), dim=1)

    def _patch_features(self, feature_map: FeatureMap) -> tuple[torch.Tensor, tuple[int, int]]:
        """(C, h, w) -> (h * w, C) float32 on the device of the map, and (h, w)."""
        data = feature_map.data.detach()
        if feature_map.channels != self.channels:
            raise InputError(f"the map holds {self.channels} channels, the feature map has {feature_map.channels}")
        features = data.reshape(self.channels, -1).T.to(self.device, torch.float32).contiguous()
        # One value that is not finite makes the sum so; a sum that overflows is looked at again, value by value.
        if not bool(features.sum().isfinite()) and not bool(features.isfinite().all()):
            raise InputError("the feature map holds values that are not finite")
        return features, (int(data.shape[1]), int(data.shape[2]))

    def _claim(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) distinct keys -> their slots, ascending, new ones at the end of the map; and the order that sorts the keys so."""
        slots = self._index.find(key)
        new = slots < 0
        known = len(self)
        slots[new] = torch.arange(known, known + int(new.sum()), device=self.device)
        self._resize(known + int(new.sum()))
        self.column("key")[slots[new]] = key[new]
        self._index.assign(key[new], slots[new])
        return torch.sort(slots)

    def _resize(self, length: int) -> None:
        for column in self._columns.values():
            column.resize(length)
        self._vectors.resize(length)

    def _fuse(
        self,
        slots: torch.Tensor,
        hits: torch.Tensor,
        rgb_sum: torch.Tensor,
        first_ns: torch.Tensor,
        last_ns: torch.Tensor,
        sums: Callable[[int, int], torch.Tensor],
    ) -> None:
        """Add points to claimed slots (ascending); ``sums`` as in :meth:`VectorBlocks.add`."""
        before = self.column("hits")[slots]
        self._vectors.add(slots, before, hits, sums)
        self.column("hits")[slots] = before + hits
        self.column("rgb_sum").index_add_(0, slots, rgb_sum)
        self.column("first_seen_ns")[slots] = torch.minimum(self.column("first_seen_ns")[slots], first_ns)
        self.column("last_seen_ns")[slots] = torch.maximum(self.column("last_seen_ns")[slots], last_ns)
        self.column("seen_through")[slots] = 0
