# SPDX-License-Identifier: Apache-2.0
"""A RealSense: mapping.launch.py with the topics of realsense2_camera.

The driver must align depth with colour, and should pair the two; driver:=true starts it so:

    ros2 launch realsense2_camera rs_launch.py align_depth.enable:=true enable_sync:=true

Colour is rgb8 and depth 16UC1 in mm, both in the frame camera_color_optical_frame. Poses come from
somebody else: TF, pose:=TOPIC, or rtabmap.launch.py.

After https://github.com/IntelRealSense/realsense-ros, version 4.55; no camera was at hand.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    ResetLaunchConfigurations,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription
from radseg_ros.ros.paths import share_file
from radseg_ros.ros.transport import profile_variable

CAMERA = LaunchConfiguration("camera")
ARGUMENTS = {
    "driver": ("false", "start the driver as well"),
    "camera": ("/camera/camera", "/<camera_namespace>/<camera_name> of the driver"),
    "color": ([CAMERA, "/color/image_raw"], "topic of color"),
    "depth": ([CAMERA, "/aligned_depth_to_color/image_raw"], "topic of depth"),
    "camera_info": ([CAMERA, "/aligned_depth_to_color/camera_info"], "topic of camera_info"),
}


def driver(context):
    """The driver, if it is to be started. No argument of ours (log_level) is one of its own."""
    if not IfCondition(LaunchConfiguration("driver")).evaluate(context):
        return []
    namespace, _, name = CAMERA.perform(context).strip("/").rpartition("/")
    settings = {
        "camera_namespace": namespace,
        "camera_name": name,
        "align_depth.enable": "true",
        "enable_sync": "true",
    }
    path = [FindPackageShare("realsense2_camera"), "/launch/rs_launch.py"]
    started = IncludeLaunchDescription(path, launch_arguments=settings.items())
    variable = profile_variable()  # else its images are larger than what Fast DDS shares
    given = context.environment.get(variable, str(share_file("config/fastdds.xml")))
    shares = SetEnvironmentVariable(variable, given)
    return [GroupAction([ResetLaunchConfigurations(), shares, started])]


def generate_launch_description():
    """What fits the driver, unless something else is given; the rest is mapping.launch.py."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=about)
                for name, (value, about) in ARGUMENTS.items()
            ),
            OpaqueFunction(function=driver),
            IncludeLaunchDescription(str(Path(__file__).with_name("mapping.launch.py"))),
        ]
    )
