# SPDX-License-Identifier: Apache-2.0
"""The map as tools of a language agent, over the Model Context Protocol (MCP).

    pip install 'radseg_ros[agent]'
    python examples/agent_tools.py                # speaks MCP on its standard input and output

The node must be running. An agent can look and changes nothing; with --allow-save it can also save
the map. For a program that is configured with a file:

    {"mcpServers": {"map": {"command": "python", "args": ["/path/to/examples/agent_tools.py"]}}}
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from geometry_msgs.msg import Point, PointStamped
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from radseg_interfaces.msg import VoxelFilter
from radseg_interfaces.srv import QueryPoint, QueryText, SaveMap
from radseg_ros.ros.client import NODE, MapClient, NoAnswer, as_dict

ABOUT = (
    "A robot's map of what its camera has seen. Ask it for things by name. Places are x, y, z in "
    "metres in the frame of the map, z is up. Scores are 0 to 1. What is not found may be there, "
    "where the robot has not looked."
)

LOOKS = ToolAnnotations(read_only_hint=True)


class Map:
    """One connection to the node, shared by all tools; one question at a time."""

    def __init__(self, node: str, timeout: float) -> None:
        self._client = MapClient(node, timeout)
        self._turn = threading.Lock()

    @contextmanager
    def client(self) -> Iterator[MapClient]:
        """The connection, made when it is wanted first."""
        with self._turn:
            if self._client.node is None:
                self._client.__enter__()
            try:
                yield self._client
            except NoAnswer as error:  # what other errors say is not told to agents
                raise ToolError(str(error)) from error

    def find(self, labels: list[str], **request: Any) -> dict[str, Any]:
        """Answers, by label."""
        with self.client() as client:
            result = as_dict(client.call(QueryText, "query", labels=labels, **request))
        return {
            "frame": result["frame_id"],
            "answers": {each["label"]: _brief(each) for each in result["answers"]},
        }


def _brief(answer: dict[str, Any]) -> dict[str, Any]:
    """What an agent needs of an answer."""
    things = [
        {
            "id": thing["id"],
            "place": thing["centre"],
            "size": thing["size"],
            "score": thing["score"],
            "last_seen": thing["last_seen"],
            "missing": bool(thing["missing_since"]),
            "stand_at": thing["viewpoint"],
        }
        for thing in answer["objects"]
    ]
    return {"found": answer["found"], "best_score": answer["best_score"], "things": things}


def make_server(node: str, timeout: float, allow_save: bool) -> MCPServer:
    """The tools."""
    server, world = MCPServer("radseg_ros", instructions=ABOUT), Map(node, timeout)

    @server.tool(annotations=LOOKS)
    def find(
        name: str, near: list[float] | None = None, radius: float = 0.0, at_most: int = 5
    ) -> dict[str, Any]:
        """Where things of a name are, best first; "not found" is an answer.

        Args:
            name: of the thing, e.g. "fire extinguisher".
            near: x, y, z in metres; only things within radius metres of it.
            radius: metres.
            at_most: so many things.
        """
        x, y, z = near or (0.0, 0.0, 0.0)
        where = VoxelFilter(centre=Point(x=float(x), y=float(y), z=float(z)), radius=float(radius))
        request = {"where": where, "max_objects": at_most, "viewpoint_distance": 1.0}
        return world.find([name], **request)

    @server.tool(annotations=LOOKS)
    def what_is_here(
        x: float, y: float, z: float, names: list[str], radius: float = 0.15
    ) -> dict[str, Any]:
        """How probable each of some names is for what is at a place.

        Args:
            x, y, z: metres.
            names: what it may be; empty = the labels that the node was given.
            radius: metres around the place.
        """
        point = PointStamped(point=Point(x=float(x), y=float(y), z=float(z)))
        with world.client() as client:
            request = {"point": point, "labels": names, "radius": float(radius)}
            found = client.call(QueryPoint, "query_point", **request)
        probabilities = dict(zip(found.labels, found.probabilities, strict=True))
        return {"probabilities": probabilities, "voxels": found.voxels}

    @server.tool(annotations=LOOKS)
    def list_objects(names: list[str], at_most: int = 10) -> dict[str, Any]:
        """Which of some things are in the map, and where.

        Args:
            names: of things.
            at_most: so many of each name.
        """
        return world.find(names, max_objects=at_most)

    if allow_save:

        @server.tool()
        def save(path: str) -> dict[str, Any]:
            """Save the map to a file below the node's folder of maps.

            Args:
                path: relative; ends in .radmap, .ply or .pcd.
            """
            with world.client() as client:
                saved = client.call(SaveMap, "save_map", path=path)
            return {"path": saved.path, "voxels": saved.voxels}

    return server


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node", default=NODE)
    parser.add_argument("--timeout", type=float, default=10.0, help="s to wait for an answer")
    parser.add_argument("--allow-save", action="store_true", help="offer the tool save")
    options = parser.parse_args()
    make_server(options.node, options.timeout, options.allow_save).run()


if __name__ == "__main__":
    main()
