# SPDX-License-Identifier: Apache-2.0
"""Vectors in two tiers: voxels seen lately in full, all others as codes.

A voxel that is hit gets a row of the hot tier, and the code that it had stays: the row holds the
sum over the points that came since. So nothing is decoded when the camera comes back; the two are
added when somebody asks, and coded as one when the row is needed by others.

Coding takes longer than adding. So each frame codes a few rows that were hit longest ago before
others need them, and these stay where they are: if they are hit again, the code is forgotten. A
camera that comes to where all is new finds half of the rows coded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from ...datatypes import ConfigError
from ...device import give_way
from ..storage import Column, VectorBlocks, allocate
from ..tensors import take
from .codec import LEAST_BYTES, VectorCodec, sample_size
from .codecs import MOST, NUMBER_BYTES, Codecs, Wanted
from .loss import Loss

logger = logging.getLogger(__name__)

LEAST_HOT = 2  # rows
_WORD = 8  # bytes that are copied as one number: torch is several times faster at it
_AT_ONCE = 2048  # vectors that are coded or decoded at once
_RUN = 16  # neighbouring vectors that a codec is learnt from, where all come at once
_UNDO_ROWS = 256  # likewise taken back: where memory has run out there is little to work with
_AHEAD = 2  # up to 1/2 of the hot rows are free, or coded before they must be
_CODED = 8  # a frame that hits n voxels codes n / 8 others towards that
_APART = 4  # a codec is learnt anew when 1/4 of the hot rows, or more, have been coded by the last
# Who is patient uses a codec at the moment when 1/8 more have been coded, or 3/4 of the rows are in
# use, whether or not it was learnt before: so one recording makes one map.
_AFTER = 8
_TRIED = 128  # vectors of a frame that are coded and decoded, to see what would be lost
_TRIED_EVERY = 4  # frames
_ENOUGH = 128  # such vectors, before that is believed
_IN_HASTE = 1024  # vectors that a codec is made of in a moment


@dataclass(frozen=True, slots=True, eq=False)
class CodedSums:
    """Sums of vectors that are there as codes."""

    codecs: Codecs
    codes: torch.Tensor  # (N, W) uint8
    hits: torch.Tensor  # (N,)

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        """(stop - start, C) float32."""
        return self.codecs.decode(self.codes[start:stop]).mul_(self.hits[start:stop, None])


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Rows of a map in tiers at one moment."""

    codecs: Codecs
    codes: torch.Tensor | None  # (N, W) uint8; None = nothing has been coded yet
    hot: torch.Tensor  # (N,) bool, which of the rows have one in the hot tier
    own: torch.Tensor  # (n, C) what these n hold
    base: torch.Tensor  # (n,) points that are in the code only
    hits: torch.Tensor  # (n,) points

    def sums(self) -> torch.Tensor:
        """(n, C) sums over the points of the hot rows."""
        if self.codes is None:
            return self.own
        sums, codes = self.own.clone(), take(self.codes, self.hot.nonzero()[:, 0])
        coded = (self.base > 0).nonzero()[:, 0]
        for some in coded.split(_AT_ONCE) if len(coded) else ():
            means = self.codecs.decode(take(codes, some))
            sums.index_add_(0, some, means.mul_(take(self.base, some)[:, None]))
        return sums

    def means(self) -> torch.Tensor:
        """(N, C) means over the points; what has neither a code nor a hot row has none, 0."""
        out = self.own.new_zeros(len(self.hot), self.own.shape[1])
        out[self.hot] = self.sums() / self.hits[:, None]
        if self.codes is not None:
            cold = (~self.hot).nonzero()[:, 0]
            for some in cold.split(_AT_ONCE) if len(cold) else ():
                out[some] = self.codecs.decode(take(self.codes, some))
        return out

    def products(self, wanted: Wanted) -> torch.Tensor:
        """(N, Q) products with the direction of each row; what is cold is not decoded."""
        if self.codes is not None and not len(self.own):  # of a large map, nearly all parts
            return self.codecs.products(self.codes, wanted)
        vectors = wanted.vectors.to(self.own.device, self.own.dtype)
        out = vectors.new_zeros(len(self.hot), len(vectors))
        cold = (~self.hot).nonzero()[:, 0]
        if self.codes is not None and len(cold):
            out[cold] = self.codecs.products(take(self.codes, cold), wanted)
        out[self.hot] = normalize(self.sums(), dim=1) @ vectors.T
        return out


class Lesson:
    """A codec that is learnt in a thread of its own, because it takes seconds.

    Args:
        means: gives the vectors to learn from; the thread calls it.
        nbytes: of a code.
    """

    def __init__(self, means: Callable[[], torch.Tensor], nbytes: int) -> None:
        self._means, self._nbytes = means, nbytes
        self._learnt: tuple[VectorCodec, float] | None = None
        self._thread = threading.Thread(target=self._learn, name="codec")
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether nobody has to wait any more."""
        return not self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether it is over, and nothing was learnt."""
        return self.over and self._learnt is None

    def _learn(self) -> None:
        give_way()
        try:
            self._learnt = self._learnt_now()
        except (MemoryError, RuntimeError):  # torch raises the latter when memory runs out
            logger.exception("a codec could not be learnt; tried again when it is needed")

    def _learnt_now(self) -> tuple[VectorCodec, float]:
        vectors, loss = _telling(self._means()), Loss()
        codec = VectorCodec.learn(vectors, self._nbytes)
        loss.add(vectors[:_AT_ONCE], Codecs((codec,)))
        return codec, loss.mean

    def result(self) -> tuple[VectorCodec, float]:
        """What was learnt, and what it loses of that; waits for it."""
        self._thread.join()
        return self._learnt or self._learnt_now()


def _telling(vectors: torch.Tensor) -> torch.Tensor:
    """Those of (n, C) vectors that have a direction; the first one where none has."""
    some = vectors[vectors.any(1)]
    return some if len(some) else vectors[:1]


class TieredVectors:
    """(M, C) hit-weighted vectors as :class:`VectorBlocks` has them, most of them as codes.

    Up to ``hot_rows`` voxels everything is exact, as float32 sums. Beyond, those that were added to
    longest ago become codes of their means. Codecs are learnt from the map itself: when half of the
    hot tier is full, and again when what is coded loses twice of what it lost then, because the
    camera has come to where things look different. Codes that are there stay as they are.

    Args:
        hot_rows: H, voxels that are kept in full.
        share: the others take 1/share of the memory of float32, and five bytes each.

    Attributes:
        patient: whether :meth:`add` waits for a codec that is being learnt, so that the same
            vectors make the same codes. Who is not goes on with the codec before it; with one that
            is made in a moment where there is none.

    Raises:
        ConfigError: so short vectors have no such share, or the hot tier is too small.
    """

    dtype = torch.float32

    def __init__(
        self, channels: int, device: torch.device, block_rows: int, hot_rows: int, share: int
    ) -> None:
        self._code_bytes = channels * self.dtype.itemsize // share
        if self._code_bytes < LEAST_BYTES + NUMBER_BYTES:
            raise ConfigError(
                f"vectors of {channels} numbers cannot be kept in 1/{share} of their memory "
                "(map.cold_share): a code takes at least three bytes"
            )
        if hot_rows < LEAST_HOT:
            raise ConfigError("map.max_bytes leaves no room for map.hot_voxels")
        self.channels, self.block_rows = channels, block_rows
        self.codecs = Codecs()
        self._device = device
        with torch.inference_mode(False):  # not touched, so not resident before it is used
            self._hot = torch.empty(hot_rows, channels, device=device)
        self._slot = allocate((hot_rows,), torch.int32, device, -1)  # of each hot row; -1 = free
        self._base = allocate((hot_rows,), torch.int64, device)  # points that are in the code
        self._hits = allocate((hot_rows,), torch.int64, device)  # points, with those in the code
        self._used = allocate((hot_rows,), torch.int64, device)  # see _now
        self._coded = allocate((hot_rows,), torch.bool, device)  # whether the code says all of it
        self._now = 0  # calls of add
        self._row = Column((), torch.int32, device, -1)  # hot row of each slot; -1 = it is coded
        self._codes: VectorBlocks | None = None  # of all slots; what is new has none yet
        self._lesson: Lesson | None = None
        self._cooled = 0  # hot rows that were coded so far
        self._begun_at = 0  # so many were when a lesson began
        self._untried = 0  # frames since vectors were last tried
        self.patient = True
        self._lost, self._usual = Loss(), 0.0  # by the newest codec: now; when it was learnt

    def __len__(self) -> int:
        return len(self._row)

    @property
    def exact(self) -> bool:
        """Whether nothing has been coded yet."""
        return not self.codecs

    @property
    def nbytes(self) -> int:
        """Bytes allocated; those of hot rows are resident once they have been used."""
        codes = 0 if self._codes is None else self._codes.nbytes
        return self.hot_nbytes + self._row.nbytes + codes + self.codecs.own_nbytes

    @property
    def hot_nbytes(self) -> int:
        """Bytes of the hot tier."""
        rows = (self._hot, self._slot, self._base, self._hits, self._used, self._coded)
        return sum(part.nbytes for part in rows)

    @property
    def block_nbytes(self) -> int:
        """Bytes of the vectors of ``block_rows`` voxels, on the average."""
        return self.nbytes * self.block_rows // max(1, len(self))

    @property
    def takes_any_order(self) -> bool:
        """As :attr:`VectorBlocks.takes_any_order`."""
        return self._device.type == "cuda"

    def resize(self, length: int) -> None:
        """Keep the first ``length`` rows; new rows are zero."""
        if self._codes is not None:
            self._codes.resize(length)
        self._release(self._row.data[length:])
        self._row.resize(length)

    def _release(self, rows: torch.Tensor) -> None:
        """Give hot rows back, where there are any: -1 = none."""
        self._slot.index_fill_(0, rows[rows >= 0].long(), -1)

    # Adding

    def add(
        self,
        slots: torch.Tensor,
        before: torch.Tensor,
        added: torch.Tensor,
        sums: Callable[[int, int], torch.Tensor],
    ) -> None:
        """As :meth:`VectorBlocks.add`.

        Codes of these codecs (``sums`` is :class:`CodedSums`) are taken as they are by voxels that
        are new. More voxels at once than fit into half of the hot tier are added part by part;
        taking these back is exact to what the codes lose.
        """
        if isinstance(sums, CodedSums) and self._knows(sums.codecs):
            self._add_codes(slots, before, added, sums)
            return
        done, half = 0, len(self._slot) // 2
        if not self.codecs and len(slots) > len(self._slot):
            self._learn_of(added, sums)
        self._tend(slots)

        def take_back() -> None:
            nonlocal done
            while done:
                first = max(0, done - min(_UNDO_ROWS, half))
                some = slice(first, done)
                self._warm(slots[some], before[some] + added[some])
                self._put(slots[some], -added[some], sums, first, -1)
                done = first

        try:
            for start in range(0, len(slots), half):
                stop = min(start + half, len(slots))
                had = self._cooled
                self._warm(slots[start:stop], before[start:stop])
                for first in range(start, stop, self.block_rows):
                    some = slice(first, min(first + self.block_rows, stop))
                    self._put(slots[some], added[some], sums, first, 1)
                    done = some.stop
                self._code_ahead((stop - start) // _CODED + had - self._cooled)
        except BaseException:
            take_back()
            raise

    def _knows(self, codecs: Codecs) -> bool:
        return self.codecs.all[: len(codecs.all)] == codecs.all

    def _add_codes(
        self, slots: torch.Tensor, before: torch.Tensor, added: torch.Tensor, sums: CodedSums
    ) -> None:
        """Codes to voxels that are new as they are, to others as any sums."""
        new, known = ((before == 0).nonzero()[:, 0], (before > 0).nonzero()[:, 0])
        self._write_codes(take(slots, new), take(sums.codes, new))  # whoever claimed them may go
        codes, hits = take(sums.codes, known), take(sums.hits, known)

        def decoded(start: int, stop: int) -> torch.Tensor:
            return CodedSums(sums.codecs, codes, hits)(start, stop)

        self.add(take(slots, known), take(before, known), take(added, known), decoded)

    def _put(
        self,
        slots: torch.Tensor,
        added: torch.Tensor,
        sums: Callable[[int, int], torch.Tensor],
        first: int,
        sign: int,
    ) -> None:
        """Add (``sign`` 1) or take away (-1) the sums from ``first`` on; the slots are hot."""
        new = sums(first, first + len(slots))
        rows = take(self._row.data, slots).long()
        self._hot.index_add_(0, rows, new, alpha=sign)
        self._hits.index_add_(0, rows, added)
        self._coded.index_fill_(0, rows, False)

    def _warm(self, slots: torch.Tensor, before: torch.Tensor) -> None:
        """Give rows of the hot tier to (N,) slots with ``before`` points, at most half of it."""
        self._now += 1
        rows = take(self._row.data, slots)
        self._used.index_fill_(0, rows[rows >= 0].long(), self._now)
        cold = (rows < 0).nonzero()[:, 0]
        if not len(cold):
            return
        self._make_room(len(cold))
        rows = (self._slot < 0).nonzero()[: len(cold), 0]
        slots, points = take(slots, cold), take(before, cold)
        self._hot.index_fill_(0, rows, 0)
        self._base.index_copy_(0, rows, points)
        self._hits.index_copy_(0, rows, points)
        self._used.index_fill_(0, rows, self._now)
        self._coded.index_fill_(0, rows, False)
        self._slot.index_copy_(0, rows, slots.int())
        self._row.data.index_copy_(0, slots, rows.int())

    def _make_room(self, needed: int) -> None:
        """Give the rows back that were added to longest ago, as many as are needed."""
        short = needed - int((self._slot < 0).sum())
        if short <= 0:
            return
        if not self.codecs:
            if self.patient or (self._lesson is not None and self._due(self._lesson)):
                self._follow_up()
            else:
                self._make_do()
        oldest = self._oldest((self._slot >= 0) & (self._used < self._now), short)
        self._code(oldest[~take(self._coded, oldest)])
        self._row.data.index_fill_(0, take(self._slot, oldest).long(), -1)
        self._slot.index_fill_(0, oldest, -1)

    def _code_ahead(self, most: int) -> None:
        """Code rows that will be needed by others; they are kept."""
        if not self.codecs or most <= 0:
            return
        waiting = (self._slot >= 0) & ~self._coded & (self._used < self._now)
        ready = len(self._slot) - int(((self._slot >= 0) & ~self._coded).sum())
        self._code(self._oldest(waiting, min(most, len(self._slot) // _AHEAD - ready)))

    def _oldest(self, which: torch.Tensor, most: int) -> torch.Tensor:
        """Up to ``most`` of the hot rows of an (H,) mask: those that were added to longest ago."""
        rows = which.nonzero()[:, 0]
        count = max(0, min(most, len(rows)))
        return take(rows, take(self._used, rows).topk(count, largest=False).indices)

    def _code(self, rows: torch.Tensor) -> None:
        """Make codes of what is in hot rows."""
        for some in rows.split(_AT_ONCE) if len(rows) else ():
            sums, slots = take(self._hot, some), take(self._slot, some).long()
            older = (take(self._base, some) > 0).nonzero()[:, 0]
            if len(older):  # their codes are about to be overwritten
                rows = take(some, older)
                whole = self._sums_of(rows)
                sums.index_copy_(0, older, whole)
                self._hot.index_copy_(0, rows, whole)
                self._base.index_fill_(0, rows, 0)
            self._write_codes(slots, self.codecs.encode(sums.div_(take(self._hits, some)[:, None])))
            self._coded.index_fill_(0, some, True)
            self._cooled += len(some)

    # Learning

    def _tend(self, slots: torch.Tensor) -> None:
        """Begin to learn when a codec is needed or has become worse, and use it some time later.

        Worse for (N,) slots that are seen now: it will be better before they have to be coded.
        """
        hot = len(self._slot)
        if self._lesson is not None:
            if self._due(self._lesson):
                self._follow_up()
            elif self._lesson.failed and not self.patient:
                self._lesson = None
        elif not self.codecs:
            if int((self._slot >= 0).sum()) >= hot // 2:
                self._begin()
        elif len(self.codecs.all) < MOST and self._cooled >= self._begun_at + hot // _APART:
            rows = take(self._row.data, slots)
            rows = rows[rows >= 0].long()
            self._untried += len(rows) > 0
            if self._untried < _TRIED_EVERY:
                return
            self._untried = 0
            rows = rows[:: max(1, len(rows) // _TRIED)]
            means = self._sums_of(rows) / take(self._hits, rows)[:, None]
            self._lost.add(means, self.codecs)
            if self._lost.count >= _ENOUGH:
                if self._lost.worse_than(self._usual):
                    self._begin()
                self._lost = Loss()

    def _due(self, lesson: Lesson) -> bool:
        """Whether what is being learnt is used from now on."""
        hot = len(self._slot)
        if not self.patient:
            return lesson.over and not lesson.failed
        if not self.codecs:
            return int((self._slot >= 0).sum()) >= hot * 3 // 4
        return self._cooled >= self._begun_at + hot // _AFTER

    def _begin(self) -> None:
        """Learn from the map: half of the vectors are of voxels seen lately."""
        random = torch.Generator().manual_seed(len(self.codecs.all))
        most, rows = sample_size(self.channels) // 2, (self._slot >= 0).nonzero()[:, 0]
        most = most // 2 if self.codecs else most
        some = torch.randperm(len(rows), generator=random)[:most].to(self._device)
        slots = take(self._slot, take(rows, some)).long()
        if self.codecs:
            others = torch.randint(len(self), (min(most, len(self)),), generator=random)
            slots = torch.cat([slots, others.to(self._device)])
        self._lesson = Lesson(self.taken(slots).means, self._code_bytes - NUMBER_BYTES)
        self._begun_at = self._cooled

    def _learn_of(self, added: torch.Tensor, sums: Callable[[int, int], torch.Tensor]) -> None:
        """Learn from what is about to be added, because it is more than there is room for."""
        apart = max(_RUN, len(added) * _RUN // sample_size(self.channels))
        runs = [(a, min(a + _RUN, len(added))) for a in range(0, len(added), apart)]
        vectors = torch.cat([sums(a, b) / added[a:b, None] for a, b in runs])
        self._lesson = Lesson(lambda: vectors, self._code_bytes - NUMBER_BYTES)
        self._follow_up()

    def _follow_up(self) -> None:
        """Use what is being learnt; waits for it, or learns at once."""
        if self._lesson is None:
            self._begin()
        assert self._lesson is not None
        codec, self._usual = self._lesson.result()
        self.know(self.codecs.followed_by(codec))
        self._lesson = None

    def _make_do(self) -> None:
        """Use a codec that is made in a moment, until a better one has been learnt."""
        rows = (self._slot >= 0).nonzero()[:, 0]
        rows = rows[:: max(1, len(rows) // _IN_HASTE)]
        means = self._sums_of(rows) / take(self._hits, rows)[:, None]
        codec = VectorCodec.learn(_telling(means), self._code_bytes - NUMBER_BYTES, haste=True)
        self.know(self.codecs.followed_by(codec))

    def know(self, codecs: Codecs) -> None:
        """Code with these from now on, which begin with those of before."""
        if codecs and self._codes is None:
            width = -(-max(codecs.nbytes, self._code_bytes) // _WORD)
            codes = VectorBlocks(width, torch.int64, self._device, self.block_rows)
            codes.resize(len(self))
            self._codes = codes
        self.codecs = codecs

    def _codes_of(self, slots: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order -> (N, W) uint8, a copy."""
        assert self._codes is not None
        return self._codes.stored(slots).view(torch.uint8)[:, : self.codecs.nbytes]

    def _write_codes(self, slots: torch.Tensor, codes: torch.Tensor) -> None:
        assert self._codes is not None
        beyond = self._codes.channels * _WORD - codes.shape[1]
        self._codes.write(slots, torch.nn.functional.pad(codes, (0, beyond)).view(torch.int64))

    # Reading

    def _sums_of(self, rows: torch.Tensor) -> torch.Tensor:
        """(N,) hot rows -> (N, C) sums over the points of their voxels."""
        return self.taken(take(self._slot, rows).long()).sums()

    def means(self, slots: torch.Tensor, hits: torch.Tensor | None = None) -> torch.Tensor:
        """(N,) slots in any order -> (N, C) float32 means over their points."""
        del hits  # hot rows know their own
        return self.taken(slots).means()

    def taken(self, slots: torch.Tensor) -> Taken:
        """A copy of (N,) rows in any order, which is quick to make."""
        rows = take(self._row.data, slots)
        hot = rows >= 0
        rows = rows[hot].long()
        codes = self._codes_of(slots) if self.codecs else None
        own, base, hits = (take(of, rows) for of in (self._hot, self._base, self._hits))
        return Taken(self.codecs, codes, hot, own, base, hits)

    def sums(self, slots: torch.Tensor, hits: torch.Tensor) -> torch.Tensor:
        """(N,) slots in any order and their hits -> (N, C) float32 sums over their points."""
        return self.means(slots).mul_(hits[:, None])

    def all_means(self, hits: torch.Tensor) -> torch.Tensor:
        """(M, C) float32 means of all slots, a copy."""
        del hits
        return self.means(torch.arange(len(self), device=self._device))

    # Copies and files

    def moving(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """As :meth:`VectorBlocks.moving`; the rows of the targets are given back."""
        rows, over = take(self._row.data, source), take(self._row.data, target)
        over = over[over >= 0].long()
        hot = (rows >= 0).nonzero()[:, 0]
        moved, to = take(rows, hot).long(), take(target, hot).int()
        move = None if self._codes is None else self._codes.moving(source, target)

        def everything() -> None:
            if move is not None:
                move()
            self._slot.index_fill_(0, over, -1)
            self._slot.index_copy_(0, moved, to)
            self._row.data.index_copy_(0, target, rows)
            self._row.data.index_fill_(0, source, -1)

        return everything

    def follow(self, other: TieredVectors, slots: torch.Tensor) -> None:
        """Be as ``other``, of the same length, in (N,) distinct slots."""
        if self._codes is None and other._codes is not None:
            self._codes = VectorBlocks(
                other._codes.channels, torch.int64, self._device, self.block_rows
            )
            self._codes.resize(len(self))
        self.codecs = other.codecs
        # rows that they have given back since: or there would not be enough of them here
        past = ((self._row.data >= 0) & (other._row.data < 0)).nonzero()[:, 0]
        slots = torch.cat([slots, past]).unique() if len(past) else slots
        if self._codes is not None and other._codes is not None:
            self._codes.write(slots, other._codes.stored(slots))
        self._release(take(self._row.data, slots))
        theirs = take(other._row.data, slots).long()
        self._row.data.index_fill_(0, slots, -1)
        hot = (theirs >= 0).nonzero()[:, 0]
        theirs, slots = take(theirs, hot), take(slots, hot)
        mine = (self._slot < 0).nonzero()[: len(hot), 0]
        for name in ("_hot", "_base", "_hits", "_coded"):
            getattr(self, name).index_copy_(0, mine, take(getattr(other, name), theirs))
        self._slot.index_copy_(0, mine, slots.int())
        self._row.data.index_copy_(0, slots, mine.int())

    def state(self) -> dict[str, torch.Tensor]:
        """``vectors``, (M, C) sums; or where the map has codes, ``codes`` of all and the codecs.

        Codes are of the newest means: hot rows are coded for it.
        """
        if not self.codecs:
            return {"vectors": self._sums_of(self._row.data.long())}
        every = torch.arange(len(self), device=self._device)
        codes = torch.empty(len(self), self.codecs.nbytes, dtype=torch.uint8, device=self._device)
        for some in every.split(_AT_ONCE * 16):
            codes[some] = self._codes_of(some)
        waiting = ((self._slot >= 0) & ~self._coded).nonzero()[:, 0]
        for slots in take(self._slot, waiting).long().sort().values.split(_AT_ONCE):
            codes[slots] = self.codecs.encode(self.means(slots))
        return {"codes": codes, **self.codecs.state()}

    def copied(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        """As :meth:`state`, of (N,) slots, and without the codecs."""
        rows = take(self._row.data, slots).long()
        if not self.codecs:
            return {"vectors": self._sums_of(rows)}
        waiting = (rows >= 0) & ~take(self._coded, rows.clamp_min(0))
        codes, hot = self._codes_of(slots), waiting.nonzero()[:, 0]
        for some in hot.split(_AT_ONCE) if len(hot) else ():
            codes[some] = self.codecs.encode(self.means(take(slots, some)))
        return {"codes": codes}

    def giving(self, slots: torch.Tensor, hits: torch.Tensor) -> Callable[[int, int], torch.Tensor]:
        """As :meth:`VectorBlocks.giving`."""
        if self.codecs and bool((take(self._row.data, slots) < 0).all()):
            return CodedSums(self.codecs, self._codes_of(slots), hits)
        return lambda a, b: self.sums(slots[a:b], hits[a:b])

    def load(self, state: Mapping[str, torch.Tensor], hits: torch.Tensor) -> None:
        """Set all rows of an empty map of this length from what :meth:`state` gave here, or there.

        Codes stay as they are, unless they take more memory than those of this map.
        """
        codes = state.get("codes")
        if codes is not None:
            told = any(name.startswith("codec") for name in state)  # else they are known
            codecs = Codecs.of(state).to(self._device) if told else self.codecs
            if codecs.nbytes < self._code_bytes + _WORD:
                self.know(codecs)
                for some in torch.arange(len(self)).split(_AT_ONCE * 16):
                    self._write_codes(some.to(self._device), codes[some].to(self._device))
                return

        def means(rows: torch.Tensor) -> torch.Tensor:
            if codes is not None:
                return codecs.decode(codes[rows].to(self._device))
            vectors = state["vectors"][rows].to(self._device).float()
            whole = state["vectors"].dtype == torch.float32
            return vectors / hits[rows.to(self._device), None] if whole else vectors

        every = torch.arange(len(self))
        self.add(
            every.to(self._device),
            torch.zeros_like(hits),
            hits,
            lambda a, b: means(every[a:b]) * hits[a:b, None],
        )
