# SPDX-License-Identifier: Apache-2.0
"""A ZED: mapping.launch.py with the topics of zed_wrapper, which tracks itself.

    ros2 launch zed_wrapper zed_camera.launch.py camera_model:=zed2i

Colour is bgra8 and rectified; depth is registered to it, 32FC1 in m; both are in the frame
zed_left_camera_frame_optical. Odometry is of zed_camera_link; the driver's TF joins the two.

After https://github.com/stereolabs/zed-ros2-wrapper, version 5.4 (before 5.1 colour was
rgb/image_rect_color with rgb/camera_info); no camera was at hand.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

CAMERA = LaunchConfiguration("camera")
ARGUMENTS = {
    "camera": ("/zed/zed_node", "/<camera_name>/<node_name> of the driver"),
    "color": ([CAMERA, "/rgb/color/rect/image"], "topic of color"),
    "depth": ([CAMERA, "/depth/depth_registered"], "topic of depth"),
    "camera_info": ([CAMERA, "/rgb/color/rect/camera_info"], "topic of camera_info"),
    "pose": ([CAMERA, "/odom"], "topic of pose: odometry of zed_camera_link"),
}


def generate_launch_description():
    """What fits the driver, unless something else is given; the rest is mapping.launch.py."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=about)
                for name, (value, about) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(str(Path(__file__).with_name("mapping.launch.py"))),
        ]
    )
