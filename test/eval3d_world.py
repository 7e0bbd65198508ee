# SPDX-License-Identifier: Apache-2.0
"""A room of known shape, colours and labels, in every layout that the evaluator reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from color_encoder import COLORS
from PIL import Image

LOW, HIGH = np.array([-1.6, -1.2, -0.9]), np.array([1.6, 1.2, 2.4])  # m; the cameras are inside
# x low, x high, y low, ...: label i + 1 is face i
FACES = ("red", "green", "blue", "yellow", "magenta", "cyan")
SIZE = (48, 64)
K = np.array([[40.0, 0, 31.5], [0, 40, 23.5], [0, 0, 1]])
FRAMES = 6


def pose_of(i: int) -> np.ndarray:
    """Camera-to-world; every other camera looks to the side."""
    angle = (0.0, 0.5, -0.6, 0.9, -1.1, 0.2)[i % 6]
    T = np.eye(4)
    T[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    T[:3, 3] = (0.1 * i - 0.25, 0.05 * i, 0.02 * i)
    return T


def render(
    T: np.ndarray, size: tuple[int, int] = SIZE, matrix: np.ndarray = K
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """rgb (h, w, 3) uint8, depth (h, w) metres, label (h, w) 1..6 of the room seen from ``T``."""
    v, u = np.mgrid[: size[0], : size[1]]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(matrix).T @ T[:3, :3].T
    with np.errstate(divide="ignore"):
        hits = np.stack([LOW - T[:3, 3], HIGH - T[:3, 3]], -1) / rays[..., None]
    hits = np.where(hits > 0, hits, np.inf).reshape(*size, 6)
    label = hits.argmin(-1) + 1
    colors = np.array([COLORS[name] for name in FACES]) * 255
    return colors[label - 1].astype(np.uint8), hits.min(-1), label


def points(frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) points of the room that the cameras see, and their labels 1..6."""
    xyz, labels = [], []
    for i in range(frames):
        T = pose_of(i)
        _, depth, label = render(T)
        v, u = np.mgrid[: SIZE[0], : SIZE[1]]
        camera = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T * depth[..., None]
        xyz.append((camera @ T[:3, :3].T + T[:3, 3]).reshape(-1, 3))
        labels.append(label.ravel())
    return np.concatenate(xyz), np.concatenate(labels)


def write_classes(path: Path, first_id: int = 1) -> Path:
    """The six classes as a file; their ids start at ``first_id``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{first_id + i}\t{name} wall\n" for i, name in enumerate(FACES)))
    return path


def save(path: Path, array: np.ndarray) -> None:
    """An image file, in the type of the array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=95) if path.suffix == ".jpg" else Image.fromarray(
        array
    ).save(path)


def millimetres(depth: np.ndarray) -> np.ndarray:
    """As 16-bit images hold it."""
    return np.round(depth * 1000).astype(np.uint16)


def write_replica(root: Path, scene: str = "office0") -> Path:
    """NICE-SLAM export; the ground truth holds class ids 11, 12, ..."""
    scale = 6553.5
    camera = {
        "w": SIZE[1],
        "h": SIZE[0],
        "fx": K[0, 0],
        "fy": K[1, 1],
        "cx": K[0, 2],
        "cy": K[1, 2],
        "scale": scale,
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "cam_params.json").write_text(json.dumps({"camera": camera}))
    for i in range(FRAMES):
        rgb, depth, _ = render(pose_of(i))
        save(root / scene / "results" / f"frame{i:06d}.jpg", rgb)
        save(
            root / scene / "results" / f"depth{i:06d}.png",
            np.round(depth * scale).astype(np.uint16),
        )
    np.savetxt(root / scene / "traj.txt", [pose_of(i).ravel() for i in range(FRAMES)])
    xyz, label = points()
    (root / "ground_truth").mkdir()
    np.savez(
        root / "ground_truth" / f"{scene}.npz", xyz=xyz, labels=np.where(label == 6, -1, label + 10)
    )
    return root


def write_semantic_nerf(root: Path, scene: str = "office_0") -> Path:
    """Semantic-NeRF export: 640x480, with label images."""
    folder = root / scene / "Sequence_1"
    matrix = np.array([[320.0, 0, 320], [0, 320, 240], [0, 0, 1]])
    for i in range(2):
        rgb, depth, label = render(pose_of(i), (480, 640), matrix)
        save(folder / "rgb" / f"rgb_{i}.png", rgb)
        save(folder / "depth" / f"depth_{i}.png", millimetres(depth))
        save(folder / "semantic_class" / f"semantic_class_{i}.png", label.astype(np.uint8))
        save(folder / "semantic_class" / f"vis_sem_class_{i}.png", rgb)
    np.savetxt(folder / "traj_w_c.txt", [pose_of(i).ravel() for i in range(2)])
    return root


# face -> raw id: wall, floor, cabinet, chair, object, window
SCANNET_IDS = {1: 1, 2: 3, 3: 7, 4: 2, 5: 1163, 6: 16}


def write_scannet(root: Path, scene: str = "scene0011_00") -> Path:
    """Colour is twice as large as depth; the pose of frame 3 is lost."""
    folder = root / scene
    (folder / "pose").mkdir(parents=True)
    (folder / "intrinsic").mkdir()
    np.savetxt(
        folder / "intrinsic" / "intrinsic_depth.txt",
        np.block([[K, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]),
    )
    for i in range(FRAMES):
        rgb, depth, label = render(pose_of(i))
        save(folder / "color" / f"{i}.jpg", np.kron(rgb, np.ones((2, 2, 1), np.uint8)))
        save(folder / "depth" / f"{i}.png", millimetres(depth))
        raw = np.vectorize(SCANNET_IDS.get)(label).astype(np.uint16)
        save(folder / "label-filt" / f"{i}.png", np.kron(raw, np.ones((2, 2), np.uint16)))
        np.savetxt(folder / "pose" / f"{i}.txt", np.full((4, 4), -np.inf) if i == 3 else pose_of(i))
    return root


def write_scannetpp(root: Path, scene: str = "00777c41d4", layout: str = "nerfstudio") -> Path:
    """nerfstudio or colmap camera files.

    The ground truth is a .pth file of numpy arrays with 0-based labels.
    """
    import torch

    dslr = root / "data" / scene / "dslr"
    frames, lines = [], []
    for i in range(FRAMES):
        rgb, depth, _ = render(pose_of(i))
        save(dslr / "undistorted_images" / f"DSC{i:05d}.JPG", rgb)
        save(dslr / "render_depth" / f"DSC{i:05d}.png", millimetres(depth))
        pose = pose_of(i)
        opengl = pose @ np.diag([1.0, -1, -1, 1])
        # x and y swapped, z upside down
        nerfstudio = np.stack([opengl[1], opengl[0], -opengl[2], opengl[3]])
        frames.append({"file_path": f"DSC{i:05d}.JPG", "transform_matrix": nerfstudio.tolist()})
        inverse = np.linalg.inv(pose)
        angle = np.arctan2(inverse[0, 2], inverse[0, 0])
        quaternion = (np.cos(angle / 2), 0.0, np.sin(angle / 2), 0.0)  # w x y z of a turn about y
        numbers = " ".join(repr(float(v)) for v in (*quaternion, *inverse[:3, 3]))
        lines.append(f"{i + 1} {numbers} 1 DSC{i:05d}.JPG\n1.0 2.0 -1\n")
    if layout == "nerfstudio":
        data = {
            "fl_x": K[0, 0],
            "fl_y": K[1, 1],
            "cx": K[0, 2],
            "cy": K[1, 2],
            "w": SIZE[1],
            "h": SIZE[0],
            "frames": frames[:-1],
            "test_frames": frames[-1:],
        }
        (dslr / "nerfstudio").mkdir()
        (dslr / "nerfstudio" / "transforms_undistorted.json").write_text(json.dumps(data))
    else:
        (dslr / "colmap").mkdir()
        (dslr / "colmap" / "cameras.txt").write_text(
            f"# a comment\n1 PINHOLE {SIZE[1]} {SIZE[0]} {K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}\n"
        )
        (dslr / "colmap" / "images.txt").write_text("# a comment\n" + "".join(lines))
    xyz, label = points()
    (root / "ground_truth").mkdir()
    torch.save(
        {"vtx_coords": xyz, "vtx_labels": np.where(label == 6, -100, label - 1)},
        root / "ground_truth" / f"{scene}.pth",
    )
    return root


def write_folder(root: Path, frames: int = FRAMES) -> Path:
    """color/ depth/ pose/ label/ intrinsics.txt meta.json."""
    (root / "pose").mkdir(parents=True)
    np.savetxt(root / "intrinsics.txt", K)
    (root / "meta.json").write_text(
        json.dumps({"classes": {str(i + 1): f"{name} wall" for i, name in enumerate(FACES)}})
    )
    for i in range(frames):
        rgb, depth, label = render(pose_of(i))
        save(root / "color" / f"{i:06d}.png", rgb)
        save(root / "depth" / f"{i:06d}.png", millimetres(depth))
        save(root / "label" / f"{i:06d}.png", label.astype(np.uint8))
        np.savetxt(root / "pose" / f"{i:06d}.txt", pose_of(i))
    return root


def write_bag(path: Path, frames: int = FRAMES) -> Path:
    """A rosbag2 at 10 Hz; frame 2 has no depth image and is dropped."""
    from recordings import BagWriter
    from rosbags.rosbag2 import StoragePlugin
    from scipy.spatial.transform import Rotation

    with BagWriter(path, StoragePlugin.MCAP) as bag:
        for i in range(frames):
            ns = 1_000_000_000 + i * 100_000_000
            rgb, depth, _ = render(pose_of(i))
            T = pose_of(i)
            x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat().tolist()
            position = bag.message(
                "geometry_msgs/msg/Point", x=float(T[0, 3]), y=float(T[1, 3]), z=float(T[2, 3])
            )
            pose = bag.message(
                "geometry_msgs/msg/Pose",
                position=position,
                orientation=bag.message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
            )
            bag.write(
                "/pose",
                bag.message(
                    "geometry_msgs/msg/PoseStamped", header=bag.header(ns, "map"), pose=pose
                ),
                ns,
            )
            bag.info("/depth/camera_info", ns, K, SIZE)
            bag.image("/color/image", ns, rgb, "rgb8")
            if i != 2:
                bag.image("/depth/image", ns, millimetres(depth), "16UC1")
    return path
