# SPDX-License-Identifier: Apache-2.0
"""What questions and clouds read: a copy of the map that follows it in short steps.

A question needs every voxel, a frame needs the map's lock: so questions work on a copy. Rows that
changed since the last question are copied a few thousand at a time, and only that holds the lock;
what takes long (projecting vectors into the space of the texts) is done with the copies. A row is
up to date when its voxel and revision are those of the table; a voxel that changes while its
vector is being made stays marked as old.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields

import torch

from ..datatypes import Filter, MapChanges, MapGeometry
from .bricks.cubes import within
from .coding.codec import sample_size
from .coding.codecs import Wanted
from .coding.coded import CodedVectors
from .coding.tiered import TieredVectors
from .index import BRICK_SIDE, unpack
from .storage import Column, ScaledBytes, VectorBlocks
from .tensors import take
from .voxel_map import VoxelMap

Transform = Callable[[torch.Tensor], torch.Tensor]  # (n, C) mean vectors -> (n, W)
Scorer = Callable[[torch.Tensor], torch.Tensor]  # (n, W) -> (n, Q)
# a map that is locked -> (n,) of its rows; None = all
Rows = Callable[[VoxelMap], torch.Tensor | None]


@dataclass(slots=True, eq=False)
class ProductScorer:
    """A scorer that looks at products only, so that codes can be scored as they are."""

    vectors: torch.Tensor  # (P, W) that answer vectors are multiplied with
    judge: Callable[[torch.Tensor], torch.Tensor]  # (n, P) products -> (n, Q) scores
    wanted: Wanted = field(init=False)  # the vectors, for codes

    def __post_init__(self) -> None:
        self.wanted = Wanted(self.vectors)

    def __call__(self, answers: torch.Tensor) -> torch.Tensor:
        """Scores of (n, W) answer vectors."""
        return self.judge(answers @ self.vectors.to(answers.device, answers.dtype).T)


STEP_BYTES = 8 << 20  # of vectors that are copied while the map is locked: some milliseconds
STEP_ROWS = 2048  # at most: what is transformed at once is how long another question waits
LEAST_ROWS = 64
CODED_ROWS = 8192  # where they are compared as codes
OUTLINE_ROWS = 1 << 16  # where there are no vectors
BLOCK_ROWS = 4096
AROUND = 8  # times as many voxels as are near may be in the bricks that these are in
SCORED_ROWS = 1024  # at once: their vectors stay in the processor's cache
ON_GPU = 16  # times as many, and blocks as large: a step there is mostly the starting of it
GPU_BLOCK_BYTES = 64 << 20
NARROW = 768  # numbers in a vector: below, bytes would save little and cost more of the cosine
KEPT_SCORES = 2  # questions whose scores are kept, and brought up to date when asked again
KEPT_SCORES_MOST = 50_000_000  # numbers in each: 200 MB

_COLUMNS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "key": ((), torch.int64),
    "changed": ((), torch.int64),  # revision of the voxel that was copied
    "step": ((), torch.int64),  # of this view, in which the row was copied
    "hits": ((), torch.int64),
    "views": ((), torch.int32),
    "rgb_sum": ((3,), torch.float64),
    "first_seen_ns": ((), torch.int64),
    "last_seen_ns": ((), torch.int64),
    "seen_at": ((), torch.int64),
}
_PER_VOXEL = [each.name for each in fields(MapGeometry) if each.name != "voxel_size"]
_NOTHING = -1  # in all columns of a row to which nothing has been copied yet
_COPIED = tuple(name for name in _COLUMNS if name != "step")
_ROW_BYTES = 110  # of the columns of a voxel, with the slack that they grow by


@dataclass(frozen=True, slots=True)
class _Errand:
    """What one caller of :meth:`MapView.catch_up` wants."""

    begun: int  # rows of later steps of the view are new enough
    wanted: int  # rows of the table that were there
    newest: bool  # these first, and voxels that are moved meanwhile do not matter


class MapView:
    """Geometry and answer vectors of the voxels of a map. Thread safe.

    Args:
        transform: (n, C) float32 mean vectors -> (n, W), what questions compare; None = only the
            geometry is followed.
        width: W.
        exact: keep the vectors as float32, as is done with narrow ones anyway, instead of as bytes
            with a scale for every few numbers, which moves a cosine by less than 1e-3.
        code_bytes: of maps that keep codes (:class:`TieredVectors`), keep such of so many bytes as
            well, as soon as there is time to learn them; 0 = never.
    """

    def __init__(
        self,
        transform: Transform | None = None,
        width: int = 0,
        exact: bool = False,
        code_bytes: int = 0,
    ) -> None:
        self._transform, self._width = transform, width
        self._code_bytes = code_bytes
        self._exact = exact or width < NARROW
        self._making = threading.Lock()  # one caller at a time makes vectors, for all of them
        self._lock = threading.Lock()  # guards what follows; never held while vectors are made
        self._pace = 0.0  # s that a row took the last time
        self._step = 0
        self._life = 0
        self._columns: dict[str, Column] = {}
        self._vectors: ScaledBytes | VectorBlocks | CodedVectors | None = None
        self._scores: OrderedDict[Hashable, tuple[int, torch.Tensor]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for rows and vectors."""
        vectors = 0 if self._vectors is None else self._vectors.nbytes
        return vectors + sum(column.nbytes for column in list(self._columns.values()))

    def nbytes_for(self, rows: int, device: torch.device) -> int:
        """Bytes that it takes, about, to keep so many rows of a map on ``device``."""
        row = self._width * 4 if self._exact else self._width * 17 // 16 + 64
        row = self._code_bytes or row
        block = _block_rows(device, row)
        return rows * _ROW_BYTES + -(-rows // block) * block * row

    def share(self, source: VoxelMap) -> float:
        """Share of the voxels of ``source`` whose vectors are here, up to date or a little old.

        Waits for nobody: the rows may be of two moments.
        """
        column = self._columns.get("changed")
        known = 0 if column is None else int((column.data != _NOTHING).sum())
        return min(1.0, known / len(source)) if len(source) else 1.0

    @property
    def step(self) -> int:
        """Grows whenever rows are copied."""
        return self._step

    @property
    def life(self) -> int:
        """Another number after each :meth:`clear`: what is read then is not all that was made."""
        return self._life

    def clear(self) -> None:
        """Give all memory back; who makes rows at the moment makes no more."""
        with self._lock:
            self._life += 1
            self._columns, self._vectors = {}, None
            self._scores.clear()

    # Following the map

    def catch_up(
        self,
        source: VoxelMap,
        lock: threading.Lock,
        deadline: float = float("inf"),
        renew: float = float("inf"),
        ahead: int = 0,
    ) -> int:
        """Copy and transform the rows of ``source`` that changed since they were copied last.

        That is, rows that are old now, and each of them once: when one of them changes again, or
        another one from now on, what is here is good enough. Its vector is of the voxel as it was
        when the question came, or newer. So frames that change half of the map twice a second do
        not make a question wait for ever. Voxels that were never copied come first, then those that
        were copied the longest time ago.

        Args:
            lock: guards ``source``; held for milliseconds at a time.
            deadline: time.monotonic() at which to stop.
            renew: s after which the rest of the rows that are here, but old, are left as they are:
                their vectors are of slightly older means. Never copied ones are waited for.
            ahead: only so many rows, the newest first, because nobody waits for them; 0 = all.

        Returns:
            The number of rows that are still to be made; at once, where they are given up
            (:meth:`clear`): their memory is wanted for something else.
        """
        with self._lock:  # what is being made now was copied before
            life, begun = self._life, self._step + self._making.locked()
        errand = _Errand(begun, len(source), newest=ahead > 0)
        todo, new = self._plan(errand, source, lock, again=False)
        left, renewed_by = ahead or sys.maxsize, float("inf")
        while len(todo) and left > 0 and self._life == life:
            wait = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
            if not self._making.acquire(timeout=wait):
                break  # who makes vectors all the time makes these as well
            if new <= 0:
                renewed_by = min(renewed_by, time.monotonic() + renew)
            try:
                if ahead or deadline == float("inf"):
                    self._learn(source, lock)
                some = todo[: self._rows_at_once(source, left, deadline)]
                left -= self._make(some, errand, source, lock)
            finally:
                self._making.release()
            todo, new = todo[len(some) :], new - len(some)
            now = time.monotonic()
            if now >= deadline or self._life != life:
                break
            if not ahead and (not len(todo) or now >= renewed_by):
                todo, new = self._plan(errand, source, lock, again=True)
        return len(todo)

    def _plan(
        self, errand: _Errand, source: VoxelMap, lock: threading.Lock, again: bool
    ) -> tuple[torch.Tensor, int]:
        """The slots to be made, and how many of them, the first ones, were never made.

        Those of all old rows or, ``again``, of voxels that were moved in the table since.
        """
        with self._lock, lock:
            table = source.table
            self._resize(len(table), source.device)
            mine = {name: column.data for name, column in self._columns.items()}
            moved = (mine["key"] != table["key"]).nonzero()[:, 0]
            for name in ("changed", "step"):
                mine[name][moved] = _NOTHING
            old = mine["changed"] == _NOTHING if again else mine["changed"] != table["changed"]
            slots = old[: errand.wanted].nonzero()[:, 0]
            if errand.newest:
                order = take(table["changed"], slots).argsort(descending=True, stable=True)
                slots = take(slots, order)
            step = take(mine["step"], slots)
            known = step != _NOTHING
            order = (known if errand.newest else step).argsort(stable=True)
            return take(slots, order), len(slots) - int(known.sum())

    def _rows_at_once(self, source: VoxelMap, most: int, deadline: float) -> int:
        """As many as the lock may wait for, and as can be transformed in time."""
        if self._transform is None:
            return OUTLINE_ROWS
        if self._pace:
            most = int(min(most, (deadline - time.monotonic()) / self._pace))
        return max(LEAST_ROWS, min(_step_rows(source), most))

    def _make(
        self, slots: torch.Tensor, errand: _Errand, source: VoxelMap, lock: threading.Lock
    ) -> int:
        """Bring rows up to date that nobody else has made meanwhile; return how many."""
        with self._lock, lock:
            table = source.table
            self._resize(len(table), source.device)
            slots = slots[slots < len(table)]
            slots = slots[take(self._columns["step"].data, slots) <= errand.begun]
            rows = {name: take(table[name], slots) for name in _COPIED}
            means = None if self._transform is None else table.means(slots)
        vectors = None
        if self._transform is not None and means is not None and len(slots):
            start = time.monotonic()
            vectors = self._transform(means).float().to(means.device)
            if isinstance(self._vectors, CodedVectors):
                vectors = self._vectors.encode(vectors)
            self._pace = (time.monotonic() - start) / len(slots)
        with self._lock:
            self._store(slots, rows, vectors)
        return len(slots)

    def _store(
        self, slots: torch.Tensor, rows: dict[str, torch.Tensor], vectors: torch.Tensor | None
    ) -> None:
        """Rows that are not here any more are left out."""
        length = self._length
        here = (slots < length).nonzero()[:, 0]
        if not len(here):
            return
        if vectors is not None and vectors.dtype == torch.uint8 and self._vectors is None:
            return  # cleared since they were coded
        slots = take(slots, here)
        if vectors is not None:
            if self._vectors is None:
                self._vectors = self._storage(vectors.device)
            self._vectors.resize(length)
            self._vectors.write(slots, take(vectors, here))
        self._step += 1
        for name, values in rows.items():
            self._columns[name].data[slots] = take(values, here)
        self._columns["step"].data[slots] = self._step

    def _learn(self, source: VoxelMap, lock: threading.Lock) -> None:
        """Keep codes from now on, or learn a better codec, where it is time; takes seconds."""
        tiers, kept = source.table.vectors, self._vectors
        coded = kept if isinstance(kept, CodedVectors) else None
        if not self._code_bytes or self._transform is None or not isinstance(tiers, TieredVectors):
            return
        if tiers.exact or (coded is not None and not coded.due):
            return
        life = self._life
        sample = sampled_directly(source, lock, self._transform, sample_size(self._width))
        if coded is not None:
            coded.learn(sample)
            return
        coded = CodedVectors(
            self._code_bytes, source.device, _block_rows(source.device, self._code_bytes)
        )
        coded.learn(sample)
        if kept is not None:
            with self._lock:
                coded.resize(self._length)
                every = torch.arange(self._length, device=source.device)
            for slots in every.split(STEP_ROWS) if len(every) else ():
                with self._lock:
                    slots = slots[slots < self._length]
                    rows = kept.rows(slots)
                coded.write(slots, coded.encode(rows))
        with self._lock:
            if self._life == life:
                coded.resize(self._length)
                self._vectors = coded

    @property
    def _length(self) -> int:
        return len(self._columns["key"]) if self._columns else 0

    def _storage(self, device: torch.device) -> ScaledBytes | VectorBlocks:
        rows = _block_rows(device, 4 * self._width)
        if self._exact:
            return VectorBlocks(self._width, torch.float32, device, rows)
        return ScaledBytes(self._width, device, rows)

    def _resize(self, length: int, device: torch.device) -> None:
        for name, (shape, kind) in _COLUMNS.items() if not self._columns else ():
            self._columns[name] = Column(shape, kind, device, _NOTHING)
        for column in self._columns.values():
            column.resize(length)
        if self._vectors is not None:
            self._vectors.resize(length)

    # Answering

    def changes(self, since: int, voxel_size: float, scorer: Scorer, texts: int) -> MapChanges:
        """What was copied after step ``since`` of this view, with (N, Q) scores.

        Args:
            texts: Q.
        """
        with self._lock:
            columns = {name: column.data for name, column in self._columns.items()}
            if not columns:
                none = torch.zeros(0, dtype=torch.int64)
                geometry = geometry_of({}, voxel_size)
                return MapChanges(self._step, none.bool(), none, geometry, torch.zeros(0, texts))
            slots = (columns["step"] > since).nonzero()[:, 0]
            scores = torch.zeros(len(slots), texts, device=slots.device)
            if self._vectors is not None:
                for some in torch.arange(len(slots)).split(SCORED_ROWS * _times(slots.device)):
                    these = self._score(take(slots, some.to(slots.device)), scorer)
                    scores[some] = these.to(scores.device)
            rows = {name: take(values, slots) for name, values in columns.items()}
            geometry = geometry_of(rows, voxel_size)
            known = columns["changed"] != _NOTHING
            return MapChanges(self._step, known, slots, geometry, scores)

    def sample(self, most: int) -> torch.Tensor:
        """(n, W) vectors of up to ``most`` rows, evenly spread over those that have one."""
        with self._lock:
            if self._vectors is None:
                return torch.zeros(0, self._width)
            rows = (self._columns["changed"].data != _NOTHING).nonzero()[:, 0]
            return self._vectors.rows(take(rows, spread(len(rows), most).to(rows.device)))

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
            columns = {name: column.data for name, column in self._columns.items()}
            if self._vectors is None:
                geometry = geometry_of({n: values[:0] for n, values in columns.items()}, voxel_size)
                return geometry, geometry.xyz.new_zeros(0, texts)
            scores = self._up_to_date(scorer, texts, question)
            known = columns["changed"] != _NOTHING
            if bool(known.all()):
                return geometry_of(columns, voxel_size), scores.clone()
            rows = known.nonzero()[:, 0]
            columns = {name: take(values, rows) for name, values in columns.items()}
            return geometry_of(columns, voxel_size), take(scores, rows)

    def _score(self, slots: torch.Tensor, scorer: Scorer) -> torch.Tensor:
        assert self._vectors is not None
        if isinstance(self._vectors, CodedVectors) and isinstance(scorer, ProductScorer):
            return scorer.judge(self._vectors.products(slots, scorer.wanted))
        return scorer(self._vectors.rows(slots))

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
        at_once = CODED_ROWS if isinstance(self._vectors, CodedVectors) else SCORED_ROWS
        at_once *= _times(step.device)
        for slots in (step > since).nonzero()[:, 0].split(at_once):
            scores[slots] = self._score(slots, scorer).to(scores.device)
        if question is not None and scores.numel() <= KEPT_SCORES_MOST:
            self._scores[question] = (self._step, scores)
            while len(self._scores) > KEPT_SCORES:
                self._scores.popitem(last=False)
        return scores


def _times(device: torch.device) -> int:
    return ON_GPU if device.type == "cuda" else 1


def _block_rows(device: torch.device, row_bytes: int) -> int:
    """Rows that are allocated at once; on a GPU more, of some MiB at most."""
    most = max(BLOCK_ROWS, GPU_BLOCK_BYTES // max(1, row_bytes))
    return min(BLOCK_ROWS * _times(device), most)


def _step_rows(source: VoxelMap) -> int:
    """Rows that are transformed at once."""
    return _times(source.device) * min(STEP_ROWS, STEP_BYTES // (4 * source.channels))


def spread(count: int, most: int) -> torch.Tensor:
    """(n,) up to ``most`` of the numbers 0 to ``count`` - 1, evenly spaced."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most


def sampled_directly(
    source: VoxelMap, lock: threading.Lock, transform: Transform, most: int
) -> torch.Tensor:
    """As :meth:`MapView.sample`, of a map of which no copy is kept."""
    parts = []
    for some in spread(len(source), most).split(STEP_ROWS):
        with lock:
            slots = some[some < len(source)].to(source.device)
            means = source.table.means(slots)
        parts.append(transform(means).float())
    return torch.cat(parts) if parts else torch.zeros(0, 0)


def rows_near(
    source: VoxelMap, where: Filter, keep: Callable[[MapGeometry], torch.Tensor], most: int
) -> torch.Tensor | None:
    """(N,) rows of the voxels that a filter lets answer; None = there may be more than ``most``.

    For who has the map: its cost is that of the index.

    Args:
        keep: geometry of (n,) voxels -> (n,) bool, which of them answer.
    """
    index, size = source.table.index, source.voxel_size
    centre = (index.brick_corner.cpu().double() + (BRICK_SIDE - 1) / 2) * size
    near = within(where, centre, BRICK_SIDE / 2 * size * 3**0.5)
    if int(near.sum()) > most:
        return None
    rows = index.slots_in(near.to(source.device))
    if len(rows) > AROUND * most:
        return None
    rows = rows[keep(geometry_of({name: take(source.table[name], rows) for name in _COPIED}, size))]
    return rows if len(rows) <= most else None


def scored_directly(
    source: VoxelMap,
    lock: threading.Lock,
    transform: Transform,
    scorer: Scorer,
    texts: int,
    deadline: float = float("inf"),
    rows: Rows | None = None,
) -> tuple[MapGeometry, torch.Tensor]:
    """As :meth:`MapView.scored`, without keeping a copy: for maps whose bound leaves no room.

    Voxels are copied in steps until time.monotonic() is ``deadline``; one that is moved in the
    table meanwhile may be missed.

    Args:
        rows: which, all at once; None = all.
    """

    def look(slots: torch.Tensor) -> Callable[[], torch.Tensor]:
        means = source.table.means(slots)
        return lambda: scorer(transform(means).float())

    step = max(64, _step_rows(source))
    return _walk(source, lock, look, step, texts, deadline, rows)


def scored_from_codes(
    source: VoxelMap,
    lock: threading.Lock,
    scorer: ProductScorer,
    texts: int,
    deadline: float = float("inf"),
    rows: Rows | None = None,
) -> tuple[MapGeometry, torch.Tensor]:
    """As :func:`scored_directly`, of a map in tiers: its codes are compared, and not decoded.

    Answers are the directions of the voxels' means.
    """

    def look(slots: torch.Tensor) -> Callable[[], torch.Tensor]:
        tiers = source.table.vectors
        assert isinstance(tiers, TieredVectors)
        taken = tiers.taken(slots)
        return lambda: scorer.judge(taken.products(scorer.wanted))

    return _walk(source, lock, look, CODED_ROWS, texts, deadline, rows)


def _walk(
    source: VoxelMap,
    lock: threading.Lock,
    look: Callable[[torch.Tensor], Callable[[], torch.Tensor]],
    step: int,
    texts: int,
    deadline: float,
    rows: Rows | None,
) -> tuple[MapGeometry, torch.Tensor]:
    """Geometry and scores of voxels, ``step`` of them at a time.

    Args:
        look: copies rows while the map is locked, and returns what scores the copies.
        rows: see :func:`scored_directly`.
    """

    def copied(slots: torch.Tensor) -> tuple[dict[str, torch.Tensor], Callable[[], torch.Tensor]]:
        return {name: take(source.table[name], slots) for name in _COPIED}, look(slots)

    size, done = source.voxel_size, 0
    with lock:
        chosen = None if rows is None else rows(source)
        some = None if chosen is None else copied(chosen)
    if some is not None:
        geometry, score = geometry_of(some[0], size), some[1]
        nothing = torch.zeros(0, texts, device=source.device)
        return geometry, score().to(source.device) if len(geometry) else nothing
    whole = len(source)  # what comes meanwhile came after the question
    out = {"scores": torch.zeros(whole, texts, device=source.device)}
    while done < whole:
        with lock:
            end = max(done, min(done + step, whole, len(source)))  # it may have been forgotten
            slots = torch.arange(done, end, device=source.device)
            if not len(slots):
                break
            columns, score = copied(slots)
        geometry = geometry_of(columns, size)
        named = {name: getattr(geometry, name) for name in _PER_VOXEL}
        for name, values in {**named, "scores": score().to(source.device)}.items():
            if name not in out:
                out[name] = values.new_empty(whole, *values.shape[1:])
            out[name][done : done + len(slots)] = values
        done += len(slots)
        if time.monotonic() >= deadline:
            break
    scores = out.pop("scores")[:done]
    if not done:
        return geometry_of({name: source.table[name][:0] for name in _COPIED}, size), scores
    return MapGeometry(**{name: v[:done] for name, v in out.items()}, voxel_size=size), scores


def geometry_of(columns: dict[str, torch.Tensor], voxel_size: float) -> MapGeometry:
    """Rows of a table -> MapGeometry; no columns = no voxels."""
    if not columns:
        none, whole = torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
        hits, views = none[:, 0], whole.int()
        return MapGeometry(none.long(), none, none, hits, views, whole, whole, whole, voxel_size)
    index, hits = unpack(columns["key"]), columns["hits"]
    return MapGeometry(
        index=index,
        xyz=(index * voxel_size).float(),
        rgb=(columns["rgb_sum"] / hits[:, None]).float(),
        hits=hits.float(),
        views=columns["views"].clone(),
        first_seen_ns=columns["first_seen_ns"].clone(),
        last_seen_ns=columns["last_seen_ns"].clone(),
        seen_at_ns=columns["seen_at"].clone(),
        voxel_size=voxel_size,
    )
