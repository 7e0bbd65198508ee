# SPDX-License-Identifier: Apache-2.0
"""Where the host waits for the GPU, by line of the product's code.

On a GPU, torch says when it waits (``torch.cuda.set_sync_debug_mode``). On a CPU nobody waits: what
is counted there are operations that would have to, because Python, or the size of their result,
needs a number that the GPU has. Copies to and from the GPU cannot be seen there.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import gpu_kit  # isort: skip

import gpu_speed  # isort: skip
import torch  # isort: skip
from torch.utils._python_dispatch import TorchDispatchMode  # isort: skip

PRODUCT = gpu_kit.ROOT / "radseg_ros"
WAITING = (  # operations of torch whose result has a size, or is a number, that the host must know
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
)
Place = tuple[str, int]  # file of the product, line


def _place() -> Place:
    """The innermost line of the product that is being run."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PRODUCT in path.parents:
            return str(path.relative_to(gpu_kit.ROOT)), frame.f_lineno
        frame = frame.f_back
    return "elsewhere", 0


class _WouldWait(TorchDispatchMode):
    """Counts operations that would wait for a GPU."""

    def __init__(self, found: Counter[Place]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name()
        by_mask = name.startswith(("aten::index.", "aten::index_put")) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        known = kwargs and kwargs.get("output_size") is not None
        if by_mask or (name in WAITING and not known):
            self._found[_place()] += 1
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def waits(device: torch.device) -> Iterator[Counter[Place]]:
    """Count where the host waits while the block runs, by place."""
    found: Counter[Place] = Counter()
    if device.type != "cuda":
        with _WouldWait(found):
            yield found
        return

    def note(message: Any, *others: Any, **more: Any) -> None:
        if "synchroniz" in str(message):
            found[_place()] += 1

    torch.cuda.synchronize(device)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def syncs(bench: gpu_kit.Bench) -> None:
    """The part: each stage once, when everything has run before."""
    seen = bench.device.type == "cuda"
    print("seen by torch" if seen else "on a CPU: operations that would wait for a GPU")
    table = bench.table(stage="s", waits="d", where="s", line="s")
    model, size = bench.models[0], bench.sizes[0]
    encoder = bench.in_preset(bench.encoder(model, bench.types[0]), "balanced")
    mapper = gpu_speed.mapper_of(encoder, size)
    frames = [size.seen(step) for step in range(4)]
    for frame in frames:
        mapper.integrate(frame)
    prepared, new = mapper.see(frames[0]), size.frame(0, 1)
    stages: dict[str, Callable[[], object]] = {
        "resize and encode": lambda: mapper.see(frames[0]),
        "lift": lambda: mapper.lifted(*prepared),
        "lift and fuse, known voxels": lambda: mapper.fuse(mapper.lifted(*prepared)),
        "a whole frame, known voxels": lambda: mapper.integrate(frames[1]),
        "lift and fuse, new voxels": lambda: mapper.fuse(mapper.lifted(new, prepared[1])),
        "question, after a frame": lambda: mapper.query(gpu_kit.LABELS),
        "question, repeated": lambda: mapper.query(gpu_kit.LABELS),
        "cloud": lambda: mapper.changes(-1, gpu_kit.LABELS),
    }
    mapper.query(gpu_kit.LABELS)
    mapper.fuse(mapper.lifted(*prepared))
    for stage, work in stages.items():
        with bench.attempt(stage), waits(bench.device) as found:
            work()
        table.row(stage=stage, waits=found.total())
        for (file, number), count in found.most_common():
            code = linecache.getline(str(gpu_kit.ROOT / file), number).strip()
            table.row(stage="", waits=count, where=f"{file}:{number}", line=f"`{code[:80]}`")
