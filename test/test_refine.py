# SPDX-License-Identifier: Apache-2.0
"""RADSeg+: regions, prompts, SAM's decoder, and the merge of its masks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import radio_files
import random_sam
import torch
from conftest import golden_file
from PIL import Image
from torch.nn import functional as F

from radseg_ros.cli import segment as segment_cli
from radseg_ros.config import Config, ConfigError, MapConfig, RadsegConfig
from radseg_ros.datatypes import CheckpointError, Frame
from radseg_ros.encoders.radseg.encoder import RadsegEncoder
from radseg_ros.mapper import Mapper
from radseg_ros.segmentation.probabilities import label_map
from radseg_ros.segmentation.refine import (
    Refinement,
    find_regions,
    mask_prompts,
    prompts_of,
    refine,
    sam_input_size,
)
from radseg_ros.segmentation.sam_decoder import SamDecoder, load_sam

SIZE = (96, 128)
ALL, NONE = -1e9, 1e9  # thresholds on the predicted IoU


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_sam.write(tmp_path_factory.mktemp("sam"), width=16, features=8, heads=2, mlp=24)


@pytest.fixture(scope="module")
def sam(sam_folder: Path) -> SamDecoder:
    return load_sam(str(sam_folder))


@pytest.fixture(scope="module")
def embedding(sam: SamDecoder) -> torch.Tensor:
    with torch.inference_mode():
        return sam.embed_image(
            torch.randn(sam.features, 48, 64, generator=torch.Generator().manual_seed(0))
        )


def config(**options: object) -> RadsegConfig:
    return RadsegConfig(**({"refine": "sam", "refine_min_area": 20, "refine_iou": ALL} | options))


def stripes(classes: int = 4, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """(Q, H, W): each class is sure of one vertical stripe, unsure elsewhere."""
    labels = torch.arange(size[1]) * classes // size[1]
    logits = 4 * F.one_hot(labels, classes).T[:, None].float().expand(-1, size[0], -1)
    noise = torch.rand(classes, *size, generator=torch.Generator().manual_seed(1))
    return (logits + noise).softmax(0)


def run(
    coarse: torch.Tensor, embedding: torch.Tensor, sam: SamDecoder, options: RadsegConfig
) -> Refinement:
    with torch.inference_mode():
        regions = find_regions(coarse, options.refine_threshold, options.refine_min_area)
        return refine(coarse, regions, embedding, sam, options)


def line_by_line(
    coarse: torch.Tensor, embedding: torch.Tensor, sam: SamDecoder, options: RadsegConfig
) -> Refinement:
    """The method as the specification words it, with transformers' own decoder and the authors'
    order of steps.
    """
    regions = find_regions(coarse, options.refine_threshold, options.refine_min_area)
    boxes, points = prompts_of(regions, sam)
    side, height, width = sam.grid, *sam_input_size(coarse.shape[1:], sam)
    as_grid = lambda x: x.T.reshape(1, -1, side, side)  # noqa: E731
    refined, masks = torch.zeros_like(coarse), torch.zeros_like(coarse, dtype=torch.bool)
    failed = torch.zeros(coarse.shape[1:], dtype=torch.bool)
    for i, c in enumerate(regions.classes.tolist()):
        dense = sam.embed_masks(mask_prompts(coarse, torch.tensor([c]), sam, options))[0]
        sparse, _ = sam.prompts(
            points[None, i : i + 1, None], torch.ones(1, 1, 1), boxes[None, i : i + 1], None
        )
        low, iou = sam.decoder(
            as_grid(embedding),
            as_grid(sam.grid_position),
            sparse,
            as_grid(dense),
            multimask_output=False,
        )
        if iou.item() > options.refine_iou:
            large = F.interpolate(low[0], (1024, 1024), mode="bilinear", align_corners=False)[
                ..., :height, :width
            ]
            logits = F.interpolate(large, coarse.shape[1:], mode="bilinear", align_corners=False)[
                0, 0
            ]
            refined[c] = torch.maximum(refined[c], logits.sigmoid() * coarse[c])
            masks[c] |= logits > 0
        else:
            area = torch.from_numpy(regions.ids == i + 1)[None, None].float()
            failed |= F.interpolate(area, coarse.shape[1:], mode="nearest")[0, 0] > 0
    refined = torch.where(masks, refined, 0.0)
    best = torch.where(refined.sum(0) == 0, label_map(coarse), refined.argmax(0) + 1)
    merged = torch.where(failed, torch.maximum(refined, coarse), refined)
    return Refinement(torch.where((merged.sum(0) == 0), coarse, merged), best)


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


def assert_same(ours: Refinement, other: Refinement) -> None:
    """Equal, but for the few pixels where a logit is 0 up to rounding."""
    assert (ours.best == other.best).float().mean() > 0.999
    assert ((ours.probabilities - other.probabilities).abs().amax(0) < 1e-4).float().mean() > 0.999


def test_golden_numbers_of_the_authors() -> None:
    golden, images = (
        np.load(golden_file("radseg_plus.npz")),
        np.load(golden_file("radseg_encoder.npz")),
    )
    options = RadsegConfig(
        checkpoint=str(golden_file("tiny_radio.pth.tar")),
        crop=96,
        stride=48,
        device="cpu",
        offline=True,
        refine="sam",
        refine_sam=str(golden_file("tiny_sam_hf")),
        refine_min_area=60,
        refine_iou=0.6,
    )
    encoder = RadsegEncoder(options)
    refiner = encoder.refiner
    assert refiner is not None
    rgb = images["image"][0].transpose(1, 2, 0)
    size = tuple(golden["sam_input_hw"])
    assert sam_input_size(rgb.shape[:2], refiner.sam) == size
    neck = refiner.embed(torch.from_numpy(images["image"][0]), size)
    assert (neck - torch.from_numpy(golden["neck"])[0].flatten(1).T).abs().max() <= 1e-4

    coarse = torch.from_numpy(images["prob_probs"])[0, 1:]
    regions = find_regions(coarse, 0.1, 60)
    boxes, points = prompts_of(regions, refiner.sam)
    assert np.array_equal(boxes, golden["boxes"]) and np.array_equal(points, golden["points"])
    with torch.inference_mode():
        masks = mask_prompts(coarse, torch.from_numpy(regions.classes), refiner.sam, options)
        prompted = [refiner.sam.prompt_image(neck, mask) for mask in masks]
        decoded = refiner.sam.decode(refiner.sam.embed_prompts(boxes, points), prompted)
    assert np.abs([each.iou for each in decoded] - golden["iou"]).max() <= 1e-4

    probabilities = encoder.probabilities(rgb, images["text_embeds"])
    maps = RadsegEncoder(dataclasses.replace(options, refine="off")).probabilities(
        rgb, images["text_embeds"]
    )
    refined = encoder.refine(rgb, maps)
    assert refined is not None
    assert torch.equal(refined.probabilities, probabilities)
    assert (refined.labels() == torch.from_numpy(golden["pred"])[0, 0]).float().mean() >= 0.999
    theirs = torch.from_numpy(golden["probs"])[0, 1:]
    known = theirs.amax(0) > 0  # elsewhere we keep the coarse probabilities
    near = (probabilities[:, ::2, ::2] - theirs).abs().amax(0)[known] < 1e-4
    assert known.float().mean() > 0.5 and near.float().mean() > 0.999


@pytest.mark.parametrize("size", [SIZE, (128, 96), (97, 61)])
def test_equals_the_method_line_by_line(
    size: tuple[int, int], sam: SamDecoder, embedding: torch.Tensor
) -> None:
    coarse = stripes(size=size)
    options = config(refine_iou=middle_iou(coarse, embedding, sam))
    ours = run(coarse, embedding, sam, options)
    assert_same(ours, line_by_line(coarse, embedding, sam, options))
    assert not torch.equal(ours.probabilities, coarse)


def test_batches_do_not_change_the_result(sam: SamDecoder, embedding: torch.Tensor) -> None:
    coarse = stripes(classes=7)
    once = run(coarse, embedding, sam, config(refine_batch=100))
    for batch in (1, 2, 3):
        assert_same(run(coarse, embedding, sam, config(refine_batch=batch)), once)


def test_no_kept_region_leaves_everything_coarse(sam: SamDecoder, embedding: torch.Tensor) -> None:
    coarse = stripes()
    refined = run(coarse, embedding, sam, config(refine_iou=NONE))
    assert torch.equal(refined.probabilities, coarse) and torch.equal(
        refined.best, label_map(coarse)
    )


def test_every_region_kept_leaves_no_coarse_probability_inside_a_mask(
    sam: SamDecoder, embedding: torch.Tensor
) -> None:
    coarse = stripes()
    refined = run(coarse, embedding, sam, config())
    assert_same(refined, line_by_line(coarse, embedding, sam, config()))
    untouched = (refined.probabilities == coarse).all(0)
    assert 0 < untouched.float().mean() < 1
    assert (refined.probabilities <= coarse).all()  # a sigmoid times the coarse probability
    assert torch.equal(refined.best, label_map(refined.probabilities))


def test_hundreds_of_small_regions_of_one_class(sam: SamDecoder, embedding: torch.Tensor) -> None:
    y, x = torch.meshgrid(torch.arange(240), torch.arange(240), indexing="ij")
    dots = (y % 16 < 8) & (x % 16 < 8)
    coarse = torch.stack([torch.where(dots, 0.9, 0.1), torch.where(dots, 0.1, 0.9)])
    regions = find_regions(coarse, 0.1, 9)
    assert (regions.classes == 0).sum() == 225 and (regions.classes == 1).sum() == 1
    refined = run(coarse, embedding, sam, config(refine_min_area=9, refine_batch=32))
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
def encoder(tmp_path_factory: pytest.TempPathFactory, sam_folder: Path) -> RadsegEncoder:
    checkpoint = radio_files.write_small(tmp_path_factory.mktemp("radio") / "radio.pth.tar")
    options = config(
        checkpoint=str(checkpoint),
        crop=96,
        stride=48,
        device="cpu",
        offline=True,
        refine_sam=str(sam_folder),
    )
    return RadsegEncoder(options)


def texts(encoder: RadsegEncoder, count: int = 3) -> torch.Tensor:
    return torch.randn(count, encoder.language_channels, generator=torch.Generator().manual_seed(2))


def test_an_image_smaller_than_the_crop(encoder: RadsegEncoder) -> None:
    rgb = np.random.default_rng(0).random((50, 64, 3), np.float32)
    probabilities = encoder.probabilities(rgb, texts(encoder), denoise_threshold=0.0)
    assert probabilities.shape == (3, 50, 64) and probabilities.isfinite().all()
    assert (probabilities >= 0).all() and (probabilities <= 1).all()


def test_a_map_of_probabilities_holds_refined_masks(
    encoder: RadsegEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    vectors = texts(encoder)
    monkeypatch.setattr(encoder, "embed_labels", lambda labels: vectors)
    mapper = Mapper(
        Config(map=MapConfig(space="probability", labels=["a", "b", "c"]), short_side=0), encoder
    )
    maps = mapper.features(rgb).data
    same = (maps - encoder.probabilities(rgb, vectors)).abs().amax(
        0
    ) < 1e-4  # the mapper normalises texts: rounding differs
    assert same.float().mean() > 0.999
    K = np.array([[100.0, 0, 64], [0, 100, 48], [0, 0, 1]])
    mapper.integrate(Frame(0, rgb, np.ones((96, 128), np.float32), K, np.eye(4)))
    assert len(mapper.map) > 100 and mapper.map.snapshot().features.shape[1] == 3
    assert mapper.identity().encoder.endswith(
        "-sam"
    )  # such a map does not go on with coarse probabilities


def test_segment_shows_coarse_and_refined(
    encoder: RadsegEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sam_folder: Path
) -> None:
    vectors = texts(encoder)
    monkeypatch.setattr(encoder, "embed_labels", lambda labels: vectors)
    monkeypatch.setattr(segment_cli, "encoder_from", lambda options: encoder)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)).save(
        tmp_path / "image.png"
    )
    arguments = [
        str(tmp_path / "image.png"),
        "--labels",
        "a,b,c",
        "--out",
        str(tmp_path / "out"),
        "--refine",
    ]
    arguments += ["--short-side", "0"]
    assert segment_cli.main(arguments) == 0
    assert Image.open(tmp_path / "out" / "image_overlay.png").width >= 256
    rgb = np.array(Image.open(tmp_path / "image.png"))
    maps = segment_cli_maps(encoder, rgb, vectors)
    expected = encoder.refine(rgb, maps)
    assert expected is not None
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "out" / "image_labels.png")), expected.labels()
    )


def segment_cli_maps(
    encoder: RadsegEncoder, rgb: np.ndarray, vectors: torch.Tensor
) -> torch.Tensor:
    """The coarse maps of the same encoder."""
    refiner, encoder.refiner = encoder.refiner, None
    try:
        return encoder.probabilities(rgb, vectors)
    finally:
        encoder.refiner = refiner


def test_a_v4_checkpoint_is_refused_with_the_reason(tmp_path: Path, sam_folder: Path) -> None:
    checkpoint = radio_files.write_small(
        tmp_path / "v4.pth.tar", outputs={"siglip2-g": 24, "dino_v3": 12, "sam3": 8}
    )
    with pytest.raises(CheckpointError, match="SAM 3.*take c-radio_v3-b"):
        RadsegEncoder(
            config(
                checkpoint=str(checkpoint), device="cpu", offline=True, refine_sam=str(sam_folder)
            )
        )


def test_sam_that_does_not_fit_or_is_none_is_refused(tmp_path: Path) -> None:
    checkpoint = radio_files.write_small(tmp_path / "radio.pth.tar")
    other = random_sam.write(tmp_path / "sam", width=16, features=12, heads=2, mlp=24)
    with pytest.raises(CheckpointError, match="12 channels, the SAM head of RADIO has 8"):
        RadsegEncoder(
            config(checkpoint=str(checkpoint), device="cpu", offline=True, refine_sam=str(other))
        )
    (other / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="not a SAM model"):
        load_sam(str(other))
    with pytest.raises(CheckpointError, match="offline"):
        load_sam("nobody/no-such-sam", offline=True)


def test_options_are_checked() -> None:
    for bad in ({"refine_batch": 0}, {"refine_min_area": 0}, {"refine_threshold": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            RadsegConfig(**bad)
