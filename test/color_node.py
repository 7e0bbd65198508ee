# SPDX-License-Identifier: Apache-2.0
"""The node with the test encoder in the table, as a process: python color_node.py --ros-args -p encoder:=colors."""

from __future__ import annotations

import sys

from color_encoder import ColorEncoder

from radseg_ros.encoder import ENCODERS
from radseg_ros.mapper_node import main

if __name__ == "__main__":
    ENCODERS["colors"] = lambda options: ColorEncoder()
    sys.exit(main())
