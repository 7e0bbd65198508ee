# SPDX-License-Identifier: Apache-2.0
"""Files that the package installs, and the transport settings that images need. Imports no ROS."""

from __future__ import annotations

import os
import sys
from pathlib import Path

OLD_DISTROS = ("humble", "iron", "jazzy")  # Fast DDS 2 reads its profile from a variable of another name


def share_file(name: str) -> Path | None:
    """Path of e.g. ``config/fastdds.xml`` in the source tree or where the package is installed; None if it is nowhere."""
    roots = [Path(__file__).resolve().parents[1]]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    roots += [Path(prefix, "share", "radseg_ros") for prefix in prefixes if prefix]
    return next((root / name for root in roots if (root / name).is_file()), None)


def profile_variable() -> str:
    """The environment variable that names Fast DDS's profile file."""
    return ("FASTRTPS" if os.environ.get("ROS_DISTRO") in OLD_DISTROS else "FASTDDS") + "_DEFAULT_PROFILES_FILE"


def use_image_profile() -> str | None:
    """Let this process send and receive large images through shared memory, unless the user has chosen a profile already.

    Call it before ``rclpy.init``. Other middleware than Fast DDS ignores it. Returns the profile in use, None for none.
    """
    variable, profile = profile_variable(), share_file("config/fastdds.xml")
    if variable not in os.environ and profile is not None:
        os.environ[variable] = str(profile)
    return os.environ.get(variable)
