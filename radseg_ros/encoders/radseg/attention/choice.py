# SPDX-License-Identifier: Apache-2.0
"""From options to the attention that they name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ....config import RadsegConfig
from ....datatypes import CheckpointError, ConfigError
from ..checkpoint import RadioCheckpoint, Tensors, feature_head
from ..heads import head_size
from .block import Attention, plain
from .naradio import naradio
from .proxy import TEACHERS, Head, proxy
from .resradio import blocks_seen, resradio
from .scra import scra

MAX_UPSAMPLING = 8  # vectors of a feature head along the side of one patch


def make_attention(
    config: RadsegConfig, checkpoint: RadioCheckpoint, build: Callable[[Tensors, str], Head]
) -> Attention:
    """What the last block attends by.

    Args:
        config: names it, and its options.
        checkpoint: the weights.
        build: makes a head of its tensors and, for messages, of where they are.

    Raises:
        CheckpointError: the checkpoint lacks the head that it needs.
    """
    name = config.attention
    if name in TEACHERS:
        teacher = TEACHERS[name]
        tensors = feature_head(checkpoint, teacher, f"radseg.attention {name}")
        return partial(
            proxy,
            head=build(tensors, f"{checkpoint.path}, feature head {teacher}"),
            beta=config.beta,
            gamma=config.gamma,
            upsampling=_upsampling(checkpoint, teacher, head_size(tensors)),
        )
    if name == "naradio":
        return partial(naradio, sigma=config.sigma, transposed=config.bias_grid == "published")
    if name == "resradio":
        return partial(resradio, sigma=config.sigma, tau_r=config.tau_r, lambda_r=config.lambda_r)
    if name == "scra":
        recursions, compiled = config.recursions, config.compile
        return partial(scra, tau=config.tau_scra, recursions=recursions, compiled=compiled)
    return plain


def blocks_wanted(config: RadsegConfig, depth: int) -> range:
    """Which of ``depth`` blocks the attention looks at besides its own, counted from 0.

    Raises:
        ConfigError: there are no such blocks before the last one.
    """
    if config.attention != "resradio":
        return range(0)
    seen = blocks_seen(depth, config.first_block, config.last_block)
    if not seen or seen.stop >= depth:
        raise ConfigError(
            f"radseg.attention resradio looks at blocks before the last one of {depth}: there are "
            f"none such from radseg.first_block {seen.start + 1} to radseg.last_block {seen.stop}"
        )
    return seen


def name_suffix(config: RadsegConfig) -> str:
    """What tells maps of one attention from those of the others; RADSeg's have no mark."""
    if config.attention == "scra":
        return ""
    return f"-{config.attention}{'-sfr' if config.sfr else ''}"


def _upsampling(checkpoint: RadioCheckpoint, teacher: str, outputs: int) -> int:
    factor = checkpoint.upsampling(teacher)
    if not 1 <= factor <= MAX_UPSAMPLING or outputs % factor**2:
        raise CheckpointError(
            f"{checkpoint.path}: feature head {teacher} is said to upsample {factor} times, which "
            f"does not fit its {outputs} outputs"
        )
    return factor
