# SPDX-License-Identifier: Apache-2.0
"""What every command does around its work: one sentence for what is wrong, and an exit status."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable

from .datatypes import RadsegRosError, brief
from .device import keep_freed_memory, let_threads_sleep, out_of_memory

LONGEST = 2000  # characters of a sentence
CHECKOUT = "or, in a checkout, make setup and source scripts/env.sh"
ROS_CURES = {  # what every program that talks to ROS imports, and what to do if that fails
    "rclpy": f"source /opt/ros/DISTRO/setup.bash, {CHECKOUT}",
    "radseg_interfaces": f"colcon build, and source install/setup.bash, {CHECKOUT}",
}


def run_command(name: str, work: Callable[[], int], refused: int = 1) -> int:
    """Do ``work`` -> the exit status: its own, ``refused`` where options or inputs cannot be used,
    130 when interrupted.
    """
    let_threads_sleep()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # a name of a file may hold what no encoding says
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = work()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return refused
    except (RadsegRosError, OSError, MemoryError) as error:
        complain(name, sentence(error))
        return refused
    except ImportError as error:
        if not (cure := ros_cure(error)):
            raise
        complain(name, f"{error}: {cure}")
        return refused
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        complain(name, sentence(error))
        return refused
    except KeyboardInterrupt:
        complain(name, "interrupted")
        return 130


def ros_cure(error: ImportError) -> str:
    """What to do about ROS or messages that cannot be imported; empty if it is neither."""
    return ROS_CURES.get((error.name or "").partition(".")[0], "")


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdecimal() or not 0 < len(text) < 10 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is not a whole number above 0")
    return int(text)


def add_workers(parser: argparse.ArgumentParser, what: str) -> None:
    """``--jobs`` and ``--cluster``: who does the work, of which ``what`` is one piece (plural)."""
    parser.add_argument(
        "--jobs", type=positive, default=1, help=f"{what} at the same time on this machine"
    )
    parser.add_argument(
        "--cluster",
        default="",
        metavar="ADDRESS",
        help="Dask scheduler, e.g. tcp://host:8786, or local:2",
    )


def fraction(text: str) -> float:
    """A number in 0..1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text[:50]!r} is not a number in 0..1")
    return value


def complain(name: str, text: str) -> None:
    """One line on stderr, whatever ``text`` holds."""
    print(f"{name}: {one_line(text)}", file=sys.stderr)


def sentence(error: BaseException) -> str:
    """What went wrong: one line, bounded, the same in every run that it goes wrong."""
    if isinstance(error, RadsegRosError):
        return one_line(str(error))
    if out_of_memory(error):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return one_line(f"{place}{error.strerror}")
    return one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """``text`` on one line of bounded length, without addresses of the memory."""
    return brief(re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", text[: 2 * LONGEST]), LONGEST)
