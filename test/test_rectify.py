# SPDX-License-Identifier: Apache-2.0
"""node.rectify: images that a lens has bent make the map that straight ones make."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from color_encoder import ColorEncoder
from conftest import require_ros
from hypothesis import given, settings
from hypothesis import strategies as st
from lenses import LENSES, SIZE, VOXEL, K, P, distorted, look, poses, rays, rays_through
from plain_messages import Message, pair, pose, raw_image
from plain_messages import info as plain_info
from recordings import BagWriter
from rosbags.rosbag2 import StoragePlugin
from waiting import PATIENCE

from radseg_ros.config import Config, MapConfig, NodeConfig
from radseg_ros.datatypes import ConfigError, Frame
from radseg_ros.frames.assemble import Assembler
from radseg_ros.frames.bag import BagRecording
from radseg_ros.frames.decode import camera_lens, make_frame
from radseg_ros.frames.drops import Unusable
from radseg_ros.frames.images.rectify import Rectifier
from radseg_ros.mapper import Mapper

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra `rectify`)")
EVERY = pytest.mark.parametrize("model", LENSES)


def info(model: str, **fields: object) -> Message:
    """The camera of ``lenses``."""
    about = {"d": list(LENSES[model]), "distortion_model": model, "height": SIZE[0]}
    matrices = {
        "k": K.ravel().tolist(),
        "p": projection(P),
        "r": np.eye(3).ravel(),
        "width": SIZE[1],
    }
    return plain_info(**{**about, **matrices, **fields})


def projection(camera: np.ndarray) -> np.ndarray:
    return np.hstack([camera, np.zeros((3, 1))]).ravel()


def frame_of(rgb: np.ndarray, depth: np.ndarray, about: Message, T=None, rectify=True) -> Frame:
    color, metres = raw_image(rgb, "rgb8"), raw_image(depth, "32FC1")
    rectifier = Rectifier() if rectify else None
    return make_frame(0, color, metres, about, np.eye(4) if T is None else T, 1.0, rectifier)


def noise(size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Colour and depth that differ from pixel to pixel; no depth twice."""
    generator = np.random.default_rng(0)
    rgb = generator.integers(1, 256, (*size, 3), dtype=np.uint8)
    depth = generator.permutation(size[0] * size[1]).reshape(size) / 1000 + 0.5
    return rgb, depth.astype(np.float32)


def places(model: str, size: tuple[int, int] = SIZE, scale: float = 1.0) -> np.ndarray:
    """(h, w, 2) column and row in the image that came, of each pixel of the rectified one."""
    by = np.diag([scale, scale, 1.0])
    matrix = by @ K
    bent = distorted(model, LENSES[model], rays(by @ P, size))
    return bent * matrix[[0, 1], [0, 1]] + matrix[:2, 2]


def check_nearest(depth: np.ndarray, came: np.ndarray, where: np.ndarray) -> None:
    """Each pixel holds the one that was nearest, or nothing where that is no pixel."""
    u, v = np.rint(where).astype(int).transpose(2, 0, 1)
    inside = (u >= 0) & (u < came.shape[1]) & (v >= 0) & (v < came.shape[0])
    expected = np.where(inside, came[v.clip(0, came.shape[0] - 1), u.clip(0, came.shape[1] - 1)], 0)
    clear = (np.abs(where % 1 - 0.5) > 1e-3).all(-1)  # of a border between two pixels
    assert clear.mean() > 0.95 and 0.5 < inside.mean() < 0.99, "both kinds are there"
    np.testing.assert_array_equal(depth[clear], expected[clear])


@EVERY
def test_depth_is_that_of_the_nearest_pixel_and_never_a_mixture(model):
    rgb, depth = noise()
    depth[20:40, 30:60] = 0
    wide = np.array([[75.0, 0, 64], [0, 75, 46], [0, 0, 1]])
    frame = frame_of(rgb, depth, info(model, p=projection(wide)))
    assert np.isin(frame.depth, depth).all()
    bent = distorted(model, LENSES[model], rays(wide))
    np.testing.assert_array_equal(frame.K, wide)
    check_nearest(frame.depth, depth, bent * K[[0, 1], [0, 1]] + K[:2, 2])


@EVERY
def test_colour_is_bilinear_between_the_pixels_that_came(model):
    rgb, depth = noise()
    got = frame_of(rgb, depth, info(model)).rgb.astype(float)
    where = places(model)
    (u, v), (across, down) = np.floor(where).astype(int).transpose(2, 0, 1), (where % 1).T
    inside = (u >= 0) & (u < SIZE[1] - 1) & (v >= 0) & (v < SIZE[0] - 1)
    u, v, across, down = u[inside], v[inside], across.T[inside, None], down.T[inside, None]
    upper = rgb[v, u] * (1 - across) + rgb[v, u + 1] * across
    lower = rgb[v + 1, u] * (1 - across) + rgb[v + 1, u + 1] * across
    expected = upper * (1 - down) + lower * down
    assert inside.mean() > 0.8
    assert np.abs(got[inside] - expected).max() < 255 / 32 + 1, "places are kept to 1/32 px"
    assert np.abs(got[inside] - expected).mean() < 2


def test_the_rim_is_as_bright_as_the_image_and_beside_it_is_nothing():
    white, ones = np.full((*SIZE, 3), 255, np.uint8), np.ones(SIZE, np.float32)
    shifted = projection(P + np.array([[0, 0, 30], [0, 0, 20], [0, 0, 0]]))
    frame = frame_of(white, ones, info("equidistant", p=shifted))
    assert set(np.unique(frame.rgb)) == {0, 255} and set(np.unique(frame.depth)) == {0, 1}
    np.testing.assert_array_equal(frame.rgb[..., 0] > 0, frame.depth > 0)


def test_what_a_lens_shows_twice_is_used_once():
    k1 = -0.35  # turns back where the derivative of r + k1 r^3 is zero
    camera = np.array([[30.0, 0, 63.5], [0, 30, 47.5], [0, 0, 1]])
    about = info("plumb_bob", d=[k1, 0, 0, 0, 0], p=projection(camera))
    reach = np.linalg.norm(rays(camera), axis=-1) - 1 / np.sqrt(-3 * k1)
    depth = frame_of(*noise(), about).depth
    assert not depth[reach > 0.01].any() and (reach > 0.01).mean() > 0.3
    bent = distorted("plumb_bob", (k1, 0, 0, 0, 0), rays(camera)) * K[[0, 1], [0, 1]] + K[:2, 2]
    seen = ((bent >= 0) & (bent <= np.array(SIZE[::-1]) - 1)).all(-1)
    assert seen[reach > 0.01].any(), "places there would be in the image"
    assert depth[seen & (reach < -0.01)].all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_images_of_another_resolution_than_camera_info(scale):
    """Colour and depth each have their own size: the lens is that of the view."""
    size = tuple(int(scale * n) for n in SIZE)
    rgb, depth = noise(SIZE)[0], noise(size)[1]
    for unsaid in {False, scale == 1}:
        about = info("plumb_bob", **({"height": 0, "width": 0} if unsaid else {}))
        frame = frame_of(rgb, depth, about)
        np.testing.assert_allclose(frame.K, np.diag([scale, scale, 1]) @ P)
        where = places("plumb_bob", size, scale).round(9)
        known = (np.rint(where) == np.rint(where).clip(0, np.array(size[::-1]) - 1)).all(-1)
        clear = known & (np.abs(where % 1 - 0.5) > 1e-3).all(-1)
        u, v = np.rint(where[clear]).astype(int).T
        np.testing.assert_array_equal(frame.depth[clear], depth[v, u])


def test_binning_and_region_of_interest_are_those_of_both_cameras():
    roi = Message(x_offset=8, y_offset=4, width=64, height=48, do_rectify=False)
    lens = camera_lens(info("plumb_bob", roi=roi, binning_x=2, binning_y=2))
    for whole, part in ((K, lens.K), (P, lens.P)):
        cx, cy = (whole[0, 2] - 8) / 2, (whole[1, 2] - 4) / 2
        np.testing.assert_allclose(
            part, [[whole[0, 0] / 2, 0, cx], [0, whole[1, 1] / 2, cy], [0, 0, 1]]
        )


# Which lens it is


@EVERY
def test_coefficients_may_be_followed_by_zeros(model):
    known = LENSES[model]
    for name in ("d", "D"):
        about = info(model)
        del about.d
        setattr(about, name, [*known, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        lens = camera_lens(about)
        assert lens.model == model
        assert lens.D[: len(known)] == known and not any(lens.D[len(known) :])


@pytest.mark.parametrize("d", [[], [0.0] * 5, [0.0] * 8, [0.0]])
@pytest.mark.parametrize("model", [*LENSES, "", "none", "fov"])
def test_no_coefficients_are_no_distortion(model, d):
    about = info("plumb_bob", distortion_model=model, d=d, k=[0.0] * 9)
    rgb, depth = noise()
    frame = frame_of(rgb, depth, about)
    np.testing.assert_array_equal(frame.rgb, rgb)
    np.testing.assert_array_equal(frame.depth, depth)
    np.testing.assert_array_equal(frame.K, P)


TURNED = [0.99875026, 0, 0.04997917, 0, 1, 0, -0.04997917, 0, 0.99875026]
WRONG = {
    "unknown": ({"distortion_model": "fov"}, "unknown lens model", "'fov' is not one of plumb_bob"),
    "unnamed": ({"distortion_model": ""}, "unknown lens model", "'' is not one of"),
    "too few": ({"d": [0.1] * 3}, "impossible lens", "takes 4 or 5, all finite; D has 3"),
    "too many": ({"d": [0.1] * 8}, "impossible lens", "takes 4 or 5, all finite; D has 8"),
    "no number": ({"d": [np.nan] * 5}, "impossible lens", "all finite"),
    "stereo": ({"r": TURNED}, "stereo pair", "R is not the identity"),
    "r of NaN": ({"r": [np.nan] * 9}, "stereo pair", "R is not the identity"),
    "no k": ({"k": [0.0] * 9}, "without a camera matrix", "not calibrated"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_lens_that_cannot_be_is_a_counted_drop_that_says_why(what):
    fields, reason, example = WRONG[what]
    assembler = Assembler(node=NodeConfig(rectify=True))
    small = {"height": 12, "width": 16}
    events = [("info", info("plumb_bob", **{**small, **fields})), ("pose", pose(0)), *pair(0)]
    found = [each for kind, message in events for each in assembler.add(kind, message)]
    (observation,) = [*found, *assembler.flush()]
    with pytest.raises(Unusable, match=reason) as fault:
        observation.frame()
    assembler.drop(fault.value)
    (told,) = [text for text, count in assembler.told() if count == 1]
    assert reason in told and example in told
    for kind in ("color", "depth"):
        account = assembler.accounts()[kind]
        assert (account.received, account.dropped, account.waiting) == (1, 1, 0)


@settings(max_examples=40)
@given(
    st.sampled_from([("plumb_bob", 4), ("plumb_bob", 5), ("rational_polynomial", 8),
                     ("rational_polynomial", 12), ("rational_polynomial", 14), ("equidistant", 4)]),
    st.data(),
)  # fmt: skip
def test_whatever_the_numbers_every_depth_is_one_that_came(lens, data):
    model, count = lens
    number = st.floats(-1e3, 1e3) | st.floats(allow_nan=False, allow_infinity=False)
    d = data.draw(st.lists(number, min_size=count, max_size=count))
    fx, cx = data.draw(st.floats(1e-3, 1e9)), data.draw(st.floats(-1e9, 1e9))
    size = (6, 9)
    rgb, depth = noise(size)
    camera = [fx, 0, cx, 0, fx, 3.0, 0, 0, 1]
    matrix = np.reshape(camera, (3, 3))
    which = {"k": camera} if data.draw(st.booleans()) else {"p": projection(matrix)}
    fields = {"d": d, "height": 6, "width": 9, **which}
    frame = frame_of(rgb, depth, info(model, **fields))
    assert np.isin(frame.depth, [0, *depth.ravel()]).all() and frame.rgb.shape == rgb.shape


def test_a_side_that_opencv_cannot_hold_is_refused():
    long = np.ones((1, 32767), np.float32)
    with pytest.raises(Unusable, match="sides below 32767 px"):
        Rectifier().depth(long, camera_lens(info("plumb_bob")))
    assert Rectifier().depth(long[:, 1:], camera_lens(info("plumb_bob"))).shape == (1, 32766)


# Where it is kept, and what it needs


def test_places_are_worked_out_once_for_a_lens_and_one_lens_is_kept(monkeypatch):
    made, work = [], Rectifier._places
    monkeypatch.setattr(Rectifier, "_places", lambda *a: made.append(a) or work(*a))
    assembler = Assembler(node=NodeConfig(rectify=True))
    small = {"height": 12, "width": 16}
    rectifier = None
    for i in range(12):
        scale = 8 if i < 6 else 9
        k = (np.diag([1 / scale, 1 / scale, 1]) @ K).ravel().tolist()
        assembler.add("info", info("plumb_bob", k=k, p=[0.0] * 12, **small))
        assembler.add("pose", pose(100 * i))
        for kind, message in pair(100 * i):
            for observation in assembler.add(kind, message):
                rectifier = observation.rectifier
                observation.frame()
                assembler.used()
        assert len(made) == (2 if i < 6 else 4), "of colour and of depth"
        assert len(rectifier._kept) == 2


def test_each_camera_has_a_lens_of_its_own():
    node = NodeConfig(rectify=True, cameras=["front", "rear"])
    assembler = Assembler(None, node, {"": ("front", "rear")})
    rectifiers = {id(each._rectifier) for each in assembler._cameras.values()}
    assert len(rectifiers) == 2
    off = Assembler(None, NodeConfig(cameras=["front", "rear"]), {"": ("front", "rear")})
    assert all(each._rectifier is None for each in off._cameras.values())


def test_without_opencv_it_is_refused_by_name_and_nothing_else_needs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"node\.rectify needs OpenCV: pip install .*\[rectify\]"):
        Assembler(node=NodeConfig(rectify=True))
    Assembler()


# The map


def mapped(frames: list[Frame]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Voxel -> its colour, of the map of some frames."""
    config = Config(short_side=0, map=MapConfig(voxel_size=VOXEL))
    mapper = Mapper(config, ColorEncoder())
    for frame in frames:
        mapper.integrate(frame)
    cloud = mapper.rgb_cloud()
    return by_voxel(cloud.xyz, cloud.rgb)


def by_voxel(xyz: np.ndarray, rgb: np.ndarray) -> dict[tuple[int, ...], tuple[int, ...]]:
    keys = np.rint(xyz / VOXEL).astype(int).tolist()
    return {tuple(key): tuple(color) for key, color in zip(keys, rgb.tolist(), strict=True)}


def agreement(map_: dict, other: dict) -> float:
    """Share of equal voxels."""
    return len(map_.keys() & other.keys()) / len(map_.keys() | other.keys())


def repainted(map_: dict, other: dict) -> float:
    """Share of common voxels whose colours differ: those at the edges of the room."""
    common = map_.keys() & other.keys()
    differ = [np.abs(np.subtract(map_[key], other[key])).max() > 40 for key in common]
    return sum(differ) / len(common)


@functools.cache
def straight() -> dict:
    """The map of the room that a pinhole camera makes."""
    return mapped([frame_of(*look(rays(P), T), info("plumb_bob", d=[]), T) for T in poses()])


@EVERY
def test_the_map_is_that_of_a_pinhole_camera(model):
    expected, bent = straight(), rays_through(model)

    def through_the_lens(rectify: bool) -> dict:
        return mapped([frame_of(*look(bent, T), info(model), T, rectify) for T in poses()])

    assert len(expected) > 1500
    got = through_the_lens(rectify=True)
    assert agreement(got, expected) > 0.99 and repainted(got, expected) < 0.02
    assert agreement(through_the_lens(rectify=False), expected) < 0.7


def lens_bag(path: Path, rgb: np.ndarray, depth: np.ndarray) -> Path:
    """One frame, whose camera info has no P."""
    with BagWriter(path, StoragePlugin.SQLITE3) as bag:
        lens = {"model": "rational_polynomial", "D": LENSES["rational_polynomial"]}
        bag.info("/depth/camera_info", 1, K, SIZE, **lens)
        bag.pose("/pose", 1, 0.0)
        bag.image("/color/image", 1, rgb, "rgb8")
        bag.image("/depth/image", 1, depth, "32FC1")
    return path


def test_a_bag_is_rectified_as_the_node_does(tmp_path):
    rgb, depth = noise()
    bag = lens_bag(tmp_path / "bag", rgb, depth)
    (frame,) = BagRecording(bag, node=NodeConfig(rectify=True))
    expected = frame_of(rgb, depth, info("rational_polynomial", p=[0.0] * 12))
    for name in ("rgb", "depth", "K"):
        np.testing.assert_array_equal(getattr(frame, name), getattr(expected, name))
    (untouched,) = BagRecording(bag)
    np.testing.assert_array_equal(untouched.depth, depth)
    assert (frame.depth != depth).mean() > 0.5


@pytest.mark.slow
def test_who_maps_a_bag_is_told_of_the_lens_and_of_the_option(tmp_path):
    bag = lens_bag(tmp_path / "bag", *look(rays_through("rational_polynomial"), np.eye(4)))
    voxels = {}
    for rectify in (False, True):
        out = tmp_path / f"{rectify}.radmap"
        options = ["--encoder", "colors", "--set", f"node.rectify={rectify}"]
        command = [sys.executable, str(Path(__file__).parent / "color_desk.py"), "map"]
        done = subprocess.run(
            [*command, str(bag), "-o", str(out), *options],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("set node.rectify" in done.stderr) is not rectify
        voxels[rectify] = done.stdout.split()[1]
    assert voxels[True] != voxels[False]


@pytest.mark.slow
def test_a_node_maps_the_room_through_a_lens(robot):
    require_ros()
    from robot import color_node, wait_for

    from radseg_ros.ros import messages

    model, bent, expected = "equidistant", rays_through("equidistant"), straight()

    def send(T: np.ndarray, **fields: object) -> None:
        stamp_ns = time.time_ns()
        camera, world = (messages.header(stamp_ns, name) for name in ("camera", "map"))
        rgb, depth = look(bent, T)
        about = messages.info_message(P, SIZE, camera)
        about.k, about.d, about.distortion_model = K.ravel(), list(LENSES[model]), model
        for name, value in fields.items():
            setattr(about, name, value)
        robot.publish(
            {
                "/depth/camera_info": about,
                "/color/image": messages.color_message(rgb, camera),
                "/depth/image": messages.depth_message(depth, camera),
                "/pose": messages.pose_message(T, world, "camera"),
            }
        )
        time.sleep(0.05)

    def shown() -> dict:
        points = np.frombuffer(robot.latest("/radseg_mapping/rgb_cloud").data, messages.POINT)
        rgb = points["rgb"][:, None] >> np.array([16, 8, 0]) & 255
        return by_voxel(np.stack([points[axis] for axis in "xyz"], -1), rgb)

    node = {"node.rectify": True, "node.backlog": 50, "map.voxel_size": VOXEL}
    with color_node({**node, "node.publish_period": 0.2}) as process:
        for T in poses():
            send(T)
        wait_for(lambda: robot.integrated() == len(poses()), "every frame")
        wait_for(lambda: agreement(shown(), expected) > 0.99, "the map of a pinhole camera")
        assert repainted(shown(), expected) < 0.02
        assert "lens distortion" not in process.text
        reason = "camera info of an unknown lens model (node.rectify)"

        def dropped() -> bool:
            send(poses()[0], distortion_model="fov")  # images may overtake the first
            told = [drop.reason for drop in robot.query("red").status.drops]
            return any(text.startswith(reason) and "'fov' is not one of" in text for text in told)

        wait_for(dropped, reason)
