# SPDX-License-Identifier: Apache-2.0
"""Exported clouds, read back by Open3D."""

from __future__ import annotations

import numpy as np
import pytest

from radseg_ros.datatypes import Cloud, InputError, MapFileError
from radseg_ros.export import export_cloud


def random_cloud(count: int) -> Cloud:
    generator = np.random.default_rng(0)
    return Cloud(
        xyz=generator.normal(size=(count, 3)).astype(np.float32),
        rgb=generator.integers(0, 256, (count, 3), np.uint8),
        label=np.arange(count, dtype=np.int32) - 1,
        score=generator.random(count, dtype=np.float32),
        hits=np.arange(count, dtype=np.float32) * 1000,
    )


@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
def test_open3d_reads_what_was_written(tmp_path, suffix):
    o3d = pytest.importorskip("open3d", reason="Open3D is not installed: pip install radseg_ros[eval]")
    cloud = random_cloud(500)
    export_cloud(tmp_path / f"map{suffix}", cloud)
    read = o3d.t.io.read_point_cloud(str(tmp_path / f"map{suffix}"))
    np.testing.assert_array_equal(read.point.positions.numpy(), cloud.xyz)
    np.testing.assert_array_equal(read.point.colors.numpy(), cloud.rgb)
    for name in ("label", "score", "hits"):
        np.testing.assert_array_equal(read.point[name].numpy().ravel(), getattr(cloud, name), name)
    assert [file.name for file in tmp_path.iterdir()] == [f"map{suffix}"]


@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
def test_an_empty_cloud_is_a_valid_file(tmp_path, suffix):
    export_cloud(tmp_path / f"map{suffix}", random_cloud(0))
    header = (tmp_path / f"map{suffix}").read_bytes()
    assert b"vertex 0\n" in header if suffix == ".ply" else b"POINTS 0\n" in header


def test_other_suffixes_and_places_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"map.obj: a cloud is exported as .ply or .pcd"):
        export_cloud(tmp_path / "map.obj", random_cloud(1))
    with pytest.raises(MapFileError, match="cannot be written"):
        export_cloud(tmp_path / "nowhere" / "map.ply", random_cloud(1))
