# SPDX-License-Identifier: Apache-2.0
"""A network whose launches a GPU records once and repeats: CUDA graphs.

A frame takes hundreds of short kernels, and starting them one by one takes Python longer than a
fast GPU needs for the work. Repeating a recording starts them all at once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

MOST = 4  # sizes of images whose recordings are kept: each holds the memory of its kernels
WARM_UPS = 2  # runs before a recording, which load kernels, choose algorithms and compile


class Replayed:
    """``function`` of one tensor, repeated from a recording where that is possible.

    For one thread at a time. On the processor, and where recording fails (said once), the function
    is simply called.

    Args:
        function: of one tensor on a GPU; what it does depends on the shape and type alone.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._function = function
        self._recorded: OrderedDict[tuple[torch.Size, torch.dtype], _Recording] = OrderedDict()
        self._possible = True

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        """What the function gives, in memory of its own."""
        if not given.is_cuda or not self._possible:
            return self._function(given)
        key = (given.shape, given.dtype)
        recording = self._recorded.pop(key, None)
        if recording is None:
            while len(self._recorded) >= MOST:
                self._recorded.popitem(last=False)
            try:
                recording = _Recording(self._function, given)
            except RuntimeError as error:
                if isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                self._possible = False
                logger.warning("the GPU starts kernels one by one: no CUDA graph (%s)", error)
                return self._function(given)
        self._recorded[key] = recording
        return recording(given)


class _Recording:
    """Of one call."""

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self, function: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor
    ) -> None:
        self._given = torch.empty_like(like).copy_(like)
        here = torch.cuda.current_stream(like.device)
        side = torch.cuda.Stream(like.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(self._given)
        here.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # questions may use the GPU meanwhile, from other threads
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = function(self._given)

    @torch.no_grad()
    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        self._given.copy_(given)
        self._graph.replay()
        return self._result.clone()
