# SPDX-License-Identifier: Apache-2.0
"""What no program can be faster than on this machine: measured rates of copies and of matrix
products, and the bytes and FLOPs that a stage cannot do without.
"""

from __future__ import annotations

from dataclasses import dataclass

import measure  # isort: skip

import torch  # isort: skip

COPIED = 256 << 20  # bytes: more than any cache holds
# of a voxel besides its vector: hits, views, colour, first and last stamp, clock, looks, revision
VOXEL_BYTES = 8 + 4 + 3 * 8 + 8 + 8 + 8 + 4 + 8


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy within the device's memory reads and writes together."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * COPIED / measure.median_seconds(lambda: target.copy_(source), device, limit=3.0)


def map_update_bytes(
    pixels: int, patches: int, voxels: int, channels: int, itemsize: int = 4
) -> int:
    """Bytes that fusing one frame moves at least: each thing is read once, and what changes is
    written once.

    Args:
        pixels: of depth and colour, read as float32 and 3 bytes.
        patches: (C,) float32 vectors of the image, read.
        voxels: of the frame; vectors and columns are read and written.
        itemsize: bytes of a stored number.
    """
    read = pixels * (4 + 3) + patches * channels * 4
    return read + 2 * voxels * (channels * itemsize + VOXEL_BYTES)


@dataclass(frozen=True, slots=True)
class Transformer:
    """The sizes that say what a ViT computes."""

    width: int
    depth: int
    patch: int = 16
    prefix: int = 8  # class tokens and registers

    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one block."""
        width = self.width
        return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]

    def linear_flops(self, tokens: int) -> float:
        """Of all blocks and the patches' embedding."""
        block = sum(inputs * outputs for inputs, outputs in self.products())
        return 2.0 * tokens * (self.depth * block + 3 * self.patch**2 * self.width)

    def encode_flops(self, images: int, patches: int, whole: int) -> float:
        """Of everything that ``RadsegEncoder.encode`` does: attention, SCRA's second pass and SCGA
        count their two products, softmax and norms nothing.

        Args:
            images: windows, or 1.
            patches: of each.
            whole: patches of the stitched map.
        """
        tokens = patches + self.prefix
        attention = 4.0 * tokens**2 * self.width * (self.depth + 1)
        linear = self.linear_flops(tokens) + 2.0 * tokens * self.width**2  # SCRA projects once more
        return images * (linear + attention) + 4.0 * whole**2 * self.width


def gemm_rate(
    network: Transformer, tokens: int, dtype: torch.dtype, device: torch.device, limit: float = 1.0
) -> float:
    """FLOPs a second of the network's own linear layers, as bare products of their shapes.

    Args:
        limit: s that each shape is measured.
    """
    flops = seconds = 0.0
    repeats = 4 if device.type == "cuda" else 1  # so that nobody waits for a launch
    for inputs, outputs in network.products():
        left = torch.randn(tokens, inputs, device=device).to(dtype)
        right = torch.randn(inputs, outputs, device=device).to(dtype)
        out = left @ right

        def product(
            left: torch.Tensor = left, right: torch.Tensor = right, out: torch.Tensor = out
        ) -> None:
            for _ in range(repeats):
                torch.mm(left, right, out=out)

        seconds += measure.median_seconds(product, device, 20, limit=limit) / repeats
        flops += 2.0 * tokens * inputs * outputs
    return flops / seconds
