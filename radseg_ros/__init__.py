# SPDX-License-Identifier: Apache-2.0
"""3D open-vocabulary semantic mapping: RGB-D and poses in, a queryable voxel map out."""

from __future__ import annotations

import importlib
from typing import Any

# name -> module; imported on use, because torch takes seconds
_EXPORTS = {
    "Config": "config",
    "FeatureMap": "datatypes",
    "Frame": "datatypes",
    "Mapper": "mapper",
    "RadsegRosError": "datatypes",
    "VoxelMap": "voxels.voxel_map",
    "make_encoder": "encoders.protocol",
}
__all__ = list(_EXPORTS)  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
