# SPDX-License-Identifier: Apache-2.0
"""ROS parameters and their file, derived from :class:`Config`. Duck-typed: imports no ROS.

``python -m radseg_ros.ros.params > config/mapping.yaml`` writes every parameter with its default
and meaning.
"""

from __future__ import annotations

import json
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..config import Config, Option, find_option, options_of, with_options
from ..datatypes import ConfigError

# Parameters that ROS itself brings to every node.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
ROS_GROUPS = ("qos_overrides.",)

HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Every parameter of radseg_mapping with its default. Made by `python -m radseg_ros.ros.params`; do
# not edit the original: copy it, keep the lines that you change, and start with
# `params_file:=/path/to/yours.yaml`. Those whose comment begins with * can change while the node
# runs: `ros2 param set /radseg_mapping query.threshold 0.7`.
"""


def config_from_overrides(overrides: Mapping[str, Any]) -> Config:
    """Flat parameter values, as ROS delivers them -> Config.

    Raises:
        ConfigError: a parameter that does not exist (with the nearest known one), or a value that
            cannot be.
    """
    return _with_parameters(Config(), overrides)


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """``config`` with parameters changed while the node runs; all of them, or it raises.

    Args:
        values: as ROS delivers them; None = the parameter is to be removed.

    Raises:
        ConfigError: see :func:`config_from_overrides`; also for a parameter that cannot change, and
            has another value (`ros2 param load` sets all that are in a file).
    """
    for name in _own(values):
        option, value = find_option(Config, name), values[name]
        if option.fixed and (value is None or _plain(option, value) != _value(config, option)):
            raise ConfigError(f"{name} cannot change while the node runs: {option.fixed}")
        if value is None:
            raise ConfigError(f"{name} cannot be removed")
    return _with_parameters(config, values)


def is_fixed(name: str) -> bool:
    """Whether it is a parameter of ours that cannot change while the node runs."""
    return bool(_own([name])) and bool(find_option(Config, name).fixed)


def _with_parameters(config: Config, values: Mapping[str, Any]) -> Config:
    plain = {name: _plain(find_option(Config, name), values[name]) for name in _own(values)}
    return with_options(config, plain)


def _own(names: Iterable[str]) -> list[str]:
    """Without those of ROS itself."""
    return [n for n in names if n not in ROS_PARAMETERS and not n.startswith(ROS_GROUPS)]


def _plain(option: Option, value: Any) -> Any:
    """What rclpy delivers -> plain values: an empty list is "not set", numbers come as arrays."""
    if value is None:
        if typing.get_origin(option.kind) is list:
            return []
        raise ConfigError(f"option {option.name} has no value")
    return list(value) if hasattr(value, "typecode") else value


def declare(node: Any, describe: Callable[[Option], Any]) -> Config:
    """Check the parameters that ``node`` was started with, declare all of them, and return them as
    a Config.

    Args:
        node: an rclpy node that has not declared its parameters itself.
        describe: Option -> the descriptor to declare it with.

    Raises:
        ConfigError: see :func:`config_from_overrides`.
    """
    # rclpy silently ignores overrides of undeclared names, so a misspelt one shows only in its
    # table of overrides.
    config = config_from_overrides(
        {name: parameter.value for name, parameter in node._parameter_overrides.items()}
    )
    for option in options_of(Config).values():
        value = _value(config, option)
        node.declare_parameter(option.name, value, describe(option), ignore_override=True)
    return config


def _value(config: Config, option: Option) -> Any:
    value: Any = config
    for part in option.path:
        value = getattr(value, part)
    return value


def to_yaml(node_name: str = "/**") -> str:
    """The parameter file: every option, its meaning above it."""
    lines = [f"{node_name}:", "  ros__parameters:"]
    open_groups: list[str] = []
    for option in options_of(Config).values():
        *groups, leaf = option.name.split(".")
        if groups != open_groups:
            lines += ["", f"    {groups[-1]}:"]
            open_groups = groups
        indent = " " * (4 + 2 * len(groups))
        lines += textwrap.wrap(
            option.doc if option.fixed else f"* {option.doc}",
            100 - len(indent),
            initial_indent=indent + "# ",
            subsequent_indent=indent + "# ",
        )
        lines.append(
            f"{indent}{leaf}: {json.dumps(option.default)}"
        )  # JSON scalars and lists are YAML
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(to_yaml(), end="")
