# SPDX-License-Identifier: Apache-2.0
"""A command of the desk with the test encoder in the table: python color_desk.py map RECORDING ...

The environment variable FRAME_SECONDS makes the encoder take so long for a frame.
"""

from __future__ import annotations

import importlib
import os
import sys
import time

import numpy as np
from color_encoder import ColorEncoder

from radseg_ros.datatypes import FeatureMap
from radseg_ros.encoders.protocol import ENCODERS

FRAME_SECONDS = "COLOR_DESK_FRAME_SECONDS"


class SlowColorEncoder(ColorEncoder):
    """Takes its time."""

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """As ColorEncoder, later."""
        time.sleep(float(os.environ.get(FRAME_SECONDS, "0")))
        return super().encode(rgb)


if __name__ == "__main__":
    ENCODERS["colors"] = lambda options: SlowColorEncoder()
    sys.exit(importlib.import_module(f"radseg_ros.cli.{sys.argv[1]}").main(sys.argv[2:]))
