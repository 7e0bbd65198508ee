# SPDX-License-Identifier: Apache-2.0
"""Small frames with known answers, and the slow map that the fast one is measured by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from radseg_ros.config import MapConfig
from radseg_ros.datatypes import FeatureMap, Frame
from radseg_ros.voxels.index import unpack
from radseg_ros.voxels.lifting.lift import LiftedFrame
from radseg_ros.voxels.voxel_map import VoxelMap

K = np.array([[10.0, 0, 7.5], [0, 10.0, 5.5], [0, 0, 1]])
MARGIN = 1e-6  # voxels; points nearer to a border may be rounded either way


_device = torch.device("cpu")


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[torch.device]:
    """Maps that are made while the block runs are on that device."""
    global _device
    before, _device = _device, device
    try:
        yield device
    finally:
        _device = before


def here() -> torch.device:
    """The device under test."""
    return _device


def pose(rng: np.random.Generator, shift: float = 1.0) -> np.ndarray:
    """A random rigid transform."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    T = np.eye(4)
    T[:3, :3] = q * np.linalg.det(q)
    T[:3, 3] = rng.normal(size=3) * shift
    return T


def make_map(voxel_size: float = 0.2, channels: int = 5, **options: Any) -> VoxelMap:
    """A map on the device under test, with the options of ``MapConfig`` by name."""
    return VoxelMap(channels, MapConfig(voxel_size=voxel_size, **options), device=_device)


def frame(depth, T=None, rgb=None, stamp_ns: int = 0, camera=K) -> Frame:
    """A frame from a depth image, or from a number: a wall 12 x 16 px in size."""
    depth = (
        np.full((12, 16), depth, np.float32)
        if np.isscalar(depth)
        else np.asarray(depth, np.float32)
    )
    rgb = np.zeros((*depth.shape, 3), np.uint8) if rgb is None else rgb
    return Frame(stamp_ns, rgb, depth, camera, np.eye(4) if T is None else T)


def random_frame(
    rng: np.random.Generator, hw=(12, 16), feature_hw=(3, 4), channels=5, shift=1.0, stamp_ns=0
):
    """A frame with holes of every kind, and its features."""
    depth = rng.uniform(0.3, 3.0, hw).astype(np.float32)
    holes = rng.random(hw) < 0.15
    depth[holes] = rng.choice(np.array([0, -1, np.nan, np.inf, -np.inf], np.float32), holes.sum())
    observed = frame(
        depth, pose(rng, shift), rng.integers(0, 256, (*hw, 3), dtype=np.uint8), stamp_ns
    )
    return observed, FeatureMap(
        torch.tensor(rng.normal(size=(channels, *feature_hw)), dtype=torch.float32)
    )


def host(values: torch.Tensor) -> np.ndarray:
    """A copy on the host."""
    return values.cpu().numpy()


def index_of(lifted: LiftedFrame) -> torch.Tensor:
    """(V, 3) voxel index of a lifted frame."""
    return unpack(lifted.key)


def weights_of(lifted: LiftedFrame) -> torch.Tensor:
    """The weights of a lifted frame, dense: (V, P)."""
    count = lifted.row_start.diff()
    rows = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    patches = lifted.feature_hw[0] * lifted.feature_hw[1]
    dense = torch.zeros(len(count), patches, device=count.device)
    return dense.index_put_((rows, lifted.patch), lifted.weight, accumulate=True)


class DictionaryMap:
    """The specification word by word: one point at a time into a dictionary of sums."""

    def __init__(self, voxel_size: float) -> None:
        self.voxel_size, self.sums = voxel_size, {}
        self.doubtful: set[tuple[int, ...]] = set()  # voxels beside a point that lies on a border

    def integrate(self, observed: Frame, features: FeatureMap) -> None:
        """Fuse one frame."""
        dense = torch.nn.functional.interpolate(
            features.data[None].double(), observed.depth.shape, mode="bilinear", align_corners=False
        )[0].numpy()
        inverse = np.linalg.inv(observed.K)
        for (v, u), z in np.ndenumerate(observed.depth.astype(np.float64)):
            if not (np.isfinite(z) and z > 0):
                continue
            point = (
                observed.T_world_camera[:3, :3] @ (z * inverse @ [u, v, 1])
                + observed.T_world_camera[:3, 3]
            )
            exact = point / self.voxel_size
            index = tuple(np.round(exact).astype(np.int64).tolist())
            for axis, value in enumerate(exact):
                if abs(value - np.floor(value) - 0.5) < MARGIN:
                    for side in (np.floor(value), np.ceil(value)):
                        self.doubtful.add((*index[:axis], int(side), *index[axis + 1 :]))
            color = observed.rgb[v, u] / (255.0 if observed.rgb.dtype == np.uint8 else 1.0)
            row = np.concatenate([[1.0], color, dense[:, v, u]])
            self.sums[index] = self.sums.get(index, 0.0) + row


def rows(snapshot) -> dict[tuple[int, ...], np.ndarray]:
    """Voxel index -> hits, colour, features."""
    values = np.concatenate(
        [
            host(snapshot.hits)[:, None],
            host(snapshot.rgb),
            host(snapshot.features),
        ],
        1,
    )
    return {tuple(index): row for index, row in zip(snapshot.index.tolist(), values, strict=True)}


def assert_equal(snapshot, reference: DictionaryMap, tolerance: float = 1e-4) -> None:
    """Same voxels, hits, colours and vectors, apart from voxels beside a point on a border."""
    found = rows(snapshot)
    expected = {
        index: np.concatenate([row[:1], row[1:] / row[0]]) for index, row in reference.sums.items()
    }
    assert found.keys() - reference.doubtful == expected.keys() - reference.doubtful
    for index in found.keys() - reference.doubtful:
        np.testing.assert_allclose(
            found[index], expected[index], atol=tolerance, rtol=1e-5, err_msg=str(index)
        )


def assert_same(a, b, tolerance: float = 1e-5) -> None:
    """Two snapshots hold the same voxels, in any order."""
    left, right = rows(a), rows(b)
    assert left.keys() == right.keys()
    for index, row in left.items():
        np.testing.assert_allclose(row, right[index], atol=tolerance, rtol=tolerance)
