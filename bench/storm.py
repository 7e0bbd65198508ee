# SPDX-License-Identifier: Apache-2.0
"""Attacks on every border: messages, services, folders, bags, map files, ground truth.

    python bench/storm.py                 # everything: under two minutes
    python bench/storm.py --only bags --seed 7 --scale 3

What is good is used, what is not is counted or refused in one sentence, and afterwards the program
goes on. Status 1 if anything raised, was lost in silence, or took more memory than ``MOST_MIB``.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure  # isort: skip  # before torch; it shows the tests' helpers

import numpy as np
import torch
from color_encoder import ColorEncoder
from PIL import Image
from plain_messages import Message, head, image, info, pose
from recordings import BagWriter, write_bag, write_folder
from rosbags.rosbag2 import StoragePlugin

from eval3d.truth.points import read_points
from radseg_ros.config import Config, MapConfig, NodeConfig, options_of
from radseg_ros.datatypes import RadsegRosError
from radseg_ros.frames.folder import open_recording
from radseg_ros.frames.ledger import Account
from radseg_ros.live_map import LiveMap
from radseg_ros.mapper import Mapper

MOST_MIB = 700  # by which an attack may raise the memory: two images of the largest size allowed
FRAMES = 10  # of a bag
LONGEST_SENTENCE = 2000  # characters
PATIENCE = 120.0  # s until something that has not ended counts as hanging


class Unaccounted(Exception):
    """Something was lost in silence."""


class Tally(logging.Handler):
    """What became of the tries of one attack; counts the traces that are logged, too."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.counts: Counter[str] = Counter()
        self.peak = 0.0  # MiB
        self.first = ""  # fault

    def emit(self, record: logging.LogRecord) -> None:
        """A trace in the log is a fault as well."""
        if record.exc_info:
            self.fault("tracebacks", record.getMessage(), record.exc_info[1])

    def fault(self, kind: str, what: object, error: object = None) -> None:
        """Count one, and keep the first to show."""
        self.counts[kind] += 1
        self.first = self.first or f"{kind}: {error!r} at {what}"[:600]

    @contextmanager
    def attempt(self, what: object = "") -> Iterator[None]:
        """One try: it succeeds, or is refused in one sentence."""
        self.counts["tried"] += 1
        try:
            try:
                yield
            except RadsegRosError as error:
                self.counts["refused"] += 1
                text = str(error)
                require(0 < len(text) < LONGEST_SENTENCE and "\n" not in text, f"says {text!r}")
            self.counts["accounted"] += 1
        except Unaccounted as error:
            self.fault("lost", what, error)
        except Exception as error:
            self.fault("tracebacks", what, error)
            return
        self.counts["survived"] += 1

    @property
    def good(self) -> bool:
        """Whether nothing fell over, nothing is missing, and memory stayed within its bound."""
        tried = self.counts["tried"]
        whole = tried == self.counts["survived"] == self.counts["accounted"] > 0
        return whole and not self.counts["tracebacks"] and self.peak < MOST_MIB


def require(condition: bool, what: str) -> None:
    """Raise Unaccounted unless ``condition``."""
    if not condition:
        raise Unaccounted(what)


def require_even(accounts: dict[str, Account], received: dict[str, int]) -> None:
    """Every input is used, superseded, waiting or dropped."""
    for kind, a in accounts.items():
        parts = (a.used, a.superseded, a.waiting, a.dropped)
        require(a.received == sum(parts) == received[kind] and min(parts) >= 0, f"{kind}: {a}")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes overwritten, one time in four cut as well."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 4, 50])):
        at, part = rng.randrange(len(data)), rng.randbytes(rng.randrange(1, 40))
        changed[at : at + len(part)] = part[: len(data) - at]
    return bytes(changed[: rng.randrange(len(data)) if rng.random() < 0.25 else len(data)])


# Messages


def encoded(kind: str, size: tuple[int, int] = (16, 12)) -> bytes:
    """A small image file."""
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 0, 0)).save(stream, kind)
    return stream.getvalue()


PNG = encoded("png")
BOMB = PNG[:16] + (60_000).to_bytes(4, "big") * 2 + PNG[24:]
RVL = np.array([16, 12, 0x08838AF3], "<u4").tobytes() + bytes(96)  # 1000 everywhere
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
HOSTILE = (None, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "rgb8",
           "32FC1", "x" * 1_000_000, "map\nERROR", "\ud800", b"", bytes(7), [], [float("nan")] * 9,
           [0.0] * 16, [1e308] * 9, ["a"] * 9, {}, object(), Message())  # fmt: skip


@cache
def pictures() -> tuple[bytes, ...]:
    """What compressed images may hold."""
    files = (PNG, encoded("jpeg"), PNG[:40], BOMB, encoded("png", (6000, 5000)), encoded("gif"))
    return (*files, RVL, RVL[:15], RVL[:-20], POSTSCRIPT, b"", bytes(99))


def frame_messages(ms: int, rng: random.Random) -> list[tuple[str, Any]]:
    """One frame of a red wall 1 m away, in any order of its messages."""
    color, depth = image(ms), image(ms, "16UC1")
    color.data, depth.data = bytes([255, 0, 0]) * 192, np.full(192, 1000, "<u2").tobytes()
    parts = [
        ("color", color),
        ("depth", depth),
        ("info", info()),
        ("pose", pose(ms, ms % 10_000 / 1e4)),
    ]
    return rng.sample(parts, len(parts))


def hostile(kind: str, ms: int, message: Any, rng: random.Random) -> Any:
    """The message with one or two of its fields replaced or taken away, or another one."""
    if kind in ("color", "depth") and rng.random() < 0.2:
        kinds = ("", " png", " rvl")
        formats = ("jpeg", "png", "x" * 1000, *(f"16UC1; compressedDepth{kind}" for kind in kinds))
        data = rng.choice((b"", bytes(12))) + rng.choice(pictures())
        return Message(header=head(ms), format=rng.choice(formats), data=data)
    for _ in range(rng.choice([1, 1, 2])):
        place = message
        while True:
            name = rng.choice(sorted(vars(place)) or [""])
            inner = getattr(place, name, None)
            if not isinstance(inner, Message) or rng.random() < 0.1:
                break
            place = inner
        if rng.random() < 0.1 and hasattr(place, name):
            delattr(place, name)
        else:
            setattr(place, name, rng.choice(HOSTILE))
    return message


@contextmanager
def live_map(folder: Path, **options: Any) -> Iterator[LiveMap]:
    """A live map with the encoder of the tests."""
    node = NodeConfig(backlog=4, map_directory=str(folder), map_frame="map")
    config = Config(encoder="colors", short_side=0, node=node, map=MapConfig(**options))
    live = LiveMap(config)
    live.start(Mapper(config, ColorEncoder()))
    try:
        yield live
    finally:
        require(live.close(PATIENCE), "the worker does not end")


def settle(live: LiveMap) -> None:
    """Wait until nothing is being worked on."""
    end = time.monotonic() + PATIENCE
    while live.status().waiting:
        require(time.monotonic() < end, "the worker hangs")
        time.sleep(0.001)


def feed(live: LiveMap, ms: int, rng: random.Random, sent: Counter[str]) -> None:
    """A good frame, for which the worker has time; images go with the camera info before them."""
    for kind, message in sorted(frame_messages(ms, rng), key=lambda part: part[0] != "info"):
        sent[kind] += 1
        live.receive(kind, message)
    settle(live)


def storm_messages(rng: random.Random, folder: Path, count: int, tally: Tally) -> None:
    """Hostile fields among good ones, jumping clocks, resets; bounded maps that forget."""
    bounds = {"max_voxels": 300, "forget_after": 5.0, "carve_after": 2}
    with live_map(folder, **bounds) as live:
        sent: Counter[str] = Counter()
        ms = 0
        for number in range(count):
            ms = max(0, ms + rng.choice([100] * 30 + [-5000, 10**6, 10**9]) if ms < 10**9 else 100)
            for kind, message in frame_messages(ms, rng):
                if rng.random() < 0.4:
                    message = hostile(kind, ms, message, rng)
                with tally.attempt((kind, message)):
                    sent[kind] += 1
                    live.receive(kind, message)
                    require_even(live.status().accounts, sent)
            if number % 20 == 0:
                with tally.attempt("a good frame afterwards"):
                    live.reset()
                    settle(live)
                    before, ms = live.status().integrated, ms + 10_000
                    feed(live, ms, rng, sent)
                    status = live.status()
                    require_even(status.accounts, sent)
                    require(status.integrated == before + 1, f"not used: {status.drops}")
                    require(status.integrated == status.accounts["color"].used, "used, not fused")
                    scores = live.query(["red"]).scores
                    require(len(scores) == status.voxels > 0, "voxels without an answer")
                    require(bool(np.isfinite(scores).all()), "scores that are no numbers")


# Services

ANSWERS = 1000  # that the middleware keeps for a client until they are looked at
CLIENTS = 4
BURST = 200  # requests at once
LABELS = (
    "red",
    "red",
    "blue thing",
    "",
    " ",
    "no colour",
    "red\nERROR",
    "x" * 20_000,
    "\0",
    "é" * 99,
)
PATHS = ("a.radmap", "b/c", "d.ply", "", ".", "..", "../x", "/etc/x", "a.radmap/b", "loop/x",
         "out/x", "x" * 300, "a\0b", "a\nb", "b/" * 40 + "x", "damaged", "e.PCD")  # fmt: skip
NUMBERS = (0.0, 0.5, 1.0, -1.0, 1e30, -1e30, float("nan"), float("inf"), -float("inf"))
NAMES = ("", "x", "x" * 10_000, "a\nb", ".", "query", "query.", "map.voxel_size", "use_sim_time",
         "qos_overrides./x.depth", "start_type_description_service")  # fmt: skip
VALUES = (None, True, 0, 1, -1, 2**63 - 1, *NUMBERS, "", "red", "a\nb", "x" * 20_000, [True],
          [1, 2, 3], [0.0] * 3, [float("nan")] * 3, [0.5] * 500, ["red"], ["", "\0"] * 500, [b"x"],
          [])  # fmt: skip
STAMPS = ((0, 0), (1, 5), (1_700_000_000, 0), (-(2**31), 0), (2**31 - 1, 2**32 - 1))
NO_TYPE = 200  # of a parameter


def services() -> dict[str, Any]:
    """The services of the node, by name; the last are those that ROS gives to every node."""
    from rcl_interfaces import srv
    from std_srvs.srv import Trigger

    from radseg_interfaces.srv import (
        ClearBox,
        CorrectPoses,
        EncodeText,
        ForgetObject,
        LoadMap,
        QueryPoint,
        QueryText,
        QueryVector,
        SaveMap,
        SetLabels,
    )

    return {
        "query": QueryText,
        "query_vector": QueryVector,
        "query_point": QueryPoint,
        "encode_text": EncodeText,
        "forget_object": ForgetObject,
        "set_labels": SetLabels,
        "save_map": SaveMap,
        "load_map": LoadMap,
        "clear_box": ClearBox,
        "correct": CorrectPoses,
        **dict.fromkeys(("confirm_map", "reset", "pause", "resume"), Trigger),
        "set_parameters": srv.SetParameters,
        "set_parameters_atomically": srv.SetParametersAtomically,
        "get_parameters": srv.GetParameters,
        "get_parameter_types": srv.GetParameterTypes,
        "describe_parameters": srv.DescribeParameters,
        "list_parameters": srv.ListParameters,
    }


def live_options() -> list[str]:
    """Parameters that may change while the node runs."""
    return [option.name for option in options_of(Config).values() if not option.fixed]


def request_of(name: str, type_: Any, rng: random.Random) -> Any:
    """A request as any client may send it."""
    from geometry_msgs.msg import Point, PointStamped, PoseStamped
    from nav_msgs.msg import Path
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from radseg_interfaces.msg import VoxelFilter

    def point() -> Point:
        return Point(**{axis: rng.choice(NUMBERS) for axis in "xyz"})

    def number() -> float:
        """Often the one that changes nothing."""
        return rng.choice([0.0, 0.0, *NUMBERS])

    def where() -> VoxelFilter:
        made = VoxelFilter(
            radius=number(), max_age=number(), min_hits=rng.choice([0, 1, 2**32 - 1])
        )
        if rng.random() < 0.3:
            made.box_min, made.box_max, made.centre = point(), point(), point()
        return made

    def pose() -> PoseStamped:
        made = PoseStamped(header=Header(frame_id=frame_id))
        made.header.stamp.sec, made.header.stamp.nanosec = rng.choice(STAMPS)
        made.pose.position = point()
        made.pose.orientation.w = rng.choice([1.0, *NUMBERS])
        return made

    def path() -> Path:
        made = Path(header=Header(frame_id=frame_id))
        made.poses = [pose() for _ in range(rng.choice([0, 1, 2, 2, 500]))]
        return made

    def image() -> Image:
        sides = [rng.choice([0, 1, 8, 16, 2**32 - 1]) for _ in range(2)]
        return Image(
            height=sides[0],
            width=sides[1],
            encoding=rng.choice(["rgb8", "rgb8", "32FC1", "bayer_rggb8", "x" * 300, ""]),
            step=rng.choice([0, 24, 48, 2**32 - 1]),
            data=rng.randbytes(rng.choice([0, 0, 1, 24 * 8, 48 * 16])),
        )

    known = live_options()
    labels = rng.choices(LABELS, k=rng.choice([0, 1, 1, 1, 2, 30, 1500]))
    names = rng.choices([*known, *NAMES], k=rng.choice([0, 1, 1, 3, 50]))
    changes = [Parameter(each, value=rng.choice(VALUES)).to_parameter_msg() for each in names]
    frame_id = rng.choice(["", "", "map", "nowhere", "a\nb", "x" * 10_000])
    rules = {
        "mode": rng.choice(["", "", "relevancy", "guess", "x" * 300]),
        "negatives": rng.choices(LABELS, k=rng.choice([0, 0, 1, 1500])),
        "threshold": number(),
        "max_objects": rng.choice([0, 1, 2**32 - 1]),
        "where": where(),
        "frame_id": frame_id,
        "viewpoint_distance": number(),
        "time_limit": number(),
        "return_cloud": rng.random() < 0.3,
        "publish_cloud": rng.random() < 0.3,
    }
    fields: dict[str, dict[str, Any]] = {
        "query": {
            **rules,
            "labels": labels if rng.random() < 0.7 else ["red"],
            "prompts": rng.random() < 0.5,
        },
        "query_vector": {
            **rules,
            "image": image(),
            "vector": [number() for _ in range(rng.choice([0, 1, 8, 8, 5000]))],
            "label": rng.choice(LABELS),
        },
        "query_point": {
            "point": PointStamped(header=Header(frame_id=frame_id), point=point()),
            "radius": number(),
            "labels": labels,
            "max_labels": rng.choice([0, 1, 2**32 - 1]),
            "time_limit": number(),
        },
        "encode_text": {"texts": labels, "prompts": rng.random() < 0.5},
        "forget_object": {"id": rng.choice([0, 1, 2, 2**32 - 1])},
        "set_labels": {"labels": labels},
        "save_map": {"path": rng.choice(PATHS), "labels": labels},
        "load_map": {"path": rng.choice(PATHS), "merge": rng.random() < 0.5},
        "clear_box": {"min": point(), "max": point()},
        "correct": {"path": path()},
        "set_parameters": {"parameters": changes},
        "set_parameters_atomically": {"parameters": changes},
        "list_parameters": {"prefixes": names, "depth": rng.choice([0, 1, 2**64 - 1])},
    }
    about_names = name.startswith(("get_", "describe_"))
    return type_.Request(**({"names": names} if about_names else fields.get(name, {})))


def verdicts(answer: Any) -> list[tuple[bool, str]]:
    """Whether a request was fulfilled, and what was said of it; each of several."""
    if hasattr(answer, "success"):
        return [(answer.success, answer.message)]
    results = getattr(answer, "results", None) or [getattr(answer, "result", None)]
    return [(each.successful, each.reason) for each in results if hasattr(each, "successful")]


def check_answer(name: str, request: Any, answer: Any, tally: Tally) -> None:
    """An answer is a success, or one bounded sentence that says why not."""
    if name == "set_parameters":
        require(len(answer.results) == len(request.parameters), "parameters without a result")
    for good, text in verdicts(answer):
        tally.counts["refused"] += not good
        tally.counts["busy"] += text.startswith("busy: ")
        require(good or 0 < len(text) <= LONGEST_SENTENCE, f"says {len(text)} characters")
        require(good or "\n" not in text, f"says {text!r}")
        require("internal error" not in text, text)


class Clients:
    """Several nodes, each with a client of every service."""

    def __init__(self, robots: list[Any], rng: random.Random, tally: Tally) -> None:
        from rclpy.qos import QoSProfile
        from robot import NODE

        self.types, self.prefix, self.rng, self.tally = services(), NODE, rng, tally
        nodes, qos = [robot.node for robot in robots], QoSProfile(depth=ANSWERS)
        self.of = {
            name: [node.create_client(type_, f"{NODE}/{name}", qos_profile=qos) for node in nodes]
            for name, type_ in self.types.items()
        }
        for clients in self.of.values():
            for each in clients:
                require(each.wait_for_service(PATIENCE), f"no service {each.srv_name}")
        for robot in robots:  # a node learns late where its answers go, and of one after the other
            robot.introduce(f"{NODE}/query")

    def ask(self, name: str, request: Any) -> Any:
        """Send a request from one of the clients; the future of its answer."""
        return self.rng.choice(self.of[name]).call_async(request)

    def storm(self, names: list[str], meanwhile: Callable[[], None]) -> None:
        """Hostile requests, all at once: each is answered, or told that too many are waiting."""
        asked = []
        for name in names:
            request = request_of(name, self.types[name], self.rng)
            asked.append((name, request, self.ask(name, request)))
        meanwhile()
        end = time.monotonic() + PATIENCE
        for name, request, future in asked:
            while not future.done() and time.monotonic() < end:
                time.sleep(0.001)
            with self.tally.attempt((name, request)):
                require(future.done(), "no answer")
                check_answer(name, request, future.result(), self.tally)

    def nonsense(self) -> None:
        """A parameter of a type that does not exist: ROS gives no answer; others get theirs."""
        request = self.types["set_parameters"].Request()
        request.parameters = [rcl_parameter(live_options()[0], NO_TYPE)]
        self.ask("set_parameters", request)

    def good(self, name: str, **fields: Any) -> Any:
        """The answer to a request that must be fulfilled."""
        future = self.ask(name, self.types[name].Request(**fields))
        end = time.monotonic() + PATIENCE
        while not future.done() and time.monotonic() < end:
            time.sleep(0.001)
        require(future.done(), f"{name}: no answer")
        for good, text in verdicts(future.result()):
            require(good, f"{name}: {text}")
        return future.result()


def rcl_parameter(name: str, kind: int) -> Any:
    """A message that sets a parameter to nothing of that kind."""
    from rcl_interfaces.msg import Parameter, ParameterValue

    return Parameter(name=name, value=ParameterValue(type=kind))


def storm_services(rng: random.Random, folder: Path, count: int, tally: Tally) -> None:
    """Hostile requests to a real node, one by one and at once from several clients, while frames
    come; after each burst parameters are put back, and a good frame is mapped and found.
    """
    from rcl_interfaces.msg import Parameter
    from robot import Robot, Sender, color_node, running_robot, wait_for

    (folder / "loop").symlink_to(folder / "loop")
    (folder / "out").symlink_to("/")
    (folder / "damaged.radmap").write_bytes(b"x" * 100)
    journal = folder / "journal"
    settings = {"node.map_directory": folder, "node.publish_period": 0.5}
    settings |= {"journal.directory": journal}
    with ExitStack() as stack:
        stack.enter_context(tally.attempt("the node"))
        robot = stack.enter_context(running_robot())
        node = stack.enter_context(color_node(settings))
        robots = [Robot(f"client_{number}") for number in range(CLIENTS)]
        for each in robots:
            stack.callback(each.close)
        clients, send = Clients(robots, rng, tally), Sender(robot)
        offered = dict(robot.node.get_service_names_and_types_by_node("radseg_mapping", "/"))
        asked = {f"{clients.prefix}/{name}" for name in (*clients.types, "get_type_description")}
        require(set(offered) <= asked, f"not asked: {set(offered) - asked}")
        names = [*live_options(), "use_sim_time"]
        values = clients.good("get_parameters", names=names).values
        require(len(values) == len(names), "parameters without a value")
        before = [Parameter(name=n, value=v) for n, v in zip(names, values, strict=True)]

        def frames() -> None:
            for _ in range(5):
                send()

        def run() -> None:
            every = list(clients.types)
            for number in range(max(len(every), count // 5)):
                clients.storm([every[number % len(every)]], lambda: None)
            left = count - count // 5
            while left > 0:
                burst = min(left, BURST)
                mixed = rng.choices([*every, "query", "query"], k=burst)
                clients.storm(rng.choice([mixed, ["query"] * burst]), frames)
                clients.nonsense()
                with tally.attempt("a good frame afterwards"):
                    clients.good("set_parameters_atomically", parameters=before)
                    clients.good("resume")
                    clients.good("reset")
                    integrated = robot.integrated()

                    def mapped(before: int = integrated) -> bool:
                        send()
                        return robot.integrated() > before

                    wait_for(mapped, "a frame in the map", PATIENCE)
                    answer = clients.good("query", labels=["white"])
                    require(answer.answers[0].found, "the wall is not found")
                left -= burst

        tally.peak = measure.rise(run, node.process.pid)


# Files


def storm_folders(rng: random.Random, folder: Path, count: int, tally: Tally) -> None:
    """Folders with damaged, missing and foreign files: used and dropped frames are all frames."""
    whole = write_folder(folder / "whole", list(range(1, 7)))
    for _ in range(count):
        copy = shutil.copytree(whole, folder / "copy")
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        for file in rng.sample(files, rng.randrange(1, 6)):
            how = rng.randrange(4)
            if how == 0:
                file.unlink()
            elif how == 1:
                file.with_name(rng.choice([".hidden", "7" + file.suffix, "x.tmp"])).touch()
            else:
                file.write_bytes(damaged(file.read_bytes(), rng))
        with tally.attempt(files):
            recording = open_recording(copy)
            used = len(list(recording))
            require(used + recording.drops.total == len(recording) >= 6, f"{used} used")
        shutil.rmtree(copy)


def storm_bags(rng: random.Random, folder: Path, count: int, tally: Tally) -> None:
    """Damaged bags: every message that they count is used, waiting, dropped or missing."""

    def sometimes_damaged(_writer: BagWriter, _topic: str, data: bytes) -> bytes:
        return damaged(data, rng) if rng.random() < 0.2 else data

    copy = folder / "copy"
    for number in range(count):
        plugin = rng.choice(list(StoragePlugin))
        if number % 2:
            write_bag(copy, plugin, frames=FRAMES)
            file = rng.choice(sorted(copy.iterdir()))
            file.write_bytes(damaged(file.read_bytes(), rng))
        else:
            with patch.object(BagWriter, "damage", sometimes_damaged):
                file = write_bag(copy, plugin, frames=FRAMES)
        with tally.attempt(file):
            recording = open_recording(copy if file.suffix == ".yaml" else file)
            used = len(list(recording))
            require_even(recording.assembler.accounts(), recording.read)
            require(used == FRAMES or recording.drops.total > 0, f"{used} used, and not a word")
        shutil.rmtree(copy)


def storm_maps(rng: random.Random, folder: Path, count: int, tally: Tally) -> None:
    """Damaged map files: refused, and the map is as it was; or nothing of it was damaged."""
    with live_map(folder) as live:
        for step in range(5):
            feed(live, 100 * step, rng, Counter())
        good, bad = folder / "good.radmap", folder / "bad.radmap"
        live.save(good)
        data = good.read_bytes()
        state = live.mapper.map.table.state()
        moment = live.moment()
        length = 8 + int.from_bytes(data[:8], "little")
        with tally.attempt("the whole file"):
            require(live.load(good) == len(state["key"]) > 0, "a whole file was not taken whole")
        for _ in range(count):
            changed = damaged(data, rng)
            if rng.random() < 0.5:  # the header is small, and every letter and digit means a thing
                at = rng.choice([i for i in range(8, length) if chr(data[i]).isalnum()])
                other = rng.choice("0123456789" if chr(data[at]).isdigit() else "aelrstTF")
                changed = data[:at] + other.encode() + data[at + 1 :]
            bad.write_bytes(changed)
            with tally.attempt(changed[:length]):
                try:
                    live.load(bad)
                finally:
                    now = live.mapper.map.table.state()
                    same = all(torch.equal(state[name], now[name]) for name in state)
                    require(same and live.moment() == moment, "another map without a word")
                require(live.mapper.map.config.voxel_size == 0.05, "another size of voxels")


def storm_truth(rng: random.Random, folder: Path, count: int, tally: Tally) -> None:
    """Damaged ground truth: refused, or as many points as it says."""
    xyz, labels = np.random.default_rng(0).random((50, 3)), np.arange(50)
    rows = np.concatenate([xyz, labels[:, None]], 1)
    names = "".join(f"property double {name}\n" for name in ("x", "y", "z", "label"))
    for kind, content in (
        ("ascii", "\n".join(" ".join(map(str, row)) for row in rows).encode()),
        ("binary_little_endian", rows.tobytes()),
    ):
        text = f"ply\nformat {kind} 1.0\nelement vertex 50\n{names}end_header\n"
        (folder / f"{kind}.ply").write_bytes(text.encode() + content)
    np.savez_compressed(folder / "a.npz", xyz=xyz, labels=labels)
    torch.save({"xyz": torch.tensor(xyz), "labels": torch.tensor(labels)}, folder / "a.pt")
    whole = sorted(folder.iterdir())
    for _ in range(count):
        source = rng.choice(whole)
        data = source.read_bytes()
        bad = folder / f"bad{source.suffix}"
        cut = rng.random() < 0.3
        bad.write_bytes(data[: rng.randrange(len(data) - 30)] if cut else damaged(data, rng))
        with tally.attempt(source.name):
            points, ids = read_points(bad)
            require(points.shape == (len(ids), 3) and len(ids) <= 50, "points that do not fit")
            require(not cut, "a cut file was taken as whole")


ATTACKS: dict[str, tuple[Callable[[random.Random, Path, int, Tally], None], int]] = {
    "messages": (storm_messages, 1500),
    "services": (storm_services, 1000),
    "folders": (storm_folders, 200),
    "bags": (storm_bags, 80),
    "maps": (storm_maps, 1000),
    "truth": (storm_truth, 1000),
}


def attack(name: str, seed: int = 0, scale: float = 1.0) -> Tally:
    """Run one of ATTACKS; ``scale`` multiplies what it tries."""
    storm, count = ATTACKS[name]
    tally, logger = Tally(), logging.getLogger()
    handlers, logger.handlers = logger.handlers, [tally]
    try:
        with tempfile.TemporaryDirectory() as folder:
            rng = random.Random(f"{name} {seed}")
            run = lambda: storm(rng, Path(folder), max(1, round(count * scale)), tally)  # noqa: E731
            rise = measure.rise(run)
            tally.peak = max(tally.peak, rise)
    finally:
        logger.handlers = handlers
    return tally


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=ATTACKS, help="one attack")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of tries")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ("tried", "survived", "accounted", "refused", "busy", "lost", "tracebacks")
    print("attack    ", *(f"{name:>10}" for name in (*columns, "peak MiB", "s")))
    good = True
    for name in [options.only] if options.only else ATTACKS:
        start = time.perf_counter()
        tally = attack(name, options.seed, options.scale)
        figures = [tally.counts[column] for column in columns]
        figures += [round(tally.peak), round(time.perf_counter() - start)]
        print(f"{name:10}", *(f"{figure:10}" for figure in figures), flush=True)
        if not tally.good:
            good = False
            print(f"  {tally.first or 'too much memory'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
