# SPDX-License-Identifier: Apache-2.0
"""One evaluation per combination of options: ablation tables like those of the supplement."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from radseg_ros.config import parse_assignments
from radseg_ros.datatypes import ConfigError

from .options import EvalConfig, with_options


def parse_axis(text: str) -> tuple[str, list[str]]:
    """``"radseg.tau_scra=5,10,20"`` -> name and values.

    Values that hold commas are separated by ``;`` instead.

    Raises:
        ConfigError: not of this form.
    """
    name, equals, values = text.partition("=")
    parts = [part for part in re.split(";" if ";" in values else ",", values) if part]
    if not equals or not name or not parts:
        raise ConfigError(f"{text!r} is not OPTION=VALUE,VALUE,...")
    return name, parts


def combinations(config: EvalConfig, axes: list[str]) -> Iterator[tuple[str, EvalConfig]]:
    """(name of a folder, configuration) per combination of values, the last axis running fastest.

    All are built first, so that a value that is refused costs no evaluation.

    Raises:
        ConfigError: an option or a value is refused.
    """
    parsed = [parse_axis(axis) for axis in axes]
    settings = [
        [f"{name}={value}" for (name, _), value in zip(parsed, values, strict=True)]
        for values in itertools.product(*(values for _, values in parsed))
    ]
    runs = [
        (
            re.sub(r"[^\w.=,-]", "_", ",".join(setting)),
            with_options(config, parse_assignments(EvalConfig, setting)),
        )
        for setting in settings
    ]
    if len({name for name, _ in runs}) != len(runs):
        raise ConfigError("two combinations have the same name; give each value once")
    yield from runs
