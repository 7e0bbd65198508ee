# SPDX-License-Identifier: Apache-2.0
"""What questions read: a copy of the map that follows it in short steps.

A question needs every voxel, a frame needs the map's lock: so questions work on a copy. Rows that
changed since the last question are copied a few thousand at a time, and only that holds the lock;
what takes long (projecting vectors into the space of the texts) is done with the copies. A row is
up to date when its voxel and revision are those of the table; a voxel that changes while its
vector is being made stays marked as old.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch

from ..datatypes import MapGeometry
from .index import unpack
from .storage import Column, ScaledBytes, VectorBlocks
from .tensors import take
from .voxel_map import VoxelMap

Transform = Callable[[torch.Tensor], torch.Tensor]  # (n, C) mean vectors -> (n, W)
Scorer = Callable[[torch.Tensor], torch.Tensor]  # (n, W) -> (n, Q)

STEP_BYTES = 8 << 20  # of vectors that are copied while the map is locked: some milliseconds
STEP_ROWS = 2048  # at most: what is transformed at once is how long another question waits
BLOCK_ROWS = 4096
NARROW = 768  # numbers in a vector: below, bytes would save little and cost more of the cosine
KEPT_SCORES = 2  # questions whose scores are kept, and brought up to date when asked again
KEPT_SCORES_MOST = 50_000_000  # numbers in each: 200 MB

_COLUMNS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "key": ((), torch.int64),
    "changed": ((), torch.int64),  # revision of the voxel that was copied
    "step": ((), torch.int64),  # of this view, in which the row was copied
    "hits": ((), torch.int64),
    "rgb_sum": ((3,), torch.float64),
    "first_seen_ns": ((), torch.int64),
    "last_seen_ns": ((), torch.int64),
}
_NOTHING = -1  # in all columns of a row to which nothing has been copied yet
_COPIED = tuple(name for name in _COLUMNS if name != "step")
_ROW_BYTES = 100  # of the columns of a voxel, with the slack that they grow by


class MapView:
    """Geometry and answer vectors of the voxels of a map. Thread safe.

    Args:
        transform: (n, C) float32 mean vectors -> (n, W), what questions compare.
        width: W.
        exact: keep the vectors as float32, as is done with narrow ones anyway, instead of as bytes
            with a scale for every few numbers, which moves a cosine by less than 1e-3.
    """

    def __init__(self, transform: Transform, width: int, exact: bool = False) -> None:
        self._transform, self._width = transform, width
        self._exact = exact or width < NARROW
        self._lock = threading.RLock()
        self._step = 0
        self._columns: dict[str, Column] = {}
        self._vectors: ScaledBytes | VectorBlocks | None = None
        self._scores: OrderedDict[Hashable, tuple[int, torch.Tensor]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for rows and vectors."""
        vectors = 0 if self._vectors is None else self._vectors.nbytes
        return vectors + sum(column.nbytes for column in self._columns.values())

    def nbytes_for(self, rows: int) -> int:
        """Bytes that it takes, about, to keep so many rows."""
        row = self._width * 4 if self._exact else self._width * 17 // 16 + 64
        return rows * _ROW_BYTES + -(-rows // BLOCK_ROWS) * BLOCK_ROWS * row

    def share(self, source: VoxelMap) -> float:
        """Share of the voxels of ``source`` whose vectors are here, up to date or a little old."""
        with self._lock:
            known = int((self._columns["changed"].data != _NOTHING).sum()) if self._columns else 0
        return min(1.0, known / len(source)) if len(source) else 1.0

    def clear(self) -> None:
        """Give all memory back."""
        with self._lock:
            self._columns, self._vectors = {}, None
            self._scores.clear()

    # Following the map

    def catch_up(
        self,
        source: VoxelMap,
        lock: threading.Lock,
        deadline: float = float("inf"),
        ahead: int = 0,
    ) -> int:
        """Copy and transform what changed in ``source`` since the last time.

        Args:
            lock: guards ``source``; held for milliseconds at a time.
            deadline: time.monotonic() at which to stop.
            ahead: only so many rows, the newest first, because nobody waits for them; 0 = all.

        Returns:
            The number of rows that are still old.
        """
        begun, wanted, left = self._step, len(source), ahead or len(source)
        while True:
            with self._lock:  # let go after each step, so that questions take turns
                slots, stale = self._advance(source, lock, begun, wanted, left, bool(ahead))
            left -= len(slots)
            stale -= len(slots)
            if not len(slots) or stale <= 0 or left <= 0 or time.monotonic() >= deadline:
                return max(stale, 0)

    def _advance(
        self,
        source: VoxelMap,
        lock: threading.Lock,
        begun: int,
        wanted: int,
        most: int,
        newest: bool,
    ) -> tuple[torch.Tensor, int]:
        """Bring some rows up to date; their slots, and how many were old.

        A row that was copied since step ``begun`` is good enough, even if it has changed again:
        else a question could wait for ever. So is one beyond the ``wanted`` ones that were there
        when the question came.
        """
        with lock:
            table = source.table
            self._resize(len(table), source.device)
            mine = {name: column.data for name, column in self._columns.items()}
            other = mine["key"] != table["key"]
            old = (mine["changed"] != table["changed"]) & (mine["step"] <= begun)
            stale = (old | other).nonzero()[:, 0]
            stale = stale[stale < wanted]
            count = max(64, min(STEP_ROWS, STEP_BYTES // (4 * source.channels), most))
            if newest:
                order = take(table["changed"], stale).argsort(descending=True)
                slots = take(stale, order[:count])
            else:
                slots = stale[:count]
            rows = {name: take(table[name], slots) for name in _COPIED}
            means = table.means(slots)
        if len(slots):
            self._store(slots, rows, self._transform(means).float().to(means.device))
            with lock:
                source.cache_nbytes = self.nbytes
        return slots, len(stale)

    def _store(
        self, slots: torch.Tensor, rows: dict[str, torch.Tensor], vectors: torch.Tensor
    ) -> None:
        if self._vectors is None:
            device = vectors.device
            self._vectors = (
                VectorBlocks(self._width, torch.float32, device, BLOCK_ROWS)
                if self._exact
                else ScaledBytes(self._width, device, BLOCK_ROWS)
            )
        self._vectors.resize(len(self._columns["key"]))
        self._vectors.write(slots, vectors)
        self._step += 1
        for name, values in rows.items():
            self._columns[name].data[slots] = values
        self._columns["step"].data[slots] = self._step

    def _resize(self, length: int, device: torch.device) -> None:
        for name, (shape, kind) in _COLUMNS.items() if not self._columns else ():
            self._columns[name] = Column(shape, kind, device, _NOTHING)
        for column in self._columns.values():
            column.resize(length)
        if self._vectors is not None:
            self._vectors.resize(length)

    # Answering

    def scored(
        self, voxel_size: float, scorer: Scorer, texts: int, question: Hashable = None
    ) -> tuple[MapGeometry, torch.Tensor]:
        """Geometry of the voxels that have been copied, and their (M, Q) scores.

        Args:
            texts: Q.
            question: what to keep the scores under, so that they are only brought up to date when
                it is asked again; None = do not keep them.
        """
        with self._lock:
            if self._vectors is None:
                return geometry_of({}, voxel_size), torch.zeros(0, texts)
            scores = self._up_to_date(scorer, texts, question)
            columns = {name: column.data for name, column in self._columns.items()}
            known = columns["changed"] != _NOTHING
            if bool(known.all()):
                return geometry_of(columns, voxel_size), scores.clone()
            rows = known.nonzero()[:, 0]
            columns = {name: take(values, rows) for name, values in columns.items()}
            return geometry_of(columns, voxel_size), take(scores, rows)

    def _up_to_date(self, scorer: Scorer, texts: int, question: Hashable) -> torch.Tensor:
        """(M, Q) scores of all rows; only rows that are newer than those kept are scored."""
        assert self._vectors is not None
        step = self._columns["step"].data
        since, kept = self._scores.pop(
            question, (_NOTHING, step.new_zeros(0, texts, dtype=torch.float32))
        )
        scores = kept[: len(step)]
        if len(scores) < len(step):
            missing = scores.new_zeros(len(step) - len(scores), texts)
            scores = torch.cat([scores, missing])
        for slots in (step > since).nonzero()[:, 0].split(BLOCK_ROWS):
            scores[slots] = scorer(self._vectors.rows(slots)).to(scores.device)
        if question is not None and scores.numel() <= KEPT_SCORES_MOST:
            self._scores[question] = (self._step, scores)
            while len(self._scores) > KEPT_SCORES:
                self._scores.popitem(last=False)
        return scores


def scored_directly(
    source: VoxelMap, lock: threading.Lock, transform: Transform, scorer: Scorer, texts: int
) -> tuple[MapGeometry, torch.Tensor]:
    """As :meth:`MapView.scored`, without keeping a copy: for maps whose bound leaves no room.

    Voxels are copied in steps; one that is moved in the table meanwhile may be missed.
    """
    parts: list[dict[str, torch.Tensor]] = []
    scores = [torch.zeros(0, texts, device=source.device)]
    step = max(64, min(STEP_ROWS, STEP_BYTES // (4 * source.channels)))
    start = 0
    while True:
        with lock:
            table = source.table
            stop = max(start, min(start + step, len(table)))
            slots = torch.arange(start, stop, device=source.device)
            if not len(slots):
                break
            parts.append({name: take(table[name], slots) for name in _COPIED})
            means = table.means(slots)
        scores.append(scorer(transform(means).float()).to(source.device))
        start += step
    columns = {name: torch.cat([part[name] for part in parts]) for name in _COPIED if parts}
    return geometry_of(columns, source.voxel_size), torch.cat(scores)


def geometry_of(columns: dict[str, torch.Tensor], voxel_size: float) -> MapGeometry:
    """Rows of a table -> MapGeometry; no columns = no voxels."""
    if not columns:
        none, whole = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
        return MapGeometry(none.long(), none, none, none[:, 0], whole, whole, voxel_size)
    index, hits = unpack(columns["key"]), columns["hits"]
    return MapGeometry(
        index=index,
        xyz=(index * voxel_size).float(),
        rgb=(columns["rgb_sum"] / hits[:, None]).float(),
        hits=hits.float(),
        first_seen_ns=columns["first_seen_ns"].clone(),
        last_seen_ns=columns["last_seen_ns"].clone(),
        voxel_size=voxel_size,
    )
