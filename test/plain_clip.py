# SPDX-License-Identifier: Apache-2.0
"""The CLIP family once more, slowly, one window at a time: token by token, head by head, from the
hidden states that ``transformers.CLIPModel`` gives. Shares no line with the encoders.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch.nn import functional as F

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def cubic(t: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resampled(size: int, side: int) -> torch.Tensor:
    """(size, side): what each of ``side`` embeddings gives to each of ``size`` places."""
    matrix = torch.zeros(size, side, dtype=torch.float64)
    for place in range(size):
        at = (place + 0.5) * side / (size + 0.1) - 0.5
        for step in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[place, min(max(step, 0), side - 1)] += cubic(at - step)
    return matrix


def position_table(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """By the official rule, in double precision."""
    side = math.isqrt(len(table) - 1)
    if grid[0] * grid[1] == side * side:
        return table
    patches = table[1:].double().view(side, side, -1)
    rows, columns = resampled(grid[0], side), resampled(grid[1], side)
    moved = torch.einsum("yi,xj,ijc->yxc", rows, columns, patches).flatten(0, 1)
    return torch.cat([table[:1], moved.float()])


class PlainClip:
    """A CLIPModel folder, one window at a time."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.model = transformers.CLIPModel.from_pretrained(folder).eval()
        self.vision = self.model.vision_model
        self.config = self.model.config.vision_config
        self.patch, self.heads = self.config.patch_size, self.config.num_attention_heads

    @torch.no_grad()
    def states(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(3, H, W) in [0, 1] -> tokens (1 + h*w, C) before the first block and after each."""
        grid = (image.shape[1] // self.patch, image.shape[2] // self.patch)
        embeddings = self.vision.embeddings
        table = position_table(embeddings.position_embedding.weight, grid)
        embeddings.interpolate_pos_encoding = lambda *given: table[None]
        seen = ((image - MEAN) / STD)[None]
        found = self.vision(seen, interpolate_pos_encoding=True, output_hidden_states=True)
        return [tokens[0] for tokens in found.hidden_states]

    def heads_of(self, tokens: torch.Tensor, block: int = -1) -> list[tuple[torch.Tensor, ...]]:
        """q, k, v of each head."""
        layer = self.vision.encoder.layers[block]
        seen = layer.layer_norm1(tokens)
        parts = [getattr(layer.self_attn, f"{name}_proj")(seen) for name in "qkv"]
        return list(zip(*(part.chunk(self.heads, 1) for part in parts), strict=True))

    def attention_out(self, per_head: list[torch.Tensor]) -> torch.Tensor:
        return self.vision.encoder.layers[-1].self_attn.out_proj(torch.cat(per_head, 1))

    def unit(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        made = self.model.visual_projection(self.vision.post_layernorm(tokens))
        return F.normalize(made, dim=1).T.unflatten(1, grid)

    def grid(self, image: torch.Tensor) -> tuple[int, int]:
        return image.shape[1] // self.patch, image.shape[2] // self.patch

    @torch.no_grad()
    def naclip(self, image: torch.Tensor, sigma: float = 5.0) -> torch.Tensor:
        grid, tokens = self.grid(image), self.states(image)[-2]
        bias = gaussian(grid, sigma)
        out = [
            ((k @ k.T) / math.sqrt(k.shape[1]) + bias).softmax(1) @ v
            for _, k, v in self.heads_of(tokens)
        ]
        return self.unit(self.attention_out(out)[1:], grid)

    @torch.no_grad()
    def scclip(self, image: torch.Tensor) -> torch.Tensor:
        grid, x = self.grid(image), self.states(image)
        before = x[-2]
        bad = outliers(before[1:])
        patches, similar = mended(before[1:], bad, grid), mended(x[9][1:], bad, grid)
        alike, coarse = alikeness(similar), alikeness(x[4][1:])
        own = coarse_mean(self._shared(coarse_mean(patches, alike), before[0], alike), coarse)
        total = sum(x[block] for block in range(4, 11))
        fused = coarse_mean(self._shared(total[1:], total[0], alike), coarse)
        return self.unit(own + fused, grid)

    def _shared(
        self, patches: torch.Tensor, first: torch.Tensor, alike: torch.Tensor
    ) -> torch.Tensor:
        logits = 3 * (alike - alike.mean())
        weights = logits.masked_fill(logits < 0, -torch.inf).softmax(1)
        out = [
            0.5 * (weights + ((k @ k.T) / math.sqrt(k.shape[1])).softmax(1)) @ v
            for _, k, v in self.heads_of(patches)
        ]
        return self.attention_out(out) + 0.3 * first

    @torch.no_grad()
    def proxyclip(self, image: torch.Tensor, proxy: torch.Tensor) -> torch.Tensor:
        """``proxy`` (C', h', w')."""
        grid, tokens = self.grid(image), self.states(image)[-2]
        alike = alikeness(proxy.flatten(1).T)
        logits = 3 * (alike - 1.2 * alike.mean())
        weights = logits.masked_fill(logits < 0, -torch.inf).softmax(1)
        out = []
        for _, _, v in self.heads_of(tokens):
            values = v[1:].T.unflatten(1, grid)[None]
            size = tuple(proxy.shape[1:])
            moved = F.interpolate(values, size, mode="bilinear", align_corners=False)[0]
            out.append(weights @ moved.flatten(1).T)
        return self.unit(self.attention_out(out), tuple(proxy.shape[1:]))

    @torch.no_grad()
    def rcs(self, image: torch.Tensor) -> torch.Tensor:
        """ResCLIP without SFR."""
        grid, x = self.grid(image), self.states(image)
        bias, out = gaussian(grid, 5.0), []
        last = self.heads_of(x[-2])
        for head, (_, k, v) in enumerate(last):
            own = ((k @ k.T) / math.sqrt(k.shape[1]) + bias).softmax(1)
            middle = 0
            for block in (5, 6, 7, 8):  # counted from 0
                q, other, _ = self.heads_of(x[block], block)[head]
                middle = middle + ((q @ other.T) / math.sqrt(q.shape[1])).softmax(1) / 4
            out.append(2.0 * (0.7 * own + 0.3 * middle) @ v)
        return self.unit(self.attention_out(out)[1:], grid)


def gaussian(grid: tuple[int, int], sigma: float) -> torch.Tensor:
    """(1 + T, 1 + T), pair by pair."""
    places = [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    found = torch.zeros(1 + len(places), 1 + len(places))
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            found[1 + i, 1 + j] = math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sigma**2))
    return found


def alikeness(tokens: torch.Tensor) -> torch.Tensor:
    unit = tokens / tokens.norm(dim=1, keepdim=True)
    return unit @ unit.T


def coarse_mean(tokens: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    kept = torch.where(alike >= 0.4, alike, torch.zeros(()))
    return (kept / (kept.sum(1, keepdim=True) + 1e-6)) @ tokens


def outliers(tokens: torch.Tensor) -> list[int]:
    """Patches beyond the 95 % quantile of the local outlier factor, k = 30."""
    distance = (tokens[:, None] - tokens[None]).double().square().sum(-1)
    near, reach = [], []
    for i in range(len(tokens)):
        order = [j for j in distance[i].argsort().tolist() if j != i][:30]
        near.append(order)
        reach.append(float(distance[i, order[-1]]))
    scores = [sum(reach[i] / reach[n] for n in near[i]) / len(near[i]) for i in range(len(tokens))]
    limit = torch.tensor(scores).quantile(0.95)
    return [i for i, score in enumerate(scores) if score > limit]


def mended(tokens: torch.Tensor, bad: list[int], grid: tuple[int, int]) -> torch.Tensor:
    found = tokens.clone()
    for i in bad:
        y, x = divmod(i, grid[1])
        around = [
            (y + dy) * grid[1] + x + dx
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy or dx) and 0 <= y + dy < grid[0] and 0 <= x + dx < grid[1]
        ]
        good = [j for j in around if j not in bad]
        if good:
            found[i] = tokens[good].mean(0)
    return found


def pixel_shares(
    plain: PlainClip, image: torch.Tensor, text: torch.Tensor, crop: int, stride: int
) -> torch.Tensor:
    """NACLIP's probabilities, pixel by pixel: (3, H, W), (N, D) -> (N, H, W)."""
    height, width = image.shape[1:]
    total, count = torch.zeros(len(text), height, width), torch.zeros(height, width)
    begins = []
    for side in (height, width):
        steps = max(0, math.ceil((side - crop) / stride))
        begins.append([max(0, min(i * stride, side - crop)) for i in range(steps + 1)])
    for y in begins[0]:
        for x in begins[1]:
            window = image[:, y : y + crop, x : x + crop]
            rows, columns = plain.grid(window)
            seen = window[:, : rows * plain.patch, : columns * plain.patch]
            cosines = torch.einsum("nd,dhw->nhw", text, plain.naclip(seen))[None]
            size = tuple(window.shape[1:])
            large = F.interpolate(cosines, size, mode="bilinear", align_corners=False)[0]
            total[:, y : y + crop, x : x + crop] += large
            count[y : y + crop, x : x + crop] += 1
    return (40 * total / count).softmax(0)
