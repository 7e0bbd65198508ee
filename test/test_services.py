# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (what needs ROS is imported after the check that it is there)
"""How services take requests, without a node: how many wait, what is refused, which paths lead
nowhere.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from color_encoder import ColorEncoder
from conftest import require_ros
from small_worlds import frame
from waiting import PATIENCE, wait_for

require_ros()

from radseg_interfaces.srv import LoadMap, SaveMap
from radseg_ros.config import Config, NodeConfig
from radseg_ros.datatypes import RadsegRosError
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.ros.faults import Faults
from radseg_ros.ros.services.changes import Changes
from radseg_ros.ros.services.offer import WAITING, MapServices

AT_ONCE = ("pause", "resume")
IN_A_POOL = (
    *("query", "query_vector", "query_point", "encode_text", "set_labels", "save_map", "load_map"),
    *("clear_box", "forget_object", "correct", "confirm_map", "reset"),
)


class Executor:
    """Continues no callback."""

    def create_task(self, *_: Any) -> None: ...

    def wake(self) -> None: ...


class Desk:
    """Services whose work waits until the gate opens."""

    def __init__(self) -> None:
        self.gate, self.executor = threading.Event(), Executor()
        self.offered: dict[str, Any] = {}
        node = SimpleNamespace(
            executor=self.executor,
            create_service=self._offer,
            create_subscription=lambda *_, **__: None,
        )
        live = SimpleNamespace(config=Config(), robots=("",))
        self.services = MapServices(node, live, Faults(), lambda *_: None)  # type: ignore[arg-type]
        self.services._answer = self._answer  # type: ignore[method-assign]

    def _offer(self, type_: Any, name: str, callback: Any, **_: Any) -> None:
        self.offered[name.removeprefix("~/")] = callback

    def _answer(self, name: str, answer: Any, request: Any, response: Any) -> None:
        if name not in AT_ONCE:
            assert self.gate.wait(PATIENCE)
        response.success = True

    def ask(self, name: str, limit: float = 0.0) -> tuple[Any, SimpleNamespace]:
        """What is left of the callback, None if nothing is, and the answer."""
        response = SimpleNamespace(success=None, message="")
        request = SimpleNamespace(time_limit=limit)
        if name in AT_ONCE:
            self.offered[name](request, response)
            return None, response
        rest = self.offered[name](request, response)
        return (None if ended(rest) else rest), response


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.gate.set()
    desk.services.close()


def ended(callback: Any) -> bool:
    """Whether a callback that awaits its answer has got it; it goes on with that."""
    try:
        callback.send(None)
    except StopIteration:
        return True
    return False


def finish(desk: Desk, asked: list) -> None:
    """Open the gate; every request that waited is answered."""
    desk.gate.set()
    for rest, response in asked:
        if rest is not None:
            wait_for(partial(ended, rest))
            assert response.success


def test_every_service_is_offered(desk):
    assert set(desk.offered) == {*AT_ONCE, *IN_A_POOL}


@pytest.mark.parametrize("name", IN_A_POOL)
def test_as_many_requests_wait_as_may_and_more_are_busy_at_once(desk, name):
    asked = [desk.ask(IN_A_POOL[i % len(IN_A_POOL)]) for i in range(WAITING)]
    assert all(rest is not None for rest, _ in asked)
    for limit in (0.0, 1.0):
        rest, refused = desk.ask(name, limit)
        assert rest is None and refused.success is False
        assert refused.message == f"busy: {WAITING} requests are waiting, ask again"
    assert all(desk.ask(other)[1].success for other in AT_ONCE), "what takes no time is answered"
    finish(desk, asked)
    desk.gate.clear()
    asked = [desk.ask(name) for _ in range(WAITING)]
    assert all(rest is not None for rest, _ in asked), "and then as many as before"
    finish(desk, asked)


def test_requests_that_come_while_the_node_closes_are_told(desk):
    desk.services.close()
    for name in IN_A_POOL:
        rest, refused = desk.ask(name)
        assert rest is None and refused.success is False
        assert refused.message == "the node is closing"


# Paths


@pytest.fixture
def changes(tmp_path: Path) -> Iterator[Changes]:
    config = Config(short_side=0, node=NodeConfig(map_directory=str(tmp_path / "maps")))
    live = LiveMap(config)
    live.start(Mapper(config, ColorEncoder()))
    live.mapper.integrate(frame(1.0))
    maps = tmp_path / "maps"
    maps.mkdir()
    for suffix in (".radmap", ".ply"):
        (maps / f"folder{suffix}").mkdir()
        (maps / f"zero{suffix}").symlink_to("/dev/zero")
        (maps / f"one{suffix}").symlink_to(f"two{suffix}")
        (maps / f"two{suffix}").symlink_to(f"one{suffix}")
    os.mkfifo(maps / "pipe.radmap")
    (maps / "broken.radmap").symlink_to("no such file")
    (maps / "file").write_text("x")
    yield Changes(None, live)  # type: ignore[arg-type]
    assert live.close(PATIENCE)


NOWHERE = {
    "a folder": "folder",
    "a device": "zero",
    "two links in a loop": "one",
    "below a file": "file/x",
    "below a pipe": "pipe.radmap/x",
    "long in bytes only": "\u00e9" * 150,
    "short, but no place for what is written beside it": "\u00e9" * 122,
    "half a letter": "a\udcffb",
    "a mark that turns the text": "a\u202eb",
    "the folder above by a detour": "folder.radmap/../../x",
    "the folder of the user": "~root/../x",
}


@pytest.mark.parametrize("case", NOWHERE)
@pytest.mark.parametrize("suffix", ["", ".ply"])
def test_places_that_are_none_get_one_sentence(changes, tmp_path, case, suffix):
    if suffix == ".ply":
        pytest.importorskip("open3d", reason="clouds are written by way of Open3D")
    name = NOWHERE[case] + suffix
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for ask, of in ((changes.save, SaveMap), (changes.load, LoadMap)):
        with pytest.raises(RadsegRosError) as error:
            ask(of.Request(path=name), of.Response())
        text = str(error.value)
        assert "\n" not in text and len(text) < 700 and text.isprintable()
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_pipe_is_no_map_and_may_become_one(changes):
    with pytest.raises(RadsegRosError, match="there is no file pipe.radmap"):
        changes.load(LoadMap.Request(path="pipe"), LoadMap.Response())
    changes.save(SaveMap.Request(path="pipe"), SaveMap.Response())
    changes.load(LoadMap.Request(path="pipe"), LoadMap.Response())


def test_a_link_that_leads_nowhere_yet_is_made_within_the_folder(changes):
    response = SaveMap.Response()
    changes.save(SaveMap.Request(path="broken"), response)
    assert Path(response.path).name == "no such file"
