# SPDX-License-Identifier: Apache-2.0
"""ROS parameters and their file, derived from :class:`Config`. Duck-typed: imports no ROS.

``python -m radseg_ros.ros.params > config/mapping.yaml`` writes every parameter with its default
and meaning.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..config import Config, from_dict
from ..datatypes import ConfigError

# Parameters that ROS itself brings to every node.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
ROS_GROUPS = ("qos_overrides.",)

HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Every parameter of radseg_mapping with its default. Made by `python -m radseg_ros.ros.params`; do
# not edit the original: copy it, keep the lines that you change, and start with
# `params_file:=/path/to/yours.yaml`.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One leaf of the configuration."""

    name: str  # dotted, e.g. lift.max_range
    kind: Any  # bool, int, float, str, list[float] or list[str]
    default: Any
    doc: str


def parameters(cls: Any = Config, prefix: str = "") -> Iterator[Parameter]:
    """Every option of a configuration class, in the order of its source."""
    defaults, kinds = cls(), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from parameters(kind, f"{prefix}{field.name}.")
        else:
            yield Parameter(
                prefix + field.name, kind, getattr(defaults, field.name), field.metadata["doc"]
            )


def config_from_overrides(overrides: Mapping[str, Any]) -> Config:
    """Flat parameter values, as ROS delivers them -> Config.

    Raises:
        ConfigError: a parameter that does not exist (with the nearest known one), or a value that
            cannot be.
    """
    values: dict[str, Any] = {}
    for name, value in overrides.items():
        if name in ROS_PARAMETERS or name.startswith(ROS_GROUPS):
            continue
        *groups, leaf = name.split(".")
        group = values
        for part in groups:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise ConfigError(f"option {name}: {part} is an option, not a group of options")
        # ROS has no empty list: it delivers "not set" for [] in a file or on the command line.
        if value is not None:
            group[leaf] = (
                list(value)
                if isinstance(value, (tuple, list)) or hasattr(value, "typecode")
                else value
            )
        elif name not in {p.name for p in parameters() if typing.get_origin(p.kind) is list}:
            raise ConfigError(f"option {name} has no value")
    return from_dict(Config, values)


def declare(node: Any, describe: Callable[[Parameter], Any]) -> Config:
    """Check the parameters that ``node`` was started with, declare all of them, and return them as
    a Config.

    Args:
        node: an rclpy node that has not declared its parameters itself.
        describe: Parameter -> the descriptor to declare it with.

    Raises:
        ConfigError: see :func:`config_from_overrides`.
    """
    # rclpy silently ignores overrides of undeclared names, so a misspelt one shows only in its
    # table of overrides.
    config = config_from_overrides(
        {name: parameter.value for name, parameter in node._parameter_overrides.items()}
    )
    for parameter in parameters():
        value = config
        for part in parameter.name.split("."):
            value = getattr(value, part)
        node.declare_parameter(parameter.name, value, describe(parameter), ignore_override=True)
    return config


def to_yaml(node_name: str = "/**") -> str:
    """The parameter file: every option, its meaning above it."""
    lines = [f"{node_name}:", "  ros__parameters:"]
    open_groups: list[str] = []
    for parameter in parameters():
        *groups, leaf = parameter.name.split(".")
        if groups != open_groups:
            lines += ["", f"    {groups[-1]}:"]
            open_groups = groups
        indent = " " * (4 + 2 * len(groups))
        lines += textwrap.wrap(
            parameter.doc,
            100 - len(indent),
            initial_indent=indent + "# ",
            subsequent_indent=indent + "# ",
        )
        lines.append(
            f"{indent}{leaf}: {json.dumps(parameter.default)}"
        )  # JSON scalars and lists are YAML
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(to_yaml(), end="")
