# SPDX-License-Identifier: Apache-2.0
"""Clouds in files: what Open3D reads back is what was written."""

from __future__ import annotations

import numpy as np
import pytest

from radseg_ros.answers.export import write_cloud
from radseg_ros.datatypes import Cloud, InputError


def cloud(count: int = 50) -> Cloud:
    rng = np.random.default_rng(0)
    return Cloud(
        xyz=rng.normal(size=(count, 3)).astype(np.float32),
        rgb=rng.integers(0, 256, (count, 3), dtype=np.uint8),
        label=rng.integers(-1, 7, count).astype(np.int32),
        score=rng.random(count).astype(np.float32),
        hits=rng.integers(1, 99, count).astype(np.float32),
    )


@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
def test_open3d_reads_back_what_was_written(tmp_path, suffix):
    o3d = pytest.importorskip(
        "open3d", reason="clouds are written by way of Open3D, which is not installed"
    )
    expected, path = cloud(), tmp_path / f"map{suffix}"
    write_cloud(path, expected)
    found = o3d.t.io.read_point_cloud(str(path)).point
    np.testing.assert_array_equal(found.positions.numpy(), expected.xyz)
    np.testing.assert_array_equal(found.colors.numpy(), expected.rgb)
    for name in ("label", "score", "hits"):
        np.testing.assert_array_equal(found[name].numpy().ravel(), getattr(expected, name))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_written_is_said(tmp_path):
    for path, content in (
        (tmp_path / "map.obj", cloud()),
        (tmp_path / "map.ply", cloud(0)),
        (tmp_path / "no" / "map.ply", cloud()),
    ):
        with pytest.raises(InputError):
            write_cloud(path, content)
