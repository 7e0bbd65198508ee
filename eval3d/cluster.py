# SPDX-License-Identifier: Apache-2.0
"""Many scenes: one after the other, in processes of this machine, or on a Dask cluster.

The numbers are the same. A scene that fails, or takes its process with it, costs that scene.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from radseg_ros.command import sentence
from radseg_ros.config import to_dict
from radseg_ros.datatypes import ConfigError, RadsegRosError

from .options import EvalConfig
from .process import Process
from .run import Progress, evaluate_scene, run_scene

log = logging.getLogger(__name__)

PATIENCE = 120.0  # s without a sign of life after which a cluster, or a worker, is given up
CONNECT = 30.0  # s to reach the scheduler
CLOSE = 10.0  # s to take leave of it
LOOK = 5.0  # s between two looks at the workers
FETCH = 360.0  # s to get a result that is there; a scheduler gives up a mute worker after 300
KILLED = (
    "its process ended abruptly: for want of memory? Evaluate fewer scenes at once, or take "
    "larger voxels (map.voxel_size)"
)

Outcome = dict[str, Any] | str  # the metrics of a scene, or why there are none
Task = Callable[..., Outcome]
Results = Iterator[tuple[str, Outcome]]


def evaluate_scenes(
    config: EvalConfig,
    names: list[str],
    out: Path,
    jobs: int = 1,
    cluster: str = "",
    save_map: bool = False,
    frames: Progress = iter,
    scenes: Callable[..., Any] = lambda items, total: items,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Evaluate every scene; one that fails does not stop the others.

    Args:
        frames, scenes: wrappers that show progress over the frames of a scene, and over the scenes.

    Returns:
        The metrics by scene, in the order of ``names``, and the errors by scene.

    Raises:
        ConfigError: the cluster cannot be used; nothing has been evaluated then.
    """
    if cluster or (jobs > 1 and len(names) > 1):
        options, folder = to_dict(config), str(out.resolve())
        paths = seen_here(options, out)
        results = elsewhere(attempt_scene, names, (options, folder, save_map), jobs, cluster, paths)
    else:
        results = _one_by_one(config, names, out, frames, save_map)
    found: dict[str, Outcome] = dict(scenes(results, total=len(names)))
    done = [result for name in names if not isinstance(result := found[name], str)]
    failed = {name: why for name in names if isinstance(why := found[name], str)}
    return done, failed


def elsewhere(
    task: Task,
    names: Sequence[str],
    arguments: tuple[Any, ...],
    jobs: int = 1,
    cluster: str = "",
    paths: Sequence[str] = (),
) -> Results:
    """``task(name, *arguments)`` for every name in another process, or on another machine.

    Args:
        task: a function at the top of a module; what it gives can be sent.
        jobs: processes on this machine.
        cluster: address of a Dask scheduler; see :func:`dask_client`.
        paths: that its workers must see.

    Yields:
        Each name with what became of it, in the order that they end.

    Raises:
        ConfigError: the cluster cannot be used; nothing has been done then.
    """
    if cluster:
        return _on_cluster(cluster, task, names, paths, arguments)
    return _in_processes(min(jobs, len(names)), task, names, arguments)


def attempt(work: Callable[[], dict[str, Any]]) -> Outcome:
    """What ``work`` gives, or in one sentence why it gives nothing."""
    try:
        return work()
    except Exception as error:
        if not isinstance(error, (RadsegRosError, OSError, MemoryError)):
            log.error("a scene failed in a way that nobody expected", exc_info=error)
        return sentence(error)


def attempt_scene(name: str, options: dict[str, Any], out: str, save_map: bool) -> Outcome:
    """One scene in another process or on another machine: arguments and outcome can be sent."""
    return attempt(partial(run_scene, options, name, out, save_map))


def _one_by_one(
    config: EvalConfig, names: list[str], out: Path, frames: Progress, save_map: bool
) -> Results:
    for name in names:
        scene = partial(evaluate_scene, config, name, out, frames, save_map)
        yield name, attempt(scene)


# Processes of this machine


def _in_processes(
    jobs: int, task: Task, names: Sequence[str], arguments: tuple[Any, ...]
) -> Results:
    """A process that is killed costs its scene and no other."""
    waiting = deque(names)
    running: dict[Any, tuple[str, Process]] = {}

    def begin(process: Process | None) -> None:
        name = waiting.popleft()
        try:
            process = process or Process()
            process.begin(task, name, *arguments)
        except OSError:  # it died between two scenes
            process = Process()
            process.begin(task, name, *arguments)
        running[process.connection] = (name, process)

    try:
        for _ in range(jobs):
            begin(None)
        while running:
            for connection in wait(list(running)):
                name, process = running.pop(connection)
                outcome: Outcome
                try:
                    outcome = process.outcome()
                except (EOFError, OSError):
                    outcome = KILLED
                if waiting:
                    begin(None if outcome is KILLED else process)
                yield name, outcome
    finally:
        for _, process in running.values():
            process.end()


# A Dask cluster


def _on_cluster(
    address: str, task: Task, names: Sequence[str], paths: Sequence[str], arguments: tuple[Any, ...]
) -> Results:
    with dask_client(address) as client:
        check_workers(client, task, paths)
        work = by_value(task)
        futures = {client.submit(work, name, *arguments, pure=False): name for name in names}
        yield from _collect(client, futures)


@contextmanager
def dask_client(address: str) -> Iterator[Any]:
    """A client of a Dask scheduler.

    Its workers need this package, and the data under the same paths.

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
    count = address.removeprefix("local:")
    local = address.startswith("local:")
    if local and not (count.isdecimal() and int(count) > 0):
        raise ConfigError(f"--cluster local:N takes a number of processes, got {address!r}")
    with ExitStack() as stack:
        stack.enter_context(_quiet("distributed"))
        failure = ""
        try:
            loop = event_loop()
            if local:
                cluster = LocalCluster(
                    n_workers=int(count),
                    threads_per_worker=1,
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else 8787
                    loop=loop,
                )
                stack.callback(_close, cluster)
            client = Client(cluster if local else address, timeout=CONNECT, loop=loop)
        except Exception as error:  # OSError, TimeoutError, ValueError, those of its protocols
            failure = type(error).__name__
        if failure:
            gc.collect()  # half a client is closed here: the thread of the loop could not do it
            what = "Dask cannot be started" if local else "no Dask scheduler answers"
            raise ConfigError(f"{what} at {address} ({failure})")
        stack.callback(_close, client)
        yield client


def _close(what: Any) -> None:
    """Close a client or a cluster: one that takes too long costs no result."""
    try:
        what.close(timeout=CLOSE)
    except Exception as error:  # TimeoutError, CommClosedError, OSError
        log.debug("%s does not close: %s", type(what).__name__, error)


@functools.cache
def event_loop() -> Any:
    """The loop that Dask runs in here, for as long as the process runs.

    One of its own would have to come up within ten seconds. A busy machine may need longer.
    """
    from tornado.ioloop import IOLoop

    ready: Future[Any] = Future()

    async def run() -> None:
        ready.set_result(IOLoop.current())
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(run()), name="Dask", daemon=True).start()
    return ready.result()


@contextmanager
def _quiet(package: str) -> Iterator[None]:
    """Its loggers, with levels of their own, trace every lost connection; here a sentence does."""
    own = [name for name in logging.root.manager.loggerDict if name.startswith(package)]
    levels = {name: logging.getLogger(name).level for name in own}
    for name in own:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def seen_here(options: dict[str, Any], out: Path) -> list[str]:
    """The paths of an evaluation that exist on this machine."""
    asked = [
        *(options[name] for name in ("root", "classes", "gt", "labels")),
        out,
        out / "run.json",
    ]
    return [str(Path(path).resolve()) for path in asked if path and Path(path).exists()]


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which is imported where it is called.

    Nested functions are sent by value: the scheduler, which unpacks them, needs no package.
    """
    module, name = function.__module__, function.__name__

    def call(*arguments: Any) -> Any:
        import importlib

        return getattr(importlib.import_module(module), name)(*arguments)

    return call


def probe(task: Task, paths: Sequence[str]) -> Callable[[], str]:
    """A function, sent by value, that says what a worker lacks for ``task``; "" = nothing."""
    module, name = task.__module__, task.__name__

    def lack() -> str:
        import importlib
        import os

        try:
            getattr(importlib.import_module(module), name)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
            return f"cannot import this package, or another version of it: install it ({found})"
        missing = [path for path in paths if not os.path.exists(path)]
        return f"does not see {', '.join(missing)}: mount it there" if missing else ""

    return lack


def check_workers(client: Any, task: Task, paths: Sequence[str]) -> None:
    """See that every worker answers, can import what ``task`` needs, and sees ``paths``.

    Raises:
        ConfigError: there is no worker, or one that cannot; says which, and what it lacks.
    """
    from distributed import wait as wait_for

    try:
        client.wait_for_workers(1, timeout=PATIENCE)
        workers = list(_workers(client))
    except Exception as error:  # TimeoutError, CommClosedError, OSError
        raise ConfigError(
            f"the Dask scheduler has no worker that could evaluate a scene ({type(error).__name__})"
        ) from error
    look = probe(task, paths)
    checks = {
        worker: client.submit(look, workers=[worker], allow_other_workers=False, pure=False)
        for worker in workers
    }
    try:
        wait_for(list(checks.values()), timeout=PATIENCE)
    except Exception as error:  # TimeoutError of several modules: the states below say who is late
        log.debug("not all workers answered: %s", error)
    for worker, check in checks.items():
        if lack := _lack(check):
            raise ConfigError(f"Dask worker {worker} {lack}; nothing was evaluated")


def _lack(check: Any) -> str:
    """What a worker lacks, as :func:`probe` found it; empty = nothing."""
    if check.status == "error":
        return f"failed at a trivial task ({sentence(check.exception())})"
    if check.status == "finished":
        try:
            return check.result(timeout=PATIENCE)
        except Exception as error:  # gone since
            log.debug("its answer cannot be fetched: %s", error)
    return f"did not answer within {PATIENCE:g} s: restart it"


def _workers(client: Any) -> dict[str, Any]:
    """The workers by address, as the scheduler knows them."""
    return client.sync(client.scheduler.identity, callback_timeout=PATIENCE)["workers"]


def _collect(client: Any, futures: dict[Any, str]) -> Results:
    """The outcomes as they come; when nobody works any more, those that are missing fail."""
    from distributed import wait as wait_for

    unread: dict[Any, float] = {}
    signs, last_sign = _signs_of_life(client), time.monotonic()
    while futures:
        try:
            wait_for(list(futures), timeout=LOOK, return_when="FIRST_COMPLETED")
        except Exception as error:  # TimeoutError: nothing new; CancelledError: no scheduler
            log.debug("nothing came: %s", error)
            time.sleep(0.1)
        for future, outcome in _ended(futures, unread):
            yield futures.pop(future), outcome
        before, signs = signs, _signs_of_life(client)
        if signs - before:
            last_sign = time.monotonic()
        elif time.monotonic() - last_sign > PATIENCE:
            for name in futures.values():
                yield name, f"no worker of the cluster has answered for {PATIENCE:g} s"
            return


def _ended(futures: Iterable[Any], unread: dict[Any, float]) -> Iterator[tuple[Any, Outcome]]:
    """Those that ended, each with its outcome.

    A result may be lost with its worker before it is fetched: the scheduler has it made again.

    Args:
        unread: since when there is a result that cannot be fetched; kept from look to look.
    """
    for future in list(futures):
        if future.status in ("pending", "lost"):
            unread.pop(future, None)
            continue
        outcome, now = _outcome(future), time.monotonic()
        if outcome is None and now - unread.setdefault(future, now) > FETCH:
            outcome = f"its result could not be fetched for {FETCH:g} s"
        if outcome is not None:
            yield future, outcome


def _outcome(future: Any) -> Outcome | None:
    """What became of a scene that ended; ``None`` = its result cannot be fetched now."""
    from distributed import TimeoutError as Late  # asyncio's, another one in Python 3.10

    if future.status == "error":
        fault = future.exception()
        return KILLED if type(fault).__name__ == "KilledWorker" else sentence(fault)
    if future.status == "cancelled":
        return "the connection to the Dask scheduler was lost"
    try:
        return future.result(timeout=LOOK)
    except Exception as error:
        if not isinstance(error, (OSError, Late)) and future.status == "finished":
            return sentence(error)  # it cannot be unpacked here
        log.debug("no result: %s", error)
        time.sleep(0.1)
        return None


def _signs_of_life(client: Any) -> set[tuple[str, float]]:
    """When each worker last told the scheduler of itself, by the scheduler's clock."""
    try:
        return {(address, worker["last_seen"]) for address, worker in _workers(client).items()}
    except Exception as error:  # TimeoutError, CommClosedError, OSError
        log.debug("the scheduler does not answer: %s", error)
        return set()
