# SPDX-License-Identifier: Apache-2.0
"""Draws docs/rooms.png from the code: the rooms, the files in them, and who imports whom.

    python scripts/draw_rooms.py            draw it again
    python scripts/draw_rooms.py --check    fail if the code has changed since it was drawn

The arrows are the imports that test/test_architecture.py guards. One that follows from others
(``ros`` imports ``frames``, but ``ros`` imports ``core`` and ``core`` imports ``frames``) is left
out.
"""

from __future__ import annotations

import argparse
import graphlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from test_architecture import CORE, GROUND, import_graph, room_of  # noqa: E402

PICTURE = ROOT / "docs" / "rooms.png"
KEY = "Description"  # of the text in the PNG that tells what was drawn
# room -> x, y of its lower left corner, width, height; whoever imports stands above
PLACES = {
    "ground": (0, 0, 12, 1.0),
    "gpu": (2.95, 1.55, 2.55, 0.85),
    "frames": (0, 1.55, 2.55, 6.2),
    "voxels": (2.95, 2.85, 2.55, 3.1),
    "journal": (2.95, 6.3, 2.55, 1.45),
    "answers": (5.9, 1.55, 2.55, 6.2),
    "language": (8.85, 1.55, 3.15, 1.3),
    "encoders": (8.85, 3.35, 3.15, 1.95),
    "segmentation": (8.85, 5.8, 3.15, 1.95),
    "core": (0, 8.3, 12, 1.0),
    "ros": (0, 9.85, 5.5, 1.5),
    "eval3d": (5.9, 9.85, 6.1, 1.5),
    "view": (0, 11.9, 12, 1.0),
    "cli": (0, 13.45, 12, 1.0),
    "demo": (0, 15, 12, 1.0),
}
TONES = {
    "ground": "#e9e4d8",
    "gpu": "#e9e4d8",
    **dict.fromkeys(("frames", "voxels", "journal", "answers"), "#d9e8f5"),
    **dict.fromkeys(("language", "encoders", "segmentation"), "#d9e8f5"),
    "core": "#fbe3c6",
    **dict.fromkeys(("ros", "eval3d"), "#dcefd9"),
    **dict.fromkeys(("view", "demo", "cli"), "#ece3f3"),
}
NO_FOLDER = {"ground": GROUND, "core": CORE}  # rooms whose files lie in radseg_ros/ itself
INK, PALE = "#2b2b2b", "#4d4d4d"
UNIT, LINE, MARGIN = 59.0, 0.29, 0.18  # points per unit of PLACES; line height and margin in units
TITLE_SIZE, FILE_SIZE = 14, 11  # points


def contents(room: str) -> list[str]:
    """Files of a room, without suffix; folders in it end with a slash."""
    if room in NO_FOLDER:
        return sorted(name for name in NO_FOLDER[room] if f"radseg_ros.{name}" in import_graph())
    folder = ROOT / room if room == "eval3d" else ROOT / "radseg_ros" / room
    files = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
    return sorted(files) + sorted(f"{path.parent.name}/" for path in folder.glob("*/__init__.py"))


def room_graph() -> dict[str, set[str]]:
    """Room -> rooms that it imports, without the imports that follow from others.

    Raises:
        graphlib.CycleError: the rooms import each other in a circle.
    """
    graph: dict[str, set[str]] = {room: set() for room in PLACES}
    for module, targets in import_graph().items():
        room = room_of(module)
        if room != "package":  # radseg_ros/__init__.py only names what it exports
            graph[room] |= {room_of(target) for target in targets} - {room}
    below: dict[str, set[str]] = {}
    for room in graphlib.TopologicalSorter(graph).static_order():
        below[room] = graph[room].union(*(below[target] for target in graph[room]))
    return {
        room: {t for t in targets if not any(t in below[other] for other in targets)}
        for room, targets in graph.items()
    }


def description() -> str:
    """What the picture shows, as text."""
    graph = room_graph()
    return "\n".join(
        f"{room}: {' '.join(contents(room))} -> {' '.join(sorted(graph[room]))}" for room in PLACES
    )


def draw() -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    width, height = (max(p[i] + p[i + 2] for p in PLACES.values()) + 0.2 for i in (0, 1))
    figure = plt.figure(figsize=(width * UNIT / 72, height * UNIT / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.1, width - 0.1), ylim=(-0.1, height - 0.1))
    axes.axis("off")
    for room in PLACES:
        _draw_room(axes, room)
    for room, targets in room_graph().items():
        for target in targets:
            _draw_arrow(axes, PLACES[room], PLACES[target])
    figure.savefig(PICTURE, dpi=144, metadata={KEY: description()})


def _draw_room(axes: Any, room: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y, width, height = PLACES[room]
    shape = f"round,pad=0,rounding_size={MARGIN / 2}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, shape, fc=TONES[room], ec=INK, zorder=2))
    top, title = y + height - MARGIN, room if room in NO_FOLDER else f"{room}/"
    axes.text(x + MARGIN, top, title, va="top", size=TITLE_SIZE, weight="bold", color=INK)
    lines = _lines(contents(room), width - 2 * MARGIN, int((height - 0.5) / LINE))
    for i, line in enumerate(lines):
        baseline = top - 0.55 - i * LINE
        axes.text(x + MARGIN, baseline, line, va="baseline", size=FILE_SIZE, color=PALE)


def _lines(names: list[str], width: float, most: int) -> list[str]:
    """One name a line where there is space for that, as many as fit side by side elsewhere."""
    if len(names) <= most:
        return names
    lines = [names[0]]
    for name in names[1:]:
        longer = f"{lines[-1]}   {name}"
        if _text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(name)
    if len(lines) > most:
        raise ValueError(f"give the room of {', '.join(names)} more space in PLACES")
    return lines


def _text_width(text: str) -> float:
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=FILE_SIZE).get_extents().width / UNIT


def _draw_arrow(axes: Any, source: tuple[float, ...], target: tuple[float, ...]) -> None:
    """From the lower edge of a room to the upper edge of another, upright where one is above the
    other.
    """
    left, right = max(source[0], target[0]), min(source[0] + source[2], target[0] + target[2])
    middle = (left + right) / 2
    start = middle if left < right else source[0] + source[2] / 2
    end = middle if left < right else target[0] + target[2] / 2
    style = {"arrowstyle": "-|>", "mutation_scale": 16, "color": INK, "linewidth": 1.4}
    style |= {"shrinkA": 0, "shrinkB": 0}
    # below the rooms, in case it passes some
    axes.annotate("", (end, target[1] + target[3]), (start, source[1]), arrowprops=style, zorder=1)


def main() -> int:
    """Entry point; returns 1 when ``--check`` finds the picture out of date."""
    parser = argparse.ArgumentParser(description="Draw docs/rooms.png from the code.")
    parser.add_argument("--check", action="store_true", help="only compare it with the code")
    if not parser.parse_args().check:
        draw()
        return 0
    from PIL import Image

    with Image.open(PICTURE) as picture:
        same = picture.info.get(KEY) == description()
    if not same:
        print(f"{PICTURE.relative_to(ROOT)} is out of date: python scripts/draw_rooms.py")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
