# SPDX-License-Identifier: Apache-2.0
"""RADSeg's peers on RADIO against their authors' numbers, against slow formulations, and in the
corners where they could fail.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import plain_peers
import pytest
import radio_files
import torch
from conftest import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_peers import PlainPeer
from torch.nn import functional as F

from radseg_ros.config import ATTENTIONS, RadsegConfig, from_dict
from radseg_ros.datatypes import CheckpointError, ConfigError
from radseg_ros.encoders.feedback import blurred_rows, first_labels, patch_labels, support
from radseg_ros.encoders.gaussian import gaussian
from radseg_ros.encoders.pamr import pamr
from radseg_ros.encoders.protocol import make_encoder
from radseg_ros.encoders.radseg import correlation
from radseg_ros.encoders.radseg.attention.block import plain, prepare, take_apart
from radseg_ros.encoders.radseg.attention.choice import name_suffix
from radseg_ros.encoders.radseg.attention.proxy import TEACHERS, cells, proxy
from radseg_ros.encoders.radseg.attention.resradio import blocks_seen
from radseg_ros.encoders.radseg.backbone import build_radio
from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
from radseg_ros.encoders.radseg.heads import build_head
from radseg_ros.encoders.windows import corners

TOLERANCE = 5e-5  # of the reference numbers
TINY = golden_file("tiny_radio.pth.tar")
PEERS = [name for name in ATTENTIONS if name != "scra"]
RES = {"attention": "resradio", "crop": 0}
LABELLED = {"attention": "resradio", "sfr": True}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """The numbers of the peers, with the image and the texts of RADSeg's own."""
    found: dict[str, np.ndarray] = {}
    for name in ("radseg_encoder", "peers/radio_base_naradio", "peers/radio_derived"):
        with np.load(golden_file(f"{name}.npz")) as content:
            found.update(content)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return radio_files.write_small(tmp_path_factory.mktemp("radio") / "small.pth.tar", depth=4)


def encoder_of(path: Path = TINY, **options):
    return make_encoder(
        "radseg", **({"checkpoint": str(path), "device": "cpu", "crop": 96, "stride": 48} | options)
    )


def seen(encoder, rgb: np.ndarray, text: np.ndarray) -> torch.Tensor:
    """Features; of those that depend on labels with the labels ``text``."""
    found = encoder.encode_for(rgb, text) if encoder.config.sfr else encoder.encode(rgb)
    return found.data


def image_of(golden: dict[str, np.ndarray]) -> np.ndarray:
    return golden["image"][0].transpose(1, 2, 0)


def aligned(encoder, features: torch.Tensor) -> torch.Tensor:
    return encoder.project(features.flatten(1).T).T.unflatten(1, features.shape[1:])


def assert_near(ours: torch.Tensor, theirs: np.ndarray, unsure: float = 0.0) -> None:
    """Within the tolerance; a share of the tokens may be ``unsure``, near a threshold."""
    assert ours.shape == theirs.shape
    off = (ours - torch.as_tensor(theirs)).abs() > TOLERANCE
    assert off.any(0).float().mean() <= unsure


# The authors' numbers


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"attention": "plain", "crop": 0}, "base"),
        ({"crop": 0, "scra": False, "scga": "off"}, "base"),
        ({"attention": "plain"}, "base_slide"),
        ({"attention": "naradio", "crop": 0}, "naradio_rect_fixed"),
        ({"attention": "naradio", "crop": 0, "bias_grid": "published"}, "naradio_rect_official"),
        ({"attention": "naradio"}, "naradio_slide"),
        ({"attention": "naradio", "bias_grid": "published"}, "naradio_slide"),
    ],
)
def test_published_peers(golden, options, name):
    encoder = encoder_of(**options)
    features = encoder.encode(image_of(golden)).data
    assert_near(features, golden[f"{name}_features"][0])
    assert_near(aligned(encoder, features), golden[f"{name}_aligned"][0])


def test_published_cosines(golden):
    encoder = encoder_of(attention="plain", crop=0)
    features = encoder.encode(image_of(golden)).data
    vectors = F.normalize(encoder.project(features.flatten(1).T), dim=1)
    text = F.normalize(torch.from_numpy(golden["text_embeds"]), dim=1)
    cosines = (vectors @ text.T).T.unflatten(1, features.shape[1:])
    assert_near(cosines, golden["base_cos"][0])


def test_published_naradio_of_a_square(golden):
    columns = slice(*golden["square_columns"])
    square = np.ascontiguousarray(image_of(golden)[:, columns])
    for options in ({}, {"bias_grid": "published"}):
        encoder = encoder_of(attention="naradio", crop=0, **options)
        features = encoder.encode(square).data
        assert_near(features, golden["naradio_square_features"][0])
        assert_near(aligned(encoder, features), golden["naradio_square_aligned"][0])
    narrow = encoder_of(attention="naradio", crop=0, sigma=2.0).encode(square).data
    assert_near(narrow, golden["naradio_square_std2_features"][0])


def test_published_gaussians(golden):
    for grid, name, rows in (
        ((9, 9), "naradio_square_bias", slice(None)),
        ((9, 13), "naradio_rect_fixed_bias_row20", slice(20, 21)),
        ((13, 9), "naradio_rect_official_bias_row20", slice(20, 21)),
    ):
        ours = gaussian(grid, 7.0)(rows).numpy()
        np.testing.assert_allclose(ours, golden[name].reshape(ours.shape), atol=1e-6)


@pytest.mark.parametrize("kind", ["dino", "sam"])
@pytest.mark.parametrize(("suffix", "beta"), [("", 1.2), ("_b1", 1.0)])
def test_derived_proxies(golden, kind, suffix, beta):
    encoder = encoder_of(attention=f"proxy_{kind}", crop=0, beta=beta)
    features = encoder.encode(image_of(golden)).data
    name = f"proxyradio_{kind}{suffix}"
    assert_near(features, golden[f"{name}_features"][0], unsure=0.01)
    assert_near(aligned(encoder, features), golden[f"{name}_aligned"][0], unsure=0.01)


@pytest.mark.parametrize("kind", ["dino", "sam"])
@torch.no_grad()
def test_derived_proxies_step_by_step(golden, kind):
    checkpoint = read_checkpoint(TINY)
    model = build_radio(checkpoint)
    tokens = torch.from_numpy(golden["last_block_input"])
    block = take_apart(prepare(model.encoder.layer[-1]), tokens, tokens.shape[1] - 117, (9, 13))
    head = build_head(checkpoint.feature_heads[TEACHERS[f"proxy_{kind}"]], kind)
    vectors = head(block.complete(plain(block)))[0].T.unflatten(1, (9, 13))
    assert_near(vectors, golden[f"proxyradio_{kind}_proxy"][0])
    for suffix, beta in (("", 1.2), ("_b1", 1.0)):
        attended = proxy(block, head, beta, 3.0)[0]
        theirs = golden[f"proxyradio_{kind}{suffix}_attn_out"][0]
        assert_near(attended.T, theirs.T, unsure=0.01)


RESRADIO = {
    "resradio": {},
    "resradio_t2": {"tau_r": 2.0},
    "resradio_thd90": {"sfr_threshold": 0.9},
}


@pytest.mark.parametrize("name", RESRADIO)
def test_derived_resradio(golden, name):
    image, text = image_of(golden), golden["text"]
    encoder = encoder_of(**RES, sfr=True, **RESRADIO[name])
    features = encoder.encode_for(image, text).data
    assert_near(features, golden[f"{name}_features"][0])
    assert_near(aligned(encoder, features), golden[f"{name}_aligned"][0])
    first = golden[f"{name}_rcs_features"][0]
    assert_near(encoder.encode(image).data, first)


@pytest.mark.parametrize("name", RESRADIO)
def test_derived_resradio_step_by_step(golden, name):
    own = {key: value for key, value in RESRADIO[name].items() if key == "tau_r"}
    encoder = encoder_of(**RES, **own)
    first = encoder.encode(image_of(golden)).data
    assert_near(first, golden[f"{name}_rcs_features"][0])
    vectors = F.normalize(encoder.project(first.flatten(1).T), dim=1)
    text = F.normalize(torch.from_numpy(golden["text"]), dim=1)
    cosines = (vectors @ text.T).T.unflatten(1, first.shape[1:])
    mean, std = (
        torch.tensor(numbers).view(3, 1, 1)
        for numbers in (
            (0.48145466, 0.4578275, 0.40821073),
            (0.26862954, 0.26130258, 0.27577711),
        )
    )
    seen = (torch.from_numpy(golden["image"][0]) - mean) / std
    threshold = RESRADIO[name].get("sfr_threshold", 0.25)
    labels = first_labels(cosines, seen, 100.0, threshold)
    assert np.array_equal(labels.numpy(), golden[f"{name}_labels"])
    rows = blurred_rows(support(labels), 7.0)
    np.testing.assert_allclose(rows.numpy(), golden[f"{name}_sfr"], atol=1e-6)


# Slow formulations


SIZES: dict[str, dict[str, int]] = {
    "six heads": {"width": 96, "heads": 6},
    "no registers": {"prefix": 4},
    "one token before the patches": {"prefix": 1},
    "patches of 8 px": {"patch": 8, "depth": 5},
    "patches of 14 px": {"patch": 14},
    "without LayerScale": {"layer_scale": False, "depth": 7},
}


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in SIZES if "8 px" not in case]


@pytest.mark.parametrize("case", ["patches of 8 px", *SLOW])
def test_against_formulations_line_by_line(tmp_path, case):
    path = radio_files.write_small(tmp_path / "a.pth.tar", **({"depth": 3} | SIZES[case]))
    slow = PlainPeer(path)
    h, w = 3, 5
    rgb = np.random.default_rng(1).random((h * slow.patch, w * slow.patch, 3), np.float32)
    image = torch.from_numpy(rgb).permute(2, 0, 1)
    seen = blocks_seen(len(slow.model.encoder.layer))
    expected = {
        "plain": slow.inputs(image)[-1][slow.prefix :],
        "naradio": slow.naradio(image, 7.0),
        "resradio": slow.resradio(image, seen),
        "proxy_dino": slow.proxy(image, "dino_v2"),
        "proxy_sam": slow.proxy(image, "sam"),
    }
    assert expected.keys() == set(PEERS)
    for attention, features in expected.items():
        found = encoder_of(path, attention=attention, crop=0).encode(rgb).data
        torch.testing.assert_close(
            found.flatten(1).T, features, atol=TOLERANCE, rtol=0, msg=lambda m, a=attention: a + m
        )
    published = encoder_of(path, attention="naradio", crop=0, bias_grid="published", sigma=1.5)
    torch.testing.assert_close(
        published.encode(rgb).data.flatten(1).T, slow.naradio(image, 1.5, True), atol=5e-5, rtol=0
    )


@pytest.mark.slow
def test_a_window_is_seen_as_an_image_of_its_own(small):
    """Means and labels are those of each window, not of the batch."""
    rgb = np.random.default_rng(2).random((96, 160, 3), np.float32)
    text = np.random.default_rng(3).normal(size=(5, 24)).astype(np.float32)
    for options in [*({"attention": name} for name in PEERS), LABELLED]:
        whole = seen(encoder_of(small, crop=64, stride=32, **options), rgb, text)
        alone = encoder_of(small, crop=0, **options)
        total, count = torch.zeros_like(whole), torch.zeros(whole.shape[1:])
        for y, x in corners((96, 160), 64, 32):
            part = np.ascontiguousarray(rgb[y : y + 64, x : x + 64])
            cut = (slice(y // 16, y // 16 + 4), slice(x // 16, x // 16 + 4))
            total[(slice(None), *cut)] += seen(alone, part, text)
            count[cut] += 1
        torch.testing.assert_close(whole, total / count, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("space", ["rcs", "sfr"])
def test_resradio_with_labels_line_by_line(small, space):
    slow = PlainPeer(small)
    rgb = np.random.default_rng(4).random((80, 112, 3), np.float32)
    image = torch.from_numpy(rgb).permute(2, 0, 1)
    text = np.random.default_rng(5).normal(size=(4, 24)).astype(np.float32)
    options = {"attention": "resradio", "crop": 0, "tau_r": 1.3, "lambda_r": 0.4}
    blocks = range(1, 3)
    mixing = {"tau_r": 1.3, "lambda_r": 0.4}
    first = slow.resradio(image, blocks, **mixing)
    if space == "rcs":
        found = encoder_of(small, **options, first_block=2, last_block=3).encode(rgb).data
        torch.testing.assert_close(found.flatten(1).T, first, atol=TOLERANCE, rtol=0)
        return
    encoder = encoder_of(
        small, **options, sfr=True, first_block=2, last_block=3, tau_s=1.7, lambda_s=0.6
    )
    cosines = F.normalize(encoder.project(first), dim=1) @ F.normalize(torch.tensor(text), dim=1).T
    scores = F.interpolate(cosines.T.unflatten(1, (5, 7))[None], (80, 112), mode="bilinear")
    seen = slow.model.input_conditioner(image[None])[0]
    votes = plain_peers.patch_votes((100 * pamr(seen, scores[0])).softmax(0), 0.25, 16)
    feedback = plain_peers.blurred_matrix(plain_peers.support_matrix(votes), 7.0)
    feedback = feedback / feedback.max()
    assert len({label for row in votes for label in row}) > 1
    expected = slow.resradio(image, blocks, **mixing, feedback=feedback, tau_s=1.7, lambda_s=0.6)
    found = encoder.encode_for(rgb, text).data
    torch.testing.assert_close(found.flatten(1).T, expected, atol=TOLERANCE, rtol=0)


@settings(max_examples=12)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99), st.floats(0.3, 9)
)
def test_support_and_blur_against_loops(h, w, names, seed, sigma):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, names, (h, w)))
    expected = plain_peers.support_matrix(labels.tolist())
    torch.testing.assert_close(support(labels), expected)
    torch.testing.assert_close(
        blurred_rows(support(labels), sigma), plain_peers.blurred_matrix(expected, sigma)
    )


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_votes_against_loops(h, w, names, seed):
    raw = np.random.default_rng(seed).integers(0, 3, (names, 4 * h, 4 * w)).astype(np.float32)
    maps = torch.from_numpy(raw).softmax(0)
    found = patch_labels(maps, 0.45, 4)
    assert found.tolist() == plain_peers.patch_votes(maps, 0.45, 4)


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 7), st.floats(0.2, 20))
def test_gaussians_against_loops(h, w, sigma):
    whole = plain_peers.gaussian_matrix(h, w, sigma)
    torch.testing.assert_close(gaussian((h, w), sigma)(slice(None)), whole)
    rows = slice(h * w // 3, h * w // 2 + 1)
    torch.testing.assert_close(gaussian((h, w), sigma)(rows), whole[rows])


def test_scores_flow_between_equal_colours():
    """Two halves of one colour each: scores become those of the half; a flat image blurs."""
    image = torch.zeros(3, 48, 64)
    image[:, :, 32:] = 1.0
    maps = torch.rand(2, 12, 16, generator=torch.Generator().manual_seed(0))
    maps[0, :, 8:] += 5
    out = pamr(image, maps, steps=10, dilations=(8, 16))
    assert (out[0, :, :32] < 2).all() and (out[0, :, 32:] > 4).all()
    torch.testing.assert_close(pamr(image, torch.ones(1, 3, 4)), torch.ones(1, 48, 64))
    still = pamr(image, maps, steps=0)
    large = F.interpolate(maps[None], (48, 64), mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(still, large)


# Corners


@pytest.mark.slow
def test_blocks_of_rows_do_not_change_the_result(small, monkeypatch):
    rgb = np.random.default_rng(6).random((64, 96, 3), np.float32)
    text = np.random.default_rng(3).normal(size=(5, 24)).astype(np.float32)
    encoders = [
        encoder_of(small, crop=crop, stride=32, **options)
        for crop in (0, 64)
        for options in [*({"attention": name} for name in PEERS), LABELLED]
    ]
    expected = [seen(encoder, rgb, text) for encoder in encoders]
    monkeypatch.setitem(correlation.BLOCK_ELEMENTS, "cpu", 100)
    for encoder, features in zip(encoders, expected, strict=True):
        torch.testing.assert_close(seen(encoder, rgb, text), features, atol=1e-5, rtol=0)


def test_proxies_that_are_all_alike_leave_each_patch_its_own_value(small):
    """RADIO's vectors can lie in a narrow cone: then beta mean(S) >= 1, which nothing exceeds."""
    model = build_radio(read_checkpoint(small))
    block = take_apart(prepare(model.encoder.layer[-1]), torch.randn(2, 8 + 12, 64), 8, (3, 4))
    with torch.no_grad():
        values = block.patches(block.value)
        cases = {torch.ones: values, torch.zeros: values.mean(2, keepdim=True).expand_as(values)}
        for same, expected in cases.items():
            out = proxy(block, lambda patches, same=same: same(2, 12, 5), 1.2, 3.0)
            torch.testing.assert_close(out, block.merge(expected))


@pytest.mark.slow
def test_plain_images_give_finite_features(small):
    for name in PEERS:
        for crop in (0, 64):
            encoder = encoder_of(small, attention=name, crop=crop, stride=min(32, crop))
            features = encoder.encode(np.full((70, 90, 3), 128, np.uint8)).data
            assert features.isfinite().all()


def test_a_feature_head_that_upsamples(tmp_path):
    """Proxies of twice as many cells: values in between, and the mean of a patch's cells."""
    path = radio_files.write_small(tmp_path / "up.pth.tar", upsampling={"dino_v2": 2})
    slow = PlainPeer(path)
    rgb = np.random.default_rng(7).random((48, 64, 3), np.float32)
    image = torch.from_numpy(rgb).permute(2, 0, 1)
    with torch.no_grad():
        *_, tokens, last = slow.inputs(image)
        vectors = slow.feature_head("dino_v2")(last[8:])
        fine = torch.zeros(6, 8, 12)
        for y in range(6):
            for x in range(8):
                start = 12 * (2 * (y % 2) + x % 2)
                fine[y, x] = vectors[y // 2 * 4 + x // 2, start : start + 12]
        torch.testing.assert_close(cells(vectors[None], (3, 4), 2)[0], fine.flatten(0, 1))
        _, _, v = slow.qkv(-1, tokens)
        maps = v[:, 8:].transpose(1, 2).unflatten(2, (3, 4))
        between = F.interpolate(maps, (6, 8), mode="bilinear").flatten(2).transpose(1, 2)
        heads = slow.proxy_weights(fine.flatten(0, 1), 1.2, 3.0) @ between
        heads = heads.unflatten(1, (3, 2, 4, 2)).mean((2, 4)).flatten(1, 2)
        expected = slow.finish(tokens, F.pad(heads, (0, 0, 8, 0)))
    found = encoder_of(path, attention="proxy_dino", crop=0).encode(rgb).data
    torch.testing.assert_close(found.flatten(1).T, expected, atol=TOLERANCE, rtol=0)
    assert encoder_of(path, attention="proxy_sam").encode(rgb).data.isfinite().all()


@pytest.mark.parametrize("factor", [0, 5, 1000])
def test_a_feature_head_that_cannot_upsample_so(small, tmp_path, factor):
    def say_so(content):
        for teacher in content["args"].teachers:
            teacher["fd_upsample_factor"] = factor or -1

    path = radio_files.rewrite(small, tmp_path / "odd.pth.tar", say_so)
    with pytest.raises(CheckpointError, match="feature head dino_v2 is said to upsample"):
        encoder_of(path, attention="proxy_dino")


def test_checkpoints_that_lack_the_head(tmp_path, small):
    v4 = radio_files.write_small(
        tmp_path / "v4.pth.tar", outputs={"siglip2-g": 24, "dino_v3": 12, "sam3": 8}
    )
    for name, teacher in TEACHERS.items():
        with pytest.raises(
            CheckpointError,
            match=f"no feature head '{teacher}'; it has siglip2-g, dino_v3, sam3;.*c-radio_v3-b",
        ):
            encoder_of(v4, attention=name)
    for name in ("plain", "naradio", "resradio"):
        assert encoder_of(v4, attention=name).name.endswith(name)

    def without(content):
        state = content["state_dict"]
        for key in [key for key in state if key.startswith("_feature_projections")]:
            state.pop(key)

    bare = radio_files.rewrite(small, tmp_path / "bare.pth.tar", without)
    with pytest.raises(
        CheckpointError,
        match="it has none; radseg.attention proxy_dino needs it: the file with the heads is",
    ):
        encoder_of(bare, attention="proxy_dino")


@pytest.mark.slow
def test_heads_by_index_and_in_folders_serve_as_proxies(small, tmp_path):
    rgb = np.random.default_rng(8).random((64, 64, 3), np.float32)
    expected = encoder_of(small, attention="proxy_sam").encode(rgb).data
    index = radio_files.rewrite(small, tmp_path / "index.pth.tar", radio_files.index_heads)
    folder = radio_files.as_folder(small, tmp_path / "folder")
    for path in (index, folder):
        found = encoder_of(path, attention="proxy_sam").encode(rgb).data
        torch.testing.assert_close(found, expected)


def test_names_keep_maps_apart(small):
    marks = {name: name_suffix(RadsegConfig(attention=name)) for name in ATTENTIONS}
    assert marks == {"scra": "", **{name: f"-{name}" for name in PEERS}}
    labelled = encoder_of(small, attention="resradio", sfr=True)
    assert labelled.name == encoder_of(small).name + "-resradio-sfr"


@pytest.mark.slow
def test_aggregation_is_of_radseg_unless_it_is_asked_for(small):
    rgb = np.random.default_rng(9).random((64, 96, 3), np.float32)

    def of(**options):
        return encoder_of(small, crop=0, **options).encode(rgb).data

    for name in ("plain", "proxy_sam"):
        bare, gathered = of(attention=name), of(attention=name, scga="always")
        torch.testing.assert_close(bare, of(attention=name, scga="off"))
        torch.testing.assert_close(gathered, correlation.aggregate(bare, 10.0))
        assert (bare - gathered).abs().max() > 1e-3
    assert RadsegConfig().aggregation() == "always"
    torch.testing.assert_close(of(), of(scga="always"))
    torch.testing.assert_close(of(scra=False, scga="off"), of(attention="plain"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attention": "naradi"}, "did you mean 'naradio'"),
        ({"attention": "naradio", "tau_scra": 3.0}, "tau_scra .* radseg.attention scra, not"),
        ({"attention": "plain", "scra": False}, "radseg.scra .* scra, not of plain"),
        ({"sigma": 5.0}, "radseg.sigma .* naradio and resradio, not of scra"),
        ({"attention": "proxy_dino", "sigma": 5.0}, "radseg.sigma"),
        ({"attention": "naradio", "beta": 1.0}, "radseg.beta .* proxy_dino and proxy_sam"),
        ({"attention": "resradio", "bias_grid": "published"}, "radseg.bias_grid"),
        ({"attention": "resradio", "tau_s": 1.0}, "radseg.tau_s is an option of radseg.sfr"),
        ({"attention": "naradio", "sfr": True}, "radseg.sfr .* resradio"),
        ({"attention": "resradio", "lambda_r": 1.5}, "radseg.lambda_r must be in 0..1"),
        ({"attention": "naradio", "sigma": 0.0}, "radseg.sigma"),
        ({"attention": "proxy_sam", "gamma": -1.0}, "radseg.gamma"),
    ],
)
def test_options_of_other_attentions_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        from_dict(RadsegConfig, options, "radseg.")


def test_blocks_that_resradio_looks_at(small, tmp_path):
    assert [blocks_seen(depth) for depth in (12, 24, 32)] == [
        range(5, 9), range(10, 18), range(13, 24)
    ]  # fmt: skip
    assert [blocks_seen(depth) for depth in (2, 3, 4, 5, 6)] == [
        range(1), range(2), range(1, 3), range(2, 3), range(2, 4)
    ]  # fmt: skip
    assert blocks_seen(12, 2, 3) == range(1, 3)
    for wrong in ({"first_block": 3, "last_block": 2}, {"last_block": 4}, {"first_block": 9}):
        with pytest.raises(ConfigError, match="blocks before the last one of 4"):
            encoder_of(small, attention="resradio", **wrong)
    one = radio_files.write_small(tmp_path / "one.pth.tar", depth=1)
    with pytest.raises(ConfigError, match="before the last one of 1"):
        encoder_of(one, attention="resradio")
    two = radio_files.write_small(tmp_path / "two.pth.tar", depth=2)
    assert encoder_of(two, attention="resradio").name.endswith("resradio")


def test_windows_must_be_of_whole_patches(tmp_path):
    path = radio_files.write_small(tmp_path / "p14.pth.tar", patch=14)
    for wrong in ({"crop": 96, "stride": 96}, {"crop": 112, "stride": 48}):
        with pytest.raises(ConfigError, match="14 px that a patch of this checkpoint has"):
            encoder_of(path, **wrong)
    rgb = np.random.default_rng(0).random((100, 120, 3), np.float32)
    for name in ATTENTIONS:
        encoder = encoder_of(path, attention=name, crop=112, stride=112)
        assert encoder.encode(rgb).data.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", PEERS)
def test_half_precision_is_near(small, name, dtype):
    rgb = np.random.default_rng(0).random((96, 128, 3), np.float32)
    a = encoder_of(small, attention=name).encode(rgb).data
    b = encoder_of(small, attention=name, dtype=dtype).encode(rgb).data
    assert b.dtype == torch.float32
    assert F.cosine_similarity(a.flatten(1), b.flatten(1), dim=0).median() > 0.99


@pytest.mark.slow
def test_compiled_networks_of_all_attentions_in_one_process(small, monkeypatch):
    """Several encoders share their code, not what is compiled of it; images have several sizes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    rgb = np.random.default_rng(0).random((64, 128, 3), np.float32)
    changes = ({"tau_scra": 5.0}, {"attention": "naradio", "sigma": 5.0})
    for options in [*({"attention": name} for name in ATTENTIONS), *changes]:
        own, compiled = (
            encoder_of(small, crop=64, stride=32, **options, compile=on) for on in (False, True)
        )
        for part in (rgb[:, :64], rgb[:, :96], rgb):
            torch.testing.assert_close(compiled.encode(part).data, own.encode(part).data)
