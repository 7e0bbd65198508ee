# SPDX-License-Identifier: Apache-2.0
"""Vectors in a fraction of their memory, by a code that is learnt from the vectors themselves.

A map's vectors are much alike, and those of a kind of thing still more. So a code names the nearest
of 256 typical directions, and then what is left: turned onto its principal axes, of which each byte
says where the vector is along one, two, four or eight, as their variance deserves (Gersho and Gray,
Vector Quantization and Signal Compression, 1992, chapters 8 and 12: transform coding with shared
bits, product codes). Axes alone would serve walls and floors, which make most of a map, and lose
what is rare in it; a typical direction costs what is rare no more than what is common.

What is decoded is the mean of all that has the same code. So it is a little shorter than the
vector, and its products with others, not its cosines, are the best estimates of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch.nn.functional import embedding_bag, normalize, pad

from ...datatypes import InputError
from ...device import multiplies_bfloat16
from ..tensors import take

LEARNT_FROM = 1 << 24  # numbers of all vectors that typical directions are learnt from: 64 MB
BOOK_FROM = 2048  # vectors that each book is learnt from
COMMON_FROM = 1 << 14  # parts of vectors that a book is learnt from which many bytes share
WORDS = 256  # typical directions, and words of each book: one byte
LEAST_BYTES = 2  # length and typical direction
_TOGETHER = 8  # axes that share a number of bytes:
_SHARES = (8, 4, 2, 1)
# Bytes that eight axes take -> share of their variance that is left, for a normal distribution and
# as :func:`_words` finds its words. It is convex: the worth of more bytes falls.
_LEFT = {0: 1.0, 1: 0.29, 2: 0.093, 4: 0.0082, 8: 4.2e-5}
_NOTHING = 1e-12  # variance along an axis, of unit vectors: only rounding
_LONGEST = 4.0  # number of a codec: of unit vectors, and of what a nearer one leaves of them
_OCTAVE = 8  # steps of the length: it is off by at most 4.4 %
_OWN_BOOKS = 16  # bytes that have a book each; more of one kind share one
_NARROWEST = 1e-6  # standard deviation along an axis, of unit vectors, that a book is made for
_ALIKE = 1e-3  # of a standard deviation, that books differ by which are one
_LONG = 64  # numbers
_STEPS = 8  # of k-means
_CHOSEN = 16  # words that it begins with, at once
# axes of a byte -> cells along each: a table of some 100 KB stays in the processor's cache
_CELLS = {1: 1 << 16, 2: 1 << 8, 4: 20}
_PRODUCTS_AT_ONCE = {  # of a vector with a word
    "cpu": 1 << 19,  # so that they stay in the cache
    "cuda": 1 << 24,
    "mps": 1 << 22,
}


@dataclass(frozen=True, slots=True, eq=False)
class VectorCodec:
    """(n, C) vectors to and from (n, W) bytes."""

    typical: torch.Tensor  # (256, C) directions
    axes: torch.Tensor  # (K, C), orthonormal, of the largest variance first
    # of the bytes for one, two, four and eight axes: (B, 256, axes)
    books: tuple[torch.Tensor, ...]
    _searches: list[_Search] = field(default_factory=list)  # of each book, once needed

    @classmethod
    def learn(cls, vectors: torch.Tensor, nbytes: int, haste: bool = False) -> VectorCodec:
        """Learn from vectors that are like those that will be coded.

        Args:
            vectors: (n, C) float32, n >= 1; what :func:`sample_size` says is enough.
            nbytes: W, bytes that a coded vector may take, at least 2.
            haste: do nothing that takes long: axes are those of the vectors, and words some of the
                vectors.
        """
        unit, steps = normalize(vectors.float(), dim=1), 0 if haste else _STEPS
        typical = _words(unit[None], steps)[0]
        rest = unit - take(typical, _nearest(unit[None], typical[None])[0])
        variance, axes = _own_axes(rest) if haste else _principal(rest)
        variance[variance < _NOTHING] = 0
        beyond = -len(axes) % _TOGETHER
        groups = pad(variance, (0, beyond)).unflatten(0, (-1, _TOGETHER)).sum(1).tolist()
        shares = _shared_out(nbytes - LEAST_BYTES, groups)
        axes = pad(axes, (0, 0, 0, beyond))[: _TOGETHER * sum(share > 0 for share in shares)]
        along, books, first = rest @ axes.T, [], 0
        for share in _SHARES:
            last = first + _TOGETHER * shares.count(share)
            books.append(_books(_by_byte(along[:, first:last], _TOGETHER // share), steps))
            first = last
        return cls(typical, axes, tuple(books))

    @classmethod
    def of(cls, state: Mapping[str, torch.Tensor], prefix: str) -> VectorCodec:
        """What :meth:`state` gave.

        Raises:
            InputError: it did not give this.
        """
        try:
            typical, axes = state[f"{prefix}typical"], state[f"{prefix}axes"]
            books = tuple(state[f"{prefix}book{share}"] for share in _SHARES)
        except KeyError as error:
            raise InputError(f"it lacks {error.args[0]}") from error
        width = typical.shape[-1] if typical.ndim else 0
        parts: list[tuple[tuple[int, ...], torch.Tensor]] = [
            ((WORDS, width), typical),
            ((sum(book.shape[0] * book.shape[-1] for book in books if book.ndim), width), axes),
        ]
        for share, book in zip(_SHARES, books, strict=True):
            parts.append(((*book.shape[:1], WORDS, _TOGETHER // share), book))
        for shape, found in parts:
            sound = found.shape == shape and found.dtype == torch.float32
            if not sound or not bool((found.abs() <= _LONGEST).all()):
                raise InputError("its codec has an impossible shape or number")
        return cls(typical, axes, books)

    def state(self, prefix: str) -> dict[str, torch.Tensor]:
        """All of it, as tensors whose names begin with ``prefix``."""
        books = zip(_SHARES, self.books, strict=True)
        words = {f"{prefix}book{share}": book for share, book in books}
        return {f"{prefix}typical": self.typical, f"{prefix}axes": self.axes, **words}

    def to(self, device: torch.device) -> VectorCodec:
        """The same on a device."""
        books = tuple(book.to(device) for book in self.books)
        return VectorCodec(self.typical.to(device), self.axes.to(device), books)

    @property
    def own_nbytes(self) -> int:
        """Bytes of the codec itself."""
        return sum(tensor.nbytes for tensor in (self.typical, self.axes, *self.books))

    @property
    def nbytes(self) -> int:
        """W, bytes of a coded vector."""
        return LEAST_BYTES + sum(map(len, self.books))

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """(n, C) float32 -> (n, W) uint8."""
        length = vectors.norm(dim=1)
        unit = vectors / length.clamp_min(torch.finfo(length.dtype).tiny)[:, None]
        steps = (_OCTAVE * length.log2()).round_().clamp_(-127, 127) + 128
        steps[length == 0] = 0
        number = _nearest(unit[None], self.typical[None])[0]
        along = _multiplied(unit.sub_(take(self.typical, number)), self.axes.T)
        if not self._searches:  # at once: two threads may come here together
            self._searches[:] = [_search(book) for book in self.books]
        codes = [steps[:, None], number[:, None]]
        for (_, first, last), search in zip(self._places(), self._searches, strict=True):
            codes.append(search(along[:, first:last]))
        return torch.cat([some.to(torch.uint8) for some in codes], 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(n, W) uint8 -> (n, C) float32."""
        codes = codes.T.int()
        parts, byte = [], LEAST_BYTES
        for book, _, _ in self._places():
            words = codes[byte : byte + len(book)]
            words = words + WORDS * torch.arange(len(book), device=words.device)[:, None]
            found = take(book.flatten(0, 1), words.T.flatten().long())
            parts.append(found.view(codes.shape[1], len(book) * book.shape[2]))
            byte += len(book)
        rest = _multiplied(torch.cat(parts, 1), self.axes)
        return rest.add_(take(self.typical, codes[1])).mul_(_lengths(codes[0])[:, None])

    def table(self, wanted: torch.Tensor) -> torch.Tensor:
        """(Q, C) vectors -> ((W - 1) * 256, Q), their products with each value of each byte."""
        parts = [self.typical @ wanted.T]
        for book, first, last in self._places():
            axes = (self.axes[first:last] @ wanted.T).view(len(book), book.shape[2], len(wanted))
            parts.append((book @ axes).flatten(0, 1))
        return torch.cat(parts)

    def products(self, codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """(n, W) codes and a :meth:`table` -> (n, Q) products with the direction of each vector.

        Those of unit length give cosines; what has no length gives 0. Nothing is decoded.
        """
        base = WORDS * torch.arange(self.nbytes - 1, device=codes.device, dtype=torch.int32)
        places = codes[:, 1:].int().add_(base)
        found = embedding_bag(places, table, mode="sum")
        return found.mul_((codes[:, :1] > 0).float())

    def _places(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        """Books, and the axes (first, last) that they are for."""
        last = 0
        for book in self.books:
            first, last = last, last + book.shape[0] * book.shape[2]
            yield book, first, last


_Search = Callable[[torch.Tensor], torch.Tensor]  # (n, B * axes) values -> (n, B) nearest words


def _search(book: torch.Tensor) -> _Search:
    """What finds words of (B, 256, axes) books."""
    count, _, axes = book.shape
    scale = book.square().mean(1, keepdim=True).sqrt().clamp_min(_NARROWEST / 10)
    words = book / scale
    if axes in _CELLS and count and bool(((words - words[:1]).abs() < _ALIKE).all()):
        return _Cells(words[0], scale.flatten())
    return lambda values: _nearest(_by_byte(values, axes), book).T


class _Cells:
    """Finds words that many bytes share, by the cell that a value is in.

    Each cell knows the word that is nearest to its centre. That is a tenth of the time of looking
    at all words.

    Args:
        words: (256, axes), for values of standard deviation 1.
        scale: (B * axes,) standard deviations.
    """

    def __init__(self, words: torch.Tensor, scale: torch.Tensor) -> None:
        axes, device = words.shape[1], words.device
        self._axes = axes
        self._most = _CELLS[axes] - 1
        low = float(words.amin())
        step = max((float(words.amax()) - low) / _CELLS[axes], _NARROWEST)
        centre = (torch.arange(_CELLS[axes], device=device) + 0.5) * step + low
        cells = torch.cartesian_prod(*[centre] * axes).view(-1, axes)
        self._words = _nearest(cells[None], words[None])[0].to(torch.uint8)
        self._factor, self._shift = 1 / (scale * step), -low / step
        self._place = (self._most + 1.0) ** torch.arange(axes - 1, -1, -1, device=device)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(n, B * axes) values -> (n, B) which word is nearest."""
        at = (values * self._factor).add_(self._shift).clamp_(0, self._most).floor_()
        place = at.view(-1, self._axes) @ self._place
        return take(self._words, place.int()).view(len(values), self._factor.numel() // self._axes)


def sample_size(channels: int) -> int:
    """Vectors that a codec is learnt from."""
    return max(WORDS, LEARNT_FROM // channels)


def _lengths(steps: torch.Tensor) -> torch.Tensor:
    return ((steps - 128) / _OCTAVE).exp2().mul_(steps > 0)


def _is_coarse(values: torch.Tensor) -> bool:
    """Whether products in bfloat16 are quicker."""
    return values.device.type == "cpu" and multiplies_bfloat16()


def _multiplied(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b``, coarsely where the processor is quicker at it: codes lose more."""
    return (a.bfloat16() @ b.bfloat16()).float() if _is_coarse(a) else a @ b


def _by_byte(along: torch.Tensor, axes: int) -> torch.Tensor:
    """(n, K) -> (K / axes, n, axes)."""
    return along.unflatten(1, (-1, axes)).transpose(0, 1)


def _shared_out(nbytes: int, variances: list[float]) -> list[int]:
    """Bytes of each group of eight axes, whose variances descend.

    Each step goes where it takes away most error for its bytes: as the worth of more bytes falls,
    nothing is better, up to the last few bytes.
    """
    shares = [0] * len(variances)
    steps = dict(pairwise(_LEFT))
    while True:
        worth = {
            i: variances[i] * (_LEFT[share] - _LEFT[steps[share]]) / (steps[share] - share)
            for i, share in enumerate(shares)
            if share in steps and steps[share] - share <= nbytes
        }
        best = max(worth, key=worth.__getitem__, default=-1)
        if best < 0 or worth[best] <= 0:
            return sorted(shares, reverse=True)
        nbytes -= steps[shares[best]] - shares[best]
        shares[best] = steps[shares[best]]


def _principal(rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, C) -> (C,) variances, which descend, and (C, C) the axes that they are along."""
    variance, axes = torch.linalg.eigh((rest.T @ rest).double())
    return variance.flip(0) / len(rest), axes.flip(1).T.float()


def _own_axes(rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`_principal`, of the axes that vectors have."""
    variance, order = rest.square().mean(0).sort(descending=True)
    return variance, torch.eye(len(order), device=rest.device)[order]


def _books(values: torch.Tensor, steps: int) -> torch.Tensor:
    """(B, n, axes) values -> (B, 256, axes) words of each byte.

    Where bytes are many, they share what is learnt from all of them, and are wider or narrower.
    """
    if len(values) <= _OWN_BOOKS:
        return _words(values[:, :BOOK_FROM], steps)
    scale = values.square().mean(1, keepdim=True).sqrt().clamp_min(_NARROWEST)
    parts = (values / scale).flatten(0, 1)
    parts = parts[:: max(1, len(parts) // COMMON_FROM)]
    return _words(parts[None], steps) * scale


def _words(values: torch.Tensor, steps: int) -> torch.Tensor:
    """(B, n, d) values -> (B, 256, d) words, of which one is near to each value.

    k-means (Lloyd) that begins with values that are far from those chosen before (k-means++, Arthur
    and Vassilvitskii 2007; several at once as Bahmani et al. 2012): so what is rare, but unlike the
    rest, has a word.
    """
    random = torch.Generator().manual_seed(0)
    squares = values.square().sum(2)
    words = values.mean(1, keepdim=True).repeat(1, WORDS, 1)
    rows = torch.arange(len(values), device=values.device)[:, None]
    far = _apart(values, squares, words[:, :1])
    for first in range(1, WORDS, _CHOSEN):
        count = min(_CHOSEN, WORDS - first)
        until = far.double().cumsum(1)
        chance = torch.rand(1, count, dtype=torch.float64, generator=random).to(far.device)
        at = torch.searchsorted(until, chance * until[:, -1:]).clamp_(max=far.shape[1] - 1)
        words[:, first : first + count] = values[rows, at]
        far = torch.minimum(far, _apart(values, squares, words[:, first : first + count]))
    base = WORDS * rows
    for _ in range(steps):
        place = (_nearest(values, words) + base).flatten()
        points = torch.bincount(place, minlength=WORDS * len(values))[:, None]
        sums = torch.zeros_like(words).flatten(0, 1).index_add_(0, place, values.flatten(0, 1))
        means = (sums / points.clamp_min(1)).view_as(words)
        words = torch.where(points.view(*words.shape[:2], 1) > 0, means, words)
    return words


def _apart(values: torch.Tensor, squares: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """(B, n, d) values with their (B, n) squares, and (B, w, d) words -> (B, n) squared distances
    from the nearest of these.
    """
    products = torch.baddbmm(words.square().sum(2)[:, None], values, words.mT, alpha=-2)
    return (squares + products.amin(2)).clamp_min_(0)


def _nearest(values: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """(B, n, d) values and (B, 256, d) words -> (B, n) which word is nearest.

    The largest product is looked for with the number of its word in its last eight bits: on a CPU
    the largest of many numbers is found several times faster than the place of it. Long values are
    multiplied coarsely where the processor is quicker at it: about their mean, so that it is the
    differences that count.
    """
    coarse = values.shape[2] >= _LONG and _is_coarse(values)
    if coarse:
        middle = words.mean(1, keepdim=True)
        values, words = (values - middle).bfloat16(), words - middle
    half = words.square().sum(2)[:, None, :] / 2
    turned = words.to(values.dtype).mT.contiguous()
    number = torch.arange(WORDS, dtype=torch.int32, device=words.device)
    rows = max(1, _PRODUCTS_AT_ONCE[words.device.type] // (WORDS * max(1, len(words))))
    found = []
    for part in values.split(rows, 1):
        products = (
            (part @ turned).float().sub_(half)
            if coarse
            else torch.baddbmm(half, part, turned, beta=-1)
        )
        products.view(torch.int32).bitwise_and_(-WORDS).bitwise_or_(number)
        found.append(products.amax(2).view(torch.int32).bitwise_and_(WORDS - 1).long())
    return torch.cat(found, 1)
