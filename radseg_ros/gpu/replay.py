# SPDX-License-Identifier: Apache-2.0
"""Functions whose launches a GPU records once and repeats: CUDA graphs.

A frame takes hundreds of short kernels, and starting them one by one takes Python longer than a
fast GPU needs for the work. Repeating a recording starts them all at once.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

MOST = 4  # kinds of input whose recordings are kept: each holds the memory of its kernels
WARM_UPS = 2  # runs before a recording, which load kernels, choose algorithms and compile
Tensors = tuple[torch.Tensor, ...]
Function = Callable[..., Tensors]
Result = TypeVar("Result")


class Replayed:
    """``function`` of tensors, repeated from a recording where that is possible. Thread safe.

    On the processor, and where recording fails (said once), the function is simply called.

    Args:
        function: of tensors on a GPU, which gives tensors. What it does depends on their shapes
            and types alone, never on a number that it would have to wait for.
        urgent: it goes before what the GPU has to do beside it.
    """

    def __init__(self, function: Function, urgent: bool = False) -> None:
        self._function = function
        self._priority = -1 if urgent else 0
        self._recorded: OrderedDict[object, _Recording] = OrderedDict()
        self._possible = True
        self._turn = threading.Lock()  # threads that share a stream share its recording

    def __call__(self, *given: torch.Tensor) -> Tensors:
        """What the function gives, a copy."""
        return self.taken(_copies, *given)

    def taken(self, take: Callable[[Tensors], Result], *given: torch.Tensor) -> Result:
        """What ``take`` makes of the function's results, which it must copy what it keeps of: they
        are in the memory of the recording.
        """
        if not given[0].is_cuda or not self._possible:
            return take(self._function(*given))
        stream = torch.cuda.current_stream(given[0].device).cuda_stream
        key = (stream, tuple((tensor.shape, tensor.dtype) for tensor in given))
        with self._turn:
            recording = self._recorded.pop(key, None) or self._record(given)
            if recording is None:
                return take(self._function(*given))
            self._recorded[key] = recording
            return take(recording(given))

    def forget(self) -> None:
        """Record anew: the function has become another one."""
        with self._turn:
            self._recorded.clear()

    def _record(self, given: Tensors) -> _Recording | None:
        while len(self._recorded) >= MOST:
            self._recorded.popitem(last=False)
        try:
            return _Recording(self._function, given, self._priority)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._possible = False
            logger.warning("the GPU starts kernels one by one: no CUDA graph (%s)", error)
            return None


def _copies(tensors: Tensors) -> Tensors:
    return tuple(tensor.clone() if tensor.is_cuda else tensor for tensor in tensors)


class _Recording:
    """Of one call."""

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, function: Function, like: Tensors, priority: int) -> None:
        self._given = [torch.empty_like(tensor).copy_(tensor) for tensor in like]
        here, side = torch.cuda.current_stream(), torch.cuda.Stream(priority=priority)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(*self._given)
        here.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # questions may use the GPU meanwhile, from other threads
        with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
            self._results = function(*self._given)

    @torch.no_grad()
    def __call__(self, given: Tensors) -> Tensors:
        for own, tensor in zip(self._given, given, strict=True):
            own.copy_(tensor)
        self._graph.replay()
        return self._results
