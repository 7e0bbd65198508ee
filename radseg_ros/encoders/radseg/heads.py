# SPDX-License-Identifier: Apache-2.0
"""The small networks that bring backbone features into a teacher's space (docs/method.md 1.2),
rebuilt from their tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ...datatypes import CheckpointError, brief

MAX_INNER = 100  # blocks; those of RADIO have 1 to 3


class ResidualHead(nn.Module):
    """MLP "v2": residual blocks of LayerNorm, GELU, Linear; every size comes from the tensors."""

    def __init__(self, inputs: int, hidden: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden))
            for _ in range(inner)
        )
        self.final = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)."""
        x = self.fc1(x)
        for block in self.blocks:
            x = x + block(x)
        return self.final(x)


class PlainHead(nn.Module):
    """MLP "v1": Linear, LayerNorm, ReLU, as often as there are inner blocks, then Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.norm = nn.LayerNorm(hidden)
        layers = [
            layer
            for _ in range(inner)
            for layer in (nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU())
        ]
        self.inner = nn.Sequential(*layers)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.fc2(self.inner(torch.relu(self.norm(self.fc1(x)))))


def head_size(state: Mapping[str, torch.Tensor]) -> int:
    """Size of a head's output; 0 when the tensors are no head."""
    last = state.get("final.2.weight", state.get("fc2.weight"))
    return 0 if last is None else int(last.shape[0])


def build_head(state: Mapping[str, torch.Tensor], where: str) -> nn.Module:
    """Rebuild a head from its tensors.

    Args:
        state: the head's tensors, keys relative to the head (``fc1.weight``, ...).
        where: file and head, for error messages.

    Raises:
        CheckpointError: the keys belong to neither version of the head, or a tensor has the wrong
            shape.
    """
    last, inner_key = (
        ("final.2.weight", "blocks.{}.2.weight")
        if "final.2.weight" in state
        else ("fc2.weight", "inner.{}.weight")
    )
    if "fc1.weight" not in state or last not in state:
        raise CheckpointError(
            f"{where}: not a head of version v1 or v2; needs fc1.weight and {last}, has "
            f"{sorted(state)}"
        )
    hidden, inputs = state["fc1.weight"].shape
    outputs = state[last].shape[0]
    step = (
        1 if last.startswith("final") else 3
    )  # v1 counts Linear, LayerNorm and ReLU as three entries
    inner = 0
    while inner_key.format(inner * step) in state:
        inner += 1
    if inner > MAX_INNER:
        raise CheckpointError(f"{where}: {inner} inner blocks are more than {MAX_INNER}")
    kind = ResidualHead if last.startswith("final") else PlainHead
    with torch.device("meta"):  # no time spent on random weights
        head = kind(inputs, hidden, outputs, inner)
    try:
        head.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{where}: {brief(error, 500)}") from error
    return head
