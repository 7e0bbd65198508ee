# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 (sqlite3 or mcap) as Frames and as raw messages, read with `rosbags`.

Imports no ROS.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..config import NodeConfig, SyncConfig
from ..datatypes import Frame, InputError, RecordingError
from .assemble import KINDS, Assembler, Observation
from .decode import DEPTH_ENCODINGS
from .drops import DropCounts

TYPES = {
    "color": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    "depth": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    "info": ("sensor_msgs/msg/CameraInfo",),
    "pose": ("nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Topics:
    """Which topic of a bag is what; empty = found by type and name."""

    color: str = ""
    depth: str = ""
    info: str = ""
    pose: str = ""


class RawMessage(NamedTuple):
    """One message as it is stored."""

    time_ns: int  # when it was recorded
    kind: str  # color, depth, info or pose
    type: str  # e.g. sensor_msgs/msg/Image
    data: bytes  # CDR


class BagRecording:
    """The four topics of a bag that make a map.

    Args:
        topics: see Topics.
        sync, node: how messages are paired, as in the node.

    Raises:
        RecordingError: not a bag, or a topic is missing or ambiguous; the message lists the
            candidates.
    """

    def __init__(
        self,
        path: str | Path,
        topics: Topics | None = None,
        sync: SyncConfig | None = None,
        node: NodeConfig | None = None,
    ) -> None:
        self.path = Path(path)
        self._sync, self._node = sync, node
        self.assembler = Assembler(sync, node)
        with self._open() as reader:
            self.topics = _find_topics(reader, topics or Topics())
            self.types = {
                kind: reader.topics[topic].msgtype or "" for kind, topic in self._by_kind().items()
            }
            self._length = min(
                reader.topics[topic].msgcount for topic in (self.topics.color, self.topics.depth)
            )
            self.is_ros1 = not reader.is2

    @property
    def drops(self) -> DropCounts:
        """Why messages of the last iteration were not used."""
        return self.assembler.drops

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        self.assembler = Assembler(self._sync, self._node)
        for observation in self._observations(self.assembler):
            try:
                yield observation.frame()
            except InputError as error:
                self.drops.add(str(error))

    def raw_messages(self) -> Iterator[RawMessage]:
        """Everything of the four topics in the order of recording, for playing."""
        with self._open() as reader:
            for kind, connection, time_ns, data in self._read(reader):
                yield RawMessage(time_ns, kind, connection.msgtype, data)

    def _observations(self, assembler: Assembler) -> Iterator[Observation]:
        with self._open() as reader:
            for kind, connection, _, data in self._read(reader):
                yield from assembler.add(kind, reader.deserialize(data, connection.msgtype))
        yield from assembler.flush()

    def _read(self, reader: Any) -> Iterator[tuple[str, Any, int, bytes]]:
        kinds = {topic: kind for kind, topic in self._by_kind().items()}
        connections = [c for c in reader.connections if c.topic in kinds]
        for connection, time_ns, data in reader.messages(connections=connections):
            yield kinds[connection.topic], connection, time_ns, data

    def _by_kind(self) -> dict[str, str]:
        return {kind: getattr(self.topics, kind) for kind in KINDS}

    @contextmanager
    def _open(self) -> Iterator[Any]:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore

        try:  # bags of Humble and before do not bring their message definitions
            reader = AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            reader.open()
        except (AnyReaderError, OSError, ValueError) as error:
            raise RecordingError(f"{self.path} cannot be read as a bag: {error}") from error
        try:
            yield reader
        except AnyReaderError as error:
            raise RecordingError(f"{self.path} is damaged: {error}") from error
        finally:
            reader.close()


def _find_topics(reader: Any, wanted: Topics) -> Topics:
    """Fill in the topics that ``wanted`` leaves open."""
    images = {
        name: _is_depth(reader, name)
        for name, info in reader.topics.items()
        if info.msgtype in TYPES["color"]
    }
    candidates = {
        "color": [name for name, depth in images.items() if not depth],
        "depth": [name for name, depth in images.items() if depth],
        **{
            kind: [n for n, info in reader.topics.items() if info.msgtype in TYPES[kind]]
            for kind in ("info", "pose")
        },
    }
    found: dict[str, str] = {}
    for kind in ("color", "depth", "info", "pose"):
        name = getattr(wanted, kind)
        if name:
            if name not in reader.topics or reader.topics[name].msgtype not in TYPES[kind]:
                raise RecordingError(
                    f"the bag has no {kind} topic {name}; candidates: "
                    f"{', '.join(candidates[kind]) or 'none'}"
                )
            found[kind] = name
        else:
            found[kind] = _choose(kind, candidates[kind], found)
    return Topics(**found)


def _choose(kind: str, names: list[str], found: dict[str, str]) -> str:
    """The one that is meant: the only one, or the only one with a telling name."""
    if kind == "info" and len(names) > 1:  # the one that stands beside the depth image
        names = [
            name
            for name in names
            if name.rsplit("/", 1)[0] in (found["depth"].rsplit("/", i)[0] for i in (1, 2))
        ] or names
    if kind == "color" and len(names) > 1:
        names = [name for name in names if re.search(r"colou?r|rgb", name)] or names
    if kind == "depth" and len(names) > 1:
        names = [name for name in names if re.search(r"aligned|registered", name)] or names
    if len(names) == 1:
        return names[0]
    types = " or ".join(TYPES[kind])
    if not names:
        raise RecordingError(f"the bag has no {kind} topic ({types})")
    raise RecordingError(
        f"the bag has several {kind} topics, say which one: {', '.join(sorted(names))}"
    )


def _is_depth(reader: Any, topic: str) -> bool:
    """By the encoding of the first image."""
    connections = [c for c in reader.connections if c.topic == topic]
    for connection, _, data in reader.messages(connections=connections):
        message = reader.deserialize(data, connection.msgtype)
        if hasattr(message, "format"):
            return "compressedDepth" in message.format or message.format.startswith(DEPTH_ENCODINGS)
        return message.encoding in DEPTH_ENCODINGS
    return "depth" in topic
