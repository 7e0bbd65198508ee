# SPDX-License-Identifier: Apache-2.0
"""The transport settings that images need. Imports no ROS."""

from __future__ import annotations

import os

from .paths import share_file

OLD_DISTROS = (
    "humble",
    "iron",
    "jazzy",
)  # Fast DDS 2 reads its profile from a variable of another name


def profile_variable() -> str:
    """The environment variable that names Fast DDS's profile file."""
    return (
        "FASTRTPS" if os.environ.get("ROS_DISTRO") in OLD_DISTROS else "FASTDDS"
    ) + "_DEFAULT_PROFILES_FILE"


def profile_environment() -> dict[str, str]:
    """What has to be set so that images travel through shared memory.

    Empty if the user has chosen a profile already.
    """
    variable, profile = profile_variable(), share_file("config/fastdds.xml")
    return {} if variable in os.environ or profile is None else {variable: str(profile)}


def use_image_profile() -> None:
    """Set it for this process. Call it before ``rclpy.init``.

    Other middleware than Fast DDS ignores it.
    """
    os.environ.update(profile_environment())
