# SPDX-License-Identifier: Apache-2.0
"""The linear layers of a network that is not trained, by the quickest route at hand."""

from __future__ import annotations

import platform

import torch
from torch import nn
from torch.nn import functional as F

# Where it has been measured (bench/encoder.py). Elsewhere torch decides.
_ONEDNN = platform.machine().lower() in ("x86_64", "amd64") and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def linear(layer: nn.Linear, inputs: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """(..., n, inputs) -> (..., n, outputs), ``layer`` of it, and then the exact GELU if wanted.

    float32 on a CPU goes to oneDNN instead of BLAS: a product takes an eighth less time, and bias
    and GELU are done while its tiles are still in the cache. There is no gradient.
    """
    if _by_onednn(inputs):
        return torch.ops.mkldnn._linear_pointwise(
            inputs, layer.weight, layer.bias, "gelu" if gelu else "none", [], "none"
        )
    outputs = F.linear(inputs, layer.weight, layer.bias)
    return F.gelu(outputs) if gelu else outputs


def joined(layers: list[nn.Linear]) -> nn.Linear:
    """One layer with the outputs of several side by side, from the inputs that they share."""
    weight = torch.cat([layer.weight for layer in layers])
    with torch.device("meta"):
        one = nn.Linear(weight.shape[1], weight.shape[0], layers[0].bias is not None)
    one.weight = nn.Parameter(weight, requires_grad=False)
    if one.bias is not None:
        one.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    return one


def _by_onednn(inputs: torch.Tensor) -> bool:
    # graphs that are compiled or written out hold what every backend knows
    written = torch.compiler.is_compiling() or torch.jit.is_tracing()
    here = _ONEDNN and not written and bool(torch.backends.mkldnn.enabled)
    return here and inputs.device.type == "cpu" and inputs.dtype == torch.float32
