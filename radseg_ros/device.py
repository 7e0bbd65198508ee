# SPDX-License-Identifier: Apache-2.0
"""Which device to compute on."""

from __future__ import annotations

import torch

from .config import one_of
from .datatypes import ConfigError

KINDS = ("cpu", "cuda", "mps")


def pick_device(name: torch.device | str, option: str = "device") -> torch.device:
    """The device ``name``: cpu, cuda, cuda:N, mps, or auto (cuda where there is one, else cpu).

    Args:
        option: what the messages call the option.

    Raises:
        ConfigError: torch does not know the device, or the machine does not have it.
    """
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
