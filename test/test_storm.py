# SPDX-License-Identifier: Apache-2.0
"""``bench/storm.py`` in short: nothing raises, is lost in silence, or takes much memory."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from conftest import require_ros

from radseg_ros.datatypes import InputError

sys.path.append(str(Path(__file__).parents[1] / "bench"))  # last, so that no package is hidden

import storm

SHORT = 0.04  # of the full number of tries


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "services" else name
        for name in storm.ATTACKS
    ],
)
def test_nothing_falls_over_and_nothing_is_lost(name):
    if name == "services":
        require_ros()
    tally = storm.attack(name, seed=1, scale=SHORT)
    assert tally.good, (tally.counts, tally.peak, tally.first)


def raise_(error: Exception) -> None:
    raise error


def log_a_trace() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("somewhere").exception("caught")


@pytest.mark.parametrize(
    "what",
    [
        lambda: raise_(KeyError("x")),
        lambda: raise_(InputError("two\nlines")),
        lambda: raise_(InputError("")),
        lambda: raise_(InputError("long " * 1000)),
        lambda: storm.require(False, "a voxel is missing"),
        log_a_trace,
    ],
    ids=["raises", "two lines", "no word", "too long", "lost", "logged"],
)
def test_a_fault_is_noticed(what, monkeypatch):
    def attack(rng, folder, count, tally):
        for action in (what, lambda: raise_(InputError("one sentence")), lambda: None):
            with tally.attempt():
                action()

    monkeypatch.setitem(storm.ATTACKS, "faulty", (attack, 1))
    tally = storm.attack("faulty")
    assert not tally.good and tally.first and tally.counts["tried"] == 3
    assert tally.counts["refused"] >= 1 and tally.counts["accounted"] >= 2


def test_what_is_used_or_refused_is_no_fault(monkeypatch):
    def attack(rng, folder, count, tally):
        with tally.attempt():
            raise InputError("one sentence")

    monkeypatch.setitem(storm.ATTACKS, "refused", (attack, 1))
    assert storm.attack("refused").good
