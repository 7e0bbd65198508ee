# SPDX-License-Identifier: Apache-2.0
"""Which topic of a bag is colour, depth, camera info and pose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix

from ..datatypes import RecordingError, brief

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
TYPES = {
    "color": IMAGE_TYPES,
    "depth": IMAGE_TYPES,
    "info": ("sensor_msgs/msg/CameraInfo",),
    "pose": (
        "nav_msgs/msg/Odometry",
        "geometry_msgs/msg/PoseStamped",
        "geometry_msgs/msg/PoseWithCovarianceStamped",
    ),
}
# where there is another pose it tells of a first guess
LESSER_POSE = TYPES["pose"][-1]
ELSEWHERE = r"goal|target|initial_?pose"  # not where a robot was, but where it is to be
TRANSFORM_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
TWINS = (
    "/compressed",
    "/compressedDepth",
    "/zstd",
)  # what image_transport appends to a raw topic's name
# what the right one is called where there are several
TELLING = {"color": r"colou?r|rgb", "depth": r"aligned|registered"}
MOST_NAMED = 12  # topics in a message


@dataclass(frozen=True, slots=True)
class Topics:
    """Which topic of a bag is what; empty = found by type and name."""

    color: str = ""
    depth: str = ""
    info: str = ""
    pose: str = ""


def transform_topics(types: Mapping[str, str]) -> dict[str, str]:
    """Topic -> tf or tf_static, for those of a bag that hold transforms."""
    names = [name for name, type_ in types.items() if type_ in TRANSFORM_TYPES]
    names = [name for name in names if name in ("/tf", "/tf_static")] or names
    return {name: "tf_static" if name.endswith("tf_static") else "tf" for name in names}


def has_pose(types: Mapping[str, str]) -> bool:
    """Whether a bag has a topic of poses of where the robot was."""
    return any(
        type_ in TYPES["pose"] and not re.search(ELSEWHERE, name) for name, type_ in types.items()
    )


def depth_topics(says: Mapping[str, bool | None]) -> set[str]:
    """The topics of depth images.

    What may be either (mono16) is depth if its name says so, or if nothing else is.

    Args:
        says: topic -> whether its images are depth; None = they may be.
    """
    unsure = {name for name, said in says.items() if said is None}
    certain = {name for name, said in says.items() if said}
    # image_transport offers every image as compressedDepth, and sends nothing where it is none
    return certain | {n for n in unsure if "depth" in n.removesuffix(TWINS[1]).lower()} or unsure


def find_topics(
    types: Mapping[str, str], depth: set[str], wanted: Topics, pose: bool = True
) -> Topics:
    """Fill in the topics that ``wanted`` leaves open.

    What can only be one topic is decided first; the others are those of the same camera, that is of
    the same namespace. An image that is there twice is taken raw.

    Args:
        types: every topic of the bag and its type.
        depth: the topics whose images are depth.
        pose: whether a topic of poses is needed, or transforms tell them.

    Raises:
        RecordingError: a topic is missing or ambiguous; the message lists the candidates.
    """
    candidates = _candidates(types, depth)
    found: dict[str, str] = {} if pose else {"pose": ""}
    for kind in [kind for kind in TYPES if kind not in found]:
        name = getattr(wanted, kind)
        if name and types.get(name) not in TYPES[kind]:
            names = _listed(candidates[kind])
            raise RecordingError(f"the bag has no {kind} topic {brief(name)}; candidates: {names}")
        if name and name in found.values():
            raise RecordingError(f"topic {brief(name)} cannot be {kind} and something else as well")
        if name:
            found[kind] = name
    asked = set(found.values())
    candidates = {
        kind: [name for name in names if name not in asked] for kind, names in candidates.items()
    }
    while len(found) < len(TYPES):
        kind, name = _next_certain(candidates, found, types)
        found[kind] = name
    return Topics(**found)


def _candidates(types: Mapping[str, str], depth: set[str]) -> dict[str, list[str]]:
    found = {
        kind: [name for name, type_ in types.items() if type_ in TYPES[kind]] for kind in TYPES
    }
    for better in (
        [name for name in found["pose"] if not re.search(ELSEWHERE, name)],
        [name for name in found["pose"] if types[name] != LESSER_POSE],
    ):
        found["pose"] = [name for name in found["pose"] if name in better] or found["pose"]
    for kind in ("color", "depth"):
        images = [name for name in found[kind] if (name in depth) == (kind == "depth")]
        found[kind] = [name for name in images if not _has_raw_twin(name, images)]
    return found


def _has_raw_twin(name: str, images: Sequence[str]) -> bool:
    return any(name.endswith(twin) and name.removesuffix(twin) in images for twin in TWINS)


def _next_certain(
    candidates: Mapping[str, Sequence[str]], found: Mapping[str, str], types: Mapping[str, str]
) -> tuple[str, str]:
    """The next kind that is decided, and its topic: first what needs the least guessing."""
    open_kinds = [kind for kind in TYPES if kind not in found]
    for narrow in (_all, _of_the_same_camera, _with_a_telling_name):
        for kind in open_kinds:
            names = narrow(kind, candidates[kind], found)
            if len(names) == 1:
                return kind, names[0]
            if not names:
                has = _listed([f"{name} ({type_})" for name, type_ in types.items()])
                raise RecordingError(
                    f"the bag has no {kind} topic ({' or '.join(TYPES[kind])}); it has {has}"
                )
    kind = open_kinds[0]
    raise RecordingError(
        f"the bag has several {kind} topics: {_listed(sorted(candidates[kind]))}; say which one "
        f"(radseg-play --bag-{kind} TOPIC, radseg-map --bag-{kind} TOPIC, eval3d --set "
        f"topics.{kind}=TOPIC)"
    )


def _all(_kind: str, names: Sequence[str], _found: Mapping[str, str]) -> Sequence[str]:
    return names


def _of_the_same_camera(kind: str, names: Sequence[str], found: Mapping[str, str]) -> Sequence[str]:
    """Those that share most of their namespace with what is known of the camera, or else with the
    pose. Intrinsics are those of the depth image, so they are looked for beside that.
    """
    if kind == "info":
        return _nearest(names, [found["depth"]]) if "depth" in found else names
    known = [found[other] for other in ("color", "depth", "info") if other in found]
    return _nearest(names, known or list(found.values()))


def _with_a_telling_name(
    kind: str, names: Sequence[str], found: Mapping[str, str]
) -> Sequence[str]:
    names = _of_the_same_camera(kind, names, found)
    if kind == "info" and re.search(TELLING["depth"], found.get("depth", "")):
        return _nearest(names, [found[other] for other in ("color",) if other in found])
    return [name for name in names if re.search(TELLING.get(kind, ""), name)] or names


def _nearest(names: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    def shared(name: str) -> int:
        parts = name.split("/")
        return max(len(commonprefix([parts, other.split("/")])) for other in others)

    if not names or not others:
        return names
    most = max(map(shared, names))
    return [name for name in names if shared(name) == most]


def _listed(names: Sequence[str]) -> str:
    shown = [brief(name, 160) for name in names[:MOST_NAMED]]
    more = len(names) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])]) or "none"
