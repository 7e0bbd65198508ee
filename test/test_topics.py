# SPDX-License-Identifier: Apache-2.0
"""Which topic of a bag is what: one camera's topics stay together, nothing is guessed wildly."""

from __future__ import annotations

import pytest

from radseg_ros.datatypes import RecordingError
from radseg_ros.frames.topics import Topics, depth_topics, find_topics, has_pose

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, ODOMETRY, POSE = (
    "sensor_msgs/msg/CameraInfo",
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/PoseStamped",
)


def types_of(*names: str) -> dict[str, str]:
    """Topics and their types, told by their names as drivers choose them."""
    found = {}
    for name in names:
        last = name.rsplit("/", 1)[1]
        if last == "camera_info":
            found[name] = INFO
        elif last.startswith("compressed"):
            found[name] = COMPRESSED
        elif "pose" in last or "odom" in last:
            found[name] = ODOMETRY if "odom" in last else POSE
        else:
            found[name] = IMAGE
    return found


def choose(*names: str, **wanted: str) -> Topics:
    types = types_of(*names)
    depth = {name for name in names if "depth" in name and types[name] in (IMAGE, COMPRESSED)}
    return find_topics(types, depth, Topics(**wanted))


REALSENSE = (
    "/camera/color/image_raw",
    "/camera/color/camera_info",
    "/camera/depth/image_rect_raw",
    "/camera/depth/camera_info",
    "/camera/aligned_depth_to_color/image_raw",
    "/camera/aligned_depth_to_color/camera_info",
    "/camera/infra1/image_rect_raw",
    "/camera/infra1/camera_info",
    "/odom",
)


def test_the_usual_driver_needs_no_word():
    assert choose(*REALSENSE) == Topics(
        "/camera/color/image_raw",
        "/camera/aligned_depth_to_color/image_raw",
        "/camera/aligned_depth_to_color/camera_info",
        "/odom",
    )


def test_aligned_depth_has_the_intrinsics_of_colour():
    names = [name for name in REALSENSE if name != "/camera/aligned_depth_to_color/camera_info"]
    assert choose(*names).info == "/camera/color/camera_info"
    assert choose(*names, depth="/camera/depth/image_rect_raw").info == "/camera/depth/camera_info"


def test_a_raw_topic_wins_over_its_compressed_twin():
    names = ("/c/rgb", "/c/rgb/compressed", "/c/depth", "/c/depth/compressedDepth")
    rest = ("/c/camera_info", "/pose")
    assert choose(*names, *rest) == Topics("/c/rgb", "/c/depth", "/c/camera_info", "/pose")
    both = choose(names[1], names[3], *rest)
    assert (both.color, both.depth) == (names[1], names[3]), "where there is no raw one"
    asked = choose(*names, *rest, color=names[1])
    assert (asked.color, asked.depth) == (names[1], names[2]), "unless it is asked for"
    odd = choose("/c/rgb", "/other/compressed", "/c/depth", *rest)
    assert odd.color == "/c/rgb", "the nearer one, though the other is no twin"


TWO = (
    "/front/image",
    "/front/depth/image",
    "/front/depth/camera_info",
    "/rear/color/image",
    "/rear/color/camera_info",
    "/base/odom",
)


def test_colour_is_that_of_the_camera_with_depth_whatever_others_are_called():
    assert choose(*TWO) == Topics(
        "/front/image", "/front/depth/image", "/front/depth/camera_info", "/base/odom"
    )


STEREO = tuple(
    f"/{side}/{name}"
    for side in ("left", "right")
    for name in ("color/image", "depth/image", "depth/camera_info")
)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["color", "depth", "info"])
def test_one_topic_that_is_given_decides_the_camera(side, kind):
    whole = Topics(
        f"/{side}/color/image", f"/{side}/depth/image", f"/{side}/depth/camera_info", "/odom"
    )
    assert choose(*STEREO, "/odom", **{kind: getattr(whole, kind)}) == whole


def test_two_cameras_are_not_guessed_between():
    with pytest.raises(RecordingError) as caught:
        choose(*STEREO, "/odom")
    assert str(caught.value) == (
        "the bag has several color topics: /left/color/image, /right/color/image; say which one "
        "(radseg-play --bag-color TOPIC, radseg-map --bag-color TOPIC, eval3d --set "
        "topics.color=TOPIC)"
    )
    with pytest.raises(RecordingError, match="several pose topics: /a/odom, /b/pose; .*--bag-pose"):
        choose("/c/rgb", "/c/depth", "/c/camera_info", "/a/odom", "/b/pose")


@pytest.mark.parametrize(
    "goal", ["/goal_pose", "/move_base_simple/goal", "/target_pose", "/initialpose"]
)
def test_where_a_robot_is_to_be_is_not_where_it_was(goal):
    types = types_of("/c/rgb", "/c/depth", "/c/camera_info") | {goal: POSE}
    for where, type_ in (("/robot/pose", POSE), ("/odom", ODOMETRY)):
        found = find_topics({**types, where: type_}, {"/c/depth"}, Topics())
        assert found.pose == where
    assert not has_pose(types), "so a bag of transforms is read by them"
    assert find_topics(types, {"/c/depth"}, Topics()).pose == goal, "whoever has nothing else"


@pytest.mark.parametrize(
    ("says", "depth"),
    [
        ({"/c/image": False, "/c/range": None}, {"/c/range"}),
        ({"/c/image": None, "/c/depth": True}, {"/c/depth"}),
        ({"/c/image": None, "/c/depth": None}, {"/c/depth"}),
        ({"/c/image": False, "/Depth": None, "/infrared": None}, {"/Depth"}),
        ({"/c/image": False, "/c/image/compressedDepth": None, "/d": True}, {"/d"}),
        ({"/c/image": False}, set()),
    ],
)
def test_what_may_be_depth_is_told_by_what_else_there_is(says, depth):
    assert depth_topics(says) == depth


def test_a_topic_that_is_asked_for_is_nothing_else():
    types = types_of("/a", "/b", "/camera_info", "/pose")
    assert find_topics(types, {"/a", "/b"}, Topics(color="/a")).depth == "/b"
    assert find_topics(types, set(), Topics(depth="/a")).color == "/b"
    with pytest.raises(RecordingError, match="topic /a cannot be depth and something else as well"):
        find_topics(types, set(), Topics(color="/a", depth="/a"))


def test_each_robot_has_its_pose():
    names = [f"/{robot}{name}" for robot in ("r1", "r2") for name in ("/odom", *REALSENSE[:4])]
    found = choose(*names, pose="/r2/odom")
    assert all(name.startswith("/r2/") for name in (found.color, found.depth, found.info))


@pytest.mark.parametrize("missing", ["color", "depth", "info", "pose"])
def test_what_is_missing_is_told_with_what_is_there(missing):
    names = {"color": "/c/rgb", "depth": "/c/depth", "info": "/c/camera_info", "pose": "/odom"}
    types = types_of(*(name for kind, name in names.items() if kind != missing))
    types["/scan"] = "sensor_msgs/msg/LaserScan"
    with pytest.raises(RecordingError, match=rf"no {missing} topic \(.*; it has .*/scan \(sen"):
        find_topics(types, {"/c/depth"}, Topics())


def test_a_topic_of_another_type_or_name_is_refused_with_the_candidates():
    for wrong in ("/nowhere", "/odom", "/camera/color/camera_info"):
        with pytest.raises(RecordingError) as caught:
            choose(*REALSENSE, color=wrong)
        assert f"no color topic {wrong}; candidates: /camera/color/image_raw, /camera/i" in str(
            caught.value
        )


def test_names_from_outside_are_bounded_and_of_one_line():
    names = [f"/c{i}/rgb\n{'x' * 1000}" for i in range(50)]
    with pytest.raises(RecordingError) as caught:
        choose(*names, "/d/depth", "/d/camera_info", "/odom")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000
    assert "and 38 more" in str(caught.value)
