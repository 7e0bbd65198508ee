# SPDX-License-Identifier: Apache-2.0
"""Shared helpers: reference data where it is present, and one thread policy."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from radseg_ros.device import let_threads_sleep

if TYPE_CHECKING:  # imported on use: the process that deals tests out to others needs none of it
    import torch

let_threads_sleep()  # read when torch is loaded

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RADSEG_TEST_DATA", ROOT.parent / "shared"))


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """What the tests import stays: the collector need not look at its million objects.

    Properties hold on a busy machine too: no example is late, none is too slow to be made.
    """
    from hypothesis import HealthCheck, settings

    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("patient", patient)
    settings.load_profile("patient")
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def quiet_domain() -> Iterator[None]:
    """Nodes that tests and their programs start are heard by nobody else, whoever runs as well."""
    from radseg_ros.ros.transport import own_domain

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ROS_DOMAIN_ID", raising=False)
        with own_domain():
            yield


@pytest.fixture(autouse=True)
def one_thread_and_the_same_numbers() -> None:
    """The worlds are small: threads that wait for each other cost more than they bring. Random
    numbers do not depend on what was tested before.
    """
    import torch

    torch.set_num_threads(1)
    torch.default_generator.manual_seed(0)


def devices() -> list:
    """A CPU, and a GPU: a pretended one, beside the quick tests, where there is no real one."""
    import torch

    marks = () if torch.cuda.is_available() else pytest.mark.slow
    return ["cpu", pytest.param("cuda", marks=marks)]


@contextlib.contextmanager
def on_device(name: str) -> Iterator[torch.device]:
    """Each device that the core must run on; ``small_worlds`` makes its maps there."""
    import pretend_gpu
    import small_worlds
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        with pretend_gpu.pretend() as pretended, small_worlds.on(pretended):
            yield pretended
    else:
        with small_worlds.on(torch.device(name)) as real:
            yield real


@pytest.fixture(scope="module", params=devices())
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """For modules all of whose tests are of it."""
    with on_device(request.param) as found:
        yield found


@pytest.fixture(params=devices())
def device_for_one(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """For one test of a module."""
    with on_device(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def robot() -> Iterator[Any]:
    """A ROS node of the tests' own: a :class:`robot.Robot`."""
    from robot import running_robot

    with running_robot() as found:
        yield found


def golden_file(path: str) -> Path:
    """A file or folder of the authors' numbers (test/data/README.md)."""
    return ROOT / "test" / "data" / "golden" / path


def shared(path: str) -> Path:
    """A file or folder of the reference data (golden numbers, recordings), which is not part of
    this repository.
    """
    found = DATA / path
    if not found.exists():
        pytest.skip(f"reference data {path} is not in {DATA} (set RADSEG_TEST_DATA)")
    return found


def require_package(name: str, reason: str) -> None:
    """Skip a whole test file where a package is missing, without importing it."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(reason, allow_module_level=True)


def require_ros() -> None:
    """Skip a whole test file, or a test, where ROS 2 or the built interface package is missing."""
    try:
        import radseg_ros.ros.messages  # noqa: F401  # needs both; the source folder radseg_interfaces alone would be importable
    except ImportError as error:
        pytest.skip(
            f"ROS 2 or radseg_interfaces is not here ({error}): run scripts/setup.sh",
            allow_module_level=True,
        )
