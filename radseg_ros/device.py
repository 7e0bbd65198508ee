# SPDX-License-Identifier: Apache-2.0
"""Which device to compute on, its memory and that of the process, and how threads wait. Torch is
loaded on use.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .config import one_of
from .datatypes import ConfigError

if TYPE_CHECKING:
    import torch

KINDS = ("cpu", "cuda", "mps")
NICENESS = 5  # of threads that others go before: these get three times their share of a core
LARGEST_KEPT = 32 << 20  # bytes; what is freed of larger ones goes back to the system at once
MOST_KEPT = 256 << 20  # bytes of the others: the temporary tensors of a frame, and more
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


def pick_device(name: torch.device | str, option: str = "device") -> torch.device:
    """The device ``name``: cpu, cuda, cuda:N, mps, or auto (cuda where there is one, else cpu).

    Args:
        option: what the messages call the option.

    Raises:
        ConfigError: torch does not know the device, or the machine does not have it.
    """
    import torch

    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{option}: {str(name)!r} cannot be used ({reason})") from error
    one_of(option, device.type, KINDS)
    return device


def number_type(name: str, device: torch.device) -> torch.dtype:
    """The type that a network computes in: ``name``, or what suits the device (auto)."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    return torch.float16 if device.type == "cuda" else torch.float32


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions of float32 in float32: a GPU's are rounded to 10 bits by default (TF32)."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for matrix products in bfloat16.

    With AVX-512 BF16 they take half the time of float32's (``bench/query.py --head bfloat16``);
    without such instructions they take longer.
    """
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16)\b", described) is not None


def with_memory(work: Callable[[], Result]) -> Result:
    """``work()``, and once more with the GPU's cache freed if its memory runs out.

    Raises:
        torch.cuda.OutOfMemoryError: that was not enough either.
    """
    import torch

    try:
        return work()
    except torch.cuda.OutOfMemoryError:
        logger.info("the GPU is out of memory: tried once more with its cache freed")
    # after the error is gone, whose trace holds the tensors of the failed attempt
    torch.cuda.empty_cache()
    return work()


def gpu_bytes() -> int:
    """GPU memory that this process has reserved; 0 where none is used."""
    import torch

    return torch.cuda.memory_reserved() if torch.cuda.is_initialized() else 0


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, the processor's allocator of torch, or a GPU's said so."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def give_way() -> None:
    """Let other threads go before this one, where the system has priorities of threads (Linux)."""
    if sys.platform == "linux":
        thread = os.PRIO_PROCESS, threading.get_native_id()
        with suppress(OSError):  # a thread that could not begin would leave its requests waiting
            os.setpriority(*thread, min(19, os.getpriority(*thread) + NICENESS))  # never back up


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep while they wait for each other, instead of spinning.

    On a machine that does other work as well (every robot) small operations are up to 20 times
    faster. Programs call it before torch is loaded, which reads it; a user's own setting is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Let this process, and those that it starts, keep what it frees for the next frame.

    The C library of Linux gives it back to the system and gets it again page by page, each of which
    is cleared: a third of the processor time of large frames. Programs call it; a user's own
    setting is kept.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_": LARGEST_KEPT, "MALLOC_TRIM_THRESHOLD_": MOST_KEPT}
    own = settings.keys() & os.environ.keys() or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or own:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, MOST_KEPT)
        os.environ.update({name: str(nbytes) for name, nbytes in settings.items()})
