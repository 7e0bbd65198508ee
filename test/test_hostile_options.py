# SPDX-License-Identifier: Apache-2.0
"""Options of any name and value: a configuration that can be written and read again, or a
sentence.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from damage import OTHER_VALUES, altered

from radseg_ros.config import (
    Config,
    from_dict,
    from_texts,
    options_of,
    parse_assignments,
    to_dict,
    with_options,
)
from radseg_ros.datatypes import ConfigError

TEXTS = (
    *("", " ", "nan", "-inf", "1e400", "9" * 400, "-" + "9" * 400, "9" * 6000, "0x10", "1_000"),
    *("[1,2", '["a"', '{"a":1}', "null", "true", "off", "a,b,,c", "[[1]]", "[nan]", "[1e400]"),
    *("\0", "\n", "🤖", "x" * 10_000, '"', "\\", "../..", "~", "-0"),
)
VALUES = (
    *OTHER_VALUES,
    *TEXTS,
    *(2**63, 2**63 - 1, -(2**63), np.float32(1), [1.0] * 16, [float("nan")] * 16, ["a"] * 9, b"x"),
)
NAMES = (*options_of(Config), "", ".", "map", "map.", ".map", "map.voxel_size.x", "x" * 1000, "\0")


def made(make: Callable[..., Any], *arguments: Any) -> Any:
    """What comes of it; None = it is refused in a sentence."""
    try:
        return make(*arguments)
    except ConfigError as error:
        assert "\n" not in str(error) and len(str(error)) < 10_000
        return None


def holds(config: Config | None) -> bool:
    """Whether there is one; it can be written and read again then."""
    assert config is None or from_dict(Config, to_dict(config)) == config
    return config is not None


@pytest.mark.slow
def test_options_of_any_name_and_value():
    rng, found = random.Random(0), []
    for values in altered(to_dict(Config()), 80):
        if isinstance(values, dict):
            found.append(holds(made(from_dict, Config, values)))
    for _ in range(80):
        names = rng.sample(NAMES, rng.choice((1, 2)))
        values = {name: rng.choice(VALUES) for name in names}
        found.append(holds(made(with_options, Config(), values)))
        texts = {name: rng.choice(TEXTS) for name in names}
        found.append(holds(made(from_texts, Config, texts)))
        given = made(parse_assignments, Config, [f"{name}={text}" for name, text in texts.items()])
        found.append(given is not None and holds(made(with_options, Config(), given)))
    assert 20 < sum(found) < len(found) - 20


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), -(2**63)], ids=["10^400", "-10^400", "-2^63"]
)
@pytest.mark.parametrize("name", ["map.max_voxels", "lift.max_range", "map.hot_voxels"])
def test_whole_numbers_that_no_parameter_holds(name, number):
    with pytest.raises(ConfigError, match=name):
        with_options(Config(), {name: number})
