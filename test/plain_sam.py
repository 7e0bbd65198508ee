# SPDX-License-Identifier: Apache-2.0
"""SAM's mask decoder, called as transformers means it: what our own decoder is compared with."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from radseg_ros.segmentation.sam_decoder import enlarge
from radseg_ros.segmentation.sam_weights import SamWeights


class PlainSam:
    """``SamMaskDecoder`` on all prompts of one image that share a mask prompt."""

    def __init__(self, weights: SamWeights) -> None:
        self.prompts, self.decoder = weights.prompt_encoder, weights.mask_decoder
        self.grid = self.prompts.image_embedding_size[0]
        self.scale = self.prompts.input_image_size // (4 * self.grid)
        steps = (torch.arange(self.grid) + 0.5) / self.grid
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        position = self.prompts.shared_embedding(torch.stack([x, y], -1))
        self.position = position.permute(2, 0, 1)[None]

    @torch.inference_mode()
    def __call__(
        self, embedding: torch.Tensor, mask: torch.Tensor, boxes: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits (N, 4 grid, 4 grid) and their predicted IoU (N,).

        Args:
            embedding: (T, C) of the image.
            mask: (4 grid, 4 grid), the mask prompt of all N.
            boxes: (N, 4) x0 y0 x1 y1, pixels of the SAM image.
            points: (N, 2) x y, inside.
        """
        positive = torch.ones(1, len(points), 1)
        sparse, _ = self.prompts(points[None, :, None], positive, boxes[None], None)
        low, iou = self.decoder(
            embedding.T.reshape(1, -1, self.grid, self.grid),
            self.position,
            sparse,
            self.embed_mask(mask)[None],
            multimask_output=False,
        )
        return low[0, :, 0], iou[0, :, 0]

    def embed_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """The mask prompt as RADSeg+ embeds it, normed along the rows: (C, grid, grid).

        See ``SamDecoder.embed_masks``.
        """
        embed = self.prompts.mask_embed
        x = embed.activation(norm_rows(embed.conv1(mask[None]), embed.layer_norm1))
        return embed.conv3(embed.activation(norm_rows(embed.conv2(x), embed.layer_norm2)))

    def enlarge(
        self, low: torch.Tensor, input_size: tuple[int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        """(4 grid, 4 grid) logits -> (H, W) at ``size``; only what the image covers is enlarged."""
        rows, columns = (math.ceil(side / self.scale) + 1 for side in input_size)
        return enlarge(low[:rows, :columns], self.scale, input_size, size)


def norm_rows(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    """LayerNorm of each column of (C, H, W), with the scale and offset of its channel."""
    normed = F.layer_norm(x.transpose(1, 2), x.shape[1:2], eps=norm.eps).transpose(1, 2)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]
