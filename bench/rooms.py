# SPDX-License-Identifier: Apache-2.0
"""Frames of synthetic rooms for the benchmarks: a camera that turns in a row of furnished boxes,
with sensor noise.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch

from radseg_ros.datatypes import FeatureMap, Frame

HALF = np.array([3.5, 1.4, 3.0])  # m, half extents of a room (y down)
BOXES = (
    (np.array([2.2, 0.9, 1.5]), np.array([0.6, 0.5, 0.8])),
    (np.array([-2.0, 0.4, -1.8]), np.array([0.5, 1.0, 0.4])),
)
NOISE = 0.004  # m, standard deviation of the depth


def _distance(ray: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(H, W, 3) rays from ``origin`` in a room around 0 -> (H, W) distance in units of the ray."""
    with np.errstate(divide="ignore", invalid="ignore"):
        nearest = ((np.sign(ray) * HALF - origin) / ray).min(-1, initial=np.inf, where=ray != 0)
        for centre, half in BOXES:
            a, b = (centre - half - origin) / ray, (centre + half - origin) / ray
            enter, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
            nearest = np.where((enter > 0) & (enter < leave) & (enter < nearest), enter, nearest)
    return nearest


def frame(step: int, room: int = 0, height: int = 640, width: int = 864) -> Frame:
    """View number ``step`` of twelve around the room ``room``; 90 degrees wide.

    Rooms look the same.
    """
    view = _view(step % 12, height, width)
    T = view.T_world_camera.copy()
    T[0, 3] += room * (2 * HALF[0] + 0.5)
    return dataclasses.replace(view, stamp_ns=step * 100_000_000, T_world_camera=T)


@functools.cache
def _view(step: int, height: int, width: int) -> Frame:
    rng = np.random.default_rng(step)
    angle, focal = 2 * np.pi * step / 12, width / 2
    T = np.eye(4)
    T[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    origin = np.array([0.4 * np.sin(angle), 0.1, 0.4 * np.cos(angle)])
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    ray = (
        np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones_like(u)], -1)
        @ T[:3, :3].T
    )
    depth = _distance(ray, origin) + rng.normal(0, NOISE, (height, width))
    T[:3, 3] = origin
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(stamp_ns=0, rgb=rgb, depth=depth.astype(np.float32), K=K, T_world_camera=T)


def features(channels: int = 768, height: int = 640, width: int = 864, seed: int = 0) -> FeatureMap:
    """Random patch vectors, one per 16 x 16 px, each in one piece as an encoder leaves them."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(1, channels, height // 16, width // 16, generator=generator)
    return FeatureMap(data.contiguous(memory_format=torch.channels_last)[0])
