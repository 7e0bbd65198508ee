# SPDX-License-Identifier: Apache-2.0
"""Answers as plain values, for JSON: one form for every program that prints them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..datatypes import Answer


def answer_dict(answer: Answer) -> dict[str, Any]:
    """Every field of an answer and of its objects; metres, radians, stamps in seconds."""
    return {**_plain(answer), "found": answer.found}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {
        name.removesuffix("_ns"): each / 1e9 if name.endswith("_ns") else _plain(each)
        for name, each in fields.items()
    }
