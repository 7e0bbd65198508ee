# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 skin: the only room that imports ROS."""

from __future__ import annotations

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Entry point ``radseg_mapping``."""
    from .mapper_node import main as program

    return program(args)
