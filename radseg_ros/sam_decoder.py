# SPDX-License-Identifier: Apache-2.0
"""SAM without its image encoder: neck, prompts and mask decoder, many prompts of one image at a time.

Weights and layers are those of ``transformers.SamModel``; its vision transformer is never built. The decoder runs the same
network in an order that costs less: a few tokens look at 4096 image vectors, so key, value and query projections of the image
side are moved over to the token side, and masks are made only for prompts that are kept, only where the image is, in a
layout that needs no transpositions. The results equal those of ``SamMaskDecoder`` up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from .datatypes import CheckpointError
from .hub import download_folder

PARTS = {"neck": "vision_encoder.neck.", "prompt_encoder": "prompt_encoder.", "mask_decoder": "mask_decoder."}
POSITION = "shared_image_embedding.positional_embedding"  # (2, C / 2), also that of the prompts


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What the decoder says about a batch of prompts, before any mask is made."""

    iou: torch.Tensor  # (N,) predicted quality of the mask
    mask_token: torch.Tensor  # (N, C)
    image: torch.Tensor  # (N, T, C) the image as the prompts changed it

    def __getitem__(self, some: slice) -> Decoded:
        return Decoded(self.iou[some], self.mask_token[some], self.image[some])


class SamDecoder:
    """The parts of SAM behind its image encoder, float32."""

    def __init__(self, neck: Any, prompt_encoder: Any, mask_decoder: Any, position: torch.Tensor, image_size: int) -> None:
        self.neck, self.prompts, self.decoder, self.position = neck, prompt_encoder, mask_decoder, position
        self.image_size = image_size  # px, side of the square that SAM sees
        self.grid = int(prompt_encoder.image_embedding_size[0])  # side of the image embedding
        self.mask_side = 4 * self.grid  # side of mask prompts and of mask logits
        self.features = int(neck.conv1.in_channels)  # channels of the image features that the neck takes
        self.grid_position = self._encode(self._grid_centres())  # (T, C)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.position.device

    def embed_image(self, features: torch.Tensor) -> torch.Tensor:
        """(D, h, w) features of the image encoder, h, w <= ``grid`` -> (T, C), T = grid * grid; zero-padded right and below."""
        h, w = features.shape[1:]
        padded = F.pad(features, (0, self.grid - w, 0, self.grid - h))
        return self.neck(padded.permute(1, 2, 0)[None])[0].flatten(1).T.contiguous()

    def embed_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """(U, mask_side, mask_side) mask prompts -> (U, T, C).

        RADSeg+ hands SAM each mask without its batch dimension, and SAM's channel-wise LayerNorm then runs along the image's
        rows. The published results and the reference numbers come from that, so it is kept: with the norm over channels the
        faint masks (0.005 * probability) would hardly change the embedding.
        """
        embed = self.prompts.mask_embed
        x = embed.activation(_norm_rows(embed.conv1(masks[:, None]), embed.layer_norm1))
        x = embed.activation(_norm_rows(embed.conv2(x), embed.layer_norm2))
        return embed.conv3(x).flatten(2).transpose(1, 2)

    def embed_prompts(self, boxes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """(N, 4) boxes x0 y0 x1 y1 and (N, 2) positive points, pixels of the SAM image -> (N, 3, C)."""
        corners = torch.cat([points, boxes], 1).view(-1, 3, 2)
        kinds = torch.cat([self.prompts.point_embed[i].weight for i in (1, 2, 3)])  # positive point, upper left, lower right
        return self._encode((corners + 0.5) / self.image_size) + kinds

    def decode(self, prompts: torch.Tensor, images: torch.Tensor, which: torch.Tensor) -> Decoded:
        """Let prompts and image look at each other.

        Args:
            prompts: (N, 3, C) of ``embed_prompts``.
            images: (U, T, C) image embedding plus mask embedding, one for each distinct mask prompt.
            which: (N,) row of ``images`` that belongs to each prompt.
        """
        decoder, transformer = self.decoder, self.decoder.transformer
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([output.expand(len(prompts), -1, -1), prompts], 1)
        x, image = tokens, images
        for layer in transformer.layers:
            placed = image + self.grid_position
            if layer.skip_first_layer_pe:  # the first layer, where the image is still the same for all prompts of a class
                x = layer.layer_norm1(_attend(layer.self_attn, x, x, x))
                read = _attend(layer.cross_attn_token_to_image, x + tokens, placed, image, which)
            else:
                x = layer.layer_norm1(x + _attend(layer.self_attn, x + tokens, x + tokens, x))
                read = _read_image(layer.cross_attn_token_to_image, x + tokens, placed, image)
            x = layer.layer_norm2(x + read)
            x = layer.layer_norm3(x + layer.mlp(x))
            if layer.skip_first_layer_pe:
                scores = _score_shared(layer.cross_attn_image_to_token, placed, x + tokens, which)
                image = image[which]
            else:
                scores = _score_tokens(layer.cross_attn_image_to_token, placed, x + tokens)
            image = layer.layer_norm4(_write_image(layer.cross_attn_image_to_token, scores, x, image))
        x, tokens = x[:, :2], tokens[:, :2]  # from here on only the tokens of the IoU and of the single mask count
        read = _read_image(transformer.final_attn_token_to_image, x + tokens, image + self.grid_position, image)
        x = transformer.layer_norm_final_attn(x + read)
        return Decoded(decoder.iou_prediction_head(x[:, 0])[:, 0], x[:, 1], image)

    def masks(self, decoded: Decoded, input_size: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
        """Mask logits at ``size`` of an image that covers ``input_size`` (H, W) pixels of the SAM image: (N, H, W)."""
        scale = self.image_size // self.mask_side
        # one row of logits more than the image covers: the last pixels blend with it
        cells = [min(self.grid, math.ceil((math.ceil(side / scale) + 1) / 4)) for side in input_size]
        low = self._low_resolution(decoded, *cells)
        large = F.interpolate(low[:, None], scale_factor=scale, mode="bilinear", align_corners=False)
        return F.interpolate(large[:, :, : input_size[0], : input_size[1]], size, mode="bilinear", align_corners=False)[:, 0]

    def _low_resolution(self, decoded: Decoded, rows: int, columns: int) -> torch.Tensor:
        """Logits of the upper left ``rows`` x ``columns`` cells of the grid: (N, 4 rows, 4 columns)."""
        decoder, n = self.decoder, len(decoded.iou)
        cells = decoded.image.unflatten(1, (self.grid, self.grid))[:, :rows, :columns].flatten(0, 2)
        x = _split_cells(decoder.upscale_conv1, cells)  # (N * rows * columns, 2 * 2, C / 4)
        x = decoder.activation(F.layer_norm(x, x.shape[-1:], *_affine(decoder.upscale_layer_norm)))
        x = decoder.activation(_split_cells(decoder.upscale_conv2, x))  # (N * rows * columns, 2 * 2, 2 * 2, C / 8)
        weights = decoder.output_hypernetworks_mlps[0](decoded.mask_token)
        logits = (x.view(n, -1, x.shape[-1]) @ weights[:, :, None]).view(n, rows, columns, 2, 2, 2, 2)
        return logits.permute(0, 1, 3, 5, 2, 4, 6).reshape(n, 4 * rows, 4 * columns)

    def _encode(self, places: torch.Tensor) -> torch.Tensor:
        """(..., 2) x, y in 0..1 -> (..., C) random Fourier features."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.position)
        return torch.cat([angles.sin(), angles.cos()], -1)

    def _grid_centres(self) -> torch.Tensor:
        steps = (torch.arange(self.grid, device=self.device) + 0.5) / self.grid
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([x, y], -1).flatten(0, 1)


def _affine(norm: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    return norm.weight, norm.bias, norm.eps


def _norm_rows(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """LayerNorm of (U, C, H, W) along H, with the scale and offset of each channel."""
    weight, bias, eps = _affine(norm)
    variance, mean = torch.var_mean(x, 2, correction=0, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight[:, None, None] + bias[:, None, None]


def _split_cells(conv: Any, x: torch.Tensor) -> torch.Tensor:
    """A 2 x 2 transposed convolution of stride 2 on (..., C_in), as the product that it is: (..., 2 * 2, C_out)."""
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * C_out, C_in)
    return F.linear(x, weight, conv.bias.repeat(4)).unflatten(-1, (4, -1))


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(N, n, heads * d) -> (N, heads, n, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(
    attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, which: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention as it is written: (N, n, C) each, or, with ``which`` (N,), keys and values (U, T, C) that queries share."""
    h = attention.num_attention_heads
    key, value = attention.k_proj(key), attention.v_proj(value)
    if which is not None:
        key, value = key[which], value[which]
    q, k, v = _heads(attention.q_proj(query), h), _heads(key, h), _heads(value, h)
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _read_image(attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Tokens (N, n, C) attend to the image (N, T, C): q (W_k key) = (q W_k) key, and A (W_v value) = W_v (A value).

    The bias of the keys adds the same to every score of a token, so softmax removes it.
    """
    h = attention.num_attention_heads
    q = _heads(attention.q_proj(query), h) * attention.scaling
    q = q @ attention.k_proj.weight.unflatten(0, (h, -1))  # (N, h, n, C)
    weights = (q.flatten(1, 2) @ key.transpose(1, 2)).softmax(-1)
    read = (weights @ value).unflatten(1, (h, -1)) @ attention.v_proj.weight.unflatten(0, (h, -1)).transpose(1, 2)
    return attention.out_proj(read.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _score_tokens(attention: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """How much the image ``query`` (N, T, C) attends to tokens ``key`` (N, n, C): (N, h, n, T), before softmax.

    With n before T, the softmax over n runs over contiguous T.
    """
    h = attention.num_attention_heads
    k = _heads(attention.k_proj(key), h) * attention.scaling
    offset = (k @ attention.q_proj.bias.view(h, -1, 1)).flatten(1, 2)  # (N, h * n, 1)
    k = (k @ attention.q_proj.weight.unflatten(0, (h, -1))).flatten(1, 2)  # (N, h * n, C)
    return torch.baddbmm(offset, k, query.transpose(1, 2)).unflatten(1, (h, -1))


def _score_shared(attention: Any, query: torch.Tensor, key: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """The same for images ``query`` (U, T, C) that tokens share; ``which`` (N,) is the image of each row of ``key``."""
    h = attention.num_attention_heads
    k = _heads(attention.k_proj(key), h) * attention.scaling
    return k @ _heads(attention.q_proj(query), h).transpose(2, 3)[which]


def _write_image(attention: Any, scores: torch.Tensor, value: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Add to ``image`` (N, T, C), in place, what it reads from tokens ``value`` (N, n, C) with ``scores`` (N, h, n, T).

    The weights of a head sum to 1, so each of its values carries its share of the output bias.
    """
    h = attention.num_attention_heads
    v = _heads(attention.v_proj(value), h) @ attention.out_proj.weight.unflatten(1, (h, -1)).permute(1, 2, 0)
    v = v + attention.out_proj.bias / h  # (N, h, n, C)
    return image.baddbmm_(scores.softmax(2).flatten(1, 2).transpose(1, 2), v.flatten(1, 2))


def load_sam(name: str, offline: bool = False, device: torch.device | str = "cpu") -> SamDecoder:
    """Read neck, prompt encoder and mask decoder; the tensors of the vision transformer are not even read.

    Args:
        name: a folder in the layout of ``SamModel.save_pretrained``, or a hub id (``facebook/sam-vit-huge``).
        offline: never touch the network.
        device: where the weights go.

    Raises:
        CheckpointError: there is no such model, a part of it is missing, or it is no SAM.
    """
    from transformers import SamConfig
    from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionNeck

    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = download_folder(name, ["config.json", "model.safetensors"], offline)
    try:
        config: Any = SamConfig.from_pretrained(folder)
        tensors = _read_parts(folder / "model.safetensors")
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name} is not a SAM model: {str(error).splitlines()[0]}") from error
    config.mask_decoder_config._attn_implementation = "eager"  # asked for by its layers, not used
    with torch.device("meta"):
        parts = {
            "neck": SamVisionNeck(config.vision_config),
            "prompt_encoder": SamPromptEncoder(config),
            "mask_decoder": SamMaskDecoder(config.mask_decoder_config),
        }
    for part, module in parts.items():
        own = {key.removeprefix(PARTS[part]): value for key, value in tensors.items() if key.startswith(PARTS[part])}
        if part == "prompt_encoder":
            own["shared_embedding.positional_embedding"] = tensors[POSITION]
        try:
            module.load_state_dict(own, assign=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{name}: the {part} does not fit the configuration: {reason}") from error
        module.to(device).requires_grad_(False).eval()
    return SamDecoder(**parts, position=tensors[POSITION].to(device), image_size=config.prompt_encoder_config.image_size)


def _read_parts(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    wanted = (*PARTS.values(), POSITION)
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key).float() for key in file.keys() if key.startswith(wanted)}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if POSITION not in tensors:
        raise ValueError(f"{path} has no {POSITION}")
    return tensors
