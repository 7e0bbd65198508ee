# SPDX-License-Identifier: Apache-2.0
"""Where a result comes from: configuration, versions, git revision, hashes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from radseg_ros.config import to_dict

from .classes import ClassList
from .options import EvalConfig
from .scoring.score import ignored_labels

PACKAGES = ("numpy", "scipy", "torch", "transformers", "Pillow", "radseg_ros")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """Commit of the sources, with "-dirty" when tracked files differ from it.

    "unknown" outside of a checkout.

    The environment variable EVAL3D_REVISION states it where the sources came without their history
    (a container).
    """
    return os.environ.get("EVAL3D_REVISION") or _revision_of_checkout()


def _git(*words: str) -> str:
    here = str(Path(__file__).resolve().parent)
    return subprocess.run(
        ["git", "-C", here, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@cache
def _revision_of_checkout() -> str:
    try:
        return _git("rev-parse", "HEAD") + (
            "-dirty" if _git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def digest(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def provenance(config: EvalConfig, classes: ClassList) -> dict[str, Any]:
    """What is known before a scene is read."""
    return {
        "config": to_dict(config),
        "classes": {
            "name": classes.name,
            "sha256": digest([classes.ids, classes.names, sorted(classes.ignored)]),
            "count": len(classes),
            "ignored": [classes.names[i - 1] for i in ignored_labels(config, classes)],
        },
        "seed": config.seed,
        "versions": versions(),
        "git": git_revision(),
    }


def fingerprint(config: EvalConfig, classes: ClassList, listing: list[str]) -> str:
    """Equal for two evaluations of a scene that must give the same numbers."""
    return digest([provenance(config, classes), listing])
