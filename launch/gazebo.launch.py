# SPDX-License-Identifier: Apache-2.0
"""Gazebo: mapping.launch.py with the topics of an rgbd_camera sensor, and the simulator's time.

Bridge the sensor and the clock:

    ros2 run ros_gz_bridge parameter_bridge /clock@rosgraph_msgs/msg/Clock[gz.msgs.Clock \\
        /odom@nav_msgs/msg/Odometry[gz.msgs.Odometry \\
        /rgbd_camera/image@sensor_msgs/msg/Image[gz.msgs.Image \\
        /rgbd_camera/depth_image@sensor_msgs/msg/Image[gz.msgs.Image \\
        /rgbd_camera/camera_info@sensor_msgs/msg/CameraInfo[gz.msgs.CameraInfo

Colour is rgb8, depth 32FC1 in m. Images are in the frame of the sensor's link, whose x is forward,
unless the sensor has an <optical_frame_id> (https://github.com/gazebosim/gz-sensors/pull/461).

After https://github.com/gazebosim/ros_gz; no simulator was at hand.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

CAMERA = LaunchConfiguration("camera")
ARGUMENTS = {
    "camera": ("/rgbd_camera", "<topic> of the sensor"),
    "color": ([CAMERA, "/image"], "topic of color"),
    "depth": ([CAMERA, "/depth_image"], "topic of depth"),
    "camera_info": ([CAMERA, "/camera_info"], "topic of camera_info"),
    "use_sim_time": ("true", "take the time from /clock"),
}


def generate_launch_description():
    """What fits the simulator, unless something else is given; the rest is mapping.launch.py."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=about)
                for name, (value, about) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(str(Path(__file__).with_name("mapping.launch.py"))),
        ]
    )
