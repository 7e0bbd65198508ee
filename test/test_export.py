# SPDX-License-Identifier: Apache-2.0
"""Clouds in files: what Open3D reads back is what was written."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from radseg_ros.answers.export import POINT_BYTES, write_cloud
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


@pytest.mark.slow
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


@pytest.fixture
def open3d():
    return pytest.importorskip(
        "open3d", reason="clouds are written by way of Open3D, which is not installed"
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
@pytest.mark.parametrize("limit", [0, 300, 1200])
def test_a_file_that_cannot_grow_is_no_cloud(tmp_path, open3d, suffix, limit):
    """Open3D tells nobody that its writes fail."""
    resource = pytest.importorskip("resource", reason="limits of a process are those of Unix")
    path = tmp_path / f"map{suffix}"
    write_cloud(path, cloud(5))
    before = path.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        with pytest.raises(InputError, match="not written whole: is the disk full"):
            write_cloud(path, cloud())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_disk_without_room_for_all_points_is_full(tmp_path, monkeypatch, open3d):
    free = POINT_BYTES * 50
    usage = lambda _: SimpleNamespace(free=free)  # noqa: E731
    monkeypatch.setattr("radseg_ros.answers.export.shutil.disk_usage", usage)
    write_cloud(tmp_path / "map.ply", cloud(50))
    assert (tmp_path / "map.ply").stat().st_size > free
    with pytest.raises(InputError, match="the disk is full"):
        write_cloud(tmp_path / "other.ply", cloud(51))
    assert [p.name for p in tmp_path.iterdir()] == ["map.ply"]


def cut_short(write, path, points) -> bool:
    written = write(path, points)
    os.truncate(path, os.path.getsize(path) - 1)
    return written


def elsewhere(write, path, points) -> bool:
    return write(path, points.clone().translate([0, 0, 1e-3]))


def of_fewer_points(write, path, points) -> bool:
    return write(path, points.select_by_index(list(range(49))))


def in_vain(write, path, points) -> bool:
    return write(path, points) and False


@pytest.mark.parametrize("spoilt", [cut_short, elsewhere, of_fewer_points, in_vain])
def test_what_cannot_be_read_back_is_not_kept(tmp_path, monkeypatch, open3d, spoilt):
    write = open3d.t.io.write_point_cloud
    monkeypatch.setattr(open3d.t.io, "write_point_cloud", partial(spoilt, write))
    with pytest.raises(InputError, match="not written whole"):
        write_cloud(tmp_path / "map.ply", cloud())
    assert not list(tmp_path.iterdir())


def test_a_suffix_in_capitals_is_a_suffix(tmp_path, open3d):
    write_cloud(tmp_path / "MAP.PLY", cloud())
    assert (tmp_path / "MAP.PLY").read_bytes().startswith(b"ply")


def test_an_error_of_the_disk_is_told_in_words(tmp_path, monkeypatch, open3d):
    def failing(folder):
        raise OSError(5, "Input/output error", str(folder))

    monkeypatch.setattr("radseg_ros.answers.export.shutil.disk_usage", failing)
    with pytest.raises(InputError) as error:
        write_cloud(tmp_path / "map.ply", cloud())
    assert str(error.value) == f"{tmp_path / 'map.ply'} cannot be written: Input/output error"
