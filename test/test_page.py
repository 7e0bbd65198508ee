# SPDX-License-Identifier: Apache-2.0
"""The page of a map in a real browser: what one types, clicks and sees."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import colored, field, free_port, glowing, open_browser, visit
from color_encoder import ColorEncoder
from PIL import Image
from waiting import PATIENCE, wait_for

from radseg_ros.cli.view import main
from radseg_ros.config import Config, with_options
from radseg_ros.datatypes import Cloud, Frame, InputError
from radseg_ros.encoders.protocol import ENCODERS
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper
from radseg_ros.view.cells import fitting
from radseg_ros.view.page import Drawn, Page
from radseg_ros.view.saved_map import open_map
from radseg_ros.view.server import refusal, serve
from radseg_ros.view.source import Camera, FileSource, Reply
from radseg_ros.voxels.camera_path import CameraPath

K = np.array([[80.0, 0, 63.5], [0, 80, 47.5], [0, 0, 1]])
RED, GREEN, GREY = (220, 20, 20), (20, 220, 20), (128, 128, 128)


def request(path: str = "/", **headers: str) -> Any:
    return SimpleNamespace(path=path, headers={"Host": "127.0.0.1:8080", **headers})


@pytest.mark.parametrize(
    ("asked", "host", "told"),
    [
        (request(), "127.0.0.1", ""),
        (request("/assets/a.js?x=1"), "127.0.0.1", ""),
        (request(Origin="http://127.0.0.1:8080"), "127.0.0.1", ""),
        (request("/../../../etc/passwd"), "127.0.0.1", "leads out"),
        (request("/%2e%2e/%2e%2e/etc/passwd"), "127.0.0.1", "leads out"),
        (request("/..\\..\\secret"), "127.0.0.1", "leads out"),
        (request(Origin="http://elsewhere.example"), "127.0.0.1", "from elsewhere"),
        (request(Host="elsewhere.example:8080"), "127.0.0.1", "another host"),
        (request(Host="robot:8080", Origin="http://robot:8080"), "0.0.0.0", ""),
        (request(Host="robot:8080", Origin="http://elsewhere.example"), "0.0.0.0", "elsewhere"),
        (request(Host="[::1"), "127.0.0.1", "no such name"),
        (request(Host="[::1"), "0.0.0.0", "no such name"),
        (request(Origin="http://[127.0.0.1:8080"), "127.0.0.1", "no such name"),
        (request(Host=""), "127.0.0.1", "another host"),
    ],
)
def test_only_its_own_page_is_answered(asked, host, told):
    assert (told in refusal(asked, host)) if told else refusal(asked, host) == ""


def frame(stamp_ns: int = 1_000_000_000, x: float = 0.0, left=RED, right=GREEN) -> Frame:
    """A grey wall at 2 m with a coloured square in either half, seen from (x, 0, 0); -y is up."""
    rgb = np.full((96, 128, 3), GREY, np.uint8)
    rgb[32:64, 16:48], rgb[32:64, 80:112] = left, right
    T = np.eye(4)
    T[0, 3] = x
    return Frame(stamp_ns, rgb, np.full((96, 128), 2.0, np.float32), K, T)


@contextmanager
def page_of(source: Any) -> Iterator[tuple[Page, str]]:
    with serve("127.0.0.1", free_port()) as (server, url):
        page = Page(source, server)
        try:
            wait_for(lambda: page.drawn)
            yield page, url
        finally:
            page.close()


@pytest.fixture
def live(tmp_path, monkeypatch) -> Iterator[LiveMap]:
    pytest.importorskip("viser", reason="the extra [view] is not installed")
    monkeypatch.setitem(ENCODERS, "colors", lambda options: ColorEncoder())
    config = with_options(Config(), {"encoder": "colors", "short_side": 0, "map.work_ahead": 0.0})
    mapper, camera = Mapper(config, ColorEncoder()), CameraPath()
    mapper.integrate(frame())
    camera.add(frame().T_world_camera)
    mapper.save(tmp_path / "wall.radmap", "map", {"camera": camera.note()})
    with open_map(tmp_path / "wall.radmap", {"map.work_ahead": 0.0}) as live:
        yield live


@pytest.fixture
def shown(live, tmp_path) -> Iterator[tuple[Page, str]]:
    with page_of(FileSource(tmp_path / "wall.radmap", live)) as found:
        yield found


def test_files_of_the_machine_are_not_given(shown):
    _, url = shown
    host = url.removeprefix("http://")
    for path in ("/../../../../../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"):
        connection = http.client.HTTPConnection(host, timeout=PATIENCE)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status in (403, 404) and b"root:" not in response.read()


def test_a_page_from_elsewhere_gets_no_socket(shown):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    _, url = shown
    with pytest.raises(InvalidStatus) as refused:
        connect(url.replace("http", "ws"), origin="http://elsewhere.example").close()
    assert refused.value.response.status_code == 403


def test_what_is_sent_is_bounded(shown):
    page, _ = shown
    assert 0 < page.drawn.sent < 60_000_000 and len(page.drawn.cells) > 500


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.mark.slow
def test_a_typed_query_highlights_the_right_thing(shown, browser):
    page, url = shown
    with visit(browser, url) as tab:
        wait_for(lambda: len(colored(tab, RED)) > 200 and len(colored(tab, GREEN)) > 200)
        red, green = colored(tab, RED).mean(0), colored(tab, GREEN).mean(0)
        box = field(tab, "Text")
        box.fill("green")
        wait_for(lambda: page.reply is not None and page.drawn.rgb.max() > 0)
        tab.get_by_text("green: 1 found").wait_for()
        # in the state of the scene
        score, _ = page.drawn.cells.best(page.reply.cloud)
        assert (page.drawn.cells.xyz[score >= 0.5][:, 0] > 0).all() and (score >= 0.5).sum() > 20
        # and on the screen: the red square is grey now, the green one glows
        wait_for(lambda: not len(colored(tab, RED, 40)))
        wait_for(lambda: len(glowing(tab)) > 100)
        glow = glowing(tab)
        near, far = (np.linalg.norm(glow.mean(0) - place) for place in (green, red))
        assert near < 0.3 * far
        box.fill("yellow")
        tab.get_by_text("yellow: not found").wait_for()
        wait_for(lambda: not len(glowing(tab)))


@pytest.mark.slow
def test_a_click_says_what_is_there(shown, browser):
    page, url = shown
    with visit(browser, url) as tab:
        field(tab, "Set").fill("red, green, blue")
        wait_for(lambda: len(colored(tab, RED)) > 200)
        row, column = colored(tab, RED).mean(0)
        tab.mouse.click(column, row)
        found = wait_for(lambda: page.told_here)
        assert found[0][0] == "red" and found[0][1] > 0.5 > found[1][1]


@pytest.mark.slow
def test_labels_have_colours_and_a_legend(shown, browser):
    page, url = shown
    with visit(browser, url) as tab:
        field(tab, "Set").fill("red, green, <b> grey")
        tab.get_by_role("button", name="Colour by labels").click()
        wait_for(lambda: page.labelled)
        tab.get_by_text("<b> grey").wait_for()  # as it was typed


@pytest.mark.slow
def test_it_works_on_the_width_of_a_phone(shown, browser):
    page, url = shown
    with visit(browser, url, width=390, height=800) as tab:
        wait_for(lambda: len(colored(tab, RED)) > 50)
        wide = tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390


@pytest.mark.slow
def test_a_screenshot_is_saved_by_the_browser(shown, browser, tmp_path):
    _, url = shown
    with visit(browser, url) as tab:
        wait_for(lambda: len(colored(tab, RED)) > 200)
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Screenshot").click()
        download.value.save_as(tmp_path / "map.png")
    picture = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
    assert (np.abs(picture - RED) < 50).all(2).sum() > 200


def drawn_map(voxels: int) -> Drawn:
    """A row of voxels."""
    xyz = np.stack([0.1 * np.arange(voxels), np.zeros(voxels), np.zeros(voxels)], 1)
    nothing, hits = np.zeros(voxels, np.float32), np.ones(voxels, np.float32)
    rgb, label = np.zeros((voxels, 3), np.uint8), np.full(voxels, -1, np.int32)
    cloud = Cloud(xyz.astype(np.float32), rgb, label, nothing, hits)
    return Drawn(*fitting(cloud, 0.1, np.array([0, 0, 1.0]), np.zeros((0, 3))), rgb, 1)


class DrawnAnew(Page):
    """A map that another thread draws anew between any two looks at it."""

    def __init__(self, *drawn: Drawn) -> None:
        self._each, self._camera = itertools.cycle(drawn), Camera(np.zeros((0, 3)), np.eye(3)[2])
        thing = {"centre": [0.0] * 3, "size": [0.3] * 3}
        thing["box"] = {"centre": [0.0] * 3, "size": [0.3] * 3, "yaw": 0.0}
        self.reply = Reply([{"label": "red", "objects": [thing]}], Cloud.__new__(Cloud))

    @property
    def drawn(self) -> Drawn:
        return next(self._each)


@pytest.mark.parametrize("sizes", [(2, 50), (50, 2)])
@pytest.mark.parametrize("look", [Page._look_in, Page.look_at])
def test_who_looks_while_the_map_is_drawn_anew_sees_one_or_the_other(look, sizes):
    client = SimpleNamespace(camera=SimpleNamespace())
    look(DrawnAnew(*map(drawn_map, sizes)), client)
    assert np.isfinite(client.camera.position).all()


def test_nothing_of_it_is_shared_with_the_world(shown):
    from viser import _messages

    page, _ = shown
    asked = (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect)
    assert not page._server._websock_server._incoming_handlers.keys() & {*asked}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{tmp}/none.radmap"], "there is no map file"),
        (["{tmp}/text.radmap"], "is damaged, incomplete, or not a map"),
        (["{tmp}/wall.radmap", "--host", "192.0.2.1"], "is no address of this machine"),
        (["{tmp}/wall.radmap", "--port", "0"], "--port is in 1..65535"),
        (["{tmp}/wall.radmap", "--set", "query.treshold=1"], "did you mean query.threshold"),
    ],
)
def test_what_cannot_be_shown_is_one_line(live, tmp_path, capsys, words, told):
    (tmp_path / "text.radmap").write_text("hello")
    assert main([word.format(tmp=tmp_path) for word in words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("radseg-view: ") and error.count("\n") == 1 and told in error


class Growing:
    """A source of nothing, at first."""

    name, threshold, voxel_size, shown = "growing", 0.5, 0.1, 0

    def version(self) -> int:
        return self.shown

    def voxels(self) -> Cloud:
        xyz = np.arange(3 * self.shown, dtype=np.float32).reshape(-1, 3) / 10
        n, many = len(xyz), np.full(self.shown, 9, np.float32)
        return Cloud(xyz, np.full((n, 3), 99, np.uint8), np.full(n, -1, np.int32), 0 * many, many)

    def camera(self) -> Camera:
        return Camera(np.zeros((0, 3)), np.array([0.0, 0.0, 1.0]))

    def about(self) -> str:
        return f"{self.shown} voxels"

    def suggestions(self) -> list[str]:
        return []

    def ask(self, labels: list[str], threshold: float) -> Reply:
        raise InputError("there is nothing to ask")


@pytest.mark.slow
def test_a_page_begins_with_nothing_and_grows():
    pytest.importorskip("viser", reason="the extra [view] is not installed")
    source = Growing()
    with page_of(source) as (page, _):
        assert len(page.drawn.faces) == 0
        source.shown = 5
        wait_for(lambda: len(page.drawn.cells) == 5)
        page.text.value = "sofa"
        wait_for(lambda: "there is nothing to ask" in page._answer.content)
        source.shown = 0
        wait_for(lambda: len(page.drawn.faces) == 0)
