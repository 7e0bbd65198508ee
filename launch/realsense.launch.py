# SPDX-License-Identifier: Apache-2.0
"""A RealSense: mapping.launch.py with the topics of realsense2_camera.

The driver must align depth with colour, and should pair the two:

    ros2 launch realsense2_camera rs_launch.py align_depth.enable:=true enable_sync:=true

Colour is rgb8 and depth 16UC1 in mm, both in the frame camera_color_optical_frame. Poses come from
somebody else: TF, pose:=TOPIC, or rtabmap.launch.py.

After https://github.com/IntelRealSense/realsense-ros, version 4.55; no camera was at hand.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

CAMERA = LaunchConfiguration("camera")
ARGUMENTS = {
    "camera": ("/camera/camera", "/<camera_namespace>/<camera_name> of the driver"),
    "color": ([CAMERA, "/color/image_raw"], "topic of color"),
    "depth": ([CAMERA, "/aligned_depth_to_color/image_raw"], "topic of depth"),
    "camera_info": ([CAMERA, "/aligned_depth_to_color/camera_info"], "topic of camera_info"),
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
