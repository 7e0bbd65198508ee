# SPDX-License-Identifier: Apache-2.0
"""Coloured squares as a binary glTF, whose colours a browser shows as they are meant.

The page's renderer (three.js) applies a film-like tone curve to everything; here it is undone
beforehand, so that a voxel has the colour that the camera saw.
"""

from __future__ import annotations

import json

import numpy as np

# three.js, ACESFilmicToneMapping: colour -> matrix -> (v (v + a) - b) / (v (c v + d) + e) -> matrix
_INTO = np.array(
    [[0.59719, 0.35458, 0.04823], [0.07600, 0.90834, 0.01566], [0.02840, 0.13383, 0.83777]]
)
_OUT_OF = np.array(
    [[1.60475, -0.53108, -0.07367], [-0.10208, 1.10813, -0.00605], [-0.00327, -0.07276, 1.07602]]
)
_A, _B, _C, _D, _E = 0.0245786, 0.000090537, 0.983729, 0.4329510, 0.238081
_EXPOSURE = 0.6
_BRIGHTEST = 0.97  # of the curve's result: beyond, it takes ever more light for ever less
_DARKER, _TOLERANCE = 16, 1e-3  # steps for colours that cannot be had

FACE_BYTES = 4 * (12 + 12) + 6 * 4
_ARRAY, _INDEX, _FLOAT, _UINT32 = 34962, 34963, 5126, 5125  # words of glTF


def before_tone_curve(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) 0..255 sRGB -> (N, 3) float32, the linear light that is shown as that.

    The curve has no bright and pure colours: such ones become darker and paler, in their hue.
    """
    value = np.clip(rgb / 255.0, 0, 1)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = _uncurved(linear)
    for _ in range(_DARKER):
        pure = light.min(1, initial=0) < -_TOLERANCE
        linear[pure] = 0.95 * linear[pure] + 0.01 * linear[pure].max(1, keepdims=True)
        light[pure] = _uncurved(linear[pure])
    return np.maximum(light, 0).astype(np.float32)


def _uncurved(linear: np.ndarray) -> np.ndarray:
    """(N, 3) linear sRGB -> (N, 3) what the curve makes it of; negative where there is nothing."""
    y = linear @ np.linalg.inv(_OUT_OF).T
    bright = np.clip(y, 0, _BRIGHTEST)
    a, b, c = 1 - _C * bright, _A - _D * bright, -(_B + _E * bright)
    light = (-b + np.sqrt(b * b - 4 * a * c)) / (2 * a) + np.minimum(y, 0)
    return _EXPOSURE * light @ np.linalg.inv(_INTO).T


def squares(corners: np.ndarray, rgb: np.ndarray) -> bytes:
    """A .glb of F squares, drawn from the side from which their corners run counter-clockwise.

    Args:
        corners: (F, 4, 3) float32 m.
        rgb: (F, 3) 0..255.
    """
    count = len(corners)
    points = np.ascontiguousarray(corners.reshape(-1, 3), "<f4")
    light = np.repeat(before_tone_curve(rgb), 4, axis=0).astype("<f4")
    order = np.arange(count, dtype="<u4")[:, None] * 4 + np.array([0, 1, 2, 0, 2, 3], "<u4")
    parts = [points.tobytes(), light.tobytes(), order.tobytes()]
    starts = np.cumsum([0, *map(len, parts)])
    views = [
        {"buffer": 0, "byteOffset": int(start), "byteLength": len(part), "target": target}
        for start, part, target in zip(starts, parts, (_ARRAY, _ARRAY, _INDEX), strict=False)
    ]
    vectors = {"componentType": _FLOAT, "count": 4 * count, "type": "VEC3"}
    low, high = points.min(0, initial=np.inf), points.max(0, initial=-np.inf)
    scene = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}
                ]
            }
        ],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}}],
        "extensionsUsed": ["KHR_materials_unlit"],
        "buffers": [{"byteLength": int(starts[-1])}],
        "bufferViews": views,
        "accessors": [
            {"bufferView": 0, **vectors, "min": low.tolist(), "max": high.tolist()},
            {"bufferView": 1, **vectors},
            {"bufferView": 2, "componentType": _UINT32, "count": 6 * count, "type": "SCALAR"},
        ],
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    content = b"".join(parts)  # all of whole words
    chunks = b"".join(
        len(chunk).to_bytes(4, "little") + kind + chunk
        for kind, chunk in ((b"JSON", text), (b"BIN\0", content))
    )
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks
