# SPDX-License-Identifier: Apache-2.0
"""Takes a picture of the page of a map, in a real browser, as somebody sees it who asks something.

python scripts/draw_page.py gallery.radmap docs/view.png --mode relevancy --query cat
        --labels "cat, moped" --show "what was asked" --look 36 6.5 --pixels 5 --size 1360 790
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from browser import field, free_port, open_browser, until, visit  # noqa: E402

from radseg_ros.view.page import Page  # noqa: E402
from radseg_ros.view.saved_map import open_map  # noqa: E402
from radseg_ros.view.server import serve  # noqa: E402
from radseg_ros.view.source import FileSource  # noqa: E402

SETTLED = 3.0  # s after the last change until the browser has drawn it


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("map", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--query", default="")
    p.add_argument("--mode", default="", help="query.mode; default: that of the map")
    p.add_argument("--labels", default="", help="to colour by, separated by commas")
    p.add_argument("--size", type=int, nargs=2, default=(1360, 860), metavar=("W", "H"))
    p.add_argument("--click", type=float, nargs=2, metavar=("X", "Y"), help="px: what is here?")
    p.add_argument(
        "--look",
        type=float,
        nargs=2,
        metavar=("DEGREES", "M"),
        help="at the best thing that is found: from how high, from how far",
    )
    p.add_argument("--pixels", type=int, default=3, help="of a voxel that is drawn, at least")
    p.add_argument("--show", default="", help="colours that are chosen in the end")
    return p


def main() -> int:
    """Entry point."""
    options = parser().parse_args()
    changes = {"query.mode": options.mode} if options.mode else {}
    with open_map(options.map, changes) as live, serve("127.0.0.1", free_port()) as (server, url):
        page = Page(FileSource(options.map, live), server)
        until(lambda: page.drawn)
        with open_browser() as browser, visit(browser, url, *options.size) as tab:
            time.sleep(SETTLED)
            if options.labels:
                page.labels.value = options.labels
                tab.get_by_role("button", name="Colour by labels").click()
                until(lambda: page.labelled)
            if options.query:
                field(tab, "Text").fill(options.query)
                until(lambda: page.reply, 300)
            if options.look:
                (client,) = server.get_clients().values()
                page.look_at(client, *options.look)
                time.sleep(SETTLED)
            page.min_hits.value = options.pixels
            if options.show:
                page.colors.value = options.show
            if options.click:
                tab.mouse.click(*options.click)
                until(lambda: page.told_here)
            time.sleep(SETTLED)
            tab.screenshot(path=options.out)
        page.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
