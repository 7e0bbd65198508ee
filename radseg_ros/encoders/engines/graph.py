# SPDX-License-Identifier: Apache-2.0
"""RADSeg written to a file of ONNX: one graph from the image, at the size at which the network sees
it, to the features. Windows are one batch; SCRA and SCGA are made in blocks, as in torch.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...datatypes import CheckpointError, ConfigError
from ...files import whole_file
from ...geometry import resize_rgb
from ..radseg.encoder import RadsegEncoder
from .origin import INT8, KEY, origin_of
from .session import INPUT, OUTPUT, Engine

OPSET = 18
MOST_BYTES = (1 << 31) - (1 << 24)  # of a file of ONNX; the graph itself takes some
# type -> by how much features may differ from torch's, as a share of the largest one
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, INT8: 1e-1}
# A correlation within rounding of 0 counts in one and not in the other: that moves a few patches.
SHARE = 0.95  # of the patches that must be within the tolerance
LEAST_COSINE = {"float32": 0.999, "float16": 0.99, INT8: 0.95}  # of every patch


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the features of a file are from torch's, on one image."""

    difference: float  # the largest in 95 % of the patches, as a share of the largest feature
    cosine: float  # of the worst patch

    def fits(self, dtype: str) -> bool:
        """Whether that is rounding."""
        return self.difference <= TOLERANCE[dtype] and self.cosine >= LEAST_COSINE[dtype]


class Whole(nn.Module):
    """(1, 3, H, W) -> (1, C, h, w), with all windows in one batch."""

    def __init__(self, encoder: RadsegEncoder) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """An image in [0, 1], of the size at which the network sees it."""
        return self._encoder.features(image[0], at_once=1 << 16)[None]


def write_engine(
    encoder: RadsegEncoder, path: Path, size: tuple[int, int], int8: bool = False
) -> Agreement:
    """Write what ``encoder`` makes of images of ``size`` (H, W) px, once it agrees with torch.

    Args:
        encoder: whose weights and options are written.
        path: of the file.
        size: of the images.
        int8: round the weights of the matrix products to 8 bit, channel by channel; what goes into
            them is rounded by its range when it comes. For the CPU.

    Raises:
        ConfigError: what writes and runs ONNX is not installed, or a type or size is not possible.
        CheckpointError: the file that was made does not agree; nothing is written.
        OSError: it cannot be written.
    """
    dtype = str(encoder.dtype).removeprefix("torch.")
    types = ["float32"] if int8 else ["float32", "float16"]
    if dtype not in types:
        which = "in int8" if int8 else "of an engine"
        raise ConfigError(f"radseg.dtype {which} is {' or '.join(types)}, not {dtype}")
    rgb = _probe(size)
    image = encoder.image(rgb)
    origin = origin_of(encoder.config, encoder.checkpoint_hash, dtype, image.shape[1:])
    origin[INT8] = int8
    with whole_file(path) as part:
        _export(encoder, image, part, json.dumps(origin))
        if int8:
            _round(part)
        engine = Engine(part, torch.device("cpu")).start()
        agreement = compare(engine(image.cpu()), encoder.encode(rgb).data.cpu())
        if not agreement.fits(INT8 if int8 else dtype):
            raise CheckpointError(
                f"the graph made for {path} does not do what torch does: features differ by "
                f"{agreement.difference:.1e} of the largest, the worst cosine is "
                f"{agreement.cosine:.4f}; nothing was written"
            )
    return agreement


def compare(ours: torch.Tensor, torchs: torch.Tensor) -> Agreement:
    """Two (C, h, w) of one image."""
    ours, torchs = ours.flatten(1), torchs.flatten(1)
    off = (ours - torchs).abs().amax(0) / torchs.abs().max()
    cosines = torch.cosine_similarity(ours, torchs, dim=0)
    return Agreement(float(off.quantile(SHARE)), float(cosines.min()))


def _probe(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: coarse and fine noise, as no image is."""
    random = np.random.default_rng(0)
    coarse = resize_rgb(random.random((8, 8, 3), np.float32), size, antialias=False)
    fine = random.random((*size, 3), np.float32)
    return np.round(255 * (0.7 * coarse + 0.3 * fine)).astype(np.uint8)


@contextmanager
def _quietly(logger: str | None) -> Iterator[None]:
    """Without the warnings that a library has about itself."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _round(path: Path) -> None:
    """Rewrite a file in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quietly(None):
        quantize_dynamic(path, path, ["MatMul"], per_channel=True, weight_type=QuantType.QInt8)


def _export(encoder: RadsegEncoder, image: torch.Tensor, path: Path, origin: str) -> None:
    """Write the graph for (3, H, W) images like ``image``."""
    try:
        import onnxscript  # noqa: F401  # torch writes by it
    except ImportError as error:
        raise ConfigError(f"radseg-onnx needs: pip install 'radseg_ros[onnx]' ({error})") from error
    with torch.no_grad(), _quietly("torch.onnx"):
        program = torch.onnx.export(
            Whole(encoder).eval(),
            (image[None],),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[KEY] = origin
    tensors = [value.const_value for value in program.model.graph.initializers.values()]
    nbytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if nbytes > MOST_BYTES:
        raise ConfigError(
            f"the weights take {nbytes / 1e9:.1f} GB, a file of ONNX 2 GB: --set dtype=float16"
        )
    program.save(str(path), external_data=False)
