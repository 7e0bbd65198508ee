# SPDX-License-Identifier: Apache-2.0
"""The transport settings that images need, and a domain of one's own. Imports no ROS."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .paths import share_file

# Fast DDS 2 reads its profile from a variable of another name
OLD_DISTROS = ("humble", "iron", "jazzy")
SHARED_MEMORY = Path("/dev/shm")
MB = 1 << 20
SMALLEST = 4 * MB  # two colour and depth pairs of 640x480; with 2 MB every second image was lost
SHARE = 4  # a process takes a quarter of what is free, so that those after it find room too
# left to programs that send no images, of 0.5 MB each: Fast DDS hangs where it cannot make theirs
SPARE = 2 * MB
DOMAINS = 101  # from 1; beyond, DDS's ports are among those that Linux gives to anybody


def profile_variable() -> str:
    """The environment variable that names Fast DDS's profile file."""
    family = "FASTRTPS" if os.environ.get("ROS_DISTRO") in OLD_DISTROS else "FASTDDS"
    return f"{family}_DEFAULT_PROFILES_FILE"


@contextmanager
def image_transport(shared_memory: Path = SHARED_MEMORY) -> Iterator[str]:
    """Nodes that are made within the block can send images; whoever only receives needs nothing.

    Whatever a user has chosen, and other middleware than Fast DDS, is left alone.

    Yields:
        What is wrong with the machine, in one line with its cure; empty if nothing is.
    """
    variable, shipped = profile_variable(), share_file("config/fastdds.xml")
    middleware = os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if variable in os.environ or shipped is None or not middleware.startswith("rmw_fastrtps"):
        yield ""
        return
    text, warning = sized_profile(shipped.read_text(), shared_memory)
    with tempfile.NamedTemporaryFile("w", prefix="radseg_", suffix=".xml") as profile:
        profile.write(text)
        profile.flush()
        os.environ[variable] = profile.name
        try:
            yield warning
        finally:
            os.environ.pop(variable)  # child processes must not look for a file that is gone


@contextmanager
def own_domain() -> Iterator[None]:
    """Nodes of this process and its children, within the block, and everybody else's do not hear
    each other. Whoever has chosen a domain keeps it.

    Raises:
        OSError: every domain of this machine is taken.
    """
    ours = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    with socket.socket(socket.AF_UNIX) as taken:
        if "ROS_DOMAIN_ID" not in os.environ:
            ours["ROS_DOMAIN_ID"] = str(_take_domain(taken))
        ours = {name: value for name, value in ours.items() if name not in os.environ}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name in ours:
                os.environ.pop(name, None)


def _take_domain(mark: socket.socket) -> int:
    """A domain that nobody else takes while ``mark`` is open: it gets a name that only one socket
    of a machine can have, and that is free again however a process ends.
    """
    for number in range(DOMAINS):
        domain = 1 + (os.getpid() + number) % DOMAINS  # the last one may still have guests
        try:
            mark.bind(f"\0radseg_ros domain {domain}")
        except OSError:
            continue
        return domain
    raise OSError("every ROS domain of this machine is taken; set ROS_DOMAIN_ID")


def sized_profile(profile: str, shared_memory: Path) -> tuple[str, str]:
    """Fast DDS's ``profile`` with a segment that fits into the memory that is left, or with none.

    Returns:
        The profile, and a warning if images will be lost nevertheless.
    """
    segment, message = (
        int(re.search(rf"<{tag}>(\d+)</{tag}>", profile)[1])  # type: ignore[index]
        for tag in ("segment_size", "maxMessageSize")
    )
    try:
        state = os.statvfs(shared_memory)
    except OSError:
        return profile, ""  # another system than Linux: Fast DDS knows where else to look
    free = state.f_bavail * state.f_frsize
    chosen = min(segment, max(free // SHARE, SMALLEST))
    for tag, size in (("segment_size", chosen), ("maxMessageSize", min(message, chosen // 2))):
        profile = re.sub(rf"(<{tag}>)\d+", rf"\g<1>{size}", profile)
    if free >= SHARE * SMALLEST:
        return profile, ""
    if free < SMALLEST + SPARE:
        own = "<transport_id>images_shared_memory</transport_id>"
        profile = re.sub(rf"(<userTransports>)\s*{own}", r"\1", profile)
    return profile, (
        f"only {free / MB:.1f} MB are free in {shared_memory}: images may be lost on their way; "
        "give it more (Docker: --shm-size=1g, or --ipc=host)"
    )
