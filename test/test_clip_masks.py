# SPDX-License-Identifier: Apache-2.0
"""Regions for TextRegion: what becomes of SAM's masks, and of an image with regions."""

from __future__ import annotations

import numpy as np
import pytest
import random_clip
import torch
from conftest import golden_file

from radseg_ros.datatypes import CheckpointError, InputError
from radseg_ros.encoders.clip.towers import masks
from radseg_ros.encoders.clip.towers.masks import alone, box_iou, chosen, swallowed
from radseg_ros.encoders.protocol import make_encoder

SIDE = 32  # cells of a mask
CLIP = golden_file("peers/tiny_clip_hf")


def box(y0: int, x0: int, y1: int, x1: int, logit: float = 5.0) -> torch.Tensor:
    found = torch.full((SIDE, SIDE), -5.0)
    found[y0:y1, x0:x1] = logit
    return found


def levels(*of_points: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(points, 3, h, w): subpart, part, whole of each point."""
    return torch.stack([torch.stack(each) for each in of_points])


def test_boxes():
    inside = torch.stack([box(0, 0, 10, 20), box(5, 0, 15, 20), box(20, 20, 32, 32)]) > 0
    found = box_iou(inside)
    assert found.diagonal().tolist() == [1, 1, 1]
    assert found[0, 1] == pytest.approx(100 / 300) and found[0, 2] == 0


def test_of_the_same_the_first_is_left():
    same = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]).bool()
    assert alone(same).tolist() == [True, False, True], "the second is gone when the third is asked"


def test_what_is_swallowed_is_in_the_maximum():
    three = torch.stack([box(0, 0, 9, 9, 2.0), box(0, 0, 4, 4, 3.0), box(20, 20, 30, 30)])
    three = three.clamp_min(0)
    one = torch.eye(3).bool()
    one[0, 1] = one[1, 0] = True
    found = swallowed(three, one)
    assert len(found) == 2 and found[0, 0, 0] == 3 and found[0, 8, 8] == 2
    assert torch.equal(found[1], three[2])


def test_good_masks_are_chosen():
    whole, part, speck = box(0, 0, 20, 20, 4.0), box(2, 2, 16, 16, 6.0), box(0, 0, 9, 9)
    wavering = box(0, 20, 20, 32, 0.5)  # of 240 cells none is sure
    other, worse = box(22, 0, 32, 20), box(22, 0, 32, 21)
    logits = levels((speck, part, whole), (wavering, other, worse))
    scores = torch.tensor([[0.9, 0.95, 0.8], [0.99, 0.9, 0.7]])
    found = chosen(logits, scores)
    assert len(found) == 2
    assert torch.equal(found[0] > 0, whole > 0), "the whole comes first and takes in its part"
    assert found[0, 5, 5] == 6 and found[0, 19, 19] == 4 and found.min() == 0
    assert torch.equal(found[1] > 0, other > 0), "of two alike the better one"
    assert len(chosen(logits, scores * 0.5)) == 0, "none whose predicted IoU is low"


@pytest.mark.slow
@pytest.mark.parametrize("video", [False, True], ids=["sam2", "sam2_video"])
def test_textregion_finds_its_regions(tmp_path, monkeypatch, video):
    folder = random_clip.write_sam2(tmp_path / "sam2", video=video)
    options = {"checkpoint": CLIP, "device": "cpu", "crop": 96}
    monkeypatch.setattr(masks, "QUALITY", 0.0)
    monkeypatch.setattr(masks, "LEAST_AREA", 4)
    rgb = np.random.default_rng(0).random((100, 150, 3)).astype(np.float32)
    encoder = make_encoder("textregion", sam=folder, **options)
    regions = encoder.masker(torch.from_numpy(rgb).permute(2, 0, 1))
    assert len(regions) and regions.shape[1:] == (100, 150) and regions.min() >= 0
    features = encoder.encode(rgb).data
    given = make_encoder("textregion", **options)
    assert torch.equal(features, given.encode(rgb, regions).data)
    assert not torch.equal(features, given.encode(rgb).data)
    assert encoder.name != given.name and (features.norm(dim=0) - 1).abs().max() < 1e-5
    assert encoder.probabilities(rgb, torch.eye(32)[:4]).isfinite().all()


def test_a_region_is_one_vector():
    encoder = make_encoder("textregion", checkpoint=CLIP, device="cpu", crop=96, threshold=-2.0)
    rgb = np.random.default_rng(0).random((96, 192, 3)).astype(np.float32)
    left = np.zeros((1, 96, 192), np.uint8)
    left[:, :, :96] = 1
    found, without = encoder.encode(rgb, left).data, encoder.encode(rgb).data
    assert found.shape == (32, 6, 12)
    assert (found[:, :, :6] - found[:, :1, :1]).abs().max() < 1e-6
    assert torch.equal(found[:, :, 6:], without[:, :, 6:]), "elsewhere those of the patches"
    with pytest.raises(InputError, match=r"masks must be \(regions, 96, 192\), got \(1, 96, 191\)"):
        encoder.encode(rgb, left[:, :, 1:])
    with pytest.raises(CheckpointError, match="holds a clip model, not sam2 or sam2_video"):
        make_encoder("textregion", checkpoint=CLIP, device="cpu", sam=CLIP)
