# SPDX-License-Identifier: Apache-2.0
"""RADSeg against the authors' numbers, against a line-by-line formulation, and in the corners where
it could fail.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import radio_files
import torch
from conftest import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_encoder import PlainEncoder
from small_worlds import here, host
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from radseg_ros.config import Config, RadsegConfig, from_dict
from radseg_ros.datatypes import ConfigError, InputError
from radseg_ros.encoders.protocol import Encoder, make_encoder
from radseg_ros.encoders.radseg import correlation
from radseg_ros.encoders.radseg.backbone import build_radio
from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
from radseg_ros.encoders.radseg.correlation import aggregate, correlate
from radseg_ros.encoders.radseg.linear import joined, linear
from radseg_ros.encoders.radseg.network import Network
from radseg_ros.encoders.windows import corners, resized, stitch
from radseg_ros.segmentation.maps import Segmentation, label_map
from radseg_ros.segmentation.probabilities import probabilities
from radseg_ros.spaces import make_space

pytestmark = pytest.mark.usefixtures("device")
TOLERANCE = 5e-5  # of the reference numbers
LAYOUTS = {
    "torch-hub": None,
    "folder": None,
    "index": radio_files.index_heads,
    "ema": radio_files.as_ema,
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(golden_file("radseg_encoder.npz")) as content:
        return dict(content)


@pytest.fixture(scope="module", params=LAYOUTS)
def checkpoint(request, tmp_path_factory) -> Path:
    hub = golden_file("tiny_radio.pth.tar")
    if request.param == "folder":
        return golden_file("tiny_radio_hf")
    if request.param == "torch-hub":
        return hub
    return radio_files.rewrite(
        hub, tmp_path_factory.mktemp("radio") / "tiny.pth.tar", LAYOUTS[request.param]
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return radio_files.write_small(tmp_path_factory.mktemp("radio") / "small.pth.tar")


def encoder_of(path: Path, **options):
    usual = {"checkpoint": str(path), "device": str(here()), "dtype": "float32"}
    return make_encoder("radseg", **(usual | {"crop": 96, "stride": 48} | options))


def image_of(golden: dict[str, np.ndarray], name: str = "image") -> np.ndarray:
    return golden[name][0].transpose(1, 2, 0)


def aligned(encoder, features: torch.Tensor) -> torch.Tensor:
    return encoder.project(features.flatten(1).T).T.unflatten(1, features.shape[1:])


def assert_near(ours: torch.Tensor, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(host(ours) - theirs).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"crop": 0}, "single"),
        ({}, "slide"),
        ({"stride": 32}, "slide_b"),
    ],
)
def test_reference_features(checkpoint, golden, options, name):
    encoder = encoder_of(checkpoint, **options)
    features = encoder.encode(image_of(golden)).data
    assert_near(features, golden[f"{name}_features"][0])
    assert_near(aligned(encoder, features), golden[f"{name}_aligned"][0])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"crop": 0, "scra": "off", "scga": False}, "plain_features"),
        ({"crop": 0, "scga": "off"}, "scra_only"),
        ({"crop": 0, "scga": "multi_window"}, "scra_only"),
        ({"scga": "multi_window"}, "slide_features"),
        ({"scga": "off"}, "slide_before_scga"),
        ({"stride": 32, "scga": "off"}, "slide_b_before_scga"),
    ],
)
def test_reference_without_parts(golden, options, name):
    assert_near(
        encoder_of(golden_file("tiny_radio.pth.tar"), **options).encode(image_of(golden)).data,
        golden[name][0],
    )


def test_reference_of_an_odd_size_and_of_the_summary(golden):
    encoder = encoder_of(golden_file("tiny_radio.pth.tar"))
    assert_near(encoder.encode(image_of(golden, "odd_image")).data, golden["odd_features"][0])
    rgb = torch.from_numpy(golden["image"][0]).to(here())
    assert_near(encoder.single_pass_features(rgb, scra=False), golden["plain_features"][0])
    assert_near(encoder.single_pass_features(rgb), golden["scra_only"][0])
    assert_near(encoder.project(encoder.single_pass_summary(rgb)[None]), golden["siglip2_summary"])


def test_reference_probabilities(checkpoint, golden):
    encoder = encoder_of(checkpoint)
    text = golden["text_embeds"]
    maps = probabilities(encoder, image_of(golden), torch.from_numpy(text))
    assert_near(maps, golden["prob_probs"][0, 1:])
    same_labels(label_map(maps), golden["prob_pred"][0, 0], maps)
    large = probabilities(encoder, image_of(golden), text, size=(288, 416))
    assert_near(large[:, ::4, ::4], golden["prob_probs_2x"][0, 1:])
    same_labels(Segmentation.of(large).labels(0.35), golden["prob_pred_2x"][0, 0], large, 0.35)


def same_labels(
    ours: torch.Tensor, theirs: np.ndarray, maps: torch.Tensor, threshold: float = 0.0
) -> None:
    """Equal, but where the two best classes, or the best one and the threshold, are nearer than
    rounding.
    """
    ours, maps = ours.cpu(), maps.cpu()
    best, second = maps.topk(2, 0).values
    unsure = ((best - second) < 1e-4) | ((best - threshold).abs() < 1e-4)
    assert not (ours.numpy() != theirs)[~unsure.numpy()].any()


@pytest.mark.parametrize(
    ("size", "crop", "stride", "patch_grid"),
    [
        ((96, 128), 0, 0, (6, 8)),
        ((120, 100), 64, 32, (8, 8)),
        ((64, 64), 64, 64, (4, 4)),
        ((50, 170), 48, 16, (4, 11)),
    ],
)
def test_against_the_formulation_line_by_line(tmp_path, size, crop, stride, patch_grid):
    path = radio_files.write_small(tmp_path / "a.pth.tar", width=96, depth=3, heads=6, grid=20)
    rgb = np.random.default_rng(1).random((*size, 3), np.float32)
    ours = encoder_of(path, crop=crop, stride=stride).encode(rgb).data
    assert ours.shape == (96, *patch_grid)
    torch.testing.assert_close(
        ours.cpu(), PlainEncoder(path, crop, stride).encode(rgb), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize(
    ("size", "stride", "new", "count"),
    [
        ((640, 1136), 112, (784, 1232), 45),
        ((640, 864), 112, (672, 896), 24),
        ((640, 960), 112, (672, 1008), 28),
        ((336, 336), 112, (336, 336), 1),
        ((100, 100), 112, (336, 336), 1),
        ((448, 672), 224, (448, 672), 6),
    ],
)
def test_window_sizes_of_the_paper(size, stride, new, count):
    assert resized(size, 336, stride) == new
    assert len(corners(new, 336, stride)) == count


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6))
def test_stitching_windows_of_a_map_gives_the_map(h, w, crop, stride):
    stride = min(stride, crop)
    size = (max(h, crop), max(w, crop))
    field = torch.arange(2.0 * size[0] * size[1]).view(2, *size)
    places = corners(size, crop, stride)
    assert all(0 <= y <= size[0] - crop and 0 <= x <= size[1] - crop for y, x in places)
    windows = (field[:, y : y + crop, x : x + crop] for y, x in places)
    torch.testing.assert_close(stitch(windows, places, torch.zeros_like(field)), field)


@settings(max_examples=30)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([0, 32, 48]),
    st.sampled_from([16, 32]),
)
def test_resized_images_can_be_cut(h, w, crop, stride):
    new = resized((h, w), crop, stride)
    assert all(side % 16 == 0 and side >= max(crop, 16) for side in new)
    covered = np.zeros(new, bool)
    for y, x in corners(new, crop, stride) if crop else [(0, 0)]:
        assert 0 <= y <= new[0] - crop and 0 <= x <= new[1] - crop and y % 16 == x % 16 == 0
        covered[y : y + (crop or new[0]), x : x + (crop or new[1])] = True
    assert covered.all()


@pytest.mark.parametrize("onednn", [True, False])
@torch.no_grad()
def test_block_by_block_it_is_the_network_of_transformers(monkeypatch, small, onednn):
    torch.manual_seed(0)
    model, images = build_radio(read_checkpoint(small)), torch.rand(2, 3, 48, 80)
    expected = model(images).last_hidden_state
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    torch.testing.assert_close(Network(model).tokens(images), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_by_every_route(bias):
    torch.manual_seed(0)
    layers = [nn.Linear(24, outputs, bias).requires_grad_(False) for outputs in (8, 16)]
    inputs = torch.randn(2, 7, 48)[:, :, ::2]
    made = [layer(inputs) for layer in layers]
    torch.testing.assert_close(linear(joined(layers), inputs), torch.cat(made, 2))
    for layer, outputs in zip(layers, made, strict=True):
        torch.testing.assert_close(linear(layer, inputs, gelu=True), F.gelu(outputs))
        half = linear(layer.bfloat16(), inputs.bfloat16(), gelu=True)
        torch.testing.assert_close(half.float(), F.gelu(outputs), atol=0.02, rtol=0.02)


@pytest.mark.slow
def test_graphs_that_are_written_out_hold_common_operations(small):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = build_radio(read_checkpoint(small))
            self.network = Network(self.model)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network.tokens(images)

    graph = torch.export.export(Tokens(), (torch.rand(1, 3, 32, 32),)).graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert "aten.linear.default" in called
    assert all(name.startswith(("aten.", "<built-in")) for name in called)


def dense(unit: torch.Tensor, values: torch.Tensor, tau: float, mean: float) -> torch.Tensor:
    scores = tau * (unit @ unit.transpose(-2, -1) - mean)
    scores[scores < 0] = -torch.inf
    return scores.softmax(-1) @ values


@pytest.mark.parametrize("block", [1, 7, 60, 1 << 20])
@pytest.mark.parametrize("mean", [None, 0.05])
def test_blocks_do_not_change_the_result(monkeypatch, block, mean):
    monkeypatch.setitem(correlation.BLOCK_ELEMENTS, "cpu", block)
    torch.manual_seed(0)
    unit, values = F.normalize(torch.randn(2, 3, 11, 5), dim=-1), torch.randn(2, 3, 11, 4)
    got = correlate(unit, values, 10.0, None if mean is None else torch.tensor(mean))
    torch.testing.assert_close(got, dense(unit, values, 10.0, mean or 0.0))


def test_aggregation_against_the_definition():
    torch.manual_seed(0)
    features = torch.randn(8, 5, 6) + 0.3
    vectors = features.flatten(1).T
    unit = F.normalize(vectors, dim=-1)
    expected = dense(unit, vectors, 10.0, float((unit @ unit.T).mean()))
    torch.testing.assert_close(aggregate(features, 10.0), expected.T.view_as(features))


@pytest.mark.parametrize(
    "features",
    [
        torch.ones(7, 4, 5),
        torch.zeros(7, 4, 5),
        1e-20 * torch.ones(7, 4, 5),
        torch.full((3, 9, 9), 0.1),
        torch.randn(5, 1, 1),
        torch.cat([torch.zeros(6, 2, 3), torch.ones(6, 2, 3)], 1),
    ],
)
def test_patches_that_are_all_alike_stay_as_they_are(features):
    """The own correlation minus the mean rounds to either side of 0 here: a row without an entry
    would be NaN.
    """
    torch.testing.assert_close(aggregate(features, 10.0), features)


def test_plain_images_give_finite_features(small):
    for value in (0, 128, 255):
        encoder = encoder_of(small)
        features = encoder.encode(np.full((90, 130, 3), value, np.uint8)).data
        assert features.isfinite().all()
        assert encoder.project(features.flatten(1).T).isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Remembers how large the largest result of any operation was."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_matrix_of_all_correlations_never_exists(monkeypatch):
    monkeypatch.setitem(correlation.BLOCK_ELEMENTS, "cpu", 1000)
    with LargestTensor() as seen:
        aggregate(torch.randn(4, 12, 20), 10.0)
    assert (
        seen.elements <= 1000
    )  # 240 patches: a block, or the features; all correlations would be 57 600


def test_bytes_and_floats_are_the_same_image(small):
    rgb = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    encoder = encoder_of(small)
    torch.testing.assert_close(
        encoder.encode(rgb).data, encoder.encode((rgb / 255).astype(np.float32)).data
    )
    flipped = np.ascontiguousarray(rgb[:, ::-1])
    torch.testing.assert_close(encoder.encode(flipped).data, encoder.encode(rgb[:, ::-1]).data)


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4)),
        np.zeros((0, 4, 3), np.uint8),
        np.full((9, 9, 3), 2.0),
        np.full((9, 9, 3), np.nan),
        np.zeros((4, 4, 4)),
    ],
)
def test_what_is_no_image_is_refused(small, rgb):
    with pytest.raises(InputError):
        encoder_of(small).encode(rgb)


def test_it_is_an_encoder(small):
    encoder = encoder_of(small)
    assert isinstance(encoder, Encoder)
    assert encoder.logit_scale == 100 and encoder.background and encoder.device.type == here().type
    assert encoder.sam is None
    sam = encoder_of(small, refine="sam").sam
    assert (sam.channels, sam.config.sam) == (8, "facebook/sam-vit-huge")
    assert sam(np.zeros((9, 9, 3), np.uint8), (64, 96)).shape == (8, 4, 6)


def test_projection_in_parts(small, monkeypatch):
    encoder = encoder_of(small)
    vectors = torch.randn(50, 64)
    whole = encoder.project(vectors)
    monkeypatch.setattr("radseg_ros.encoders.radseg.encoder.VECTORS_AT_ONCE", 7)
    torch.testing.assert_close(encoder.project(vectors.numpy()), whole)
    assert encoder.project(vectors[:0]).shape == (0, 24)
    with pytest.raises(InputError, match=r"\(N, 64\)"):
        encoder.project(vectors[:, :5])


def test_temperatures_and_recursions_matter(small):
    rgb = np.random.default_rng(0).random((96, 96, 3), np.float32)
    variants = [
        {},
        {"tau_scra": 3.0},
        {"tau_scga": 3.0},
        {"recursions": 2},
        {"scra": False},
        {"scga": "off"},
    ]
    results = [encoder_of(small, **options).encode(rgb).data for options in variants]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(results) for b in results[:i])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(small, dtype):
    rgb = np.random.default_rng(0).random((96, 128, 3), np.float32)
    exact, half = encoder_of(small, scga="off"), encoder_of(small, scga="off", dtype=dtype)
    a, b = exact.encode(rgb).data, half.encode(rgb).data
    assert b.dtype == torch.float32
    assert F.cosine_similarity(a.flatten(1), b.flatten(1), dim=0).min() > 0.995


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_questions_run_a_head_of_any_type(small, monkeypatch, dtype):
    monkeypatch.setattr("radseg_ros.spaces.multiplies_bfloat16", lambda: True)
    encoder = encoder_of(small, dtype=dtype)
    vectors = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    asked = make_space(Config(), encoder).answer_vectors(vectors)
    exact = F.normalize(encoder_of(small).project(vectors), dim=1)
    assert F.cosine_similarity(asked, exact).min() > 0.999


def test_presets_and_switches():
    def window(**options):
        return from_dict(RadsegConfig, options, "radseg.").window()

    assert (window(), window(preset="balanced"), window(preset="fast")) == (
        (336, 112),
        (336, 224),
        (0, 0),
    )
    assert (window(preset="fast", crop=96, stride=48), window(crop=96), window(crop=0)) == (
        (96, 48),
        (96, 96),
        (0, 0),
    )
    sides = (RadsegConfig(**options).short_side() for options in ({}, {"preset": "cpu"}))
    assert tuple(sides) == (0, 384)
    assert RadsegConfig(preset="cpu", side=0).short_side() == 0
    paths = from_dict(
        RadsegConfig, {"checkpoint": Path("a.pth.tar"), "text_embeddings": [Path("b.npz"), "c.npz"]}
    )
    assert (paths.checkpoint, paths.text_embeddings) == ("a.pth.tar", ["b.npz", "c.npz"])


@pytest.mark.parametrize(
    ("size", "seen", "windows"),
    [
        ((640, 864), (384, 512), 12),
        ((480, 640), (384, 512), 12),
        ((720, 1280), (384, 688), 15),
        ((240, 320), (384, 384), 9),  # smaller than that: as with any preset
    ],
)
def test_images_are_brought_down(size, seen, windows):
    config = RadsegConfig(preset="cpu")
    assert resized(size, *config.window(), side=config.short_side()) == seen
    assert len(corners(seen, *config.window())) == windows


def test_the_network_sees_a_smaller_image(small, golden):
    rgb = image_of(golden)[:96, :144].astype(np.float32)
    brought = F.interpolate(
        torch.from_numpy(rgb).permute(2, 0, 1)[None], (32, 48), mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    for windows in ({"crop": 0}, {"crop": 16, "stride": 16}):
        ours = encoder_of(small, side=32, **windows).encode(rgb).data
        theirs = encoder_of(small, **windows).encode(brought.numpy()).data
        assert ours.shape[1:] == (2, 3)
        assert (ours - theirs).abs().max() < 1e-5
    enough = encoder_of(small, side=96).encode(rgb).data  # it is never made larger
    assert torch.equal(enough, encoder_of(small).encode(rgb).data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"crop": 100}, "radseg.crop"),
        ({"crop": 96, "stride": 112}, "radseg.stride"),
        ({"stride": 100}, "radseg.stride"),
        ({"scga": "alwys"}, "did you mean 'always'"),
        ({"scra": "maybe"}, "radseg.scra"),
        ({"preset": "papr"}, "did you mean 'paper'"),
        ({"tau_scra": -1.0}, "radseg.tau_scra"),
        ({"recursions": 0}, "recursions"),
        ({"dtype": "float8"}, "radseg.dtype"),
        ({"chekpoint": "x"}, "did you mean radseg.checkpoint"),
        ({"scra": 3}, "radseg.scra"),
        ({"text_embeddings": [3]}, "radseg.text_embeddings"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        from_dict(RadsegConfig, options, "radseg.")


@pytest.mark.parametrize("large, kept", [(1.0, torch.float16), (1e6, torch.bfloat16)])
def test_a_type_of_its_own_choice_keeps_to_its_range(small, tmp_path, monkeypatch, large, kept):
    def grow(content: dict) -> dict:
        weight = next(key for key in content["state_dict"] if key.endswith("blocks.1.mlp.fc1.bias"))
        content["state_dict"][weight] = content["state_dict"][weight].float() + large
        return content

    path = radio_files.rewrite(small, tmp_path / "large.pth.tar", grow)
    monkeypatch.setattr(
        "radseg_ros.encoders.radseg.encoder.number_type", lambda name, device: torch.float16
    )
    encoder = encoder_of(path, dtype="auto")
    assert encoder.dtype == kept
    assert encoder.encode(np.zeros((96, 96, 3), np.uint8)).data.isfinite().all()
    assert encoder_of(path, dtype="float16").dtype == torch.float16, "as it was asked for"


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta"])
def test_devices_that_are_not_here(small, device):
    with pytest.raises(ConfigError, match="radseg.device"):
        encoder_of(small, device=device)
