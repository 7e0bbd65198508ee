# SPDX-License-Identifier: Apache-2.0
"""Regions of an image by SAM 2.1, asked at a grid of points (docs/method.md 5.8)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .clip import IMAGENET_MEAN, IMAGENET_STD, at_size, normalised
from .weights import load_weights

POINTS = 16  # along each side
POINTS_AT_ONCE = 64
LEVELS = 3  # masks of a point: subpart, part, whole
QUALITY = 0.6  # least predicted IoU, and least stability, of a mask
MARGIN = 1.0  # of the logits, between the two masks whose IoU is the stability
LEAST_AREA = 100  # cells of SAM's low resolution
SAME_BOX = 0.9  # IoU of boxes beyond which the worse mask is dropped
NEAR_BOX, SWALLOWED = 0.2, 0.8  # IoU of boxes and share of the smaller mask, to become one region


class Sam2Masks:
    """SAM 2.1 as a function from images to regions.

    Raises:
        CheckpointError: the weights cannot be had, are damaged, or of another kind.
    """

    def __init__(self, name: str, device: torch.device, offline: bool = False) -> None:
        weights = load_weights(name, ("sam2", "sam2_video"), offline)
        self.hash, self._model = weights.hash, weights.model.to(device)
        self._side = int(self._model.config.prompt_encoder_config.image_size)

    @torch.no_grad()
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """(3, H, W) in [0, 1] -> (R, H, W) regions: logits, 0 outside."""
        seen = normalised(at_size(image, (self._side, self._side)), IMAGENET_MEAN, IMAGENET_STD)
        embeddings = self._model.get_image_embeddings(seen[None])
        place = (torch.arange(POINTS, device=image.device) + 0.5) * self._side / POINTS
        points = torch.cartesian_prod(place, place).flip(1)  # x, y; row by row
        found = [
            self._model(
                image_embeddings=list(embeddings),
                input_points=some[None, :, None],
                multimask_output=True,
            )
            for some in points.split(POINTS_AT_ONCE)
        ]
        masks = torch.cat([each.pred_masks[0] for each in found])
        scores = torch.cat([each.iou_scores[0] for each in found])
        return at_size(chosen(masks, scores), image.shape[1:])


def chosen(masks: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Good masks, each region once.

    Args:
        masks: (points, levels, h, w) logits.
        scores: (points, levels) predicted IoU.

    Returns:
        (R, h, w) logits, 0 outside.
    """
    level = torch.arange(LEVELS, device=masks.device).expand(len(masks), -1).flatten()
    masks, scores = masks.flatten(0, 1), scores.flatten()
    inside = masks > 0
    sure, maybe = (masks > MARGIN).sum((1, 2)), (masks > -MARGIN).sum((1, 2))
    good = (scores > QUALITY) & (sure > QUALITY * maybe) & (inside.sum((1, 2)) > LEAST_AREA)
    masks, scores, level, inside = (part[good] for part in (masks, scores, level, inside))
    boxes = box_iou(inside)
    best_first = scores.argsort(descending=True, stable=True)
    kept = best_first[alone(boxes[best_first][:, best_first] > SAME_BOX)]
    order = kept[(scores[kept] - 2 * level[kept]).argsort(descending=True, stable=True)]
    flat = inside[order].flatten(1).float()
    shared = flat @ flat.T
    area = shared.diagonal()
    smaller = torch.minimum(area[:, None], area)
    one = (boxes[order][:, order] > NEAR_BOX) & (shared > SWALLOWED * smaller)
    return swallowed(masks[order].clamp_min(0), one)


def box_iou(inside: torch.Tensor) -> torch.Tensor:
    """(R, h, w) masks, none of them empty -> (R, R) IoU of their bounding boxes."""
    common = own = torch.ones((), device=inside.device)
    for axis in (1, 2):
        there = inside.any(3 - axis).float()
        begin, end = there.argmax(1), there.shape[1] - there.flip(1).argmax(1)
        inner = torch.minimum(end[:, None], end) - torch.maximum(begin[:, None], begin)
        common, own = common * inner.clamp_min(0), own * (end - begin)
    return common / (own[:, None] + own - common)


def alone(same: torch.Tensor) -> torch.Tensor:
    """(R, R) which are the same -> (R,) which are not that of one before them that is left."""
    left = torch.ones(len(same), dtype=torch.bool, device=same.device)
    for i in range(1, len(same)):
        left[i] = not (same[i, :i] & left[:i]).any()
    return left


def swallowed(masks: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """(R, h, w), (R, R): each takes in those after it that are one with it -> those that are left,
    the maximum of what they took in.
    """
    left = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    found = []
    for i in range(len(masks)):
        if left[i]:
            mine = one[i] & left
            mine[: i + 1] = False
            mine[i] = True
            found.append(masks[mine].amax(0))
            left &= ~mine
    return torch.stack(found) if found else F.pad(masks[:0], (0, 0))
