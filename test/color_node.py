# SPDX-License-Identifier: Apache-2.0
"""The node with the test encoder in the table, as a process: python color_node.py --ros-args -p
encoder:=colors.

An image whose first pixel is HELD_PIXEL stands for a slow encoder: it is encoded when the file that
the environment variable GATE names is there. HEAD_GATE does the same for the language head.
"""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from color_encoder import ColorEncoder

from radseg_ros.datatypes import FeatureMap
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.ros.mapper_node import main

HELD_PIXEL = (1, 2, 3)
GATE, HEAD_GATE = "COLOR_NODE_GATE", "COLOR_NODE_HEAD_GATE"
ASKED = ".asked"  # end of the name of a file that tells that somebody waits at HEAD_GATE


class PatientColorEncoder(ColorEncoder):
    """Waits before it works."""

    def encode(self, rgb: np.ndarray) -> FeatureMap:
        """As ColorEncoder, later."""
        while tuple(rgb[0, 0]) == HELD_PIXEL and not os.path.exists(os.environ[GATE]):
            time.sleep(0.01)
        return super().encode(rgb)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """As ColorEncoder, later."""
        while HEAD_GATE in os.environ and not os.path.exists(os.environ[HEAD_GATE]):
            open(os.environ[HEAD_GATE] + ASKED, "w").close()
            time.sleep(0.01)
        return super().project(vectors)


if __name__ == "__main__":
    ENCODERS["colors"] = lambda options: PatientColorEncoder()
    main()
