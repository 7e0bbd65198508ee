# SPDX-License-Identifier: Apache-2.0
"""A file of radseg-onnx at work in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...datatypes import CheckpointError, ConfigError
from ...hub import file_hash
from ...language.cache import cache_folder
from ...reading import border
from .origin import INT8, SIDES, read_origin

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
INPUT, OUTPUT = "image", "features"  # names in the graph
FLOAT = "tensor(float)"
WHAT = "a file of radseg-onnx"


class Engine:
    """(3, H, W) float32 in [0, 1] -> (C, h, w) float32, both torch's and on ``device``.

    The memory is torch's on both sides: nothing is copied on the way in or out.

    Args:
        path: the file.
        device: cpu or cuda.
        tensorrt: run it by TensorRT, which builds an engine first (minutes) and keeps it below
            ``$RADSEG_CACHE`` or ``~/.cache/radseg_ros``.

    Raises:
        CheckpointError: the file cannot be read, or radseg-onnx did not write it.
        ConfigError: onnxruntime, or the provider that is asked for, is not installed.
    """

    def __init__(self, path: Path, device: torch.device, tensorrt: bool = False) -> None:
        self.path, self.device = path, device
        wanted = TENSORRT if tensorrt else CUDA if device.type == "cuda" else CPU
        _check_installed(wanted, device)
        with border(path, WHAT, CheckpointError):
            path.stat()  # onnxruntime's errors do not tell that there is no such file
            # TensorRT builds for minutes: what does not fit is found before
            peek = _open(path, [CPU], quickly=True)
            self.origin = read_origin(path, peek.get_modelmeta().custom_metadata_map)
            self.size = tuple(self.origin[side] for side in SIDES)
            self.channels, *self._grid = _patches(path, peek, self.size)
            del peek
        if self.origin.get(INT8) and device.type != "cpu":
            raise ConfigError(
                f"{path} is in int8, which is for the CPU: radseg.device cpu, or make it without "
                "--int8, with --set dtype=float16"
            )
        self._wanted = wanted
        self._session: Any = None

    def start(self) -> Engine:
        """Load the weights, and with TensorRT build the engine.

        Raises:
            CheckpointError: the file cannot be run.
            ConfigError: the provider does not work here.
        """
        with border(self.path, WHAT, CheckpointError):
            self._session = _open(self.path, self._providers())
        if self._session.get_providers()[0] != self._wanted:
            raise ConfigError(
                f"onnxruntime cannot use its {self._wanted} here (are CUDA and TensorRT those that "
                "it was built for?)"
            )
        self._session.disable_fallback()
        return self

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The features of an image of ``size``, float32 in [0, 1], on ``device``."""
        image = image[None].contiguous()
        out = torch.empty((1, self.channels, *self._grid), device=self.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, INPUT, image),
            (binding.bind_output, OUTPUT, out),
        ):
            kind, index = self.device.type, self.device.index or 0
            bind(name, kind, index, np.float32, tuple(tensor.shape), tensor.data_ptr())
        if self.device.type == "cuda":  # onnxruntime has a stream of its own
            torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)
        return out[0]

    def _providers(self) -> list[Any]:
        """The one that is wanted, and what it leaves to others."""
        if self._wanted == CPU:
            return [CPU]
        index = self.device.index or 0
        # as torch: rounding float32 to TF32 is asked for by a type, not by an engine
        cuda = (CUDA, {"device_id": index, "use_tf32": 0})
        if self._wanted == CUDA:
            return [cuda, CPU]
        # the names of cached engines do not tell weights apart
        cache = cache_folder("engines") / file_hash([self.path])
        cache.mkdir(parents=True, exist_ok=True)
        options = {
            "device_id": index,
            "trt_fp16_enable": self.origin["dtype"] == "float16",
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
        return [(TENSORRT, options), cuda, CPU]


def _check_installed(provider: str, device: torch.device) -> None:
    """Whether onnxruntime is here and brings ``provider``, which works on ``device``."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"radseg.engine needs: pip install 'radseg_ros[onnx]', or onnxruntime-gpu ({error})"
        ) from error
    if provider == TENSORRT and device.type != "cuda" or device.type == "mps":
        raise ConfigError(
            f"radseg.engine: {provider} does not run on {device.type} (radseg.device)"
        )
    have = onnxruntime.get_available_providers()
    if provider not in have:
        raise ConfigError(
            f"this onnxruntime has no {provider}, only {', '.join(have)}: install onnxruntime-gpu "
            "in its place (on a Jetson the build for its JetPack)"
        )


def _patches(path: Path, peek: Any, size: tuple[int, ...]) -> list[int]:
    """C, h and w of what a graph makes of images of ``size``.

    Raises:
        CheckpointError: it takes or makes something else.
    """
    takes, makes = (
        {each.name: (each.type, each.shape) for each in parts}
        for parts in (peek.get_inputs(), peek.get_outputs())
    )
    kind, shape = makes.get(OUTPUT, ("", []))
    sound = takes == {INPUT: (FLOAT, [1, 3, *size])} and (kind, len(shape)) == (FLOAT, 4)
    if not sound or not all(type(side) is int and side > 0 for side in shape) or shape[0] != 1:
        raise CheckpointError(f"{path} is damaged: its graph is not what its metadata say")
    return shape[1:]


def _open(path: Path, providers: list[Any], quickly: bool = False) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    # as torch's threads here (device.let_threads_sleep): a robot does other work as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if quickly:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=providers)
