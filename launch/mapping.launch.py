# SPDX-License-Identifier: Apache-2.0
"""ros2 launch radseg_ros mapping.launch.py encoder:=lite color:=/camera/color/image_raw ...

(-s lists the arguments).
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from radseg_ros.ros.paths import share_file
from radseg_ros.ros.transport import profile_environment

TOPICS = {
    "color": "color/image",
    "depth": "depth/image",
    "camera_info": "depth/camera_info",
    "pose": "pose",
}
SUFFIXES = {
    "color/image": "/compressed",
    "depth/image": "/compressedDepth",
}  # with node.image_transport compressed

ARGUMENTS = {
    "params_file": (
        "",
        "parameter file; empty = the installed config/mapping.yaml, which holds the defaults",
    ),
    "encoder": ("", "radseg, or lite (needs no weights); empty = what the parameter file says"),
    "namespace": ("", "namespace of the node"),
    "use_sim_time": ("false", "take the time from /clock"),
    **{name: (topic, f"topic of {name}") for name, topic in TOPICS.items()},
}


def start(context):
    """The node, once the arguments are known."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides = {"use_sim_time": value["use_sim_time"].lower() == "true"}
    if value["encoder"]:
        overrides["encoder"] = value["encoder"]
    remappings = [(topic, value[name]) for name, topic in TOPICS.items() if value[name] != topic]
    remappings += [
        (topic + SUFFIXES[topic], name + SUFFIXES[topic])
        for topic, name in remappings
        if topic in SUFFIXES
    ]
    return [
        Node(
            package="radseg_ros",
            executable="radseg_mapping",
            name="radseg_mapping",
            namespace=value["namespace"],
            parameters=[value["params_file"] or str(share_file("config/mapping.yaml")), overrides],
            remappings=remappings,
            additional_env=profile_environment(),  # images need a larger shared-memory segment
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description():
    """Arguments first, so that `ros2 launch -s` describes them."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=doc)
        for name, (default, doc) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
