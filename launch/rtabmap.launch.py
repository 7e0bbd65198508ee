# SPDX-License-Identifier: Apache-2.0
"""A RealSense and rtabmap: realsense.launch.py with the poses of rtabmap's odometry.

Beside the driver, as realsense.launch.py wants it:

    ros2 launch rtabmap_launch rtabmap.launch.py frame_id:=camera_link approx_sync:=false \\
        rgb_topic:=/camera/camera/color/image_raw \\
        camera_info_topic:=/camera/camera/color/camera_info \\
        depth_topic:=/camera/camera/aligned_depth_to_color/image_raw

Odometry is of rtabmap's frame_id; the driver's TF joins the camera to it. With another camera give
its topics to both: here color, depth and camera_info.

After https://github.com/introlab/rtabmap_ros, version 0.22; no camera was at hand.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription

from launch import LaunchDescription

ARGUMENTS = {"pose": ("/rtabmap/odom", "topic of pose: odometry of rtabmap's frame_id")}


def generate_launch_description():
    """What fits rtabmap, unless something else is given; the rest is realsense.launch.py."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=about)
                for name, (value, about) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(str(Path(__file__).with_name("realsense.launch.py"))),
        ]
    )
