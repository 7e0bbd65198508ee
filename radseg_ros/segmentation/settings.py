# SPDX-License-Identifier: Apache-2.0
"""At which sizes the 2D benchmarks are seen: Table A.1 of the paper."""

from __future__ import annotations

# short side of the image, side of a window, and distance between two windows, in px
SETTINGS = {
    "voc-low": (336, 224, 112),
    "voc-mid": (336, 336, 112),
    "voc-high": (672, 336, 336),
    "stuff-low": (336, 224, 112),
    "stuff-mid": (448, 336, 224),
    "stuff-high": (896, 336, 336),
    "context-low": (336, 224, 112),
    "context-mid": (576, 336, 224),
    "context-high": (672, 336, 336),
    "ade-low": (336, 224, 112),
    "ade-mid": (576, 336, 224),
    "ade-high": (672, 336, 336),
    "cityscapes-low": (560, 224, 112),
    "cityscapes-mid": (688, 336, 224),
    "cityscapes-high": (1344, 336, 336),
}
