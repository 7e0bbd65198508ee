# SPDX-License-Identifier: Apache-2.0
"""Lists of words that answers are measured by: data files, each with its source at its top."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def read_words(name: str) -> tuple[str, ...]:
    """The lines of ``name``.txt, without comments: ``background`` or ``everyday``."""
    lines = files(__package__).joinpath(f"{name}.txt").read_text("utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
