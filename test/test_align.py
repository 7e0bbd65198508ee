# SPDX-License-Identifier: Apache-2.0
"""Maps whose frames differ: brought together where that is sure, else refused with the rule."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from color_encoder import ColorEncoder
from conftest import shared
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from small_worlds import assert_same, make_map

from radseg_ros.answers.alignment.registration import align
from radseg_ros.answers.alignment.surface import Surface
from radseg_ros.cli import merge
from radseg_ros.config import Config, with_options
from radseg_ros.datatypes import ConfigError, Frame, InputError
from radseg_ros.demo import gallery
from radseg_ros.demo.raycast import render
from radseg_ros.frames.folder import FolderRecording
from radseg_ros.geometry import scale_intrinsics
from radseg_ros.mapper import Mapper
from radseg_ros.voxels.camera_path import CameraPath
from radseg_ros.voxels.index import pack
from radseg_ros.voxels.joining.moving import moved
from radseg_ros.voxels.map_file import load_map, read_header, save_map
from radseg_ros.voxels.voxel_map import VoxelMap

pytestmark = pytest.mark.slow  # searches for alignments

VOXEL = 0.1


@pytest.fixture
def open3d():
    return pytest.importorskip("open3d", reason="maps are aligned by Open3D, not installed here")


def face(rng, corner, u, v, colored=True) -> tuple[np.ndarray, np.ndarray]:
    """Points of a rectangle every 5 cm, in patches of 0.4 m of random colours, or grey."""
    u, v = np.array(u, float), np.array(v, float)
    a, b = (np.arange(0, np.linalg.norm(side), 0.05) for side in (u, v))
    a, b = (grid.ravel() for grid in np.meshgrid(a, b))
    xyz = corner + a[:, None] * u / np.linalg.norm(u) + b[:, None] * v / np.linalg.norm(v)
    palette = rng.random((40, 40, 3)) if colored else np.full((40, 40, 3), 0.5)
    return xyz, palette[(a // 0.4).astype(int), (b // 0.4).astype(int)]


def box(rng, low, size, colored=True) -> list[tuple[np.ndarray, np.ndarray]]:
    """The sides of a box but for its bottom."""
    (x, y, z), low = np.diag(np.array(size, float)), np.array(low, float)
    sides = ((low, x, z), (low, y, z), (low + y, x, z), (low + x, y, z), (low + z, x, y))
    return [face(rng, *side, colored) for side in sides]


def corner(seed: int = 0, size=(4.0, 3.0, 2.4)) -> list[tuple[np.ndarray, np.ndarray]]:
    """A floor, two walls, three pieces of furniture; all in the colours of ``seed``."""
    rng = np.random.default_rng(seed)
    x, y, z = np.diag(size)
    faces = [face(rng, np.zeros(3), *sides) for sides in ((x, y), (x, z), (y, z))]
    for _ in range(3):
        low = [*rng.uniform(0.4, np.array(size[:2]) - 1.2), 0]
        faces += box(rng, low, rng.uniform(0.4, 1.1, 3))
    return faces


def mapped(faces, T: np.ndarray | None = None, size: float = VOXEL) -> VoxelMap:
    """A map of points; the vectors are what their colours sum to."""
    T = np.eye(4) if T is None else T
    xyz, rgb = (np.concatenate(part) for part in zip(*faces, strict=True))
    index = torch.from_numpy(np.floor((xyz @ T[:3, :3].T + T[:3, 3]) / size + 0.5))
    key, group, hits = torch.unique(pack(index.T.long()), return_inverse=True, return_counts=True)
    colors = torch.zeros(len(key), 3, dtype=torch.float64)
    colors.index_add_(0, group, torch.from_numpy(rgb))
    world = make_map(size, 3)
    slots, _ = world.table.claim(key)
    once = torch.ones_like(key)
    points = {"hits": hits, "views": once.int(), "rgb_sum": colors, "first_seen_ns": once}
    points |= {"last_seen_ns": once, "seen_at": once}
    world.table.add(slots, points, lambda a, b: colors[a:b].float())
    return world


def surface(faces, T: np.ndarray | None = None, size: float = VOXEL) -> Surface:
    """Seen from where a camera was in the corner, wherever that is now."""
    T = np.eye(4) if T is None else T
    return Surface.of(mapped(faces, T, size).geometry(), [(T @ (2.0, 1.5, 1.5, 1))[:3]])


def turned(yaw: float, *shift: float, tip: float = 0.0) -> np.ndarray:
    """(4, 4): degrees about z, then about x."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("zx", (yaw, tip), degrees=True).as_matrix()
    T[:3, 3] = shift
    return T


def off(found: np.ndarray, T: np.ndarray) -> tuple[float, float]:
    """Metres and degrees between an alignment and the move that it should undo."""
    left = found @ T
    angle = Rotation.from_matrix(left[:3, :3]).magnitude()
    return float(np.linalg.norm(left[:3, 3])), float(np.degrees(angle))


@pytest.mark.usefixtures("open3d")
@pytest.mark.parametrize(
    ("T", "z_up"),
    [
        (turned(70, 3, -2, 0.3), True),
        pytest.param(turned(-130, 1, 2, 5, tip=100), False, marks=pytest.mark.slow),
    ],
)
def test_a_corner_comes_back(T, z_up):
    found = align(surface(corner()), surface(corner(), T), z_up)
    metres, degrees = off(found.T, T)
    assert metres < VOXEL and degrees < 1.5
    assert found.overlap > 0.7 and found.agreement > 0.7


@pytest.mark.usefixtures("open3d")
def test_a_map_lies_in_itself_as_it_is():
    world = mapped(corner())
    found = align(surface(corner()), surface(corner()))
    np.testing.assert_allclose(found.T, np.eye(4), atol=1e-6)
    assert found.overlap == found.agreement == 1
    assert_same(moved(world, found.T).snapshot(), world.snapshot())


def plain_room() -> list[tuple[np.ndarray, np.ndarray]]:
    """Square, grey and empty: each quarter turn is as good as another."""
    return box(np.random.default_rng(0), (0, 0, 0), (4, 4, 2.5), colored=False)


def floor() -> list[tuple[np.ndarray, np.ndarray]]:
    return [face(np.random.default_rng(0), np.zeros(3), (5, 0, 0), (0, 5, 0))]


def rod() -> list[tuple[np.ndarray, np.ndarray]]:
    xyz = np.outer(np.arange(0, 60, 0.05), (1.0, 0, 0))
    return [(xyz, np.full(xyz.shape, 0.5))]


def corridor() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    starts = (np.zeros(3), np.array([0, 2.0, 0]))
    walls = [face(rng, start, (9, 0, 0), (0, 0, 2.4)) for start in starts]
    return [face(rng, np.zeros(3), (9, 0, 0), (0, 2, 0)), *walls]


@pytest.mark.usefixtures("open3d")
@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        pytest.param(floor(), floor(), "too flat: what fits faces one way", id="floor"),
        pytest.param(
            corner(), [(xyz[:20], rgb[:20]) for xyz, rgb in floor()], "too small", id="tiny"
        ),
        *(
            pytest.param(*given, id=name, marks=pytest.mark.slow)
            for name, given in {
                "corridor": (corridor(), corridor(), "too flat: what fits faces two ways"),
                "rod": (rod(), rod(), "too"),
                "square room": (plain_room(), plain_room(), "ambiguous: another alignment fits"),
                "two rooms": (
                    corner(1),
                    corner(2, (5.0, 2.2, 2.0)),
                    "overlap|disag|ambig|tilted",
                ),
            }.items()
        ),
    ],
)
def test_what_is_not_sure_is_refused(a, b, told):
    for first, second in ((a, b), (b, a)):
        with pytest.raises(InputError, match=told):
            align(surface(first), surface(second, turned(30, 1, 2, 0)), True)


@pytest.mark.usefixtures("open3d")
def test_z_stays_up_where_both_maps_have_it_up():
    world, fallen = surface(corner()), surface(corner(), turned(20, 0, 0, 0, tip=180))
    assert align(world, fallen).overlap > 0.6
    with pytest.raises(InputError, match=r"tilted: .* tips it by 1[78]\d degrees"):
        align(world, fallen, z_up=True)


@pytest.mark.usefixtures("open3d")
def test_an_empty_map_and_other_voxels_are_refused():
    world, empty = surface(corner()), Surface.of(make_map(VOXEL, 3).geometry())
    for pair in ((world, empty), (empty, world)):
        with pytest.raises(InputError, match="too small: a map covers 0 cells"):
            align(*pair)
    with pytest.raises(InputError, match=r"voxels of 0.1 m and of 0.2 m"):
        align(world, surface(corner(), size=0.2))


def files(tmp_path, T: np.ndarray) -> list[str]:
    """Two files of the corner in frames of different names."""
    way = CameraPath()
    way.add(np.array([[0.0, 0, 1, 2], [-1, 0, 0, 1], [0, -1, 0, 1], [0, 0, 0, 1]]))
    paths = []
    for name, move in (("a", np.eye(4)), ("b", T)):
        mapper = Mapper(with_options(Config(), {"encoder": "colors"}), ColorEncoder())
        notes = {"camera": way.moved(move).note()}
        paths.append(str(tmp_path / f"{name}.radmap"))
        save_map(paths[-1], mapped(corner(), move), mapper.identity(name), notes)
    return paths


@pytest.mark.usefixtures("open3d")
def test_the_command_tells_the_pose_and_keeps_it(tmp_path, capsys):
    T = turned(70, 3, -2, 0.3)
    a, b = files(tmp_path, T)
    out = tmp_path / "both.radmap"
    assert merge.main([a, b, "-o", str(out)]) == 1
    assert "frame_id 'b', here it is 'a'" in capsys.readouterr().err
    assert merge.main([a, b, "-o", str(out), "--align"]) == 0
    assert "b.radmap: moved by x y z qx qy qz qw = " in capsys.readouterr().out
    joined, identity = load_map(out)
    both = sum(int(load_map(path)[0].table["hits"].sum()) for path in (a, b))
    assert int(joined.table["hits"].sum()) == both and identity.frame_id == "a"
    header = read_header(out)
    (note,) = header.notes["aligned"]
    assert note["map"] == "b.radmap" and off(np.array(note["T"]), T)[0] < VOXEL
    first, second = CameraPath.of(header).positions
    np.testing.assert_allclose(first, second, atol=2 * VOXEL)


def test_without_open3d_the_command_names_the_cure(tmp_path, capsys, monkeypatch):
    a, b = files(tmp_path, turned(10, 1, 0, 0))
    monkeypatch.setitem(sys.modules, "open3d", None)
    assert merge.main([a, b, "-o", str(tmp_path / "o.radmap"), "--align"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install 'radseg_ros[eval]'" in error
    assert not (tmp_path / "o.radmap").exists()
    with pytest.raises(ConfigError, match="open3d"):
        surface(corner())


def gallery_frames() -> list[Frame]:
    """The gallery at a quarter of its size."""
    solids = gallery.furniture() + [gallery.canvas(exhibit) for exhibit in gallery.EXHIBITS]
    size = tuple(side // 4 for side in gallery.SIZE)
    K, rng, frames = scale_intrinsics(gallery.K, gallery.SIZE, size), np.random.default_rng(0), []
    for i, T in enumerate(gallery.trajectory(36)):
        rgb, depth, facing = render(solids, K, T, size)
        metres = (gallery.sense(depth, facing, rng) / 1000).astype(np.float32)
        frames.append(Frame(i, rgb, metres, K, gallery.drift(T, rng)))
    return frames


def office_frames() -> list[Frame]:
    """Every tenth frame of a walk through an office."""
    recording = FolderRecording(shared("data/hololens_office"))
    return [frame for number, frame in recording.frames() if number % 10 == 0]


def write_halves(folder: Path, frames: list[Frame]) -> Path:
    """Files of the frames with even, with odd numbers, and of all."""
    for name, part in {"a": frames[::2], "b": frames[1::2], "whole": frames}.items():
        config = with_options(Config(), {"encoder": "colors", "short_side": 120})
        mapper, way = Mapper(config, ColorEncoder()), CameraPath()
        for frame in part:
            mapper.integrate(frame)
            way.add(frame.T_world_camera)
        notes = {"camera": way.note()}
        save_map(folder / f"{name}.radmap", mapper.map, mapper.identity("map"), notes)
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    return write_halves(tmp_path_factory.mktemp("halves"), gallery_frames())


@pytest.mark.parametrize("frames", [gallery_frames, office_frames])
def test_two_half_recordings_are_one(frames, tmp_path):
    halves, out = write_halves(tmp_path, frames()), tmp_path / "joined.radmap"
    assert merge.main([str(halves / "a.radmap"), str(halves / "b.radmap"), "-o", str(out)]) == 0
    (joined, _), (whole, _) = load_map(out), load_map(halves / "whole.radmap")
    orders = [voxels.table["key"].argsort() for voxels in (joined, whole)]
    for name in ("key", "hits", "views", "first_seen_ns", "last_seen_ns"):
        a, b = (
            voxels.table[name][order] for voxels, order in zip((joined, whole), orders, strict=True)
        )
        assert torch.equal(a, b), name
    assert_same(joined.snapshot(), whole.snapshot(), 1e-4)


@pytest.mark.usefixtures("open3d")
def test_a_half_recording_in_another_frame_finds_its_place(halves, tmp_path):
    T, out = turned(-75, 4, 1, -0.5), tmp_path / "joined.radmap"
    header = read_header(halves / "b.radmap")
    second, identity = load_map(halves / "b.radmap")
    notes = {"camera": CameraPath.of(header).moved(T).note()}
    save_map(tmp_path / "b.radmap", moved(second, T), identity, notes)
    words = [str(halves / "a.radmap"), str(tmp_path / "b.radmap"), "-o", str(out), "--align"]
    assert merge.main(words) == 0
    (note,) = read_header(out).notes["aligned"]
    metres, degrees = off(np.array(note["T"]), T)
    assert metres < 0.05 and degrees < 0.5  # a voxel
    joined, whole = load_map(out)[0], load_map(halves / "whole.radmap")[0]
    assert joined.table["hits"].sum() == whole.table["hits"].sum()
    places = [voxels.table.coordinates().numpy() for voxels in (joined, whole)]
    beside = cKDTree(places[0]).query(places[1])[0] < 1.8  # the same voxel or a neighbour
    assert beside.mean() > 0.97
