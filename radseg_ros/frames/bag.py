# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 (sqlite3 or mcap) as Frames and as raw messages, read with `rosbags`.

Imports no ROS. A recording may be cut or damaged: a message that cannot be decoded costs itself, a
part of a file that cannot be read costs the messages in it, and what the bag counts but does not
hold is counted as dropped.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..config import NodeConfig, SyncConfig
from ..datatypes import Frame, InputError, RadsegRosError, RecordingError, brief
from ..files import refuse_pipes
from .assemble import Assembler, Observation
from .decode import Damaged
from .disk import BAG_SUFFIXES
from .drops import DropCounts, Unusable
from .images.depth import is_depth
from .keyframes import Skip, skip_none
from .topics import (
    IMAGE_TYPES,
    Topics,
    depth_topics,
    find_topics,
    has_pose,
    transform_topics,
)
from .transforms import KINDS as TRANSFORMS

logger = logging.getLogger(__name__)

CURES = {
    ".mcap": "`mcap recover {path} -o NEW.mcap` saves what is whole",
    ".db3": "`sqlite3 {path} .recover | sqlite3 NEW.db3` saves what is whole",
    ".bag": "`rosbag reindex {path}` may help",
}
# of a bag that says of a type in words of others (unknown, jsonschema) how it is defined
FOREIGN = {
    ".mcap": "`mcap filter {path} -o NEW.mcap -n TOPIC` leaves out the topic of that type",
    ".db3": "`sqlite3 {path} \"DELETE FROM message_definitions WHERE encoding = '{encoding}'\"` "
    "mends that; no message is lost",
}
CDR = (b"\0\0", b"\0\1")  # encapsulations: big and little endian
MISSING = (
    "message that the bag counts but does not hold (damaged or cut short: mcap recover, ros2 bag "
    "reindex)"
)
# kinds of messages as they are called
NAMES = {"color": "colour", "info": "camera info", **dict.fromkeys(TRANSFORMS, "transform")}
MOST_GAPS = 100  # unreadable parts that are skipped; the rest is given up
SHORTEST_GAP = 1_000_000  # ns; how exactly the end of an unreadable part is found
FIRST_MESSAGES = 10  # that are looked at to tell depth from colour


class RawMessage(NamedTuple):
    """One message as it is stored."""

    time_ns: int  # when it was recorded
    kind: str  # one of assemble.KINDS
    type: str  # e.g. sensor_msgs/msg/Image
    data: bytes  # CDR


class BagRecording:
    """The topics of a bag that make a map: images, camera info, poses and transforms.

    Args:
        topics: see Topics.
        sync, node: how messages are paired, as in the node. With ``pose_source`` auto transforms
            are used in place of poses if there is no topic of poses.

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
        node, wanted = node or NodeConfig(), topics or Topics()
        self.before: dict[str, int] = {}
        self.read: Counter[str] = Counter()  # messages of the last iteration by kind
        with self._open() as reader, _border(self.path):
            types = {name: info.msgtype or "" for name, info in reader.topics.items()}
            silent = {
                name: f"no messages of {types[name]}" for name in types if _silent(reader, name)
            }
            heard = types | silent
            images = [name for name, type_ in heard.items() if type_ in IMAGE_TYPES]
            depth = depth_topics({name: _is_depth(reader, name) for name in images})
            transforms = transform_topics(heard)
            source = node.pose_source
            if source == "auto":
                by_topic = wanted.pose or has_pose(heard) or not transforms
                source = "topic" if by_topic else "tf"
            self.topics = find_topics(heard, depth, wanted, source == "topic")
            by_kind = {kind: name for kind, name in dataclasses.asdict(self.topics).items() if name}
            # topic -> kind of its messages
            self.kinds = {**{name: kind for kind, name in by_kind.items()}, **transforms}
            self.types = {kind: types[topic] for topic, kind in self.kinds.items()}
            # messages that the bag says it holds, by kind
            self.expected: Counter[str] = Counter()
            for topic, kind in self.kinds.items():
                self.expected[kind] += int(reader.topics[topic].msgcount)
            self.is_ros1 = not reader.is2
        self._sync, self._node = sync, dataclasses.replace(node, pose_source=source)
        self.assembler = Assembler(sync, self._node)

    @property
    def drops(self) -> DropCounts:
        """Why messages of the last iteration were not used."""
        return self.assembler.drops

    @property
    def map_frame(self) -> str:
        """The frame of the poses; empty until the first one tells."""
        return self.assembler.map_frame

    def __len__(self) -> int:
        return max(0, min(self.expected["color"], self.expected["depth"]))

    def __iter__(self) -> Iterator[Frame]:
        return (frame for _, frame in self.frames())

    def frames(self, start: int = 0, skip: Skip = skip_none) -> Iterator[tuple[int, Frame]]:
        """See :meth:`radseg_ros.frames.folder.Recording.frames`."""
        assembler = self._begin()
        for number, observation in enumerate(self._observations(assembler)):
            match = observation.match
            if number < start:
                assembler.used()
                self.before = dict(assembler.drops.items())
            elif reason := skip(match.stamp_ns, match.T_world_camera):
                assembler.drop(reason)
            else:
                try:
                    frame = observation.frame()
                except InputError as error:
                    assembler.drop(error)
                else:
                    assembler.used()
                    yield number, frame

    def raw_messages(self) -> Iterator[RawMessage]:
        """Everything of these topics in the order of recording, for playing; what nobody could
        decode is left out.
        """
        assembler = self._begin()
        with self._open() as reader:
            for kind, connection, time_ns, data in self._read(reader):
                try:
                    _decode(reader, kind, connection, data)
                except Unusable as fault:
                    assembler.drops.add_error(fault)
                else:
                    yield RawMessage(time_ns, kind, connection.msgtype, data)
        self._count_missing()

    def _begin(self) -> Assembler:
        self.assembler = Assembler(self._sync, self._node)
        self.read, self.before = Counter(), {}
        return self.assembler

    def _observations(self, assembler: Assembler) -> Iterator[Observation]:
        with self._open() as reader:
            for kind, connection, _, data in self._read(reader):
                try:
                    message = _decode(reader, kind, connection, data)
                except Unusable as fault:
                    big_endian = reader.is2 and data[:2] == CDR[0]
                    stamp = None if kind in TRANSFORMS else _stamp(data, big_endian)
                    message = Damaged(fault, stamp)
                yield from assembler.add(kind, message)
        yield from assembler.flush()
        self._count_missing()

    def _read(self, reader: Any) -> Iterator[tuple[str, Any, int, bytes]]:
        """Kind, connection, time (ns) and bytes; static transforms first, as they hold always."""
        connections = [c for c in reader.connections if c.topic in self.kinds]
        for static in (True, False):
            chosen = [c for c in connections if (self.kinds[c.topic] == "tf_static") == static]
            for connection, time_ns, data in _readable(reader, chosen, self.path) if chosen else ():
                kind = self.kinds[connection.topic]
                self.read[kind] += 1
                yield kind, connection, reader.start_time if static else time_ns, data

    def _count_missing(self) -> None:
        missing = Counter(self.expected) - self.read  # positive counts only
        of_each = [f"{kind}: {self.read[kind]} of {self.expected[kind]}" for kind in missing]
        self.drops.add(MISSING, sum(missing.values()), ", ".join(of_each))

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with _border(self.path):
            _check_parts(self.path)
            reader = _Reader(self.path)
        try:
            yield reader
        finally:
            with suppress(Exception):  # of a damaged file that was read all the same
                reader.close()


class _Reader:
    """A bag, opened, and what decodes its messages.

    A type is decoded as the bag defines it. Where it does not (bags of Humble and before), or in a
    way that cannot be parsed, it is that of Humble; of types that nobody reads nothing is asked.
    """

    def __init__(self, path: Path) -> None:
        from rosbags import rosbag1, rosbag2

        self.is2 = path.suffix != ".bag"
        bag: Any = rosbag2.Reader(path) if self.is2 else rosbag1.Reader(path)
        try:
            bag.open()
        except KeyError as error:  # a way to define types that `rosbags` does not know
            if not (self.is2 and isinstance(error.args[0], str)):
                raise
            raise RecordingError(_foreign(path, error.args[0])) from error
        self.topics, self.connections, self.messages = bag.topics, bag.connections, bag.messages
        self.start_time, self.end_time, self.close = bag.start_time, bag.end_time, bag.close
        self._stores: dict[str, Any] = {}  # by type

    def decode(self, connection: Any, data: bytes) -> Any:
        """The message of some bytes; raises whatever `rosbags` does where they are none."""
        kind = connection.msgtype
        if kind not in self._stores:
            self._stores[kind] = _types_of(connection)
        store = self._stores[kind]
        return (store.deserialize_cdr if self.is2 else store.deserialize_ros1)(data, kind)


def _types_of(connection: Any) -> Any:
    """The `rosbags` store of the type of a connection, and of the types in it."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    kind, definition = connection.msgtype, connection.msgdef
    types: dict[str, Any] = {}
    try:
        if definition.format == MessageDefinitionFormat.MSG:
            types.update(get_types_from_msg(definition.data, kind))
        elif definition.format == MessageDefinitionFormat.IDL:
            for part in filter(None, re.split(r"(?m)^={80}\nIDL: .*\n", definition.data)):
                types.update(get_types_from_idl(part))
    except Exception as error:
        logger.debug("the definition of %s cannot be parsed", kind, exc_info=error)
    if kind not in types:
        return get_typestore(Stores.ROS2_HUMBLE)
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


def _foreign(path: Path, encoding: str) -> str:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    file = next((file for file in files if file.suffix in FOREIGN), path)
    cure = FOREIGN.get(file.suffix, "").format(path=file, encoding=brief(encoding, 40))
    what = f"{path} defines a type of messages as {brief(repr(encoding), 40)}, which is not read"
    return f"{what}; {cure}" if cure else what


@contextmanager
def _border(path: Path) -> Iterator[None]:
    """Whatever `rosbags` and what it uses raise on a damaged bag becomes one sentence."""
    try:
        yield
    except RadsegRosError:
        raise
    except ImportError as error:
        raise RecordingError(
            f"{path}: reading bags needs the Python package {error.name} (pip install "
            "'radseg_ros[recordings]')"
        ) from error
    except Exception as error:
        why = brief(f"{type(error).__name__}: {error}".removesuffix(": "), 200)
        raise RecordingError(f"{path} cannot be read as a bag ({why}); {_cure(path)}") from error


def _check_parts(path: Path) -> None:
    """Say what is missing, before `rosbags` says it in its own words."""
    refuse_pipes(path)
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        files = sorted(file for file in path.iterdir() if file.suffix in BAG_SUFFIXES)
        if not files:
            raise RecordingError(f"{path} holds no bag: no metadata.yaml, no .mcap, no .db3")
        raise RecordingError(
            f"{path} has no metadata.yaml (was the recorder killed?): `ros2 bag reindex {path}` "
            f"writes it, or give the file {files[0]} itself"
        )
    for log in path.glob("*.db3-wal") if path.is_dir() else [path.with_name(f"{path.name}-wal")]:
        if log.is_file() and log.stat().st_size:
            logger.warning(
                "%s holds messages that are not in the bag yet (was the recorder killed?): "
                "`sqlite3 %s 'PRAGMA wal_checkpoint'` brings them in",
                *(log, log.with_name(log.name.removesuffix("-wal"))),
            )


def _cure(path: Path) -> str:
    if path.suffix in CURES and not path.is_dir():
        return CURES[path.suffix].format(path=path)
    if not path.is_dir():
        return "a bag is a folder with metadata.yaml, or a .mcap or .db3 file"
    files = [file for file in sorted(path.iterdir()) if file.suffix in CURES]
    inside = "".join(f"; {CURES[file.suffix].format(path=file)}" for file in files[:1])
    return f"`ros2 bag reindex {path}` writes its metadata.yaml anew{inside}"


# Damaged recordings


def _readable(reader: Any, connections: list[Any], path: Path) -> Iterator[tuple[Any, int, bytes]]:
    """Every message that can be read, in the order of recording: parts that cannot are skipped."""
    start: int | None = None
    for _ in range(MOST_GAPS):
        at = reader.start_time - 1 if start is None else start
        try:
            for connection, time_ns, data in reader.messages(connections=connections, start=start):
                at = time_ns
                yield connection, time_ns, data
            return
        except Exception as error:
            logger.debug("%s: unreadable after %d ns", path, at, exc_info=error)
        start = _end_of_gap(reader, connections, at + 1)
    logger.warning("%s: unreadable at more than %d places, the rest is left out", path, MOST_GAPS)


def _end_of_gap(reader: Any, connections: list[Any], start: int) -> int:
    """The time (ns) from which messages can be read again, looked for at growing distances."""
    bad, step = start - 1, SHORTEST_GAP
    good = start
    while good < reader.end_time and not _goes_on(reader, connections, good):
        bad, good, step = good, good + step, 2 * step
    while good - bad > SHORTEST_GAP:
        middle = (bad + good) // 2
        bad, good = (bad, middle) if _goes_on(reader, connections, middle) else (middle, good)
    return good


def _goes_on(reader: Any, connections: list[Any], start: int) -> bool:
    """Whether reading from ``start`` (ns) gives a message, or tells that there is none."""
    try:
        next(iter(reader.messages(connections=connections, start=start)), None)
    except Exception:
        return False
    return True


def _decode(reader: Any, kind: str, connection: Any, data: bytes) -> Any:
    """A message from its bytes.

    Raises:
        Unusable: they are none.
    """
    try:
        if reader.is2 and data[:2] not in CDR:
            raise ValueError("unknown encapsulation")
        return reader.decode(connection, data)
    except Exception as error:
        what = NAMES.get(kind, kind)
        raise Unusable(
            f"{what} message damaged", f"{len(data)} bytes are no {connection.msgtype}"
        ) from error


def _stamp(data: bytes, big_endian: bool) -> tuple[int, int] | None:
    """Seconds and nanoseconds of the header, with which all but transforms begin, if it is there.

    In CDR it follows the encapsulation (4 bytes), in ROS 1 a counter (4 bytes).
    """
    if len(data) < 12:
        return None
    seconds, nanoseconds = struct.unpack_from(">iI" if big_endian else "<iI", data, 4)
    return seconds, nanoseconds


def _silent(reader: Any, topic: str) -> bool:
    """Whether a topic was offered only, as image_transport offers many: it holds nothing."""
    return not reader.topics[topic].msgcount and next(_messages_of(reader, topic), None) is None


def _is_depth(reader: Any, topic: str) -> bool | None:
    """What the first image that can be decoded says (:func:`is_depth`)."""
    messages = _messages_of(reader, topic)
    for _, (connection, _, data) in zip(range(FIRST_MESSAGES), messages, strict=False):
        with suppress(Exception):
            return is_depth(reader.decode(connection, data))
    return None


def _messages_of(reader: Any, topic: str) -> Iterator[tuple[Any, int, bytes]]:
    connections = [c for c in reader.connections if c.topic == topic]
    return _readable(reader, connections, Path(topic))
