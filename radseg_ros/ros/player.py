# SPDX-License-Identifier: Apache-2.0
"""`radseg-play PATH`: publishes a recording (a folder or a rosbag2) as a robot would: images,
camera info, poses and transforms.

Topics: color/image, depth/image, depth/camera_info and pose (compressed images of a bag:
color/image/compressed and depth/image/compressedDepth), and a bag's transforms on /tf and
/tf_static. Remap them with --ros-args -r color/image:=/my/topic.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..command import run_command
from ..config import NodeConfig
from ..datatypes import RecordingError
from ..frames.folder import FolderRecording, open_recording
from ..frames.images.depth import DEPTH_SCALE
from .transport import image_transport

if TYPE_CHECKING:
    from ..frames.bag import BagRecording

TOPICS = {
    "info": "depth/camera_info",
    "pose": "pose",
    "depth": "depth/image",
    "color": "color/image",
}
TRANSFORMS = {"tf": "/tf", "tf_static": "/tf_static"}
COMPRESSED = {"depth": "/compressedDepth", "color": "/compressed"}
DISCOVERY_SLACK = 0.5  # s; the publisher learns of a match a little before the subscriber
ANSWERED_WITHIN = 10.0  # s that a subscriber gets to say that it knows who publishes
NO_PARAMETERS = 2.0  # s after which a node that offers none is not waited for
POLL = 0.05  # s
QUEUE = 100
LONGEST_GAP = 3600.0  # s; more between two messages means that the recording's clock was set


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="radseg-play",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "path",
        help="folder with color/ depth/ pose/ intrinsics.txt, or a rosbag2 (sqlite3 or mcap)",
    )
    p.add_argument(
        "--rate",
        type=positive_number,
        default=10.0,
        help="frames per second of a folder (default: %(default)s)",
    )
    p.add_argument(
        "--speed",
        type=positive_number,
        default=1.0,
        help="times as fast as recorded (default: %(default)s)",
    )
    p.add_argument(
        "--start", type=whole_number, default=0, help="first frame of a folder, counted from 0"
    )
    p.add_argument(
        "--count", type=whole_number, default=0, help="number of frames of a folder; 0 = all"
    )
    p.add_argument(
        "--depth-scale",
        type=positive_number,
        default=DEPTH_SCALE,
        help="m per unit of a folder's depth images (default: %(default)s)",
    )
    p.add_argument(
        "--loop", action="store_true", help="start again at the end; stamps of a bag jump back then"
    )
    p.add_argument(
        "--pose",
        choices=("odometry", "pose"),
        default="odometry",
        help="message type of a folder's poses",
    )
    p.add_argument(
        "--frame", default="map", help="frame of a folder's poses (default: %(default)s)"
    )
    p.add_argument(
        "--camera-frame",
        default="camera_optical_frame",
        help="frame of a folder's images (default: %(default)s)",
    )
    for kind in TOPICS:
        p.add_argument(
            f"--bag-{kind}",
            default="",
            metavar="TOPIC",
            help=f"the bag's topic for {kind} (default: found by type)",
        )
    p.add_argument(
        "--wait-for-subscribers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start when every topic has one",
    )
    p.add_argument(
        "--wait-timeout",
        type=positive_number,
        default=60.0,
        help="s to wait for subscribers (default: %(default)s)",
    )
    return p


def positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def whole_number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def wait_until_known(
    node: Any,
    listeners: Collection[str],
    pause: Callable[[], object],
    patience: float = ANSWERED_WITHIN,
    no_parameters: float = NO_PARAMETERS,
) -> None:
    """Wait until other nodes know of every publisher of ``node``. They learn of a match later than
    it does, the later the busier the machine is, and what comes before that is lost.

    They learn of publishers in the order in which they were made. So each is asked for its
    parameters, as all nodes have them, through a client that is made last.

    Args:
        listeners: their full names.
        pause: lets ``node`` take what comes, for a moment.
        patience: s after which who does not answer is waited for no longer.
        no_parameters: the same, for who cannot be asked.
    """
    from rcl_interfaces.srv import GetParameters

    def client(name: str) -> Any:
        return node.create_client(GetParameters, f"{name}/get_parameters")

    begun, clients = time.monotonic(), {name: client(name) for name in listeners}
    asked: dict[str, list[Any]] = {name: [] for name in listeners}
    waiting = set(listeners)
    while waiting and node.context.ok() and (passed := time.monotonic() - begun) < patience:
        for name in list(waiting):
            if any(future.done() for future in asked[name]):
                waiting.remove(name)
            elif clients[name].service_is_ready():  # an answer may be lost: who does not know us
                asked[name].append(clients[name].call_async(GetParameters.Request()))
            elif passed > no_parameters:
                waiting.remove(name)
        pause()
    for each in clients.values():
        node.destroy_client(each)


class Player:
    """Publishes messages at their time. Reliable, so that every subscriber matches."""

    def __init__(self, types: dict[str, Any], compressed: set[str]) -> None:
        import rclpy
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

        self.node = rclpy.create_node("radseg_play")
        self.published: Counter[str] = Counter()
        qos = QoSProfile(depth=QUEUE, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(
            depth=QUEUE,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        topics = {
            kind: topic + (COMPRESSED[kind] if kind in compressed else "")
            for kind, topic in {**TOPICS, **TRANSFORMS}.items()
            if kind in types
        }
        self.publishers = {
            kind: self.node.create_publisher(
                types[kind], topic, latched if kind == "tf_static" else qos
            )
            for kind, topic in topics.items()
        }
        needed = set(TOPICS) if "pose" in types else set(TOPICS) | set(TRANSFORMS)
        self._needed = {kind: each for kind, each in self.publishers.items() if kind in needed}

    def wait_for_subscribers(self, timeout: float) -> None:
        """Return when every topic is listened to. A node that listens for something else is told
        of at once, with its cure.

        Raises:
            RecordingError: nobody listens; the message names the topics.
        """
        import rclpy

        end, told = time.monotonic() + timeout, set[str]()
        while rclpy.ok() and (
            missing := {k: p for k, p in self._needed.items() if not p.get_subscription_count()}
        ):
            if time.monotonic() > end:
                topics = ", ".join(publisher.topic_name for publisher in missing.values())
                raise RecordingError(
                    f"no subscriber of {topics} after {timeout:g} s (see --no-wait-for-subscribers)"
                )
            for why in {self._misheard(kind) for kind in missing} - {"", *told}:
                told.add(why)
                print(f"radseg-play: {why}", file=sys.stderr, flush=True)
            time.sleep(POLL)
        listeners = {
            f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for publisher in self.publishers.values()
            for info in self.node.get_subscriptions_info_by_topic(publisher.topic_name)
            if not info.node_name.startswith("_")  # `ros2 topic`, and who has no name yet
        }
        wait_until_known(self.node, listeners, self._listen)
        time.sleep(DISCOVERY_SLACK)

    def _listen(self) -> None:
        import rclpy
        from rclpy.executors import ExternalShutdownException

        with suppress(ExternalShutdownException):  # told to end; whoever waits looks
            rclpy.spin_once(self.node, timeout_sec=POLL)

    def _misheard(self, kind: str) -> str:
        """What a node listens for in place of this, and how to change that; empty = nobody does."""
        from .inputs import POSE_TYPES

        publisher = self.publishers[kind]
        topic, suffix = publisher.topic_name, COMPRESSED.get(kind, "")
        if kind in COMPRESSED:
            compressed = topic.endswith(suffix)
            other = topic.removesuffix(suffix) if compressed else topic + suffix
            if self.node.count_subscribers(other):
                option = "node.depth_image_transport" if kind == "depth" else "node.image_transport"
                wanted = "compressed" if compressed else "raw"
                return f"somebody listens to {other}, and this is {topic}: {option} {wanted}"
        ours = _type_name(publisher.msg_type)
        infos = self.node.get_subscriptions_info_by_topic(topic)
        others = sorted({info.topic_type for info in infos} - {ours})
        if not others:
            return ""
        names = [name for name, type_ in POSE_TYPES.items() if type_ is publisher.msg_type]
        cure = "".join(f": node.pose_type {name}" for name in names)
        return f"{topic} is listened to as {', '.join(others)}, and this is {ours}{cure}"

    def play(self, timeline: Iterator[tuple[int, str, Any]], speed: float) -> None:
        """Publish (time in ns, kind, message) so that time passes ``speed`` times as fast as it
        did. Where the clock of the recording was set, nobody is kept waiting.
        """
        import rclpy

        start, last_ns = time.monotonic(), None
        for time_ns, kind, message in timeline:
            last_ns = time_ns if last_ns is None else last_ns
            gap, last_ns = (time_ns - last_ns) / 1e9, max(last_ns, time_ns)
            start += gap / speed if 0 < gap < LONGEST_GAP else 0.0
            pause = start - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            if not rclpy.ok():
                return
            if kind in self.publishers:  # all but transforms, where nobody knows their type
                self.publishers[kind].publish(message)
                self.published[kind] += 1

    def finish(self) -> None:
        """Give the last messages time to leave."""
        time.sleep(DISCOVERY_SLACK)
        self.node.destroy_node()


def _type_name(class_: Any) -> str:
    """Of a message, as ROS writes it."""
    return f"{class_.__module__.split('.')[0]}/msg/{class_.__name__}"


def folder_timeline(
    recording: FolderRecording, options: argparse.Namespace, start_ns: int
) -> Iterator[tuple[int, str, Any]]:
    """A folder as messages; frame i is stamped ``start_ns + i / rate``.

    Unreadable frames are left out and counted.
    """
    from . import messages

    end = min(options.start + options.count, len(recording)) if options.count else len(recording)
    for i, frame in recording.frames(options.start, end):
        time_ns = start_ns + round((i - options.start) / recording.rate * 1e9)
        camera, world = (
            messages.header(time_ns, options.camera_frame),
            messages.header(time_ns, options.frame),
        )
        child = options.camera_frame if options.pose == "odometry" else ""
        yield time_ns, "info", messages.info_message(frame.K, frame.depth.shape, camera)
        yield time_ns, "pose", messages.pose_message(frame.T_world_camera, world, child)
        yield time_ns, "depth", messages.depth_message(frame.depth, camera)
        yield time_ns, "color", messages.color_message(frame.rgb, camera)


def bag_timeline(recording: BagRecording) -> Iterator[tuple[int, str, bytes]]:
    """A bag as it was recorded: the serialised messages, untouched."""
    for message in recording.raw_messages():
        yield message.time_ns, message.kind, message.data


def _open(
    options: argparse.Namespace,
) -> tuple[FolderRecording | BagRecording, dict[str, Any], set[str]]:
    """The recording, the message class per kind, the kinds that are compressed."""
    from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

    topics = {kind: getattr(options, f"bag_{kind}") for kind in TOPICS}
    node = NodeConfig(depth_scale=options.depth_scale)
    recording = open_recording(options.path, rate=options.rate, topics=topics, node=node)
    if isinstance(recording, FolderRecording):
        from . import messages  # noqa: F401  # made of a folder: tell now if they cannot be

        pose = Odometry if options.pose == "odometry" else PoseStamped
        return recording, {"info": CameraInfo, "pose": pose, "depth": Image, "color": Image}, set()
    if recording.is_ros1:
        raise RecordingError(
            f"{options.path} is a ROS 1 bag; convert it first: rosbags-convert --src "
            f"{options.path} --dst NEW"
        )
    poses = (Odometry, PoseStamped, PoseWithCovarianceStamped)
    classes = {class_.__name__: class_ for class_ in (CameraInfo, CompressedImage, Image, *poses)}
    with suppress(ImportError):
        from tf2_msgs.msg import TFMessage

        classes["TFMessage"] = TFMessage
    names = {kind: name.rsplit("/", 1)[1] for kind, name in recording.types.items()}
    if "pose" not in names and "TFMessage" not in classes:
        raise RecordingError(
            f"{options.path} has transforms in place of poses, and to publish them the ROS package "
            "tf2_msgs is missing (apt: ros-$ROS_DISTRO-tf2-msgs)"
        )
    types = {kind: classes[name] for kind, name in names.items() if name in classes}
    return (
        recording,
        types,
        {kind for kind in COMPRESSED if recording.types[kind].endswith("CompressedImage")},
    )


def run(options: argparse.Namespace) -> None:
    """Play; print what was published.

    Raises:
        RecordingError: nothing to play, or nobody to play it to.
    """
    import rclpy

    recording, types, compressed = _open(options)
    with image_transport() as warning:
        player = Player(types, compressed)
    if warning:
        print(f"radseg-play: {warning}", file=sys.stderr)
    try:
        if options.wait_for_subscribers:
            player.wait_for_subscribers(options.wait_timeout)
        while rclpy.ok():
            if isinstance(recording, FolderRecording):
                player.play(folder_timeline(recording, options, time.time_ns()), options.speed)
            else:
                player.play(bag_timeline(recording), options.speed)
            if not options.loop:
                break
    finally:
        player.finish()
        counts = ", ".join(f"{n} {kind}" for kind, n in player.published.items())
        print(f"radseg-play: published {counts or 'nothing'}", flush=True)
        if recording.drops.total:
            print(f"radseg-play: left out {recording.drops}", file=sys.stderr)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; 1 and one line on stderr when the recording cannot be played."""
    options, ros_args = parser().parse_known_args(args)
    unknown = ros_args[: ros_args.index("--ros-args")] if "--ros-args" in ros_args else ros_args
    if unknown:
        parser().error(f"unrecognized arguments: {' '.join(unknown)}")

    def play() -> int:
        import rclpy

        rclpy.init(args=ros_args)
        try:
            run(options)
        finally:
            rclpy.try_shutdown()
        return 0

    return run_command("radseg-play", play)


if __name__ == "__main__":
    sys.exit(main())
