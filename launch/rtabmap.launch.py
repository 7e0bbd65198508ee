# SPDX-License-Identifier: Apache-2.0
"""A RealSense and rtabmap: realsense.launch.py with the poses of rtabmap's odometry.

driver:=true starts the driver, and slam:=true rtabmap without its window. Or beside the driver, as
realsense.launch.py wants it:

    ros2 launch rtabmap_launch rtabmap.launch.py frame_id:=camera_link approx_sync:=false \\
        rgb_topic:=/camera/camera/color/image_raw \\
        camera_info_topic:=/camera/camera/color/camera_info \\
        depth_topic:=/camera/camera/aligned_depth_to_color/image_raw

Odometry is of rtabmap's frame_id; the driver's TF joins the camera to it. With another camera give
its topics to both: here color, depth and camera_info.

After https://github.com/introlab/rtabmap_ros, version 0.22; no camera was at hand.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    ResetLaunchConfigurations,
)
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

ARGUMENTS = {
    "slam": ("false", "start rtabmap as well, without its window"),
    "frame_id": ("camera_link", "with slam: whose odometry it is"),
    "pose": ("/rtabmap/odom", "topic of pose: odometry of rtabmap's frame_id"),
}


def slam(context):
    """Rtabmap, if it is to be started. No argument of ours (namespace) is one of its own."""
    if not IfCondition(LaunchConfiguration("slam")).evaluate(context):
        return []
    frame_id, color, depth, camera_info = (
        LaunchConfiguration(name).perform(context)
        for name in ("frame_id", "color", "depth", "camera_info")
    )
    settings = {
        "frame_id": frame_id,
        "rgb_topic": color,
        "depth_topic": depth,
        "camera_info_topic": camera_info,
        "approx_sync": "false",
        "rtabmap_viz": "false",
    }
    if clock := LaunchConfiguration("use_sim_time").perform(context):
        settings["use_sim_time"] = clock  # it gives its nodes its own, whatever is set around it
    path = [FindPackageShare("rtabmap_launch"), "/launch/rtabmap.launch.py"]
    started = IncludeLaunchDescription(path, launch_arguments=settings.items())
    return [GroupAction([ResetLaunchConfigurations(), started])]


def generate_launch_description():
    """What fits rtabmap, unless something else is given; the rest is realsense.launch.py."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=value, description=about)
                for name, (value, about) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(str(Path(__file__).with_name("realsense.launch.py"))),
            OpaqueFunction(function=slam),  # of the topics that are known now
        ]
    )
