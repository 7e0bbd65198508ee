# SPDX-License-Identifier: Apache-2.0
"""The mapping node: ros2 launch radseg_ros mapping.launch.py encoder:=lite color:=/color/image ...

`-s` lists the arguments. An argument that is not given changes nothing: the parameter file, the
launch files around this one (SetParameter, PushRosNamespace) and the node's defaults decide.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from radseg_ros.config import SWITCH, Config, options_of, parse_value
from radseg_ros.ros.paths import share_file

TOPICS = {
    "color": "color/image",
    "depth": "depth/image",
    "camera_info": "depth/camera_info",
    "pose": "pose",
    "trajectory": "trajectory",
}
# topics of config/mapping.rviz
SHOWN = ("rgb_cloud", "semantic_cloud", "query_cloud", "objects", "grid", "label_grid")
SUFFIXES = {  # of the topics with compressed images
    "color/image": "/compressed",
    "depth/image": "/compressedDepth",
}
PARAMETERS = {  # argument -> parameter, whose meaning and choices it has
    "encoder": "encoder",
    "cameras": "node.cameras",
    "robots": "node.robots",
    "robot_origins": "node.robot_origins",
    "pose_source": "node.pose_source",
    "pose_type": "node.pose_type",
    "image_transport": "node.image_transport",
    "depth_image_transport": "node.depth_image_transport",
    "camera_offset": "node.camera_offset",
    "rectify": "node.rectify",
    "map_frame": "node.map_frame",
    "map_directory": "node.map_directory",
    "load_map": "map.load",
    "frame_is_persistent": "map.frame_is_persistent",
    "autosave": "map.autosave",
    "journal": "journal.directory",
    "body_frame": "correct.body_frame",
}
ARGUMENTS = {
    **{
        name: (topic, f"topic of {name}; with robots or cameras, below the namespace of each")
        for name, topic in TOPICS.items()
    },  # fmt: skip
    "pose": (TOPICS["pose"], "topic of pose; with robots, below the namespace of each"),
    "trajectory": (
        TOPICS["trajectory"],
        "topic of corrected poses (nav_msgs/Path); with robots, below the namespace of each",
    ),
    "tf": (
        "/tf",
        "topic of transforms, and of static ones (NAME_static); tf = as Nav2's namespace",
    ),
    "params_file": ("", "parameter file (config/mapping.yaml lists them all)"),
    "namespace": ("", "namespace of the node, below that of the launch file around this one"),
    "node_name": ("radseg_mapping", "name of the node, in front of its services and clouds"),
    "use_sim_time": ("", "take the time from /clock"),
    "log_level": ("", "debug, info, warn, error or fatal"),
    "rviz": ("false", "show clouds, things and floor plans in RViz"),
    "respawn": ("false", "start the node again when it has ended by itself"),
    "respawn_delay": ("5.0", "s until it is started again"),
    "stop_timeout": (
        "60.0",
        "s that the node gets to finish the frame in hand, and then to save the map",
    ),
}
OPTIONS = options_of(Config)


def declare(name, default, description, choices=()):
    """One argument; empty means that it is not given."""
    choices = ["", *filter(None, choices)] if choices else None
    return DeclareLaunchArgument(
        name, default_value=default, description=description, choices=choices
    )


def typed(name, text):
    """A parameter from the text of an argument."""
    value = parse_value(text, OPTIONS[name].kind)
    return ParameterValue(value, value_type=str) if isinstance(value, str) else value


def switch(name, text):
    """True or False.

    Raises:
        ValueError: another word.
    """
    if text.lower() not in SWITCH:
        raise ValueError(f"{name}:={text} is neither true nor false")
    return SWITCH[text.lower()]


def start(context):
    """The nodes, once the arguments are known."""
    names = (*ARGUMENTS, *PARAMETERS)
    given = {name: LaunchConfiguration(name).perform(context) for name in names}
    parameters = []
    if given["params_file"]:
        path = Path(given["params_file"]).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"params_file: there is no file {path}")
        parameters.append(str(path))
    parameters += [{p: typed(p, given[name])} for name, p in PARAMETERS.items() if given[name]]
    if given["use_sim_time"]:
        parameters.append({"use_sim_time": switch("use_sim_time", given["use_sim_time"])})
    remappings = [*transforms(given), *remapped(given)]
    node = Node(
        package="radseg_ros",
        executable="radseg_mapping",
        name=given["node_name"],
        namespace=given["namespace"],
        parameters=parameters,
        remappings=remappings,
        ros_arguments=["--log-level", given["log_level"]] if given["log_level"] else [],
        respawn=switch("respawn", given["respawn"]),
        respawn_delay=float(given["respawn_delay"]),
        sigterm_timeout=given["stop_timeout"],
        sigkill_timeout=given["stop_timeout"],
        output="screen",
        emulate_tty=True,
    )
    return [node, rviz(given)] if switch("rviz", given["rviz"]) else [node]


def transforms(given):
    """Pairs of the topics of transforms and those that are given in their place."""
    tf = given["tf"]
    return [] if tf == "/tf" else [("/tf", tf), ("/tf_static", f"{tf}_static")]


def remapped(given):
    """Pairs of the node's topics and those that are given in their place, of each camera or robot.

    Raises:
        ValueError: a topic that can be of one camera only is given for several.
    """
    robots, names = (
        [f"{name}/" for name in parse_value(given[each], OPTIONS[f"node.{each}"].kind)] or [""]
        for each in ("robots", "cameras")
    )
    cameras = [robot + name for robot in robots for name in names]
    below_of = {"pose": ("robot", robots), "trajectory": ("robot", robots)}
    for name, topic in TOPICS.items():
        if given[name] == topic:
            continue
        what, below = below_of.get(name, ("camera", cameras))
        for outer in below:
            if outer and given[name].startswith("/"):
                raise ValueError(
                    f"{name}:={given[name]} is of one {what}: with several, topics are named below "
                    "the namespace of each, without / in front"
                )
            for suffix in ("", *filter(None, [SUFFIXES.get(topic)])):
                yield outer + topic + suffix, outer + given[name] + suffix


def rviz(given):
    """RViz with what the node publishes."""
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=given["namespace"],
        arguments=["-d", str(share_file("config/mapping.rviz")), "-f", given["map_frame"] or "map"],
        remappings=[
            *transforms(given),
            *((name, f"{given['node_name']}/{name}") for name in SHOWN),
        ],
        output="log",
    )


def generate_launch_description():
    """Arguments first, so that `ros2 launch -s` describes them."""
    declared = [declare(name, *about) for name, about in ARGUMENTS.items()]
    declared += [
        declare(name, "", f"{OPTIONS[p].doc} (parameter {p})", OPTIONS[p].choices)
        for name, p in PARAMETERS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
