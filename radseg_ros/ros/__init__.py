# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 skin: the only room that imports ROS."""

from __future__ import annotations

from collections.abc import Sequence

from ..command import run_command


def main(args: Sequence[str] | None = None) -> int:
    """Entry point ``radseg_mapping``: the node, whose module imports ROS and the messages first."""

    def node() -> int:
        from .mapper_node import main as run

        run(args)

    return run_command("radseg_mapping", node)
