# SPDX-License-Identifier: Apache-2.0
"""The node with the test encoder in the table, as a process: python color_node.py --ros-args -p
encoder:=colors.

An image whose first pixel is SLOW_PIXEL takes SLOW seconds: it stands for a slow encoder.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from color_encoder import ColorEncoder

from radseg_ros.datatypes import FeatureMap
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.ros.mapper_node import main

SLOW_PIXEL = (1, 2, 3)
SLOW = 2.0  # s


class SlowColorEncoder(ColorEncoder):
    """Waits before it works."""

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """As ColorEncoder, later."""
        if tuple(rgb[0, 0]) == SLOW_PIXEL:
            time.sleep(SLOW)
        return super().encode(rgb)


if __name__ == "__main__":
    ENCODERS["colors"] = lambda options: SlowColorEncoder()
    sys.exit(main())
