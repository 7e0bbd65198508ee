# SPDX-License-Identifier: Apache-2.0
"""RADSeg whose features come from a file of radseg-onnx."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from ...config import RadsegConfig
from ...datatypes import CheckpointError, ConfigError, FeatureMap, InputError, Pixels
from ..radseg.encoder import RadsegEncoder
from .origin import INT8, command, difference, origin_of
from .session import Engine


class EngineEncoder(RadsegEncoder):
    """A :class:`RadsegEncoder` with ``radseg.engine`` onnxruntime or tensorrt.

    Torch brings images to their size and answers texts, and what RADSeg+ wants of the network.

    Raises:
        CheckpointError: the file cannot be read or run, or radseg-onnx did not write it.
        ConfigError: it was made from other weights or options, or the engine is not installed.
    """

    def __init__(self, config: RadsegConfig) -> None:
        super().__init__(config)
        path = Path(config.engine_file).expanduser()
        engine = Engine(path, self.device, config.engine == "tensorrt")
        kind = str(engine.origin["dtype"] if config.dtype == "auto" else config.dtype)
        self._command = partial(command, config, kind, int8=bool(engine.origin.get(INT8)))
        wanted = origin_of(config, self.checkpoint_hash, kind, engine.size)
        if wrong := difference(engine.origin, wanted):
            raise ConfigError(
                f"{path} was made for {wrong}; make another: {self._command(engine.size)}"
            )
        if engine.channels != self.channels:
            raise CheckpointError(
                f"{path} is damaged: it makes {engine.channels} numbers a patch, its checkpoint "
                f"{self.channels}"
            )
        self._engine = engine.start()

    @torch.no_grad()
    def encode(self, rgb: Pixels) -> FeatureMap:
        """(H, W, 3) RGB, uint8 or float32 in [0, 1] -> FeatureMap (C, h, w) in backbone space,
        float32.

        Raises:
            InputError: the file was made for images of another size; says how to make one.
        """
        image = self.image(rgb)
        if tuple(image.shape[1:]) != self._engine.size:
            seen, made = (" x ".join(map(str, s)) for s in (image.shape[1:], self._engine.size))
            raise InputError(
                f"images of {rgb.shape[0]} x {rgb.shape[1]} px are seen at {seen}, and "
                f"{self._engine.path} was made for {made}; make another: "
                f"{self._command(rgb.shape[:2])}"
            )
        return FeatureMap(self._engine(image))
