# SPDX-License-Identifier: Apache-2.0
"""SAM's neck, prompts and mask decoder, for many prompts of one image at a time.

The network is that of ``transformers``, run in an order that costs less: a few tokens look at 4096
image vectors, so key, value and query projections of the image side are moved over to the token
side, what the first layer makes of the image is made once for all prompts with the same mask
prompt, and masks are made only for prompts that are kept, only where the image is, in a layout that
needs no transpositions. Tokens go through in batches, the image one prompt at a time: a few MB stay
in the cache. The results equal those of ``SamMaskDecoder`` up to rounding; ``bench/refine.py``
compares the costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ..device import exact_convolutions
from .sam_weights import SamWeights


@dataclass(frozen=True, slots=True, eq=False)
class PromptedImage:
    """Image and mask prompt, as the first layer sees them: the same for all boxes and points."""

    image: torch.Tensor  # (T, C)
    key: torch.Tensor  # (h, T, d) for the tokens that look at the image
    value: torch.Tensor  # (h, T, d)
    query: torch.Tensor  # (h, T, d) of the image that looks at tokens


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What the decoder says about one prompt, before its mask is made."""

    iou: float  # predicted quality of the mask
    mask_token: torch.Tensor  # (C,)
    image: torch.Tensor  # (T, C) the image as the prompt changed it


class SamDecoder:
    """What SAM makes of image features and prompts."""

    def __init__(self, weights: SamWeights) -> None:
        self.neck, self.prompts = weights.neck, weights.prompt_encoder
        self.decoder = weights.mask_decoder
        self.position = self.prompts.shared_embedding.positional_embedding  # (2, C / 2)
        self.image_size = int(self.prompts.input_image_size)  # px, side of the square SAM sees
        self.grid = int(self.prompts.image_embedding_size[0])  # side of the image embedding
        self.mask_side = 4 * self.grid  # side of mask prompts and of mask logits
        self.features = int(self.neck.conv1.in_channels)  # of the image features
        self.grid_position = self._encode(self._grid_centres())  # (T, C)
        convs = self.decoder.upscale_conv1, self.decoder.upscale_conv2
        self.splits = [_as_matrix(conv) for conv in convs]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.position.device

    @exact_convolutions()
    def embed_image(self, features: torch.Tensor) -> torch.Tensor:
        """(D, h, w) features of the image encoder, h, w <= ``grid`` -> (T, C), T = grid * grid.

        Zero-padded right and below.
        """
        h, w = features.shape[1:]
        padded = F.pad(features, (0, self.grid - w, 0, self.grid - h))
        return self.neck(padded.permute(1, 2, 0)[None])[0].flatten(1).T.contiguous()

    @exact_convolutions()
    def embed_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """(U, mask_side, mask_side) mask prompts -> (U, T, C).

        RADSeg+ hands SAM each mask without its batch dimension, and SAM's channel-wise LayerNorm
        then runs along the image's rows. The published results and the reference numbers come from
        that, so it is kept: with the norm over channels the faint masks (0.005 * probability) would
        hardly change the embedding.
        """
        embed = self.prompts.mask_embed
        x = embed.activation(_norm_rows(embed.conv1(masks[:, None]), embed.layer_norm1))
        x = embed.activation(_norm_rows(embed.conv2(x), embed.layer_norm2))
        return embed.conv3(x).flatten(2).transpose(1, 2)

    def embed_prompts(self, boxes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(N, 4) boxes x0 y0 x1 y1 and (N, 2) positive points, SAM's pixels -> (N, 3, C)."""
        corners = torch.cat([points, boxes], 1).view(-1, 3, 2)
        # positive point, upper left, lower right
        kinds = torch.cat([self.prompts.point_embed[i].weight for i in (1, 2, 3)])
        return self._encode((corners + 0.5) / self.image_size) + kinds

    def prompt_image(self, embedding: torch.Tensor, mask: torch.Tensor) -> PromptedImage:
        """(T, C) of ``embed_image`` and one (mask_side, mask_side) mask prompt -> what ``decode``
        takes.
        """
        layer = self.decoder.transformer.layers[0]
        read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        image = embedding + self.embed_masks(mask[None])[0]
        placed = image + self.grid_position
        inputs = (read.k_proj, placed), (read.v_proj, image), (write.q_proj, placed)
        projected = (_linear(x, part.weight, part.bias) for part, x in inputs)
        return PromptedImage(image, *(_heads(x, read.num_attention_heads) for x in projected))

    def decode(self, prompts: torch.Tensor, prompted: Sequence[PromptedImage]) -> list[Decoded]:
        """Let prompts and image look at each other.

        Args:
            prompts: (N, 3, C) of ``embed_prompts``.
            prompted: for each of them the image with its mask prompt.
        """
        decoder, transformer = self.decoder, self.decoder.transformer
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        x = tokens = torch.cat([output.expand(len(prompts), -1, -1), prompts], 1)
        images = [each.image for each in prompted]
        for layer in transformer.layers:
            first = layer.skip_first_layer_pe
            shared = prompted if first else None  # the image is the same for all of a class yet
            own = _attend(layer.self_attn, x if first else x + tokens, x)
            x = layer.layer_norm1(own if first else x + own)
            read = self._read(layer.cross_attn_token_to_image, x + tokens, images, shared)
            x = layer.layer_norm2(x + read)
            x = layer.layer_norm3(x + layer.mlp(x))
            self._write(layer, x, x + tokens, images, shared)
        x, tokens = x[:, :2], tokens[:, :2]  # from here on only IoU and the single mask count
        read = self._read(transformer.final_attn_token_to_image, x + tokens, images)
        x = transformer.layer_norm_final_attn(x + read)
        iou = decoder.iou_prediction_head(x[:, 0])[:, 0].tolist()
        return [Decoded(*each) for each in zip(iou, x[:, 1], images, strict=True)]

    def _read(
        self,
        attention: Any,
        query: torch.Tensor,
        images: list[torch.Tensor],
        prompted: Sequence[PromptedImage] | None = None,
    ) -> torch.Tensor:
        """What tokens (N, n, C) read from their images: (N, n, C).

        q (W_k key) = (q W_k) key, and A (W_v value) = W_v (A value). The bias of the keys adds the
        same to every score of a token, so softmax removes it.
        """
        h = attention.num_attention_heads
        q = _heads(attention.q_proj(query), h) * attention.scaling  # (N, h, n, d)
        if prompted is not None:
            own = [
                (q[i] @ each.key.transpose(1, 2)).softmax(-1) @ each.value
                for i, each in enumerate(prompted)
            ]
            return attention.out_proj(torch.stack(own).transpose(1, 2).flatten(2))
        q = (q @ attention.k_proj.weight.unflatten(0, (h, -1))).flatten(1, 2)  # (N, h * n, C)
        weights = (
            _linear(image + self.grid_position, q[i]).softmax(0) for i, image in enumerate(images)
        )  # (T, h * n) each
        read = torch.stack([w.T @ image for w, image in zip(weights, images, strict=True)])
        v_proj = attention.v_proj.weight.unflatten(0, (h, -1)).transpose(1, 2)
        value = read.unflatten(1, (h, -1)) @ v_proj
        return attention.out_proj(value.transpose(1, 2).flatten(2) + attention.v_proj.bias)

    def _write(
        self,
        layer: Any,
        x: torch.Tensor,
        key: torch.Tensor,
        images: list[torch.Tensor],
        prompted: Sequence[PromptedImage] | None = None,
    ) -> None:
        """Replace each of ``images`` by what it becomes when it has looked at its tokens (N, n, C).

        The weights of a head sum to 1, so each of its values carries its share of the output bias.
        """
        attention = layer.cross_attn_image_to_token
        h = attention.num_attention_heads
        k = _heads(attention.k_proj(key), h) * attention.scaling  # (N, h, n, d)
        out_proj = attention.out_proj.weight.unflatten(1, (h, -1)).permute(1, 2, 0)
        v = _heads(attention.v_proj(x), h) @ out_proj + attention.out_proj.bias / h
        v = v.flatten(1, 2).transpose(1, 2).contiguous()  # (N, C, h * n)
        q_proj = attention.q_proj.weight.unflatten(0, (h, -1))
        queries = (k @ q_proj).flatten(1, 2)  # (N, h * n, C), of the tokens' keys
        offset = (k @ attention.q_proj.bias.view(h, -1, 1)).flatten(1)  # (N, h * n)
        for i, image in enumerate(images):
            if prompted is not None:
                scores = k[i] @ prompted[i].query.transpose(1, 2)  # (h, n, T)
            else:  # T last: softmax runs over contiguous numbers
                scores = _linear(image + self.grid_position, queries[i], offset[i])
                scores = scores.T.contiguous().unflatten(0, (h, -1))
            weights = scores.softmax(1).flatten(0, 1).T.contiguous()
            images[i] = layer.layer_norm4(_linear(weights, v[i]).add_(image))

    def mask(
        self, decoded: Decoded, input_size: tuple[int, int], size: tuple[int, int]
    ) -> torch.Tensor:
        """Mask logits (H, W) at ``size`` of an image that covers ``input_size`` (H, W) pixels of
        the SAM image.
        """
        scale = self.image_size // self.mask_side
        # one row of logits more than the image covers: the last pixels blend with it
        needed = [math.ceil((math.ceil(side / scale) + 1) / 4) for side in input_size]
        low = self._low_resolution(decoded, *(min(self.grid, cells) for cells in needed))
        return enlarge(low, scale, input_size, size)

    def _low_resolution(self, decoded: Decoded, rows: int, columns: int) -> torch.Tensor:
        """Logits of the upper left ``rows`` x ``columns`` cells of the grid: (4 rows, 4 columns)"""
        decoder, (first, second) = self.decoder, self.splits
        cells = decoded.image.unflatten(0, (self.grid, self.grid))[:rows, :columns].flatten(0, 1)
        # a cell becomes 2 x 2 of C / 4 channels, and each of those 2 x 2 of C / 8
        x = _linear(cells, *first).view(4 * len(cells), -1)
        x = decoder.activation(F.layer_norm(x, x.shape[-1:], *_affine(decoder.upscale_layer_norm)))
        x = decoder.activation(_linear(x, *second)).view(16 * len(cells), -1)
        logits = x @ decoder.output_hypernetworks_mlps[0](decoded.mask_token)
        blocks = logits.view(rows, columns, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5)
        return blocks.reshape(4 * rows, 4 * columns)

    def _encode(self, places: torch.Tensor) -> torch.Tensor:
        """(..., 2) x, y in 0..1 -> (..., C) random Fourier features."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.position)
        return torch.cat([angles.sin(), angles.cos()], -1)

    def _grid_centres(self) -> torch.Tensor:
        steps = (torch.arange(self.grid, device=self.device) + 0.5) / self.grid
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([x, y], -1).flatten(0, 1)


def enlarge(
    low: torch.Tensor, scale: int, input_size: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """Mask logits as SAM gives them -> (H, W) at ``size``, in SAM's two steps.

    Args:
        low: (h, w), at least what the image covers.
        scale: pixels of the SAM image per logit.
        input_size: (H, W) pixels of the SAM image that the image covers.
    """
    large = F.interpolate(low[None, None], scale_factor=scale, mode="bilinear", align_corners=False)
    covered = large[:, :, : input_size[0], : input_size[1]]
    return F.interpolate(covered, size, mode="bilinear", align_corners=False)[0, 0]


def _affine(norm: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    return norm.weight, norm.bias, norm.eps


def _norm_rows(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """LayerNorm of (U, C, H, W) along H, with the scale and offset of each channel."""
    weight, bias, eps = _affine(norm)
    variance, mean = torch.var_mean(x, 2, correction=0, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight[:, None, None] + bias[:, None, None]


def _as_matrix(conv: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (2 * 2 * C_out, C_in) and bias of a transposed convolution 2 x 2 of stride 2."""
    return conv.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), conv.bias.repeat(4)


def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``F.linear`` of (T, C).

    On a processor as a convolution by 1 x 1, which oneDNN does: up to twice as fast as the matrix
    product of MKL, which does not use all of an AMD processor. Not on a GPU, where convolutions are
    rounded to TF32.
    """
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    image = x.view(1, -1, math.gcd(len(x), 16), x.shape[1]).permute(0, 3, 1, 2)  # channels last
    return F.conv2d(image, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(len(x), -1)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(..., n, heads * d) -> (..., heads, n, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _attend(attention: Any, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Tokens ``x`` (N, n, C) attend to themselves and read ``value``."""
    h = attention.num_attention_heads
    q, k = _heads(attention.q_proj(x), h), _heads(attention.k_proj(x), h)
    v = _heads(attention.v_proj(value), h)
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
