# SPDX-License-Identifier: Apache-2.0
"""What the host asks of a GPU, and where it waits for it, by line of the product's code.

On a GPU, torch says when the host waits (``torch.cuda.set_sync_debug_mode``). Where there is none,
the same program runs on one that is pretended: operations are counted that a GPU would have to be
waited for, because Python, or the size of their result, needs a number that it has.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import gpu_kit  # isort: skip

import gpu_speed  # isort: skip
import pretend_gpu  # isort: skip
import torch  # isort: skip
from torch.overrides import TorchFunctionMode  # isort: skip
from torch.utils._python_dispatch import (  # isort: skip
    TorchDispatchMode,
    _disable_current_modes,
)

from radseg_ros.datatypes import FeatureMap
from radseg_ros.geometry import frame_on
from radseg_ros.gpu import replay
from radseg_ros.voxels.voxel_map import VoxelMap

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
MEMORY_ONLY = ("empty", "new_empty", "lift_fresh", "resize_", "set_", "pin_memory", "is_pinned")
CHANNELS, PATCH = 768, 16
Place = tuple[str, int]  # file of the product, line


@dataclass(slots=True)
class Counted:
    """Operations by the innermost line of the product that asks for them."""

    launches: Counter[Place] = field(default_factory=Counter)  # each is a kernel, or a few
    waits: Counter[Place] = field(default_factory=Counter)


def _place() -> Place:
    """The innermost line of the product that is being run."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PRODUCT in path.parents:
            return str(path.relative_to(gpu_kit.ROOT)), frame.f_lineno
        frame = frame.f_back
    return "elsewhere", 0


class _Operations(TorchDispatchMode):
    """Counts operations that start kernels, and those that would wait for a GPU."""

    def __init__(self, found: Counted, waits: bool) -> None:
        super().__init__()
        self._found, self._waits = found, waits

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, where = function.name(), _place()
        by_mask = name.startswith(("aten::index.", "aten::index_put")) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        known = kwargs and kwargs.get("output_size") is not None
        if self._waits and (by_mask or (name in WAITING and not known)):
            self._found.waits[where] += 1
        returned = [one.alias_info for one in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returned)
        if not is_view and not name.removeprefix("aten::").startswith(MEMORY_ONLY):
            self._found.launches[where] += 1
        return function(*args, **(kwargs or {}))


class _Transfers(TorchFunctionMode):
    """Counts copies between host and pretended GPU, which are no operations there."""

    def __init__(self, found: Counted) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        from_gpu = bool(args) and isinstance(args[0], pretend_gpu.Remote)
        device = kwargs.get("device", args[1] if name == "to" and len(args) > 1 else None)
        to = {"cpu": "cpu", "cuda": "cuda"}.get(name) or getattr(device, "type", device)
        moves = name in pretend_gpu.CONVERSIONS | {"cuda", "tensor"} and to == (
            "cpu" if from_gpu else "cuda"
        )
        if (name == "tolist" and from_gpu) or (moves and not kwargs.get("non_blocking")):
            self._found.waits[_place()] += 1
        if name in ("tolist", "tensor") and (from_gpu or moves):
            self._found.launches[_place()] += 1  # others are operations of torch
        return function(*args, **kwargs)


class _Recording(replay._Recording):
    """Of one call, on a pretended GPU: nothing is recorded, and what would be is not launched."""

    def __init__(self, function: replay.Function, like: replay.Tensors, priority: int) -> None:
        self._function = function

    def __call__(self, given: replay.Tensors) -> replay.Tensors:
        given = tuple(tensor.clone() for tensor in given)
        with _disable_current_modes():
            return self._function(*given)


@contextlib.contextmanager
def _replays(found: Counted, pretended: bool) -> Iterator[None]:
    """Count each repetition of a recording, too: it is no operation of torch."""
    kind = _Recording if pretended else replay._Recording
    repeat = kind.__call__

    def counted(recording: replay._Recording, given: replay.Tensors) -> replay.Tensors:
        found.launches[_place()] += 1
        return repeat(recording, given)

    with (
        mock.patch.object(replay, "_Recording", kind),
        mock.patch.object(kind, "__call__", counted),
    ):
        yield


@contextlib.contextmanager
def counted(device: torch.device) -> Iterator[Counted]:
    """Count what is asked of a device while the block runs; the GPU may be a pretended one."""
    found = Counted()
    pretended = isinstance(torch.zeros(0, device=device), pretend_gpu.Remote)
    if device.type != "cuda" or pretended:
        with _replays(found, pretended), _Transfers(found), _Operations(found, waits=True):
            yield found
        return

    def note(message: Any, *others: Any, **more: Any) -> None:
        if "synchroniz" in str(message):
            found.waits[_place()] += 1

    torch.cuda.synchronize(device)
    with (
        warnings.catch_warnings(),
        _replays(found, pretended),
        _Operations(found, waits=False),
    ):
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _code(place: Place) -> dict[str, str]:
    """Columns of a table that say where something is."""
    file, number = place
    code = linecache.getline(str(gpu_kit.ROOT / file), number).strip()
    return {"where": f"{file}:{number}", "line": f"`{code[:80]}`"}


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
        with bench.attempt(stage), counted(bench.device) as found:
            work()
        table.row(stage=stage, waits=found.waits.total())
        for place, count in found.waits.most_common():
            table.row(stage="", waits=count, **_code(place))


def asked(device: torch.device, size: gpu_kit.Size) -> dict[str, Counted]:
    """What lifting and fusing a frame asks of a GPU, by stage, when all has run before."""
    channels, (height, width) = CHANNELS, (size.height // PATCH, size.width // PATCH)
    random = torch.Generator().manual_seed(0)
    features = FeatureMap(torch.randn(channels, height, width, generator=random).to(device))
    world = VoxelMap(channels, device=device)
    steps = ((0, 0), (1, 0), (0, 1), (1, 1))  # in two rooms; of the second one half is new
    frames = [frame_on(device, size.frame(*step), size.height) for step in steps]
    with counted(device):  # so that even a pretended GPU records
        lifted = [world.lifted(frame, features) for frame in frames]
    for number in (0, 1, 0, 2):
        world.integrate(frames[number], features, lifted=lifted[number])
    stages: dict[str, Callable[[], object]] = {
        "lift": lambda: world.lifted(frames[0], features),
        "fuse, known voxels": lambda: world.integrate(frames[0], features, lifted=lifted[0]),
        "fuse, new voxels": lambda: world.integrate(frames[3], features, lifted=lifted[3]),
    }
    found = {}
    for stage, work in stages.items():
        with counted(device) as found[stage]:
            work()
    return found


def launches(bench: gpu_kit.Bench) -> None:
    """The part: operations that start kernels, and waits, of lifting and fusing."""
    real = bench.device.type == "cuda"
    print("on the GPU" if real else "on a pretended GPU, which a processor computes")
    table = bench.table(stage="s", launches="d", waits="d", where="s", line="s")
    device = contextlib.nullcontext(bench.device) if real else pretend_gpu.pretend()
    with device as gpu:
        found = asked(gpu, bench.sizes[0])
    for stage, counts in found.items():
        table.row(stage=stage, launches=counts.launches.total(), waits=counts.waits.total())
        for place in sorted(counts.launches | counts.waits):
            here = {"launches": counts.launches[place], "waits": counts.waits[place]}
            table.row(stage="", **here, **_code(place))
