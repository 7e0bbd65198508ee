# SPDX-License-Identifier: Apache-2.0
"""Draws what a running node publishes to be looked at, where there is no RViz.

    python scripts/draw_markers.py OUT.png [--node /radseg_mapping]

Left: ~/objects over ~/rgb_cloud; right: ~/grid, with ~/label_grid over it if it is published.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import OccupancyGrid
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from radseg_ros.answers.packed import POINT  # noqa: E402
from radseg_ros.ros.client import NODE  # noqa: E402
from radseg_ros.ros.outputs.latched import LATCHED  # noqa: E402

TOPICS = {
    "objects": MarkerArray,
    "rgb_cloud": PointCloud2,
    "grid": OccupancyGrid,
    "label_grid": OccupancyGrid,
}
MOST = 20_000  # points that are drawn


def listen(name: str, seconds: float) -> dict[str, Any]:
    """The last message of each topic."""
    rclpy.init()
    node, got = rclpy.create_node("draw_markers"), {}
    for topic, type_ in TOPICS.items():
        node.create_subscription(
            type_, f"{name}/{topic}", lambda m, topic=topic: got.update({topic: m}), LATCHED
        )
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()
    return got


def draw_objects(axes: Any, markers: list[Marker]) -> None:
    """Boxes by their edges, names above them."""
    signs = np.array([*itertools.product((-0.5, 0.5), repeat=3)])
    edges = [(a, b) for a, b in itertools.combinations(range(8), 2)
             if np.abs(signs[a] - signs[b]).sum() == 1]  # fmt: skip
    for marker in markers:
        color = (marker.color.r, marker.color.g, marker.color.b)
        p, q, scale = marker.pose.position, marker.pose.orientation, marker.scale
        if marker.type == Marker.CUBE:
            turn = Rotation.from_quat([q.x, q.y, q.z, q.w])
            ends = turn.apply(signs * (scale.x, scale.y, scale.z)) + (p.x, p.y, p.z)
            for a, b in edges:
                width = 2 if marker.color.a > 0.2 else 1
                axes.plot(*ends[[a, b]].T, color=color, linewidth=width)
        elif marker.type == Marker.TEXT_VIEW_FACING:
            axes.text(p.x, p.y, p.z, marker.text, color=color, fontsize=8, ha="center")


def draw_cloud(axes: Any, cloud: PointCloud2) -> None:
    """Some of its points."""
    points = np.frombuffer(cloud.data, POINT)
    axes.set(xlabel="x, m", ylabel="y, m", zlabel="z, m")
    if not len(points):
        return
    points = points[:: max(1, len(points) // MOST)]
    rgb = np.stack([points["rgb"] >> shift & 255 for shift in (16, 8, 0)], 1) / 255
    axes.scatter(points["x"], points["y"], points["z"], c=rgb, s=1)
    sides = [np.ptp(points[axis]) for axis in "xyz"]
    axes.set_box_aspect(np.maximum(sides, 0.1))


def draw_grid(axes: Any, grid: OccupancyGrid, label: OccupancyGrid | None) -> None:
    """Free white, occupied black, unknown grey; a label in colour."""
    axes.set_title("white free, black occupied, grey unknown")
    for message, shown in ((grid, "gray_r"), (label, "viridis")):
        if message is None:
            continue
        info = message.info
        data = np.reshape(message.data, (info.height, info.width)).astype(float)
        data[data < (0 if message is grid else 1)] = np.nan
        x, y, size = info.origin.position.x, info.origin.position.y, info.resolution
        extent = (x, x + info.width * size, y, y + info.height * size)
        axes.imshow(data, shown, origin="lower", extent=extent, vmin=0, vmax=100)
    axes.set_facecolor("0.75")
    axes.set_xlabel("x, m")
    axes.set_ylabel("y, m")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--node", default=NODE)
    parser.add_argument("--seconds", type=float, default=5.0, help="to listen")
    options = parser.parse_args()
    got = listen(options.node, options.seconds)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(16, 8), layout="constrained")
    space = figure.add_subplot(1, 2, 1, projection="3d")
    if "rgb_cloud" in got:
        draw_cloud(space, got["rgb_cloud"])
    if "objects" in got:
        draw_objects(space, got["objects"].markers)
    if "grid" in got:
        draw_grid(figure.add_subplot(1, 2, 2), got["grid"], got.get("label_grid"))
    space.view_init(elev=45, azim=-120)
    figure.savefig(options.out, dpi=100)
    print(f"{options.out}: {', '.join(got) or 'nothing was published'}")


if __name__ == "__main__":
    main()
