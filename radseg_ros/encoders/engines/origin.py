# SPDX-License-Identifier: Apache-2.0
"""What a file of radseg-onnx was made from: it is told inside the file, and must be what is asked
of it.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...config import ATTENTIONS, RadsegConfig
from ...datatypes import CheckpointError, brief
from ...reading import MISFITS

KEY = "radseg_ros"  # of the metadata
FORMAT = 1  # rises when a file of before would give other features
SIDES = ("height", "width")
INT8 = "int8"  # matrix products rounded to it, the rest float32
# options that do not change what is written, or are told apart
ELSEWHERE = {"checkpoint", "text_tower", "text_embeddings", "refine", "refinement", "compile",
             "device", "dtype", "engine", "engine_file"}  # fmt: skip

Origin = dict[str, Any]  # names as in RadsegConfig


def origin_of(config: RadsegConfig, checkpoint: str, dtype: str, size: Sequence[int]) -> Origin:
    """What the features of an image depend on.

    Args:
        config: of the encoder.
        checkpoint: hash of its weights.
        dtype: that it computes in.
        size: (h, w) px at which the network sees the image.
    """
    crop, stride = config.window()
    scga = config.aggregation()
    return {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "dtype": dtype,
        **({"crop": crop, "stride": stride} if crop else {"crop": 0}),
        "attention": config.attention,
        **{name: getattr(config, name) for name in ATTENTIONS[config.attention]},
        "scga": scga,
        **({} if scga == "off" else {"tau_scga": config.tau_scga}),
        **dict(zip(SIDES, size, strict=True)),
    }


def read_origin(path: Path, metadata: Mapping[str, str]) -> Origin:
    """What the metadata of the file ``path`` tell.

    Raises:
        CheckpointError: it was not written by radseg-onnx.
    """
    try:
        found = json.loads(metadata[KEY])
        good = all(type(found[side]) is int and found[side] > 0 for side in SIDES)
        good = good and type(found["dtype"]) is str
    except MISFITS:
        good = False
    if not good:
        raise CheckpointError(f"{path} was not written by radseg-onnx")
    return found


def difference(found: Origin, wanted: Origin) -> str:
    """What a file was made with and should not be, or the reverse; empty if it fits.

    How large its images are is told when one comes; rounding is the choice of who made the file.
    """
    names = [name for name in dict.fromkeys([*wanted, *found]) if name not in (*SIDES, INT8)]
    told = [
        f"{name} {brief(found.get(name, 'none'))}, not {wanted.get(name, 'none')}"
        for name in names
        if found.get(name) != wanted.get(name)
    ]
    return "; ".join(told[:5])


def command(config: RadsegConfig, dtype: str, size: Sequence[int], int8: bool = False) -> str:
    """The command that makes the file which the options of an encoder ask for.

    Args:
        config: of the encoder.
        dtype: that it computes in.
        size: (H, W) px of the images.
        int8: rounded to it.
    """
    words = ["radseg-onnx", "-o", config.engine_file or "radseg.onnx"]
    words += ["--height", str(size[0]), "--width", str(size[1]), "--checkpoint", config.checkpoint]
    changed = {
        f.name: getattr(config, f.name)
        for f in dataclasses.fields(config)
        if f.name not in ELSEWHERE and getattr(config, f.name) != f.default
    }
    changed["dtype"] = dtype
    for name, value in changed.items():
        words += ["--set", f"{name}={json.dumps(value) if type(value) is bool else value}"]
    return shlex.join([*words, *(["--int8"] if int8 else [])])
