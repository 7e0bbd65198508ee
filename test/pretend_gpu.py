# SPDX-License-Identifier: Apache-2.0
"""A GPU that is none: tensors that say ``cuda`` and that the processor computes, so that machines
without a GPU find what a GPU would refuse.

As on a real one, tensors of two devices do not mix, and none is an array before it is copied back.
Only Python's view of tensors is pretended: what torch does inside one call is not seen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
TO_HOST = {"tolist", "item", "__int__", "__float__", "__bool__", "__index__", "__format__"}
# of these, one side may be the host's: copies, and indices
BOTH_SIDES = {"copy_", "__setitem__", "__getitem__", "index_put_"}
CONVERSIONS = {"to", "cpu", "as_tensor"}  # which give what they got if it is there already


class Remote(torch.Tensor):
    """A tensor that is said to be on the GPU."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _answer(function, args, kwargs or {})

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def _name(function: Any) -> str:
    owner = getattr(function, "__self__", None)  # of a property: its getter
    return getattr(owner, "__name__", "") if _is_getter(function) else function.__name__


def _is_getter(function: Any) -> bool:
    return getattr(function, "__name__", "") == "__get__"


def _answer(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What a call gives that has to do with the GPU, or may have."""
    name = _name(function)
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    remote = [x for x in given if isinstance(x, Remote)]
    device, args, kwargs = _asked_device(name, args, kwargs)
    if not remote and (device is None or device.type == "cpu"):
        return function(*args, **kwargs)
    if _is_getter(function) and name in ("device", "is_cuda"):
        return CUDA if name == "device" else True
    if name in ("numpy", "__array__"):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")
    if name == "_has_compatible_shallow_copy_type":
        return False  # a module's parameters become others
    if remote and device is None and name not in BOTH_SIDES:
        strangers = [x for x in given if not isinstance(x, Remote) and x.ndim]
        if strangers:
            raise RuntimeError(f"{name}: found at least two devices, cuda:0 and cpu")
    with torch._C.DisableTorchFunctionSubclass():
        made = (torch.clone if name == "cuda" else function)(
            *tree_map(_near, args), **tree_map(_near, kwargs)
        )
        if name in CONVERSIONS and device is not None and (device.type == "cuda") != bool(remote):
            made = made.clone()  # what goes from one to the other is a copy
    if name in TO_HOST or (device is not None and device.type == "cpu"):
        return made
    if name.endswith("_") and not name.endswith("__") and isinstance(args[0], Remote):
        return args[0]
    return tree_map(_far, made)


def _asked_device(name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The device that a call asks for, if any, and the call on the CPU."""
    if name in ("cpu", "cuda"):
        return torch.device(name), args[:1], {}
    device = kwargs.get("device")
    if name == "to" and len(args) > 1 and isinstance(args[1], (str, torch.device)):
        device = args[1]
    if device is None or torch.device(device).type not in ("cpu", "cuda"):
        return None, args, kwargs
    if torch.device(device).index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    if "device" in kwargs:
        return torch.device(device), args, kwargs | {"device": CPU}
    return torch.device(device), (args[0], CPU, *args[2:]), kwargs


def _near(value: Any) -> Any:
    return value.as_subclass(torch.Tensor) if isinstance(value, Remote) else value


def _far(value: Any) -> Any:
    return value.as_subclass(Remote) if isinstance(value, torch.Tensor) else value


class _Nothing:
    """Stands for streams and events: everything is done in its turn."""

    device = CUDA

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


class _NoGraph:
    def __init__(self) -> None:
        raise RuntimeError("a pretended GPU records nothing")


STAND_INS = {
    "Stream": _Nothing,
    "current_stream": _Nothing,
    "stream": lambda stream: contextlib.nullcontext(),
    "CUDAGraph": _NoGraph,
    "get_device_capability": lambda device=None: (8, 0),
    "synchronize": lambda device=None: None,
}


class _Requests(TorchFunctionMode):
    """Calls that ask for the device are answered before torch looks for a driver."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _answer(function, args, kwargs or {})


@contextlib.contextmanager
def pretend() -> Iterator[torch.device]:
    """While the block runs there is a device ``cuda``."""
    with contextlib.ExitStack() as undo:
        convert = torch.__future__.set_overwrite_module_params_on_conversion
        undo.callback(convert, torch.__future__.get_overwrite_module_params_on_conversion())
        convert(True)
        for name, stand_in in STAND_INS.items():
            undo.enter_context(mock.patch.object(torch.cuda, name, stand_in))
        run = threading.Thread.run

        def run_there(thread: threading.Thread) -> None:
            with _Requests():  # which one thread alone would know
                run(thread)

        undo.enter_context(mock.patch.object(threading.Thread, "run", run_there))
        undo.enter_context(_Requests())
        yield CUDA
