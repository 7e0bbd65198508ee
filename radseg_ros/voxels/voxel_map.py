# SPDX-License-Identifier: Apache-2.0
"""The voxel map: hit-weighted means of colour and vectors, at a cost per frame that does not grow
with the map.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from ..config import LiftConfig, MapConfig
from ..datatypes import (
    FeatureMap,
    Frame,
    InputError,
    IntegrationStats,
    MapGeometry,
    MapSnapshot,
    check_pose,
)
from ..device import pick_device
from ..geometry import DeviceFrame
from ..reading import MISFITS
from .carving import seen_through, spheres_in_view
from .clock import MapClock
from .coding.tiered import LEAST_HOT, TieredVectors
from .index import BRICK_SIDE
from .lifting.by_sorting import SortingLift
from .lifting.lift import LiftedFrame, lift
from .table import VoxelTable
from .tensors import take

logger = logging.getLogger(__name__)

MOST_RECORDS = 9 * 10**9  # of a journal, whose numbers have ten digits: some are left for others
LARGEST = 1e9  # number of a vector: sums of many, and their squares, are numbers still
COPY_BYTES = 4 << 20  # of vectors that are copied, or moved, at once: some milliseconds
PAUSE = 1e-3  # s between two such steps: a lock goes to who waits for it only if nobody is quicker
# So many times the points that are left were taken from a worn voxel: its mean is off by 2.2e-7 of
# the largest number for each (bench/correct.py on two recordings).
WORN = 400
_REJOINED = ("hits", "views", "rgb_sum", "first_seen_ns", "last_seen_ns", "seen_at")
_TAKEN_APART = 32  # moves whose points are counted together later
_SLACK = 16  # a full map gives up 1/16 of its voxels at once, so that it evicts rarely


@dataclass(slots=True, eq=False)
class History:
    """What is in a map, as far as a journal must know it to go on."""

    record: int = 0  # number of the newest record of the journal that is in it; 0 = none
    removed: int = 0  # voxels that are gone: a map that has lost none is the sum of its frames
    # frames (by record) that are not where the journal has them yet: T_world_camera, (4, 4)
    stale: dict[int, np.ndarray] = field(default_factory=dict)
    frames: int = 0  # of the journal that are in it

    def note(self) -> dict[str, Any]:
        """All of it, as JSON."""
        stale = {str(record): T.tolist() for record, T in self.stale.items()}
        counts = {"record": self.record, "removed": self.removed, "frames": self.frames}
        return {**counts, "stale": stale}

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> History:
        """What :meth:`note` gave.

        Raises:
            InputError: it did not give this.
        """
        try:
            counts = {name: int(note[name]) for name in ("record", "removed", "frames")}
            stale = {int(k): check_pose(np.array(T)) for k, T in note["stale"].items()}
        except MISFITS as error:
            raise InputError("impossible notes of a journal") from error
        numbers = [counts["record"], counts["frames"], *stale]
        if counts["removed"] < 0 or not all(0 <= n <= MOST_RECORDS for n in numbers):
            raise InputError("impossible numbers in the notes of a journal")
        return cls(stale=stale, **counts)


class Beyond(Protocol):
    """Where the voxels of a map are that memory has no room for (:mod:`.bricks.bricks`).

    Whoever calls has the map, which is given with each call.
    """

    def saw(self, world: VoxelMap, frame: Frame | DeviceFrame, key: torch.Tensor) -> None:
        """A frame has hit voxels of (V,) keys."""
        ...

    def take(self, world: VoxelMap, count: int) -> int:
        """Take the coldest voxels out of memory, ``count`` or more; return how many of these need
        not be removed, because it took them, or they must stay for now.
        """
        ...

    def hits(self, key: torch.Tensor) -> torch.Tensor:
        """(N,) keys -> (N,) points that are there; 0 = there is no such voxel."""
        ...

    def parts(self, world: VoxelMap) -> Iterator[VoxelMap]:
        """All that is there, as maps that can be merged; it stays there."""
        ...

    def joining(
        self, world: VoxelMap, other: VoxelMap, clock: MapClock
    ) -> AbstractContextManager[Callable[[], int]]:
        """Prepare to have as well what is there of another map, whose stamps ``clock`` tells.

        What it gives does it, cannot fail, and returns the number of new voxels; where it was not
        called at the end, nothing has changed.

        Raises:
            MapFileError: there is no room for it.
        """
        ...

    def clear_box(self, world: VoxelMap, lowest: Sequence[float], highest: Sequence[float]) -> int:
        """Forget voxels as :meth:`VoxelMap.clear_box` does; return how many."""
        ...

    def forget(self, world: VoxelMap, oldest_ns: int) -> int:
        """Forget voxels that were hit before ``oldest_ns`` of the map's clock; return how many."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def another(self) -> Beyond:
        """An empty one, for another map."""
        ...

    def snapshot(self) -> Beyond:
        """What is there now, as long as its files are kept."""
        ...


class VoxelMap:
    """Voxels of one world frame, with one vector of ``channels`` numbers each. Not thread safe.

    Args:
        channels: C of the feature maps.
        config: voxel size, storage, bounds, forgetting.
        lift: which depth pixels are used.
        device: where the map lives; None = as ``config`` says.
        beyond: where voxels go in place of being evicted; None = nowhere.

    Raises:
        ConfigError: the device cannot be used.
        InputError: there is no channel.
    """

    def __init__(
        self,
        channels: int,
        config: MapConfig | None = None,
        lift: LiftConfig | None = None,
        device: torch.device | str | None = None,
        beyond: Beyond | None = None,
    ) -> None:
        self.beyond = beyond
        self.config = config or MapConfig()
        if channels < 1:
            raise InputError(f"a map needs at least one channel, got {channels}")
        self.voxel_size = self.config.voxel_size
        self.channels = int(channels)
        self.lift = lift or LiftConfig()
        self.device = pick_device(device or self.config.device, "map.device")
        on_gpu = self.device.type == "cuda"
        self._sorting = SortingLift(self.voxel_size, self.device) if on_gpu else None
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.last_stamp_ns: int | None = None  # of the last frame that was not late
        self.clock = MapClock()
        self.camera = (0.0, 0.0, 0.0)  # m, where the last frame was taken
        self.history = History()
        self._taken: list[torch.Tensor] = []  # by moves, see _all_taken
        self._halfway = False  # whether a frame that moves is in two places
        self.table = VoxelTable(
            self.channels,
            getattr(torch, self.config.dtype),
            self.device,
            self.config.max_bytes,
            self.config.hot_voxels,
            self.config.cold_share,
        )
        if self.beyond is not None:
            self.beyond.clear()

    def another(self) -> VoxelMap:
        """An empty map like this one."""
        beyond = None if self.beyond is None else self.beyond.another()
        return VoxelMap(self.channels, self.config, self.lift, self.device, beyond)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def is_sum(self) -> bool:
        """Whether it is the sum of its frames, from which one can be taken (:meth:`move`)."""
        options = self.config
        adds_only = not (options.carve_after or options.forget_after or self.history.removed)
        return adds_only and self.table.vectors.exact

    @property
    def nbytes(self) -> int:
        """Bytes allocated for the map, with its index."""
        return self.table.nbytes

    @property
    def fill(self) -> float:
        """Share of its bounds that is used; 0 = it has none."""
        bounds = (len(self), self.config.max_voxels), (self.nbytes, self.config.max_bytes)
        return max((used / most for used, most in bounds if most), default=0.0)

    # ---- in --------------------------------------------------------------------------------------

    @torch.no_grad()
    def integrate(
        self,
        frame: Frame | DeviceFrame,
        feature_map: FeatureMap,
        rules: LiftConfig | None = None,
        lifted: LiftedFrame | None = None,
        patient: bool = True,
    ) -> IntegrationStats:
        """Fuse one frame, then carve, forget and evict as configured.

        Whatever fails while a frame is fused, the map is afterwards as it was before.

        Args:
            rules: which depth pixels are used; None = those of the map.
            lifted: what :meth:`lifted` made of all that, if it is there already.
            patient: wait for a codec that is being learnt (``map.hot_voxels``), so that the same
                frames make the same map. A robot's frames do not.

        Raises:
            InputError: the features have another number of channels than the map, are not finite,
                or beyond ``LARGEST``.
        """
        features = self._patch_features(feature_map)
        lifted = lifted or self.lifted(frame, feature_map, rules)
        if isinstance(self.table.vectors, TieredVectors):
            self.table.vectors.patient = patient
        clock, known = self.clock.at(frame.stamp_ns), len(self)
        slots = self._add(lifted, features, frame.stamp_ns, clock.now_ns, _largest(features))
        self.clock = clock
        self.last_stamp_ns = clock.stamp_ns
        self.camera = tuple(frame.T_world_camera[:3, 3].tolist())
        if self.beyond is not None:
            self.beyond.saw(self, frame, lifted.key)
        return IntegrationStats(
            points=lifted.points,
            voxels=len(slots),
            new_voxels=len(self) - known,
            dropped=lifted.dropped,
            carved=self._maintain(lambda: self._carve(frame, slots)),
            forgotten=self._maintain(self.forget),
            evicted=self._maintain(self._evict),
        )

    def _add(
        self,
        lifted: LiftedFrame,
        features: torch.Tensor,
        stamp_ns: int,
        now_ns: int,
        largest: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Add the points of a frame, all or none -> (V,) slots of its voxels.

        Args:
            largest: of the features, if nobody has looked at it yet: a GPU is waited for once.
        """
        known, sought = len(self), self.table.seek(lifted.key)
        unchecked = [] if largest is None else [largest.double()]
        *checked, new, bricks = torch.stack([*unchecked, *sought.counts()]).tolist()
        _check_size(*checked)
        slots = self.table.settle(sought, new, bricks)
        order: torch.Tensor | slice = slice(None)
        try:
            if not self.table.vectors.takes_any_order:
                slots, order = torch.sort(slots)
            hits, rgb_sum = lifted.hits[order], lifted.rgb_sum[order]
            stamp, now = (
                slots.new_full((1,), time).expand_as(slots) for time in (stamp_ns, now_ns)
            )
            rows = {"hits": hits, "rgb_sum": rgb_sum, "seen_at": now}
            rows |= {"first_seen_ns": stamp, "last_seen_ns": stamp}
            rows["views"] = slots.new_ones(1, dtype=torch.int32).expand_as(slots)
            self.table.add(slots, rows, lifted.summing(features, order))
        except BaseException:
            self.table.release(known)
            raise
        return slots

    def lifted(
        self, frame: Frame | DeviceFrame, feature_map: FeatureMap, rules: LiftConfig | None = None
    ) -> LiftedFrame:
        """What :meth:`integrate` would add, or has added; the map is not looked at, nor are the
        values of the features.
        """
        feature_hw = (int(feature_map.data.shape[1]), int(feature_map.data.shape[2]))
        if self._sorting is not None:
            return self._sorting(frame, feature_hw, rules or self.lift)
        return lift(frame, feature_hw, self.voxel_size, rules or self.lift, self.device)

    @torch.no_grad()
    def move(
        self, before: LiftedFrame, after: LiftedFrame, feature_map: FeatureMap, stamp_ns: int
    ) -> Iterator[None]:
        """Put a frame in where it belongs, and take it out where it was, in short steps.

        Nothing is carved or forgotten by it, and no time passes; bounds are kept. A voxel that has
        no points left is gone. First and last stamps of the others stay: they are those of all
        frames that ever hit them.

        Args:
            before, after: of :meth:`lifted`.

        Yields:
            After each step, so that others can have the map: parts of the frame are in both places
            then.

        Raises:
            InputError: the map does not hold the frame where it was. It is as it was, unless it has
                lost voxels meanwhile: then it has parts of the frame in both places.
        """
        features = self._patch_features(feature_map)
        _check_size(float(_largest(features)))
        self._holding(before)
        then_ns = int(self.clock.ago(torch.tensor([stamp_ns])))

        def put(part: LiftedFrame) -> None:
            self._add(part, features, stamp_ns, then_ns)

        def take_out(part: LiftedFrame) -> None:
            shared, own = self._holding(part)
            self._subtract(shared, features)
            try:
                self.table.remove_slots(self.table.index.find(own.key).sort().values)
            except BaseException:
                put(shared)
                raise

        back: list[Callable[[], None]] = []  # what undoes each step
        self._halfway = True
        try:
            for step, undo, lifted in ((put, take_out, after), (take_out, put, before)):
                for part in self._parts(lifted):
                    step(part)
                    back.append(partial(undo, part))
                    yield
            self._maintain(self._evict)
        except (InputError, GeneratorExit):  # the map has lost voxels, or is not needed any more
            raise
        except BaseException:
            while back:
                back.pop()()
            raise
        finally:
            self._halfway = False

    def _parts(self, lifted: LiftedFrame) -> Iterator[LiftedFrame]:
        """A frame, so few voxels at a time that adding them takes milliseconds."""
        rows = torch.arange(len(lifted.key), device=self.device)
        return (lifted.reordered(some) for some in rows.split(self._rows_at_once))

    def _holding(self, lifted: LiftedFrame) -> tuple[LiftedFrame, LiftedFrame]:
        """The voxels of a frame that has been added: those that others have hit as well, and those
        that are its own.

        Raises:
            InputError: it has not.
        """
        slots = self.table.index.find(lifted.key)
        here = (slots >= 0).nonzero()[:, 0]
        hits = torch.zeros_like(lifted.hits)
        hits[here] = take(self.table["hits"], take(slots, here))
        if bool((hits < lifted.hits).any()):
            raise InputError("the map does not hold this frame where it is to be taken out")
        shared, own = ((hits > lifted.hits).nonzero()[:, 0], (hits == lifted.hits).nonzero()[:, 0])
        return lifted.reordered(shared), lifted.reordered(own)

    def _subtract(self, lifted: LiftedFrame, features: torch.Tensor) -> None:
        """Take the points of a frame out of voxels that have others as well."""
        slots, order = torch.sort(self.table.index.find(lifted.key))
        hits, rgb_sum = take(lifted.hits, order), take(lifted.rgb_sum, order)
        views = torch.ones_like(slots, dtype=torch.int32)
        points = {"hits": hits, "views": views, "rgb_sum": rgb_sum}
        self.table.subtract(slots, points, lifted.summing(features, order))
        self._taken.append(torch.stack([lifted.key, lifted.hits]))
        if len(self._taken) > _TAKEN_APART:
            self._taken = [self._all_taken()]

    @property
    def _rows_at_once(self) -> int:
        vectors = self.table.vectors
        return max(64, COPY_BYTES // (vectors.block_nbytes // vectors.block_rows))

    def _all_taken(self) -> torch.Tensor:
        """(2, n) keys of voxels, and the points that have been taken out of each."""
        key, hits = torch.cat(self._taken, 1)
        key, voxel = torch.unique(key, return_inverse=True)
        return torch.stack([key, torch.zeros_like(key).index_add_(0, voxel, hits)])

    @property
    def worn(self) -> int:
        """Voxels of whose points :meth:`move` has taken nearly all: what is left of their sums is
        off by the rounding of what they were, more than 1e-4 of their largest number.
        """
        if not self._taken:
            return 0
        key, taken = self._all_taken()
        slots = self.table.index.find(key)
        here, hits = slots >= 0, torch.zeros_like(taken)
        hits[here] = take(self.table["hits"], slots[here])
        if self.beyond is not None:
            hits += self.beyond.hits(key)
        return int(((hits > 0) & (taken > WORN * hits)).sum())

    @torch.no_grad()
    def merge(self, other: VoxelMap) -> int:
        """Add all points of a map of the same world frame, as if its frames had come here.

        Whatever fails, the map is afterwards as it was before.

        Returns:
            The number of new voxels; those that were in memory and are on the disk now as well, or
            the other way round, count.

        Raises:
            InputError: the maps differ in voxel size, channels, space or labels.
            MapFileError: the disk has no room for what the other one has there.
        """
        if other is self:
            raise InputError("a map cannot be merged with itself")
        for name in ("voxel_size", "space", "labels"):
            mine, theirs = getattr(self.config, name), getattr(other.config, name)
            if mine != theirs:
                raise InputError(f"maps of different {name} cannot be merged: {mine} and {theirs}")
        if other.channels != self.channels:
            raise InputError(
                f"maps of different channels cannot be merged: {self.channels} and {other.channels}"
            )
        clock = self.clock if self.last_stamp_ns is not None else other.clock
        joining: AbstractContextManager[Callable[[], int]] = nullcontext(lambda: 0)
        here = other
        if other.beyond is not None and self.beyond is not None:
            joining = self.beyond.joining(self, other, clock)
        elif other.beyond is not None:
            here = other._gathered(other.beyond)
        with joining as join:
            new = self._merge_table(here, clock) + join()
        stamps = [s for s in (self.last_stamp_ns, other.last_stamp_ns) if s is not None]
        self.clock, self.last_stamp_ns = clock, max(stamps, default=None)
        self.history.removed += other.history.removed
        self.history.frames += other.history.frames
        self.history.stale.update(other.history.stale)
        self._maintain(self.forget)
        self._maintain(self._evict)
        return new

    def _merge_table(self, other: VoxelMap, clock: MapClock) -> int:
        """Add what another map has in memory, all or nothing; return the number of new voxels."""
        known = len(self)
        slots, order = self.table.claim(other.table["key"].to(self.device))
        try:
            order = order.to(other.device)
            names = ("hits", "views", "rgb_sum", "first_seen_ns", "last_seen_ns")
            rows = {name: other.table[name][order].to(self.device) for name in names}
            rows["seen_at"] = clock.ago(rows["last_seen_ns"])
            self.table.add(slots, rows, lambda a, b: other.table.sums(order[a:b]).to(self.device))
        except BaseException:
            self.table.release(known)
            raise
        return len(self) - known

    def _gathered(self, beyond: Beyond) -> VoxelMap:
        """A copy of the map, with what is on the disk in memory."""
        whole = self.part(self.table.copied(torch.arange(len(self), device=self.device)), True)
        for part in beyond.parts(self):
            whole.rejoin(part)
        return whole

    @torch.no_grad()
    def rejoin(self, part: VoxelMap) -> None:
        """Take voxels back that were away, as if they had been here; nothing is evicted.

        Whatever fails, the map is afterwards as it was before.

        Args:
            part: of :meth:`part`.
        """
        known = len(self)
        slots, order = self.table.claim(part.table["key"])
        try:
            rows = {name: take(part.table[name], order) for name in _REJOINED}
            looks = take(part.table["seen_through"], order)
            looks = torch.where(slots < known, take(self.table["seen_through"], slots), looks)
            self.table.add(slots, rows, part.table.vectors.giving(order, rows["hits"]))
        except BaseException:
            self.table.release(known)
            raise
        self.table["seen_through"].index_copy_(0, slots, looks)

    def continue_from(self, last_stamp_ns: int | None) -> None:
        """Go on with a table that was just filled, whose newest frame had this stamp."""
        if last_stamp_ns is not None:
            self.last_stamp_ns, self.clock = last_stamp_ns, MapClock().at(last_stamp_ns)
            self.table["seen_at"].copy_(self.clock.ago(self.table["last_seen_ns"]))
        self._evict()

    def _maintain(self, step: Callable[[], int]) -> int:
        """The result of a step that may wait: where it fails the map is sound, only larger."""
        try:
            return step()
        except (MemoryError, RuntimeError):  # torch raises the latter when memory runs out
            logger.exception("the map could not be brought within its bounds; tried again later")
            return 0

    def _patch_features(self, feature_map: FeatureMap) -> torch.Tensor:
        """(C, h, w) -> (h * w, C) float32 on the device of the map."""
        data = feature_map.data.detach()
        if feature_map.channels != self.channels:
            raise InputError(
                f"the map holds {self.channels} channels, the feature map has "
                f"{feature_map.channels}"
            )
        return data.reshape(self.channels, -1).T.to(self.device, torch.float32).contiguous()

    def part(self, state: Mapping[str, torch.Tensor], in_full: bool = False) -> VoxelMap:
        """A map of its own, without bounds, of voxels that :meth:`VoxelTable.copied` gave.

        Args:
            in_full: with vectors, also where the voxels are coded.
        """
        state, tiers, hot = dict(state), self.table.vectors, 0
        if "codes" in state and isinstance(tiers, TieredVectors):
            if in_full:
                codes, hits = (state.pop(name).to(self.device) for name in ("codes", "hits"))
                state |= {"hits": hits, "vectors": tiers.codecs.decode(codes) * hits[:, None]}
            else:
                hot = LEAST_HOT
        options = replace(self.config, max_bytes=0, max_voxels=0, hot_voxels=hot)
        part = VoxelMap(self.channels, options, self.lift, self.device)
        if isinstance(tiers, TieredVectors) and isinstance(part.table.vectors, TieredVectors):
            part.table.vectors.know(tiers.codecs)
        part.table.load(state)
        part.clock, part.last_stamp_ns, part.camera = self.clock, self.last_stamp_ns, self.camera
        return part

    # ---- out -------------------------------------------------------------------------------------

    def snapshot(self) -> MapSnapshot:
        """A copy of the whole map."""
        features = self.table.vectors.all_means(self.table["hits"])
        return MapSnapshot(**self._geometry(), features=features)

    def geometry(self) -> MapGeometry:
        """A copy of the map without the vectors; rows as in :meth:`snapshot`."""
        return MapGeometry(**self._geometry())

    def _geometry(self) -> dict[str, Any]:
        index, hits = self.table.coordinates(), self.table["hits"]
        return {
            "index": index,
            "xyz": (index * self.voxel_size).float(),
            "rgb": (self.table["rgb_sum"] / hits[:, None]).float(),
            "hits": hits.float(),
            "views": self.table["views"].clone(),
            "first_seen_ns": self.table["first_seen_ns"].clone(),
            "last_seen_ns": self.table["last_seen_ns"].clone(),
            "seen_at_ns": self.table["seen_at"].clone(),
            "voxel_size": self.voxel_size,
        }

    @torch.no_grad()
    def means(self) -> Iterator[torch.Tensor]:
        """The mean vectors of successive rows, (n, C) float32 each; rows as in :meth:`snapshot`."""
        rows = torch.arange(len(self), device=self.device)
        for part in rows.split(self.table.vectors.block_rows) if len(self) else ():
            yield self.table.means(part)

    def frozen(self, lock: threading.Lock) -> VoxelMap:
        """A copy of this map at one moment, that ``lock`` is held for only milliseconds at a time.

        Rows are copied in steps while frames go on to change them; those that have changed since
        are copied again, until what is left fits into one step. Where frames change more than that,
        steps become twice as large whenever as much as the whole map has been copied. The copy
        finds no voxel by its key: it is for files.
        """
        with lock:
            copy = VoxelMap(self.channels, self.config, self.lift, self.device)
        copy.table.resize(len(self))  # fresh memory takes longer than copying: not in the lock
        copied = 0
        while True:
            with lock:
                most = self._rows_at_once << copied // max(1, len(self))
                stale = copy.table.follow(self.table, most)
                if stale <= most and not self._halfway:
                    copy.last_stamp_ns, copy.camera = self.last_stamp_ns, self.camera
                    copy.clock = self.clock
                    copy.history = replace(self.history, stale=dict(self.history.stale))
                    copy.beyond = None if self.beyond is None else self.beyond.snapshot()
                    return copy
            copied += min(stale, most)
            time.sleep(PAUSE)

    # ---- forgetting ------------------------------------------------------------------------------

    def clear_box(self, lowest: Sequence[float], highest: Sequence[float]) -> int:
        """Remove the voxels whose centres are in a box (metres, world, borders included).

        Return how many.
        """
        low, high = (
            torch.as_tensor(corner, dtype=torch.float64, device=self.device)
            for corner in (lowest, highest)
        )
        xyz = self.table.coordinates() * self.voxel_size
        removed = self._remove(((xyz >= low) & (xyz <= high)).all(1))
        if self.beyond is not None:
            removed += self.beyond.clear_box(self, lowest, highest)
            self._maintain(self._evict)  # what came back for want of room on the disk
        return removed

    def _remove(self, gone: torch.Tensor) -> int:
        """Remove the voxels of an (M,) mask; return how many."""
        removed = self.table.remove(gone)
        self.history.removed += removed
        return removed

    def _distance(self, point: Sequence[float]) -> torch.Tensor:
        """(M,) float64 metres."""
        xyz = self.table.coordinates() * self.voxel_size
        return (xyz - torch.as_tensor(point, dtype=torch.float64, device=self.device)).norm(dim=1)

    def _carve(self, frame: Frame | DeviceFrame, hit: torch.Tensor) -> int:
        """Count the looks through voxels that were not hit, remove those with enough of them."""
        if not self.config.carve_after:
            return 0
        # Only bricks in view are looked at, so that the cost follows the view and not the map.
        half = BRICK_SIDE / 2 * self.voxel_size
        centre = (self.table.index.brick_corner - 0.5) * self.voxel_size + half
        slots = self.table.index.slots_in(spheres_in_view(centre, half * 3**0.5, frame))
        missed = torch.ones(len(self), dtype=torch.bool, device=self.device)
        missed[hit] = False
        slots = slots[missed[slots]]
        slots = slots[
            seen_through(
                self.table.coordinates(slots) * self.voxel_size, frame, self.config.carve_margin
            )
        ]
        looks = self.table["seen_through"]
        looks[slots] += 1
        gone = torch.zeros_like(missed)
        gone[slots] = looks[slots] >= self.config.carve_after
        return self._remove(gone)

    def forget(self) -> int:
        """Remove the voxels that were not seen for too long; return how many."""
        if not self.config.forget_after:
            return 0
        oldest = self.clock.now_ns - round(1e9 * self.config.forget_after)
        removed = self._remove(self.table["seen_at"] < oldest)
        if self.beyond is not None:
            removed += self.beyond.forget(self, oldest)
        return removed

    def room_for(self, nbytes: int) -> bool:
        """Whether questions may keep so many bytes of this map."""
        bound = self.config.max_bytes
        return self.config.cache_projections and (not bound or self.table.nbytes + nbytes <= bound)

    def _evict(self) -> int:
        """Let go of voxels until the map is within its bounds; return how many are lost.

        What questions keep goes before any voxel: they see that there is no room for it any more.
        """
        evicted, most, bound = 0, self.config.max_voxels, self.config.max_bytes
        if most and len(self) > most:
            evicted += self._let_go(len(self) - (most - most // _SLACK))
        if bound and self.table.nbytes > bound:
            self.table.trim()
        while bound and self.table.nbytes > bound and len(self):
            before = len(self)
            keep = int(len(self) * bound / self.table.nbytes * (1 - 1 / _SLACK))
            evicted += self._let_go(len(self) - keep)
            self.table.trim()
            if len(self) == before:  # all that is here must stay for now
                break
        return evicted

    def _let_go(self, count: int) -> int:
        """Let go of ``count`` voxels; return how many are lost, for want of another place."""
        taken = 0 if self.beyond is None else self.beyond.take(self, count)
        return self._remove_least(count - taken) if taken < count else 0

    def _remove_least(self, count: int) -> int:
        """Remove the ``count`` voxels of least use, as ``evict`` says.

        Among equally old ones the farthest.
        """
        order = self._distance(self.camera).argsort(descending=True)
        if self.config.evict == "least_recent":
            order = order[self.table["seen_at"][order].argsort(stable=True)]
        gone = torch.zeros(len(self), dtype=torch.bool, device=self.device)
        gone[order[:count]] = True
        return self._remove(gone)


def _largest(features: torch.Tensor) -> torch.Tensor:
    """The largest number of a feature map, whatever its sign; NaN, if there is one."""
    if features.device.type != "cpu":
        return torch.linalg.vector_norm(features, torch.inf)  # one launch
    lowest, highest = torch.aminmax(features)  # a twentieth of the norm's time
    return torch.maximum(-lowest, highest)


def _check_size(*largest: float) -> None:
    """Raise InputError where a feature map has a number beyond ``LARGEST``, or none at all."""
    if not all(number <= LARGEST for number in largest):  # NaN is not
        raise InputError(f"the feature map holds values that are not finite, or beyond {LARGEST:g}")
