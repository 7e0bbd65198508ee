# SPDX-License-Identifier: Apache-2.0
"""A map in the browser: what one sees, and what one can do with it.

Callbacks of the page only note what is wanted; one thread asks the map and draws, so that a slider
that is dragged costs one drawing and nothing is drawn twice at once.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..answers.cloud import UNKNOWN_DIM, heat, palette
from ..command import sentence
from ..datatypes import Cloud, RadsegRosError
from .boxes import path_lines, thing_lines
from .cells import NORMALS, Cells, Faces, fitting
from .glb import FACE_BYTES, squares
from .pictures import MIN_HITS
from .source import Camera, MapSource, Reply
from .upright import rotation_to
from .widgets import answers_html, block, here_html, legend_html, line, thing_text

logger = logging.getLogger(__name__)

POLL = 0.5  # s between two looks whether the map has changed
TYPING = 0.7  # s without another letter after which a text is asked for
BYTES_PER_SECOND = 20e6  # that a growing map may send
REST = 2.0  # times as long as a growing map was drawn it is left alone
MOST_SENT = 60_000_000  # bytes at once
HIGH, LOW, NEAREST = 48.0, 32.0, 5.0  # degrees over a map and over a thing; m away from it
NEAR = 0.2  # m around a click that is asked what is there
LABELS_HERE = ("wall", "floor", "ceiling", "table", "chair", "sofa", "lamp", "plant", "picture",
               "door", "window", "cabinet", "shelf", "person", "box")  # fmt: skip
CHOOSE, MOST_KNOWN = "...", 50
TRUE, ANSWER, LABELS = "true colours", "what was asked", "labels"
THING, PATH = (20, 110, 190), (230, 90, 30)
PALE = 0.5  # share of grey in the colours of what was not asked for


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What the page shows at the moment."""

    cells: Cells
    faces: Faces  # after hits and height
    rgb: np.ndarray  # (N, 3) 0..255, of the cells, without shade
    sent: int  # bytes


class Page:
    """The page of one map, the same for all who look at it.

    Args:
        source: the map.
        server: a viser server (:func:`radseg_ros.view.server.serve`).
    """

    def __init__(self, source: MapSource, server: Any) -> None:
        self.source, self._server = source, server
        self.drawn: Drawn | None = None
        self.reply: Reply | None = None  # to the text in the box
        self.labelled: Reply | None = None  # to the set of labels, which are
        self.labels_shown: list[str] = []
        self.things: list[Any] = []  # handles of boxes and their texts
        self.told_here: list[tuple[str, float]] = []
        self._camera = Camera(np.zeros((0, 3)), np.array([0.0, 0.0, 1.0]))
        self._asked: list[str] = []  # texts of before: suggestions
        self._jobs: dict[str, tuple[float, Callable[[], None]]] = {}  # name -> due at (s), what
        self._wake, self._closed = threading.Event(), threading.Event()
        self._version: object = None
        self._cloud: Cloud | None = None
        self._cells: Cells | None = None
        self._faces: Faces | None = None
        self._drawn_of: tuple[Any, ...] = ()  # what `drawn` was made of
        self._busy_until = 0.0  # s, time.monotonic; what was sent is on its way
        self._build()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Draw no more."""
        self._closed.set()
        self._wake.set()
        self._thread.join(10)

    # What is wanted

    def _build(self) -> None:
        gui = self._server.gui
        gui.configure_theme(
            show_logo=False, show_share_button=False, control_width="medium", dark_mode=False
        )
        gui.set_panel_label(self.source.name)
        self._about = gui.add_html("")
        with gui.add_folder("Find"):
            self.text = gui.add_text("Text", "", hint="a thing, e.g. coffee machine")
            self.suggested = gui.add_dropdown("Known", (CHOOSE,), hint="texts that are quick")
            self.find = gui.add_button("Find")
            self.threshold = gui.add_slider("Threshold", 0.0, 1.0, 0.01, self.source.threshold)
            self._answer = gui.add_html("")
            self.look = gui.add_button("Look at the best one")
        with gui.add_folder("Labels"):
            self.labels = gui.add_text("Set", "", hint="separated by commas")
            self.show_labels = gui.add_button("Colour by labels")
            self._legend = gui.add_html("")
        with gui.add_folder("What is here?"):
            self._here = gui.add_html(block(line("click on a place", muted=True)))
        with gui.add_folder("Show"):
            self.colors = gui.add_dropdown("Colours", (TRUE, ANSWER, LABELS))
            self.min_hits = gui.add_slider(
                "Pixels", 1, 50, 1, MIN_HITS, hint="of a voxel, at least"
            )
            self.height = gui.add_multi_slider("Height", 0.0, 1.0, 0.05, (0.0, 1.0))
            self.boxes = gui.add_checkbox("Boxes", True)
            self.path = gui.add_checkbox("Camera path", True)
            self.screenshot = gui.add_button("Screenshot")
        self._listen()

    def _listen(self) -> None:
        self.text.on_update(lambda _: self._want("ask", self._ask, TYPING))
        self.find.on_click(lambda _: self._want("ask", self._ask))
        self.suggested.on_update(lambda _: self._take_suggestion())
        self.threshold.on_update(lambda _: self._want("ask again", self._ask_again))
        self.show_labels.on_click(lambda _: self._want("label", self._label))
        self.min_hits.on_update(lambda _: self._want("shape", self._shape))
        for control in (self.colors, self.height):
            control.on_update(lambda _: self._want("draw", self._draw))
        for control in (self.boxes, self.path):
            control.on_update(lambda _: self._want("lines", self._draw_lines))
        self.look.on_click(lambda event: self.look_at(event.client))
        self.screenshot.on_click(lambda event: _send_screenshot(event.client))
        self._server.on_client_connect(lambda client: self._look_in(client))

        @self._server.scene.on_click()
        def _(event: Any) -> None:
            ray = np.array(event.ray_origin, float), np.array(event.ray_direction, float)
            self._want("here", lambda: self._tell_here(*ray))

    def _want(self, name: str, work: Callable[[], None], delay: float = 0.0) -> None:
        self._jobs[name] = time.monotonic() + delay, work
        self._wake.set()

    def _take_suggestion(self) -> None:
        if self.suggested.value != CHOOSE:
            self.text.value = self.suggested.value
            self._want("ask", self._ask)

    # The thread

    def _run(self) -> None:
        self._want("map", self._refresh)
        while not self._closed.is_set():
            self._wake.wait(self._patience())
            self._wake.clear()
            changed = "map" not in self._jobs and self.source.version() != self._version
            if changed and time.monotonic() >= self._busy_until:
                self._want("map", self._refresh)
            for name, (due, work) in list(self._jobs.items()):
                if due <= time.monotonic() and not self._closed.is_set():
                    self._jobs.pop(name)
                    self._do(name, work)

    def _patience(self) -> float:
        due = [due - time.monotonic() for due, _ in list(self._jobs.values())]
        return max(0.0, min([POLL, *due]))

    def _do(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except RadsegRosError as error:
            shown = {"here": self._here, "label": self._legend}.get(name, self._answer)
            shown.content = block(line(sentence(error)))
        except Exception:
            logger.exception("the page could not %s", name)
            self._about.content = block(line("an internal error, see the log"))

    def _refresh(self) -> None:
        """The map has changed: fetch it, and ask again."""
        source, self._version, begun = self.source, self.source.version(), time.monotonic()
        first, self._cloud = self._cloud is None, source.voxels()
        self._camera = source.camera()
        self._suggest()
        if first:
            self._server.scene.set_up_direction(tuple(self._camera.up.tolist()))
        self._set_heights(self._cloud)
        self._shape()
        self._draw_lines()
        if self.text.value.strip() or self.labelled is not None:
            self._want("ask again", self._ask_again)
        now = time.monotonic()
        self._busy_until = max(self._busy_until, now + REST * (now - begun))
        if first:
            for client in self._server.get_clients().values():
                self._look_in(client)

    def _shape(self) -> None:
        """What of the map has enough pixels, as cells and faces."""
        cloud, camera = self._cloud, self._camera
        if cloud is None:
            return
        cloud = cloud.of(cloud.hits >= float(self.min_hits.value))
        self._cells, self._faces = fitting(
            cloud, self.source.voxel_size, camera.up, camera.positions
        )
        wide = f", shown as {100 * self._cells.size:g} cm" if self._cells.level else ""
        self._about.content = block(line(self.source.about() + wide, muted=True))
        self._draw()

    def _suggest(self) -> None:
        offered = self.source.suggestions() or LABELS_HERE
        known = list(dict.fromkeys([CHOOSE, *self._asked[::-1], *offered]))[:MOST_KNOWN]
        if tuple(known) != tuple(self.suggested.options):
            self.suggested.options = tuple(known)

    def _set_heights(self, cloud: Cloud) -> None:
        """Let the slider reach as far as the map; who has not touched it sees everything."""
        if not len(cloud):
            return
        height, slider = cloud.xyz @ self._camera.up, self.height
        low, high = float(height.min()) - 0.1, float(height.max()) + 0.1
        if (slider.min, slider.max) != (low, high):
            all_of_it = tuple(slider.value) == (slider.min, slider.max)
            slider.min, slider.max = low, high
            slider.value = (low, high) if all_of_it else slider.value

    # Questions

    def _ask(self) -> None:
        text = self.text.value.strip()
        if not text:
            self.reply, self._answer.content = None, ""
        else:
            self._answer.content = block(line("...", muted=True))
            self._ask_again()
            self._asked = [each for each in self._asked if each != text][-20:] + [text]
            self._suggest()
            self.colors.value = ANSWER
        self._draw()
        self._draw_lines()

    def _ask_again(self) -> None:
        text = self.text.value.strip()
        if text:
            self.reply = self.source.ask([text], float(self.threshold.value))
            self._answer.content = answers_html(self.reply.answers)
        if self.labelled is not None and self.colors.value == LABELS:
            self._label()
        self._draw()
        self._draw_lines()

    def label_set(self) -> list[str]:
        """The labels that the map is to be coloured by."""
        return list(dict.fromkeys(filter(None, map(str.strip, self.labels.value.split(",")))))

    def _label(self) -> None:
        labels = self.label_set()
        if not labels:
            self.labelled, self._legend.content = None, ""
        else:
            self.labelled = self.source.ask(labels, float(self.threshold.value))
            self.labels_shown = labels
            label = self.labelled.cloud.label
            count = np.bincount(label[label >= 0], minlength=len(labels))
            shares = count / max(len(label), 1)
            self._legend.content = legend_html(labels, palette(len(labels)), shares)
            self.colors.value = LABELS
        self._draw()

    def _tell_here(self, origin: np.ndarray, direction: np.ndarray) -> None:
        """What is where a ray (m) meets the map."""
        if self.drawn is None:
            return
        row = self.drawn.faces.hit_by(self.drawn.cells, origin, direction)
        if row < 0:
            self.told_here, self._here.content = [], block(line("nothing is there", muted=True))
            return
        place = self.drawn.cells.xyz[self.drawn.faces.cell[row]]
        known = [*self.label_set(), *self._asked[::-1], *self.source.suggestions()]
        labels = list(dict.fromkeys(known or LABELS_HERE))
        self.told_here = self.source.here(place, max(NEAR, self.drawn.cells.size), labels)
        self._here.content = here_html(place.tolist(), self.told_here)

    # Drawing

    def _colors(self, cells: Cells) -> np.ndarray:
        """(N, 3) 0..255."""
        if self.colors.value == ANSWER and self.reply is not None:
            score, _ = cells.best(self.reply.cloud)
            threshold = float(self.threshold.value)
            glow = heat(cells.rgb, score, threshold)
            dark = score[:, None] < 0.8 * threshold  # what does not glow stays recognisable
            return np.where(dark, PALE * glow + (1 - PALE) * cells.rgb, glow)
        if self.colors.value == LABELS and self.labelled is not None:
            _, label = cells.best(self.labelled.cloud)
            chosen = palette(len(self.labels_shown))[label]
            return np.where(label[:, None] >= 0, chosen, UNKNOWN_DIM * cells.rgb + 60)
        return cells.rgb

    def _draw(self) -> None:
        if self._cells is None or self._faces is None:
            return
        chosen = (self.colors.value, self.threshold.value, self.height.value)
        made_of = (self._cells, self.reply, self.labelled, *chosen)
        if made_of == self._drawn_of:
            return
        self._drawn_of = made_of
        cells, scene = self._cells, self._server.scene
        height = cells.xyz @ self._camera.up
        low, high = self.height.value
        faces = self._faces.of((height >= low) & (height <= high))
        rgb = self._colors(cells)
        if not len(faces):
            if self.drawn is not None and self.drawn.sent:
                scene.remove_by_name("/map")
            self.drawn = Drawn(cells, faces, rgb, 0)
            return
        data = squares(faces.corners(cells), rgb[faces.cell] * faces.shade[:, None])
        assert len(data) <= MOST_SENT, FACE_BYTES  # MOST_FACES is chosen so
        scene.add_glb("/map", data, cast_shadow=False, receive_shadow=False)
        self._busy_until = time.monotonic() + len(data) / BYTES_PER_SECOND
        self.drawn = Drawn(cells, faces, rgb, len(data))

    def _draw_lines(self) -> None:
        scene = self._server.scene
        for handle in reversed(self.things):
            handle.remove()
        self.things = []
        answers = self.reply.answers if self.reply and self.boxes.value else []
        found = [(thing, answer["label"]) for answer in answers for thing in answer["objects"]]
        for number, (thing, label) in enumerate(found):
            lines = thing_lines(thing)
            top = lines.reshape(-1, 3)[(lines.reshape(-1, 3) @ self._camera.up).argmax()]
            name, text = f"/things/{number}", thing_text(thing, label)
            self.things += [
                scene.add_line_segments(
                    name, lines, THING, thickness=3.0, thickness_units="screen"
                ),
                scene.add_label(f"{name}/text", text, position=tuple(top.tolist())),
            ]
        way = path_lines(self._camera.positions)
        if len(way) and self.path.value:
            self.things.append(
                scene.add_line_segments("/path", way, PATH, thickness=2.0, thickness_units="screen")
            )

    def _look_in(self, client: Any) -> None:
        """Show somebody who comes the whole map, from where most of it is seen."""
        drawn = self.drawn  # another thread draws anew meanwhile
        if drawn is None or not len(drawn.faces):
            return
        self._move(client, *viewpoint(drawn.cells, drawn.faces, self._camera.up))

    def look_at(self, client: Any, elevation: float = LOW, nearest: float = NEAREST) -> None:
        """Show somebody the best thing that was found, from the side that was seen.

        Args:
            elevation, nearest: see :func:`viewpoint`.
        """
        drawn, reply = self.drawn, self.reply  # of which another thread makes others meanwhile
        things = reply.answers[0]["objects"] if reply else []
        if drawn is None or not things:
            return
        box = thing_lines(things[0]).reshape(-1, 3)
        low, high = box.min(0) - drawn.cells.size, box.max(0) + drawn.cells.size
        xyz = drawn.cells.xyz
        faces = drawn.faces.of(((xyz >= low) & (xyz <= high)).all(1))
        if len(faces):
            seen = viewpoint(drawn.cells, faces, self._camera.up, elevation, nearest)
            self._move(client, *seen)

    def _move(self, client: Any, position: np.ndarray, target: np.ndarray) -> None:
        client.camera.up_direction = tuple(self._camera.up.tolist())
        client.camera.position = tuple(position.tolist())
        client.camera.look_at = tuple(target.tolist())


def viewpoint(
    cells: Cells, faces: Faces, up: np.ndarray, elevation: float = HIGH, nearest: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Where to stand so that one sees most of some faces, and where to look: (3,) m each.

    Args:
        elevation: degrees from which one looks down.
        nearest: m that one is away at least.
    """

    xyz = cells.xyz[faces.cell]
    low, high = np.percentile(xyz, [4, 96], axis=0)
    target, extent = (low + high) / 2, float(np.linalg.norm(high - low))
    rotation, down = rotation_to(up), np.radians(elevation)
    eyes = []
    for azimuth in np.radians([-60, -120, 30, 150, 60, 120, -30, -150]):
        flat = np.array([np.cos(azimuth), np.sin(azimuth)]) * np.cos(down)
        eyes.append(rotation.T @ np.array([*flat, np.sin(down)]))
    share = np.bincount(faces.side, minlength=len(NORMALS))
    seen = [np.maximum(NORMALS @ eye, 0) @ share for eye in eyes]
    return target + max(nearest, 0.8 * extent) * eyes[int(np.argmax(seen))], target


def _send_screenshot(client: Any) -> None:
    """What a visitor sees, as a .png that their browser saves."""
    from PIL import Image

    camera = client.camera
    pixels = client.get_render(camera.image_height, camera.image_width, transport_format="png")
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels)[..., :3]).save(out, "png")
    client.send_file_download("radseg_map.png", out.getvalue(), save_immediately=True)
