# SPDX-License-Identifier: Apache-2.0
"""Clouds as ``.ply`` or ``.pcd`` for other programs: true colours, labels or a query, whatever the
cloud holds.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..datatypes import Cloud, InputError

FORMATS = (".ply", ".pcd")


def write_cloud(path: Path | str, cloud: Cloud) -> None:
    """Write position (m), colour, label (-1 = none), score and hits of every point, by way of
    Open3D.

    The file appears whole or not at all.

    Raises:
        InputError: another suffix than .ply or .pcd, an empty cloud, or a place that cannot be
            written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"a cloud is written as {' or '.join(FORMATS)}, not {path.name}")
    if not len(cloud):
        raise InputError("an empty cloud is not written")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}")
    import open3d as o3d

    points = o3d.t.geometry.PointCloud()
    points.point.positions = o3d.core.Tensor(np.ascontiguousarray(cloud.xyz, np.float32))
    points.point.colors = o3d.core.Tensor(np.ascontiguousarray(cloud.rgb, np.uint8))
    for name, dtype in (("label", np.int32), ("score", np.float32), ("hits", np.float32)):
        points.point[name] = o3d.core.Tensor(
            np.ascontiguousarray(getattr(cloud, name), dtype)[:, None]
        )
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix.lower()}")
    try:
        if not o3d.t.io.write_point_cloud(str(part), points):
            raise InputError(f"Open3D could not write {path}")
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
