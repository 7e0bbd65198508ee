# SPDX-License-Identifier: Apache-2.0
"""The CLIP family at other sizes, against a plain formulation; and what must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import random_clip
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_clip import (
    IMAGENET,
    IMAGENET_STD,
    PlainClip,
    pixel_shares,
    position_table,
)
from torch.nn import functional as F

from radseg_ros.datatypes import CheckpointError, ConfigError
from radseg_ros.encoders.clip import scclip
from radseg_ros.encoders.clip.attention import above_mean
from radseg_ros.encoders.clip.towers.clip import positions
from radseg_ros.encoders.protocol import make_encoder

TOLERANCE = 3e-5  # of unit vectors
# width, depth, heads, patch, side, projection, activation
SIZES = {
    "gelu": {"width": 48, "depth": 12, "heads": 3, "patch": 14, "side": 112, "projection": 24,
             "act": "gelu"},
    "deep": {"width": 40, "depth": 13, "heads": 5, "patch": 8, "side": 56, "projection": 48},
    "coarse": {"width": 64, "depth": 12, "heads": 4, "patch": 32, "side": 96, "projection": 64},
}  # fmt: skip


@pytest.fixture(scope="module", params=SIZES)
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("clip") / request.param
    return random_clip.write(made, tokenizer=False, **SIZES[request.param])


def image_of(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """(3, H, W): colour that changes slowly, some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]
    return (smooth + 0.1 * torch.rand(3, height, width, generator=generator)).clamp(0, 1)


def as_rgb(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


def encoder_of(name, folder, **options):
    return make_encoder(name, **{"checkpoint": folder, "device": "cpu", "crop": 0, **options})


def near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance


@pytest.mark.slow
def test_naclip_of_other_sizes(folder):
    plain, encoder = PlainClip(folder), encoder_of("naclip", folder)
    for rows, columns in ((5, 8), (7, 3), (1, 6)):
        image = image_of(rows * plain.patch, columns * plain.patch)
        near(encoder.encode(as_rgb(image)).data, plain.naclip(image))
    near(
        encoder_of("naclip", folder, sigma=1.5).encode(as_rgb(image)).data,
        plain.naclip(image, 1.5),
    )


@pytest.mark.slow
def test_scclip_of_other_sizes(folder):
    plain, encoder = PlainClip(folder), encoder_of("scclip", folder)
    image = image_of(6 * plain.patch, 9 * plain.patch)
    near(encoder.encode(as_rgb(image)).data, plain.scclip(image))


@pytest.mark.slow
def test_resclip_of_other_sizes(folder):
    plain = PlainClip(folder)
    image = image_of(4 * plain.patch, 6 * plain.patch)
    near(encoder_of("resclip", folder, sfr=False).encode(as_rgb(image)).data, plain.rcs(image))
    near(encoder_of("resclip", folder).encode(as_rgb(image)).data, plain.rcs(image))


@pytest.mark.parametrize(("patch", "side"), [(8, 40), (16, 96), (14, 70)])
@pytest.mark.slow
def test_proxyclip_of_other_sizes(folder, tmp_path, patch, side):
    import transformers

    plain = PlainClip(folder)
    proxy = random_clip.write_dino(tmp_path / "dino", patch=patch, side=side)
    whole = math.lcm(plain.patch, patch)  # patches of both
    image = image_of(math.ceil(40 / whole) * whole, math.ceil(80 / whole) * whole)
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    encoder = encoder_of("proxyclip", folder, proxy=proxy)
    model = transformers.ViTModel.from_pretrained(proxy, add_pooling_layer=False).eval()
    table = position_table(model.embeddings.position_embeddings[0], (rows, columns))
    model.embeddings.interpolate_pos_encoding = lambda *given: table[None]
    with torch.no_grad():
        seen = ((image - IMAGENET) / IMAGENET_STD)[None]
        tokens = model(seen, interpolate_pos_encoding=True).last_hidden_state[0, 1:]
    theirs = plain.proxyclip(image, tokens.T.unflatten(1, (rows, columns)))
    wrong = ((encoder.encode(as_rgb(image)).data - theirs).abs() > TOLERANCE).any(0)
    assert wrong.float().mean() <= 0.01


# Windows


@pytest.mark.slow
def test_windows_are_the_mean_of_what_each_sees(folder):
    plain = PlainClip(folder)
    patch = plain.patch
    encoder = encoder_of("naclip", folder, crop=4 * patch, stride=2 * patch)
    image = image_of(6 * patch, 7 * patch)
    total, count = torch.zeros(encoder.channels, 6, 7), torch.zeros(6, 7)
    for y in (0, 2):
        for x in (0, 2, 3):
            window = image[:, y * patch : (y + 4) * patch, x * patch : (x + 4) * patch]
            total[:, y : y + 4, x : x + 4] += plain.naclip(window)
            count[y : y + 4, x : x + 4] += 1
    near(encoder.encode(as_rgb(image)).data, total / count)


@pytest.mark.slow
def test_a_window_larger_than_the_image_is_the_image(folder):
    patch = SIZES[folder.name]["patch"]
    image = as_rgb(image_of(4 * patch, 5 * patch))
    one = encoder_of("naclip", folder).encode(image).data
    assert torch.equal(encoder_of("naclip", folder, crop=20 * patch).encode(image).data, one)
    cut = encoder_of("naclip", folder, crop=4 * patch + 3, stride=10**3).encode(image).data
    assert cut.shape == one.shape, "a crop and a stride are whole patches, and within the crop"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(50, 61), (24, 90), (19, 37), (64, 64)])
def test_scores_of_pixels_of_any_size(tiny, size):
    """Windows begin at any pixel; what is left of a patch is not seen, and stretched over."""
    plain, encoder = PlainClip(tiny), encoder_of("naclip", tiny, crop=24, stride=16)
    image, text = image_of(*size), F.normalize(torch.randn(5, 16), dim=1)
    theirs = pixel_shares(plain, image, text, 24, 16)
    near(encoder.probabilities(as_rgb(image), text), theirs, 1e-4)


@settings(max_examples=15)
@given(height=st.integers(1, 70), width=st.integers(1, 70), crop=st.integers(0, 60))
@pytest.mark.slow
def test_any_image_has_finite_features(tiny, height, width, crop):
    encoder = encoder_of("naclip", tiny, crop=crop, stride=8)
    image = as_rgb(image_of(height, width))
    features = encoder.encode(image).data
    assert features.isfinite().all() and features.shape[1] == max(1, round(height / 8))
    shares = encoder.probabilities(image, torch.eye(features.shape[0])[:3])
    assert shares.isfinite().all() and (shares.sum(0) - 1).abs().max() < 1e-5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    sizes = {"width": 32, "depth": 12, "heads": 2, "patch": 8, "side": 32, "projection": 16}
    return random_clip.write(tmp_path_factory.mktemp("clip") / "tiny", tokenizer=False, **sizes)


@pytest.mark.parametrize("name", ["naclip", "scclip", "resclip", "textregion"])
@pytest.mark.slow
def test_one_colour_and_few_patches_are_no_trouble(tiny, name):
    for side in (3, 8, 16, 48):
        for value in (0.0, 1.0):
            image = np.full((side, side + 5, 3), value, np.float32)
            encoder = encoder_of(name, tiny, crop=64)
            assert encoder.encode(image).data.isfinite().all()
            text = torch.eye(16)[:4]
            assert encoder.probabilities(image, text).isfinite().all()


def test_a_proxy_that_finds_all_alike_leaves_each_to_itself():
    found = above_mean(torch.ones(1, 3, 3), 1.2, 3.0)
    assert torch.equal(found, torch.eye(3)[None])


# Parts


@settings(max_examples=30)
@given(side=st.integers(2, 9), rows=st.integers(1, 14), columns=st.integers(1, 14))
def test_positions_of_any_grid(side, rows, columns):
    table = torch.randn(1 + side * side, 3, generator=torch.Generator().manual_seed(side))
    found = positions(table, (rows, columns))
    assert found.shape == (1 + rows * columns, 3) and torch.equal(found[0], table[0])
    near(found, position_table(table, (rows, columns)), 1e-4)


def test_outliers_are_replaced_by_good_neighbours():
    tokens = torch.randn(1, 48, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens[0, [0, 13]] += 50  # a corner, and one inside
    (found,) = scclip.repaired([tokens], (6, 8))
    near(found[0, 0], tokens[0, [1, 8, 9]].mean(0), 1e-4)
    near(found[0, 13], tokens[0, [4, 5, 6, 12, 14, 20, 21, 22]].mean(0), 1e-4)
    others = [i for i in range(48) if i not in (0, 13)]
    changed = (found[0, others] != tokens[0, others]).any(1).sum()
    assert changed <= 1, "5 % of 48 patches are beyond the quantile"


# Refusals


@pytest.mark.slow
def test_towers_with_too_few_blocks_are_refused(tmp_path):
    folder = random_clip.write(tmp_path / "six", depth=6, tokenizer=False)
    with pytest.raises(CheckpointError, match="SC-CLIP looks into block 10.*this one has 6"):
        encoder_of("scclip", folder)
    with pytest.raises(CheckpointError, match="ResCLIP looks into block 9.*has 6"):
        encoder_of("resclip", folder)
    assert encoder_of("naclip", folder).encode(np.zeros((96, 96, 3), np.uint8)).data.shape[1:] == (
        6,
        6,
    )


def test_options_are_refused_by_name(tiny):
    with pytest.raises(ConfigError, match="unknown option naclip.sigmo; did you mean naclip.sigma"):
        encoder_of("naclip", tiny, sigmo=1)
    with pytest.raises(ConfigError, match="scclip.beta must be in -1..1, got 3"):
        encoder_of("scclip", tiny, beta="3.0")
    with pytest.raises(ConfigError, match="naclip.crop takes int, got"):
        encoder_of("naclip", tiny, crop="wide")
    with pytest.raises(ConfigError, match="did you mean 'naclip'"):
        make_encoder("nclip")
    assert encoder_of("naclip", tiny, sigma="2", keep_block="on").config.keep_block is True
