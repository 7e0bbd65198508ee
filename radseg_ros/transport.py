# SPDX-License-Identifier: Apache-2.0
"""The transport settings that images need. Imports no ROS."""

from __future__ import annotations

import os

from .paths import share_file

OLD_DISTROS = ("humble", "iron", "jazzy")  # Fast DDS 2 reads its profile from a variable of another name


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
