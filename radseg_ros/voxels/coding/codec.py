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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch.nn.functional import embedding_bag, normalize, pad

from ...datatypes import InputError
from ..tensors import take

LEARNT_FROM = 1 << 24  # numbers of all vectors that typical directions are learnt from: 64 MB
BOOK_FROM = 2048  # vectors that each book is learnt from
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
_STEPS = 8  # of k-means
_CELLS = 128  # of a plane, along each axis
_PRODUCTS_AT_ONCE = 1 << 19  # of a vector with a word: they stay in the processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class VectorCodec:
    """(n, C) vectors to and from (n, W) bytes."""

    typical: torch.Tensor  # (256, C) directions
    axes: torch.Tensor  # (K, C), orthonormal, of the largest variance first
    # of the bytes for one, two, four and eight axes: (B, 256, axes)
    books: tuple[torch.Tensor, ...]
    _planes: list[_Planes] = field(default_factory=list)  # of the book for two axes, once needed

    @classmethod
    def learn(cls, vectors: torch.Tensor, nbytes: int) -> VectorCodec:
        """Learn from vectors that are like those that will be coded.

        Args:
            vectors: (n, C) float32, n >= 1; what :func:`sample_size` says is enough.
            nbytes: W, bytes that a coded vector may take, at least 2.
        """
        unit = normalize(vectors.float(), dim=1)
        typical = _words(unit[None])[0]
        rest = unit - take(typical, _nearest(unit[None], typical[None])[0])
        variance, axes = torch.linalg.eigh((rest.T @ rest).double())
        variance, axes = variance.flip(0) / len(unit), axes.flip(1).T.float()
        variance[variance < _NOTHING] = 0
        beyond = -len(axes) % _TOGETHER
        groups = pad(variance, (0, beyond)).unflatten(0, (-1, _TOGETHER)).sum(1).tolist()
        shares = _shared_out(nbytes - LEAST_BYTES, groups)
        axes = pad(axes, (0, 0, 0, beyond))[: _TOGETHER * sum(share > 0 for share in shares)]
        along, books, first = rest @ axes.T, [], 0
        for share in _SHARES:
            last = first + _TOGETHER * shares.count(share)
            books.append(_words(_by_byte(along[:BOOK_FROM, first:last], _TOGETHER // share)))
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
        length, unit = vectors.norm(dim=1), normalize(vectors, dim=1)
        steps = (_OCTAVE * length.log2()).round_().clamp_(-127, 127) + 128
        steps[length == 0] = 0
        number = _nearest(unit[None], self.typical[None])[0]
        along = (unit - take(self.typical, number)) @ self.axes.T
        codes = [steps[None], number[None]]
        for book, first, last in self._places():
            values = _by_byte(along[:, first:last], book.shape[2])
            in_planes = book.shape[2] == 2 and len(book) > 0
            codes.append(
                self._of_two(book).nearest(values) if in_planes else _nearest(values, book)
            )
        return torch.cat([some.to(torch.uint8) for some in codes]).T.contiguous()

    def _of_two(self, book: torch.Tensor) -> _Planes:
        if not self._planes:
            self._planes.append(_Planes(book))
        return self._planes[0]

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
        unit = torch.addmm(take(self.typical, codes[1]), torch.cat(parts, 1), self.axes)
        return unit * _lengths(codes[0])[:, None]

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
        found = embedding_bag(codes[:, 1:].int() + base, table, mode="sum")
        return found.mul_((codes[:, :1] > 0).float())

    def _places(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        """Books, and the axes (first, last) that they are for."""
        last = 0
        for book in self.books:
            first, last = last, last + book.shape[0] * book.shape[2]
            yield book, first, last


class _Planes:
    """Finds words of two numbers by the cell of the plane that a value is in: most bytes are such.

    Each cell knows the word that is nearest to its centre. That is a twentieth of the time of
    looking at all words, and cosines fall by less than 1e-4 on the average.
    """

    def __init__(self, book: torch.Tensor) -> None:
        self._low = book.amin(1, keepdim=True)
        step = (book.amax(1, keepdim=True) - self._low) / _CELLS
        self._step = step.clamp_min(torch.finfo(step.dtype).tiny)
        centre = torch.arange(_CELLS, device=book.device) + 0.5
        cells = torch.cartesian_prod(centre, centre) * self._step + self._low
        self._words = _nearest(cells, book).to(torch.uint8).flatten()
        self._base = _CELLS**2 * torch.arange(len(book), device=book.device)[:, None]

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """(B, n, 2) values -> (B, n) which word is nearest."""
        at = ((values - self._low) / self._step).clamp_(0, _CELLS - 1).long()
        place = at[:, :, 0] * _CELLS + at[:, :, 1] + self._base
        return take(self._words, place.flatten()).view(place.shape)


def sample_size(channels: int) -> int:
    """Vectors that a codec is learnt from."""
    return max(WORDS, LEARNT_FROM // channels)


def _lengths(steps: torch.Tensor) -> torch.Tensor:
    return ((steps - 128) / _OCTAVE).exp2().mul_(steps > 0)


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


def _words(values: torch.Tensor) -> torch.Tensor:
    """(B, n, d) values -> (B, 256, d) words, of which one is near to each value.

    k-means (Lloyd) that begins with values that are far from those chosen before (k-means++, Arthur
    and Vassilvitskii 2007): so what is rare, but unlike the rest, has a word.
    """
    random = torch.Generator().manual_seed(0)
    squares = values.square().sum(2)
    words = values.mean(1, keepdim=True).repeat(1, WORDS, 1)
    rows = torch.arange(len(values), device=values.device)
    far = _apart(values, squares, words[:, 0])
    for i in range(1, WORDS):
        until = far.double().cumsum(1)
        chance = torch.rand(1, dtype=torch.float64, generator=random).to(far.device)
        at = torch.searchsorted(until, chance * until[:, -1:]).clamp_(max=far.shape[1] - 1)
        words[:, i] = values[rows, at[:, 0]]
        far = torch.minimum(far, _apart(values, squares, words[:, i]))
    base = WORDS * rows[:, None]
    for _ in range(_STEPS):
        place = (_nearest(values, words) + base).flatten()
        count = torch.bincount(place, minlength=WORDS * len(values))[:, None]
        sums = torch.zeros_like(words).flatten(0, 1).index_add_(0, place, values.flatten(0, 1))
        means = (sums / count.clamp_min(1)).view_as(words)
        words = torch.where(count.view(*words.shape[:2], 1) > 0, means, words)
    return words


def _apart(values: torch.Tensor, squares: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
    """(B, n, d) values with their (B, n) squares, and (B, d) words -> (B, n) squared distances."""
    products = (values @ word[:, :, None])[:, :, 0]
    return (squares + word.square().sum(1, keepdim=True) - 2 * products).clamp_min_(0)


def _nearest(values: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """(B, n, d) values and (B, 256, d) words -> (B, n) which word is nearest.

    The largest product is looked for with the number of its word in its last eight bits: on a CPU
    the largest of many numbers is found several times faster than the place of it.
    """
    half = words.square().sum(2)[:, None, :] / 2
    turned = words.transpose(1, 2).contiguous()
    number = torch.arange(WORDS, dtype=torch.int32, device=words.device)
    rows = max(1, _PRODUCTS_AT_ONCE // (WORDS * max(1, len(words))))
    found = []
    for part in values.split(rows, 1):
        products = torch.baddbmm(half, part, turned, beta=-1)
        products.view(torch.int32).bitwise_and_(-WORDS).bitwise_or_(number)
        found.append(products.amax(2).view(torch.int32).bitwise_and_(WORDS - 1).long())
    return torch.cat(found, 1)
