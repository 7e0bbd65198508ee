# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in an evaluation is said and counted: maps that stay empty, frames that add
nothing, scenes that fail, processes that die, places that cannot be written.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import eval3d_world as world
import numpy as np
import pytest
import scene_tasks
from damage import altered, damaged
from PIL import Image
from test_eval3d_run import FAST, METRIC_FILES, metrics_of, oracle, two_scenes
from waiting import PATIENCE, wait_for

from eval3d import cluster
from eval3d.cli import main
from eval3d.options import EvalConfig
from radseg_ros.datatypes import ConfigError, InputError


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Status, output and errors of the command."""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured.out, captured.err


def move(root: Path, offset: tuple[float, float, float]) -> None:
    for path in (root / "pose").iterdir():
        T = np.loadtxt(path)
        T[:3, 3] += offset
        np.savetxt(path, T)


def no_change(root: Path) -> None:
    del root


def far_depth(root: Path) -> None:
    for path in (root / "depth").iterdir():
        world.save(path, np.full(world.SIZE, 60_000, np.uint16))


def no_depth(root: Path) -> None:
    for path in (root / "depth").iterdir():
        world.save(path, np.zeros(world.SIZE, np.uint16))


def chequered_depth(root: Path) -> None:
    rows, columns = np.indices(world.SIZE)
    for path in (root / "depth").iterdir():
        world.save(path, np.where((rows + columns) % 2, 1000, 3000).astype(np.uint16))


def strips(root: Path) -> None:
    """Images of one row, which is 1280 px long."""
    for path in (root / "color").iterdir():
        world.save(path, np.zeros((1, 1280, 3), np.uint8))
    for kind, dtype in (("depth", np.uint16), ("label", np.uint8)):
        for path in (root / kind).iterdir():
            world.save(path, np.ones((1, 1280), dtype))


EMPTY = {
    "poses in UTM": (lambda root: move(root, (447e3, 5412e3, 300)), (), "too far from the origin"),
    "poses on the moon": (lambda root: move(root, (0, 0, 4e8)), (), "too far from the origin"),
    "depth out of range": (far_depth, ("lift.max_range=5",), "outside of lift.min_range"),
    "no depth at all": (no_depth, (), "no returns"),
    "a clip box elsewhere": (no_change, ("lift.clip_min=[50,50,50]",), "outside of lift.clip_min"),
    "only edges": (chequered_depth, ("lift.depth_edge=1e-9",), "lift.depth_edge"),
    "a border wider than the image": (no_change, ("lift.border=200",), "lift.border"),
    "strips": (strips, (), "times as long as wide"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("truth", ["lifted", "points"])
def test_an_empty_map_is_no_result(tmp_path, capsys, case, truth):
    change, options, reason = EMPTY[case]
    root = world.write_folder(tmp_path / "room", 2)
    change(root)
    arguments = [word for option in options for word in ("--set", option)]
    if truth == "points":
        xyz, labels = world.points(1)
        np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
        arguments += ["--gt", tmp_path / "gt.npz"]
    out = tmp_path / "out"
    (out / "room").mkdir(parents=True)
    (out / "summary.md").write_text("of another day")
    status, told, error = run(capsys, *oracle(root, out, *arguments))
    assert status == 1 and "eval3d: room: not one of its 2 frames can be used" in error
    assert reason in error and "label image" not in error
    assert not (out / "room" / "metrics.json").exists() and "another day" not in told


def test_a_bag_in_utm_is_no_result(tmp_path, capsys, monkeypatch):
    pose_of, render, utm = world.pose_of, world.render, np.zeros((4, 4))
    utm[:3, 3] = (447e3, 5412e3, 300)
    monkeypatch.setattr(world, "pose_of", lambda i: pose_of(i) + utm)
    monkeypatch.setattr(world, "render", lambda T: render(T - utm))
    bag = world.write_bag(tmp_path / "bag", 4)
    xyz, labels = world.points(1)
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
    classes = world.write_classes(tmp_path / "six.tsv")
    arguments = ("bag", bag, "--gt", tmp_path / "gt.npz", "--classes", classes, *FAST)
    status, _, error = run(capsys, *arguments, "--encoder", "oracle", "--out", tmp_path / "out")
    assert status == 1 and "bag: not one of its" in error and "too far from the origin" in error


def test_voxels_that_are_all_removed_again_are_no_result(tmp_path, capsys, monkeypatch):
    from radseg_ros.voxels.voxel_map import VoxelMap

    integrate = VoxelMap.integrate

    def and_forget(self, *observed, **options):
        stats = integrate(self, *observed, **options)
        self.clear()
        return stats

    monkeypatch.setattr(VoxelMap, "integrate", and_forget)
    root = world.write_folder(tmp_path / "room", 2)
    status, _, error = run(capsys, *oracle(root, tmp_path / "out"))
    assert status == 1 and "the map is empty: every voxel was removed again" in error


@pytest.mark.parametrize("kind", ["npz", "radmap"])
def test_a_map_without_voxels_is_not_scored(tmp_path, capsys, kind):
    from eval3d.oracle import OracleEncoder
    from radseg_ros.config import Config
    from radseg_ros.mapper import Mapper

    classes = world.write_classes(tmp_path / "six.tsv")
    xyz, labels = world.points(1)
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=labels)
    np.savez(tmp_path / "map.npz", xyz=np.zeros((0, 3)), labels=np.zeros(0, int))
    names = [f"{name} wall" for name in world.FACES]
    Mapper(Config(), OracleEncoder(names)).save(tmp_path / "map.radmap")
    arguments = ("--gt", tmp_path / "gt.npz", "--classes", classes, "--encoder", "oracle")
    path = tmp_path / f"map.{kind}"
    status, _, error = run(capsys, "score", path, *arguments, "--out", tmp_path / "out")
    assert status == 2 and f"{path} holds no voxel" in error


def test_frames_that_add_nothing_are_drops_and_pixels_have_reasons(tmp_path, capsys):
    root = world.write_folder(tmp_path / "room", 4)
    far_depth_of_two = root / "depth" / "000002.png"
    world.save(far_depth_of_two, np.full(world.SIZE, 60_000, np.uint16))
    half = np.asarray(Image.open(root / "depth" / "000001.png")).copy()
    half[:24] = 0
    world.save(root / "depth" / "000001.png", half)
    out = tmp_path / "out"
    status, text, _ = run(capsys, *oracle(root, out, "--set", "lift.max_range=50"))
    frames = metrics_of(out, "room")["frames"]
    why = "frame without a usable depth pixel: all depth is outside of lift.min_range to "
    assert status == 0 and frames["used"] == 3 and frames["listed"] == 4
    assert frames["dropped"] == {f"{why}lift.max_range": 1}
    assert frames["examples"] == {f"{why}lift.max_range": "000002"}
    pixels, size = frames["pixels"], world.SIZE[0] * world.SIZE[1]
    assert pixels == {"fused": 3 * size - size // 2, "no_return": size // 2, "range": size}
    assert "| 3 | 1 |" in text
    page = (out / "report.html").read_text()
    assert "62.5% fused, 25.0% range, 12.5% no return" in page and "3 of 4 frames used" in page


def test_faults_are_told_the_same_in_every_run(tmp_path, capsys, caplog):
    """No address of the memory, no name of a temporary file, no order of a set."""
    root = world.write_folder(tmp_path / "room", 9)
    (root / "color" / "000001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (root / "color" / "000002.png").write_bytes(b"")
    (root / "depth" / "000003.png").write_bytes((root / "depth" / "000003.png").read_bytes()[:90])
    (root / "pose" / "000004.txt").write_text("x\n")
    world.save(root / "label" / "000005.png", np.zeros((*world.SIZE, 3), np.uint8))
    (root / "label" / "000006.png").unlink()
    texts = []
    for number in range(2):
        caplog.clear()
        arguments = oracle(root, tmp_path / str(number), "--set", "lift.max_range=3")
        assert run(capsys, *arguments)[0] == 0
        texts.append(caplog.text)
    assert texts[0] == texts[1] and "label missing" in texts[0] and "0x" not in texts[0]
    for name in METRIC_FILES:
        one, other = ((tmp_path / str(n) / "room" / name).read_bytes() for n in range(2))
        assert one == other, name
    assert len(metrics_of(tmp_path / "0", "room")["frames"]["dropped"]) == 3


# Scenes that fail


def test_failed_scenes_are_named_in_every_report(tmp_path, capsys):
    arguments = two_scenes(tmp_path)
    out = tmp_path / "out"
    assert run(capsys, *arguments, "--out", out)[0] == 0
    (tmp_path / "recordings" / "one" / "intrinsics.txt").write_text("|")
    status, text, error = run(capsys, *arguments, "--out", out)
    assert status == 1 and "eval3d: one: " in error
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["failed"]) == ["one"] and "intrinsics.txt" in summary["failed"]["one"]
    assert "## Failed" in text and "| one | " in text
    assert "Failed: 1 scenes, which no mean holds" in (out / "report.html").read_text()
    assert "| out | 1 |" in text, "the result of before is not in the mean"


def test_nothing_of_yesterday_is_reported_when_all_scenes_fail(tmp_path, capsys):
    arguments = two_scenes(tmp_path)
    out = tmp_path / "out"
    assert run(capsys, *arguments, "--out", out)[0] == 0
    for scene in ("one", "two"):
        shutil.rmtree(tmp_path / "recordings" / scene / "depth")
    status, text, error = run(capsys, *arguments, "--out", out)
    assert status == 1 and text == "" and error.count("no recording in") == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out of memory",
        ),
        (OSError(28, "No space left on device", "f"), "f: No space left on device"),
        (KeyError("what nobody expected"), "KeyError: 'what nobody expected'"),
        (ValueError(f"in <object at 0x7f{3:010x}>\nand more"), "in <object at 0x...> and more"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_whatever_a_scene_raises_the_others_go_on(tmp_path, capsys, monkeypatch, error, told):
    evaluate = cluster.evaluate_scene

    def raising(config, name, *arguments):
        if name == "one":
            raise error
        return evaluate(config, name, *arguments)

    monkeypatch.setattr(cluster, "evaluate_scene", raising)
    status = main([*map(str, two_scenes(tmp_path)), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert status == 1 and told in captured.err and "| two |" in captured.out
    assert "eval3d: one: " in captured.err


# Processes that die


def outcomes(monkeypatch, names, jobs=2, out=Path("out"), **options):
    monkeypatch.setattr(cluster, "attempt_scene", scene_tasks.by_name)
    done, failed = cluster.evaluate_scenes(EvalConfig(), names, out, jobs, **options)
    return [scene["scene"] for scene in done], failed


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2, 3, 8])
def test_a_process_that_dies_costs_its_scene(monkeypatch, jobs):
    names = ["a", "dies", "b", "fails", "c", "exits", "dies too", "d"]
    done, failed = outcomes(monkeypatch, names, jobs)
    assert done == ["a", "b", "c", "d"]
    assert failed == {
        "dies": cluster.KILLED,
        "fails": "cannot be used",
        "exits": cluster.KILLED,
        "dies too": cluster.KILLED,
    }


@pytest.mark.slow
def test_a_process_that_dies_between_two_scenes_costs_none(monkeypatch):
    made = []

    class Dying(cluster.Process):
        def __init__(self):
            super().__init__()
            made.append(self)
            if len(made) == 1:
                self.begin(scene_tasks.by_name, "dies")
                with pytest.raises((EOFError, OSError)):
                    self.outcome()

    monkeypatch.setattr(cluster, "Process", Dying)
    assert outcomes(monkeypatch, ["a", "b", "c"]) == (["a", "b", "c"], {}) and len(made) == 3


@pytest.mark.slow
def test_processes_are_used_again_and_scenes_run_beside_each_other(monkeypatch):
    monkeypatch.setattr(cluster, "attempt_scene", scene_tasks.by_name)
    names = [f"scene {i}" for i in range(6)]
    done, failed = cluster.evaluate_scenes(EvalConfig(), names, Path("out"), 2)
    assert not failed and len({scene["process"] for scene in done}) == 2


PARENT = """
from pathlib import Path
from eval3d import cluster
from eval3d.options import EvalConfig
from radseg_ros.command import run_command
import scene_tasks

def work():
    cluster.attempt_scene = scene_tasks.by_name
    cluster.evaluate_scenes(EvalConfig(), ["naps", "naps too", "naps on"], Path(), 2)
    return 0

if __name__ == "__main__":
    raise SystemExit(run_command("parent", work))
"""


def of_session(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # ended meanwhile
        if int(number) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_processes_do_not_outlive_the_one_that_started_them(tmp_path, end):
    (tmp_path / "parent.py").write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, start_new_session=True,
        env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True,
        # who runs the tests in the background may ignore Ctrl-C, and all its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        wait_for(lambda: len(list(tmp_path.glob("naps*"))) >= 2 or parent.poll() is not None)
        parent.send_signal(getattr(signal, end))
        _, error = parent.communicate(timeout=PATIENCE)
        assert "Traceback" not in error
        if end == "SIGINT":
            assert parent.returncode == 130 and error == "parent: interrupted\n"
        # a scene that has begun may be finished
        wait_for(lambda: not of_session(parent.pid), "the end of its processes")
    finally:
        for process in of_session(parent.pid):
            os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_the_killed_scene_is_in_the_report(tmp_path, capsys, monkeypatch):
    """The whole command, with real scenes."""

    class HoldsOne(cluster.Process):
        def begin(self, task, name, *arguments):
            if name == "one":
                os.kill(self._process.pid, signal.SIGSTOP)
            super().begin(task, name, *arguments)

    def kill_the_one_that_works(items, total):
        for number, item in enumerate(items):
            if number == 0:  # scene two is done: kill the process of scene one
                for child in multiprocessing.active_children():
                    child.kill()
            yield item

    from eval3d import cli

    bars = cli.bars
    monkeypatch.setattr(cluster, "Process", HoldsOne)
    monkeypatch.setattr(cli, "bars", lambda: (bars()[0], kill_the_one_that_works))
    arguments = two_scenes(tmp_path)
    status, text, error = run(capsys, *arguments, "--jobs", 2, "--out", tmp_path / "out")
    assert status == 1 and f"eval3d: one: {cluster.KILLED}" in error
    assert "| two |" in text and "| one | its process ended" in text


# A Dask cluster


@pytest.mark.slow
def test_addresses_that_cannot_be(monkeypatch):
    pytest.importorskip("distributed", reason="the optional package distributed is not installed")
    told_by = logging.getLogger("distributed")
    level = told_by.level
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    for address, reason in (
        ("local:0", "takes a number of processes"),
        ("local:-1", "takes a number of processes"),
        ("local:two", "takes a number of processes"),
        ("tcp://", "no Dask scheduler answers"),
        ("nowhere", "no Dask scheduler answers"),
        ("tcp://127.0.0.1:1", "no Dask scheduler answers"),
    ):
        with pytest.raises(ConfigError, match=reason):
            outcomes(monkeypatch, ["a", "b"], cluster=address)
        assert told_by.level == level != logging.CRITICAL, "as quiet as it was before"


@pytest.fixture
def scheduler(monkeypatch):
    """A Dask scheduler without workers; its address."""
    distributed = pytest.importorskip(
        "distributed", reason="the optional package distributed is not installed"
    )
    monkeypatch.setattr(cluster, "LOOK", 0.5)
    options = {"dashboard_address": None, "loop": cluster.event_loop()}
    own_port = {"dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=0, scheduler_kwargs=own_port, **options) as local:
        yield local.scheduler_address


@pytest.mark.slow
def test_dask_starts_no_loop_which_had_to_be_there_in_ten_seconds(monkeypatch, scheduler):
    from distributed import utils

    late: list[str] = []
    monkeypatch.setattr(utils, "_CollectErrorThread", lambda target, **_: late.append("thread"))
    with cluster.dask_client(scheduler) as client:
        assert client.submit and not late


@pytest.mark.slow
def test_clusters_of_one_machine_share_no_port():
    pytest.importorskip("distributed", reason="the optional package distributed is not installed")
    with cluster.dask_client("local:1"), warnings.catch_warnings():
        warnings.simplefilter("error")  # as of ports that are in use
        with cluster.dask_client("local:1") as client:
            assert client.submit(sum, [1, 2]).result() == 3


@pytest.mark.slow
def test_what_does_not_close_in_time_costs_no_result(monkeypatch):
    distributed = pytest.importorskip(
        "distributed", reason="the optional package distributed is not installed"
    )
    for kind in (distributed.LocalCluster, distributed.Client):

        def late(each, timeout=None, close=kind.close):
            close(each)
            raise TimeoutError(f"not within {timeout} s")

        monkeypatch.setattr(kind, "close", late)
    assert outcomes(monkeypatch, ["a", "b"], cluster="local:1") == (["a", "b"], {})


class Worker:
    """A Dask worker in a process of its own."""

    def __init__(self, address: str, python_path: str = "") -> None:
        here = Path(__file__).parent
        path = python_path or os.pathsep.join([str(here), str(here.parent)])
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
        self.process = subprocess.Popen(
            [*command, *options], env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> subprocess.Popen:
        return self.process

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def once_one_waits(folder: Path, then: Callable[[], Any]) -> Iterator[None]:
    """Do something when a scene that waits has begun, as its file in ``folder`` says."""
    over = threading.Event()

    def wait() -> None:
        while not list(folder.glob("waits*")):
            if over.wait(0.05):
                return
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_a_cluster_evaluates_the_scenes(monkeypatch, scheduler):
    with Worker(scheduler), Worker(scheduler):
        done, failed = outcomes(monkeypatch, ["a", "fails", "b"], cluster=scheduler)
    assert done == ["a", "b"] and failed == {"fails": "cannot be used"}


@pytest.mark.slow
def test_a_cluster_without_workers_is_refused(monkeypatch, scheduler):
    monkeypatch.setattr(cluster, "PATIENCE", 2.0)
    with pytest.raises(ConfigError, match="no worker that could evaluate"):
        outcomes(monkeypatch, ["a", "b"], cluster=scheduler)


@pytest.mark.slow
def test_a_worker_without_the_package_is_found_before_the_work(monkeypatch, scheduler, tmp_path):
    with Worker(scheduler, str(tmp_path)), pytest.raises(ConfigError) as caught:
        outcomes(monkeypatch, ["a", "b"], cluster=scheduler)
    told = str(caught.value)
    assert "cannot import this package" in told and "nothing was evaluated" in told
    assert "No module named 'scene_tasks'" in told and "tcp://" in told


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_data_is_found_before_the_work(monkeypatch, scheduler):
    monkeypatch.setattr(cluster, "seen_here", lambda options, out: ["/", "/only/here"])
    with Worker(scheduler), pytest.raises(ConfigError, match="does not see /only/here: mount it"):
        outcomes(monkeypatch, ["a", "b"], cluster=scheduler)


@pytest.mark.slow
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_a_cluster_whose_only_worker_is_gone_is_given_up(
    monkeypatch, scheduler, signal_name, tmp_path
):
    def end() -> None:
        process.send_signal(getattr(signal, signal_name))
        monkeypatch.setattr(cluster, "PATIENCE", 5.0)

    with Worker(scheduler) as process, once_one_waits(tmp_path, end):
        names = ["a", "waits", "b"]
        done, failed = outcomes(monkeypatch, names, out=tmp_path, cluster=scheduler)
    assert set(done) <= {"a", "b"} and set(failed) == {"a", "waits", "b"} - set(done)
    assert all("no worker of the cluster has answered" in why for why in failed.values())


@pytest.mark.slow
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_a_result_that_went_with_its_worker_is_made_again(
    monkeypatch, scheduler, signal_name, tmp_path
):
    ended, lost = cluster._ended, []

    def end_who_did_it(futures, unread):
        if not lost and all(future.done() for future in futures):
            lost.append(int((tmp_path / "notes").read_text()))
            os.kill(lost[0], getattr(signal, signal_name))
        return ended(futures, unread)

    monkeypatch.setattr(cluster, "_ended", end_who_did_it)
    if signal_name == "SIGSTOP":
        monkeypatch.setattr(cluster, "FETCH", 2.0)
    with Worker(scheduler), Worker(scheduler), cluster.dask_client(scheduler) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        done, failed = outcomes(monkeypatch, ["notes"], out=tmp_path, cluster=scheduler)
    if signal_name == "SIGKILL":
        assert done == ["notes"] and int((tmp_path / "notes").read_text()) != lost[0]
    else:  # nobody knows that it hangs
        assert failed == {"notes": "its result could not be fetched for 2 s"} and lost


@pytest.mark.parametrize("status", ["lost", "pending"])
def test_a_result_that_is_made_again_has_the_whole_time_to_be_fetched(status):
    class Scene:
        pass

    scene = Scene()
    scene.status, unread = status, {scene: -np.inf}
    assert list(cluster._ended([scene], unread)) == [] and not unread


@pytest.mark.slow
def test_a_worker_that_is_gone_when_it_has_looked_is_found_before_the_work(monkeypatch, scheduler):
    lack = cluster._lack
    with Worker(scheduler) as process:

        def gone(check):
            process.kill()
            monkeypatch.setattr(cluster, "PATIENCE", 1.0)
            return lack(check)

        monkeypatch.setattr(cluster, "_lack", gone)
        with pytest.raises(ConfigError, match="did not answer within 1 s: restart it"):
            outcomes(monkeypatch, ["a", "b"], cluster=scheduler)


@pytest.mark.slow
def test_a_worker_that_hangs_is_found_before_the_work(monkeypatch, scheduler):
    monkeypatch.setattr(cluster, "PATIENCE", 5.0)
    with Worker(scheduler) as process, cluster.dask_client(scheduler) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(ConfigError, match="did not answer within 5 s: restart it"):
            outcomes(monkeypatch, ["a", "b"], cluster=scheduler)


def address_in(contact: Path) -> str:
    """What a scheduler wrote there; "" = it has not yet."""
    with suppress(OSError, ValueError):
        return json.loads(contact.read_text())["address"]
    return ""


@pytest.mark.slow
def test_a_scheduler_that_dies_is_said(monkeypatch, tmp_path):
    pytest.importorskip("distributed", reason="the optional package distributed is not installed")
    monkeypatch.setattr(cluster, "LOOK", 0.5)
    module, contact = "distributed.cli.dask_scheduler", tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", contact, "--no-dashboard"]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", module, *options], stderr=subprocess.DEVNULL
    )

    def end() -> None:
        scheduler.kill()
        monkeypatch.setattr(cluster, "PATIENCE", 5.0)

    try:
        address, names = wait_for(lambda: address_in(contact)), ["waits", "waits too"]
        with Worker(address), once_one_waits(tmp_path, end):
            done, failed = outcomes(monkeypatch, names, out=tmp_path, cluster=address)
    finally:
        scheduler.kill()
        scheduler.wait()
    assert not done and set(failed) == set(names)
    assert all("Dask" in why or "no worker" in why for why in failed.values())


# Results and maps of others


@pytest.mark.slow
def test_damaged_results_are_refused_or_merged(tmp_path, capsys):
    from eval3d.report.write import write_report

    root, out = world.write_folder(tmp_path / "room", 2), tmp_path / "out"
    assert run(capsys, *oracle(root, out))[0] == 0
    shutil.copytree(out / "room", out / "twin")
    merged = 0
    for name in ("metrics.json", "timings.json"):
        path = out / "room" / name
        good = path.read_bytes()
        others = [json.dumps(value).encode() for value in altered(json.loads(good), 60)]
        for data in [*others, *damaged(good, 30)]:
            path.write_bytes(data)
            try:
                write_report([out], tmp_path / "report", pictures=False)
                merged += 1
            except InputError as error:
                assert name in str(error) and "\n" not in str(error)
        path.write_bytes(good)
    assert 0 < merged < 120


def odd_columns(xyz: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """What may stand in a map of arrays, or in a ground truth."""
    shapes = [np.zeros(0), np.zeros((2, 2)), np.zeros((0, 3)), np.array("x"), np.array(1.5)]
    kinds = [np.array(["a", "b"]), xyz * 1j, xyz.astype(np.float16), np.zeros((len(labels), 0))]
    values = [xyz * np.nan, xyz * 1e300, np.full(xyz.shape, -5), np.full((6, 4), np.nan)]
    other = [labels + 100, labels - 3, labels + 0.5, labels.astype(np.uint8), labels > 2]
    return [*shapes, *kinds, *values, *other, np.full(len(labels), np.uint64(2**64 - 1))]


def test_maps_and_truths_of_odd_arrays_are_refused_or_scored(tmp_path):
    from eval3d.options import with_options
    from eval3d.score_file import score_file

    xyz, labels = (values[::50] for values in world.points(1))
    classes = world.write_classes(tmp_path / "six.tsv")
    options = {"gt": str(tmp_path / "gt.npz"), "classes": str(classes), "encoder": "oracle"}
    config, rng = with_options(EvalConfig(), options), random.Random(0)
    names = np.array([f"{name} wall" for name in world.FACES])
    kinds = {
        "labels": {"xyz": xyz, "labels": labels, "rgb": np.zeros(xyz.shape, np.uint8)},
        "vectors": {"xyz": xyz, "vectors": np.ones((len(xyz), 4)), "text": np.eye(6, 4)},
        "chance": {"xyz": xyz, "probabilities": np.eye(6)[labels - 1], "names": names},
    }
    truth = {"xyz": xyz, "labels": labels}
    np.savez(tmp_path / "gt.npz", **truth)
    scored = 0
    for number in range(120):
        made, path = dict(kinds[rng.choice(sorted(kinds))]), tmp_path / "map.npz"
        if number == 60:
            np.savez(path, **kinds["labels"])
        if number >= 60:
            made, path = dict(truth), tmp_path / "gt.npz"
        for name in rng.sample(sorted(made), rng.choice((1, 2))):
            made[name] = rng.choice(odd_columns(xyz, labels))
        np.savez(path, **made)
        try:
            folder = score_file(config, tmp_path / "map.npz", tmp_path / "out")
            assert json.loads((folder / "metrics.json").read_text())["map_voxels"] > 0
            scored += 1
        except InputError as error:
            assert str(path) in str(error)
    assert 0 < scored < 60


# Places and names


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "out"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


PLACES = {
    "a file": (a_file, "is not a folder"),
    "below a file": (below_a_file, "lies below a file"),
    "no file system": (lambda folder: Path("/proc/results"), "no file can be written"),
    "too long": (lambda folder: folder / ("x" * 300), "File name too long"),
}


@pytest.mark.parametrize("place", PLACES)
def test_where_nothing_can_be_written_nothing_is_computed(tmp_path, capsys, monkeypatch, place):
    make, reason = PLACES[place]
    out = make(tmp_path)
    monkeypatch.setattr(cluster, "evaluate_scene", None)
    root = world.write_folder(tmp_path / "room", 1)
    for arguments in (oracle(root, out), ["report", root, "--out", out]):
        status, _, error = run(capsys, *arguments)
        assert status == 2 and reason in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["../elsewhere", "a/../../b", "/tmp/x", ".."])
def test_names_of_scenes_do_not_lead_elsewhere(tmp_path, capsys, name):
    root = world.write_folder(tmp_path / "room", 1)
    status, _, error = run(capsys, *oracle(root, tmp_path / "out", "--scenes", name))
    assert status == 2 and "is no name of a scene" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "room"]


def test_a_scene_named_twice_is_evaluated_once(tmp_path, capsys):
    arguments = two_scenes(tmp_path)
    arguments[arguments.index("one,two")] = "one,one,two,one"
    status, text, _ = run(capsys, *arguments, "--out", tmp_path / "out")
    assert status == 0 and "| out | 2 |" in text


@pytest.mark.parametrize("jobs", ["0", "-2", "two", "1e3", "99999999999", ""])
def test_numbers_of_jobs_that_cannot_be(tmp_path, capsys, jobs):
    with pytest.raises(SystemExit):
        main(["run", "--root", str(tmp_path), "--out", str(tmp_path / "o"), f"--jobs={jobs}"])
    assert "is not a whole number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        *("gt_voxel_size=1e-9", "gt_voxel_size=-1", "gt_voxel_size=1e9", "k=100000"),
        *(
            "denoise_threshold=2",
            "prediction_threshold=-1",
            "threads=100000",
            "coverage_radius=NaN",
        ),
    ],
)
def test_options_that_would_take_all_memory_or_mean_nothing(tmp_path, capsys, option):
    root = world.write_folder(tmp_path / "room", 1)
    status, _, error = run(capsys, *oracle(root, tmp_path / "out", "--set", option))
    assert status == 2 and option.partition("=")[0] in error and error.count("\n") == 1


def test_names_that_are_not_utf_8_are_names(tmp_path, capsys):
    """A folder may be called anything; what is written of it can be read."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff\xe9m"))
    world.write_folder(root, 2)
    (root / "color" / os.fsdecode(b"\xfe.png")).write_bytes(b"")
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xff"))
    status, text, _ = run(capsys, *oracle(root, out))
    scene = os.fsdecode(b"r\xff\xe9m")
    assert status == 0 and metrics_of(out, scene)["frames"]["used"] == 2
    assert "udcff" in text and "udcff" in (out / "report.html").read_text(encoding="utf-8")
    assert run(capsys, "report", out, "--out", tmp_path / "again")[0] == 0
