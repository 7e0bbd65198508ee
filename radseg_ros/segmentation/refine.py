# SPDX-License-Identifier: Apache-2.0
"""RADSeg+ (docs/method.md 2.6): masks that follow the objects, by prompting SAM with the regions of
a coarse segmentation.

coarse probabilities -> regions -> prompts -> SAM's decoder on RADIO's features -> refined
probabilities
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from ..config import RefineConfig
from ..datatypes import CheckpointError
from ..encoders.protocol import Encoder, SamFeatures
from ..reading import border
from .maps import Segmentation, label_map
from .sam_decoder import PromptedImage, SamDecoder
from .sam_weights import load_sam

EIGHT = np.ones((3, 3), bool)  # neighbours that belong together


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Connected regions of a coarse segmentation at half resolution, class by class."""

    ids: np.ndarray  # (h, w) int32; i + 1 where region i is, 0 elsewhere
    classes: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float32, x0 y0 x1 y1 of the outermost pixels
    points: np.ndarray  # (N, 2) float32, x y of the most probable pixel

    def __len__(self) -> int:
        return len(self.classes)


def make_refiner(encoder: Encoder) -> Refiner | None:
    """What refines the probability maps of ``encoder``; None where it has no features for SAM.

    Raises:
        CheckpointError: the SAM weights cannot be had, or do not fit those features.
    """
    return None if encoder.sam is None else Refiner(encoder.sam)


class Refiner:
    """SAM's decoder, prompted with the regions of coarse probability maps.

    Args:
        features: what the decoder sees of an image.

    Raises:
        CheckpointError: the SAM weights cannot be had, or do not fit the features.
    """

    def __init__(self, features: SamFeatures) -> None:
        self.features, self.config = features, features.config
        weights = load_sam(self.config.sam, features.offline, features.device)
        with border(Path(self.config.sam), "a SAM model", CheckpointError):
            self.sam = SamDecoder(weights)
        if features.channels != self.sam.features:
            raise CheckpointError(
                f"{self.config.sam} takes {self.sam.features} channels, the SAM head of RADIO has "
                f"{features.channels}"
            )

    @torch.inference_mode()
    def __call__(self, rgb: np.ndarray, coarse: torch.Tensor) -> Segmentation:
        """Refine what is where in an image; see :func:`refine`.

        Args:
            rgb: (h, w, 3) RGB, uint8 or float32 in [0, 1].
            coarse: its (Q, H, W) probabilities, which may be of another size.
        """
        regions = find_regions(coarse, self.config.threshold, self.config.min_area)
        if not len(regions):
            return Segmentation.of(coarse)
        size = sam_input_size(coarse.shape[1:], self.sam)
        embedding = self.sam.embed_image(self.features(rgb, size))
        return refine(coarse, regions, embedding, self.sam, self.config)


def sam_input_size(size: Sequence[int], sam: SamDecoder) -> tuple[int, int]:
    """(H, W) of the image that RADIO sees for SAM: long side ``image_size``, the other one rounded
    down to whole patches.
    """
    patch = sam.image_size // sam.grid
    long = max(size)
    height, width = (max(1, int(side * sam.grid / long)) * patch for side in size)
    return height, width


def find_regions(coarse: torch.Tensor, threshold: float, min_area: int) -> Regions:
    """Connected regions that are worth a prompt.

    Args:
        coarse: (Q, H, W) probabilities.
        threshold: pixels whose best probability is lower belong to no region.
        min_area: smallest region, in pixels of half the resolution.
    """
    half = tuple(max(1, side // 2) for side in coarse.shape[1:])
    small = F.interpolate(coarse[None], half, mode="nearest")[0]
    labels = small.max(0).indices.cpu().numpy()  # argmax is slower
    smooth = F.interpolate(coarse[None], half, mode="bilinear", align_corners=False)[0]
    probabilities = smooth.cpu().numpy()
    labels[probabilities.max(0) < threshold] = -1
    ids = np.zeros(half, np.int32)
    classes, boxes, points = [], [], []
    for c in np.unique(labels[labels >= 0]).astype(int):
        own = probabilities[c]
        if own.max() < threshold:
            continue
        numbers, count = ndimage.label(labels == c, EIGHT)
        areas = np.bincount(numbers.ravel(), minlength=count + 1)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), 1):
            if areas[number] < min_area:
                continue
            inside = numbers[rows, columns] == number
            best = np.where(inside, own[rows, columns], -1).argmax()
            y, x = np.unravel_index(best, inside.shape)
            classes.append(c)
            boxes.append((columns.start, rows.start, columns.stop - 1, rows.stop - 1))
            points.append((columns.start + x, rows.start + y))
            ids[rows, columns][inside] = len(classes)
    shaped = np.array(boxes, np.float32).reshape(-1, 4), np.array(points, np.float32).reshape(-1, 2)
    return Regions(ids, np.array(classes, np.int64), *shaped)


def prompts_of(regions: Regions, sam: SamDecoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (N, 4) and points (N, 2) in pixels of the SAM image.

    As SAM scales them: the long side to ``image_size``, the other one rounded to pixels, which is
    up to a patch more than RADIO sees (:func:`sam_input_size`).
    """
    h, w = regions.ids.shape
    long = max(h, w)
    scale = [int(side * sam.image_size / long + 0.5) / side for side in (w, h)]
    points = torch.from_numpy(regions.points * np.asarray(scale, np.float32)).to(sam.device)
    boxes = torch.from_numpy(regions.boxes * np.asarray(scale * 2, np.float32)).to(sam.device)
    return boxes, points


def mask_prompts(
    coarse: torch.Tensor, classes: torch.Tensor, sam: SamDecoder, config: RefineConfig
) -> torch.Tensor:
    """(U, side, side) mask prompts, one for each of ``classes``: faint probabilities, long side
    ``side``, zero-padded.
    """
    size = coarse.shape[1:]
    half = tuple(max(1, side // 2) for side in size)
    side = sam.mask_side
    h, w = (max(1, int(s * side / max(size) + 0.5)) for s in size)
    small = F.interpolate(coarse[classes][None], half, mode="bilinear", align_corners=False)
    small = F.interpolate(small, (h, w), mode="bilinear", align_corners=False)[0]
    faint = torch.where(small > config.threshold, config.mask_scale * small, 0.0)
    return F.pad(faint, (0, side - w, 0, side - h))


def refine(
    coarse: torch.Tensor,
    regions: Regions,
    embedding: torch.Tensor,
    sam: SamDecoder,
    config: RefineConfig,
) -> Segmentation:
    """Replace the coarse regions by SAM's masks.

    The label of a pixel is the best class among its masks, or the coarse one where no mask is.
    Regions whose mask is refused ("failed") lend their pixels the coarse probabilities, which do
    not change the labels: the authors' order, kept.

    Args:
        coarse: (Q, H, W) probabilities.
        regions: of :func:`find_regions`.
        embedding: (T, C) of :meth:`SamDecoder.embed_image`.
        sam: the decoder.
        config: thresholds and batch size.

    Returns:
        Probabilities and labels. Where there is neither mask nor failed region the coarse
        probabilities stay, as the coarse label does (the authors' are 0 there).
    """
    return merge(coarse, regions, *best_logits(coarse, regions, embedding, sam, config))


def merge(
    coarse: torch.Tensor, regions: Regions, kept: np.ndarray, masks: Mapping[int, torch.Tensor]
) -> Segmentation:
    """The last step of :func:`refine`, with what :func:`best_logits` gives."""
    if not masks:
        return Segmentation.of(coarse)
    refined = torch.zeros_like(coarse)
    # max(sigmoid) = sigmoid(max), and the union of masks is where the maximum is positive
    for c, logits in masks.items():
        refined[c] = torch.where(logits > 0, logits.sigmoid() * coarse[c], 0.0)
    masked = refined.amax(0) > 0
    best = label_map(torch.where(masked, refined, coarse))
    failed = torch.from_numpy(np.isin(regions.ids, 1 + np.flatnonzero(~kept))).to(coarse.device)
    failed = F.interpolate(failed[None, None].float(), coarse.shape[1:], mode="nearest")[0, 0] > 0
    left = torch.where(failed | ~masked, coarse, 0.0)
    return Segmentation(torch.maximum(refined, left, out=refined), best)


def best_logits(
    coarse: torch.Tensor,
    regions: Regions,
    embedding: torch.Tensor,
    sam: SamDecoder,
    config: RefineConfig,
) -> tuple[np.ndarray, dict[int, torch.Tensor]]:
    """Which regions are kept (N,), and for each class that keeps any the highest mask logit at each
    pixel, (H, W).
    """
    size = (int(coarse.shape[1]), int(coarse.shape[2]))
    input_size = sam_input_size(size, sam)
    tokens = sam.embed_prompts(*prompts_of(regions, sam))
    kept = np.zeros(len(regions), bool)
    best: dict[int, torch.Tensor] = {}
    prompted: dict[int, PromptedImage] = {}  # of one batch's classes; regions come class by class
    for start in range(0, len(regions), config.batch):
        classes = regions.classes[start : start + config.batch].tolist()
        prompted = {c: prompted[c] for c in prompted if c in classes}
        for c in set(classes) - set(prompted):
            mask = mask_prompts(coarse, torch.tensor([c]), sam, config)[0]
            prompted[c] = sam.prompt_image(embedding, mask)
        decoded = sam.decode(tokens[start : start + config.batch], [prompted[c] for c in classes])
        for i, (c, each) in enumerate(zip(classes, decoded, strict=True), start):
            kept[i] = each.iou > config.iou
            if kept[i]:  # one at a time: it stays in the cache, and only one is held at full size
                logits = sam.mask(each, input_size, size)
                best[c] = torch.maximum(best[c], logits) if c in best else logits
    return kept, best
