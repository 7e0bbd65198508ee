# SPDX-License-Identifier: Apache-2.0
"""The same room in every layout: equal frames, equal labels, every fault named and counted."""

from __future__ import annotations

import json

import eval3d_world as world
import numpy as np
import pytest
from recordings import write_tf_bag
from small_worlds import index_of, weights_of

from eval3d.classes import ClassList, load_classes
from eval3d.datasets import DATASETS
from eval3d.datasets import open_scene as open_with
from eval3d.datasets.scene import nearest_resize
from eval3d.options import EvalConfig, with_options
from eval3d.truth.ground_truth import LabelLifter, from_points
from eval3d.truth.points import read_points
from radseg_ros.datatypes import ConfigError, Frame, InputError, RecordingError
from radseg_ros.voxels.lifting.lift import lift

SIX = ClassList("six", tuple(f"{name} wall" for name in world.FACES), tuple(range(1, 7)))


def open_scene(dataset, root, name, classes, **options):
    config = EvalConfig(dataset=dataset, root=str(root))
    return open_with(with_options(config, options), name, classes)


def scenes(tmp_path):
    """(data set, root, scene, name of each frame's number)"""
    yield "replica", world.write_replica(tmp_path / "a"), "office0"
    yield "scannet", world.write_scannet(tmp_path / "b"), "scene0011_00"
    yield "scannetpp", world.write_scannetpp(tmp_path / "c"), "00777c41d4"
    yield "scannetpp", world.write_scannetpp(tmp_path / "d", layout="colmap"), "00777c41d4"
    yield "folder", world.write_folder(tmp_path / "e"), "e"
    yield "bag", world.write_bag(tmp_path / "f"), "f"


LOST = {"scannet": [3], "bag": [2]}  # what the writers spoil on purpose


def test_every_layout_gives_the_same_frames(tmp_path):
    for dataset, root, name in scenes(tmp_path):
        frames = list(open_scene(dataset, root, name, SIX, frame_skip=0))
        expected = [i for i in range(world.FRAMES) if i not in LOST.get(dataset, [])]
        assert len(frames) == len(expected), dataset
        for item, i in zip(frames, expected, strict=True):
            rgb, depth, _ = world.render(world.pose_of(i))
            np.testing.assert_allclose(
                item.frame.T_world_camera, world.pose_of(i), atol=1e-9, err_msg=f"{dataset} {i}"
            )
            np.testing.assert_allclose(item.frame.depth, depth, atol=0.00051)
            np.testing.assert_array_equal(item.frame.K, world.K)
            assert (
                item.frame.rgb.shape == rgb.shape
                and np.median(np.abs(item.frame.rgb.astype(int) - rgb)) <= 2
            )


def test_semantic_nerf_and_its_labels(tmp_path):
    root = world.write_semantic_nerf(tmp_path)
    # the folder is called office_0
    frames = list(open_scene("replica", root, "office0", SIX, frame_skip=0))
    assert len(frames) == 2
    for i, item in enumerate(frames):
        _, depth, label = world.render(
            world.pose_of(i), (480, 640), np.array([[320.0, 0, 320], [0, 320, 240], [0, 0, 1]])
        )
        assert np.array_equal(item.label, label) and np.abs(item.frame.depth - depth).max() < 0.0006


def test_scannet_labels_go_through_nyu40(tmp_path):
    root = world.write_scannet(tmp_path)
    nyu, twenty = load_classes("nyu40"), load_classes("scannet20")
    wanted = {1: "wall", 2: "floor", 3: "cabinet", 4: "chair", 5: "otherprop", 6: "window"}
    for classes in (nyu, twenty):
        item = next(iter(open_scene("scannet", root, "scene0011_00", classes)))
        _, _, face = world.render(world.pose_of(0))
        for i in np.unique(face):
            name = wanted[int(i)]
            label = classes.names.index(name) + 1 if name in classes.names else 0
            assert set(item.label[face == i]) == {label}, (classes.name, name)
    (root / "scannetv2-labels.combined.tsv").write_text(
        "id\traw_category\tnyu40id\tnyu40class\n1\twall\t2\tfloor\n"
    )
    item = next(iter(open_scene("scannet", root, "scene0011_00", nyu)))
    assert set(np.unique(item.label)) <= {0, 2}, "the data set's own table wins"
    raw = next(iter(open_scene("scannet", root, "scene0011_00", load_classes("scannet200"))))
    assert "chair" in {load_classes("scannet200").names[i - 1] for i in np.unique(raw.label) if i}


def test_frame_skip_ten_takes_every_eleventh(tmp_path):
    scene = open_scene("folder", world.write_folder(tmp_path, 3), "x", SIX)
    scene.views = [scene.views[i % 3] for i in range(30)]
    scene.step = 11
    assert [position for position, _ in scene.selected()] == [0, 11, 22]
    assert open_scene("folder", tmp_path, "x", SIX, frame_skip=1).step == 2
    assert (
        DATASETS["replica"].frame_skip
        == DATASETS["scannet"].frame_skip
        == DATASETS["scannetpp"].frame_skip
        == 10
    )


def test_every_fault_is_named_and_counted(tmp_path):
    root = world.write_folder(tmp_path, 10)  # the first tells the size of depth images
    (root / "color" / "000009.png").unlink()
    (root / "depth" / "000001.png").write_bytes((root / "depth" / "000001.png").read_bytes()[:-200])
    (root / "pose" / "000002.txt").write_text("-inf " * 16)
    (root / "pose" / "000003.txt").write_text("1 2 3")
    world.save(root / "depth" / "000004.png", np.ones((10, 10), np.uint16))
    world.save(root / "color" / "000005.png", np.zeros((10, 10, 3), np.uint8))
    world.save(root / "depth" / "000006.png", np.zeros((*world.SIZE, 3), np.uint8))
    np.savetxt(root / "pose" / "000007.txt", 2 * np.eye(4))
    (root / "label" / "000008.png").write_bytes(b"no image")
    scene = open_scene("folder", root, "x", SIX)
    frames = list(scene)
    assert [f.name for f in frames] == ["000000", "000008"] and frames[1].label is None
    assert scene.dropped == {
        "colour missing": 1, "depth damaged": 1, "pose not finite": 1, "pose damaged": 1, "depth "
                                                                                          "of "
                                                                                          "wrong "
                                                                                          "size": 1,
        "colour of wrong size": 1, "depth of wrong type": 1, "pose not rigid": 1,
    }  # fmt: skip
    assert scene.notes == {"label damaged": 1}
    assert scene.examples["depth of wrong size"] == "000004: 10x10, need 64x48"


def test_an_image_without_pose_and_a_pose_without_image_are_dropped(tmp_path):
    root = world.write_replica(tmp_path)
    rows = (root / "office0" / "traj.txt").read_text().splitlines()
    (root / "office0" / "traj.txt").write_text("\n".join(rows[:4]))
    (root / "office0" / "results" / "depth000001.png").unlink()
    scene = open_scene("replica", root, "office0", SIX, frame_skip=0)
    assert [item.name for item in scene] == ["000000", "000002", "000003"]
    assert scene.dropped == {"depth missing": 1, "pose missing": 2}


def test_a_scene_that_cannot_be_read_is_refused_with_what_was_looked_for(tmp_path):
    for dataset, wanted in (
        ("replica", "traj.txt"),
        ("scannet", "intrinsic"),
        ("scannetpp", "dslr"),
        ("folder", "intrinsics.txt"),
    ):
        with pytest.raises(RecordingError, match=wanted):
            open_scene(dataset, tmp_path, "nothing", SIX)
    with pytest.raises(ConfigError, match="did you mean 'replica'"):
        open_scene("replika", tmp_path, "x", SIX)
    with pytest.raises(RecordingError, match="does not exist"):
        open_scene("replica", tmp_path / "none", "x", SIX)
    root = world.write_replica(tmp_path / "r")
    (root / "cam_params.json").write_text('{"camera": {"w": 3')
    with pytest.raises(RecordingError, match="cam_params.json is damaged"):
        open_scene("replica", root, "office0", SIX)
    (root / "office0" / "traj.txt").write_text("1 2 3")
    world.write_replica(tmp_path / "s")
    (tmp_path / "s" / "office0" / "traj.txt").write_text("1 2 3")
    with pytest.raises(RecordingError, match="whole number of 4x4"):
        open_scene("replica", tmp_path / "s", "office0", SIX)
    root = world.write_scannetpp(tmp_path / "p", layout="colmap")
    cameras = root / "data" / "00777c41d4" / "dslr" / "colmap" / "cameras.txt"
    cameras.write_text("1 OPENCV_FISHEYE 128 96 80 80 63.5 47.5 0 0 0 0\n")
    with pytest.raises(RecordingError, match="PINHOLE"):
        open_scene("scannetpp", root, "00777c41d4", SIX)


def test_replica_classes_of_another_list_are_refused(tmp_path):
    root = world.write_replica(tmp_path)
    info = root / "semantic_info" / "office_0" / "info_semantic.json"
    info.parent.mkdir(parents=True)
    info.write_text(
        json.dumps({"classes": [{"id": 1, "name": "backpack"}, {"id": 2, "name": "zebra"}]})
    )
    with pytest.raises(RecordingError, match=r"\[2\] differently"):
        open_scene("replica", root, "office0", load_classes("replica101"))


def test_shipped_class_lists():
    sizes = {
        "replica101": 101,
        "nyu40": 40,
        "scannet20": 20,
        "scannet200": 200,
        "scannetpp100": 100,
    }
    for name, size in sizes.items():
        assert len(load_classes(name)) == len(set(load_classes(name).names)) == size
    nyu = load_classes("nyu40")
    assert nyu.ignored == {"otherprop", "otherstructure", "otherfurniture"}
    assert nyu.labels_of(np.array([-1, 0, 1, 40, 41, 10**6])).tolist() == [0, 0, 1, 40, 0, 0]
    assert load_classes("scannetpp100").labels_of(np.array([-100, 0, 99])).tolist() == [0, 1, 100]
    replica = load_classes("replica101")
    assert replica.names[0] == "backpack" and replica.labels_of(np.array([0, 1, 93])).tolist() == [
        0,
        1,
        93,
    ]
    assert replica.names[92] == "wall" and 93 in replica.structural() and 40 in replica.structural()
    with pytest.raises(InputError, match="one of replica101"):
        load_classes("replica51")
    with pytest.raises(InputError, match="has no unicorn"):
        nyu.labels_named(["unicorn"])


def write_ply(path, xyz, label, kind):
    header = f"ply\nformat {kind} 1.0\nelement vertex {len(xyz)}\n"
    header += "property float x\nproperty float y\nproperty float z\n"
    header += "property uchar red\nproperty ushort label\n"
    header += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    order = ">" if "big" in kind else "<"
    rows = np.zeros(
        len(xyz),
        [
            ("x", order + "f4"),
            ("y", order + "f4"),
            ("z", order + "f4"),
            ("red", "u1"),
            ("label", order + "u2"),
        ],
    )
    for i, axis in enumerate("xyz"):
        rows[axis] = xyz[:, i]
    rows["label"] = label
    data = (
        "\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode()
        if kind == "ascii"
        else rows.tobytes()
    )
    path.write_bytes(header.encode() + data)


def test_labelled_points_from_every_kind_of_file(tmp_path):
    import torch

    xyz, label = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), np.arange(50) % 7
    for kind in ("ascii", "binary_little_endian", "binary_big_endian"):
        write_ply(tmp_path / f"{kind}.ply", xyz, label, kind)
    np.savez(tmp_path / "a.npz", points=xyz, label=label)
    torch.save({"xyz": torch.from_numpy(xyz), "labels": torch.from_numpy(label)}, tmp_path / "a.pt")
    torch.save(
        {"vtx_coords": xyz, "vtx_labels": np.stack([label, label * 0 - 100], 1)}, tmp_path / "a.pth"
    )
    for path in sorted(tmp_path.iterdir()):
        found_xyz, found = read_points(path)
        np.testing.assert_allclose(found_xyz, xyz, atol=1e-6, err_msg=path.name)
        assert np.array_equal(found, label), path.name


@pytest.mark.parametrize("name", ["scalar_Label", "semantic_label", "class_id", "Label"])
def test_labels_are_known_by_the_names_that_programs_give_them(tmp_path, name):
    write_ply(tmp_path / "a.ply", np.ones((9, 3)), np.arange(9), "binary_big_endian")
    content = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(content.replace(b"ushort label", f"ushort {name}".encode()))
    assert read_points(tmp_path / "a.ply")[1].tolist() == list(range(9))


def test_points_that_cannot_be_trusted_are_refused(tmp_path):
    import torch

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    torch.save({"xyz": np.zeros((1, 3)), "labels": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="nothing but tensors and arrays"):
        read_points(tmp_path / "evil.pt")
    assert not (tmp_path / "owned").exists()
    np.savez(tmp_path / "short.npz", xyz=np.zeros((3, 3)), labels=np.zeros(2))
    np.savez(tmp_path / "other.npz", xyz=np.zeros((3, 3)), colors=np.zeros(3))
    write_ply(tmp_path / "cut.ply", np.zeros((9, 3)), np.zeros(9), "binary_little_endian")
    (tmp_path / "cut.ply").write_bytes((tmp_path / "cut.ply").read_bytes()[:-20])
    np.savez(tmp_path / "words.npz", xyz=np.zeros((3, 3)), labels=np.array(["a", "b", "c"]))
    whole = (tmp_path / "words.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:200] + b"\xff" * 60 + whole[260:])
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    start = b"ply\nformat ascii 1.0\nelement vertex"
    (tmp_path / "header.ply").write_bytes(start + b"\nproperty float x\nend_header\n1\n")
    (tmp_path / "kind.ply").write_bytes(start + b" 1\nproperty float99 x\nend_header\nabc\n")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:100])
    for name, reason in (
        ("short.npz", "do not fit"),
        ("other.npz", "holds xyz, colors"),
        ("words.npz", "labels must be a vector of whole numbers"),
        ("cut.ply", "truncated"),
        *((f"{name}.npz", "cannot be read") for name in ("cut", "flipped", "array")),
        ("header.ply", "cannot be read"),
        ("kind.ply", "cannot be read"),
        ("cut.pt", "nothing but tensors and arrays"),
    ):
        with pytest.raises(InputError, match=reason):
            read_points(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_points(tmp_path / "none.ply")


def test_ground_truth_from_points(tmp_path):
    xyz = np.array([[0.0, 0, 0], [0.01, 0, 0], [0, 0.02, 0], [0.05, 0, 0], [1, 1, 1]])
    np.savez(tmp_path / "gt.npz", xyz=xyz, labels=[-1, -7, 3, 2, 99])
    gt = from_points(tmp_path / "gt.npz", SIX, 0.05)
    assert gt.index.tolist() == [[0, 0, 0], [1, 0, 0], [20, 20, 20]] and gt.label.tolist() == [
        0,
        2,
        0,
    ]
    assert from_points(tmp_path / "gt.npz", SIX, 0.05, rule="non_ignored").label.tolist() == [
        3,
        2,
        0,
    ]
    assert from_points(tmp_path / "gt.npz", SIX, 0.05, holds="index").label.tolist() == [0, 3, 0]
    np.testing.assert_allclose(gt.xyz, [[0, 0, 0], [0.05, 0, 0], [1, 1, 1]], atol=1e-6)
    np.savez(tmp_path / "none.npz", xyz=xyz, labels=[50] * 5)
    with pytest.raises(InputError, match="none of its 5 points"):
        from_points(tmp_path / "none.npz", SIX, 0.05)


def test_lifted_ground_truth_lies_where_the_map_lies(tmp_path):
    lifter, counts, voxels = LabelLifter(0.05), {}, set()
    for item in open_scene("folder", world.write_folder(tmp_path, 2), "x", SIX):
        item.frame.depth[:3] = np.nan
        item.frame.depth[5, :9] = (0, -1, np.inf, -np.inf, np.nan, 0, 0, 0, 0)
        label = item.label.copy()
        label[::2] = 0
        lifter.add(item.frame, label)
        lifted = lift(item.frame, item.frame.depth.shape, 0.05)
        index, weights = index_of(lifted).tolist(), weights_of(lifted)
        voxels |= set(map(tuple, index))
        for voxel, pixel in weights.nonzero().tolist():
            key = (*index[voxel], int(label.ravel()[pixel]))
            counts[key] = counts.get(key, 0) + round(float(weights[voxel, pixel]))
    for rule in ("majority", "non_ignored"):
        gt = lifter.result(rule)
        assert set(map(tuple, gt.index.tolist())) == voxels
        for index, found in zip(gt.index.tolist(), gt.label.tolist(), strict=True):
            votes = [(counts.get((*index, c), 0), -c) for c in range(7) if rule == "majority" or c]
            best = max(votes)
            assert found == (-best[1] if best[0] else 0)


def test_points_may_hold_class_indices(tmp_path):
    np.savez(tmp_path / "gt.npz", xyz=np.eye(3), labels=[0, 5, 6])
    gt = from_points(tmp_path / "gt.npz", SIX, 0.05, holds="index")
    assert dict(zip(map(tuple, gt.index.tolist()), gt.label.tolist(), strict=True)) == {
        (20, 0, 0): 1,
        (0, 20, 0): 6,
        (0, 0, 20): 0,
    }


@pytest.mark.parametrize(("x", "usable"), [(0, True), (2**20 - 2, True), (2**20 - 1, False)])
@pytest.mark.parametrize("depth", [0.25, 1.0])
def test_votes_of_near_pixels_and_of_those_at_the_edge_of_the_keys(x, usable, depth):
    T = np.eye(4)
    T[:3, 3] = (x, 0, -x)
    image = np.full((1, 1), depth, np.float32)
    frame = Frame(0, np.zeros((1, 1, 3), np.uint8), image, np.eye(3), T)
    lifter = LabelLifter(1.0)
    lifter.add(frame, np.array([[4]]))
    if usable:
        gt = lifter.result()
        assert gt.label.tolist() == [4] and gt.index.tolist() == [[x, 0, round(depth - x)]]
    else:
        with pytest.raises(InputError, match="no voxel has a label"):
            lifter.result()


def test_nearest_resize_takes_the_pixel_under_the_centre():
    image = np.arange(12).reshape(3, 4)
    assert nearest_resize(image, (1, 2)).tolist() == [[5, 7]]
    assert nearest_resize(image, (6, 8)).tolist() == np.kron(image, np.ones((2, 2), int)).tolist()
    assert nearest_resize(image, (3, 4)) is image


def test_a_scene_knows_what_it_read(tmp_path):
    root = world.write_folder(tmp_path / "a", 2)
    scene = open_scene("folder", root, "x", SIX)
    list(scene)
    digest, listing = scene.digest(), scene.listing()
    list(scene)
    assert scene.digest() == digest
    world.save(root / "color" / "000001.png", np.zeros((*world.SIZE, 3), np.uint8))
    list(scene)
    assert scene.digest() != digest and scene.listing() != listing


def test_labels_that_are_no_numbers_are_none_and_large_ones_do_not_wrap(tmp_path):
    labels = np.array([3.0, np.nan, np.inf, -np.inf, 2.0**53 - 1, 1e300])
    np.savez(tmp_path / "a.npz", xyz=np.zeros((6, 3)), labels=labels)
    *found, large = read_points(tmp_path / "a.npz")[1].tolist()
    assert found == [3, -1, -1, -1, 2**53 - 1] and large >= 2**53


def test_a_bag_of_transforms_is_a_scene(tmp_path):
    scene = open_scene("bag", write_tf_bag(tmp_path / "tf"), "tf", SIX)
    x = [item.frame.T_world_camera[0, 3] for item in scene]
    np.testing.assert_allclose(x, [0.5, 0.6, 0.7, 0.8, 0.9], atol=1e-9)
    assert not scene.dropped
