# SPDX-License-Identifier: Apache-2.0
"""RADSeg's peers line by line: every matrix as a whole, every distance on its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from radseg_ros.encoders.radseg.backbone import build_radio
from radseg_ros.encoders.radseg.checkpoint import read_checkpoint
from radseg_ros.encoders.radseg.heads import build_head


def gaussian_matrix(h: int, w: int, sigma: float) -> torch.Tensor:
    """(h w, h w): exp(-distance^2 / (2 sigma^2))."""
    places = [(y, x) for y in range(h) for x in range(w)]
    return torch.tensor(
        [
            [math.exp(-((a - c) ** 2 + (b - d) ** 2) / (2 * sigma**2)) for c, d in places]
            for a, b in places
        ]
    )


def support_matrix(labels: list[list[int]]) -> torch.Tensor:
    """(h w, h w) of SFR before the blur, way point by way point."""
    h, w = len(labels), len(labels[0])
    places = [(y, x) for y in range(h) for x in range(w)]
    longest = max(h, w) - 1
    shares = torch.linspace(0, 1, longest + 1)
    matrix = torch.zeros(h * w, h * w)
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            if labels[y][x] != labels[v][u]:
                continue
            steps = max(abs(y - v), abs(x - u))
            met = []
            for t in shares[: steps + 1]:
                at = [(a * (1 - t) + b * t).round().int() for a, b in ((y, v), (x, u))]
                met.append(labels[at[0]][at[1]])
            same = all(label == labels[y][x] for label in met)
            matrix[i, j] = 1.0 if same else math.exp(-steps / longest)
    return matrix


def blurred_matrix(matrix: torch.Tensor, sigma: float) -> torch.Tensor:
    """Rows blurred along the flattened index and brought to the sum 1, entry by entry."""
    size = min(len(matrix), int(6 * sigma + 1))
    half = (size if size % 2 else size + 1) // 2
    weights = [math.exp(-(u**2) / (2 * sigma**2)) for u in range(-half, half + 1)]
    out = torch.zeros_like(matrix)
    for j in range(len(matrix)):
        for u in range(-half, half + 1):
            if 0 <= j + u < len(matrix):
                out[:, j] += matrix[:, j + u] * weights[u + half] / sum(weights)
    return out / (out.sum(1, keepdim=True) + 1e-8)


def patch_votes(probabilities: torch.Tensor, threshold: float, patch: int) -> list[list[int]]:
    """The most frequent label in each patch, the smallest on a tie."""
    _, height, width = probabilities.shape
    rows = []
    for y in range(0, height, patch):
        row = []
        for x in range(0, width, patch):
            cell = probabilities[:, y : y + patch, x : x + patch].flatten(1).T
            votes = Counter(int(p.argmax()) if p.max() >= threshold else 0 for p in cell)
            row.append(min(votes, key=lambda label: (-votes[label], label)))
        rows.append(row)
    return rows


class PlainPeer:
    """One pass of RADIO with the last block of a peer; all matrices in one batch of one image."""

    def __init__(self, path: Path) -> None:
        self.checkpoint = read_checkpoint(path)
        self.model: Any = build_radio(self.checkpoint)
        self.patch = self.model.config.patch_size
        self.prefix = self.model.config.num_summary_tokens

    def feature_head(self, teacher: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Of (n, C) patches."""
        return build_head(self.checkpoint.feature_heads[teacher], teacher)

    def inputs(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(3, H, W) -> what goes into each block, (T, C), and what comes out of the last one."""
        model = self.model
        tokens = [model.embeddings(model.input_conditioner(image[None]))]
        for layer in model.encoder.layer:
            tokens.append(layer(tokens[-1]))
        return [each[0] for each in tokens]

    def qkv(self, number: int, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of block ``number``, each (heads, T, d)."""
        layer = self.model.encoder.layer[number]
        own, x = layer.attention, layer.norm1(tokens)
        heads = own.num_attention_heads
        return tuple(
            project(x).unflatten(1, (heads, -1)).transpose(0, 1)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        )

    def finish(self, tokens: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """(T, C) before the block, (heads, T, d) -> (h w, C) patches after it."""
        layer = self.model.encoder.layer[-1]
        x = tokens + layer.layer_scale1(layer.attention.o_proj(heads.transpose(0, 1).flatten(1)))
        x = x + layer.layer_scale2(layer.mlp(layer.norm2(x)))
        return x[self.prefix :]

    def padded(self, matrix: torch.Tensor) -> torch.Tensor:
        """A matrix of patches with zeros for the tokens before them."""
        return F.pad(matrix, (self.prefix, 0, self.prefix, 0))

    @torch.no_grad()
    def naradio(self, image: torch.Tensor, sigma: float, transposed: bool = False) -> torch.Tensor:
        """(3, H, W) -> (h w, C)."""
        tokens = self.inputs(image)[-2]
        _, k, v = self.qkv(-1, tokens)
        h, w = self.grid(image)
        bias = self.padded(gaussian_matrix(*((w, h) if transposed else (h, w)), sigma))
        weights = (k @ k.transpose(1, 2) / math.sqrt(k.shape[-1]) + bias).softmax(-1)
        return self.finish(tokens, weights @ v)

    @torch.no_grad()
    def resradio(
        self,
        image: torch.Tensor,
        blocks: range,
        tau_r: float = 1.0,
        lambda_r: float = 0.3,
        feedback: torch.Tensor | None = None,
        tau_s: float = 2.1,
        lambda_s: float = 0.7,
    ) -> torch.Tensor:
        """As above; ``feedback`` is the matrix F of SFR."""
        inputs = self.inputs(image)
        q, k, v = self.qkv(-1, inputs[-2])
        root = math.sqrt(k.shape[-1])
        maps = []
        for number in blocks:
            query, key, _ = self.qkv(number, inputs[number])
            maps.append((query @ key.transpose(1, 2) / root).softmax(-1))
        logits = k @ k.transpose(1, 2) / root
        if feedback is not None:
            logits = tau_s * ((1 - lambda_s) * logits + lambda_s * self.padded(feedback))
        weights = (logits + self.padded(gaussian_matrix(*self.grid(image), 7.0))).softmax(-1)
        weights = tau_r * ((1 - lambda_r) * weights + lambda_r * torch.stack(maps).mean(0))
        return self.finish(inputs[-2], weights @ v)

    @torch.no_grad()
    def proxy(
        self, image: torch.Tensor, teacher: str, beta: float = 1.2, gamma: float = 3.0
    ) -> torch.Tensor:
        """As above."""
        inputs = self.inputs(image)
        tokens, unmodified = inputs[-2], inputs[-1][self.prefix :]
        weights = self.proxy_weights(self.feature_head(teacher)(unmodified), beta, gamma)
        _, _, v = self.qkv(-1, tokens)
        heads = weights @ v[:, self.prefix :]
        return self.finish(tokens, F.pad(heads, (0, 0, self.prefix, 0)))

    @staticmethod
    def proxy_weights(vectors: torch.Tensor, beta: float, gamma: float) -> torch.Tensor:
        """(T, D) -> (T, T), rows that sum to 1."""
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        scores = unit @ unit.T
        scores = gamma * (scores - beta * scores.mean())
        itself = torch.eye(len(scores), dtype=torch.bool)
        scores[(scores < 0) & ~itself] = -math.inf
        return scores.softmax(-1)

    def grid(self, image: torch.Tensor) -> tuple[int, int]:
        """(h, w) patches of (3, H, W)."""
        return image.shape[1] // self.patch, image.shape[2] // self.patch
