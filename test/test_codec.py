# SPDX-License-Identifier: Apache-2.0
"""Vectors in a fraction of their memory: what comes back is near, whatever the vectors are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from radseg_ros.voxels.coding import codec as codec_module
from radseg_ros.voxels.coding.codec import LEAST_BYTES, VectorCodec, sample_size

CHANNELS = 40


def things(count: int, channels: int = CHANNELS, kinds: int = 12, seed: int = 0) -> torch.Tensor:
    """(count, channels) vectors of some kinds of things, with a common mean, of many lengths."""
    random = torch.Generator().manual_seed(seed)
    kind = torch.randn(kinds, channels, generator=random)
    which = torch.randint(0, kinds, (count,), generator=random)
    vectors = kind[which] + 0.3 * torch.randn(count, channels, generator=random) + 1
    return vectors * 10 ** (torch.rand(count, 1, generator=random) * 2 - 1)


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    return things(1500)


@pytest.mark.slow
def test_more_bytes_are_nearer(vectors):
    known, others = vectors.split([1000, 500])
    nearness = []
    for nbytes in (LEAST_BYTES, 4, 8, 16, 32, LEAST_BYTES + CHANNELS):
        codec = VectorCodec.learn(known, nbytes)
        codes = codec.encode(others)
        assert nbytes - 4 < codec.nbytes <= nbytes and codes.shape == (500, codec.nbytes)
        assert codes.dtype == torch.uint8
        nearness.append(float(cosine_similarity(codec.decode(codes), others).mean()))
    assert nearness == sorted(nearness) and nearness[0] > 0.9 and nearness[-1] > 0.9995


def test_a_code_does_not_depend_on_its_neighbours(vectors):
    codec = VectorCodec.learn(vectors, 12)
    codes = codec.encode(vectors[:50])
    for i in (0, 7, 49):
        assert torch.equal(codec.encode(vectors[i : i + 1])[0], codes[i])
        torch.testing.assert_close(codec.decode(codes[i : i + 1])[0], codec.decode(codes)[i])
    assert codec.encode(vectors[:0]).shape == (0, 12)
    assert codec.decode(codes[:0]).shape == (0, CHANNELS)


def test_what_is_rare_keeps_its_direction():
    """A thing of ten voxels in a room of eight thousand: axes of the whole know nothing of it."""
    room, rare = things(8000, kinds=2), torch.zeros(10, CHANNELS)
    rare[:, 3] = 1
    rare += 0.1 * normalize(things(10, seed=3), dim=1)
    codec = VectorCodec.learn(torch.cat([room, rare]), 8)
    assert cosine_similarity(codec.decode(codec.encode(rare)), rare).min() > 0.97


@pytest.mark.slow
def test_lengths_are_kept_to_a_sixteenth_of_an_octave(vectors):
    codec = VectorCodec.learn(vectors, LEAST_BYTES + CHANNELS)
    for length in (1e-4, 0.3, 1.0, 37.0, 3e4):
        some = normalize(vectors[:200], dim=1) * length
        back = codec.decode(codec.encode(some)).norm(dim=1) / length
        assert 2 ** (-1 / 16) - 0.01 < back.min() and back.max() < 2 ** (1 / 16) + 0.01
    nothing = torch.zeros(3, CHANNELS)
    codes = codec.encode(nothing)
    assert not codec.decode(codes).any()
    for length in (1e-8, 1e15):  # out of range: the nearest length that can be said
        back = codec.decode(codec.encode(normalize(vectors[:9], dim=1) * length))
        assert back.isfinite().all() and cosine_similarity(back, vectors[:9]).min() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 8, 17])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_few_vectors_of_few_numbers(count, channels):
    some = things(count, channels, kinds=3)
    for nbytes in (2, 3, 5, 100):
        codec = VectorCodec.learn(some, nbytes)
        codes = codec.encode(some)
        assert codes.shape == (count, codec.nbytes) and codec.nbytes <= nbytes
        assert cosine_similarity(codec.decode(codes), some).min() > 0.99, "each has its own word"


@pytest.mark.slow
def test_bytes_that_are_many_share_a_book_and_lose_no_more(monkeypatch):
    some = things(4000, 160) * torch.linspace(1, 0.2, 160)
    for nbytes in (34, 42):
        loss = []
        for own in (codec_module._OWN_BOOKS, 1000):
            monkeypatch.setattr(codec_module, "_OWN_BOOKS", own)
            codec = VectorCodec.learn(some[:2000], nbytes)
            back = codec.decode(codec.encode(some[2000:]))
            loss.append(1 - float(cosine_similarity(back, some[2000:]).mean()))
        assert loss[0] < 1.05 * loss[1] + 1e-5


@pytest.mark.slow
def test_a_codec_in_haste_is_a_codec(vectors):
    codec = VectorCodec.learn(vectors[:1000], 16, haste=True)
    back = codec.decode(codec.encode(vectors[1000:]))
    assert cosine_similarity(back, vectors[1000:]).mean() > 0.98


def test_vectors_that_are_all_alike():
    some = torch.ones(500, CHANNELS)
    codec = VectorCodec.learn(some, 20)
    torch.testing.assert_close(codec.decode(codec.encode(some)), some, atol=0.07, rtol=0)
    assert codec.nbytes == LEAST_BYTES, "there is nothing to say of them"


def test_bytes_go_where_they_are_worth_most():
    """Against all ways to share them out."""
    left = codec_module._LEFT
    random = np.random.default_rng(0)
    for _ in range(30):
        variances = sorted(random.lognormal(0, 1.5, 4), reverse=True)
        nbytes = int(random.integers(0, 20))
        shares = codec_module._shared_out(nbytes, variances)
        error = sum(v * left[s] for v, s in zip(variances, shares, strict=True))
        best = min(
            sum(v * left[s] for v, s in zip(variances, some, strict=True))
            for some in itertools.product(left, repeat=4)
            if sum(some) <= nbytes
        )
        assert sum(shares) <= nbytes and error <= best + variances[0] * left[2]
        steps = [sorted(left).index(share) for share in shares]
        assert steps == sorted(steps, reverse=True)


@pytest.mark.slow
def test_the_same_vectors_make_the_same_codec(vectors):
    first, second = (VectorCodec.learn(vectors, 16).encode(vectors) for _ in range(2))
    assert torch.equal(first, second)
    assert 256 <= sample_size(768) < 30_000 and sample_size(1 << 30) == 256
