# SPDX-License-Identifier: Apache-2.0
"""RADSeg+: regions, prompts, SAM's decoder, and the merge of its masks."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import radio_files
import random_sam
import torch
from color_encoder import ColorEncoder
from conftest import golden_file
from damage import altered, damaged
from PIL import Image
from plain_sam import PlainSam
from small_worlds import here
from torch.nn import functional as F

from radseg_ros.cli import segment as segment_cli
from radseg_ros.config import Config, MapConfig, RefineConfig, with_options
from radseg_ros.datatypes import CheckpointError, ConfigError, Frame
from radseg_ros.encoders.protocol import Encoder, make_encoder
from radseg_ros.mapper import Mapper
from radseg_ros.segmentation.maps import Segmentation, label_map
from radseg_ros.segmentation.probabilities import Segmenter, probabilities, probability_map
from radseg_ros.segmentation.refine import (
    Refiner,
    find_regions,
    make_refiner,
    mask_prompts,
    prompts_of,
    refine,
    sam_input_size,
)
from radseg_ros.segmentation.sam_decoder import SamDecoder
from radseg_ros.segmentation.sam_weights import SamWeights, load_sam

SIZE = (96, 128)
ALL, NONE = -1e9, 1e9  # thresholds on the predicted IoU
NEAR = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_sam.write(tmp_path_factory.mktemp("sam"), width=16, features=8, heads=2, mlp=24)


@pytest.fixture(scope="module")
def weights(sam_folder: Path) -> SamWeights:
    return load_sam(str(sam_folder))


@pytest.fixture(scope="module")
def sam(weights: SamWeights) -> SamDecoder:
    return SamDecoder(weights)


@pytest.fixture(scope="module")
def plain(weights: SamWeights) -> PlainSam:
    return PlainSam(weights)


@pytest.fixture(scope="module")
def embedding(sam: SamDecoder) -> torch.Tensor:
    with torch.inference_mode():
        return sam.embed_image(
            torch.randn(sam.features, 48, 64, generator=torch.Generator().manual_seed(0))
        )


def config(**options: object) -> RefineConfig:
    return RefineConfig(**({"min_area": 20, "iou": ALL} | options))


def encoder_of(checkpoint: Path, sam_folder: Path, **options: object) -> Encoder:
    small = {"crop": 96, "stride": 48, "device": str(here()), "dtype": "float32", "offline": True}
    refine = {"refine": "sam", "refine_sam": str(sam_folder), "refine_iou": ALL}
    own = {"checkpoint": str(checkpoint), "refine_min_area": 20}
    return make_encoder("radseg", **(small | refine | own | options))


def stripes(classes: int = 4, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """(Q, H, W): each class is sure of one vertical stripe, unsure elsewhere."""
    labels = torch.arange(size[1]) * classes // size[1]
    logits = 4 * F.one_hot(labels, classes).T[:, None].float().expand(-1, size[0], -1)
    noise = torch.rand(classes, *size, generator=torch.Generator().manual_seed(1))
    return (logits + noise).softmax(0)


def run(
    coarse: torch.Tensor, embedding: torch.Tensor, sam: SamDecoder, options: RefineConfig
) -> Segmentation:
    with torch.inference_mode():
        regions = find_regions(coarse, options.threshold, options.min_area)
        return refine(coarse, regions, embedding, sam, options)


def line_by_line(
    coarse: torch.Tensor,
    embedding: torch.Tensor,
    sam: SamDecoder,
    plain: PlainSam,
    options: RefineConfig,
) -> Segmentation:
    """The method as the specification words it, with transformers' own decoder and the authors'
    order of steps.
    """
    regions = find_regions(coarse, options.threshold, options.min_area)
    boxes, points = prompts_of(regions, sam)
    height, width = sam_input_size(coarse.shape[1:], sam)
    enlarge = partial(F.interpolate, mode="bilinear", align_corners=False)
    refined, masks = torch.zeros_like(coarse), torch.zeros_like(coarse, dtype=torch.bool)
    failed = torch.zeros(coarse.shape[1:], dtype=torch.bool)
    for i, c in enumerate(regions.classes.tolist()):
        mask = mask_prompts(coarse, torch.tensor([c]), sam, options)[0]
        low, iou = plain(embedding, mask, boxes[i : i + 1], points[i : i + 1])
        if iou.item() > options.iou:
            large = enlarge(low[None], (1024, 1024))[..., :height, :width]
            logits = enlarge(large, coarse.shape[1:])[0, 0]
            refined[c] = torch.maximum(refined[c], logits.sigmoid() * coarse[c])
            masks[c] |= logits > 0
        else:
            area = torch.from_numpy(regions.ids == i + 1)[None, None].float()
            failed |= F.interpolate(area, coarse.shape[1:], mode="nearest")[0, 0] > 0
    refined = torch.where(masks, refined, 0.0)
    best = torch.where(refined.sum(0) == 0, label_map(coarse), refined.argmax(0) + 1)
    merged = torch.where(failed, torch.maximum(refined, coarse), refined)
    return Segmentation(torch.where((merged.sum(0) == 0), coarse, merged), best)


def middle_iou(coarse: torch.Tensor, embedding: torch.Tensor, sam: SamDecoder) -> float:
    """A threshold that about half of the regions pass."""
    regions, options = find_regions(coarse, 0.1, 20), config()
    with torch.inference_mode():
        masks = mask_prompts(coarse, torch.from_numpy(regions.classes), sam, options)
        tokens = sam.embed_prompts(*prompts_of(regions, sam))
        decoded = sam.decode(tokens, [sam.prompt_image(embedding, mask) for mask in masks])
    iou = sorted(each.iou for each in decoded)
    n = len(iou) // 2
    return float(iou[n - 1] + iou[n]) / 2


def assert_same(ours: Segmentation, other: Segmentation) -> None:
    """Equal, but for the few pixels where a logit is 0 up to rounding."""
    assert (ours.best == other.best).float().mean() > 0.999
    assert ((ours.probabilities - other.probabilities).abs().amax(0) < 1e-4).float().mean() > 0.999


def test_golden_numbers_of_the_authors(device_for_one: torch.device) -> None:
    golden = np.load(golden_file("radseg_plus.npz"))
    images = np.load(golden_file("radseg_encoder.npz"))
    encoder = encoder_of(
        golden_file("tiny_radio.pth.tar"),
        golden_file("tiny_sam_hf"),
        refine_min_area=60,
        refine_iou=0.6,
    )
    refiner = make_refiner(encoder)
    assert refiner is not None
    sam, features = refiner.sam, refiner.features
    rgb = images["image"][0].transpose(1, 2, 0)
    size = tuple(golden["sam_input_hw"])
    assert sam_input_size(rgb.shape[:2], sam) == size
    with torch.inference_mode():
        neck = sam.embed_image(features(rgb, size))
    theirs = torch.from_numpy(golden["neck"])[0].flatten(1).T
    assert (neck.cpu() - theirs).abs().max() <= 1e-4

    coarse = torch.from_numpy(images["prob_probs"])[0, 1:].to(device_for_one)
    regions = find_regions(coarse, 0.1, 60)
    boxes, points = prompts_of(regions, sam)
    assert np.array_equal(boxes.cpu(), golden["boxes"])
    assert np.array_equal(points.cpu(), golden["points"])
    with torch.inference_mode():
        masks = mask_prompts(coarse, torch.from_numpy(regions.classes), sam, refiner.config)
        prompted = [sam.prompt_image(neck, mask) for mask in masks]
        decoded = sam.decode(sam.embed_prompts(boxes, points), prompted)
    assert np.abs([each.iou for each in decoded] - golden["iou"]).max() <= 1e-4

    refined = probabilities(encoder, rgb, images["text_embeds"], refiner=refiner)
    segmentation = refiner(rgb, probabilities(encoder, rgb, images["text_embeds"]))
    assert torch.equal(segmentation.probabilities, refined)
    labels, refined = segmentation.labels().cpu(), refined.cpu()
    assert (labels == torch.from_numpy(golden["pred"])[0, 0]).float().mean() >= 0.999
    theirs = torch.from_numpy(golden["probs"])[0, 1:]
    known = theirs.amax(0) > 0  # elsewhere we keep the coarse probabilities
    near = (refined[:, ::2, ::2] - theirs).abs().amax(0)[known] < 1e-4
    assert known.float().mean() > 0.5 and near.float().mean() > 0.999


@pytest.mark.parametrize("size", [SIZE, (128, 96), (97, 61)])
def test_equals_the_method_line_by_line(
    size: tuple[int, int], sam: SamDecoder, plain: PlainSam, embedding: torch.Tensor
) -> None:
    coarse = stripes(size=size)
    options = config(iou=middle_iou(coarse, embedding, sam))
    ours = run(coarse, embedding, sam, options)
    assert_same(ours, line_by_line(coarse, embedding, sam, plain, options))
    assert not torch.equal(ours.probabilities, coarse)


def test_batches_do_not_change_the_result(sam: SamDecoder, embedding: torch.Tensor) -> None:
    coarse = stripes(classes=7)
    once = run(coarse, embedding, sam, config(batch=100))
    for batch in (1, 2, 3):
        assert_same(run(coarse, embedding, sam, config(batch=batch)), once)


def test_the_decoder_equals_the_batched_call_of_transformers(
    sam: SamDecoder, plain: PlainSam, embedding: torch.Tensor
) -> None:
    random = torch.Generator().manual_seed(3)
    corners = torch.rand(5, 4, generator=random) * 500
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] + 1], 1)
    points = (boxes[:, :2] + boxes[:, 2:]) / 2
    mask = 0.005 * torch.rand(sam.mask_side, sam.mask_side, generator=random)
    masks, iou = plain(embedding, mask, boxes, points)
    with torch.inference_mode():
        prompted = [sam.prompt_image(embedding, mask)] * 5
        decoded = sam.decode(sam.embed_prompts(boxes, points), prompted)
        ours = torch.stack([sam.mask(each, (1024, 768), (96, 72)) for each in decoded])
    torch.testing.assert_close(torch.tensor([each.iou for each in decoded]), iou, **NEAR)
    theirs = torch.stack([plain.enlarge(low, (1024, 768), (96, 72)) for low in masks])
    torch.testing.assert_close(ours, theirs, **NEAR)


def test_no_kept_region_leaves_everything_coarse(sam: SamDecoder, embedding: torch.Tensor) -> None:
    coarse = stripes()
    refined = run(coarse, embedding, sam, config(iou=NONE))
    assert torch.equal(refined.probabilities, coarse) and torch.equal(
        refined.best, label_map(coarse)
    )


def test_every_region_kept_leaves_no_coarse_probability_inside_a_mask(
    sam: SamDecoder, plain: PlainSam, embedding: torch.Tensor
) -> None:
    coarse = stripes()
    refined = run(coarse, embedding, sam, config())
    assert_same(refined, line_by_line(coarse, embedding, sam, plain, config()))
    untouched = (refined.probabilities == coarse).all(0)
    assert 0 < untouched.float().mean() < 1
    assert (refined.probabilities <= coarse).all()  # a sigmoid times the coarse probability
    assert torch.equal(refined.best, label_map(refined.probabilities))


@pytest.mark.slow
def test_a_hundred_small_regions_of_one_class(sam: SamDecoder, embedding: torch.Tensor) -> None:
    y, x = torch.meshgrid(torch.arange(160), torch.arange(160), indexing="ij")
    dots = (y % 16 < 8) & (x % 16 < 8)
    coarse = torch.stack([torch.where(dots, 0.9, 0.1), torch.where(dots, 0.1, 0.9)])
    regions = find_regions(coarse, 0.1, 9)
    assert (regions.classes == 0).sum() == 100 and (regions.classes == 1).sum() == 1
    refined = run(coarse, embedding, sam, config(min_area=9, batch=32))
    assert (refined.probabilities <= coarse).all() and (refined.probabilities.amax(0) > 0).all()
    assert torch.equal(refined.best, label_map(refined.probabilities))
    assert not torch.equal(refined.probabilities, coarse)


def test_an_all_background_image_is_left_alone(sam: SamDecoder, embedding: torch.Tensor) -> None:
    for coarse in (torch.full((30, *SIZE), 1 / 30), torch.zeros(3, *SIZE)):
        assert len(find_regions(coarse, 0.1, 20)) == 0
        refined = run(coarse, embedding, sam, config())
        assert torch.equal(refined.probabilities, coarse) and torch.equal(
            refined.labels(), label_map(coarse)
        )


def test_regions_are_eight_connected_and_have_their_box_and_peak() -> None:
    coarse = torch.zeros(2, 40, 40)
    coarse[0] = 0.6
    for y, x in ((4, 8), (12, 16)):  # two squares that touch at a corner
        coarse[1, y : y + 8, x : x + 8] = 0.7
    coarse[1, 14:16, 20:22] = 0.9
    coarse[1, 30:34, 30:34] = 0.8  # too small
    regions = find_regions(coarse, 0.1, 5)
    assert regions.classes.tolist() == [0, 1]
    assert regions.boxes[1].tolist() == [4, 2, 11, 9] and regions.points[1].tolist() == [10, 7]
    assert (regions.ids == 2).sum() == 32 and (regions.ids == 0).sum() == 4
    assert find_regions(coarse, 0.65, 5).classes.tolist() == [1]


def test_points_are_the_first_of_equal_maxima() -> None:
    assert find_regions(torch.full((1, 20, 20), 0.5), 0.1, 5).points.tolist() == [[0, 0]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, sam_folder: Path) -> Encoder:
    checkpoint = radio_files.write_small(tmp_path_factory.mktemp("radio") / "radio.pth.tar")
    return encoder_of(checkpoint, sam_folder)


@pytest.fixture(scope="module")
def refiner(encoder: Encoder) -> Refiner:
    made = make_refiner(encoder)
    assert made is not None
    return made


def texts(encoder: Encoder, count: int = 3) -> torch.Tensor:
    return torch.randn(count, encoder.language_channels, generator=torch.Generator().manual_seed(2))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def test_an_image_smaller_than_the_crop(encoder: Encoder, refiner: Refiner) -> None:
    rgb = np.random.default_rng(0).random((50, 64, 3), np.float32)
    maps = probabilities(encoder, rgb, texts(encoder), denoise_threshold=0.0, refiner=refiner)
    assert maps.shape == (3, 50, 64) and maps.isfinite().all()
    assert (maps >= 0).all() and (maps <= 1).all()


def test_an_encoder_without_features_for_sam_is_not_refined(encoder: Encoder) -> None:
    assert make_refiner(ColorEncoder()) is None
    assert make_refiner(encoder_of(encoder.config.checkpoint, Path(), refine="off")) is None


@pytest.mark.slow
def test_a_segmenter_gives_the_coarse_and_the_refined(
    encoder: Encoder, refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = texts(encoder)
    monkeypatch.setattr(encoder, "embed_labels", lambda labels: vectors)
    rgb, classes = noise(96, 128), [["a"], ["b"], ["c"]]
    segmenter = Segmenter(encoder, classes, refiner)
    coarse = segmenter.coarse(rgb)
    assert torch.equal(coarse.probabilities, probabilities(encoder, rgb, vectors))
    expected = refiner(rgb, coarse.probabilities)
    for refined in (segmenter(rgb), segmenter.refine(rgb, coarse)):
        assert torch.equal(refined.probabilities, expected.probabilities)
        assert torch.equal(refined.best, expected.best)
    assert not torch.equal(expected.probabilities, coarse.probabilities)
    plain = Segmenter(encoder, classes)
    assert plain.refine(rgb, coarse) is coarse
    assert torch.equal(plain(rgb).probabilities, coarse.probabilities)


@pytest.mark.slow
def test_a_map_of_probabilities_holds_refined_masks(
    encoder: Encoder, refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, vectors = noise(96, 128), texts(encoder)
    monkeypatch.setattr(encoder, "embed_labels", lambda labels: vectors)
    options = Config(map=MapConfig(space="probability", labels=["a", "b", "c"]), short_side=0)
    mapper = Mapper(options, encoder)
    maps = mapper.space.features(rgb).data
    expected = probability_map(encoder, rgb, vectors, refiner=refiner).data
    # the mapper normalises texts: rounding differs
    assert ((maps - expected).abs().amax(0) < 1e-4).float().mean() > 0.999
    K = np.array([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]])
    mapper.integrate(Frame(0, rgb, np.ones((96, 128), np.float32), K, np.eye(4)))
    assert len(mapper.map) > 100 and mapper.map.snapshot().features.shape[1] == 3
    # such a map does not go on with coarse probabilities
    assert mapper.identity().encoder.endswith("-sam")


@pytest.mark.slow
def test_segment_shows_coarse_and_refined(
    encoder: Encoder, refiner: Refiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = texts(encoder)
    monkeypatch.setattr(encoder, "embed_labels", lambda labels: vectors)
    monkeypatch.setattr(segment_cli, "encoder_from", lambda options: encoder)
    image, out = tmp_path / "image.png", tmp_path / "out"
    Image.fromarray(noise(96, 128)).save(image)
    arguments = [str(image), "--labels", "a,b,c", "--out", str(out), "--refine"]
    assert segment_cli.main([*arguments, "--short-side", "0"]) == 0
    assert Image.open(out / "image_overlay.png").width >= 256
    rgb = noise(96, 128)
    expected = refiner(rgb, probabilities(encoder, rgb, vectors))
    assert np.array_equal(np.asarray(Image.open(out / "image_labels.png")), expected.labels())


def test_a_v4_checkpoint_is_refused_with_the_reason(tmp_path: Path, sam_folder: Path) -> None:
    checkpoint = radio_files.write_small(
        tmp_path / "v4.pth.tar", outputs={"siglip2-g": 24, "dino_v3": 12, "sam3": 8}
    )
    with pytest.raises(CheckpointError, match="SAM 3.*take c-radio_v3-b"):
        encoder_of(checkpoint, sam_folder)


def test_sam_that_does_not_fit_or_is_none_is_refused(tmp_path: Path) -> None:
    checkpoint = radio_files.write_small(tmp_path / "radio.pth.tar")
    other = random_sam.write(tmp_path / "sam", width=16, features=12, heads=2, mlp=24)
    encoder = encoder_of(checkpoint, other)
    with pytest.raises(CheckpointError, match="12 channels, the SAM head of RADIO has 8"):
        make_refiner(encoder)
    (other / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="model.safetensors cannot be read"):
        load_sam(str(other))
    with pytest.raises(CheckpointError, match="offline"):
        load_sam("nobody/no-such-sam", offline=True)


@pytest.mark.slow
def test_odd_sam_models_are_refused_or_used(tmp_path: Path, sam_folder: Path) -> None:
    checkpoint = radio_files.write_small(tmp_path / "radio.pth.tar")
    folder = Path(shutil.copytree(sam_folder, tmp_path / "sam"))
    encoder = encoder_of(checkpoint, folder)
    coarse = torch.zeros(2, 32, 48)
    coarse[0, :, :24] = coarse[1, :, 24:] = 0.9
    rgb = np.zeros((32, 48, 3), np.uint8)

    def used() -> bool:
        try:
            refiner = make_refiner(encoder)
            assert refiner is not None and refiner(rgb, coarse).best.shape == (32, 48)
            return True
        except CheckpointError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            return False

    assert used()
    for name in ("config.json", "model.safetensors"):
        good = (folder / name).read_bytes()
        others = list(damaged(good, 12))
        if name == "config.json":
            others += [json.dumps(value).encode() for value in altered(json.loads(good), 30)]
        for data in others:
            (folder / name).write_bytes(data)
            used()
        (folder / name).write_bytes(good)


@pytest.mark.parametrize(
    ("group", "sizes"),
    [
        ("mask_decoder_config", {"num_hidden_layers": 10**7}),
        ("mask_decoder_config", {"num_hidden_layers": 0}),
        ("prompt_encoder_config", {"image_size": 10**9}),
        ("prompt_encoder_config", {"image_size": -1024}),
        ("prompt_encoder_config", {"patch_size": 0}),
        ("prompt_encoder_config", {"patch_size": 16.5}),
    ],
)
def test_sam_of_sizes_that_cannot_be_is_refused_at_once(
    tmp_path: Path, sam_folder: Path, group: str, sizes: dict[str, float]
) -> None:
    folder = Path(shutil.copytree(sam_folder, tmp_path / "sam"))
    config = json.loads((folder / "config.json").read_text())
    config.setdefault(group, {}).update(sizes)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"not a SAM model"):
        load_sam(str(folder))


def test_options_are_checked() -> None:
    for bad in ({"refine_batch": 0}, {"refine_min_area": 0}, {"refine_threshold": 1.5}):
        name = f"radseg.{next(iter(bad))}"
        with pytest.raises(ConfigError, match=name):
            with_options(Config(), {name: next(iter(bad.values()))})
