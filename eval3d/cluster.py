# SPDX-License-Identifier: Apache-2.0
"""Many scenes: one after the other, in processes of this machine, or on a Dask cluster.

The numbers are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from radseg_ros.config import to_dict
from radseg_ros.datatypes import ConfigError, RadsegRosError

from .options import EvalConfig
from .run import evaluate_scene, run_scene

log = logging.getLogger(__name__)


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler as an executor.

    They need this package, and the data under the same paths.

    Args:
        address: ``tcp://host:8786``, or ``local:N`` for N worker processes on this machine.

    Raises:
        ConfigError: the optional package is missing, or nobody answers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ConfigError(
            "--cluster needs the optional package distributed (pip install distributed)"
        ) from None
    cluster = None
    try:
        if address.startswith("local:"):
            workers = int(address.removeprefix("local:"))
            cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        client = Client(cluster or address, timeout=30)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"no Dask cluster at {address}: {error}") from None
    try:
        yield client.get_executor(pure=False)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


@contextmanager
def _processes(jobs: int) -> Iterator[Executor]:
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn")
    ) as executor:  # fork would copy torch's thread pools
        yield executor


def evaluate_scenes(
    config: EvalConfig,
    names: list[str],
    out: Path,
    jobs: int = 1,
    cluster: str = "",
    save_map: bool = False,
    frames: Callable[[Any], Iterator[Any]] = iter,
    scenes: Callable[..., Any] = lambda items, total: items,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Evaluate every scene; one that fails does not stop the others.

    Args:
        frames, scenes: wrappers that show progress over the frames of a scene, and over the scenes.

    Returns:
        The metrics by scene, in the order of ``names``, and the errors by scene.
    """
    done: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    if jobs <= 1 and not cluster:
        for name in scenes(names, total=len(names)):
            try:
                done[name] = evaluate_scene(config, name, out, frames, save_map)
            except RadsegRosError as error:
                failed[name] = str(error)
        return [done[name] for name in names if name in done], failed
    with dask_executor(cluster) if cluster else _processes(min(jobs, len(names))) as executor:
        arguments = (to_dict(config), str(out.resolve()), save_map)
        futures = {
            executor.submit(run_scene, arguments[0], name, *arguments[1:]): name for name in names
        }
        for future in scenes(as_completed(futures), total=len(futures)):
            name = futures[future]
            try:
                done[name] = future.result()
            except RadsegRosError as error:
                failed[name] = str(error)
    return [done[name] for name in names if name in done], failed
