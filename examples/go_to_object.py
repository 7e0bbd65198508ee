# SPDX-License-Identifier: Apache-2.0
"""Drive to a thing: ask the map for it, take the best, and send Nav2 to a place that faces it.

    python examples/go_to_object.py "fire extinguisher" --distance 1.0

The node must be running, and know the floor around the thing (grid.floor). Where nav2_msgs is not
installed, or with --print, the goal is printed instead of sent. Of a robot in a namespace:

    ... --node /tb1/radseg_mapping --ros-args -r navigate_to_pose:=/tb1/navigate_to_pose
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.utilities import remove_ros_args

from radseg_interfaces.srv import QueryText
from radseg_ros.command import run_command
from radseg_ros.ros.client import NODE, MapClient, NoAnswer


def find_goal(client: MapClient, label: str, distance: float, frame: str) -> PoseStamped:
    """A pose on known floor that faces the best thing of that name.

    Raises:
        NoAnswer: nothing like it is there, or no place is known from which it can be seen.
    """
    request = {"labels": [label], "viewpoint_distance": distance, "frame_id": frame}
    response = client.call(QueryText, "query", **request)
    things = [thing for thing in response.answers[0].objects if not thing.missing]
    if not things:
        best = response.answers[0].best_score
        raise NoAnswer(f"there is no {label} in the map (best score {best:.2f})")
    for thing in things:  # best first
        if thing.has_viewpoint:
            place = thing.centre
            print(
                f"{label}: score {thing.score:.2f} at {place.x:.2f} {place.y:.2f} {place.z:.2f} m"
            )
            return PoseStamped(header=response.header, pose=thing.viewpoint)
    raise NoAnswer(f"no free floor is known from which {label} can be seen: {len(things)} found")


def send(client: MapClient, goal: PoseStamped, timeout: float) -> bool:
    """Let Nav2 drive there; whether it arrived.

    Raises:
        NoAnswer: Nav2 is not running, or refuses the goal.
    """
    import rclpy

    action = importlib.import_module("nav2_msgs.action").NavigateToPose
    navigator = ActionClient(client.node, action, "navigate_to_pose")
    if not navigator.wait_for_server(timeout):
        raise NoAnswer(f"no action navigate_to_pose after {timeout:g} s; is Nav2 running?")
    goal.header.stamp = Time()  # the newest transform, whatever clock Nav2 goes by
    sent = navigator.send_goal_async(action.Goal(pose=goal))
    rclpy.spin_until_future_complete(client.node, sent, timeout_sec=timeout)
    handle: Any = sent.result()
    if handle is None or not handle.accepted:
        raise NoAnswer("Nav2 did not accept the goal")
    done, begun = handle.get_result_async(), time.monotonic()
    rclpy.spin_until_future_complete(client.node, done)
    arrived = done.result().status == 4  # action_msgs/GoalStatus.STATUS_SUCCEEDED
    print(f"{'arrived' if arrived else 'gave up'} after {time.monotonic() - begun:.0f} s")
    return arrived


def shown(goal: PoseStamped) -> str:
    """The goal as YAML, for `ros2 action send_goal`."""
    place, turn = goal.pose.position, goal.pose.orientation
    return (
        f"pose: {{header: {{frame_id: {goal.header.frame_id}}}, "
        f"pose: {{position: {{x: {place.x:.3f}, y: {place.y:.3f}, z: {place.z:.3f}}}, "
        f"orientation: {{z: {turn.z:.4f}, w: {turn.w:.4f}}}}}}}"
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("label", help="name of a thing")
    parser.add_argument("--distance", type=float, default=1.0, help="m from it (default: 1)")
    parser.add_argument("--frame", default="", help="of the goal (default: the map's)")
    parser.add_argument("--node", default=NODE)
    parser.add_argument("--timeout", type=float, default=10.0, help="s to wait for others")
    parser.add_argument("--print", dest="only_print", action="store_true", help="do not drive")
    options = parser.parse_args(remove_ros_args(sys.argv)[1:])

    def go() -> int:
        with MapClient(options.node, options.timeout) as client:
            goal = find_goal(client, options.label, options.distance, options.frame)
            if not options.only_print and importlib.util.find_spec("nav2_msgs"):
                return int(not send(client, goal, options.timeout))
        print(shown(goal))
        return 0

    return run_command("go_to_object", go)


if __name__ == "__main__":
    sys.exit(main())
