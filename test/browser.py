# SPDX-License-Identifier: Apache-2.0
"""A real headless browser for tests of the page."""

from __future__ import annotations

import io
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from waiting import PATIENCE

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
OPTIONS = [
    "--no-sandbox", "--disable-background-networking", "--no-first-run", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip
PANEL = 320  # px of the width that the controls take


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium; skips the test where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed (extra [test])")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt install chromium)")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, url: str, width: int = 1000, height: int = 700) -> Iterator[Any]:
    """The page as somebody sees it; errors of its scripts fail the test."""
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.set_default_timeout(1000 * PATIENCE)
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(url)
    tab.wait_for_selector("canvas")
    # viser tells that no graphics card draws
    tab.add_style_tag(content=".mantine-Notification-root { display: none }")
    yield tab
    assert not errors
    tab.close()


def pixels(tab: Any) -> np.ndarray:
    """(H, W, 3) what is on the screen beside the controls, 0..255."""
    seen = np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB")).astype(int)
    return seen[:, : seen.shape[1] - PANEL] if seen.shape[1] > 2 * PANEL else seen


def colored(tab: Any, color: tuple[int, int, int], tolerance: int = 50) -> np.ndarray:
    """(N, 2) pixels, row and column, that are about of that colour."""
    return np.argwhere((np.abs(pixels(tab) - color) < tolerance).all(2))


def glowing(tab: Any) -> np.ndarray:
    """(N, 2) pixels in the colours of heat: orange to yellow."""
    r, g, b = np.moveaxis(pixels(tab), 2, 0)
    return np.argwhere((r > 190) & (g > 60) & (g < 235) & (b < 110) & (r - b > 110))


def field(tab: Any, label: str) -> Any:
    """The input beside a label."""
    return tab.locator(f'xpath=//*[normalize-space(text())="{label}"]/following::input[1]')
